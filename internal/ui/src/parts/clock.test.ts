import { expect, it } from "vitest";
import { ago, duration } from "./clock";

it("says durations as one number", () => {
  const second = 1000;
  expect(duration(-5)).toBe("0 s");
  expect(duration(59_999)).toBe("59 s");
  expect(duration(60 * second)).toBe("1 min");
  expect(duration(3599 * second)).toBe("59 min");
  expect(duration(3600 * second)).toBe("1 h");
  expect(duration(47.9 * 3600 * second)).toBe("47 h");
  expect(duration(48 * 3600 * second)).toBe("2 d");
});

it("says how long ago, and does not speak of the future", () => {
  expect(ago(10_000, 14_000)).toBe("4 s ago");
  expect(ago(10_000, 10_400)).toBe("now");
  expect(ago(10_000, 9_000)).toBe("now"); // clocks differ
});
