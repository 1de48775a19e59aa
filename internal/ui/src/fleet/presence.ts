// Which devices are there, kept outside React as what they do is: a row is drawn again when its own device came or went.

import { request } from "../api/client";
import type { Presence, PresenceList } from "../api/types";

const interval = 15_000;
const longest = 120_000;

/** Whether two answers say the same of a device as far as it is shown. A moment of being seen more is not. */
function same(a: Presence, b: Presence): boolean {
  return a.online === b.online && a.since === b.since && a.drops_24h === b.drops_24h;
}

/** Puts an answer of the server into what is known, and returns the ids of the devices that it changes. */
export function mergePresence(known: Map<number, Presence>, answer: PresenceList): Set<number> {
  const changed = new Set<number>();
  const there = new Set<number>();
  for (const p of answer.devices) {
    there.add(p.device_id);
    const before = known.get(p.device_id);
    if (before && same(before, p)) continue;
    known.set(p.device_id, p);
    changed.add(p.device_id);
  }
  for (const id of known.keys()) {
    if (there.has(id)) continue;
    known.delete(id);
    changed.add(id);
  }
  return changed;
}

/**
 * Asks every fifteen seconds while the tab is seen, less often while the server does not answer. It says nothing of failures: the
 * fleet's own store meets the same ones, and what is known stands until the next answer.
 */
export class PresenceStore {
  /** By device id. Not to be changed from outside. */
  readonly known = new Map<number, Presence>();
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running: AbortController | null = null;
  readonly #ofDevice = new Map<number, Set<() => void>>();

  /** Begins to ask; the answer ends it. */
  start(): () => void {
    const seen = () => {
      this.#pause();
      if (document.visibilityState === "visible") void this.#ask();
    };
    document.addEventListener("visibilitychange", seen);
    seen();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      this.#pause();
    };
  }

  /** Calls back when the device came or went. */
  watchDevice(id: number, changed: () => void): () => void {
    const set = this.#ofDevice.get(id) ?? new Set();
    this.#ofDevice.set(id, set.add(changed));
    return () => {
      set.delete(changed);
      if (set.size === 0 && this.#ofDevice.get(id) === set) this.#ofDevice.delete(id);
    };
  }

  #pause(): void {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
  }

  async #ask(): Promise<void> {
    const abort = new AbortController();
    this.#running = abort;
    let changed: ReadonlySet<number> = new Set();
    try {
      const answer = await request<PresenceList>("/api/presence", { signal: abort.signal });
      if (abort.signal.aborted) return;
      this.#failures = 0;
      changed = mergePresence(this.known, answer);
    } catch {
      if (abort.signal.aborted) return;
      this.#failures++;
    }
    this.#timer = setTimeout(() => void this.#ask(), Math.min(interval * 2 ** this.#failures, longest));
    for (const id of changed) for (const l of this.#ofDevice.get(id) ?? []) l();
  }
}

export const presenceStore = new PresenceStore();
