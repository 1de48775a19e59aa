// One clock for everything that shows how long ago something was.

import { useSyncExternalStore } from "react";

const listeners = new Set<() => void>();
let timer: ReturnType<typeof setTimeout> | undefined;

function tick(): void {
  timer = undefined;
  if (listeners.size === 0 || document.visibilityState === "hidden") return;
  timer = setTimeout(tick, 1000 - (Date.now() % 1000)); // all of them change together, on the second
  for (const l of listeners) l();
}

function watch(changed: () => void): () => void {
  if (listeners.size === 0) document.addEventListener("visibilitychange", wake);
  listeners.add(changed);
  if (timer === undefined) wake();
  return () => {
    listeners.delete(changed);
    if (listeners.size === 0) document.removeEventListener("visibilitychange", wake);
  };
}

function wake(): void {
  clearTimeout(timer);
  timer = undefined;
  if (document.visibilityState === "visible") timer = setTimeout(tick, 1000 - (Date.now() % 1000));
}

/**
 * What `of` makes of the present time. It is worked out each second while the tab is seen, and the component is drawn
 * again only when it comes out otherwise: so `of` answers with a text or a number, not with an object.
 */
export function useNow<T extends string | number | boolean | null>(of: (now: number) => T): T {
  return useSyncExternalStore(watch, () => of(Math.floor(Date.now() / 1000) * 1000));
}

/** How long something took or is ago, as one number: "4 s", "12 min", "3 h", "5 d". */
export function duration(milliseconds: number): string {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** How long ago something was; `now` and `at` in milliseconds of one clock. */
export function ago(at: number, now: number): string {
  return now - at < 1000 ? "now" : `${duration(now - at)} ago`;
}
