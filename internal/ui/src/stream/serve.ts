// Joins a tab's end of a MessagePort to a hub, and notices when the tab is gone.

import type { Ask, Hub, HubDeps, Say, Tab } from "./hub";

/** A MessagePort, or what behaves like one. */
export interface Port {
  postMessage(message: unknown): void;
  onmessage: ((e: MessageEvent) => unknown) | null;
  close(): void;
}

/** How often a tab without a lock is asked whether it lives, and for how long it may say nothing. */
const pingEvery = 30_000;
const pongWithin = 180_000;

/**
 * Serves one tab. A tab that is closed says so, but one that crashes does not: each tab holds a lock of its own name, which
 * the browser gives to the hub when the tab is no more. Where there are no locks (a page without TLS has none) the tab is
 * asked now and then. A tab that was taken for dead and speaks again, since the browser had frozen it, is told to say hello
 * again.
 */
export function serve(hub: Hub, port: Port, locks: LockManager | undefined = globalThis.navigator?.locks): void {
  let tab: Tab | null = null;
  let heard = Date.now();
  let timer: ReturnType<typeof setInterval> | null = null;
  const say = (s: Say) => port.postMessage(s);
  const leave = () => {
    tab?.leave();
    tab = null;
    if (timer !== null) clearInterval(timer);
    timer = null;
  };
  port.onmessage = (e) => {
    const a = e.data as Ask;
    heard = Date.now();
    if (a.kind === "pong") return;
    if (a.kind === "hello") {
      leave();
      const joined = hub.join(say);
      tab = joined;
      if (a.lock !== null && locks) {
        const gone = () => {
          if (tab === joined) leave();
        };
        locks.request(a.lock, gone).catch(() => {});
      } else {
        timer = setInterval(() => {
          if (Date.now() - heard > pongWithin) leave();
          else say({ kind: "ping" });
        }, pingEvery);
      }
      return;
    }
    if (tab === null) {
      if (a.kind !== "bye") say({ kind: "forgotten" });
      return;
    }
    if (a.kind === "bye") leave();
    else tab.ask(a);
  };
}

/** The surroundings of a hub in a browser. */
export function browserDeps(): HubDeps {
  return {
    fetch: (input, init) => fetch(input, init),
    now: () => Date.now(),
    after: (ms, f) => {
      const t = setTimeout(f, ms);
      return () => clearTimeout(t);
    },
    random: () => (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) / 2 ** 32,
  };
}
