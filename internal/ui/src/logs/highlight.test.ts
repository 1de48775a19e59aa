import { expect, test } from "vitest";
import { highlighter } from "./highlight";

/** The line with what is found in brackets. */
function shown(text: string, regex: boolean, line: string): string {
  let out = "";
  let at = 0;
  for (const [from, to] of highlighter(text, regex)?.ranges(line) ?? []) {
    out += `${line.slice(at, from)}[${line.slice(from, to)}]`;
    at = to;
  }
  return out + line.slice(at);
}

test.each([
  ["timeout", "beacon timeout, Timeout_2 timeouts", "beacon [timeout], Timeout_2 timeouts"],
  ["time*", "timeout time intime", "[time]out [time] intime"],
  ["*meou*", "a tiMEOUt", "a ti[MEOU]t"],
  ["beacon timeout", "beacon timeout beacon  timeout", "[beacon timeout] beacon  timeout"],
  ["a?c", "abc a.c ac", "[abc] [a.c] ac"],
  ["\\*", "2 * 3", "2 [*] 3"],
  ["(", "f(x)", "f[(]x)"],
  ["ü", "über ü", "über [ü]"],
  ["😀", "ok 😀", "ok [😀]"],
  ["*", "all of it", "all of it"],
  ["", "nothing", "nothing"],
])("words: %s", (text, line, want) => {
  expect(shown(text, false, line)).toBe(want);
});

test.each([
  ["0x[0-9a-f]+", "at 0x40 and 0x41", "at [0x40] and [0x41]"],
  ["(?i)ERR", "an error", "an [err]or"],
  ["x*", "axxb", "a[xx]b"],
  ["(", "f(x)", "f(x)"],
])("regex: %s", (text, line, want) => {
  expect(shown(text, true, line)).toBe(want);
});

test("a line of nothing but matches ends", () => {
  expect(highlighter("a", true)?.ranges("a".repeat(10_000))).toHaveLength(100);
});
