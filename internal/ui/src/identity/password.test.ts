import { expect, test } from "vitest";
import { passwordFault, passwordReady } from "./password";

test("nothing is wrong with what is not typed yet", () => expect(passwordFault("", "")).toBe(null));

test.each([
  ["short", "", "5 more characters: it takes at least 10"],
  ["123456789", "", "1 more character: it takes at least 10"],
  ["long enough", "", null],
  ["long enough", "long enoug", "The two are not the same"],
  ["long enough", "long enough", null],
  ["ü".repeat(600), "", "It takes at most 1024 bytes"],
])("%s and %s", (password, again, fault) => {
  expect(passwordFault(password, again)).toBe(fault);
});

test("both are needed", () => {
  expect(passwordReady("long enough", "")).toBe(false);
  expect(passwordReady("", "")).toBe(false);
  expect(passwordReady("long enough", "long enough")).toBe(true);
});
