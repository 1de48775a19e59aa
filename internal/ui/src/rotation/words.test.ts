import { describe, expect, test } from "vitest";
import {
  about,
  advice,
  askedBy,
  countdown,
  dueWords,
  mood,
  needsPerson,
  outcomeWords,
  possible,
  type Standing,
  sentence,
  stepWords,
} from "./words";

const now = Date.parse("2026-07-04T08:00:00Z");
const ago = (s: number) => new Date(now - s * 1000).toISOString();
const ahead = (s: number) => ago(-s);

const fine: Standing = {
  active: true,
  rotation_state: "OK",
  step: "idle",
  stuck: false,
  trouble: null,
  failures: 0,
  started_at: null,
  deadline: null,
  retry_at: null,
  completed_at: null,
  secret_created_at: null,
  fetched_at: null,
  believed: false,
};
const of = (s: Partial<Standing>): Standing => ({ ...fine, ...s });
const pending = (s: Partial<Standing> = {}) =>
  of({ rotation_state: "PENDING", step: "offered", started_at: ago(12), deadline: ahead(288), ...s });
const late = (s: Partial<Standing> = {}) => of({ rotation_state: "TIMEOUT", step: "offered", failures: 1, ...s });

describe("a state in one sentence", () => {
  const table: [string, Standing, string][] = [
    ["new", fine, "In order: its secret was never rotated."],
    ["first secret", of({ secret_created_at: ago(7200) }), "In order: it has its first secret, which is 2 h old."],
    ["just rotated", of({ completed_at: ago(0.2) }), "In order: its secret was last rotated just now."],
    ["rotated", of({ completed_at: ago(3 * 86_400) }), "In order: its secret was last rotated 3 d ago."],
    [
      "believed",
      of({ believed: true, completed_at: ago(9) }),
      "Seems to use its new secret; the old one stays good beside it until that is certain.",
    ],
    ["inactive", of({ active: false }), "Inactive: the rotation of the fleet leaves it out."],
    ["queued", of({ rotation_state: "QUEUED" }), "Waits for its turn to get a new secret."],
    [
      "creating",
      pending({ step: "creating", deadline: null }),
      "A new secret is being made beside the old one since 12 s.",
    ],
    ["waiting", pending(), "Waiting for the device to fetch its new secret since 12 s; times out in 4:48."],
    [
      "waiting, not known more",
      pending({ fetched_at: undefined }),
      "Waiting for the device to fetch its new secret and use it since 12 s; times out in 4:48.",
    ],
    [
      "fetched",
      pending({ fetched_at: ago(3) }),
      "The device fetched its new secret 3 s ago, and has still to use it; times out in 4:48.",
    ],
    [
      "overdue",
      pending({ deadline: ago(1) }),
      "Waiting for the device to fetch its new secret since 12 s; its time is up.",
    ],
    ["without a deadline", pending({ deadline: null }), "Waiting for the device to fetch its new secret since 12 s."],
    [
      "proven",
      pending({ step: "proven", deadline: null }),
      "The device uses its new secret; the old one is being withdrawn.",
    ],
    [
      "with trouble",
      pending({ trouble: "The broker is away." }),
      "Waiting for the device to fetch its new secret since 12 s; times out in 4:48. At the moment this fails, and is tried again: The broker is away.",
    ],
    [
      "timed out",
      late({ retry_at: ahead(540) }),
      "Did not fetch its new secret in time. Its old secret stays good, and it is tried again in 9:00.",
    ],
    [
      "due again",
      late({ retry_at: ago(1) }),
      "Did not fetch its new secret in time. Its old secret stays good, and it is tried again soon.",
    ],
    [
      "given up",
      late({ failures: 3 }),
      "Did not fetch its new secret in time, 3 times in a row. It is not tried again by itself.",
    ],
    [
      "fetched and not used",
      late({ fetched_at: ago(900) }),
      "Fetched its new secret, but did not use it in time. It is not tried again by itself.",
    ],
    ["stuck", pending({ stuck: true, trouble: "Keycloak answered 503." }), "Stuck: Keycloak answered 503."],
    ["stuck without a word", pending({ stuck: true }), "Stuck: something outside failed too often."],
  ];
  test.each(table)("%s", (_, s, want) => expect(sentence(s, now)).toBe(want));
});

test("what needs a person, and what they can do", () => {
  const can = (s: Standing) => [needsPerson(s), advice(s) !== null, ...Object.values(possible(s))];
  // needs a person, advice, rotate, abort, retry
  expect(can(fine)).toEqual([false, false, true, false, false]);
  expect(can(of({ rotation_state: "QUEUED" }))).toEqual([false, false, false, true, false]);
  expect(can(pending())).toEqual([false, false, false, true, false]);
  expect(can(pending({ step: "proven" }))).toEqual([false, false, false, false, false]);
  expect(can(late({ retry_at: ahead(5) }))).toEqual([false, false, true, false, false]);
  expect(can(late())).toEqual([true, true, true, false, false]);
  expect(can(pending({ stuck: true }))).toEqual([true, true, false, true, true]);
  expect(can(pending({ stuck: true, step: "proven" }))).toEqual([true, true, false, false, true]);
  expect(advice(late({ fetched_at: ago(9) }))).toMatch(/Look in its log/);
  expect(advice(pending({ stuck: true, step: "proven" }))).toMatch(/old one could not be withdrawn/);
});

test("the mark beside it", () => {
  expect(
    [
      fine,
      of({ active: false }),
      of({ rotation_state: "QUEUED" }),
      pending(),
      late({ retry_at: ahead(9) }),
      late(),
      pending({ stuck: true }),
    ].map(mood),
  ).toEqual(["ok", "off", "wait", "busy", "warn", "bad", "bad"]);
});

test("a time that counts", () => {
  const f = (s: number) => countdown(s * 1000);
  expect([f(-3), f(0), f(12.9), f(60), f(288), f(3600), f(3 * 3600 + 62), f(86_400 * 2 + 3600 * 3)]).toEqual([
    "0 s",
    "0 s",
    "12 s",
    "1:00",
    "4:48",
    "1:00:00",
    "3:01:02",
    "2 d 3 h",
  ]);
});

test("about how long", () => {
  expect([0, 59, 60, 100, 3599, 3600, 12_000, 86_400, 200_000, 86_400 * 3].map(about)).toEqual([
    "under a minute",
    "under a minute",
    "1 minute",
    "2 minutes",
    "60 minutes",
    "1 hour",
    "3 hours 20 minutes",
    "24 hours",
    "2 days 8 hours",
    "3 days",
  ]);
});

describe("a step", () => {
  const f = (what: string, detail: string | null = null) => stepWords({ what, detail });
  test("that the page knows has a sentence", () => {
    for (const what of [
      "started",
      "offered",
      "told",
      "fetched",
      "switched",
      "proven",
      "believed",
      "withdrawn",
      "aborted",
      "postponed",
      "reset",
      "timed out",
      "failed",
      "stuck",
    ]) {
      expect(f(what).says, what).toMatch(/^[A-Z].{20,}\.$/);
    }
  });
  test("says its detail in plain words", () => {
    expect(f("failed", "tell: The broker cannot be reached").says).toBe(
      "Something outside failed, and is tried again: telling the device: The broker cannot be reached.",
    );
    expect(f("switched", "to the new secret").says).toBe(
      "The identity provider takes one secret at a time, and was changed to the new secret.",
    );
    expect(f("withdrawn", "the old secret").says).toBe("The old secret was withdrawn. Only the new one works now.");
    expect(f("postponed", "the device is revoked").says).toBe(
      "The attempt waits for another turn: the device is revoked.",
    );
    expect(f("started", "its turn again").name).toBe("Goes on");
    expect(f("fetched", "again").says).toBe("The device fetched the new secret. (again)");
  });
  test("that it does not know is shown as it is", () => {
    expect(f("teleported", "to the moon")).toEqual({ name: "teleported", says: "to the moon", tone: "plain" });
    expect(f("constructor")).toEqual({ name: "constructor", says: "", tone: "plain" });
  });
});

test("what became of an attempt, and who asked for it", () => {
  expect(["", "done", "believed", "timeout", "aborted", "other", "toString"].map((o) => outcomeWords(o).name)).toEqual([
    "Goes on",
    "Done",
    "Done, as it seems",
    "Timed out",
    "Aborted",
    "other",
    "toString",
  ]);
  expect(askedBy({ actor: "Ed", reason: "asked for" })).toBe("by Ed: asked for");
  expect(askedBy({ actor: null, reason: null })).toBe("by Signalbox itself");
});

test("when something is due", () => {
  const f = (iso: string, zone = "utc") => dueWords(iso, zone, now);
  expect(f("2026-07-04T20:00:00Z")).toBe("today 20:00 UTC");
  expect(f("2026-07-06T08:00:00Z")).toBe("Monday 08:00 UTC");
  expect(f("2026-07-11T08:00:00Z")).toBe("Saturday 11 July, 08:00 UTC");
  expect(f("2026-07-01T08:00:00Z")).toBe("Wednesday 1 July, 08:00 UTC");
  expect(f("2026-07-04T20:00:00Z", "Asia/Kathmandu")).toBe("Sunday 01:45 GMT+5:45");
  expect(f("nonsense")).toBe("");
});
