// What is said of whether a device is there.

import type { Presence } from "../api/types";
import { ago, duration } from "./clock";

/** The three that there are: a device that was never there has not gone. */
export type PresenceKind = "online" | "offline" | "unknown";

export function presenceKind(p: Presence | undefined): PresenceKind {
  if (!p || (p.since === null && !p.online)) return "unknown";
  return p.online ? "online" : "offline";
}

const names: Record<PresenceKind, string> = { online: "Online", offline: "Offline", unknown: "Not seen yet" };

/** In one or two words, such as "Offline". */
export function presenceName(p: Presence | undefined): string {
  // What was heard of before anybody looked who is there has been seen.
  return p?.last_seen_at && presenceKind(p) === "unknown" ? "Offline" : names[presenceKind(p)];
}

const ways = { session: "through its session", token: "by a token", line: "by its lines" };

/** In a sentence: since when, how it was heard of, and how steady it is. `now` in milliseconds of the server's clock. */
export function presenceTitle(p: Presence | undefined, now: number): string {
  const parts = [presenceName(p)];
  if (p?.since) parts[0] += ` for ${duration(now - Date.parse(p.since))}`;
  if (p?.last_seen_at && !p.online) parts.push(`last seen ${ago(Date.parse(p.last_seen_at), now)}`);
  if (p?.online && p.last_source) parts[0] += `, known ${ways[p.last_source]}`;
  if (p && p.drops_24h > 0) parts.push(`went away ${times(p.drops_24h)} in 24 hours`);
  return parts.join("; ");
}

/** "once", "3 times" */
export function times(n: number): string {
  return n === 1 ? "once" : `${n.toLocaleString("en")} times`;
}

/** What a device's clock says against the server's, as "40 s behind". */
export function clockText(milliseconds: number): string {
  const off = Math.abs(milliseconds);
  if (off < 2000) return "right"; // it says whole seconds, and they take their time to come
  const size = off < 60_000 ? `${Math.round(off / 1000)} s` : duration(off);
  return `${size} ${milliseconds > 0 ? "ahead" : "behind"}`;
}
