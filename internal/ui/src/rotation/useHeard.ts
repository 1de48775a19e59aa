import { useQueries, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo } from "react";
import { request } from "../api/client";
import type { LogPage } from "../api/types";
import { streamClient } from "../stream";
import { rotationKey, serverTime } from "./api";
import { Coalesce } from "./coalesce";
import type { Heard, Stretch } from "./story";

/** Lines of one stretch that are shown; the rest is in the log itself. */
const most = 150;
/** The same of one that somebody has opened. */
const mostOpened = 1_000;

const anything = { level: "", tag: "", query: "", regex: "" };

/** What an attempt's log is kept under. Rotation as a whole is asked again more often than it. */
const key = (device: number) => ["said", ...rotationKey, device] as const;

/**
 * What a device said in the stretches, of which gaps are asked for only when they are opened. `open`: the last one ends now, whenever
 * that is. `live`: lines of it still come, and it is asked for again as they do.
 */
export function useHeard(
  device: number,
  stretches: readonly Stretch[],
  opened: ReadonlySet<number>,
  { open, live }: { open: boolean; live: boolean },
): { heard: Heard[]; loading: boolean; error: unknown; retry: () => void } {
  const queries = useQueryClient();
  const end = stretches.length - 1;
  const results = useQueries({
    queries: stretches.map((s, i) => ({
      queryKey: [...key(device), s.from, open && i === end ? "now" : s.to, s.late],
      enabled: !s.gap || opened.has(s.from),
      staleTime: live && i === end ? 0 : 60_000, // what was said at a time that is over does not change
      queryFn: ({ signal }: { signal: AbortSignal }) => read(device, s, open && i === end, signal),
    })),
  });
  const last = stretches[end]?.from ?? 0;
  useEffect(() => {
    if (!live) return;
    const again = new Coalesce(() => queries.invalidateQueries({ queryKey: [...key(device), last] }), 1_000);
    const follow = streamClient.follow({ device }, anything, (m) => {
      if (m.kind === "lines") again.ask();
    });
    return () => {
      follow.close();
      again.end();
    };
  }, [device, last, live, queries]);
  const pages = results.map((r) => r.data);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the results are new objects each time, what they hold is not
  const heard = useMemo(
    () =>
      stretches.map((stretch, i): Heard => {
        const page = pages[i];
        const closed = stretch.gap && !opened.has(stretch.from);
        const lines = page?.logs.filter((l) => Date.parse(l.timestamp) >= stretch.from - 1) ?? [];
        // Of the newest lines before a moment there are always more; only those of the stretch count.
        const more = page?.has_more === true && (!stretch.late || lines.length === page.logs.length);
        return { stretch, lines: closed ? [] : lines, more: more && !closed, closed };
      }),
    [stretches, opened, ...pages],
  );
  const failed = results.find((r) => r.error !== null);
  return {
    heard,
    loading: results.some((r) => r.isLoading),
    error: failed?.error ?? null,
    retry: () => {
      for (const r of results) if (r.error !== null) void r.refetch();
    },
  };
}

/** The lines of a stretch; of one whose end matters more, the newest. */
function read(device: number, s: Stretch, open: boolean, signal: AbortSignal): Promise<LogPage> {
  const limit = s.gap ? mostOpened : most;
  const start = new Date(s.from).toISOString();
  // A minute ahead, should the server's clock be so too.
  const end = new Date(open ? serverTime(Date.now()) + 60_000 : s.to).toISOString();
  const query = s.late && !s.gap ? { end, limit } : { start, end, limit };
  return request<LogPage>(`/api/devices/${device}/logs`, { query, signal });
}
