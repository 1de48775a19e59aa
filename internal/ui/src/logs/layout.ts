// Where each row of a log is, in pixels. The rows change at their ends only: some are added below, older ones above, and the
// oldest go when too many are held. So nothing here costs more for a change than what was added or taken away, and
// a question costs the square root of what is held.

/** What a layout must know of a row. */
export interface Laid {
  readonly id: number;
}

/** What the owner of a layout says about rows. */
export interface Measure<R extends Laid> {
  /** Pixels; 0 is a row that is folded away. Rows before it, and those added with it, are in the layout already. */
  height(row: R): number;
  /** Bits for the scroll bar. Asked in order of the rows; of the last ones again when others come between them. */
  marks(row: R): number;
  /** Everything is asked again. */
  began(): void;
}

const chunk = 256; // rows that have their heights summed
const longestTail = 5000; // last rows that may change without everything being asked again

/** Heights and marks of rows, whose ids ascend. */
export class Layout<R extends Laid> {
  private ids = new Float64Array(4 * chunk);
  private heights = new Float64Array(4 * chunk);
  private bits = new Uint8Array(4 * chunk);
  private sums = new Float64Array(4);
  private begin = 2 * chunk;
  private end = 2 * chunk;

  constructor(private readonly measure: Measure<R>) {}

  get length(): number {
    return this.end - this.begin;
  }

  /** The height of all rows. */
  get total(): number {
    let sum = 0;
    const last = Math.ceil(this.end / chunk);
    for (let c = Math.floor(this.begin / chunk); c < last; c++) sum += this.sums[c] ?? 0;
    return sum;
  }

  id(index: number): number {
    return this.ids[this.begin + index] ?? Number.NaN;
  }

  height(index: number): number {
    return this.heights[this.begin + index] ?? 0;
  }

  marks(index: number): number {
    return this.bits[this.begin + index] ?? 0;
  }

  /** The pixels before a row. */
  offset(index: number): number {
    const slot = this.begin + index;
    const c = Math.floor(slot / chunk);
    let sum = 0;
    for (let i = Math.floor(this.begin / chunk); i < c; i++) sum += this.sums[i] ?? 0;
    for (let i = c * chunk; i < slot; i++) sum += this.heights[i] ?? 0;
    return sum;
  }

  /** The row that is drawn at y: the last one above the end, the first one above the beginning. */
  at(y: number): number {
    if (this.length === 0) return 0;
    const chunks = Math.ceil(this.end / chunk);
    let c = Math.floor(this.begin / chunk);
    let top = 0;
    while (c < chunks - 1 && top + (this.sums[c] ?? 0) <= y) top += this.sums[c++] ?? 0;
    let slot = Math.max(c * chunk, this.begin);
    while (slot < this.end - 1 && top + (this.heights[slot] ?? 0) <= y) top += this.heights[slot++] ?? 0;
    return slot - this.begin;
  }

  /** The first row whose id is not below; the length when there is none. */
  lowerBound(id: number): number {
    let low = this.begin;
    let high = this.end;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.ids[middle] ?? 0) < id) low = middle + 1;
      else high = middle;
    }
    return low - this.begin;
  }

  /** The place of a row; -1 when it is not held. */
  indexOf(id: number): number {
    const index = this.lowerBound(id);
    return index < this.length && this.id(index) === id ? index : -1;
  }

  setHeight(index: number, height: number): void {
    const slot = this.begin + index;
    const c = Math.floor(slot / chunk);
    this.sums[c] = (this.sums[c] ?? 0) + height - (this.heights[slot] ?? 0);
    this.heights[slot] = height;
  }

  /**
   * Takes over what changed at the ends of the rows, where lines of several devices may also come between the last ones.
   * `anew` asks about every row again, and so does a change further from the ends.
   */
  sync(rows: readonly R[], anew = false): void {
    const first = rows[0];
    const gone = first === undefined ? this.length : this.lowerBound(first.id); // rows at the top that are not held any more
    const above = bound(rows, this.id(gone)); // rows that are new there
    let same = anew ? 0 : this.length - gone;
    const least = Math.max(0, same - longestTail);
    while (same > least && rows[above + same - 1]?.id !== this.id(gone + same - 1)) same--;
    if (same === least) {
      this.rebuild(rows);
      return;
    }
    for (let i = 0; i < gone; i++) this.setHeight(i, 0);
    for (let i = gone + same; i < this.length; i++) this.setHeight(i, 0);
    this.begin += gone;
    this.end = this.begin + same;
    const below = rows.length - above - same;
    this.reserve(above, below);
    this.begin -= above;
    this.end += below;
    this.fill(rows, 0, above);
    this.fill(rows, above + same, rows.length);
  }

  private rebuild(rows: readonly R[]): void {
    this.measure.began();
    this.heights.fill(0);
    this.sums.fill(0);
    this.begin = this.end = this.ids.length >> 1;
    this.reserve(0, rows.length);
    this.end += rows.length;
    this.fill(rows, 0, rows.length);
  }

  private fill(rows: readonly R[], from: number, to: number): void {
    for (let i = from; i < to; i++) this.ids[this.begin + i] = rows[i]?.id ?? 0;
    for (let i = from; i < to; i++) {
      const row = rows[i] as R;
      this.bits[this.begin + i] = this.measure.marks(row);
    }
    for (let i = from; i < to; i++) this.setHeight(i, this.measure.height(rows[i] as R));
  }

  /** Makes room at both ends. It moves everything, but only after as much was added as is held. */
  private reserve(above: number, below: number): void {
    if (this.begin >= above && this.end + below <= this.ids.length) return;
    const length = this.length;
    const capacity = Math.ceil((2 * (length + above + below)) / chunk + 4) * chunk;
    const begin = Math.floor((capacity - length - above - below) / 2) + above;
    const ids = new Float64Array(capacity);
    const heights = new Float64Array(capacity);
    const bits = new Uint8Array(capacity);
    ids.set(this.ids.subarray(this.begin, this.end), begin);
    heights.set(this.heights.subarray(this.begin, this.end), begin);
    bits.set(this.bits.subarray(this.begin, this.end), begin);
    this.ids = ids;
    this.heights = heights;
    this.bits = bits;
    this.begin = begin;
    this.end = begin + length;
    this.sums = new Float64Array(capacity / chunk);
    for (let slot = begin; slot < this.end; slot++) {
      const c = Math.floor(slot / chunk);
      this.sums[c] = (this.sums[c] ?? 0) + (heights[slot] ?? 0);
    }
  }
}

/** The first row whose id is not below. */
function bound(rows: readonly Laid[], id: number): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((rows[middle]?.id ?? 0) < id) low = middle + 1;
    else high = middle;
  }
  return low;
}
