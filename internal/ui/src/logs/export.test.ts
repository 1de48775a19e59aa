import { expect, test } from "vitest";
import { type Export, type ExportProgress, exportRequest, fileName, gather } from "./export";

const all: Export = { devices: "all", filter: null, format: "text", start: null, end: null };

test("asks for all that is kept, not for the last hour", () => {
  expect(exportRequest(all)).toEqual({ path: "/api/logs", query: { start: "1970-01-01" } });
});

test("asks for the devices, the time and the filter", () => {
  const filter = { level: "warn", tag: "", text: "a b", regex: false } as const;
  const start = "2026-07-04T08:00:00Z";
  expect(exportRequest({ ...all, devices: [7], start, end: start, filter })).toEqual({
    path: "/api/devices/7/logs",
    query: { start, end: start, level: "warn", query: "a b" },
  });
  expect(exportRequest({ ...all, devices: [7, 8] }).query.device_ids).toBe("7,8");
  expect(exportRequest({ ...all, devices: { model: 3 } }).query.model_id).toBe(3);
});

test("counts lines over the borders of what comes", async () => {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(c) {
      for (const text of ["one\ntw", "o\n", "three", "\n"]) c.enqueue(encoder.encode(text));
      c.close();
    },
  });
  const told: ExportProgress[] = [];
  const file = await gather(body, "text/plain", 3, (p) => told.push(p));
  expect(await file.text()).toBe("one\ntwo\nthree\n");
  expect(told.at(-1)).toEqual({ lines: 3, bytes: 14, total: 3 });
  expect(told).toHaveLength(4);
});

test("names files so that every system takes them", () => {
  const now = new Date("2026-07-04T08:09:10Z");
  expect(fileName("the log of Küche / 1", "ndjson", now)).toBe("the-log-of-küche-1-2026-07-04-080910.ndjson");
  expect(fileName("…", "text", now)).toBe("logs-2026-07-04-080910.log");
});
