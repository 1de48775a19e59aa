// What is wrong with the server, read from its figures, and what to do about it.

import { words } from "./format";
import { extent, type History, newest, now, times } from "./series";

/** Something that somebody should look at. */
export interface Trouble {
  /** The series that shows it. */
  series: string;
  severity: "error" | "warn";
  /** What is wrong. */
  text: string;
  /** What to do. */
  advice: string;
}

const quarter = 900;

/** All that is wrong now, the worst first. */
export function troubles(h: History): Trouble[] {
  const found: Trouble[] = [];
  const lately = (name: string) => newest(h, name, quarter).points;
  const happened = (name: string) => times(lately(name), h.step);
  const add = (severity: Trouble["severity"], series: string, text: string, advice: string) =>
    found.push({ severity, series, text, advice });

  const journal = now(lately("journal_bytes"));
  const limit = now(lately("journal_limit"));
  if (journal !== null && limit !== null && limit > 0 && journal > 0.8 * limit) {
    add(
      "error",
      "journal_bytes",
      `The journal holds ${words("bytes", journal)} of at most ${words("bytes", limit)}; beyond that, lines are lost that nobody has kept yet.`,
      "See why the history or Elasticsearch does not take them: the server's log says so. Until that is mended, raise JOURNAL_DISK_BYTES if the disk has room.",
    );
  }
  const history = lately("history_lag");
  if (grows(history, h.step, quarter)) {
    add(
      "error",
      "history_lag",
      `The history is ${words("seconds", now(history))} behind, and falls further behind. Nothing is lost yet: the journal keeps the lines.`,
      "Look for “history” in the server's log: its database is down, the disk is full, or the machine is too slow.",
    );
  }
  const lag = lately("journal_lag");
  if (grows(lag, h.step, 1000)) {
    add(
      "error",
      "journal_lag",
      `Streams are ${words("count", now(lag))} batches behind the journal, and fall further behind.`,
      "The machine has not enough processor time for what devices say. Readers get every line, only later.",
    );
  }
  const slow = now(lately("latency_p99"));
  if (slow !== null && slow > 5) {
    add(
      "warn",
      "latency_p99",
      `One line in a hundred takes more than ${words("seconds", slow)} to reach its readers.`,
      "Either the machine is busy, or the network of a reader is slow: compare with the processor's load.",
    );
  }
  const dropped = happened("dropped");
  if (dropped > 0) {
    add(
      "warn",
      "dropped",
      `${plural(dropped, "stream was", "streams were")} closed in the last quarter of an hour because the reader took nothing for too long.`,
      "The reader comes back by itself and goes on where it was. If it goes on, its network is too slow for what it follows: follow fewer devices, or filter.",
    );
  }
  const gaps = happened("gaps");
  if (gaps > 0) {
    add(
      "warn",
      "gaps",
      `${plural(gaps, "gap was", "gaps were")} told to readers in the last quarter of an hour.`,
      "The log shows where and why, and can fetch what was only left out. Filter, or raise STREAM_MAX_RATE, if the reason is the rate; keep more (JOURNAL_MAX_BYTES, HISTORY_MAX_BYTES) if lines were deleted.",
    );
  }
  const irregular = happened("irregular");
  if (irregular > 0) {
    add(
      "warn",
      "irregular",
      `${plural(irregular, "line was", "lines were")} dropped, repaired or cut in the last quarter of an hour, or came from a device that is not known.`,
      "iot_logsink_lines_irregular_total at /metrics counts them by reason; the server's log has examples.",
    );
  }
  const cut = now(lately("quota_cut"));
  if (cut !== null && cut > 0) {
    add(
      "warn",
      "quota_cut",
      `${plural(Math.round(cut), "device sends", "devices send")} more than allowed, and what is over is dropped.`,
      "Search the logs for the tag “signalbox” to see which. Mend its firmware, or raise its limit in DEVICE_LOG_QUOTAS.",
    );
  }
  return found.sort((a, b) => Number(a.severity === "warn") - Number(b.severity === "warn"));
}

/**
 * Whether something is above a threshold and has risen through the last ten minutes: each third of them above the one
 * before. A lag that goes up and down is how the history works.
 */
function grows(points: readonly (number | null)[], step: number, threshold: number): boolean {
  const value = now(points);
  if (value === null || value <= threshold) return false;
  const third = Math.max(1, Math.floor(200 / step));
  const least = [3, 2, 1].map((k) => extent(points.slice(points.length - k * third, points.length - (k - 1) * third)));
  const [a, b, c] = least;
  if (!a || !b || !c || points.length < 3 * third) return false;
  return a.min < b.min && b.min < c.min && a.max < b.max && b.max < c.max;
}

function plural(n: number, one: string, more: string): string {
  return `${n} ${n === 1 ? one : more}`;
}
