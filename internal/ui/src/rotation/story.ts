// The steps of an attempt and what the device said at that time, in one order.

import type { LogLine } from "../api/types";
import { writeAddress } from "../logs/address";
import type { Attempt, AttemptStep } from "./types";

/** Milliseconds of log that are shown before and after a step, beyond which what was said is a gap that can be opened. */
export const before = 20_000;
export const after = 45_000;

/** A stretch of time of which lines are shown, or left out. */
export interface Stretch {
  /** Milliseconds, the first of it and the first that is not of it. */
  from: number;
  to: number;
  /** Nothing happened here, so its lines are asked for only when somebody wants them. */
  gap: boolean;
  /** Lines at its end are closer to a step than those at its beginning. */
  late: boolean;
}

/** The time that an attempt covers, cut into stretches. That of one that goes on ends now. */
export function stretches(a: Pick<Attempt, "started_at" | "ended_at" | "steps">, now: number): Stretch[] {
  const at = moments(a);
  const first = at[0] ?? now;
  const last = at[at.length - 1] ?? now;
  const all: Stretch[] = [{ from: first - before, to: first, gap: false, late: true }];
  for (let i = 1; i < at.length; i++) all.push(...between(at[i - 1] as number, at[i] as number));
  // Of what goes on the newest lines count; of what is over, those that follow from it.
  if (a.ended_at === null) all.push({ from: last, to: now, gap: false, late: true });
  else all.push({ from: last, to: last + after, gap: false, late: false });
  return all.filter((s) => s.to > s.from);
}

function between(from: number, to: number): Stretch[] {
  // A gap that is shorter than what says so would hide more than it saves.
  if (to - from <= before + after + 10_000) return [{ from, to, gap: false, late: false }];
  return [
    { from, to: from + after, gap: false, late: false },
    { from: from + after, to: to - before, gap: true, late: false },
    { from: to - before, to, gap: false, late: true },
  ];
}

/** The times of what happened, in their order, without repetitions. */
function moments(a: Pick<Attempt, "started_at" | "ended_at" | "steps">): number[] {
  const all = [a.started_at, ...a.steps.map((s) => s.at), a.ended_at].map((t) =>
    t === null ? Number.NaN : Date.parse(t),
  );
  return [...new Set(all.filter((t) => !Number.isNaN(t)))].sort((x, y) => x - y);
}

/** What is known of a stretch. */
export interface Heard {
  stretch: Stretch;
  lines: readonly LogLine[];
  /** There are more lines than are shown. */
  more: boolean;
  /** The lines were not asked for. */
  closed: boolean;
}

/** An entry of the time line. */
export type Entry =
  | { kind: "step"; at: number; step: AttemptStep; index: number }
  | { kind: "line"; at: number; line: LogLine }
  /** Time of which nothing is shown, and can be. */
  | { kind: "gap"; from: number; to: number }
  /** Lines were left out here, for there are too many. */
  | { kind: "more"; at: number };

/** Steps and lines in one order: at the same time the step comes first, for the device says what follows from it. */
export function interleave(steps: readonly AttemptStep[], heard: readonly Heard[]): Entry[] {
  const seen = new Set<string>();
  const entries: { at: number; rank: number; entry: Entry }[] = steps.map((step, index) => {
    const at = Date.parse(step.at);
    return { at, rank: 0, entry: { kind: "step", at, step, index } };
  });
  for (const { stretch: s, lines, more, closed } of heard) {
    if (closed) {
      entries.push({ at: s.from, rank: 2, entry: { kind: "gap", from: s.from, to: s.to } });
      continue;
    }
    let first: number | null = null;
    let last = s.from;
    for (const line of lines) {
      const at = Date.parse(line.timestamp);
      first ??= at;
      last = at;
      if (seen.has(line.cursor)) continue;
      seen.add(line.cursor);
      entries.push({ at, rank: 1, entry: { kind: "line", at, line } });
    }
    if (more) {
      const at = s.late ? (first ?? s.from) : last;
      entries.push({ at, rank: s.late ? 0.5 : 3, entry: { kind: "more", at } });
    }
  }
  // The sort is stable: lines of one time stay in the order in which they were journalled.
  return entries.sort((a, b) => a.at - b.at || a.rank - b.rank).map((e) => e.entry);
}

/** The address of a device's log at a moment. */
export function logAt(device: number, at: string | number): string {
  const time = typeof at === "number" ? new Date(at).toISOString() : at;
  const filter = { level: "" as const, tag: "", text: "", regex: false };
  return `/devices/${device}${writeAddress({ devices: [], model: null, layout: "merged", filter, find: false, at: null, time })}`;
}

/** The address of a device's story, at one attempt of it. */
export function storyAddress(device: number, attempt?: number): string {
  return `/devices/${device}/rotation${attempt === undefined ? "" : `?attempt=${attempt}`}`;
}
