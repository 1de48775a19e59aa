import { expect, test } from "vitest";
import type { LogLine } from "../api/types";
import { bytes, copied, cut, gapText, prefixLength, shownLength, visible } from "./text";

const line = (message: string, more: Partial<LogLine> = {}): LogLine => ({
  timestamp: "2026-07-04T08:00:00.123456Z",
  message,
  cursor: "e-1.0",
  device_id: 1,
  device_key: "aaaa2222",
  device_entity_id: "kitchen",
  ...more,
});

test.each([
  ["W (81234) wifi: beacon timeout", "beacon timeout"],
  ["I (1234) wifi:mode : sta", "mode : sta"],
  ["I (12:34:56.789) app: text: more", "text: more"],
  ["[  1234][E][main.cpp:12] setup(): no sensor", "setup(): no sensor"],
  ["[00:00:01.234,567] <wrn> mod: late", "late"],
  ["no prefix: here", "no prefix: here"],
  ["I (1234) app:", "I (1234) app:"], // nothing would be left
])("prefix of %s", (message, rest) => {
  expect(message.slice(prefixLength(line(message, { level: "info", tag: "x" })))).toBe(rest);
});

test("a prefix stays when there are no columns for it", () => {
  expect(prefixLength(line("W (81234) wifi: beacon timeout"))).toBe(0);
});

test("what would show nothing is shown, and places stay", () => {
  const text = "a\0b\x1b[31m\x7f\u202edlrow\u2066x\nend\ttab\u{1f469}\u200d\u{1f52c}\ud800!";
  const got = visible(text);
  expect(got).toBe("a␀b␛[31m␡·dlrow·x↵end\ttab\u{1f469}\u200d\u{1f52c}\ufffd!");
  expect(got).toHaveLength(text.length);
  expect(visible("plain ü 日本 שלום")).toBe("plain ü 日本 שלום");
});

test("a long line is cut, unless it is asked for", () => {
  const long = line("x".repeat(65_536));
  expect(shownLength(long, false)).toBeLessThan(cut + 100);
  expect(shownLength(long, true)).toBe(65_536);
  expect(bytes(65_536)).toBe("66 KB");
});

test("copies what was sent", () => {
  const lines = [line("W (1) wifi: a"), line("b\0")];
  expect(copied(lines, () => "T", true)).toBe("T  kitchen  W (1) wifi: a\nT  kitchen  b\0\n");
  expect(copied(lines, () => "T", false)).toBe("T  W (1) wifi: a\nT  b\0\n");
});

test("gaps in plain words", () => {
  expect(gapText(1, "retention")).toMatch(/^1 line deleted/);
  expect(gapText(12_345, "rate")).toMatch(/^12\u202f345 lines left out because they came faster/);
  expect(gapText(null, "something-new")).toBe("Some lines missing (something-new)");
});
