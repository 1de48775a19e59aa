import { describe, expect, it } from "vitest";
import { extent, kept, merge, newest, now, since, times } from "./series";

const answer = (start: number, lines: (number | null)[], step = 10) => ({
  step,
  start,
  series: [{ name: "lines", unit: "lines/s", points: lines }],
});

describe("merge", () => {
  it("adds what is new, and the newer answer holds where both say something", () => {
    const first = merge(null, answer(1000, [1, 2, 3]));
    expect(first.times).toEqual([1000, 1010, 1020]);
    expect(since(first)).toBe(1020);
    const second = merge(first, answer(1020, [33, 4]));
    expect(second.times).toEqual([1000, 1010, 1020, 1030]);
    expect(second.series.get("lines")).toEqual([1, 2, 33, 4]);
    expect(first.series.get("lines")).toEqual([1, 2, 3]); // React compares: the old one is as it was
  });
  it("leaves empty what nobody measured while the server was away", () => {
    const h = merge(merge(null, answer(1000, [1])), answer(1033, [4])); // a raster of its own
    expect(h.times).toEqual([1000, 1010, 1020, 1030]);
    expect(h.series.get("lines")).toEqual([1, null, null, 4]);
  });
  it("keeps what it has when there is nothing new", () => {
    const h = merge(null, answer(1000, [1, 2]));
    expect(merge(h, answer(1020, []))).toBe(h);
  });
  it("keeps six hours", () => {
    const n = kept / 10;
    const full = merge(null, answer(0, new Array(n).fill(1)));
    const more = merge(full, answer(n * 10, [7, 8]));
    expect(more.times).toHaveLength(n);
    expect(more.times[0]).toBe(20);
    expect(more.series.get("lines")?.slice(-3)).toEqual([1, 7, 8]);
  });
  it("begins anew with another step, or when the clock went back", () => {
    const h = merge(null, answer(1000, [1, 2]));
    expect(merge(h, answer(1020, [3], 5)).times).toEqual([1020]);
    expect(merge(h, answer(500, [9])).times).toEqual([500]);
  });
  it("knows a series that comes later, and keeps one that goes", () => {
    const h = merge(merge(null, answer(1000, [1, 2])), {
      step: 10,
      start: 1020,
      series: [{ name: "bytes", unit: "bytes/s", points: [5] }],
    });
    expect(h.series.get("lines")).toEqual([1, 2, null]);
    expect(h.series.get("bytes")).toEqual([null, null, 5]);
  });
});

describe("reading", () => {
  const h = merge(null, answer(0, [5, null, 1, 2, null]));
  it("takes the last seconds", () => {
    expect(newest(h, "lines", 30)).toEqual({ times: [20, 30, 40], points: [1, 2, null] });
    expect(newest(h, "nothing", 20)).toEqual({ times: [30, 40], points: [null, null] });
    expect(newest(h, "lines", 900).points).toHaveLength(5);
  });
  it("takes the present value from the last three points only", () => {
    expect(now([5, null, 1, 2, null])).toBe(2);
    expect(now([5, null, null, null])).toBeNull();
    expect(now([])).toBeNull();
  });
  it("knows the least and the most, and how often", () => {
    expect(extent([5, null, 1])).toEqual({ min: 1, max: 5 });
    expect(extent([null])).toBeNull();
    expect(times([0.1, null, 0.2], 10)).toBe(3);
  });
});
