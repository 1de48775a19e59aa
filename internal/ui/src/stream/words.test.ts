import { expect, test } from "vitest";
import type { StreamStatus } from "./types";
import { words } from "./words";

const live: StreamStatus = {
  state: "live",
  since: 0,
  heard: 97_000,
  lag: 0,
  retryAt: null,
  reason: null,
  ended: null,
  newVersion: null,
};
const say = (s: Partial<StreamStatus>) => words({ ...live, ...s }, 100_000);

test("a live stream says when it was heard, not that it is quiet", () => {
  expect(say({}).word).toBe("Live");
  expect(say({}).detail).toContain("heard 3 s ago");
  expect(say({ lag: 4000 }).word).toBe("Live");
  expect(say({ lag: 12_000 }).word).toBe("Behind by 12 s");
});

test("what is wrong can be done something about", () => {
  expect(say({ state: "reconnecting", retryAt: 104_000 })).toMatchObject({
    word: "Reconnecting in 4 s",
    action: { kind: "retry" },
  });
  expect(say({ state: "reconnecting" })).toMatchObject({ word: "Reconnecting", action: null });
  expect(say({ state: "silent", heard: 60_000 }).word).toBe("Silent for 40 s");
  expect(say({ state: "refused", reason: "Sign in." })).toMatchObject({
    detail: "Sign in.",
    action: { kind: "retry" },
  });
  expect(say({ newVersion: "2" }).action).toEqual({ name: "Reload for the new version", kind: "reload" });
});

test("what is read out does not count", () => {
  const a = say({ state: "reconnecting", retryAt: 104_000 }).said;
  expect(words({ ...live, state: "reconnecting", retryAt: 104_000 }, 101_000).said).toBe(a);
});
