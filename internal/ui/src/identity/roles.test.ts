import { expect, test } from "vitest";
import { decides, limitWords, mainRole, may, ownRoles, readNames } from "./roles";

test.each([
  [[], { viewer: false, editor: false, admin: false, pipeline: false }],
  [["viewer"], { viewer: true, editor: false, admin: false, pipeline: false }],
  [["editor"], { viewer: true, editor: true, admin: false, pipeline: false }],
  [["admin"], { viewer: true, editor: true, admin: true, pipeline: true }],
  [["pipeline"], { viewer: false, editor: false, admin: false, pipeline: true }],
  [["pipeline", "viewer"], { viewer: true, editor: false, admin: false, pipeline: true }],
  [["root"], { viewer: false, editor: false, admin: false, pipeline: false }],
])("who has %j may this", (roles, want) => {
  for (const [role, so] of Object.entries(want)) expect(may({ roles }, role as "viewer"), role).toBe(so);
});

test("nobody may nothing", () => expect(may(null, "viewer")).toBe(false));

test("an admin decides, unless limited to a part of the devices", () => {
  expect(decides({ roles: ["admin"], limit: null })).toBe(true);
  expect(decides({ roles: ["admin"], limit: { models: [], tags: ["lab"] } })).toBe(false);
  expect(decides({ roles: ["editor"], limit: null })).toBe(false);
  expect(decides(null)).toBe(false);
});

test("roles that can be handed on are those that somebody has, and what those hold", () => {
  expect(ownRoles({ roles: ["editor"] })).toEqual(["viewer", "editor"]);
  expect(ownRoles({ roles: ["admin"] })).toEqual(["pipeline", "viewer", "editor", "admin"]);
  expect(ownRoles({ roles: [] })).toEqual([]);
});

test("somebody is called by the mightiest role", () => {
  expect(mainRole(["viewer", "admin", "pipeline"])).toBe("admin");
  expect(mainRole(["something"])).toBe(null);
});

test("a limit in words", () => {
  expect(limitWords(null)).toBe("the whole fleet");
  expect(limitWords({ models: [], tags: [] })).toBe("the whole fleet");
  expect(limitWords({ models: ["relay"], tags: [] })).toBe("devices of the model relay");
  expect(limitWords({ models: ["a", "b", "c"], tags: ["lab"] })).toBe(
    "devices of the model a, b or c, or with the tag lab",
  );
});

test("names in a field", () => {
  expect(readNames(" lab, north  lab\n,")).toEqual(["lab", "north"]);
  expect(readNames("")).toEqual([]);
});
