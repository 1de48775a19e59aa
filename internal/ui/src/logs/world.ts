// A server for tests: a journal, its history, and a stream, each as slow and as unreliable as the test wants.

import { ApiError } from "../api/client";
import type { Gap, LogLine, LogPage } from "../api/types";
import type { Condition, StreamMessage, Target } from "../stream/types";
import { behind, split } from "./cursor";
import { compile } from "./filter";
import type { LogDeps, Sizes } from "./model";
import type { LineFilter } from "./types";

/** Numbers in [0, 1) that are the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export interface Stored {
  line: LogLine;
  epoch: number;
  seq: number;
  n: number;
  /** Its number among all lines. */
  order: number;
  deleted: boolean;
}

interface Pending {
  batches: Stored[][];
  skipped: { from: string; to: string; count: number; device: number } | null;
}

interface Follower {
  target: Target;
  condition: Condition;
  told: (m: StreamMessage) => void;
  /** Devices to the sequence up to which it was told; null: the server has not confirmed it. */
  at: number | null;
  pending: Pending[];
  closed: boolean;
}

interface Reading {
  path: string;
  query: Record<string, string | number>;
  signal: AbortSignal;
  answer: LogPage | null;
  resolve: (p: LogPage) => void;
  reject: (e: unknown) => void;
}

/** The parts move only when the test says so. */
export class World {
  readonly lines: Stored[] = [];
  readonly lost: (Gap & { device_id: number })[] = [];
  readonly epochs = ["first"];
  followers: Follower[] = [];
  readings: Reading[] = [];
  frames: (() => void)[] = [];
  timers: { f: () => void; ms: number }[] = [];
  seq = 0;
  /** The last line that anybody was told, by its order. */
  private delivered = 0;
  clock = Date.parse("2026-07-04T08:00:00Z");

  constructor(
    readonly models: Record<number, number> = {},
    /** How many lines a search looks at before it answers with what it has. */
    public patience = Number.POSITIVE_INFINITY,
  ) {}

  deps(sizes: Sizes): LogDeps {
    return {
      sizes,
      stream: {
        follow: (target, condition, told) => {
          const f: Follower = { target, condition, told, at: null, pending: [], closed: false };
          this.followers.push(f);
          return {
            close: () => {
              f.closed = true;
              this.followers = this.followers.filter((o) => o !== f);
            },
          };
        },
      },
      read: (path, query, signal) =>
        new Promise((resolve, reject) => {
          const r: Reading = { path, query, signal, answer: null, resolve, reject };
          signal.addEventListener("abort", () => {
            this.readings = this.readings.filter((o) => o !== r);
            reject(new DOMException("aborted", "AbortError"));
          });
          this.readings.push(r);
        }),
      frame: (f) => this.enter(this.frames, f),
      after: (ms, f) => {
        const t = { f, ms };
        this.timers.push(t);
        return () => {
          this.timers = this.timers.filter((o) => o !== t);
        };
      },
    };
  }

  private enter(list: (() => void)[], f: () => void): () => void {
    list.push(f);
    return () => {
      const i = list.indexOf(f);
      if (i >= 0) list.splice(i, 1);
    };
  }

  /** Stores a batch of one device, and has it come to those who follow it. */
  append(device: number, messages: readonly { message: string; level?: LogLine["level"]; tag?: string }[]): void {
    this.seq++;
    this.clock += 1000;
    const epoch = this.epochs.length - 1;
    const batch = messages.map((m, n): Stored => {
      const line: LogLine = {
        timestamp: new Date(this.clock).toISOString(),
        message: m.message,
        cursor: `${this.epochs[epoch]}-${this.seq}.${n}`,
        level: m.level ?? null,
        tag: m.tag ?? null,
        device_id: device,
        device_key: `k${device}`,
        device_entity_id: `e${device}`,
      };
      return { line, epoch, seq: this.seq, n, order: this.lines.length + n, deleted: false };
    });
    this.lines.push(...batch);
    for (const f of this.followers) {
      if (f.at === null || !this.belongs(device, f.target)) continue;
      f.pending.push({ batches: [batch], skipped: null });
    }
  }

  belongs(device: number, target: Target): boolean {
    if ("device" in target) return target.device === device;
    return "all" in target || this.models[device] === target.model;
  }

  /** Tells a follower that it follows, or whatever is next for it. */
  move(f: Follower): void {
    if (f.at === null) {
      f.at = this.seq;
      f.told({ kind: "following", devices: 1 });
      return;
    }
    const next = f.pending.shift();
    if (!next) return;
    this.delivered = Math.max(this.delivered, orderOf(next));
    if (next.skipped) {
      f.told({
        kind: "gap",
        gap: {
          device_id: next.skipped.device,
          from: next.skipped.from,
          to: next.skipped.to,
          count: next.skipped.count,
          reason: "rate",
        },
      });
      return;
    }
    const matches = "device" in f.target ? () => true : compile(asFilter(f.condition));
    for (const b of next.batches) {
      const lines = b.map((s) => s.line).filter(matches);
      if (lines.length > 0) f.told({ kind: "lines", lines });
    }
  }

  /** Leaves out of the stream what is next for a follower, and says so. */
  skip(f: Follower): void {
    const next = f.pending[0];
    const first = next?.batches[0]?.[0];
    if (!next || next.skipped || !first) return;
    const epoch = this.epochs[first.epoch];
    next.skipped = {
      from: `${epoch}-${first.seq - 1}`,
      to: `${epoch}-${first.seq}`,
      count: next.batches[0]?.length ?? 0,
      device: first.line.device_id,
    };
  }

  /** The stream has lost its place: what was on its way does not come. It is one stream, so all devices are cut at one place. */
  lose(random: () => number): void {
    const first = Math.min(...this.followers.flatMap((f) => (f.pending[0] ? [orderOf(f.pending[0])] : [])));
    const cut = Math.max(this.delivered, first + random() * (this.lines.length - first));
    for (const f of this.followers) {
      if (f.at === null) continue;
      while (f.pending[0] && orderOf(f.pending[0]) <= cut) this.move(f);
      f.at = null;
      f.pending = [];
      f.told({ kind: "lost" });
    }
  }

  /** Deletes the oldest lines of a device, up to about that share of them. */
  retain(device: number, share: number): void {
    const own = this.lines.filter((s) => s.line.device_id === device && s.epoch === 0);
    const upTo = own[Math.floor(own.length * share)]?.seq ?? 0;
    const gone = own.filter((s) => s.seq <= upTo && !s.deleted);
    const first = gone[0];
    if (!first) return;
    for (const s of gone) s.deleted = true;
    const epoch = this.epochs[0];
    this.lost.push({
      device_id: device,
      from: `${epoch}-${first.seq - 1}`,
      to: `${epoch}-${upTo}`,
      count: gone.length,
      reason: "retention",
    });
  }

  /** The server looks at a request; its answer is on its way. */
  serve(r: Reading): void {
    r.answer ??= this.page(r.path, r.query);
  }

  resolve(r: Reading): void {
    this.serve(r);
    this.readings = this.readings.filter((o) => o !== r);
    r.resolve(r.answer as LogPage);
  }

  fail(r: Reading): void {
    this.readings = this.readings.filter((o) => o !== r);
    r.reject(new ApiError(503, "Not now", "UNAVAILABLE", null));
  }

  private place(cursor: string, whole: number): [number, number, number] {
    const c = split(cursor);
    const epoch = c ? this.epochs.indexOf(c.epoch) : -1;
    if (!c || epoch < 0) throw new ApiError(400, "The cursor is not of this history", null, null);
    return [epoch, c.seq, c.n ?? whole];
  }

  private page(path: string, q: Record<string, string | number>): LogPage {
    const text = (name: string) => (q[name] === undefined ? null : String(q[name]));
    const one = /^\/api\/devices\/(\d+)\/logs$/.exec(path)?.[1];
    const ids = text("device_ids")?.split(",").map(Number) ?? null;
    const model = text("model_id");
    const whose = (d: number) =>
      one !== undefined
        ? d === Number(one)
        : ids
          ? ids.includes(d)
          : model === null || this.models[d] === Number(model);
    const regex = text("regex");
    const matches = compile({
      level: (text("level") ?? "") as LineFilter["level"],
      tag: text("tag") ?? "",
      text: regex ?? text("query") ?? "",
      regex: regex !== null,
    });
    const after = text("after") === null ? null : this.place(text("after") as string, behind);
    const before = text("before") === null ? null : this.place(text("before") as string, -1);
    const start = text("start") === null ? Number.NEGATIVE_INFINITY : Date.parse(text("start") as string);
    const end = text("end") === null ? Number.POSITIVE_INFINITY : Date.parse(text("end") as string);
    const backward = after === null && (before !== null || text("start") === null);
    const limit = Number(q.limit);
    const at = (s: Stored): [number, number, number] => [s.epoch, s.seq, s.n];
    const selected = this.lines.filter((s) => {
      if (s.deleted || !whose(s.line.device_id)) return false;
      const t = Date.parse(s.line.timestamp);
      if (t < start || t > end) return false;
      return (after === null || cmp(at(s), after) > 0) && (before === null || cmp(at(s), before) < 0);
    });
    if (backward) selected.reverse();
    const found: Stored[] = [];
    let more = false;
    let reached: Stored | null = null;
    let looked = 0;
    for (const s of selected) {
      if (found.length === limit || looked === this.patience) {
        more = true;
        break;
      }
      looked++;
      reached = s;
      if (matches(s.line)) found.push(s);
    }
    if (backward) found.reverse();
    const first = found[0] ?? (more && backward ? reached : null);
    const last = found[found.length - 1] ?? (more && !backward ? reached : null);
    // As the server, when the time is up it gives the place it came to only on an empty page.
    const low = backward ? (more ? (first ? at(first) : null) : after) : after;
    const high = backward ? before : more && last ? at(last) : before;
    const gaps = this.lost.filter((g) => {
      if (!whose(g.device_id)) return false;
      const from = this.place(g.from, behind);
      const to = this.place(g.to, behind);
      return (low === null || cmp(to, low) > 0) && (high === null || cmp(from, high) < 0);
    });
    const epoch = this.epochs[this.epochs.length - 1];
    return {
      logs: found.map((s) => s.line),
      has_more: more,
      window_start: null,
      window_end: null,
      first_cursor: first?.line.cursor ?? null,
      last_cursor: last?.line.cursor ?? null,
      complete_to: !backward && more && last ? last.line.cursor : `${epoch}-${this.seq}`,
      gaps,
    };
  }
}

function orderOf(p: Pending): number {
  return p.batches[0]?.[0]?.order ?? 0;
}

function cmp(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < 3; i++) if (a[i] !== b[i]) return (a[i] as number) - (b[i] as number);
  return 0;
}

function asFilter(c: Condition): LineFilter {
  const regex = c.regex !== "";
  return { level: c.level as LineFilter["level"], tag: c.tag, text: regex ? c.regex : c.query, regex };
}
