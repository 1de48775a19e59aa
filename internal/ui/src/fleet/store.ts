// What the devices are doing, kept outside React: a row is drawn again when its own device did something, and only then.

import { request } from "../api/client";
import type { Fleet, FleetSeries } from "../api/types";
import { Poll, Watchers } from "../parts/poll";
import { merge, type Seen } from "./rows";

/** How the asking goes, for the page to say. */
export interface FleetStatus {
  /** Whether there was an answer at all. */
  known: boolean;
  /** Whether the numbers count the whole hour. */
  filled: boolean;
  /** Why the last request failed; null when it did not. */
  error: unknown;
  /** When the next one is due, Date.now(). */
  retryAt: number;
}

/** Asks for what changed every two seconds. */
export class FleetStore {
  /** By device id. Not to be changed from outside. */
  readonly seen = new Map<number, Seen>();
  #status: FleetStatus = { known: false, filled: true, error: null, retryAt: 0 };
  /** The server's clock less ours, milliseconds. */
  #skew = 0;
  #token: string | null = null;
  readonly #poll = new Poll<Fleet>({
    interval: 2_000,
    longest: 30_000,
    ask: (signal) => request("/api/fleet", { query: { since: this.#token }, signal }),
    came: (answer, next) => {
      this.#token = answer.token;
      this.#skew = Date.parse(answer.now) - Date.now();
      this.#tell({ known: true, filled: answer.filled, error: null, retryAt: next }, merge(this.seen, answer));
    },
    failed: (error, next) => this.#tell({ ...this.#status, error, retryAt: next }, new Set()),
  });
  readonly #ofDevice = new Watchers();
  readonly #ofAll = new Set<(ids: ReadonlySet<number>) => void>();

  /** Begins to ask; the answer ends it. */
  start(): () => void {
    return this.#poll.start();
  }

  /** The server's time, milliseconds. */
  readonly now = (): number => Date.now() + this.#skew;

  readonly status = (): FleetStatus => this.#status;

  /** Asks at once. */
  retry(): void {
    this.#poll.retry();
  }

  /** Calls back after every answer or failure with the ids of the devices that changed; the answer ends that. */
  readonly watch = (changed: (ids: ReadonlySet<number>) => void): (() => void) => {
    this.#ofAll.add(changed);
    return () => this.#ofAll.delete(changed);
  };

  /** Calls back when the device did something. */
  watchDevice(id: number, changed: () => void): () => void {
    return this.#ofDevice.watch(id, changed);
  }

  #tell(status: FleetStatus, changed: ReadonlySet<number>): void {
    const as =
      status.error === null &&
      this.#status.error === null &&
      this.#status.known &&
      status.filled === this.#status.filled;
    if (!as) this.#status = status; // else the same object: nobody is drawn again for a success after a success
    this.#ofDevice.tell(changed);
    for (const l of this.#ofAll) l(changed);
  }
}

/** Lines and errors of the last minutes, one number each, the oldest first. */
export interface Series {
  lines: readonly number[];
  errors: readonly number[];
}

const most = 200;
const age = 60_000;

/** The sparklines' numbers, asked for the devices that are seen, together, and again each minute. */
export class SeriesStore {
  readonly #known = new Map<number, { at: number; series: Series }>();
  readonly #asked = new Set<number>();
  readonly #wanted = new Watchers();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Since when rows that have no numbers wait for them. */
  #waiting: number | null = null;

  get(id: number): Series | null {
    return this.#known.get(id)?.series ?? null;
  }

  /** Keeps the numbers of the device fresh and calls back when they come; the answer ends that. */
  watch(id: number, changed: () => void): () => void {
    const unwatch = this.#wanted.watch(id, changed);
    if (this.#stale(id)) this.#soon();
    return unwatch;
  }

  #stale(id: number): boolean {
    return !this.#asked.has(id) && Date.now() - (this.#known.get(id)?.at ?? 0) >= age;
  }

  /** Asks when the scrolling rests, so that what only passes by is not asked for; but not later than in half a second. */
  #soon(): void {
    const now = Date.now();
    this.#waiting ??= now;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#ask(), Math.max(0, Math.min(150, this.#waiting + 500 - now)));
  }

  async #ask(): Promise<void> {
    this.#waiting = null;
    const ids = [...this.#wanted.ids()].filter((id) => this.#stale(id)).slice(0, most);
    if (ids.length > 0 && document.visibilityState === "visible") {
      for (const id of ids) this.#asked.add(id);
      try {
        const query = { device_ids: ids.join(",") };
        const { series } = await request<FleetSeries>("/api/fleet/series", { query });
        const at = Date.now();
        for (const s of series) {
          this.#known.set(s.device_id, { at, series: s });
          this.#wanted.tell([s.device_id]);
        }
      } catch {
        // The page says already, by the other request, that the server does not answer; the old numbers stay.
      } finally {
        for (const id of ids) this.#asked.delete(id);
      }
    }
    if (this.#waiting !== null || this.#wanted.size === 0) return;
    if (ids.length === most) this.#soon();
    else this.#timer = setTimeout(() => void this.#ask(), age / 4);
  }
}

/** The page's own: they outlive it, so that coming back to it shows at once what was known. */
export const fleetStore = new FleetStore();
export const seriesStore = new SeriesStore();
