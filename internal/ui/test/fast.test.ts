import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { area, full, record, until } from "./harness";
import { list } from "./log";

const rate = 2000; // lines a second
const seconds = full ? 60 : 20;

const round = (n: number) => Math.round(n * 10) / 10;

/** The value below which that share of them is. */
function at(all: readonly number[], share: number): number {
  const sorted = [...all].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

area(`${rate} lines a second`, { settings: { STREAM_MAX_RATE: "0" } }, (w) => {
  test(`stay smooth for ${seconds} s`, async () => {
    const entity = "fast";
    const d = await w.server.device(entity);
    const v = await w.open(`/devices/${d.id}`);
    await w.server.publish([{ entity, message: "I (1) main: begin" }]);
    await list(v).getByText("begin", { exact: true }).waitFor();
    const cdp = await v.devtools();
    await cdp.send("Performance.enable");
    await cdp.send("HeapProfiler.enable");
    const metric = async (name: string) => {
      const { metrics } = await cdp.send("Performance.getMetrics");
      return metrics.find((m) => m.name === name)?.value ?? Number.NaN;
    };
    const heap = async () => {
      await cdp.send("HeapProfiler.collectGarbage");
      return (await metric("JSHeapUsedSize")) / 1024 ** 2;
    };
    const before = await heap();
    await v.page.evaluate(() => {
      const frames: number[] = [];
      Object.assign(globalThis, { frames });
      let last = performance.now();
      const tick = (now: number) => {
        frames.push(now - last);
        last = now;
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
    });

    const frames = () =>
      v.page.evaluate(() => (globalThis as unknown as { frames: number[] }).frames.splice(0).slice(1));
    // The floor: what this machine makes of a page that has nothing to draw, with all else that it does now.
    await sleep(3000);
    const idle = await frames();

    const feed = w.server.feed();
    const busyBefore = await metric("ThreadTime");
    const begun = performance.now();
    const total = rate * seconds;
    for (let sent = 0; sent < total; ) {
      const due = Math.min(total, Math.floor(((performance.now() - begun) / 1000) * rate));
      feed.say(
        Array.from({ length: due - sent }, (_, i) => ({
          entity,
          message: `I (${sent + i}) main: value ${sent + i} of a sensor that has much to say, ${(sent + i) * 7919}`,
        })),
      );
      sent = Math.max(sent, due);
      await sleep(20);
    }
    const drawn = await frames();
    const busy = (await metric("ThreadTime")) - busyBefore;
    const watched = (performance.now() - begun) / 1000;
    await feed.end();
    const took = (performance.now() - begun) / 1000;
    await w.server.publish([{ entity, message: "I (1) main: end" }]);
    await list(v).getByText("end", { exact: true }).waitFor();
    const after = await heap();

    const frame = (busy * 1000) / drawn.length;
    record(`${rate} lines a second for ${seconds} s`, {
      "frame median ms": round(at(drawn, 0.5)),
      "frame p95 ms": round(at(drawn, 0.95)),
      "frame p99 ms": round(at(drawn, 0.99)),
      "frame longest ms": round(at(drawn, 1)),
      "floor median ms": round(at(idle, 0.5)),
      "floor p95 ms": round(at(idle, 0.95)),
      "main thread ms a frame": round(frame),
      "main thread busy %": round((100 * busy) / watched),
      "heap before MiB": round(before),
      "heap after MiB": round(after),
      "lines a second": Math.round(total / took),
      "load of the machine": round(loadavg()[0] ?? 0),
    });

    // What holds on any machine.
    const held = async () => {
      const text = await v.page.getByText(/lines held$/).textContent();
      return Number((text ?? "").replace(/^.* of /, "").replace(/\D/g, ""));
    };
    await until(
      "all lines are held, or as many as a page holds",
      async () => (await held()) >= Math.min(total + 2, 90_000),
    );
    expect(
      await list(v)
        .getByText(/left out|lost|deleted/)
        .count(),
    ).toBe(0);
    // A machine that has other things to do draws fewer frames; then what counts is what one costs.
    if (at(drawn, 0.5) >= 50) expect(frame).toBeLessThan(25);
    expect(after).toBeLessThan(400);
  });
});
