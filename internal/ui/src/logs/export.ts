// Lines as a file: the server streams every selected one, and the page shows how far it is.

import { send } from "../api/client";
import { filterQuery } from "./filter";
import type { Devices } from "./model";
import type { LineFilter } from "./types";

export type ExportFormat = "text" | "ndjson";

/** What is wanted. */
export interface Export {
  devices: Devices;
  /** null: every line. */
  filter: LineFilter | null;
  format: ExportFormat;
  /** ISO 8601; both are included, and null is as far as lines are kept. */
  start: string | null;
  end: string | null;
}

/** How far it is. `total` is about how many lines are looked at, of which a filter leaves some out; null when nobody knows. */
export interface ExportProgress {
  lines: number;
  bytes: number;
  total: number | null;
}

const piece = 4 << 20; // bytes that are gathered before the browser may put them on its disk
const types: Record<ExportFormat, string> = { text: "text/plain", ndjson: "application/x-ndjson" };

/** Where an export is asked for, and what is asked. */
export function exportRequest(e: Export): { path: string; query: Record<string, string | number> } {
  const query: Record<string, string | number> = { start: e.start ?? "1970-01-01" };
  if (e.end !== null) query.end = e.end;
  if (e.filter !== null) {
    for (const [name, value] of Object.entries(filterQuery(e.filter))) if (value !== "") query[name] = value;
  }
  if (e.devices === "all") return { path: "/api/logs", query };
  if ("model" in e.devices) return { path: "/api/logs", query: { ...query, model_id: e.devices.model } };
  if (e.devices.length === 1) return { path: `/api/devices/${e.devices[0]}/logs`, query };
  return { path: "/api/logs", query: { ...query, device_ids: e.devices.join(",") } };
}

/** Reads all of it. Throws ApiError, what a broken connection throws, or an AbortError. */
export async function readExport(e: Export, told: (p: ExportProgress) => void, signal: AbortSignal): Promise<Blob> {
  const { path, query } = exportRequest(e);
  const answer = await send(path, { query, headers: { Accept: types[e.format] }, signal });
  const total = answer.headers.get("X-Total-Lines");
  return gather(answer.body, types[e.format], total === null ? null : Number(total), told);
}

/** Puts a stream of lines into a file, and counts them. */
export async function gather(
  body: ReadableStream<Uint8Array<ArrayBuffer>> | null,
  type: string,
  total: number | null,
  told: (p: ExportProgress) => void,
): Promise<Blob> {
  const progress = { lines: 0, bytes: 0, total };
  const done: Blob[] = [];
  let part: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  const reader = body?.getReader();
  while (reader) {
    const { value } = await reader.read();
    if (value === undefined) break;
    for (let i = value.indexOf(10); i >= 0; i = value.indexOf(10, i + 1)) progress.lines++;
    progress.bytes += value.length;
    part.push(value);
    size += value.length;
    if (size >= piece) {
      done.push(new Blob(part));
      part = [];
      size = 0;
    }
    told({ ...progress });
  }
  return new Blob([...done, ...part], { type });
}

/** Gives the file to the reader, as a link to it would. */
export function save(file: Blob, name: string): void {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A name that says what is in the file, and that every file system takes. */
export function fileName(label: string, format: ExportFormat, now: Date): string {
  const what = label
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  const when = now.toISOString().slice(0, 19).replaceAll(":", "").replace("T", "-");
  return `${what || "logs"}-${when}.${format === "text" ? "log" : "ndjson"}`;
}
