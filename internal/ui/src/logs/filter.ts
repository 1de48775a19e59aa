// Which lines a filter selects: what the server's matcher (internal/logs/match.go) does, for lines that are here already.

import { levels } from "../api/types";
import type { LineFilter } from "./types";

/** What is asked of a line. */
export interface Filtered {
  message: string;
  level?: string | null;
  tag?: string | null;
}

export type Matcher = (line: Filtered) => boolean;

/** The filter that lets everything through. */
export const noFilter: LineFilter = { level: "", tag: "", text: "", regex: false };

/** The server takes no longer text, in bytes. */
const maxText = 1024;

/** Whether the filter lets everything through. */
export function isEmpty(f: LineFilter): boolean {
  return f.level === "" && f.tag === "" && f.text === "";
}

export function sameFilter(a: LineFilter, b: LineFilter): boolean {
  return (
    a.level === b.level &&
    a.tag.toLowerCase() === b.tag.toLowerCase() &&
    a.text === b.text &&
    (a.text === "" || a.regex === b.regex)
  );
}

/** Whether everything that `narrow` lets through is surely let through by `wide`. */
export function covers(wide: LineFilter, narrow: LineFilter): boolean {
  const level =
    wide.level === "" || (narrow.level !== "" && levels.indexOf(narrow.level) <= levels.indexOf(wide.level));
  const tag = wide.tag === "" || wide.tag.toLowerCase() === narrow.tag.toLowerCase();
  const text = wide.text === "" || (wide.text === narrow.text && wide.regex === narrow.regex);
  return level && tag && text;
}

/** The filter as the parameters of a request and of a subscription. */
export function filterQuery(f: LineFilter): { level: string; tag: string; query: string; regex: string } {
  return { level: f.level, tag: f.tag, query: f.regex ? "" : f.text, regex: f.regex ? f.text : "" };
}

/** Makes a filter ready. Throws an Error whose message says what is wrong with the text. */
export function compile(f: LineFilter): Matcher {
  if (new TextEncoder().encode(f.text).length > maxText) throw new Error(`The text has at most ${maxText} bytes.`);
  const text = f.text === "" ? null : f.regex ? regexMatcher(f.text) : patternMatcher(f.text);
  const worst = f.level === "" ? null : levels.indexOf(f.level);
  const tag = f.tag.toLowerCase();
  return (line) => {
    // A line without a level, such as one of a backtrace, is never left out for its level.
    if (worst !== null && line.level && (levels as readonly string[]).indexOf(line.level) > worst) return false;
    if (tag !== "" && (line.tag ?? "").toLowerCase() !== tag) return false;
    return text === null || text(line.message);
  };
}

// Patterns.

/** A part of a pattern between its stars: its characters in lower case, null for any one. */
interface Segment {
  chars: (string | null)[];
  /** The same as text, if no character of it is any. */
  plain: string | null;
}

function patternMatcher(pattern: string): (message: string) => boolean {
  const segments: Segment[] = [];
  let chars: (string | null)[] = [];
  let openEnd = false;
  const flush = () => {
    if (chars.length > 0) segments.push({ chars, plain: chars.includes(null) ? null : chars.join("") });
    chars = [];
  };
  const all = [...pattern];
  for (let i = 0; i < all.length; i++) {
    let c = all[i] as string;
    openEnd = false;
    if (c === "*") {
      flush();
      openEnd = true;
    } else if (c === "?") {
      chars.push(null);
    } else {
      if (c === "\\" && i + 1 < all.length) c = all[++i] as string;
      chars.push(...lower(c));
    }
  }
  flush();
  const open = pattern.startsWith("*");
  return (message) => matchSegments(lower(message), segments, open, openEnd);
}

/**
 * The first segment is found as early as it can be and each other one as early as it can be after it; what comes later can
 * only lose room by another choice.
 */
function matchSegments(text: string, segments: readonly Segment[], open: boolean, openEnd: boolean): boolean {
  let at = 0;
  for (const [i, s] of segments.entries()) {
    const first = i === 0 && !open;
    const last = i === segments.length - 1 && !openEnd;
    for (;;) {
      const [start, end] = find(s, text, at);
      if (start < 0) return false;
      if ((!first || isBoundary(text, start)) && (!last || isBoundary(text, end))) {
        at = end;
        break;
      }
      at = start + width(text, start);
    }
  }
  return true;
}

function find(s: Segment, text: string, from: number): [start: number, end: number] {
  if (from > text.length) return [-1, -1];
  if (s.plain !== null) {
    const i = text.indexOf(s.plain, from);
    return [i, i + s.plain.length];
  }
  for (let start = from; start < text.length; start += width(text, start)) {
    let at = start;
    for (const c of s.chars) {
      if (at >= text.length || (c !== null && !text.startsWith(c, at))) {
        at = -1;
        break;
      }
      at += c === null ? width(text, at) : c.length;
    }
    if (at >= 0) return [start, at];
  }
  return [-1, -1];
}

/** Whether no word goes across that place: words are of letters, digits and _, and whatever is not ASCII is a letter. */
function isBoundary(text: string, at: number): boolean {
  return at === 0 || at === text.length || !isWord(text.charCodeAt(at - 1)) || !isWord(text.charCodeAt(at));
}

function isWord(c: number): boolean {
  return (c >= 97 && c <= 122) || (c >= 48 && c <= 57) || (c >= 65 && c <= 90) || c === 95 || c >= 0x80;
}

function width(text: string, at: number): number {
  return (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what ASCII is
const ascii = /^[\x00-\x7f]*$/;

/** Lower case as Go has it: each character by itself, by one other. String.toLowerCase knows Σ at the end of a word. */
function lower(text: string): string {
  if (ascii.test(text)) return text.toLowerCase();
  let out = "";
  for (const c of text) out += c === "İ" ? "i" : c.toLowerCase();
  return out;
}

// Regular expressions.

/**
 * The server's are RE2, the browser's are JavaScript's. What both have is written for JavaScript with RE2's meaning; what
 * only one has is refused, here as there. What remains different: in JavaScript `i` also makes ſ and K (the Kelvin sign) word
 * characters, and some Unicode classes are of a newer Unicode version.
 */
function regexMatcher(text: string): (message: string) => boolean {
  const { source, flags } = fromRE2(text);
  let re: RegExp;
  try {
    re = new RegExp(source, flags);
  } catch (e) {
    const why = e instanceof Error ? e.message.replace(/^Invalid regular expression: (\/.*\/\w*: )?/s, "") : String(e);
    throw new Error(`This is no regular expression: ${why}.`);
  }
  return (message) => re.test(message);
}

const posix: Record<string, string> = {
  alnum: "0-9A-Za-z",
  alpha: "A-Za-z",
  ascii: "\\x00-\\x7F",
  blank: "\\t ",
  cntrl: "\\x00-\\x1F\\x7F",
  digit: "0-9",
  graph: "!-~",
  lower: "a-z",
  print: " -~",
  punct: "!-\\/:-@\\[-`\\{-~",
  space: "\\t\\n\\v\\f\\r ",
  upper: "A-Z",
  word: "0-9A-Za-z_",
  xdigit: "0-9A-Fa-f",
};

/** Writes an expression of RE2 for `new RegExp`. Throws an Error for what JavaScript has and RE2 has not, or the reverse. */
export function fromRE2(text: string): { source: string; flags: string } {
  let flags = "u";
  let dotAll = false;
  let rest = text;
  const head = /^\(\?([ims]+)\)/.exec(rest);
  if (head) {
    rest = rest.slice(head[0].length);
    for (const f of new Set(head[1])) {
      if (f === "s") dotAll = true;
      else flags += f;
    }
  }
  let out = "";
  for (let i = 0; i < rest.length; ) {
    const c = rest[i] as string;
    if (c === "\\") {
      const e = unescaped(rest, i, false);
      out += e.out;
      i = e.end;
    } else if (c === "[") {
      const e = charClass(rest, i);
      out += e.out;
      i = e.end;
    } else if (c === ".") {
      out += dotAll ? "[^]" : "[^\\n]"; // JavaScript's excludes three more characters
      i++;
    } else if (c === "(") {
      const look = /^\(\?(=|!|<=|<!)/.exec(rest.slice(i));
      if (look) throw new Error("The server's regular expressions (RE2) have no look-ahead or look-behind.");
      const name = /^\(\?P?<(\w+)>/.exec(rest.slice(i));
      if (name) {
        out += `(?<${name[1]}>`;
        i += name[0].length;
      } else if (/^\(\?(?!:)/.test(rest.slice(i))) {
        throw new Error("Flags can only stand at the beginning here: (?i), (?m), (?s).");
      } else {
        out += c;
        i++;
      }
    } else if (c === "{") {
      const times = /^\{(\d+)(,(\d*))?\}/.exec(rest.slice(i));
      if (times && Math.max(Number(times[1]), Number(times[3] ?? 0)) > 1000) {
        throw new Error("The server repeats at most 1000 times.");
      }
      out += times ? times[0] : "\\{"; // RE2 takes any other brace as it is
      i += times ? times[0].length : 1;
    } else {
      out += c === "}" || c === "]" ? `\\${c}` : c;
      i++;
    }
  }
  return { source: out, flags };
}

/** What an escape at `at` is in JavaScript, and where it ends. */
function unescaped(text: string, at: number, inClass: boolean): { out: string; end: number } {
  const c = text[at + 1];
  const end = at + 2;
  if (c === undefined) throw new Error("A \\ at the end stands for nothing.");
  switch (c) {
    case "s":
      return { out: inClass ? "\\t\\n\\f\\r " : "[\\t\\n\\f\\r ]", end };
    case "S":
      if (inClass) throw new Error("Write [^\\t\\n\\f\\r ] for \\S within brackets.");
      return { out: "[^\\t\\n\\f\\r ]", end };
    case "A":
      return { out: "(?<![^])", end };
    case "z":
      return { out: "(?![^])", end };
    case "a":
      return { out: "\\x07", end };
    case "Q": {
      const stop = text.indexOf("\\E", end);
      const literal = text.slice(end, stop < 0 ? text.length : stop);
      return { out: literal.replace(/[$()*+./?[\\\]^{|}-]/g, quoted), end: stop < 0 ? text.length : stop + 2 };
    }
    case "x": {
      const hex = /^(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})/.exec(text.slice(end));
      if (!hex) throw new Error("\\x is followed by two hexadecimal digits, or by some in braces.");
      return { out: `\\u{${hex[1] ?? hex[2]}}`, end: end + hex[0].length };
    }
    case "p":
    case "P": {
      const name = /^(?:(\w)|\{(\^?)(\w+)\})/.exec(text.slice(end));
      if (!name) throw new Error("\\p is followed by the name of a class of characters.");
      const negated = (c === "P") !== (name[2] === "^") ? "P" : "p";
      const what = name[1] ?? name[3] ?? "";
      const script = /^([A-Z][a-z]?|Any)$/.test(what) ? what : `Script=${what}`;
      return { out: `\\${negated}{${script}}`, end: end + name[0].length };
    }
  }
  if (/[1-9]/.test(c)) throw new Error("The server's regular expressions (RE2) have no back-references.");
  if (c === "0") {
    const octal = /^[0-7]{1,3}/.exec(text.slice(at + 1)) as RegExpExecArray;
    return { out: `\\u{${Number.parseInt(octal[0], 8).toString(16)}}`, end: at + 1 + octal[0].length };
  }
  if (/[dDwWbBtnrfv]/.test(c)) {
    if (inClass && /[bB]/.test(c)) throw new Error(`\\${c} stands for nothing within brackets.`);
    return { out: `\\${c}`, end };
  }
  if (/[A-Za-z]/.test(c)) throw new Error(`\\${c} stands for nothing.`);
  return { out: quoted(c), end };
}

function quoted(c: string): string {
  return /[$()*+./?[\\\]^{|}]/.test(c) ? `\\${c}` : `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`;
}

/** What the class at `at` is in JavaScript, and where it ends. */
function charClass(text: string, at: number): { out: string; end: number } {
  let i = at + 1;
  let out = "[";
  if (text[i] === "^") {
    out += "^";
    i++;
  }
  for (let first = true; ; first = false) {
    const c = text[i];
    if (c === undefined) throw new Error("A [ is not closed.");
    if (c === "]" && !first) return { out: `${out}]`, end: i + 1 };
    const named = /^\[:(\^?)(\w+):\]/.exec(text.slice(i));
    if (named) {
      const set = posix[named[2] as string];
      if (set === undefined) throw new Error(`There is no class of characters [:${named[2]}:].`);
      if (named[1]) throw new Error("Write [^…] for a negated class of characters.");
      out += set;
      i += named[0].length;
    } else if (c === "\\") {
      const e = unescaped(text, i, true);
      out += e.out;
      i = e.end;
    } else {
      out += c === "[" || c === "]" ? `\\${c}` : c;
      i++;
    }
  }
}
