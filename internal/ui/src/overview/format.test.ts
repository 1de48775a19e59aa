import { describe, expect, it } from "vitest";
import { figure, increments, labels, words } from "./format";

describe("figure", () => {
  it("keeps three digits and takes the unit that suits", () => {
    expect(words("rate", 0)).toBe("0");
    expect(words("rate", 0.25)).toBe("0.25");
    expect(words("rate", 41.26)).toBe("41.3");
    expect(words("rate", 12_345)).toBe("12.3 k");
    expect(words("count", 2_000_000)).toBe("2 M");
    expect(words("bytes", 1536)).toBe("1.5 KiB");
    expect(words("bytes/s", 3 * 1024 ** 2)).toBe("3 MiB/s");
    expect(words("seconds", 0.000_34)).toBe("340 µs");
    expect(words("seconds", 0.25)).toBe("250 ms");
    expect(words("seconds", 90)).toBe("90 s");
    expect(words("seconds", 300)).toBe("5 min");
    expect(words("seconds", 3 * 86_400)).toBe("3 d");
  });
  it("never writes a thousand of a unit that has a larger one", () => {
    expect(words("count", 999.7)).toBe("1 k");
    expect(words("seconds", 0.999_9)).toBe("1 s");
    expect(words("bytes", 1023.9)).toBe("1 KiB");
  });
  it("tells nothing from zero", () => {
    expect(figure("bytes", null)).toEqual({ value: "–", unit: "" });
    expect(figure("bytes", 0)).toEqual({ value: "0", unit: "B" });
    expect(figure("seconds", 0)).toEqual({ value: "0", unit: "s" });
  });
});

describe("labels", () => {
  it("are all in the unit of the largest", () => {
    expect(labels("count", [0, 500, 1000])).toEqual(["0", "0.5 k", "1 k"]);
    expect(labels("bytes", [0, 512 * 1024, 1024 ** 2])).toEqual(["0", "0.5 MiB", "1 MiB"]);
    expect(labels("seconds", [0, 0.0005, 0.001])).toEqual(["0", "0.5 ms", "1 ms"]);
    expect(labels("rate", [0, 2, 4])).toEqual(["0", "2", "4"]);
  });
});

describe("increments", () => {
  it("rise, and are whole for what is counted", () => {
    for (const kind of ["count", "rate", "bytes", "seconds"] as const) {
      const all = increments(kind);
      expect(all).toEqual([...all].sort((a, b) => a - b));
    }
    expect(increments("count").every(Number.isInteger)).toBe(true);
  });
});
