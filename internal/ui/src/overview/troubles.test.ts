import { describe, expect, it } from "vitest";
import { merge } from "./series";
import { troubles } from "./troubles";

const series = (all: Record<string, (number | null)[]>) =>
  merge(null, {
    step: 10,
    start: 0,
    series: Object.entries(all).map(([name, points]) => ({ name, unit: "", points })),
  });
const rising = (from: number, by: number) => Array.from({ length: 90 }, (_, i) => from + i * by);

describe("troubles", () => {
  it("finds nothing in a server that is well", () => {
    const saw = Array.from({ length: 90 }, (_, i) => (i % 30) * 60); // sealed every five minutes
    expect(
      troubles(
        series({
          dropped: [0, 0],
          gaps: [0, null],
          irregular: [0, 0],
          quota_cut: [0, 0],
          history_lag: saw,
          journal_bytes: [9],
        }),
      ),
    ).toEqual([]);
    expect(troubles(series({}))).toEqual([]);
  });
  it("tells of a lag that grows, not of one that is high", () => {
    expect(troubles(series({ history_lag: rising(600, 10) })).map((t) => t.series)).toEqual(["history_lag"]);
    expect(troubles(series({ history_lag: new Array(90).fill(2000) }))).toEqual([]);
    expect(troubles(series({ history_lag: rising(0, 5) }))).toEqual([]); // below the threshold
    expect(troubles(series({ journal_lag: rising(500, 10) })).map((t) => t.series)).toEqual(["journal_lag"]);
  });
  it("counts what happened in the last quarter of an hour, and forgets what was before", () => {
    const [t] = troubles(series({ dropped: [0.1, 0, 0.2] }));
    expect(t?.text).toContain("3 streams were closed");
    expect(troubles(series({ dropped: [0.1, ...new Array(90).fill(0)] }))).toEqual([]);
    expect(troubles(series({ gaps: [0.1] }))[0]?.text).toContain("1 gap was told");
  });
  it("knows when the journal comes near its limit, where there is one", () => {
    const t = troubles(series({ gaps: [1, 1], journal_bytes: [1, 85], journal_limit: [100, 100] }));
    expect(t.map((x) => x.series)).toEqual(["journal_bytes", "gaps"]); // the worst first
    expect(troubles(series({ journal_bytes: [85], journal_limit: [0] }))).toEqual([]);
  });
});
