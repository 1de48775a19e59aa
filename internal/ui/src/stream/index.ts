import { useSyncExternalStore } from "react";
import { TabClient } from "./client";
import { Hub } from "./hub";
import { browserDeps, type Port, serve } from "./serve";
import type { StreamStatus } from "./types";

let shared = typeof SharedWorker === "function";

/** A port to the worker that all tabs share, or, where that cannot be, to a hub of this tab. */
function open(failed: () => void): Port {
  if (shared) {
    try {
      // The built worker's address holds a hash of its code: tabs of two versions of the page do not share it.
      const worker = new SharedWorker(new URL("./worker.ts", import.meta.url), {
        type: "module",
        name: "signalbox-stream",
      });
      worker.onerror = () => {
        shared = false;
        failed();
      };
      worker.port.start();
      return worker.port;
    } catch {
      shared = false;
    }
  }
  const { port1, port2 } = new MessageChannel();
  serve(new Hub(browserDeps()), port2, undefined);
  return port1;
}

let lock: Promise<string | null> | null = null;

/** Takes a lock that the browser gives to others when this tab is no more; its name, or null where there are none. */
function tabLock(): Promise<string | null> {
  lock ??= new Promise((resolve) => {
    if (!navigator.locks) {
      resolve(null);
      return;
    }
    const name = `signalbox-tab-${[...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("")}`;
    navigator.locks
      .request(name, () => {
        resolve(name);
        return new Promise(() => {}); // held for ever
      })
      .catch(() => resolve(null));
  });
  return lock;
}

/** The one stream of this tab. Nothing is opened before somebody asks for something. */
export const streamClient = new TabClient({ open, lock: tabLock });

if (typeof window !== "undefined") {
  addEventListener("online", () => streamClient.wake(false));
  addEventListener("offline", () => streamClient.wake(false));
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") streamClient.wake(false);
  });
  addEventListener("pagehide", () => streamClient.leave());
  addEventListener("pageshow", (e) => {
    if (e.persisted) streamClient.greet();
  });
}

const watch = (changed: () => void) => streamClient.watch(changed);
const status = () => streamClient.status();

/** How the stream does; the component is drawn again when that changes. */
export function useStreamStatus(): StreamStatus {
  return useSyncExternalStore(watch, status);
}
