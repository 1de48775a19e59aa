import { expect, it } from "vitest";
import { linePath, marksPath } from "./Sparkline";

it("spans the box, the greatest number at its top", () => {
  expect(linePath([0, 5, 10], 100, 20)).toBe("M0 20L50 10L100 0");
});

it("is flat without lines, and shows one line of a thousand", () => {
  expect(linePath([0, 0], 10, 20)).toBe("M0 20L10 20");
  expect(linePath([1, 1000], 10, 20)).toBe("M0 19L10 0");
  expect(linePath([], 10, 20)).toBe("");
  expect(linePath([3], 10, 20)).not.toContain("NaN");
});

it("marks the minutes with errors", () => {
  expect(marksPath([0, 2, 0, 1], 90, 20)).toBe("M30 20v-4M90 20v-4");
  expect(marksPath([0, 0], 90, 20)).toBe("");
});
