// The devices as the rotation page shows them: in one list, those that need a look first.

import type { Dashboard, Group, RotationDevice } from "./types";
import { mood, needsPerson, standingOf } from "./words";

/** A device and what is worked out of it once. */
export interface RotationRow {
  device: RotationDevice;
  group: Group;
  title: string;
  /** Nothing goes on unless a person does something. */
  person: boolean;
  haystack: string;
}

export const groups = ["critical", "warning", "healthy", "inactive"] as const satisfies readonly Group[];

/** What a group is called, and what it means. */
export const groupWords: Record<Group, { name: string; says: string }> = {
  healthy: { name: "Healthy", says: "Their secrets are in order, or about to be rotated" },
  warning: { name: "Warning", says: "Their last rotation timed out; their old secrets stay good" },
  critical: { name: "Critical", says: "Their last rotation timed out, and the last one that did not was long ago" },
  inactive: { name: "Inactive", says: "The rotation of the fleet leaves them out" },
};

/** What a device is called here. */
export function rotationTitle(d: { device_name: string | null; key: string }): string {
  return d.device_name ?? d.key;
}

// What nobody has to look at comes last, and of two alike the one whose secret is older comes first.
const order = { bad: 0, warn: 1, busy: 2, wait: 3, ok: 4, off: 5 };

/** All devices of a dashboard, those that need a look first. */
export function rowsOf(d: Dashboard): RotationRow[] {
  const keyed = groups.flatMap((group) =>
    d[group].map((device) => {
      const s = standingOf(device);
      const title = rotationTitle(device);
      const row: RotationRow = {
        device,
        group,
        title,
        person: needsPerson(s),
        haystack: [title, device.key, device.device_model_code].join("\n").toLowerCase(),
      };
      const rank = (group === "critical" ? 0 : 10) + order[mood(s)];
      return { row, rank: row.person ? -1 : rank, at: device.secret_created_at ?? "" };
    }),
  );
  keyed.sort(
    (a, b) => a.rank - b.rank || (a.at < b.at ? -1 : a.at > b.at ? 1 : a.row.device.key < b.row.device.key ? -1 : 1),
  );
  return keyed.map((k) => k.row);
}

/** Which of them are shown; the address holds it. */
export interface RotationView {
  text: string;
  /** null is all; "moving" is what is queued or in an attempt. */
  group: Group | "moving" | null;
}

/** Reads the query of an address; what it does not understand is as if it were not there. */
export function readView(query: string): RotationView {
  const q = new URLSearchParams(query);
  const group = q.get("group");
  return {
    text: q.get("q") ?? "",
    group: group === "moving" || groups.some((g) => g === group) ? (group as RotationView["group"]) : null,
  };
}

/** The query for it with its question mark, or nothing. */
export function writeView(v: RotationView): string {
  const q = new URLSearchParams();
  if (v.text !== "") q.set("q", v.text);
  if (v.group !== null) q.set("group", v.group);
  return q.size === 0 ? "" : `?${q}`;
}

/** Whether it is queued or in an attempt. */
export function isMoving({ device: d }: RotationRow): boolean {
  return d.rotation_state === "QUEUED" || d.rotation_state === "PENDING";
}

/** The rows that a view shows, in their order. */
export function selectRows(rows: readonly RotationRow[], v: RotationView): RotationRow[] {
  const words = v.text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(
    (r) =>
      (v.group === null || (v.group === "moving" ? isMoving(r) : r.group === v.group)) &&
      words.every((w) => r.haystack.includes(w)),
  );
}

/** How many "Rotate all" would queue: those that are active and in order. */
export function countRotatable(rows: readonly RotationRow[]): number {
  return rows.filter(({ device: d }) => d.active && d.rotation_state === "OK").length;
}
