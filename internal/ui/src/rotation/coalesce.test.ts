import { expect, test } from "vitest";
import { type Clock, Coalesce } from "./coalesce";

class Time implements Clock {
  #now = 0;
  #timers: { at: number; f: () => void }[] = [];
  now = () => this.#now;
  after(ms: number, f: () => void) {
    const timer = { at: this.#now + ms, f };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((t) => t !== timer);
    };
  }
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      for (let i = 0; i < 10; i++) await Promise.resolve();
      const next = this.#timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers = this.#timers.filter((t) => t !== next);
      this.#now = next.at;
      next.f();
    }
    this.#now = end;
  }
}

test("a burst is done once at once, and once after it", async () => {
  const time = new Time();
  const at: number[] = [];
  const c = new Coalesce(async () => at.push(time.now()), 1000, time);
  for (let i = 0; i < 50; i++) c.ask();
  await time.pass(500);
  for (let i = 0; i < 50; i++) c.ask();
  await time.pass(5000);
  expect(at).toEqual([0, 1000]);
  c.ask();
  await time.pass(0);
  expect(at).toEqual([0, 1000, 5500]);
});

test("what takes long is not done twice at a time, and rests as long as it took", async () => {
  const time = new Time();
  const at: number[] = [];
  const c = new Coalesce(
    () => {
      at.push(time.now());
      return new Promise<void>((done) => void time.after(3000, done));
    },
    1000,
    time,
  );
  c.ask();
  await time.pass(10);
  c.ask();
  c.ask();
  await time.pass(20_000);
  expect(at).toEqual([0, 6000]);
});

test("a failure does not end it, and its end does", async () => {
  const time = new Time();
  let runs = 0;
  const c = new Coalesce(
    async () => {
      runs++;
      throw new Error("no");
    },
    1000,
    time,
  );
  c.ask();
  await time.pass(1);
  c.ask();
  await time.pass(2000);
  expect(runs).toBe(2);
  c.ask();
  await time.pass(1);
  c.ask();
  c.end();
  await time.pass(5000);
  c.ask();
  await time.pass(5000);
  expect(runs).toBe(3);
});
