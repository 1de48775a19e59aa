// The figures of the server over the last hours, as `GET /api/overview` gives them piece by piece.

import type { Overview } from "../api/types";

/** Six hours: what the server keeps. */
export const kept = 6 * 3600;

/** All that is known: every series has a point for every moment, null where there is none. */
export interface History {
  /** Seconds between two points. */
  step: number;
  /** Unix seconds, ascending, `step` apart. */
  times: number[];
  /** By name, each as long as `times`. */
  series: ReadonlyMap<string, (number | null)[]>;
}

/**
 * What is known after another answer. Where both say something the newer one holds; a server that was started again knows
 * nothing of before, so that its past stays as it was and the time between is empty.
 */
export function merge(known: History | null, answer: Overview): History {
  const length = answer.series.reduce((most, s) => Math.max(most, s.points.length), 0);
  if (known !== null && (known.step !== answer.step || known.times.length === 0)) known = null;
  if (length === 0 && known !== null) return known;
  // A server's clock need not be on the raster of the one before.
  const first = known?.times[0] ?? answer.start;
  const offset = Math.round((answer.start - first) / answer.step);
  if (offset < 0) return merge(null, answer); // its clock went back: begin anew

  const total = Math.max(known?.times.length ?? 0, offset + length);
  const drop = Math.max(0, total - Math.ceil(kept / answer.step));
  const names = new Set([...(known?.series.keys() ?? []), ...answer.series.map((s) => s.name)]);
  const series = new Map<string, (number | null)[]>();
  for (const name of names) {
    const points = new Array<number | null>(total).fill(null);
    known?.series.get(name)?.forEach((p, i) => {
      points[i] = p;
    });
    answer.series
      .find((s) => s.name === name)
      ?.points.forEach((p, i) => {
        points[offset + i] = p;
      });
    series.set(name, points.slice(drop));
  }
  const times = Array.from({ length: total - drop }, (_, i) => first + (drop + i) * answer.step);
  return { step: answer.step, times, series };
}

/** When the next question should begin: the time of the last point that is known. */
export function since(known: History | null | undefined): number | undefined {
  return known?.times.at(-1);
}

/** The last seconds of a series, with their times. */
export function newest(h: History, name: string, seconds: number): { times: number[]; points: (number | null)[] } {
  const n = Math.min(h.times.length, Math.ceil(seconds / h.step));
  const from = h.times.length - n;
  const points = h.series.get(name)?.slice(from) ?? new Array<number | null>(n).fill(null);
  return { times: h.times.slice(from), points };
}

/** The present value: the newest of the last three points that says something. A figure older than that is not present. */
export function now(points: readonly (number | null)[]): number | null {
  for (let i = points.length - 1; i >= Math.max(0, points.length - 3); i--) {
    const p = points[i];
    if (p !== null && p !== undefined) return p;
  }
  return null;
}

/** The least and the greatest; null when there is nothing. */
export function extent(points: readonly (number | null)[]): { min: number; max: number } | null {
  let least = Number.POSITIVE_INFINITY;
  let most = Number.NEGATIVE_INFINITY;
  for (const p of points) {
    if (p === null) continue;
    least = Math.min(least, p);
    most = Math.max(most, p);
  }
  return least > most ? null : { min: least, max: most };
}

/** How often something happened, of a series that says how often a second. */
export function times(points: readonly (number | null)[], step: number): number {
  return Math.round(points.reduce<number>((sum, p) => sum + (p ?? 0), 0) * step);
}
