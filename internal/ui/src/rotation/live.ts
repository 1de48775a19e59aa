// What keeps the pages of rotation as new as the server's state.

import { type QueryKey, useQueryClient } from "@tanstack/react-query";
import { useEffect } from "react";
import { useNow } from "../parts/clock";
import { streamClient } from "../stream";
import { rotationKey, serverTime } from "./api";
import { Coalesce } from "./coalesce";

/** How often is asked while the stream cannot tell. */
const slow = 15_000;

/**
 * Has the answers under the keys asked again whenever the server says that rotation moved on: about once a second at most. While the
 * stream is down, when nobody would say so, they are asked every quarter of a minute; and nothing is asked for a tab that is not seen.
 */
export function useLiveRotation(keys: readonly QueryKey[] = [rotationKey], pause = 1_000): void {
  const queries = useQueryClient();
  const wanted = JSON.stringify(keys);
  useEffect(() => {
    const all = JSON.parse(wanted) as QueryKey[];
    let missed = false;
    const again = new Coalesce(
      () => Promise.all(all.map((queryKey) => queries.invalidateQueries({ queryKey }))),
      pause,
    );
    const ask = () => {
      if (document.visibilityState === "visible") again.ask();
      else missed = true;
    };
    const seen = () => {
      if (document.visibilityState !== "visible" || !missed) return;
      missed = false;
      again.ask();
    };
    const live = () => streamClient.status().state === "live";
    let before = live();
    const undo = [
      streamClient.on("rotation-updated", ask),
      streamClient.watch(() => {
        const now = live();
        if (now && !before) ask(); // what was said meanwhile was not heard
        before = now;
      }),
    ];
    const timer = setInterval(() => {
      if (!live()) ask();
    }, slow);
    document.addEventListener("visibilitychange", seen);
    return () => {
      for (const u of undo) u();
      clearInterval(timer);
      document.removeEventListener("visibilitychange", seen);
      again.end();
    };
  }, [queries, wanted, pause]);
}

/** What `of` makes of the server's present time, each second; see useNow. */
export function useServerNow<T extends string | number | boolean | null>(of: (now: number) => T): T {
  return useNow((now) => of(serverTime(now)));
}
