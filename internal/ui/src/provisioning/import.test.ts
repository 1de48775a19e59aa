import { expect, test } from "vitest";
import { fileFault, mostBytes, mostNotes, newState, ordered, readLines, take } from "./import";

const line = (n: number, status: string, more: object = {}) =>
  JSON.stringify({ line: n, status, key: null, device_id: null, errors: [], warnings: [], ...more });

function stream(...parts: string[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(c) {
      for (const p of parts) c.enqueue(new TextEncoder().encode(p));
      c.close();
    },
  });
}

test("an answer is read as it comes, wherever it is cut", async () => {
  const text = `${[
    JSON.stringify({ total: 3, dry_run: true }),
    line(2, "ok"),
    line(3, "error", { errors: ["model: ist für nichts"] }),
    line(4, "ok", { warnings: ["twice"] }),
    JSON.stringify({ counts: { lines: 3, ok: 2, created: 0, exists: 0, errors: 1, warnings: 1 }, stopped: null }),
  ].join("\n")}\n`;
  for (const cut of [1, 40, text.indexOf("ü"), text.length - 1]) {
    const seen: number[] = [];
    const state = await readLines(stream(text.slice(0, cut), text.slice(cut)), (s) => seen.push(s.counts.lines));
    expect(state).toMatchObject({ total: 3, ended: true, stopped: null, counts: { lines: 3, ok: 2, errors: 1 } });
    expect(state.notes.map((n) => n.line)).toEqual([3, 4]);
    expect(state.notes[0]?.errors).toEqual(["model: ist für nichts"]);
    expect(seen.at(-1)).toBe(3);
  }
});

test("an answer that breaks off has not ended, and says how far it came", async () => {
  const state = await readLines(stream(`${JSON.stringify({ total: 9 })}\n${line(2, "created")}\n`), () => {});
  expect(state.ended).toBe(false);
  expect(state.counts.created).toBe(1);
});

test("an import that was stopped says why", () => {
  const state = newState();
  take(state, JSON.stringify({ counts: { ...state.counts, lines: 1 }, stopped: "The client has gone" }));
  expect(state).toMatchObject({ stopped: "The client has gone", ended: true });
});

test("errors come before warnings, and only so many are kept", () => {
  const state = newState();
  take(state, line(2, "ok", { warnings: ["w"] }));
  take(state, line(3, "error", { errors: ["e"] }));
  expect(ordered(state.notes).map((n) => n.line)).toEqual([3, 2]);
  for (let i = 0; i < 2 * mostNotes; i++) take(state, line(i + 4, "error"));
  expect(state.notes.length).toBe(mostNotes);
  expect(state.counts.errors).toBe(2 * mostNotes + 1);
});

test("a file that cannot be one is not sent", () => {
  expect(fileFault({ name: "a.csv", size: 1 })).toBeNull();
  expect(fileFault({ name: "a.csv", size: mostBytes })).toBeNull();
  expect(fileFault({ name: "a.csv", size: mostBytes + 1 })).toMatch(/too large/);
  expect(fileFault({ name: "a.csv", size: 0 })).toMatch(/empty/);
  expect(fileFault({ name: "Fleet.XLSX", size: 9 })).toMatch(/CSV/);
});
