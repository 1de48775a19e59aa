/** Time, so that tests need not wait for it. */
export interface Clock {
  now(): number;
  /** Calls back after some milliseconds; the answer undoes that. */
  after(ms: number, f: () => void): () => void;
}

/** The browser's. */
export const clock: Clock = {
  now: () => performance.now(),
  after(ms, f) {
    const timer = setTimeout(f, ms);
    return () => clearTimeout(timer);
  },
};

/**
 * Makes of many calls few: the first is done at once, and those that come while it is being done, or too soon after it, are
 * done together, once. Never two at a time. What takes long is done more seldom: it rests for at least as long as it took, so that
 * a big fleet that changes all the time does not keep the server at nothing else.
 */
export class Coalesce {
  #wanted = false;
  #busy = false;
  #ended = false;
  #notBefore = Number.NEGATIVE_INFINITY;
  #undo: (() => void) | null = null;

  constructor(
    private readonly run: () => Promise<unknown>,
    /** The least time between two beginnings, milliseconds. */
    private readonly pause: number,
    private readonly time: Clock = clock,
  ) {}

  /** Asks for it. */
  ask(): void {
    this.#wanted = true;
    this.#go();
  }

  /** Nothing is begun from now on. */
  end(): void {
    this.#ended = true;
    this.#undo?.();
  }

  #go(): void {
    if (this.#ended || this.#busy || !this.#wanted || this.#undo !== null) return;
    const wait = this.#notBefore - this.time.now();
    if (wait > 0) {
      this.#undo = this.time.after(wait, () => {
        this.#undo = null;
        this.#go();
      });
      return;
    }
    this.#wanted = false;
    this.#busy = true;
    const start = this.time.now();
    this.run()
      .catch(() => {}) // who runs it shows its failures
      .finally(() => {
        const end = this.time.now();
        this.#busy = false;
        this.#notBefore = Math.max(start + this.pause, end + (end - start));
        this.#go();
      });
  }
}
