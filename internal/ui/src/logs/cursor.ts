// Places in the journal, and their order.

/** One incarnation of the journal. Ranks order them in time; they may be numbered anew when an older one becomes known. */
export interface Epoch {
  readonly name: string;
  rank: number;
}

/** A line's place: batch `seq` of the epoch, line `n` of it. */
export interface At {
  readonly epoch: Epoch;
  readonly seq: number;
  readonly n: number;
}

/** The `n` of a place behind every line of its batch. */
export const behind = Number.MAX_SAFE_INTEGER;

/** Orders places in time. */
export function compare(a: At, b: At): number {
  return a.epoch.rank - b.epoch.rank || a.seq - b.seq || a.n - b.n;
}

/** The parts of a cursor; `n` is null when it names a whole batch, and the answer is null if it is no cursor. */
export function split(cursor: string): { epoch: string; seq: number; n: number | null } | null {
  const m = /^([a-z0-9]+)-(\d+)(?:\.(\d+))?$/.exec(cursor);
  return m ? { epoch: m[1] as string, seq: Number(m[2]), n: m[3] === undefined ? null : Number(m[3]) } : null;
}

/** The cursor of a place. */
export function cursorOf(at: At): string {
  return at.n === behind ? `${at.epoch.name}-${at.seq}` : `${at.epoch.name}-${at.seq}.${at.n}`;
}

/** A cursor such that what comes before it ends with the line before that place. */
export function endBefore(at: At): string {
  if (at.n < 0) return `${at.epoch.name}-${at.seq}`; // before its batch
  return at.n === behind ? `${at.epoch.name}-${at.seq + 1}` : cursorOf(at);
}

/** A cursor such that what comes after it begins with the line of that one; null if it is no cursor. */
export function justBefore(cursor: string): string | null {
  const c = split(cursor);
  if (c === null) return null;
  return c.n !== null && c.n > 0 ? `${c.epoch}-${c.seq}.${c.n - 1}` : `${c.epoch}-${Math.max(0, c.seq - 1)}`;
}

/**
 * The epochs that one log has met. A cursor does not say which of two epochs is older: that follows from where their lines
 * stood, in a page of the history or at its end.
 */
export class Epochs {
  private list: Epoch[] = [];

  /** The epoch of that name; one that is new becomes the newest, since only a live line can be the first of an epoch. */
  live(name: string): Epoch {
    return this.find(name) ?? this.insert(name, this.list.length);
  }

  /**
   * Takes over the order of some epochs that follow each other in the history, oldest first, and which one the journal has
   * now, if known. Those that have no known one beside them are older than the newest.
   */
  page(names: readonly string[], present: string | null): void {
    if (present !== null) this.live(present);
    const known = names.findLastIndex((n) => this.knows(n));
    let rank = known < 0 ? Math.max(0, this.list.length - 1) : this.live(names[known] as string).rank;
    for (let i = (known < 0 ? names.length : known) - 1; i >= 0; i--) {
      rank = (this.find(names[i] as string) ?? this.insert(names[i] as string, rank)).rank;
    }
    if (known < 0) return;
    rank = this.live(names[known] as string).rank;
    for (const name of names.slice(known + 1)) this.insert(name, ++rank);
  }

  knows(name: string): boolean {
    return this.find(name) !== undefined;
  }

  /** The place of a cursor; a whole batch is the place behind its lines. Null if it is no cursor. */
  at(cursor: string): At | null {
    const c = split(cursor);
    return c && { epoch: this.live(c.epoch), seq: c.seq, n: c.n ?? behind };
  }

  private find(name: string): Epoch | undefined {
    const last = this.list[this.list.length - 1];
    return last?.name === name ? last : this.list.find((e) => e.name === name);
  }

  private insert(name: string, rank: number): Epoch {
    const e = { name, rank };
    this.list.splice(rank, 0, e);
    for (let i = rank; i < this.list.length; i++) (this.list[i] as Epoch).rank = i;
    return e;
  }
}
