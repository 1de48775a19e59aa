// Which figures are drawn, in which order and how they are named.

import type { Kind } from "./format";

/** A line of a chart. */
export interface Line {
  /** The series of the server. */
  series: string;
  /** What it is called beside others in one chart; "" when it is alone. */
  name: string;
  /** A colour of styles/base.css. */
  colour: "--accent" | "--focus" | "--warn" | "--error";
}

/** One small drawing. */
export interface Chart {
  title: string;
  kind: Kind;
  /** The axis reaches at least up to here, so that noise does not look like a storm. */
  floor: number;
  lines: readonly [Line, ...Line[]];
  /** A series that says how much there may be. */
  limit?: string;
}

const one = (series: string, colour: Line["colour"] = "--accent"): [Line] => [{ series, name: "", colour }];

export const charts: readonly Chart[] = [
  {
    title: "Lines a second",
    kind: "rate",
    floor: 1,
    lines: [
      { series: "lines", name: "in", colour: "--accent" },
      { series: "delivered", name: "delivered", colour: "--focus" },
    ],
  },
  { title: "Bytes", kind: "bytes/s", floor: 1024, lines: one("bytes") },
  {
    title: "From receipt to reader",
    kind: "seconds",
    floor: 0.001,
    lines: [
      { series: "latency_p50", name: "median", colour: "--accent" },
      { series: "latency_p99", name: "99 %", colour: "--focus" },
    ],
  },
  {
    title: "Readers",
    kind: "count",
    floor: 4,
    lines: [
      { series: "streams", name: "streams", colour: "--accent" },
      { series: "subscriptions", name: "subscriptions", colour: "--focus" },
    ],
  },
  {
    title: "Gaps and dropped streams a second",
    kind: "rate",
    floor: 0.1,
    lines: [
      { series: "gaps", name: "gaps", colour: "--warn" },
      { series: "dropped", name: "dropped", colour: "--error" },
    ],
  },
  { title: "Irregular lines a second", kind: "rate", floor: 1, lines: one("irregular", "--warn") },
  { title: "Journal", kind: "bytes", floor: 1024 ** 2, lines: one("journal_bytes"), limit: "journal_limit" },
  { title: "History", kind: "bytes", floor: 1024 ** 2, lines: one("history_bytes") },
  { title: "Memory", kind: "bytes", floor: 16 * 1024 ** 2, lines: one("memory") },
  { title: "Batches not yet in streams", kind: "count", floor: 4, lines: one("journal_lag") },
  { title: "Oldest line not yet in the history", kind: "seconds", floor: 10, lines: one("history_lag") },
  { title: "Devices over their quota", kind: "count", floor: 4, lines: one("quota_cut", "--warn") },
];
