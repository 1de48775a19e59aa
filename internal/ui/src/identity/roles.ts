// What somebody may, and how that is said. The server decides; the page only leaves out what would be refused.

import type { Limit, Role } from "../api/types";

/** The roles that can be given, the mightiest last. */
export const roles: readonly Role[] = ["pipeline", "viewer", "editor", "admin"];

/** What each role is for. */
export const roleWords: Record<Role, string> = {
  viewer: "sees devices and their logs",
  editor: "changes devices and models, and sees secrets",
  admin: "decides about people, tokens and the audit",
  pipeline: "delivers firmware",
};

/** Whether somebody with these roles may act in `role`: an admin may what an editor may, and an editor what a viewer may. */
export function may(who: { roles: readonly string[] } | null, role: Role): boolean {
  if (who === null) return false;
  if (who.roles.includes(role)) return true;
  if (role === "viewer") return may(who, "editor");
  return role !== "admin" && may(who, "admin");
}

/** Whether somebody decides about people, tokens and the audit: these are of everything, so that a limited admin does not. */
export function decides(who: { roles: readonly string[]; limit: Limit | null } | null): boolean {
  return who !== null && who.limit === null && may(who, "admin");
}

/** The roles that somebody can hand on to an API token. */
export function ownRoles(who: { roles: readonly string[] }): Role[] {
  return roles.filter((r) => may(who, r));
}

/** The mightiest of the roles, by which somebody is called in short; null without any. */
export function mainRole(list: readonly string[]): Role | null {
  return [...roles].reverse().find((r) => list.includes(r)) ?? null;
}

/** The part of the fleet that a limit leaves, in words. */
export function limitWords(limit: Limit | null): string {
  if (limit === null || (limit.models.length === 0 && limit.tags.length === 0)) return "the whole fleet";
  const parts: string[] = [];
  if (limit.models.length > 0) parts.push(`of the ${plural("model", limit.models)}`);
  if (limit.tags.length > 0) parts.push(`with the ${plural("tag", limit.tags)}`);
  return `devices ${parts.join(", or ")}`;
}

function plural(word: string, names: readonly string[]): string {
  const last = names.length > 1 ? ` or ${names[names.length - 1]}` : "";
  const first = names.length > 1 ? names.slice(0, -1).join(", ") : (names[0] ?? "");
  return `${word} ${first}${last}`;
}

/** What stands in a field for a list of names, read: names are parted by commas or white space. */
export function readNames(text: string): string[] {
  return [...new Set(text.split(/[\s,]+/).filter((n) => n !== ""))].sort();
}
