// Figures in words that fit beside a chart: three digits and a unit that suits the size.

/** What a figure counts; it decides the units and where an axis may be divided. A rate's title says of what. */
export type Kind = "count" | "rate" | "bytes" | "bytes/s" | "seconds";

/** A number with its unit, apart so that the unit can be drawn smaller. */
export interface Figure {
  value: string;
  unit: string;
}

interface Step {
  /** The least size that is written with this unit. */
  from: number;
  /** What one of the unit is. */
  one: number;
  name: string;
}

const thousands: Step[] = [
  { from: 0, one: 1, name: "" },
  { from: 1e3, one: 1e3, name: "k" },
  { from: 1e6, one: 1e6, name: "M" },
  { from: 1e9, one: 1e9, name: "G" },
];
const bytes: Step[] = [
  { from: 0, one: 1, name: "B" },
  { from: 1024, one: 1024, name: "KiB" },
  { from: 1024 ** 2, one: 1024 ** 2, name: "MiB" },
  { from: 1024 ** 3, one: 1024 ** 3, name: "GiB" },
  { from: 1024 ** 4, one: 1024 ** 4, name: "TiB" },
];
const times: Step[] = [
  { from: 0, one: 1e-6, name: "µs" },
  { from: 1e-3, one: 1e-3, name: "ms" },
  { from: 1, one: 1, name: "s" },
  { from: 120, one: 60, name: "min" },
  { from: 7200, one: 3600, name: "h" },
  { from: 172_800, one: 86_400, name: "d" },
];

function steps(kind: Kind): Step[] {
  if (kind === "seconds") return times;
  return kind === "bytes" || kind === "bytes/s" ? bytes : thousands;
}

function step(kind: Kind, size: number): Step {
  const all = steps(kind);
  return all.findLast((s) => size >= s.from) ?? (all[0] as Step);
}

function unit(kind: Kind, name: string): string {
  return kind === "bytes/s" ? `${name}/s` : name;
}

/** At most three digits, without zeros that say nothing: 0.25, 3.4, 128. */
function digits(n: number): string {
  const size = Math.abs(n);
  const places = size >= 99.95 || size === 0 ? 0 : size >= 9.995 ? 1 : 2;
  return String(Number(n.toFixed(places)));
}

/** The figure with the unit that suits it; a dash when there is none. */
export function figure(kind: Kind, n: number | null | undefined): Figure {
  if (n === null || n === undefined) return { value: "–", unit: "" };
  if (n === 0) return { value: "0", unit: unit(kind, kind === "seconds" ? "s" : step(kind, 0).name) };
  let s = step(kind, Math.abs(n));
  // 999.7 would be written as 1000: it is 1 k.
  const next = steps(kind)[steps(kind).indexOf(s) + 1];
  if (next && Math.round(Math.abs(n) / s.one) * s.one >= next.from) s = next;
  return { value: digits(n / s.one), unit: unit(kind, s.name) };
}

/** As figure, in one piece. */
export function words(kind: Kind, n: number | null | undefined): string {
  const f = figure(kind, n);
  return f.unit === "" ? f.value : `${f.value} ${f.unit}`;
}

/** The labels of an axis, all in the unit of the largest. */
export function labels(kind: Kind, ticks: readonly number[]): string[] {
  const s = step(kind, Math.max(0, ...ticks.map(Math.abs)));
  // A rate's "/s" stands in the title already.
  return ticks.map((t) =>
    t === 0 ? "0" : `${Number((t / s.one).toPrecision(3))}${s.name === "" ? "" : ` ${s.name}`}`,
  );
}

/** The distances at which an axis may be divided: round in the unit that is shown, and whole for what is counted. */
export function increments(kind: Kind): number[] {
  if (kind === "bytes" || kind === "bytes/s") {
    const powers = Array.from({ length: 45 }, (_, i) => 2 ** i);
    return powers;
  }
  if (kind === "seconds") {
    const small: number[] = [];
    for (let e = -6; e < 0; e++) for (const m of [1, 2, 5]) small.push(Number(`${m}e${e}`));
    return [
      ...small,
      1,
      2,
      5,
      10,
      15,
      30,
      60,
      120,
      300,
      600,
      900,
      1800,
      3600,
      7200,
      14_400,
      28_800,
      86_400,
      172_800,
      604_800,
    ];
  }
  const all: number[] = [];
  for (let e = kind === "count" ? 0 : -3; e < 12; e++) for (const m of [1, 2, 5]) all.push(Number(`${m}e${e}`));
  return all;
}
