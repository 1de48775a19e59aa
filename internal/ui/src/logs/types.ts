// Between what holds the lines of a log (model.ts) and what draws them (LogView.tsx).

import type { Gap, Level, LogLine } from "../api/types";

/** A row of a log. Its id grows with its place when rows are added at the end, and stays with it. */
export type Row = LineRow | GapRow;

export interface LineRow {
  kind: "line";
  id: number;
  line: LogLine;
  /** What the line says of the device's life: it started, or it crashed. */
  sign: "boot" | "panic" | null;
  /** The id of the row that a crash report or backtrace begins with, for the lines of it but the first. */
  block: number | null;
}

export interface GapRow {
  kind: "gap";
  id: number;
  device: number;
  gap: Gap;
  /** Whether the lines may still be had: they were left out of the stream, not deleted. */
  fetchable: boolean;
  fetching: boolean;
  /** Why fetching failed. */
  error: unknown;
}

/** Which lines are shown. */
export interface LineFilter {
  /** At least this severe; lines without a level are always shown. "" is all. */
  level: Level | "";
  /** The component, in any case. "" is all. */
  tag: string;
  /** Words, wildcards (`*`, `?`) or, with `regex`, a regular expression; as docs/API.md says of `query` and `regex`. */
  text: string;
  regex: boolean;
}

export type Edge = "more" | "loading" | "end" | "error";

/** What a log holds at one moment. */
export interface LogSnapshot {
  /** Grows with every change. */
  version: number;
  /** The rows that the filter lets through, oldest first. Not to be changed, and not to be kept. */
  rows: readonly Row[];
  /** Rows held, whether or not they are shown. */
  held: number;
  /** Before the first row. */
  older: Edge;
  /** After the last row; "end" while the log is live. */
  newer: Edge;
  /** The failure of whichever edge says "error". */
  error: unknown;
  /** Lines that came while it is paused, and that the filter lets through. */
  waiting: number;
  paused: boolean;
  /** What the stream says: not yet following, following, or refused and why. */
  stream: "joining" | "following" | { refused: string };
  /** The text of the filter is no regular expression: why. The last one that was holds. */
  fault: string | null;
}

export type Place = { cursor: string } | { time: Date } | "end";

/** The lines of one or more devices: history and live in one order, without a seam. */
export interface LogModel {
  snapshot(): LogSnapshot;
  /** Calls back after a change, at most once a frame; the answer ends that. */
  watch(changed: () => void): () => void;
  /** What is held is filtered at once; history is then asked for with the filter. */
  setFilter(f: LineFilter): void;
  /** While paused, rows do not move: what comes is counted, and added when it goes on. */
  setPaused(paused: boolean): void;
  loadOlder(): void;
  loadNewer(): void;
  /** Shows another part of the history; the answer is the id of the row to look at, null if there is none. */
  goTo(place: Place): Promise<number | null>;
  fetchGap(id: number): void;
  close(): void;
}
