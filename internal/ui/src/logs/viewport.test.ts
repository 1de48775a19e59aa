import { expect, test } from "vitest";
import type { LogLine } from "../api/types";
import type { LineFilter, LogModel, LogSnapshot, Place, Row } from "./types";
import { edgeHeight, mark, rowHeight, Viewport } from "./viewport";

const filter: LineFilter = { level: "", tag: "", text: "", regex: false };

function row(id: number, more: Partial<Row> = {}, message = `line ${id}`): Row {
  const line: LogLine = {
    timestamp: "2026-07-04T08:00:00Z",
    message,
    cursor: `e-${id}.0`,
    device_id: 1,
    device_key: "k",
    device_entity_id: null,
  };
  return { kind: "line", id, line, sign: null, block: null, ...more } as Row;
}

const lines = (from: number, to: number): Row[] => {
  const list: Row[] = [];
  for (let id = from; id < to; id++) list.push(row(id));
  return list;
};

/** A log that says what a test puts into it. */
class Log implements LogModel {
  rows: Row[] = [];
  more: Partial<LogSnapshot> = {};
  paused = false;
  older = 0;
  newer = 0;
  went: Place[] = [];
  private changed: (() => void)[] = [];
  snapshot(): LogSnapshot {
    const at: LogSnapshot = {
      version: 0,
      rows: this.rows,
      held: this.rows.length,
      older: "end",
      newer: "end",
      error: null,
      waiting: 0,
      paused: this.paused,
      stream: "following",
      fault: null,
    };
    return { ...at, ...this.more };
  }
  watch(changed: () => void) {
    this.changed.push(changed);
    return () => {};
  }
  put(rows: Row[]) {
    this.rows = rows;
    for (const c of this.changed) c();
  }
  setFilter() {}
  setPaused(p: boolean) {
    this.paused = p;
  }
  loadOlder() {
    this.older++;
  }
  loadNewer() {
    this.newer++;
  }
  async goTo(place: Place) {
    this.went.push(place);
    return this.rows[500]?.id ?? null;
  }
  fetchGap() {}
  close() {}
}

function make(rows: Row[]) {
  const log = new Log();
  log.rows = rows;
  const v = new Viewport(log);
  v.resize(400, 80);
  return { log, v };
}

/** The id and the place on the screen of the row that the reader looks at. */
function looked(v: Viewport): [number, number] {
  const view = v.view();
  let y = view.top - view.scrollTop;
  for (const r of view.rows) {
    if (y + rowHeight > 0) return [r.id, y];
    y += rowHeight;
  }
  throw new Error("nothing is drawn there");
}

test("follows the end and draws only what is near", () => {
  const { log, v } = make(lines(0, 100_000));
  expect(v.view().scrollTop + 400).toBe(v.view().height);
  expect(v.view().rows.length).toBeLessThan(40);
  expect(v.view().rows.at(-1)?.id).toBe(99_999);
  log.put(lines(33, 100_033));
  expect(v.view().rows.at(-1)?.id).toBe(100_032);
  expect(v.view().following).toBe(true);
});

test("what the reader looks at stays, whatever comes and goes", () => {
  const { log, v } = make(lines(0, 10_000));
  v.moveTo(50_007);
  expect(log.paused).toBe(true);
  const before = looked(v);
  log.put(lines(-3000, 10_000)); // older ones were loaded
  expect(looked(v)).toEqual(before);
  log.put(lines(2000, 12_000)); // trimmed, and new ones
  expect(looked(v)).toEqual(before);
  v.resize(300, 80);
  expect(looked(v)).toEqual(before);
  v.measured([[2100, 80]]); // one far above was measured
  expect(looked(v)).toEqual(before);
});

test("a reader whose row is filtered out stays in its surroundings", () => {
  const { log, v } = make(lines(0, 10_000));
  v.moveTo(100_000);
  const [id] = looked(v);
  log.rows = log.rows.filter((r) => r.id % 10 === 9);
  v.setFilter(filter);
  expect(Math.abs(looked(v)[0] - id)).toBeLessThan(20);
});

test("scrolling to the end follows again, unless it was paused by hand", () => {
  const { log, v } = make(lines(0, 1000));
  v.scrolled(v.view().scrollTop - 100);
  expect(v.view().following).toBe(false);
  v.scrolled(1e9);
  expect(v.view().following).toBe(true);
  expect(log.paused).toBe(false);
  v.pause(true);
  v.scrolled(v.view().scrollTop - 100);
  v.scrolled(1e9);
  expect(v.view().following).toBe(false);
  v.follow();
  expect(v.view().following).toBe(true);
});

test("following from within the history goes to its end", () => {
  const { log, v } = make(lines(0, 1000));
  v.pause(true);
  log.more = { newer: "more" };
  v.follow();
  expect(log.went).toEqual(["end"]);
});

test("asks for more near the ends only", () => {
  const { log, v } = make(lines(0, 1000));
  log.more = { older: "more", newer: "more" };
  v.moveTo(10_000);
  expect([log.older, log.newer]).toEqual([0, 0]);
  v.moveTo(300);
  expect(log.older).toBeGreaterThan(0);
  expect(log.newer).toBe(0);
  v.moveTo(1e9);
  expect(log.newer).toBeGreaterThan(0);
});

test("goes to a row and puts it in the middle", async () => {
  const { v } = make(lines(0, 1000));
  expect(await v.goTo({ cursor: "e-500.0" })).toBe(500);
  expect(v.view().scrollTop).toBe(edgeHeight + 500 * rowHeight - 190);
});

test("a row that the log tells of later is gone to then", async () => {
  const { log, v } = make([]);
  const coming = lines(0, 1000);
  log.goTo = async () => 500;
  await v.goTo({ cursor: "e-500.0" });
  expect(v.view().rows).toEqual([]);
  log.put(coming);
  expect(v.view().scrollTop).toBe(edgeHeight + 500 * rowHeight - 190);
  v.moveTo(0); // the reader went on
  log.put(lines(0, 1001));
  expect(v.view().scrollTop).toBe(0);
});

test("a block folds to its first line, opens, and its count is told", () => {
  const block = lines(0, 100).map((r) => (r.id > 10 && r.id <= 22 ? { ...r, block: 10 } : r)) as Row[];
  const { v } = make(block);
  expect(v.foldOf(10)).toEqual({ lines: 12, open: false });
  expect(v.foldOf(11)).toBeNull();
  const folded = v.view().height;
  expect(v.step(10, 1)?.id).toBe(23);
  v.fold(10);
  expect(v.view().height).toBe(folded + 12 * rowHeight);
  expect(v.step(10, 1)?.id).toBe(11);
  v.fold(10);
  expect(v.view().height).toBe(folded);
  v.show(15); // of a folded block: opens it
  expect(v.foldOf(10)?.open).toBe(true);
});

test("lines of a block whose first line is not shown are shown", () => {
  const { v } = make([{ ...row(5), block: 1 } as Row, row(6)]);
  expect(v.view().rows).toHaveLength(2);
});

test("marks: the next and the one before, and their places", () => {
  const rows = lines(0, 1000);
  const error = (id: number) => {
    const r = row(id);
    if (r.kind === "line") r.line.level = "error";
    return r;
  };
  rows[100] = error(100);
  rows[700] = error(700);
  rows[800] = { ...row(800), sign: "panic" } as Row;
  const { v } = make(rows);
  expect(v.find(mark.error, null, -1)?.id).toBe(700);
  expect(v.find(mark.error, 700, -1)?.id).toBe(100);
  expect(v.find(mark.error, 100, -1)).toBeNull();
  expect(v.find(mark.error | mark.panic, 700, 1)?.id).toBe(800);
  v.setMatches((r) => r.id % 250 === 0);
  const places: number[] = [];
  v.eachMark((m) => places.push(m));
  expect(places).toEqual([8, 1, 8, 8, 1, 8, 2]); // rows 0, 100, 250, 500, 700, 750, 800
});

test("wrapped rows have their estimated, then their measured height", () => {
  const { v } = make([row(1, {}, "x".repeat(200)), ...lines(2, 50)]);
  v.pause(true);
  const flat = v.view().height;
  v.setWrap(true);
  expect(v.view().height).toBe(flat + 2 * rowHeight);
  v.measured([[1, 5 * rowHeight]]);
  expect(v.view().height).toBe(flat + 4 * rowHeight);
});
