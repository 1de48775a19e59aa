/**
 * Which element each drawn row is drawn in, by the row's id. A row that stays keeps its element, and a new one takes that of a
 * row that went: to change the text of an element costs a fraction of making one, and a fast log has a whole window of new
 * rows in each frame.
 */
export class Slots {
  private of = new Map<number, number>();
  private made = 0;

  /** The element of each of the rows, as a number to be the key of. */
  assign(ids: readonly number[]): ReadonlyMap<number, number> {
    const after = new Map<number, number>();
    const stay = new Set(ids);
    const free: number[] = [];
    for (const [id, slot] of this.of) {
      if (stay.has(id)) after.set(id, slot);
      else free.push(slot);
    }
    let next = 0;
    for (const id of ids) {
      if (!after.has(id)) after.set(id, free[next++] ?? this.made++);
    }
    this.of = after;
    return after;
  }
}
