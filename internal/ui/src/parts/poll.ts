/** What a Poll asks, and whom it tells. */
export interface PollOptions<T> {
  /** Milliseconds between requests. */
  interval: number;
  /** And at the most, after failures, each of which doubles it. */
  longest: number;
  ask: (signal: AbortSignal) => Promise<T>;
  /** Is told besides when the next request is due, Date.now(). What it throws is a failure as well. */
  came: (answer: T, next: number) => void;
  failed: (error: unknown, next: number) => void;
}

/** Asks the server again and again while the tab is seen, less often while it does not answer. */
export class Poll<T> {
  readonly #how: PollOptions<T>;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running: AbortController | null = null;

  constructor(how: PollOptions<T>) {
    this.#how = how;
  }

  /** Begins to ask; the answer ends it. */
  start(): () => void {
    const seen = () => {
      if (document.visibilityState === "visible") this.retry();
      else this.#pause();
    };
    document.addEventListener("visibilitychange", seen);
    seen();
    return () => {
      document.removeEventListener("visibilitychange", seen);
      this.#pause();
    };
  }

  /** Asks at once. */
  retry(): void {
    this.#pause();
    void this.#ask();
  }

  #pause(): void {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
  }

  async #ask(): Promise<void> {
    const abort = new AbortController();
    this.#running = abort;
    const { ask, came, failed } = this.#how;
    try {
      const answer = await ask(abort.signal);
      if (abort.signal.aborted) return;
      this.#failures = 0;
      came(answer, this.#again());
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#failures++;
      failed(error, this.#again());
    }
  }

  #again(): number {
    const wait = Math.min(this.#how.interval * 2 ** this.#failures, this.#how.longest);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#ask(), wait);
    return Date.now() + wait;
  }
}

/** Who wants to know of which device. */
export class Watchers {
  readonly #of = new Map<number, Set<() => void>>();

  /** Calls back when the device is told of; the answer ends that. */
  watch(id: number, changed: () => void): () => void {
    const set = this.#of.get(id) ?? new Set();
    this.#of.set(id, set.add(changed));
    return () => {
      set.delete(changed);
      if (set.size === 0 && this.#of.get(id) === set) this.#of.delete(id);
    };
  }

  /** The devices that somebody wants to know of. */
  ids(): Iterable<number> {
    return this.#of.keys();
  }

  get size(): number {
    return this.#of.size;
  }

  tell(ids: Iterable<number>): void {
    for (const id of ids) for (const l of this.#of.get(id) ?? []) l();
  }
}
