// Which devices the fleet page shows and in which order, and how its address says so.

import type { RotationState } from "../api/types";
import type { FleetRow, Seen } from "./rows";

export const columns = ["name", "entity", "model", "last", "when", "lines", "errors", "watchers", "state"] as const;
export type Column = (typeof columns)[number];

/** What the page shows; the address holds it, so that it can be kept and sent. */
export interface FleetView {
  /** Words, each of which a device's name, entity id, key, client id or model must hold, in any case. */
  text: string;
  /** The model's id; null is any. */
  model: number | null;
  /** Only devices that logged an error within the hour. */
  errors: boolean;
  /** Only devices that have said nothing for so many minutes; null is any. */
  silent: number | null;
  state: RotationState | "INACTIVE" | null;
  sort: Column;
  descending: boolean;
}

export const standardView: FleetView = {
  text: "",
  model: null,
  errors: false,
  silent: null,
  state: null,
  sort: "name",
  descending: false,
};

/** Of the summary: how many minutes without a line make a device silent. */
export const silentMinutes = 10;

const states = new Set<string>(["OK", "QUEUED", "PENDING", "TIMEOUT", "INACTIVE"]);

function positive(text: string | null): number | null {
  return text !== null && /^[1-9]\d{0,8}$/.test(text) ? Number(text) : null;
}

/** Reads the query of an address; what it does not understand is as if it were not there. */
export function parseView(query: string): FleetView {
  const q = new URLSearchParams(query);
  const sort = q.get("sort") ?? "";
  const column = columns.find((c) => c === sort.replace(/^-/, ""));
  const state = q.get("state")?.toUpperCase() ?? "";
  return {
    text: q.get("q") ?? "",
    model: positive(q.get("model")),
    errors: q.get("errors") === "1",
    silent: positive(q.get("silent")),
    state: states.has(state) ? (state as FleetView["state"]) : null,
    sort: column ?? standardView.sort,
    descending: column !== undefined && sort.startsWith("-"),
  };
}

/** The query of the address, without `?`; what is as usual is left out. */
export function formatView(v: FleetView): string {
  const q = new URLSearchParams();
  if (v.text !== "") q.set("q", v.text);
  if (v.model !== null) q.set("model", String(v.model));
  if (v.errors) q.set("errors", "1");
  if (v.silent !== null) q.set("silent", String(v.silent));
  if (v.state !== null) q.set("state", v.state.toLowerCase());
  if (v.sort !== standardView.sort || v.descending) q.set("sort", (v.descending ? "-" : "") + v.sort);
  return q.toString();
}

/** Whether anything but the order differs from the usual. */
export function narrows(v: FleetView): boolean {
  return v.text.trim() !== "" || v.model !== null || v.errors || v.silent !== null || v.state !== null;
}

/** Whether the device has said nothing for so many minutes; `now` is the server's, in milliseconds. */
export function isSilent(seen: Seen | undefined, minutes: number, now: number): boolean {
  return seen?.at == null || now - seen.at > minutes * 60_000;
}

/** The column's click: the other direction, or for another column the direction that tells most. */
export function sortBy(v: FleetView, column: Column): FleetView {
  if (v.sort === column) return { ...v, descending: !v.descending };
  return { ...v, sort: column, descending: ["when", "lines", "errors", "watchers"].includes(column) };
}

// Text is compared by ranks that rows.ts gave once: a collator at each turn would take longer than a frame.
const orders: Record<Column, (row: FleetRow, seen: Seen | undefined) => number | string> = {
  name: (row) => row.rank.name,
  entity: (row) => row.rank.entity,
  model: (row) => row.rank.model,
  last: (_, seen) => seen?.last?.message ?? "",
  when: (_, seen) => seen?.at ?? 0,
  lines: (_, seen) => seen?.lines_hour ?? 0,
  errors: (_, seen) => seen?.errors_hour ?? 0,
  watchers: (_, seen) => seen?.watchers ?? 0,
  state: (row) => row.rank.state,
};

/** Whether what devices say can change which rows are shown, or their order. */
export function isLive(v: FleetView): boolean {
  return v.errors || v.silent !== null || ["last", "when", "lines", "errors", "watchers"].includes(v.sort);
}

/** The ids of the rows to show, in their order. `now` is the server's, in milliseconds. */
export function select(
  rows: readonly FleetRow[],
  seen: ReadonlyMap<number, Seen>,
  v: FleetView,
  now: number,
): FleetRow[] {
  const words = v.text.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = rows.filter((row) => {
    const d = row.device;
    if (v.model !== null && d.device_model_id !== v.model) return false;
    if (v.state !== null && (d.active ? d.rotation_state : "INACTIVE") !== v.state) return false;
    if (v.errors && !seen.get(d.id)?.errors_hour) return false;
    if (v.silent !== null && !isSilent(seen.get(d.id), v.silent, now)) return false;
    return words.every((word) => row.haystack.includes(word));
  });
  const order = orders[v.sort];
  const keyed = shown.map((row) => ({ row, key: order(row, seen.get(row.device.id)) }));
  const way = v.descending ? -1 : 1;
  keyed.sort((a, b) => {
    if (a.key !== b.key) return a.key < b.key ? -way : way;
    return a.row.rank.name - b.row.rank.name; // ties do not turn with the direction: rows would change places for nothing
  });
  return keyed.map((k) => k.row);
}

/** The figures of the summary line. */
export function summarise(
  rows: readonly FleetRow[],
  seen: ReadonlyMap<number, Seen>,
  now: number,
): { devices: number; errors: number; silent: number } {
  let errors = 0;
  let silent = 0;
  for (const { device } of rows) {
    const s = seen.get(device.id);
    if (s && s.errors_hour > 0) errors++;
    if (isSilent(s, silentMinutes, now)) silent++;
  }
  return { devices: rows.length, errors, silent };
}

/** The log of several devices, or with none of all, searched for the text. */
export function logsAddress(devices: readonly number[], text = ""): string {
  const only = devices.length === 1 ? devices[0] : undefined;
  const query = [
    ...(devices.length > 1 ? [`devices=${devices.join(",")}`] : []),
    ...(text.trim() === "" ? [] : [`q=${encodeURIComponent(text.trim())}`]),
  ].join("&");
  return (only === undefined ? "/logs" : `/devices/${only}`) + (query === "" ? "" : `?${query}`);
}
