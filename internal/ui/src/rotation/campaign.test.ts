import { describe, expect, test } from "vitest";
import {
  type CampaignForm,
  campaignSentence,
  daysWords,
  newForm,
  partsOf,
  partsOfWave,
  planWords,
  presetForm,
  progressWords,
  rateWords,
  readForm,
  riskWords,
  selectionWords,
  steps,
  waveWords,
  windowWords,
} from "./campaign";
import type { Campaign, CampaignCounts, Plan } from "./types";

describe("the form", () => {
  const f = (c: Partial<CampaignForm> = {}) => readForm({ ...newForm("Europe/Berlin"), name: "Spring", ...c });
  test("is safe as it is opened, but for its name", () => {
    expect(f().request).toEqual({
      name: "Spring",
      selection: { all: true },
      canary: { count: 1 },
      wave_size: 0,
      in_flight: 1,
      pause_failure_rate: 0.2,
      pause_min_devices: 5,
      wave_pause_seconds: 0,
      defer_offline: true,
      defer_hours: 72,
    });
    expect(f({ name: " " }).faults).toEqual({ name: expect.any(String) });
  });
  test("asks for what is filled in", () => {
    const windows = [{ days: [6, 7], from: "22:00", to: "05:00" }];
    expect(
      f({
        reason: " leaked ",
        who: "tags",
        tags: ["lab"],
        older: "90",
        late: true,
        inactive: true,
        canary: "",
        waveSize: "50",
        inFlight: "20",
        pauseMinutes: "15",
        failureRate: "5",
        deferOffline: false,
        deferHours: "nonsense",
        windowed: true,
        windows,
      }).request,
    ).toEqual({
      name: "Spring",
      reason: "leaked",
      selection: { tags: ["lab"], secret_older_than_days: 90, states: ["TIMEOUT"], include_inactive: true },
      canary: { count: 0 },
      wave_size: 50,
      in_flight: 20,
      pause_failure_rate: 0.05,
      pause_min_devices: 5,
      wave_pause_seconds: 900,
      defer_offline: false,
      windows,
      timezone: "Europe/Berlin",
    });
    expect(f({ who: "models", models: [3], devices: [1] }).request?.selection).toEqual({ model_ids: [3] });
  });
  const wrong: [keyof CampaignForm, Partial<CampaignForm>][] = [
    ["name", { name: "x".repeat(101) }],
    ["models", { who: "models" }],
    ["tags", { who: "tags" }],
    ["devices", { who: "devices" }],
    ["older", { older: "0" }],
    ["canary", { canary: "-1" }],
    ["waveSize", { waveSize: "1.5" }],
    ["inFlight", { inFlight: "0" }],
    ["inFlight", { inFlight: "1001" }],
    ["failureRate", { failureRate: "101" }],
    ["deferHours", { deferHours: "soon" }],
    ["windows", { windowed: true, windows: [] }],
    ["windows", { windowed: true, windows: [{ days: [], from: "01:00", to: "02:00" }] }],
    ["windows", { windowed: true, windows: [{ days: [1], from: "1:00", to: "02:00" }] }],
    ["windows", { windowed: true, windows: [{ days: [1], from: "01:00", to: "01:00" }] }],
  ];
  test.each(wrong)("says what is wrong with %s", (field, c) => {
    expect(Object.keys(f(c).faults ?? {})).toEqual([field]);
  });
  test("takes what its address says", () => {
    const p = (s: string) => {
      const { who, devices, models, tags } = presetForm(newForm("UTC"), s);
      return [who, devices, models, tags];
    };
    expect(p("?devices=3,1,3,x")).toEqual(["devices", [3, 1], [], []]);
    expect(p("?models=2")).toEqual(["models", [], [2], []]);
    expect(p("?tags=lab,north")).toEqual(["tags", [], [], ["lab", "north"]]);
    expect(p("?devices=-1")).toEqual(["all", [], [], []]);
  });
});

test("windows in words", () => {
  expect([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5], [7, 6], [1, 3], [1, 2, 3, 6], []].map(daysWords)).toEqual([
    "every day",
    "Mon–Fri",
    "Sat, Sun",
    "Mon, Wed",
    "Mon–Wed, Sat",
    "",
  ]);
  expect(windowWords({ days: [5], from: "22:00", to: "05:00" })).toBe("Fri 22:00 to 05:00 the next day");
  expect(windowWords({ days: [5], from: "09:00", to: "17:00" })).toBe("Fri 09:00 to 17:00");
});

test("a selection in words", () => {
  expect(selectionWords({ all: true })).toBe("all devices");
  expect(selectionWords({ device_ids: [1] })).toBe("1 chosen device");
  expect(selectionWords({ model_ids: [1, 2], secret_older_than_days: 90 })).toBe(
    "devices of 2 models whose secret is older than 90 days",
  );
  expect(selectionWords({ tags: ["a", "b"], states: ["TIMEOUT"], include_inactive: true })).toBe(
    "devices tagged a or b, only those that timed out, inactive ones too",
  );
});

test("a plan in words", () => {
  const plan = (sizes: number[], seconds: number): Plan => ({
    devices: sizes.reduce((a, b) => a + b, 0),
    waves: sizes.map((size, i) => ({ number: i + 1, size, devices: [] })),
    expected_seconds: seconds,
    expected_end: "",
    at_risk: [],
    excluded: [],
  });
  expect(planWords(plan([], 0))).toMatch(/^No device fits/);
  expect(planWords(plan([1], 40))).toBe("1 device in one wave. It takes about under a minute.");
  expect(planWords(plan([1, 50, 69], 7200))).toBe(
    "120 devices in 3 waves, the first of 1 device. It takes about 2 hours.",
  );
  expect([riskWords("flaky"), riskWords("haunted"), riskWords("toString")]).toEqual([
    "Connection drops often",
    "haunted",
    "toString",
  ]);
});

const counts = (c: Partial<CampaignCounts>): CampaignCounts => ({
  total: 0,
  waiting: 0,
  deferred: 0,
  in_flight: 0,
  done: 0,
  failed: 0,
  skipped: 0,
  ...c,
});

describe("a campaign as it runs", () => {
  const c: Campaign = {
    id: 1,
    name: "Spring",
    reason: null,
    state: "running",
    state_reason: null,
    created_by: "ed",
    created_at: "",
    started_at: null,
    ended_at: null,
    expected_end: null,
    next_window_at: null,
    in_flight_limit: 5,
    pause_failure_rate: 0.2,
    wave: 2,
    waves: [
      { number: 1, size: 1, done: 1, failed: 0, deferred: 0 },
      { number: 2, size: 119, done: 40, failed: 2, deferred: 3 },
    ],
    counts: counts({ total: 120, done: 41, failed: 2, in_flight: 5, deferred: 3, waiting: 69 }),
    failure_rate: 2 / 43,
    options: { name: "Spring", selection: { all: true }, pause_min_devices: 10 },
  };
  const f = (x: Partial<Campaign> = {}) => campaignSentence({ ...c, ...x }, "utc", Date.parse("2026-07-04T08:00:00Z"));
  test("says why it is as it is", () => {
    expect(f()).toBe("Wave 2 of 2: 5 devices are being rotated, at most 5 at once.");
    expect(f({ waves: [], counts: counts({ total: 1, in_flight: 1 }) })).toBe(
      "1 device is being rotated, at most 5 at once.",
    );
    const next = "2026-07-04T22:00:00Z";
    expect(f({ state: "waiting", next_window_at: next, state_reason: "outside its windows" })).toBe(
      "Goes on today 22:00 UTC; until then it is outside its windows.",
    );
    expect(f({ state: "waiting", state_reason: "the pause before the next wave" })).toBe(
      "Waits: the pause before the next wave.",
    );
    expect(f({ state: "paused", state_reason: "a canary failed" })).toBe(
      "Paused: a canary failed. No further device begins; what is in flight goes on.",
    );
    expect(f({ state: "done" })).toBe("41 of 120 devices have a new secret; 2 failed, and keep their old one.");
    expect(f({ state: "done", counts: counts({ total: 3, done: 3 }) })).toBe("All 3 devices have a new secret.");
    expect(f({ state: "done", counts: counts({ total: 3, done: 2, skipped: 1 }) })).toBe(
      "2 of 3 devices have a new secret.",
    );
    expect(f({ state: "aborted", state_reason: "aborted by Ed" })).toMatch(/^Aborted by Ed\. 41/);
    expect(f({ state: "aborted" })).toBe("Aborted. 41 of 120 devices have a new secret.");
  });
  test("shows how far it is", () => {
    expect(progressWords(c.counts)).toBe("41 of 120 done, 2 failed, 5 in flight, 3 deferred");
    expect(waveWords(c.waves[1] ?? { number: 0, size: 0, done: 0, failed: 0, deferred: 0 })).toBe(
      "40 of 119 done, 2 failed, 3 deferred",
    );
    expect(rateWords(c)).toBe("4.7 % failed; it pauses itself above 20 %, once 10 devices ended.");
    expect(rateWords({ ...c, failure_rate: null })).toMatch(/^None has ended since it was resumed;/);
    expect(rateWords({ ...c, failure_rate: null, counts: counts({ total: 3 }) })).toMatch(/^None has ended yet;/);
  });
  test("can be steered as its state allows", () => {
    const s = (state: Campaign["state"]) => Object.values(steps({ state }));
    expect((["running", "waiting", "paused", "done", "aborted"] as const).map(s)).toEqual([
      [true, false, true],
      [true, false, true],
      [false, true, true],
      [false, false, false],
      [false, false, false],
    ]);
  });
});

describe("a bar", () => {
  const sum = (parts: { percent: number }[]) => parts.reduce((s, p) => s + p.percent, 0);
  test("is as wide as it is, and shows what there is one of", () => {
    const parts = partsOf(counts({ total: 10_000, done: 9_999, failed: 1 }));
    expect(parts.map((p) => p.state)).toEqual(["done", "failed"]);
    expect(sum(parts)).toBeCloseTo(100);
    expect(parts[1]?.percent).toBeGreaterThan(0.4);
  });
  test("of nothing is empty", () => expect(partsOf(counts({}))).toEqual([]));
  test("of a wave has what is left at its end", () => {
    const parts = partsOfWave({ number: 1, size: 8, done: 4, failed: 2, deferred: 0 });
    expect(parts).toEqual([
      { state: "done", percent: 50 },
      { state: "failed", percent: 25 },
      { state: "waiting", percent: 25 },
    ]);
  });
});
