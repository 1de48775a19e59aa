import { describe, expect, test } from "vitest";
import type { LogLine } from "../api/types";
import { after, before, type Heard, interleave, logAt, type Stretch, storyAddress, stretches } from "./story";
import type { AttemptStep } from "./types";

const start = Date.parse("2026-07-04T08:00:00Z");
const iso = (ms: number) => new Date(start + ms).toISOString();
const step = (ms: number, what: string): AttemptStep => ({ at: iso(ms), what, detail: null });

let n = 0;
const line = (ms: number, message: string): LogLine => ({
  timestamp: iso(ms),
  message,
  cursor: `e-${++n}.0`,
  device_id: 1,
  device_key: "k",
  device_entity_id: null,
});

describe("the time of an attempt", () => {
  const f = (steps: AttemptStep[], ended: number | null, now: number) =>
    stretches({ started_at: iso(0), ended_at: ended === null ? null : iso(ended), steps }, start + now).map((s) => [
      s.from - start,
      s.to - start,
      s.gap,
    ]);
  test("that was over soon is one piece", () => {
    expect(f([step(0, "started"), step(5, "offered"), step(4000, "proven")], 4000, 600_000)).toEqual([
      [-before, 0, false],
      [0, 5, false],
      [5, 4000, false],
      [4000, 4000 + after, false],
    ]);
  });
  test("in which nothing happened for long has a gap", () => {
    expect(f([step(0, "started"), step(300_000, "timed out")], 300_000, 900_000)).toEqual([
      [-before, 0, false],
      [0, after, false],
      [after, 300_000 - before, true],
      [300_000 - before, 300_000, false],
      [300_000, 300_000 + after, false],
    ]);
  });
  test("that goes on ends now", () => {
    expect(f([step(0, "started")], null, 30_000)).toEqual([
      [-before, 0, false],
      [0, 30_000, false],
    ]);
    expect(f([step(0, "started")], null, 200_000).pop()).toEqual([0, 200_000, false]);
    expect(f([step(0, "started")], null, 0)).toEqual([[-before, 0, false]]);
  });
  test("covers every moment once, whatever happened", () => {
    const all = stretches(
      { started_at: iso(0), ended_at: iso(900_000), steps: [10, 10, 90_000, 90_500, 880_000].map((t) => step(t, "x")) },
      start + 2_000_000,
    );
    for (const [i, s] of all.entries()) {
      expect(s.to).toBeGreaterThan(s.from);
      if (i > 0) expect(s.from).toBe(all[i - 1]?.to);
    }
  });
});

describe("steps and lines in one order", () => {
  const stretch = (from: number, to: number, s: Partial<Stretch> = {}): Stretch => ({
    from: start + from,
    to: start + to,
    gap: false,
    late: false,
    ...s,
  });
  const heard = (s: Stretch, lines: LogLine[], more = false): Heard => ({ stretch: s, lines, more, closed: false });
  const f = (steps: AttemptStep[], all: Heard[]) =>
    interleave(steps, all).map((e) =>
      e.kind === "step"
        ? e.step.what
        : e.kind === "line"
          ? e.line.message
          : e.kind === "gap"
            ? `gap ${(e.to - e.from) / 1000} s`
            : "more",
    );

  test("by time, the step before what follows from it", () => {
    const lines = [line(-5, "idle"), line(10, "asked"), line(10, "asked twice"), line(20, "got it")];
    expect(f([step(0, "started"), step(10, "fetched")], [heard(stretch(-100, 100), lines)])).toEqual([
      "idle",
      "started",
      "fetched",
      "asked",
      "asked twice",
      "got it",
    ]);
  });
  test("a line that two stretches have is there once", () => {
    const l = line(10, "seam");
    expect(f([], [heard(stretch(0, 10), [l]), heard(stretch(10, 20), [l])])).toEqual(["seam"]);
  });
  test("what is left out is said where it is", () => {
    const gap: Heard = { stretch: stretch(45, 80, { gap: true }), lines: [], more: false, closed: true };
    const all = [
      heard(stretch(0, 45), [line(1, "a"), line(2, "b")], true),
      gap,
      heard(stretch(80, 100, { late: true }), [line(90, "c"), line(95, "d")], true),
    ];
    expect(f([step(0, "started"), step(100, "timed out")], all)).toEqual([
      "started",
      "a",
      "b",
      "more",
      "gap 0.035 s",
      "more",
      "c",
      "d",
      "timed out",
    ]);
  });
});

test("addresses", () => {
  expect(logAt(7, iso(0))).toBe("/devices/7?time=2026-07-04T08:00:00.000Z");
  expect(logAt(7, start)).toBe("/devices/7?time=2026-07-04T08:00:00.000Z");
  expect(storyAddress(7)).toBe("/devices/7/rotation");
  expect(storyAddress(7, 3)).toBe("/devices/7/rotation?attempt=3");
});
