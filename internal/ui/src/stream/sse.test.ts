import { expect, test } from "vitest";
import { type Block, reader } from "./sse";

const stream = [
  "\ufeffretry: 2000\n\n",
  'data: {"type":"version"}\r\n\r\n',
  "event: ready\ndata:\n\n",
  "id: abc-7\n\n",
  ": heartbeat\n\n",
  "id: abc-8\ndata: a\ndata:b\n\n",
  "unknown: x\nid\n\n",
  "data: never ended",
].join("");

function read(pieces: string[]) {
  const out: (Block | string)[] = [];
  const feed = reader({
    block: (b) => out.push(b),
    retry: (ms) => out.push(`retry ${ms}`),
    comment: (text) => out.push(`comment ${text}`),
  });
  for (const p of pieces) feed(p);
  return out;
}

test("a stream is read the same in whatever pieces it comes", () => {
  const whole = read([stream]);
  expect(whole).toEqual([
    "retry 2000",
    { id: null, event: "", data: '{"type":"version"}' },
    { id: null, event: "ready", data: "" },
    { id: "abc-7", event: "", data: null },
    "comment heartbeat",
    { id: "abc-8", event: "", data: "a\nb" },
    { id: "", event: "", data: null },
  ]);
  for (let n = 1; n < 9; n++) {
    const pieces: string[] = [];
    for (let i = 0; i < stream.length; i += n) pieces.push(stream.slice(i, i + n));
    expect(read(pieces)).toEqual(whole);
  }
});

test("a line without an end is not gathered for ever", () => {
  const feed = reader({ block: () => {}, retry: () => {}, comment: () => {} });
  expect(() => {
    for (let i = 0; i < 20; i++) feed("x".repeat(1 << 20));
  }).toThrow("no end");
});
