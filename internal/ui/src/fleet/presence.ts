// Which devices are there, kept outside React as what they do is: a row is drawn again when its own device came or went.

import { request } from "../api/client";
import type { Presence, PresenceList } from "../api/types";
import { Poll, Watchers } from "../parts/poll";

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
 * Asks every fifteen seconds. It says nothing of failures: the fleet's own store meets the same ones, and what is known stands until the
 * next answer.
 */
export class PresenceStore {
  /** By device id. Not to be changed from outside. */
  readonly known = new Map<number, Presence>();
  readonly #watchers = new Watchers();
  readonly #poll = new Poll<PresenceList>({
    interval: 15_000,
    longest: 120_000,
    ask: (signal) => request("/api/presence", { signal }),
    came: (answer) => this.#watchers.tell(mergePresence(this.known, answer)),
    failed: () => {},
  });

  /** Begins to ask; the answer ends it. */
  start(): () => void {
    return this.#poll.start();
  }

  /** Calls back when the device came or went. */
  watchDevice(id: number, changed: () => void): () => void {
    return this.#watchers.watch(id, changed);
  }
}

export const presenceStore = new PresenceStore();
