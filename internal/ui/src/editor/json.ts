// What the JSON editor knows of its text: whether it is JSON, and where in it a JSON pointer points.

import { jsonLanguage } from "@codemirror/lang-json";

type Tree = ReturnType<typeof jsonLanguage.parser.parse>;
type SyntaxNode = Tree["topNode"];

/** Something wrong with the value that a JSON pointer names; "" is the whole text. The server answers in this shape. */
export interface Fault {
  path: string;
  message: string;
}

/** A part of the text, in UTF-16 units. */
export interface Span {
  from: number;
  to: number;
}

/** What keeps a text from being JSON, and where; null if nothing does. */
export function syntaxFault(
  text: string,
  tree: Tree = jsonLanguage.parser.parse(text),
): (Span & { message: string }) | null {
  if (text.trim() === "") return { from: 0, to: 0, message: "There must be a value; {} is the least." };
  try {
    JSON.parse(text);
    return null;
  } catch (e) {
    // The engine says best what is wrong and the tree where; only some engines tell the place, each in its own words.
    const message = (e as Error).message.replace(/^JSON\.parse: /, "");
    const told = /position (\d+)/.exec(message);
    let from = told ? Number(told[1]) : (firstError(tree) ?? text.length);
    from = Math.min(from, text.length);
    // A place at the end, or of white space, is shown at what stands before it, so that something is underlined.
    if (/^\s*$/.test(text.slice(from, from + 1))) from = Math.max(0, text.slice(0, from).trimEnd().length - 1);
    const word = /^[^\s,:[\]{}]+/.exec(text.slice(from))?.[0].length ?? 1;
    return { from, to: Math.min(text.length, from + Math.min(word, 40)), message: plain(message) };
  }
}

function firstError(tree: Tree): number | null {
  let at: number | null = null;
  tree.iterate({
    enter: (node) => {
      if (at === null && node.type.isError) at = node.from;
      return at === null;
    },
  });
  return at;
}

function plain(message: string): string {
  const text = message
    .replace(/,? \.*"?[^"]*"? is not valid JSON$/, "")
    .replace(/( in JSON)? at (position|line) .*$/, "");
  if (text.includes("end of")) return "The text ends before the value does";
  return text;
}

/** The keys of a JSON pointer: "/a~1b/0" is ["a/b", "0"]. */
export function pointerKeys(pointer: string): string[] {
  if (pointer === "") return [];
  return pointer
    .replace(/^\//, "")
    .split("/")
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/**
 * Where the value is that the pointer names. If there is none, such as for a property that is missing, it is the
 * innermost value on the way there. Of an object or an array it is the bracket only: a whole document underlined
 * says nothing.
 */
export function locate(text: string, pointer: string, tree: Tree = jsonLanguage.parser.parse(text)): Span {
  let value = valueIn(tree.topNode);
  if (!value) return { from: 0, to: 0 };
  let name: SyntaxNode | null = null;
  for (const key of pointerKeys(pointer)) {
    const next = child(text, value, key);
    if (!next) break;
    value = next.value;
    name = next.name;
  }
  if (value.name !== "Object" && value.name !== "Array") return { from: value.from, to: value.to };
  if (name) return { from: name.from, to: name.to };
  return { from: value.from, to: value.from + 1 };
}

const values = new Set(["Object", "Array", "String", "Number", "True", "False", "Null"]);

function valueIn(node: SyntaxNode): SyntaxNode | null {
  for (let c = node.firstChild; c; c = c.nextSibling) if (values.has(c.name)) return c;
  return null;
}

function child(text: string, node: SyntaxNode, key: string): { value: SyntaxNode; name: SyntaxNode | null } | null {
  if (node.name === "Array") {
    let i = 0;
    for (let c = node.firstChild; c; c = c.nextSibling) {
      if (values.has(c.name) && String(i++) === key) return { value: c, name: null };
    }
    return null;
  }
  // Of two properties with one name the last holds, as it does for JSON.parse and for the server.
  let found: { value: SyntaxNode; name: SyntaxNode } | null = null;
  for (const property of node.getChildren("Property")) {
    const name = property.getChild("PropertyName");
    const value = valueIn(property);
    if (name && value && unquote(text.slice(name.from, name.to)) === key) found = { value, name };
  }
  return found;
}

function unquote(text: string): string | null {
  try {
    return JSON.parse(text) as string;
  } catch {
    return null;
  }
}

/** The text indented by two, or null if it is not JSON. Numbers stay as they were written: 1.0 and 1e400 too. */
export function formatJson(text: string): string | null {
  if (syntaxFault(text)) return null;
  let out = "";
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s"[\]{},:]+/g)) {
    if (token === "{" || token === "[") {
      depth++;
      out += token + line();
    } else if (token === "}" || token === "]") {
      depth--;
      // Nothing between the brackets: on one line.
      out = /[{[]\s*$/.test(out) ? out.trimEnd() + token : out + line() + token;
    } else if (token === ",") out += token + line();
    else if (token === ":") out += ": ";
    else out += token;
  }
  return `${out}\n`;
}
