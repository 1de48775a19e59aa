import { expect, test } from "vitest";
import { compile, covers, fromRE2, noFilter } from "./filter";
import type { LineFilter } from "./types";

const pattern = (text: string, message: string) => compile({ ...noFilter, text })({ message });
const regex = (text: string, message: string) => compile({ ...noFilter, text, regex: true })({ message });

test.each([
  ["timeout", "beacon timeout", true],
  ["timeout", "Beacon TIMEOUT!", true],
  ["timeout", "timeouts", false],
  ["timeout", "ap_timeout", false],
  ["time*", "a timeout", true],
  ["time*", "uptime", false],
  ["*meou*", "timeout", true],
  ["beacon timeout", "the beacon timeout came", true],
  ["beacon timeout", "beacon, timeout", false],
  ["beacon*timeout", "beacon lost, then a timeout", true],
  ["beacon*timeout", "beacon lost, then a timeouts", false],
  ["b?d", "a bad one", true],
  ["b?d", "a bäd one", true],
  ["b?d", "a b😀d one", true],
  ["b?d", "a bd one", false],
  ["\\*", "5 * 3", true],
  ["\\*", "5 + 3", false],
  ["größe", "GRÖSSE", false],
  ["größe", "Die GRÖßE", true],
  ["ΟΔΟΣ", "οδοσ", true], // Go's lower case of Σ is always σ
  ["*", "", true],
  ["**", "anything", true],
  ["a*b*c", "a b c", true],
  ["a a", "aa a a", true],
])("pattern %s on %s", (text, message, selected) => {
  expect(pattern(text, message)).toBe(selected);
});

test.each([
  ["a.c", "a\rc", true],
  ["a.c", "a\nc", false],
  ["(?i)abc", "xABC", true],
  ["(?s)a.c", "a\nc", true],
  ["\\d{3}-\\d+", "555-1", true],
  ["x{,2}", "x{,2}", true],
  ["[[:upper:]]{2}", "aBCd", true],
  ["[]a]", "]", true],
  ["[^[:space:]]", "\u00a0", true],
  ["\\s", "\u00a0", false],
  ["\\Aab", "ab", true],
  ["b\\z", "ab", true],
  ["\\Qa.b\\E", "a.b", true],
  ["\\Qa.b\\E", "axb", false],
  ["(?P<x>a)b", "ab", true],
  ["\\pL", "é", true],
  ["\\p{Greek}", "λ", true],
  ["\\x41", "A", true],
  ["\\-\\_\\ ", "-_ ", true],
  ["^.$", "😀", true],
  ["}", "}", true],
])("regex %s on %s", (text, message, selected) => {
  expect(regex(text, message)).toBe(selected);
});

test.each(["(", "a**", "(?=a)", "(?<!a)b", "(a)\\1", "[a", "a{2000}", "\\y", "[b-a]"])(
  "regex %s is refused",
  (text) => {
    expect(() => regex(text, "")).toThrow();
  },
);

test("an expression keeps its own characters", () => {
  expect(fromRE2("a/b").source).toBe("a/b");
  expect(regex("a/b [0-9]+%", "a/b 12%")).toBe(true);
});

test("lines without a level pass every level, tags have no case", () => {
  const f = compile({ ...noFilter, level: "warn", tag: "WiFi" });
  expect(f({ message: "", level: "error", tag: "wifi" })).toBe(true);
  expect(f({ message: "", level: "info", tag: "wifi" })).toBe(false);
  expect(f({ message: "", level: null, tag: "wifi" })).toBe(true);
  expect(f({ message: "", level: "warn" })).toBe(false);
});

test("one filter covers another only if it surely does", () => {
  const f = (x: Partial<LineFilter>): LineFilter => ({ ...noFilter, ...x });
  expect(covers(noFilter, f({ text: "x" }))).toBe(true);
  expect(covers(f({ text: "x" }), noFilter)).toBe(false);
  expect(covers(f({ level: "warn" }), f({ level: "error", tag: "a" }))).toBe(true);
  expect(covers(f({ level: "error" }), f({ level: "warn" }))).toBe(false);
  expect(covers(f({ text: "ab" }), f({ text: "abc" }))).toBe(false);
  expect(covers(f({ text: "a", regex: true }), f({ text: "a" }))).toBe(false);
});
