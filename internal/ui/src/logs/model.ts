// The lines of one or more devices: history and live in one order, without a seam.

import { ApiError } from "../api/client";
import type { Gap, LogLine, LogPage } from "../api/types";
import type { Condition, Follow, StreamClient, StreamMessage, Target } from "../stream/types";
import { type At, behind, compare, cursorOf, Epochs, endBefore, justBefore, split } from "./cursor";
import { compile, covers, filterQuery, isEmpty, type Matcher, noFilter, sameFilter } from "./filter";
import { boundOf, gapRow, type Held, lineRow, Rows } from "./held";
import type { Edge, LineFilter, LogModel, LogSnapshot, Place } from "./types";

/** Whose lines a log shows. */
export type Devices = readonly number[] | "all" | { model: number };

type Query = Record<string, string | number>;

/** What a log needs of its surroundings. */
export interface LogDeps {
  stream: Pick<StreamClient, "follow">;
  /** Reads a page of the history. */
  read(path: string, query: Query, signal: AbortSignal): Promise<LogPage>;
  /** Calls back before the next frame is drawn; the answer undoes that. */
  frame(f: () => void): () => void;
  /** Calls back after some milliseconds; the answer undoes that. */
  after(ms: number, f: () => void): () => void;
  sizes?: Sizes;
}

/** How much a log holds, and reads at a time. */
export interface Sizes {
  /** The most rows that are held. */
  held: number;
  /** How many are let go at a time, so that letting go costs little per line. */
  slice: number;
  /** Lines of a page. */
  page: number;
  /** A list of fewer rows is filled up, which is not looking back. */
  few: number;
}

const standard: Sizes = { held: 100_000, slice: 10_000, page: 1000, few: 200 };
/** After that long the history is read although the stream does not follow yet: a line of an hour ago needs no stream. */
const patience = 3000;
/** Typing changes a filter at every key. */
const typing = 250;
/** A log that has missed more pages than that goes to the end anew. */
const mostCaughtUp = 10;

/** A moment after every line. */
const farEnd = "2100-01-01";
const farStart = "1970-01-01";

/**
 * Makes a log of the devices. It follows them first and then reads the newest page of the history, so that every line is in
 * one or in both; what is in both falls by its cursor.
 *
 * What it holds is a window of the journal without holes (holes are gaps, and are rows). In its middle, the *core*, the window
 * has every line that the stream brings; towards its ends it may have only those that the filter let through when they were
 * asked for, since the server searches faster than a browser can download. A filter that lets through others too makes the
 * log forget the ends, and ask again.
 */
export function createLog(devices: Devices, filter: LineFilter, deps: LogDeps): LogModel {
  return new Log(devices, filter, deps);
}

type Arrival = LogLine | Gap;

interface Following {
  target: Target;
  follow: Follow | null;
  /** `taken`: it was followed until a right was taken away. */
  state: "joining" | "following" | { refused: string; taken: boolean };
}

class Log implements LogModel {
  private readonly epochs = new Epochs();
  private readonly rows = new Rows();
  private readonly watchers = new Set<() => void>();
  private readonly path: string;
  private readonly whose: Query;
  /** Several devices are followed one by one; a set is followed as one, with a condition. */
  private readonly isSet: boolean;
  private follows: Following[];
  /** Those of the condition before, until the new ones follow. */
  private retired: Following[] = [];

  private readonly sizes: Sizes;
  private filter: LineFilter;
  private matches: Matcher;
  private fault: string | null = null;
  /** What the stream is filtered by; only a set's is. */
  private condition: LineFilter = noFilter;
  /** What the core is filtered by: the condition, or the one before until the window is loaded anew. */
  private core: LineFilter = noFilter;

  /** The window's ends: what is before the one and after the other is asked for. Null: nothing is known to be there. */
  private olderAt: string | null = null;
  private newerAt: string | null = null;
  private older: Edge = "loading";
  private newer: Edge = "end";
  private error: unknown = null;
  /** The core: from the first place up to the second; null is the window's end. `hasCore` false: there is none. */
  private hasCore = true;
  private coreFrom: At | null = null;
  private coreTo: At | null = null;
  /** What the ends beyond the core are filtered by. */
  private edges: LineFilter = noFilter;

  /** Whether live lines go on from the window's end. */
  private attached = false;
  /** A request is under way after which they may: what comes meanwhile is kept. */
  private catching = false;
  /** Not everything was followed when it began: what came before that was not kept. */
  private unsure = false;
  /** Up to where the window was complete when it became live. */
  private reached: string | null = null;
  private arrivals: Arrival[] = [];
  /** Arrivals were thrown away, the oldest: what is held does not reach to them. */
  private overflow = false;
  private paused = false;
  private waiting = 0;
  /** The place up to which nothing is missing, while lines behind it may be: not everything was followed. */
  private seam: string | null = null;
  /** What is held does not have all that the filter lets through: it is about to be loaded anew. */
  private stale = false;
  /** Behind `newerAt` more is held, of which some is missing. */
  private hole = false;
  /** Somebody scrolled back: the newer end is let go, not the older one. */
  private lookingBack = false;

  private opened = false;
  private closed = false;
  private olderRequest: AbortController | null = null;
  /** Whatever loads the window anew, or goes on at its newer end. */
  private request: AbortController | null = null;
  /** That of `request` which asks with the filter of the lines shown. */
  private newerRequest: AbortController | null = null;
  private readonly fetches = new AbortController();
  private undo = new Map<string, () => void>();
  private published: LogSnapshot;
  private version = 0;

  constructor(
    devices: Devices,
    filter: LineFilter,
    private readonly deps: LogDeps,
  ) {
    this.sizes = deps.sizes ?? standard;
    let targets: Target[];
    if (devices === "all") {
      targets = [{ all: true }];
      this.path = "/api/logs";
      this.whose = {};
    } else if ("model" in devices) {
      targets = [{ model: devices.model }];
      this.path = "/api/logs";
      this.whose = { model_id: devices.model };
    } else {
      targets = devices.map((device) => ({ device }));
      this.path = devices.length === 1 ? `/api/devices/${devices[0]}/logs` : "/api/logs";
      this.whose = devices.length === 1 ? {} : { device_ids: devices.join(",") };
    }
    this.isSet = targets.some((t) => !("device" in t));
    this.filter = { ...filter };
    try {
      this.matches = compile(this.filter);
    } catch (e) {
      this.fault = messageOf(e);
      this.filter = { ...filter, text: "", regex: false };
      this.matches = compile(this.filter);
    }
    this.show();
    if (this.isSet) this.condition = this.core = this.filter;
    this.follows = targets.map((target) => ({ target, follow: null, state: "joining" }));
    this.published = this.take();
    this.followAll();
    this.later("open", patience, () => this.open());
  }

  // The outside.

  snapshot(): LogSnapshot {
    return this.published;
  }

  watch(changed: () => void): () => void {
    this.watchers.add(changed);
    return () => this.watchers.delete(changed);
  }

  setFilter(f: LineFilter): void {
    let matches: Matcher;
    try {
      matches = compile(f);
    } catch (e) {
      this.fault = messageOf(e);
      this.changed();
      return;
    }
    this.fault = null;
    if (sameFilter(f, this.filter)) {
      this.changed();
      return;
    }
    this.filter = { ...f };
    this.matches = matches;
    this.show();
    this.waiting = this.paused ? this.arrivals.reduce((n, a) => n + (this.counts(a) ? 1 : 0), 0) : 0;
    this.refit();
    this.changed();
    this.later("filter", typing, () => this.afterFilter());
  }

  setPaused(paused: boolean): void {
    if (paused === this.paused) return;
    this.flush();
    this.paused = paused;
    this.waiting = 0;
    if (!paused) {
      this.lookingBack = false;
      this.flush();
    }
    this.changed();
  }

  loadOlder(): void {
    if (this.older !== "more" && this.older !== "error") return;
    if (this.stale) {
      if (this.older === "error") this.afterFilter();
      return;
    }
    if (!this.attached && this.rows.all.length === 0) {
      void this.readEnd(); // that was what failed
      return;
    }
    if (this.rows.shown.length >= this.sizes.few) this.lookingBack = true;
    void this.readOlder();
  }

  loadNewer(): void {
    if (this.stale || this.request !== null || (this.newer !== "more" && this.newer !== "error")) return;
    this.lookingBack = false;
    void this.readNewer(this.filter, 1);
  }

  async goTo(place: Place): Promise<number | null> {
    if (place === "end") {
      this.lookingBack = false;
      if (this.attached) {
        this.setPaused(false);
        this.flush();
      } else {
        this.paused = false;
        this.waiting = 0;
        this.begun();
        await this.readEnd();
      }
      return this.rows.shown[this.rows.shown.length - 1]?.id ?? null;
    }
    const held = "cursor" in place ? this.findCursor(place.cursor) : this.findTime(place.time);
    if (held !== null) return held;
    this.begun();
    if (!(await this.readAround(place))) return null;
    if ("cursor" in place) return this.findCursor(place.cursor, true);
    return this.findTime(place.time, true);
  }

  fetchGap(id: number): void {
    void this.readGap(id);
  }

  close(): void {
    this.closed = true;
    for (const f of [...this.follows, ...this.retired]) f.follow?.close();
    for (const undo of this.undo.values()) undo();
    this.undo.clear();
    this.olderRequest?.abort();
    this.request?.abort();
    this.fetches.abort();
    this.watchers.clear();
  }

  // The stream.

  private followAll(): void {
    const condition: Condition = filterQuery(this.condition);
    for (const f of this.follows) {
      f.state = "joining";
      f.follow = this.deps.stream.follow(f.target, condition, (m) => this.told(f, m));
    }
  }

  private told(f: Following, m: StreamMessage): void {
    if (this.closed) return;
    if (m.kind === "lines" || m.kind === "gap") {
      this.arrive(m.kind === "lines" ? m.lines : [m.gap]);
      return;
    }
    if (!this.follows.includes(f)) return;
    if (m.kind === "refused") {
      f.state = { refused: m.message, taken: m.status === 403 && f.state === "following" };
    } else if (m.kind === "following") {
      f.state = "following";
    } else {
      f.state = "joining";
      this.unsure = true;
      if (this.attached && this.seam === null) this.seam = this.newest();
    }
    if (!this.joining()) {
      if (this.retired.length > 0) {
        // What was on its way to those before is asked for.
        if (this.stale)
          this.arrivals = []; // not all that is wanted, and in the page that is read now
        else if (this.attached) this.seam ??= this.newest();
        for (const r of this.retired.splice(0)) r.follow?.close();
      }
      this.open();
      void this.catchUp();
    }
    this.changed();
  }

  private joining(): boolean {
    return this.follows.some((f) => f.state === "joining");
  }

  /** The cursor of the newest line that is held or came, or up to which none was left out. */
  private newest(arrivals = true): string | null {
    let at: At | null = this.placeOf(this.reached);
    const last = this.rows.all[this.rows.all.length - 1];
    if (last && (at === null || compare(last.at, at) > 0)) at = last.at;
    for (const r of arrivals ? this.rowsOf(this.arrivals) : []) if (at === null || compare(r.at, at) > 0) at = r.at;
    return at && cursorOf(at);
  }

  /** Reads the newest page, once. */
  private open(): void {
    if (this.opened) return;
    this.begun();
    void this.readEnd();
  }

  private begun(): void {
    this.opened = true;
    this.cancel("open");
  }

  private arrive(what: readonly Arrival[]): void {
    if (!this.attached && !this.catching && this.opened) return; // the window is elsewhere
    for (const a of what) {
      this.arrivals.push(a);
      if (this.paused && this.counts(a)) this.waiting++;
    }
    if (this.arrivals.length > this.sizes.held) {
      this.arrivals.splice(0, this.sizes.slice);
      this.overflow = true;
    }
    this.changed();
  }

  private counts(a: Arrival): boolean {
    return "message" in a && this.matches(a);
  }

  /** Takes what came into the window. */
  private flush(): void {
    if (!this.attached || this.catching || this.paused || this.arrivals.length === 0) return;
    const arrivals = this.arrivals;
    this.arrivals = [];
    if (this.overflow) {
      // More has come than is held: what was there would be let go anyway.
      this.overflow = false;
      this.rows.clear();
      this.resetCore();
      this.olderAt = null;
      this.stopOlder("more");
    }
    let rows = this.rowsOf(arrivals);
    // Before the window there is more than that: it is part of the history.
    const start = this.older === "end" ? null : this.start();
    const until = (r: Held) => (r.kind === "gap" ? (this.placeOf(r.gap.to) ?? r.at) : r.at);
    if (start) rows = rows.filter((r) => compare(until(r), start) >= 0);
    this.rows.add(rows);
    this.olderAt ??= this.firstCursor();
    this.trim();
  }

  /** Where the window begins, which a gap may reach across: the history before a whole batch ends before its lines. */
  private start(): At | null {
    const at = this.placeOf(this.olderAt);
    return at?.n === behind ? { ...at, n: -1 } : at;
  }

  private firstCursor(): string | null {
    const first = this.rows.all[0];
    return first ? endBefore(first.at) : null;
  }

  private rowsOf(arrivals: readonly Arrival[]): Held[] {
    const rows: Held[] = [];
    for (const a of arrivals) {
      const row = "message" in a ? lineRow(a, this.epochs) : gapRow(a, this.epochs);
      if (row) rows.push(row);
    }
    return rows;
  }

  /** Holds at most so many rows, and lets go what is not looked at. */
  private trim(): void {
    const over = this.rows.all.length - this.sizes.held;
    if (over <= 0) return;
    const count = over + this.sizes.slice;
    if (this.lookingBack) {
      this.rows.dropTail(this.rows.all.length - count);
      const last = this.rows.all[this.rows.all.length - 1] as Held;
      this.detach(cursorOf(last.at));
      if (this.coreTo !== null && compare(this.coreTo, last.at) > 0) this.coreTo = null;
      if (this.coreFrom !== null && compare(this.coreFrom, last.at) > 0) this.hasCore = false;
      return;
    }
    let left = count;
    if (this.rows.shown !== this.rows.all && this.hasCore && covers(this.filterOfEnds(), this.filter)) {
      // Rows that are not shown go first: those that were looked for are fewer, and would be asked for again.
      const from = this.coreFrom === null ? 0 : this.rows.lowerBound(this.coreFrom);
      const before = this.rows.all.length;
      const to = this.rows.dropHidden(from, count);
      left -= before - this.rows.all.length;
      this.edges = this.filter;
      this.coreFrom = this.rows.all[to]?.at ?? null;
      if (this.coreFrom === null) this.hasCore = false;
    }
    if (left > 0) {
      this.rows.dropHead(left);
      const first = this.rows.all[0];
      this.olderAt = this.firstCursor();
      if (this.coreFrom !== null && first && compare(this.coreFrom, first.at) <= 0) this.coreFrom = null;
      this.stopOlder("more");
    }
  }

  private filterOfEnds(): LineFilter {
    return this.coreFrom === null && this.coreTo === null ? this.filter : this.edges;
  }

  private detach(newerAt: string): void {
    if (this.request !== null) {
      this.request.abort();
      if (this.older === "loading" && this.olderRequest === null) this.older = "more";
      if (this.stale) this.later("filter", 0, () => this.afterFilter());
    }
    this.request = null;
    this.catching = false;
    const hole = this.hole ? this.placeOf(this.newerAt) : null;
    const end = this.placeOf(newerAt);
    this.cutHole();
    if (hole === null || end === null || compare(end, hole) < 0) this.newerAt = newerAt;
    this.attached = false;
    this.arrivals = [];
    this.overflow = false;
    this.waiting = 0;
    this.seam = null;
    this.newer = "more";
    this.changed();
  }

  // Filters.

  private show(): void {
    this.rows.show(isEmpty(this.filter) ? null : (row) => this.matches(row.line));
  }

  /** Forgets what is held only as an older filter wanted it, unless that let through all that this one does. */
  private refit(): void {
    if (this.olderRequest !== null) this.stopOlder("more");
    if (this.newerRequest !== null && this.newerRequest === this.request) this.detach(this.newerAt ?? "");
    this.stale = !this.fits();
    if (!this.opened || this.stale) return;
    if (this.hasCore && !covers(this.edges, this.filter)) {
      if (this.coreFrom !== null) {
        this.rows.dropHead(this.rows.lowerBound(this.coreFrom));
        this.olderAt = endBefore(this.coreFrom);
        this.older = "more";
      }
      if (this.coreTo !== null) {
        this.rows.dropTail(this.rows.lowerBound({ ...this.coreTo, n: this.coreTo.n + 1 }));
        this.detach(cursorOf(this.coreTo));
      }
      this.coreFrom = null;
      this.coreTo = null;
    }
    // All of the window is complete under the filter: if that is the condition, all is core.
    if (sameFilter(this.filter, this.core)) this.resetCore();
  }

  /** Whether the middle of what is held has all that the filter lets through. */
  private fits(): boolean {
    return covers(this.hasCore ? this.core : this.edges, this.filter);
  }

  /** What has to be asked of the server when nobody has typed for a moment. */
  private afterFilter(): void {
    const follow = this.isSet && !sameFilter(this.condition, this.filter);
    if (follow) {
      // The server sends a set's lines already filtered: fewer are left out for their rate.
      this.retired.push(...this.follows);
      this.unsure = true;
      this.follows = this.follows.map((f) => ({ target: f.target, follow: null, state: "joining" }));
      this.condition = this.filter;
      if (!this.stale) {
        this.core = this.condition; // of which the window has everything
        this.resetCore();
      }
      this.followAll();
    }
    if (!this.stale) {
      this.fill();
    } else if (this.attached || this.rows.all.length === 0 || !this.opened) {
      if (follow && this.joining()) {
        this.opened = false; // the page is read when the new lines come
        this.later("open", patience, () => this.open());
      } else {
        void this.readEnd();
      }
    } else {
      const middle = this.rows.all[this.rows.all.length >> 1] as Held;
      void this.readAround({ cursor: cursorOf(middle.at) });
    }
    this.changed();
  }

  /** Asks for older rows where a filter has left too few to fill a window. */
  private fill(): void {
    if (this.rows.shown.length < this.sizes.few && this.older === "more" && !isEmpty(this.filter))
      void this.readOlder();
  }

  // The history.

  private read(query: Query, filter: LineFilter, signal: AbortSignal): Promise<LogPage> {
    const asked: Query = { ...this.whose, limit: this.sizes.page, ...query };
    for (const [name, value] of Object.entries(filterQuery(filter))) if (value !== "") asked[name] = value;
    return this.deps.read(this.path, asked, signal);
  }

  /** The rows of a page that was asked for between two cursors. */
  private pageRows(page: LogPage, after: string | null, before: string | null): Held[] {
    const names: string[] = [];
    const met = (cursor: string | null) => {
      const name = cursor === null ? undefined : split(cursor)?.epoch;
      if (name !== undefined && !names.includes(name)) names.push(name);
    };
    met(after);
    for (const g of page.gaps) met(g.from); // of an epoch without lines in the page it is before them
    met(page.first_cursor); // or how far a search came that found nothing
    for (const l of page.logs) met(l.cursor);
    met(page.last_cursor);
    met(before);
    // A page that goes on forwards is complete up to its end only, any other one up to now.
    const now =
      page.complete_to === null || page.complete_to === page.last_cursor ? undefined : split(page.complete_to);
    this.epochs.page(names, now?.epoch ?? null);
    return this.rowsOf([...page.logs, ...page.gaps]);
  }

  private stopOlder(edge: Edge): void {
    this.olderRequest?.abort();
    this.olderRequest = null;
    this.older = edge;
  }

  private async readOlder(): Promise<void> {
    this.stopOlder("loading");
    const request = new AbortController();
    this.olderRequest = request;
    this.error = this.newer === "error" ? this.error : null;
    this.changed();
    const filter = this.filter;
    let before = this.olderAt;
    try {
      for (;;) {
        const query: Query = before === null ? { end: farEnd } : { before };
        const page = await this.read(query, filter, request.signal);
        if (request.signal.aborted) return;
        const rows = this.pageRows(page, null, before);
        if (!sameFilter(filter, this.core)) {
          // The core ends here: beyond it are only lines that the filter lets through.
          if (this.hasCore) this.coreFrom ??= this.start() ?? this.rows.all[0]?.at ?? this.placeOf(page.complete_to);
        }
        if (!this.hasCore || this.coreFrom !== null) this.edges = filter;
        const shown = this.rows.shown.length;
        this.rows.add(rows);
        before = before === null ? (this.firstCursor() ?? page.first_cursor) : (page.first_cursor ?? before);
        this.olderAt = before;
        this.older = page.has_more && page.first_cursor !== null ? "more" : "end";
        const found = this.rows.shown.length > shown;
        if (this.older === "end" || found) break;
        this.older = "loading";
        this.changed();
      }
      this.olderRequest = null;
      this.trim();
      this.changed();
    } catch (e) {
      if (request.signal.aborted) return;
      this.olderRequest = null;
      this.older = "error";
      this.error = e;
      this.changed();
    }
  }

  private placeOf(cursor: string | null): At | null {
    return cursor === null ? null : this.epochs.at(cursor);
  }

  /** Begins a request that goes on at the newer end, or loads the window anew; what comes live meanwhile is kept. */
  private begin(): AbortController {
    this.request?.abort();
    if (this.newer === "loading" && !this.attached) this.newer = "more";
    const request = new AbortController();
    this.request = request;
    this.catching = true;
    this.unsure = this.joining();
    return request;
  }

  private ended(request: AbortController): void {
    if (this.request !== request) return;
    this.request = null;
    this.catching = false;
    if (!this.attached) {
      this.arrivals = [];
      this.overflow = false;
      this.waiting = 0;
    }
    if (!this.fits() || !covers(this.edges, this.filter))
      this.refit(); // the filter may be another one by now
    else this.stale = false;
    if (this.stale) this.later("filter", 0, () => this.afterFilter());
    this.flush();
    void this.catchUp();
    this.changed();
  }

  /** Live lines go on from the window's end, which is complete up to that cursor. */
  private attach(completeTo: string | null): void {
    this.attached = true;
    this.hole = false;
    this.reached = completeTo;
    this.newer = "end";
    this.newerAt = null;
    this.seam = this.unsure || this.joining() ? completeTo : null;
  }

  /** Loads the newest page into an empty window, and goes on live. */
  private async readEnd(): Promise<void> {
    const request = this.begin();
    this.stopOlder("loading");
    if (!this.attached && this.newer !== "end") this.newer = "loading";
    this.changed();
    const filter = this.condition;
    try {
      const page = await this.read({ end: farEnd }, filter, request.signal);
      if (request.signal.aborted) return;
      this.rows.clear();
      this.resetCore();
      // What comes live may be less by now than the page has.
      this.core = covers(filter, this.condition) ? this.condition : filter;
      this.rows.add(this.pageRows(page, null, null));
      this.olderAt = page.first_cursor;
      this.older = page.has_more && page.first_cursor !== null ? "more" : "end";
      this.error = null;
      this.lookingBack = false;
      this.attach(page.complete_to);
    } catch (e) {
      if (request.signal.aborted) return;
      this.error = e;
      if (this.rows.all.length > 0 && !this.attached && !this.stale) {
        this.older = "more";
        this.cutHole();
        this.newer = "error";
      } else {
        this.hole = false;
        this.rows.clear();
        this.resetCore();
        this.core = filter;
        this.olderAt = null;
        this.older = "error";
        this.newer = "end";
        this.attached = false;
        // Lines of one target are shown from where they begin, although what is before them cannot be had.
        if (this.follows.length === 1 && this.retired.length === 0 && !this.unsure) this.attach(null);
      }
    }
    this.ended(request);
    this.fill();
  }

  private resetCore(): void {
    this.hasCore = true;
    this.coreFrom = null;
    this.coreTo = null;
  }

  /** Goes on at the newer end, until the window is live again or so many pages were read; answers whether it is live. */
  private async readNewer(filter: LineFilter, pages: number): Promise<boolean> {
    const request = this.begin();
    if (filter === this.filter) this.newerRequest = request;
    this.newer = "loading";
    this.changed();
    const ends = !sameFilter(filter, this.core);
    try {
      for (let i = 0; i < pages && !this.attached; ) {
        const query: Query = this.newerAt ? { after: this.newerAt } : { start: farStart };
        const page = await this.read(query, filter, request.signal);
        if (request.signal.aborted) return false;
        const rows = this.pageRows(page, this.newerAt, null);
        if (ends && this.hasCore) this.coreTo ??= this.rows.all[this.rows.all.length - 1]?.at ?? null;
        // Ends that have less already have no more for it.
        if (ends || ((!this.hasCore || this.coreTo !== null) && covers(this.edges, filter))) this.edges = filter;
        this.rows.add(rows);
        this.newerAt = page.last_cursor ?? this.newerAt;
        if (!page.has_more || page.last_cursor === null) {
          this.coreTo = null;
          if (ends || !this.hasCore) {
            // From here on every line comes: that is the core now, and all before it an end.
            this.hasCore = true;
            this.coreFrom = this.placeOf(page.complete_to) ?? this.behindLast();
          }
          this.attach(page.complete_to);
        } else {
          this.trim();
          if (request.signal.aborted) return false;
          this.changed();
        }
        if (rows.length > 0) i++; // an empty page is only a part of a search
      }
      if (!this.attached) this.newer = "more";
      if (this.older !== "error") this.error = null;
    } catch (e) {
      if (request.signal.aborted) return false;
      this.newer = "error";
      this.error = e;
    }
    this.ended(request);
    this.trim();
    return this.attached;
  }

  private behindLast(): At | null {
    const last = this.rows.all[this.rows.all.length - 1];
    return last ? { ...last.at, n: behind } : null;
  }

  /** Reads what was not followed while the window was live already. */
  private async catchUp(): Promise<void> {
    if (this.seam === null || !this.attached || this.catching || this.joining()) return;
    this.flush();
    if (this.seam === null) return; // the newer end was let go
    // What waits while it is paused is thrown away if this fails: then it is asked for again.
    const [seam, held] = [this.placeOf(this.seam), this.placeOf(this.newest(false))];
    this.newerAt = this.arrivals.length > 0 && seam && held && compare(held, seam) < 0 ? cursorOf(held) : this.seam;
    this.attached = false;
    this.seam = null;
    this.hole = true;
    if (await this.readNewer(this.condition, mostCaughtUp)) return;
    if (this.closed || this.attached || this.catching || this.newerAt === null) return;
    if (this.newer === "more" && !this.paused && !this.lookingBack) await this.readEnd();
    else this.cutHole();
    this.changed();
  }

  /** Lets go what is held behind a hole that was not filled. */
  private cutHole(): void {
    if (!this.hole) return;
    this.hole = false;
    const at = this.placeOf(this.newerAt);
    if (at) this.rows.dropTail(this.rows.lowerBound({ ...at, n: at.n + 1 }));
    if (this.newer === "loading") this.newer = "more";
  }

  /** Loads the window anew around a place. */
  private async readAround(place: { cursor: string } | { time: Date }): Promise<boolean> {
    const request = this.begin();
    const wasOlder = this.older;
    this.stopOlder("loading");
    this.changed();
    const filter = this.filter;
    try {
      let before: Query;
      let after: Query;
      if ("cursor" in place) {
        const first = justBefore(place.cursor);
        if (first === null) throw new ApiError(400, `${place.cursor} is not the cursor of a line.`, null, null);
        before = { before: place.cursor };
        after = { after: first };
      } else {
        before = { end: place.time.toISOString() };
        after = { start: farStart };
      }
      const older = await this.search({ ...before, limit: this.sizes.page >> 1 }, filter, request.signal);
      // What is before a time says where what is after it begins.
      if (!("cursor" in place) && older.last_cursor !== null) after = { after: older.last_cursor };
      const newer = await this.search(after, filter, request.signal);
      if (request.signal.aborted) return false;
      this.rows.clear();
      const newerRows = this.pageRows(newer, null, null);
      const olderRows = this.pageRows(older, null, newer.first_cursor ?? newer.complete_to);
      this.rows.add(olderRows.concat(newerRows));
      this.olderAt = older.first_cursor ?? newer.first_cursor;
      this.older = older.has_more ? "more" : "end";
      this.newerAt = newer.last_cursor ?? older.last_cursor;
      this.newer = "more";
      this.resetCore();
      this.core = this.condition;
      const ends = !sameFilter(filter, this.core);
      if (ends) {
        this.edges = filter;
        this.hasCore = false;
      }
      this.attached = false;
      this.hole = false;
      if (!newer.has_more && !this.overflow) {
        if (ends) {
          this.hasCore = true;
          this.coreFrom = this.placeOf(newer.complete_to) ?? this.behindLast();
        }
        this.attach(newer.complete_to);
      }
      this.lookingBack = true;
      this.error = null;
    } catch (e) {
      if (request.signal.aborted) return false;
      if (wasOlder !== "end" || this.older !== "loading") this.older = "error";
      else this.older = "end"; // as it was: nothing was let go
      this.cutHole();
      this.error = e;
      this.ended(request);
      return false;
    }
    this.ended(request);
    return true;
  }

  /** A page that has lines, unless there are none: a search that took too long is gone on with. */
  private async search(query: Query, filter: LineFilter, signal: AbortSignal): Promise<LogPage> {
    let page = await this.read(query, filter, signal);
    while (page.has_more && page.logs.length === 0) {
      const { before: _, after: __, start: ___, end: ____, ...rest } = query;
      if (page.first_cursor !== null) page = await this.read({ ...rest, before: page.first_cursor }, filter, signal);
      else if (page.last_cursor !== null) page = await this.read({ ...rest, after: page.last_cursor }, filter, signal);
      else break;
    }
    return page;
  }

  private findCursor(cursor: string, nearest = false): number | null {
    const c = split(cursor);
    if (c === null) return null;
    if (!this.epochs.knows(c.epoch)) return null;
    const at = this.placeOf(cursor);
    if (at === null) return null;
    const i = this.rows.lowerBound(at);
    const row = this.rows.all[i];
    if (!nearest && (row === undefined || compare(row.at, at) !== 0)) return null;
    return this.shownFrom(row?.id);
  }

  /** The row of the first line that is not before a time, if that time is within the window. */
  private findTime(time: Date, nearest = false): number | null {
    const wanted = time.getTime();
    const all = this.rows.shown;
    const first = all.find((r) => r.kind === "line");
    if (!nearest && (first?.kind !== "line" || Date.parse(first.line.timestamp) > wanted)) return null;
    for (const r of all) if (r.kind === "line" && Date.parse(r.line.timestamp) >= wanted) return r.id;
    return nearest || this.attached ? this.shownFrom(undefined) : null;
  }

  /** The id of the first shown row that is not before that one, else of the last. */
  private shownFrom(id: number | undefined): number | null {
    const shown = this.rows.shown;
    const i = id === undefined ? shown.length : boundOf(shown, id);
    return (shown[i] ?? shown[shown.length - 1])?.id ?? null;
  }

  /** Fetches the lines of a gap, at most ten pages of them at a time; what is left is a smaller gap. */
  private async readGap(id: number): Promise<void> {
    const at = this.rows.indexOf(id);
    const row = this.rows.all[at];
    if (row?.kind !== "gap" || !row.fetchable || row.fetching) return;
    this.rows.replace(at, { ...row, fetching: true, error: null });
    this.changed();
    const end = this.placeOf(row.gap.to) ?? row.at;
    const inCore = // with any of its lines
      this.hasCore &&
      (this.coreFrom === null || compare(end, this.coreFrom) >= 0) &&
      (this.coreTo === null || compare(row.at, this.coreTo) <= 0);
    const filter = inCore ? this.core : this.filter;
    const to = split(row.gap.to);
    const gap = { ...row.gap };
    const path = row.device > 0 ? `/api/devices/${row.device}/logs` : this.path;
    const found: LogLine[] = [];
    let more = true;
    let failure: unknown = null;
    try {
      for (let pages = 0; more && pages < 10; pages++) {
        const query: Query = { ...(row.device > 0 ? {} : this.whose), after: gap.from, limit: this.sizes.page };
        if (to) query.before = `${to.epoch}-${to.seq + 1}`;
        for (const [name, value] of Object.entries(filterQuery(filter))) if (value !== "") query[name] = value;
        const page = await this.deps.read(path, query, this.fetches.signal);
        found.push(...page.logs);
        more = page.has_more && page.last_cursor !== null;
        if (more) gap.from = page.last_cursor as string;
      }
    } catch (e) {
      if (this.closed) return;
      failure = e;
    }
    const now = this.rows.indexOf(id);
    const held = this.rows.all[now];
    if (held?.kind !== "gap") return; // it was let go meanwhile
    if ((failure !== null && found.length === 0) || (!inCore && !covers(filter, this.filter))) {
      this.rows.replace(now, { ...held, fetching: false, error: failure });
    } else if (found.length === 0 && !more) {
      this.rows.replace(now, { ...held, fetching: false, fetchable: !isEmpty(filter) });
    } else {
      this.rows.remove(now);
      this.rows.add(this.rowsOf(found));
      if (more) {
        gap.count = gap.count === null || !isEmpty(filter) ? null : Math.max(0, gap.count - found.length);
        const rest = gapRow(gap, this.epochs);
        if (rest) this.rows.add([{ ...rest, error: failure }]);
      }
      this.trim();
    }
    this.changed();
  }

  // Telling.

  private take(): LogSnapshot {
    // Of a device among several that was taken away the page tells apart from this: the others are live.
    const alone = this.follows.every((f) => typeof f.state === "object");
    const refused = this.follows.find((f) => typeof f.state === "object" && (alone || !f.state.taken))?.state;
    return {
      version: ++this.version,
      rows: this.rows.shown,
      held: this.rows.all.length,
      older: this.stale && this.older === "more" ? "loading" : this.older,
      newer: this.stale && this.newer === "more" ? "loading" : this.newer,
      error: this.older === "error" || this.newer === "error" ? this.error : null,
      waiting: this.waiting,
      paused: this.paused,
      stream: typeof refused === "object" ? { refused: refused.refused } : this.joining() ? "joining" : "following",
      fault: this.fault,
    };
  }

  /** Something changed: it is told with the next frame. */
  private changed(): void {
    if (this.closed || this.undo.has("frame")) return;
    this.undo.set(
      "frame",
      this.deps.frame(() => {
        this.undo.delete("frame");
        this.flush();
        this.published = this.take();
        for (const w of [...this.watchers]) w();
      }),
    );
  }

  private later(name: string, ms: number, f: () => void): void {
    this.cancel(name);
    if (this.closed) return;
    this.undo.set(
      name,
      this.deps.after(ms, () => {
        this.undo.delete(name);
        if (!this.closed) f();
      }),
    );
  }

  private cancel(name: string): void {
    this.undo.get(name)?.();
    this.undo.delete(name);
  }
}

function messageOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
