// The event-stream format (HTML Standard, 9.2.6). eventsource-parser does not tell of blocks with an id and no data, and
// those say how far the stream has come while nothing was to be said.

export interface Block {
  /** As it is to be sent back, null if the block has none. */
  id: string | null;
  /** "" if it has no name. */
  event: string;
  /** Null if the block has none: it is only an id. */
  data: string | null;
}

export interface Told {
  block(b: Block): void;
  /** How long to wait before coming back, milliseconds. */
  retry(ms: number): void;
  /** A comment, such as a heartbeat. */
  comment(text: string): void;
}

/** The most characters that wait for the end of their line: a batch of 1 MB may be escaped to six times as many. */
const mostBuffered = 16 << 20;

/** Reads the text of one stream, in whatever pieces it comes. Throws when a line has no end. */
export function reader(told: Told): (chunk: string) => void {
  let rest: string[] = [];
  let size = 0;
  let first = true;
  let id: string | null = null;
  let event = "";
  let data: string | null = null;

  const line = (text: string) => {
    if (text === "") {
      if (id !== null || data !== null) told.block({ id, event, data });
      id = null;
      event = "";
      data = null;
      return;
    }
    const colon = text.indexOf(":");
    if (colon === 0) {
      told.comment(text.slice(1).trim());
      return;
    }
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(text[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") data = data === null ? value : `${data}\n${value}`;
    else if (field === "event") event = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) told.retry(Number(value));
  };

  return (chunk) => {
    let text = chunk;
    if (first && text !== "") {
      first = false;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    if (!/[\r\n]/.test(text)) {
      rest.push(text);
      size += text.length;
      if (size > mostBuffered) throw new Error("a line of the event stream has no end");
      return;
    }
    if (rest.length > 0) {
      text = rest.join("") + text;
      rest = [];
    }
    let start = 0;
    for (;;) {
      let end = text.indexOf("\n", start);
      if (end < 0) break;
      const next = end + 1;
      if (text[end - 1] === "\r" && end > start) end--;
      line(text.slice(start, end));
      start = next;
    }
    rest = [text.slice(start)];
    size = text.length - start;
  };
}
