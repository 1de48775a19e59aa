import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Poll, Watchers } from "./poll";

let visible = "visible";
let tell = () => {};

beforeEach(() => {
  vi.useFakeTimers();
  visible = "visible";
  vi.stubGlobal("document", {
    get visibilityState() {
      return visible;
    },
    addEventListener: (_: string, f: () => void) => {
      tell = f;
    },
    removeEventListener: () => {
      tell = () => {};
    },
  });
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

/** A poll of what `answer` says, with what became of each request. */
function poll(answer: (signal: AbortSignal) => Promise<string>) {
  const said: string[] = [];
  const of = new Poll<string>({
    interval: 1_000,
    longest: 3_000,
    ask: (signal) => {
      said.push("asked");
      return answer(signal);
    },
    came: (text, next) => said.push(`${text}, next in ${next - Date.now()}`),
    failed: (error, next) => said.push(`${error}, next in ${next - Date.now()}`),
  });
  const all = () => said.splice(0);
  return { of, all };
}

it("asks again, and less often while there is no answer", async () => {
  let good = true;
  const { of, all } = poll(() => (good ? Promise.resolve("yes") : Promise.reject("no")));
  const stop = of.start();
  await vi.advanceTimersByTimeAsync(0);
  expect(all()).toEqual(["asked", "yes, next in 1000"]);
  good = false;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(all()).toEqual(["asked", "no, next in 2000"]);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(all()).toEqual(["asked", "no, next in 3000"]);
  good = true;
  await vi.advanceTimersByTimeAsync(2_999);
  expect(all()).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  expect(all()).toEqual(["asked", "yes, next in 1000"]);
  stop();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(all()).toEqual([]);
});

it("rests while the tab is not seen, and asks at once when it is", async () => {
  const { of, all } = poll(() => Promise.resolve("yes"));
  visible = "hidden";
  const stop = of.start();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(all()).toEqual([]);
  visible = "visible";
  tell();
  await vi.advanceTimersByTimeAsync(0);
  expect(all()).toEqual(["asked", "yes, next in 1000"]);
  visible = "hidden";
  tell();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(all()).toEqual([]);
  stop();
});

it("does not tell of a request that it gave up", async () => {
  const { of, all } = poll(
    (signal) =>
      new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject("given up"));
      }),
  );
  const stop = of.start();
  of.retry();
  await vi.advanceTimersByTimeAsync(0);
  expect(all()).toEqual(["asked", "asked"]);
  stop();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(all()).toEqual([]);
});

it("tells those who watch, until they do not", () => {
  const watchers = new Watchers();
  const told: string[] = [];
  const unwatch = watchers.watch(1, () => told.push("a"));
  watchers.watch(1, () => told.push("b"));
  watchers.watch(2, () => told.push("c"));
  watchers.tell([1, 3]);
  expect(told.splice(0)).toEqual(["a", "b"]);
  unwatch();
  watchers.tell([1, 2]);
  expect(told.splice(0)).toEqual(["b", "c"]);
  expect([...watchers.ids()]).toEqual([1, 2]);
  expect(watchers.size).toBe(2);
});
