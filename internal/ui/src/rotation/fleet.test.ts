import { expect, test } from "vitest";
import { countRotatable, readView, rowsOf, selectRows, writeView } from "./fleet";
import type { Dashboard, RotationDevice } from "./types";

let n = 0;
function device(key: string, d: Partial<RotationDevice> = {}): RotationDevice {
  return {
    id: ++n,
    key,
    device_name: null,
    device_model_code: "relay",
    active: true,
    rotation_state: "OK",
    last_rotation_completed_at: null,
    days_since_rotation: null,
    stuck: false,
    failures: 0,
    step: "idle",
    secret_created_at: null,
    last_rotation_attempt_at: null,
    deadline: null,
    retry_at: null,
    trouble: null,
    campaign_id: null,
    ...d,
  };
}

const dashboard: Dashboard = {
  healthy: [
    device("young", { secret_created_at: "2026-07-01T00:00:00Z" }),
    device("old", { secret_created_at: "2026-01-01T00:00:00Z", device_name: "Pump house", device_model_code: "pump" }),
    device("now", { rotation_state: "PENDING", step: "offered" }),
    device("next", { rotation_state: "QUEUED" }),
    device("jam", { rotation_state: "PENDING", step: "creating", stuck: true }),
  ],
  warning: [device("late", { rotation_state: "TIMEOUT", retry_at: "2026-07-04T00:00:00Z" })],
  critical: [device("lost", { rotation_state: "TIMEOUT", retry_at: "2026-07-04T00:00:00Z" })],
  inactive: [device("off", { active: false })],
  counts: { healthy: 5, warning: 1, critical: 1, inactive: 1 },
};
const rows = rowsOf(dashboard);
const keys = (text: string, group: Parameters<typeof selectRows>[1]["group"] = null) =>
  selectRows(rows, { text, group }).map((r) => r.device.key);

test("those that need a look come first, then those whose secret is oldest", () => {
  expect(keys("")).toEqual(["jam", "lost", "late", "now", "next", "old", "young", "off"]);
  expect(rows.filter((r) => r.person).map((r) => r.device.key)).toEqual(["jam"]);
});

test("a view shows a part of them", () => {
  expect(keys("PUMP house")).toEqual(["old"]);
  expect(keys("relay late")).toEqual(["late"]);
  expect(keys("", "critical")).toEqual(["lost"]);
  expect(keys("", "moving")).toEqual(["jam", "now", "next"]);
  expect(keys("old", "inactive")).toEqual([]);
});

test("the address holds the view", () => {
  for (const v of [
    { text: "", group: null },
    { text: "pump & co", group: "moving" },
    { text: "", group: "healthy" },
  ] as const) {
    expect(readView(writeView(v))).toEqual(v);
  }
  expect(writeView({ text: "", group: null })).toBe("");
  expect(readView("?group=toString&q=x")).toEqual({ text: "x", group: null });
});

test("only what is active and in order is rotated with all", () => {
  expect(countRotatable(rows)).toBe(2);
});
