// The login of this tab, joined to its surroundings.

import { useSyncExternalStore } from "react";
import { guardedBy, request } from "../api/client";
import type { Mode, Role, Self } from "../api/types";
import { hasUnsaved } from "../parts/unsaved";
import { streamClient } from "../stream";
import { may } from "./roles";
import { Session, type SessionState, type Told } from "./session";

const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("signalbox-session") : null;

export const session = new Session({
  mode: () => request<Mode>("/api/auth/mode", { anonymous: true }),
  self: () => request<Self>("/api/auth/self", { anonymous: true }),
  tell: (t) => channel?.postMessage(t),
  reload: () => location.reload(),
  away: () => location.assign("/logged-out"),
  unsaved: hasUnsaved,
  now: () => Date.now(),
});

guardedBy(session);
if (channel) channel.onmessage = (e) => void session.heard(e.data as Told);

addEventListener("focus", () => session.seen());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") session.seen();
});

// The stream waits for a login where there is none: it learns of one here, and here the page learns that it lacks one.
let epoch = session.epoch;
session.watch(() => {
  if (session.epoch === epoch) return;
  epoch = session.epoch;
  streamClient.retry();
});

/** Lets the stream say when it has no login any more. Once, when the page is up. */
export function listenToStream(): () => void {
  let before: string | null = null;
  return streamClient.watch(() => {
    const { state, ended } = streamClient.status();
    if (state === "signed-out" && before !== state) {
      void session.streamEnded(ended ?? "unknown").then((good) => {
        // Somebody logged in between the stream's question and ours.
        if (good) setTimeout(() => streamClient.retry(), 2_000);
      });
    }
    before = state;
  });
}

/** The state of the login; the component is drawn again when it changes. */
export function useSession(): SessionState {
  return useSyncExternalStore(session.watch, session.state);
}

/** Whether who is logged in may act in a role. */
export function useMay(role: Role): boolean {
  return may(useSession().self, role);
}
