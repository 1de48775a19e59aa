import { expect, test } from "vitest";
import {
  type AuditFilter,
  actionWords,
  actorName,
  calledWords,
  noAuditFilter,
  readAuditFilter,
  targetAddress,
  writeAuditFilter,
} from "./audit";

test.each<[Partial<AuditFilter>, string]>([
  [{}, ""],
  [{ actor: "local:alice" }, "?actor=local%3Aalice"],
  [{ action: "device.*", target: "device/12" }, "?action=device.*&target=device%2F12"],
  [
    { since: "2026-07-04T08:00:00.000Z", until: "2026-07-05T00:00:00.500Z" },
    "?since=2026-07-04T08%3A00%3A00Z&until=2026-07-05T00%3A00%3A00.500Z",
  ],
])("%j is in the address, and read back", (change, address) => {
  const filter = { ...noAuditFilter, ...change };
  expect(writeAuditFilter(filter)).toBe(address);
  expect(readAuditFilter(address)).toEqual(filter);
});

test("an address may say anything", () => {
  expect(readAuditFilter("?since=yesterday&until=&actor=%20&x=1")).toEqual(noAuditFilter);
  expect(readAuditFilter("?since=2026-07-04T10:00:00%2B02:00").since).toBe("2026-07-04T08:00:00.000Z");
  expect(readAuditFilter(`?actor=${"a".repeat(1000)}`).actor.length).toBe(200);
});

test.each([
  ["login", "logged in"],
  ["device.update", "changed the device"],
  ["device.revoke", "revoked the device"],
  ["person.create", "made the account"],
  ["token.revoke", "revoked the API token"],
  ["secret.read", "saw the secrets of"],
  ["logs.watch", "watched the log of"],
  ["something.new", "something.new"],
  ["constructor", "constructor"],
  ["device.toString", "device.toString"],
])("%s in words", (action, words) => {
  expect(actionWords(action)).toBe(words);
});

test("what an event is about can be gone to, if it has a page", () => {
  expect(targetAddress("device/12")).toBe("/devices/12");
  expect(targetAddress("model/3")).toBe("/models/3");
  expect(targetAddress("person/3")).toBe("/people");
  for (const t of [null, "", "device/0", "device/1/../..", "token/4", "device/x"]) expect(targetAddress(t)).toBe(null);
});

test("who did it is called by name, or else by subject, or is the program", () => {
  const nobody = { actor: null, name: null, address: null, detail: null };
  expect(actorName({ ...nobody, actor: "a", name: "Alice" })).toBe("Alice");
  expect(actorName({ ...nobody, actor: "a" })).toBe("a");
  expect(actorName({ ...nobody, name: "command line" })).toBe("command line");
  expect(actorName(nobody)).toBe("Signalbox");
  expect(actorName({ ...nobody, address: "10.0.0.1" })).toBe("somebody");
  expect(actorName({ ...nobody, address: "10.0.0.1", detail: { username: "root" } })).toBe("root");
});

test("what it was done to is called by name, or else as it was asked for", () => {
  const called = (detail: Record<string, unknown> | null, action = "logs.watch", label: string | null = null) =>
    calledWords({ action, target: label === null ? null : "device/7", label, detail });
  expect(called(null, "logs.read", "kitchen")).toBe("kitchen");
  expect(called({ all: true })).toBe("all devices");
  expect(called({ device_id: 7 })).toBe("device/7");
  expect(called({ model_id: 3 })).toBe("the devices of model/3");
  expect(called({ device_ids: [1, 2] })).toBe("several devices");
  expect(called(null, "logs.export")).toBe("several devices");
  expect(called(null, "logout")).toBe("");
});
