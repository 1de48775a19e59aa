import { expect, test } from "vitest";
import type { LogLine } from "../api/types";
import { Epochs } from "./cursor";
import { gapRow, type Held, type HeldLine, lineRow, Rows } from "./held";
import { judge, type SignState, unknownState } from "./signs";
import { seeded } from "./world";

const epochs = new Epochs();

function line(seq: number, device: number, message = "x", n = 0): HeldLine {
  const l: LogLine = {
    timestamp: "2026-07-04T08:00:00.000000Z",
    message,
    cursor: `e-${seq}.${n}`,
    level: null,
    tag: null,
    uptime_ms: null,
    device_id: device,
    device_key: "k",
    device_entity_id: "e",
  };
  return lineRow(l, epochs) as HeldLine;
}

const messages = [
  "Guru Meditation Error: Core 0",
  "Backtrace: 0x400d1234:0x3ffb4000",
  "PC      : 0x400d1234",
  "Rebooting...",
  "ESP-ROM:esp32",
  "I (27) boot: ESP-IDF v5",
  "x",
];

/** The signs of rows as a naive reading from the first to the last has them: sign, and the place of the block's first row. */
function naive(rows: readonly Held[]): (string | null)[] {
  const states = new Map<number, { state: SignState; block: number }>();
  return rows.map((r, i) => {
    if (r.kind === "gap") return null;
    const before = states.get(r.line.device_id);
    const j = judge(before?.state ?? unknownState, r.line.message, r.line.uptime_ms);
    const block = j.within && before ? before.block : i;
    states.set(r.line.device_id, { state: j.state, block });
    return `${j.sign} ${j.within ? block : null}`;
  });
}

function rising(rows: Rows): boolean {
  return rows.all.every((r, i) => i === 0 || r.id > (rows.all[i - 1] as Held).id);
}

test("rows that come in any order are in order, once, and judged as if they had come so", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = seeded(seed);
    const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)] as T;
    const all = Array.from({ length: 200 }, (_, i) => ({
      seq: i >> 1,
      n: i & 1,
      device: 1 + Math.floor(random() * 3),
      message: pick(messages),
    }));
    const rows = new Rows();
    const filtered = random() < 0.5;
    if (filtered) rows.show((r) => r.line.message !== "x");
    const added = new Set<string>();
    while (added.size < all.length) {
      const from = Math.floor(random() * all.length);
      const some = all.slice(from, from + 1 + Math.floor(random() * 20));
      const before = added.size;
      for (const s of some) added.add(`${s.seq}.${s.n}`);
      const part = some.map((s) => line(s.seq, s.device, s.message, s.n));
      if (random() < 0.3) part.reverse();
      expect(rows.add(part)).toBe(added.size - before);
      expect(rising(rows)).toBe(true);
      const signs = rows.all.map((r) => {
        if (r.kind === "gap") return null;
        const block = r.block === null ? null : rows.indexOf(r.block);
        return `${r.sign} ${block}`;
      });
      expect(signs.join()).toBe(naive(rows.all).join());
      const passing = rows.all.filter((r) => !filtered || r.kind === "gap" || r.line.message !== "x");
      expect(rows.shown.length === passing.length && passing.every((r, i) => r === rows.shown[i])).toBe(true);
    }
    expect(rows.all.map((r) => (r.kind === "line" ? r.line.cursor : ""))).toEqual(all.map((a) => `e-${a.seq}.${a.n}`));
  }
});

test("ids stay with their rows, and last for many lines between the same two", () => {
  const rows = new Rows();
  rows.add([line(0, 1), line(1_000_000, 2)]);
  const [first, last] = [rows.all[0]?.id, rows.all[1]?.id];
  for (let i = 1; i < 5000; i++) rows.add([line(i, 1)]);
  expect(rows.all[0]?.id).toBe(first);
  expect(rows.all[rows.all.length - 1]?.id).toBe(last);
  // Backwards between two rows there is soon no number left: then all get new ones.
  for (let i = 900_000; i > 899_900; i--) rows.add([line(i, 1)]);
  expect(rising(rows)).toBe(true);
});

test("a gap stands behind the lines before it, once", () => {
  const rows = new Rows();
  const gap = () => gapRow({ device_id: 1, from: "e-5", to: "e-9", count: 4, reason: "rate" }, epochs) as Held;
  rows.add([line(5, 1, "x", 0), line(5, 1, "x", 1), line(10, 1), gap()]);
  expect(rows.add([gap()])).toBe(0);
  expect(rows.all.map((r) => r.kind)).toEqual(["line", "line", "gap", "line"]);
});

test("the work for lines at the end does not grow with what is held", () => {
  const rows = new Rows();
  const devices = 50;
  let seq = 0;
  const frame = () => Array.from({ length: 32 }, () => line(seq++, seq % devices));
  while (rows.all.length < 100_000) rows.add(frame());
  rows.work = 0;
  const frames = 1000;
  for (let i = 0; i < frames; i++) {
    const f = frame();
    if (i % 2) f.push(line(seq - 40, 1, "late", 1)); // one device is a little behind
    rows.add(f);
    if (rows.all.length > 100_000) rows.dropHead(10_000);
  }
  expect(rows.work).toBeLessThan(frames * 32 * 12);
});

test("what is hidden is let go first, and costs little per line", () => {
  const rows = new Rows();
  rows.show((r) => r.line.message === "seen");
  let seq = 0;
  for (let i = 0; i < 30_000; i++) rows.add([line(seq++, 1, i % 100 ? "x" : "seen")]);
  rows.work = 0;
  const to = rows.dropHidden(0, 10_000);
  expect(rows.all.length).toBe(20_000);
  expect(rows.shown.length).toBe(300);
  expect(rows.all.slice(0, to).every((r) => r.kind === "line" && r.line.message === "seen")).toBe(true);
  expect(rows.work).toBeLessThan(11_000);
});
