// Which rows of a log are drawn, and where. No React and no DOM in it: the component tells it of scrolling and sizes, and draws
// what `view` says. The reader's place is a row and the pixels into it, not a number of pixels from the top; so nothing that is
// added, deleted, folded or measured elsewhere moves what is looked at.

import { Layout } from "./layout";
import { shownLength } from "./text";
import type { LineFilter, LogModel, LogSnapshot, Place, Row } from "./types";

/** What a row is on the scroll bar, as bits. */
export const mark = { error: 1, panic: 2, boot: 4, match: 8, gap: 16 } as const;

export const rowHeight = 20;
export const bootHeight = 34; // a line, and the space that sets it apart
export const gapHeight = 32;
/** Room above the first row and, while there is more to load, below the last one. */
export const edgeHeight = 72;

const mostTags = 500; // a device that makes up tags does not fill the memory

/** What is drawn. */
export interface View {
  rows: readonly Row[];
  /** Pixels from the top of everything to the first of the rows. */
  top: number;
  /** Pixels of everything. */
  height: number;
  scrollTop: number;
  following: boolean;
  log: LogSnapshot;
}

/** A window on a log. */
export class Viewport {
  private readonly layout: Layout<Row>;
  // Lines of a block but the first, by the block, and between which ids they are: some may be asked about again.
  private readonly folds = new Map<number, { lines: number; from: number; to: number }>();
  private readonly open = new Set<number>(); // blocks that are not folded
  private readonly whole = new Set<number>(); // long rows that are shown whole
  private readonly changed = new Set<() => void>();
  private readonly stop: () => void;
  private height = 0;
  private columns = 80;
  private wrap = false;
  private following = true;
  private held = false; // paused by hand: reaching the end does not go on
  private anchor = { id: Number.NaN, into: 0 };
  private scrollTop = 0;
  // A log tells of its changes a frame later. So which version is about to change in its midst, and which row is to be shown
  // as soon as it is there.
  private stale: number | null = null;
  private wanted: number | null = null;
  private matches: ((row: Row) => boolean) | null = null;
  private current: View;

  /** Every tag that was seen is added to `tags`. */
  constructor(
    private readonly log: LogModel,
    private readonly tags: Set<string> = new Set(),
  ) {
    this.layout = new Layout<Row>({
      began: () => this.folds.clear(),
      height: (row) => this.estimate(row),
      marks: (row) => this.marksOf(row),
    });
    this.current = { rows: [], top: 0, height: 0, scrollTop: 0, following: true, log: log.snapshot() };
    this.stop = log.watch(() => this.update());
    this.update();
  }

  close(): void {
    this.stop();
  }

  /** For useSyncExternalStore. */
  readonly watch = (changed: () => void): (() => void) => {
    this.changed.add(changed);
    return () => this.changed.delete(changed);
  };

  readonly view = (): View => this.current;

  /** Takes over what the log holds now. `anew` when everything is to be asked about again, not only what is new. */
  update(anew = false): void {
    const { version, rows } = this.log.snapshot();
    const other = this.stale !== null && this.stale !== version;
    if (other) this.stale = null;
    this.layout.sync(rows, anew || other);
    const wanted = this.wanted;
    if (wanted !== null && this.layout.indexOf(wanted) >= 0) this.show(wanted, true);
    else this.place();
  }

  /** The component's size: pixels, and characters in a wrapped line. */
  resize(height: number, columns: number): void {
    if (height === this.height && columns === this.columns) return;
    const again = this.wrap && columns !== this.columns;
    this.height = height;
    this.columns = Math.max(10, columns);
    if (again) this.update(true);
    else this.place();
  }

  setWrap(wrap: boolean): void {
    if (wrap === this.wrap) return;
    this.wrap = wrap;
    this.update(true);
  }

  setFilter(filter: LineFilter): void {
    this.stale = this.log.snapshot().version;
    this.log.setFilter(filter);
    this.update(true);
  }

  /** Which rows are marked as matches; null is none. */
  setMatches(matches: ((row: Row) => boolean) | null): void {
    if (matches === null && this.matches === null) return;
    this.matches = matches;
    this.update(true);
  }

  /** The reader scrolled, or the browser reports what `view` asked for. */
  scrolled(scrollTop: number): void {
    if (Math.abs(scrollTop - this.scrollTop) <= 1) return;
    this.moveTo(scrollTop);
  }

  /** Goes to so many pixels from the top. */
  moveTo(scrollTop: number): void {
    const up = scrollTop < this.scrollTop;
    this.wanted = null;
    this.scrollTop = Math.max(0, Math.min(scrollTop, this.most()));
    this.drop();
    const end = this.scrollTop >= this.most() - 2 && this.log.snapshot().newer === "end";
    if (this.following && !end) this.setFollowing(false);
    else if (!this.following && end && !up && !this.held) this.setFollowing(true);
    this.place();
  }

  /** Heights that were measured of rows that are drawn. The answer is whether any was not as expected. */
  measured(heights: Iterable<readonly [id: number, height: number]>): void {
    let off = false;
    for (const [id, height] of heights) {
      const index = this.layout.indexOf(id);
      if (index < 0 || Math.abs(this.layout.height(index) - height) < 0.5 || height === 0) continue;
      this.layout.setHeight(index, height);
      off = true;
    }
    if (off) this.place();
  }

  /** Whether the row's height depends on its text, and is to be measured. */
  flows(row: Row): boolean {
    return row.kind === "line" && (this.wrap || this.whole.has(row.id));
  }

  /** Stays at the end, where new lines come. */
  follow(): void {
    this.held = false;
    this.wanted = null;
    this.setFollowing(true);
    this.place();
    if (this.log.snapshot().newer !== "end") void this.log.goTo("end").then(() => this.update());
  }

  /** Holds everything where it is. By hand, until `follow`; else until the end is reached again. */
  pause(byHand: boolean): void {
    this.held = byHand;
    if (!this.following) return;
    this.setFollowing(false);
    this.drop();
    this.place();
  }

  /** Shows another part of the log, with the row that was asked for in the middle. The answer is that row. */
  async goTo(place: Place): Promise<number | null> {
    this.pause(true);
    const id = await this.log.goTo(place);
    this.held = false;
    this.wanted = id;
    this.update();
    return id;
  }

  /** Scrolls to a row if it is not in sight; `middle` puts it there in any case. A folded row is unfolded. */
  show(id: number, middle = false): void {
    const index = this.layout.indexOf(id);
    if (index < 0) return;
    const row = this.log.snapshot().rows[index];
    if (row?.kind === "line" && row.block !== null && this.layout.height(index) === 0) this.fold(row.block, false);
    const top = edgeHeight + this.layout.offset(index);
    const height = this.layout.height(index);
    if (middle) this.moveTo(top - Math.max(0, (this.height - height) / 2));
    else if (top < this.scrollTop + rowHeight) this.moveTo(top - rowHeight);
    else if (top + height > this.scrollTop + this.height) this.moveTo(top + height - this.height);
  }

  /** The row that is shown before or after one, or the first or last in sight without one. */
  step(from: number | null, by: 1 | -1): Row | null {
    const rows = this.log.snapshot().rows;
    if (from === null) return this.inSight()[by > 0 ? 0 : 1];
    let index = this.layout.lowerBound(from);
    if (by < 0 || this.layout.id(index) === from) index += by;
    while (index >= 0 && index < rows.length && this.layout.height(index) === 0) index += by;
    return rows[index] ?? null;
  }

  /** The next row, in a direction, that has one of the marks. From the reader's place when `from` is null. */
  find(marks: number, from: number | null, by: 1 | -1): Row | null {
    const start = from ?? this.inSight()[by > 0 ? 0 : 1]?.id ?? 0;
    for (
      let i = this.layout.lowerBound(start) + (from === null && by > 0 ? 0 : by);
      i >= 0 && i < this.layout.length;
      i += by
    ) {
      if ((this.layout.marks(i) & marks) !== 0) return this.log.snapshot().rows[i] ?? null;
    }
    return null;
  }

  /** The rows from one to another, both included, in their order. */
  range(a: number, b: number): Row[] {
    const from = this.layout.lowerBound(Math.min(a, b));
    const to = this.layout.lowerBound(Math.max(a, b));
    return this.log.snapshot().rows.slice(from, to + 1);
  }

  /** The first and the last row of which anything is in sight. */
  inSight(): readonly [Row | null, Row | null] {
    const rows = this.log.snapshot().rows;
    const y = this.scrollTop - edgeHeight;
    const first = rows[this.layout.at(y)] ?? null;
    return [first, rows[this.layout.at(y + this.height - 1)] ?? null];
  }

  /** How many lines a row hides or shows below it, and whether they are shown; null where it begins no block. */
  foldOf(id: number): { lines: number; open: boolean } | null {
    const fold = this.folds.get(id);
    return fold === undefined ? null : { lines: fold.lines, open: this.open.has(id) };
  }

  /** Folds the lines of a block to its first one, or unfolds them; the other of the two without `folded`. */
  fold(block: number, folded = this.open.has(block)): void {
    if (folded) this.open.delete(block);
    else this.open.add(block);
    const rows = this.log.snapshot().rows;
    let left = this.folds.get(block)?.lines ?? 0;
    for (let i = this.layout.indexOf(block) + 1; i > 0 && i < rows.length && left > 0; i++) {
      const row = rows[i] as Row;
      if (row.kind !== "line" || row.block !== block) continue;
      this.layout.setHeight(i, this.estimate(row));
      left--;
    }
    if (this.following)
      this.pause(false); // what was opened is to be read
    else this.place();
  }

  isWhole(id: number): boolean {
    return this.whole.has(id);
  }

  /** Shows a long row whole, over as many lines as it takes, or cut again. */
  showWhole(id: number): void {
    if (!this.whole.delete(id)) this.whole.add(id);
    const index = this.layout.indexOf(id);
    const row = this.log.snapshot().rows[index];
    if (row) this.layout.setHeight(index, this.estimate(row));
    this.pause(false);
    this.place();
  }

  /** For the scroll bar: every row with a mark, and its place from 0 to 1. */
  eachMark(told: (marks: number, from: number, to: number) => void): void {
    const total = Math.max(1, this.total());
    let y = edgeHeight;
    for (let i = 0; i < this.layout.length; i++) {
      const height = this.layout.height(i);
      const marks = this.layout.marks(i);
      if (marks !== 0) told(marks, y / total, (y + height) / total);
      y += height;
    }
  }

  /** The share of everything that is above the window, and that is in it. */
  share(): { top: number; size: number } {
    const total = Math.max(1, this.total());
    return { top: this.scrollTop / total, size: Math.min(1, this.height / total) };
  }

  /** Puts a share of everything into the middle of the window. */
  showShare(share: number): void {
    this.moveTo(share * this.total() - this.height / 2);
  }

  private setFollowing(following: boolean): void {
    if (this.following === following) return;
    this.following = following;
    this.log.setPaused(!following);
    this.layout.sync(this.log.snapshot().rows);
  }

  /** Notes the reader's place. */
  private drop(): void {
    const y = this.scrollTop - edgeHeight;
    const index = this.layout.at(y);
    this.anchor = { id: this.layout.id(index), into: y - this.layout.offset(index) };
  }

  private total(): number {
    return edgeHeight + this.layout.total + (this.log.snapshot().newer === "end" ? 8 : edgeHeight);
  }

  private most(): number {
    return Math.max(0, this.total() - this.height);
  }

  private place(): void {
    const log = this.log.snapshot();
    const { layout } = this;
    if (this.following) {
      this.scrollTop = this.most();
      this.drop();
    } else if (layout.length > 0) {
      const index = Math.min(layout.lowerBound(this.anchor.id), layout.length - 1);
      const into = layout.id(index) === this.anchor.id ? this.anchor.into : 0;
      const y = Number.isNaN(this.anchor.id) ? this.most() : edgeHeight + layout.offset(index) + into;
      this.scrollTop = Math.max(0, Math.min(y, this.most()));
    }
    const y = this.scrollTop - edgeHeight;
    const spare = this.following ? 6 * rowHeight : Math.max(this.height, 400);
    const from = layout.at(y - spare);
    const to = layout.length === 0 ? 0 : layout.at(y + this.height + spare) + 1;
    const rows: Row[] = [];
    for (let i = from; i < to; i++) {
      const row = log.rows[i] as Row;
      if (!this.agrees(i, row)) {
        this.place();
        return;
      }
      if (layout.height(i) > 0) rows.push(row);
    }
    this.current = {
      rows,
      top: edgeHeight + layout.offset(from),
      height: this.total(),
      scrollTop: this.scrollTop,
      following: this.following,
      log,
    };
    for (const changed of this.changed) changed();
    if (log.older === "more" && this.height > 0 && this.scrollTop < edgeHeight + Math.max(600, this.height))
      this.log.loadOlder();
    if (log.newer === "more" && this.height > 0 && this.most() - this.scrollTop < Math.max(600, this.height))
      this.log.loadNewer();
  }

  /** Whether the layout knows the row as it is: it may be another than was asked about, or be judged otherwise since. */
  private agrees(index: number, row: Row): boolean {
    if (this.layout.id(index) !== row.id) {
      this.layout.sync(this.log.snapshot().rows, true);
      return false;
    }
    const height = this.estimate(row);
    const known = this.layout.height(index);
    if (known === height || (known > 0 && height > 0 && this.flows(row))) return true;
    if (row.kind === "line" && row.block !== null) this.count(row.block, row.id);
    this.layout.setHeight(index, height);
    return false;
  }

  private estimate(row: Row): number {
    if (row.kind === "gap") return gapHeight;
    if (row.block !== null && !this.open.has(row.block) && this.layout.indexOf(row.block) >= 0) return 0;
    const over = row.sign === "boot" ? bootHeight - rowHeight : 0;
    if (!this.flows(row)) return rowHeight + over;
    return rowHeight * Math.max(1, Math.ceil(shownLength(row.line, this.whole.has(row.id)) / this.columns)) + over;
  }

  private count(block: number, id: number): void {
    const fold = this.folds.get(block);
    if (fold === undefined) this.folds.set(block, { lines: 1, from: id, to: id });
    else if (id < fold.from || id > fold.to) {
      fold.lines++;
      fold.from = Math.min(fold.from, id);
      fold.to = Math.max(fold.to, id);
    }
  }

  private marksOf(row: Row): number {
    if (row.kind === "gap") return mark.gap;
    if (row.block !== null) this.count(row.block, row.id);
    if (row.line.tag && this.tags.size < mostTags) this.tags.add(row.line.tag);
    let bits = row.line.level === "error" ? mark.error : 0;
    if (row.sign === "panic") bits |= mark.panic;
    if (row.sign === "boot") bits |= mark.boot;
    if (this.matches?.(row)) bits |= mark.match;
    return bits;
  }
}
