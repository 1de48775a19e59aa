// The import of devices: what the server says of each line, as it says it.

import { send } from "../api/client";

/** What became of a line: "ok" could be made, "created" was, "exists" was there already. */
export type LineStatus = "ok" | "created" | "exists" | "error";

/** One line of the file. */
export interface ImportedLine {
  line: number;
  status: LineStatus;
  key: string | null;
  device_id: number | null;
  errors: string[];
  warnings: string[];
}

export interface ImportCounts {
  lines: number;
  ok: number;
  created: number;
  exists: number;
  errors: number;
  warnings: number;
}

/** An import as far as it has come. */
export interface ImportState {
  /** Lines of the file that are devices. */
  total: number;
  counts: ImportCounts;
  /** Lines of which there is something to be said: errors, then warnings, each as they stand in the file. */
  notes: ImportedLine[];
  /** Why it ended before the file did. */
  stopped: string | null;
  /** It came to an end. */
  ended: boolean;
}

/** How many lines with an error or a warning are kept to be shown. */
export const mostNotes = 1000;

/** How large a file may be, in bytes, as the server has it. */
export const mostBytes = 16 << 20;

export function newState(): ImportState {
  return {
    total: 0,
    counts: { lines: 0, ok: 0, created: 0, exists: 0, errors: 0, warnings: 0 },
    notes: [],
    stopped: null,
    ended: false,
  };
}

type Said = Partial<ImportedLine> & { total?: number; counts?: ImportCounts; stopped?: string | null };

/** Takes in one line of the answer. The state is changed. */
export function take(state: ImportState, text: string): void {
  if (text.trim() === "") return;
  const said = JSON.parse(text) as Said;
  if (said.total !== undefined) {
    state.total = said.total;
  } else if (said.counts !== undefined) {
    state.counts = said.counts;
    state.stopped = said.stopped ?? null;
    state.ended = true;
  } else if (said.line !== undefined && said.status !== undefined) {
    const c = state.counts;
    c.lines++;
    if (said.status === "error") c.errors++;
    else c[said.status]++;
    const warned = (said.warnings?.length ?? 0) > 0;
    if (warned) c.warnings++;
    if ((said.status === "error" || warned) && state.notes.length < mostNotes) state.notes.push(said as ImportedLine);
  }
}

/** The lines to be shown, those with errors first. */
export function ordered(notes: readonly ImportedLine[]): ImportedLine[] {
  return [...notes.filter((n) => n.status === "error"), ...notes.filter((n) => n.status !== "error")];
}

/** Whether the file is one that can be sent at all; why not, as a sentence. */
export function fileFault(file: { name: string; size: number }): string | null {
  if (file.size === 0) return "The file is empty.";
  if (file.size > mostBytes) return "The file is too large: at most 16 MiB. Split it, and import the parts.";
  if (/\.(xlsx?|ods|numbers)$/i.test(file.name)) return "That is a spreadsheet. Save it as CSV (UTF-8) first.";
  return null;
}

/** Reads the lines of an answer. `told` is called with what they come to so far, the same object each time. */
export async function readLines(
  body: ReadableStream<Uint8Array> | null,
  told: (state: ImportState) => void,
): Promise<ImportState> {
  const state = newState();
  const reader = body?.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = "";
  while (reader) {
    const { value } = await reader.read();
    if (value === undefined) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) take(state, line);
    told(state);
  }
  take(state, rest);
  return state;
}

/** Sends a file. With `dry` the server only looks at it. Throws ApiError for a file that is none. */
export async function importDevices(
  file: Blob,
  dry: boolean,
  told: (state: ImportState) => void,
  signal: AbortSignal,
): Promise<ImportState> {
  const answer = await send("/api/devices/import", {
    method: "POST",
    query: { dry_run: dry },
    headers: { Accept: "application/x-ndjson", "Content-Type": "text/csv" },
    raw: file,
    signal,
  });
  return readLines(answer.body, told);
}
