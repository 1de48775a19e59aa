// A line as it is shown and as it is copied.

import type { LogLine } from "../api/types";

/** Characters of a message that a row shows unless it is asked for all. */
export const cut = 2000;

// What a device's logging library puts before a message, as the server reads it (internal/logs/parse.go): level and tag are
// columns here, and the uptime is one of the times.
const prefixes = [
  /^\s*[EWIDV] \([^)]{1,26}\) [^:]{1,64}:[ ]?/,
  /^\s*(?:\[ *\d+\])?\[[EWIDV]\]\[[^\]:]{1,64}:\d+\] /,
  /^\s*\[[\d:.,]+\] <(?:err|wrn|inf|dbg)> [^:]{1,64}: /,
];

/** How many of a message's first characters are its level, uptime and tag, which are shown beside it. */
export function prefixLength(line: LogLine): number {
  if (!line.tag || !line.level) return 0;
  for (const p of prefixes) {
    const found = p.exec(line.message);
    if (found && found[0].length < line.message.length) return found[0].length;
  }
  return 0;
}

/** How many characters a row shows of a line: about what its height comes from. */
export function shownLength(line: LogLine, whole: boolean): number {
  const length = line.message.length - prefixLength(line);
  return whole || length <= cut ? length : cut + 20;
}

/**
 * Makes visible what would show nothing or would change the text around it: control characters as their symbols, and the
 * characters that turn the direction of text as their names. The length stays the same, so that places in the text do too.
 */
export function visible(text: string): string {
  return hidden.test(text) ? text.replace(hiddenAll, symbol) : text;
}

// Control characters but the tab, what is invisible or turns directions, and halves of pairs. Joiners stay: they make one
// sign of several emoji, and are at home in some scripts.
const hidden = /(?!\t)\p{Cc}|[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|\p{Cs}/u;
const hiddenAll = new RegExp(hidden, "gu");

function symbol(c: string): string {
  const code = c.charCodeAt(0);
  if (code === 10) return "↵";
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "␡";
  if (code >= 0xd800 && code <= 0xdfff) return "\ufffd";
  return "·";
}

/** A number of bytes in words. */
export function bytes(n: number): string {
  if (n < 1000) return `${n} B`;
  if (n < 1_000_000) return `${Math.round(n / 1000)} KB`;
  return `${(n / 1_000_000).toFixed(1)} MB`;
}

/** A number as it is read: in groups of three. */
export function count(n: number): string {
  return String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A number with its noun. */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** Lines for the clipboard: the time of receipt, the device where there are several, and the message as it was sent. */
export function copied(lines: readonly LogLine[], time: (iso: string) => string, several: boolean): string {
  return lines
    .map((l) => `${time(l.timestamp)}  ${several ? `${l.device_entity_id ?? l.device_key}  ` : ""}${l.message}\n`)
    .join("");
}

const reasons: Record<string, string> = {
  rate: "left out because they came faster than a stream may carry",
  retention: "deleted by retention: they were older, or more, than is kept",
  "journal-limit": "lost because the journal was full before they were stored",
  "journal-reset": "not here: the server's journal was replaced",
  reset: "not here: the server's journal was replaced",
  damaged: "lost because their part of the store is damaged",
  rejected: "left out because the server refused to send them",
};

/** A gap in plain words. */
export function gapText(n: number | null, reason: string): string {
  const why = reasons[reason] ?? `missing (${reason})`;
  return n === null ? `Some lines ${why}` : `${plural(n, "line")} ${why}`;
}
