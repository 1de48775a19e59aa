// Where a filter's text is in a line. The server and the model decide which lines match; this is only for the eye.

/** Finds what to highlight. */
export interface Highlighter {
  /** Places in the text, as pairs of where one begins and ends, ascending and apart. */
  ranges(text: string): readonly (readonly [from: number, to: number])[];
}

const most = 100; // places in one line

/** Makes a filter's text ready; null when there is nothing to find, or when it is no regular expression. */
export function highlighter(text: string, regex: boolean): Highlighter | null {
  const find = regex ? expression(text) : pattern(text);
  if (find === null) return null;
  return {
    ranges(line) {
      const found: [number, number][] = [];
      find.lastIndex = 0;
      while (found.length < most) {
        const m = find.exec(line);
        if (m === null) break;
        if (m[0].length === 0) find.lastIndex++;
        else found.push([m.index, m.index + m[0].length]);
      }
      return found;
    },
  };
}

/** Whether a line holds any of it. */
export function holds(h: Highlighter, line: string): boolean {
  return h.ranges(line).length > 0;
}

function expression(text: string): RegExp | null {
  if (text === "") return null;
  try {
    // RE2, which the server speaks, has flags at the beginning, as in (?i).
    const flags = /^\(\?([ims]+)\)/.exec(text);
    return new RegExp(flags ? text.slice(flags[0].length) : text, `gu${flags?.[1] ?? ""}`);
  } catch {
    return null;
  }
}

const word = "[A-Za-z0-9_\\u0080-\\u{10ffff}]";
const boundary = `(?:(?<!${word})|(?!${word}))`;

/** The pattern as docs/API.md has it: whole words, `*` any text, `?` any character, `\` takes the next one as it is. */
function pattern(text: string): RegExp | null {
  const segments: string[] = [""];
  const characters = [...text];
  for (let i = 0; i < characters.length; i++) {
    let c = characters[i] as string;
    const last = segments.length - 1;
    if (c === "*") {
      segments.push("");
      continue;
    }
    if (c === "?") {
      segments[last] += "[\\s\\S]";
      continue;
    }
    if (c === "\\" && i + 1 < characters.length) c = characters[++i] as string;
    segments[last] += c.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  }
  const parts = segments
    .map((s, i) => {
      if (s === "") return "";
      return (i === 0 ? boundary : "") + s + (i === segments.length - 1 ? boundary : "");
    })
    .filter((s) => s !== "");
  return parts.length === 0 ? null : new RegExp(parts.join("|"), "giu");
}
