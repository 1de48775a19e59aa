// What the address bar says of a log: which devices, how they are laid out, the filter, and the line that is meant.

import { type Level, levels } from "../api/types";
import type { LineFilter } from "./types";

/** What the pages of logs have in their address beside the path. */
export interface LogAddress {
  /** In the order in which they are shown; empty is the whole fleet, or the model. */
  devices: number[];
  model: number | null;
  layout: "merged" | "side";
  filter: LineFilter;
  /** The text is only marked, and lines without it are shown too. */
  find: boolean;
  /** The cursor of one line. */
  at: string | null;
  /** A moment, ISO 8601. */
  time: string | null;
}

/** The most devices that have columns of their own. */
export const columns = 4;

const cursor = /^[0-9A-Za-z]{1,32}-\d{1,20}(\.\d{1,9})?$/;

/** Reads a query; what is not as it should be is left out. */
export function readAddress(search: string): LogAddress {
  const q = new URLSearchParams(search);
  const devices = (q.get("devices") ?? "")
    .split(",")
    .map(number)
    .filter((id) => id !== null);
  const level = q.get("level") ?? "";
  const at = q.get("at");
  const time = q.get("time");
  return {
    devices: [...new Set(devices)],
    model: number(q.get("model") ?? ""),
    layout: q.get("layout") === "side" ? "side" : "merged",
    filter: {
      level: (levels as readonly string[]).includes(level) ? (level as Level) : "",
      tag: q.get("tag") ?? "",
      text: q.get("q") ?? "",
      regex: q.get("regex") === "1",
    },
    find: q.get("find") === "1",
    at: at !== null && cursor.test(at) ? at : null,
    time: time !== null && !Number.isNaN(Date.parse(time)) ? time : null,
  };
}

/** The query for it, with its question mark, and nothing in it that goes without saying. */
export function writeAddress(a: LogAddress): string {
  const q: string[] = [];
  // Commas and colons stay readable: nothing else reads this query.
  const add = (name: string, value: string) =>
    value !== "" && q.push(`${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3A/g, ":")}`);
  add("devices", a.devices.join(","));
  add("model", a.model === null ? "" : String(a.model));
  add("layout", a.layout === "side" ? "side" : "");
  add("level", a.filter.level);
  add("tag", a.filter.tag);
  add("q", a.filter.text);
  add("regex", a.filter.regex ? "1" : "");
  add("find", a.find ? "1" : "");
  add("at", a.at ?? "");
  add("time", a.time ?? "");
  return q.length === 0 ? "" : `?${q.join("&")}`;
}

/** The address of one line in its device's log. */
export function permalink(device: number, cursor: string): string {
  return `/devices/${device}?at=${cursor}`;
}

/** The cursor just behind a line: what is before it ends with that line. */
export function behind(cursor: string): string {
  const dot = cursor.lastIndexOf(".");
  return dot < 0 ? cursor : `${cursor.slice(0, dot)}.${Number(cursor.slice(dot + 1)) + 1}`;
}

function number(text: string): number | null {
  return /^[1-9]\d{0,14}$/.test(text) ? Number(text) : null;
}
