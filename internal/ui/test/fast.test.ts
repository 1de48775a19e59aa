import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { area, full, record, until } from "./harness";
import { list } from "./log";

const rate = 2000; // lines a second
const seconds = full ? 60 : 20;

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
    const heap = async () => {
      await cdp.send("HeapProfiler.collectGarbage");
      const { metrics } = await cdp.send("Performance.getMetrics");
      return (metrics.find((m) => m.name === "JSHeapUsedSize")?.value ?? 0) / 1024 ** 2;
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

    const feed = w.server.feed();
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
    const frames = await v.page.evaluate(() => (globalThis as unknown as { frames: number[] }).frames.slice());
    await feed.end();
    const took = (performance.now() - begun) / 1000;
    await w.server.publish([{ entity, message: "I (1) main: end" }]);
    await list(v).getByText("end", { exact: true }).waitFor();
    const after = await heap();

    const sorted = frames.slice(1).sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.floor(sorted.length * share)] ?? 0;
    const round = (n: number) => Math.round(n * 10) / 10;
    record(`${rate} lines a second for ${seconds} s`, {
      "frame median ms": round(at(0.5)),
      "frame p95 ms": round(at(0.95)),
      "frame p99 ms": round(at(0.99)),
      "frame longest ms": round(sorted.at(-1) ?? 0),
      "frames over 50 ms %": round((100 * sorted.filter((f) => f > 50).length) / sorted.length),
      "heap before MiB": round(before),
      "heap after MiB": round(after),
      "lines taken by the server a second": Math.round(total / took),
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
    expect(at(0.5)).toBeLessThan(50);
    expect(after).toBeLessThan(400);
  });
});
