// The rows that a log holds, in order, and those of them that its filter lets through.

import type { Gap, LogLine } from "../api/types";
import { type At, compare, type Epochs } from "./cursor";
import { judge, type SignState, unknownState } from "./signs";
import type { GapRow, LineRow, Row } from "./types";

/** A line as it is held: its row, its place, and what the next line of the device is judged by. */
export interface HeldLine extends LineRow {
  at: At;
  state: SignState;
}

export interface HeldGap extends GapRow {
  at: At;
}

export type Held = HeldLine | HeldGap;

/** How far back the line before of the same device is looked for, to judge a line by. */
const lookBack = 5000;

/** A line that is not held yet; null if its cursor is none. */
export function lineRow(line: LogLine, epochs: Epochs): HeldLine | null {
  const at = epochs.at(line.cursor);
  return at && { kind: "line", id: Number.NaN, line, sign: null, block: null, at, state: unknownState };
}

/** Reasons of gaps whose lines were deleted; any other only says that they were not in the stream. */
const deleted = new Set(["retention", "journal-limit"]);

/** A gap that is not held yet, at the place behind which lines are missing; null if that is no cursor. */
export function gapRow(gap: Gap, epochs: Epochs): HeldGap | null {
  const at = epochs.at(gap.from);
  if (at === null) return null;
  const fetchable = !deleted.has(gap.reason);
  return { kind: "gap", id: Number.NaN, device: gap.device_id ?? 0, gap, fetchable, fetching: false, error: null, at };
}

/** Orders rows; of one place, lines come before gaps, and gaps in the order of their ends. */
export function order(a: Held, b: Held): number {
  return compare(a.at, b.at) || gapKey(a).localeCompare(gapKey(b));
}

function gapKey(row: Held): string {
  return row.kind === "line" ? "" : `${row.device} ${row.gap.to} ${row.gap.reason}`;
}

/**
 * Rows in the order of their places. What a change costs follows from what is new, and from what is displaced by it, not
 * from what is held: lines that come at the end are appended, and arrays are copied for a page or a filter only.
 */
export class Rows {
  /** Everything, oldest first; each row's id is above that of the row before. */
  all: Held[] = [];
  /** What the filter lets through; the same array as `all` if that is everything. */
  shown: Row[] = this.all;
  /** Rows that were handled one by one, for tests: work must not grow with what is held. */
  work = 0;

  private passes: ((row: Held) => boolean) | null = null;
  /** The last row of each device, as far as it is known. */
  private last = new Map<number, HeldLine>();

  /** The first row that is not before the place. */
  lowerBound(at: At): number {
    let low = 0;
    let high = this.all.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare((this.all[middle] as Held).at, at) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The row of that id, or -1. */
  indexOf(id: number): number {
    const i = boundOf(this.all, id);
    return this.all[i]?.id === id ? i : -1;
  }

  /** Decides anew what is shown; null is everything. Gaps are always shown: what is missing may be what is looked for. */
  show(passes: ((row: HeldLine) => boolean) | null): void {
    this.passes = passes && ((row) => row.kind === "gap" || passes(row));
    this.shown = this.passes ? this.all.filter(this.passes) : this.all;
  }

  /** Takes rows in whatever order; those of a place that is held already fall. Answers how many were new. */
  add(rows: Held[]): number {
    if (rows.length === 0) return 0;
    if (rows.some((r, i) => i > 0 && order(rows[i - 1] as Held, r) > 0)) rows.sort(order);
    const first = rows[0] as Held;
    const end = rows[rows.length - 1] as Held;
    const head = this.all[0];
    if (head && order(end, head) < 0) return this.prepend(unique(rows));
    // What is new is merged with what it displaces.
    let from = this.lowerBound(first.at);
    while (from < this.all.length && order(this.all[from] as Held, first) < 0) from++;
    let to = this.all.length;
    const tail = this.all[to - 1];
    if (tail && order(end, tail) < 0) {
      to = this.lowerBound(end.at);
      while (to < this.all.length && order(this.all[to] as Held, end) <= 0) to++;
    }
    if (from === to && to === this.all.length) return this.append(unique(rows));
    return this.insert(rows, from, to);
  }

  private append(rows: Held[]): number {
    let id = this.all[this.all.length - 1]?.id ?? -1;
    id = Math.floor(id);
    const from = this.all.length;
    for (const r of rows) {
      r.id = ++id;
      this.all.push(r);
    }
    this.work += rows.length;
    this.annotate(from, this.all.length, from);
    if (this.passes) for (const r of rows) if (this.passes(r)) this.shown.push(r);
    return rows.length;
  }

  private prepend(rows: Held[]): number {
    let id = Math.ceil((this.all[0] as Held).id) - rows.length;
    for (const r of rows) r.id = id++;
    this.replaceAll(rows.concat(this.all), this.passes ? (rows.filter(this.passes) as Row[]).concat(this.shown) : null);
    this.work += rows.length;
    this.annotate(0, rows.length, Number.NaN);
    return rows.length;
  }

  /** Merges rows with those from `from` up to `to`. */
  private insert(rows: Held[], from: number, to: number): number {
    const merged: Held[] = [];
    const isNew: Held[] = [];
    let i = from;
    for (const r of rows) {
      for (; i < to && order(this.all[i] as Held, r) < 0; i++) merged.push(this.all[i] as Held);
      const next = i < to ? this.all[i] : undefined;
      const before = merged[merged.length - 1];
      if ((next && order(next, r) === 0) || (before && order(before, r) === 0)) continue;
      merged.push(r);
      isNew.push(r);
    }
    for (; i < to; i++) merged.push(this.all[i] as Held);
    this.work += merged.length;
    if (isNew.length === 0) return 0;
    const atEnd = to === this.all.length;
    if (atEnd) {
      this.all.length = from;
      for (const r of merged) this.all.push(r);
    } else {
      const copy = this.all.slice(0, from).concat(merged, this.all.slice(to));
      this.replaceAll(copy, this.passes ? this.shown : null);
    }
    this.number(from, from + merged.length);
    this.annotate(from, from + merged.length, atEnd ? from : Number.NaN);
    if (this.passes) {
      const at = boundOf(this.shown, (this.all[from] as Held).id);
      const rest = this.shown.splice(at);
      const after = this.all[from + merged.length];
      const kept = after ? rest.slice(boundOf(rest, after.id)) : [];
      for (let k = from; k < from + merged.length; k++) {
        const r = this.all[k] as Held;
        if (this.passes(r)) this.shown.push(r);
      }
      for (const r of kept) this.shown.push(r);
    }
    return isNew.length;
  }

  private replaceAll(all: Held[], shown: Row[] | null): void {
    this.all = all;
    this.shown = shown ?? all;
  }

  /**
   * Gives an id to the rows in between that have none. Those that come together are spread over the beginning of what lies
   * between their neighbours, since the next ones will probably come after them.
   */
  private number(from: number, to: number): void {
    for (let i = from; i < to; i++) {
      if (!Number.isNaN((this.all[i] as Held).id)) continue;
      let end = i;
      while (end < this.all.length && Number.isNaN((this.all[end] as Held).id)) end++;
      const a = this.all[i - 1]?.id;
      const b = this.all[end]?.id;
      for (let k = i; k < end; k++) {
        let id: number;
        if (a === undefined && b === undefined) id = k;
        else if (b === undefined) id = Math.floor(a as number) + 1 + (k - i);
        else if (a === undefined) id = Math.ceil(b) - (end - k);
        else id = a + ((b - a) * (k - i + 1)) / (end - i + 1_000_000);
        (this.all[k] as Held).id = id;
      }
      const last = (this.all[end - 1] as Held).id;
      if ((a !== undefined && (this.all[i] as Held).id <= a) || (b !== undefined && last >= b) || !this.rises(i, end)) {
        for (let k = i; k < end; k++) (this.all[k] as Held).id = Number.NaN;
        this.renumber();
        return;
      }
      i = end;
    }
  }

  private rises(from: number, to: number): boolean {
    for (let i = from + 1; i < to; i++) if ((this.all[i] as Held).id <= (this.all[i - 1] as Held).id) return false;
    return true;
  }

  /** There is no number left between two rows: all get new ones, above all that were. */
  private renumber(): void {
    let highest = 0;
    for (const r of this.all) if (r.id > highest) highest = r.id; // that of a new row is NaN, which is not
    const base = Math.ceil(highest) + 1;
    const ids = new Map<number, number>();
    this.all.forEach((r, i) => {
      if (!Number.isNaN(r.id)) ids.set(r.id, base + i);
    });
    const all = this.all.map((r, i): Held => {
      if (r.kind === "gap") return { ...r, id: base + i };
      return { ...r, id: base + i, block: r.block === null ? null : (ids.get(r.block) ?? null) };
    });
    this.last.clear();
    this.replaceAll(all, this.passes ? all.filter(this.passes) : null);
  }

  /**
   * Judges the rows from `from` up to `to`, and those after them that are judged otherwise because of them. `appended` is
   * `from` if they reach to the end.
   */
  private annotate(from: number, to: number, appended: number): void {
    const before = new Map<number, HeldLine | null>();
    const lookUp = (device: number): HeldLine | null => {
      const known = appended === from ? this.last.get(device) : undefined;
      if (known && compare(known.at, (this.all[from] as Held).at) < 0) return known;
      for (let i = from - 1; i >= 0 && i > from - lookBack; i--) {
        const r = this.all[i] as Held;
        this.work++;
        if (r.kind === "line" && r.line.device_id === device) return r;
      }
      return null;
    };
    for (let i = from; i < to; i++) {
      const r = this.all[i] as Held;
      if (r.kind !== "line") continue;
      const device = r.line.device_id;
      let prev = before.get(device);
      if (prev === undefined) prev = lookUp(device);
      before.set(device, this.judged(i, r, prev));
    }
    if (appended === from) {
      for (const [device, r] of before) if (r) this.last.set(device, r);
      return;
    }
    let i = to;
    for (; i < this.all.length && i < to + lookBack && before.size > 0; i++) {
      const r = this.all[i] as Held;
      this.work++;
      if (r.kind !== "line") continue;
      const prev = before.get(r.line.device_id);
      if (prev === undefined) continue;
      const now = this.judged(i, r, prev);
      if (now === r) before.delete(r.line.device_id);
      else before.set(r.line.device_id, now);
    }
    // Those left have no later row, or none that was reached.
    for (const [device, r] of before) {
      if (r && i === this.all.length) this.last.set(device, r);
      else this.last.delete(device);
    }
  }

  /** Judges a row by the device's row before; a row that is judged otherwise than before is another object. */
  private judged(index: number, row: HeldLine, prev: HeldLine | null): HeldLine {
    const j = judge(prev ? prev.state : unknownState, row.line.message, row.line.uptime_ms);
    const block = j.within && prev ? (prev.block ?? prev.id) : null;
    const s = row.state;
    const sameState =
      s !== unknownState && s.up === j.state.up && s.phase === j.state.phase && s.crash === j.state.crash;
    if (row.sign === j.sign && row.block === block && sameState) return row;
    if (s === unknownState) {
      // It was not seen by anybody yet.
      row.sign = j.sign;
      row.block = block;
      row.state = j.state;
      return row;
    }
    const changed: HeldLine = { ...row, sign: j.sign, block, state: j.state };
    this.replace(index, changed);
    return changed;
  }

  /** Puts another object in the place of a row, of the same id. */
  replace(index: number, row: Held): void {
    this.all[index] = row;
    if (!this.passes) return;
    const i = boundOf(this.shown, row.id);
    if (this.shown[i]?.id === row.id) this.shown[i] = row;
  }

  /** Takes a row away. */
  remove(index: number): void {
    const [row] = this.all.splice(index, 1);
    if (!this.passes || !row) return;
    const i = boundOf(this.shown, row.id);
    if (this.shown[i]?.id === row.id) this.shown.splice(i, 1);
  }

  /** Drops the oldest rows. */
  dropHead(count: number): void {
    const next = this.all[count];
    this.all.splice(0, count);
    if (this.passes) this.shown.splice(0, next ? boundOf(this.shown, next.id) : this.shown.length);
    if (!next) this.last.clear();
  }

  /** Drops the newest rows, so that `count` are left. */
  dropTail(count: number): void {
    const next = this.all[count];
    this.all.length = Math.min(count, this.all.length);
    if (this.passes && next) this.shown.length = boundOf(this.shown, next.id);
    this.last.clear();
  }

  /** Drops, from row `from` on, the `count` oldest of the rows that are not shown, or fewer; answers which row it came to. */
  dropHidden(from: number, count: number): number {
    const passes = this.passes;
    if (!passes) return from;
    let dropped = 0;
    let to = from;
    const kept: Held[] = [];
    for (; to < this.all.length && dropped < count; to++) {
      const r = this.all[to] as Held;
      if (passes(r)) kept.push(r);
      else dropped++;
    }
    this.work += to - from;
    this.replaceAll(this.all.slice(0, from).concat(kept, this.all.slice(to)), this.shown);
    return from + kept.length;
  }

  clear(): void {
    this.last.clear();
    this.replaceAll([], this.passes ? [] : null);
  }
}

/** The first row whose id is not below that. */
export function boundOf(rows: readonly Row[], id: number): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((rows[middle] as Row).id < id) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Without those that are at the place of the one before. */
function unique(rows: Held[]): Held[] {
  return rows.filter((r, i) => i === 0 || order(rows[i - 1] as Held, r) !== 0);
}
