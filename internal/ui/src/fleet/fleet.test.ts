import { describe, expect, it } from "vitest";
import type { Activity, DeviceSummary, Fleet, ModelSummary } from "../api/types";
import { buildRows, merge, type Seen } from "./rows";
import { type FleetView, formatView, logsAddress, parseView, select, sortBy, standardView, summarise } from "./view";

const now = Date.parse("2026-07-04T12:00:00Z");

function device(id: number, change: Partial<DeviceSummary> = {}): DeviceSummary {
  return {
    id,
    key: `key0000${id}`,
    device_model_id: 1,
    active: true,
    device_name: `Device ${id}`,
    device_entity_id: `entity_${id}`,
    enable_ota: null,
    rotation_state: "OK",
    secret_created_at: null,
    last_coredump_at: null,
    tags: [],
    revoked: false,
    ...change,
  };
}

function activity(id: number, change: Partial<Activity> & { ago?: number } = {}): Activity {
  const { ago = 0, ...rest } = change;
  const timestamp = new Date(now - ago * 1000).toISOString();
  return {
    device_id: id,
    last: { timestamp, message: `says ${id}`, level: null, cursor: `e-${id}.${ago}` },
    lines_hour: 0,
    errors_hour: 0,
    watchers: 0,
    ...rest,
  };
}

function answer(devices: Activity[], complete = false): Fleet {
  return { now: new Date(now).toISOString(), token: "t", complete, filled: true, devices };
}

function known(...devices: Activity[]): Map<number, Seen> {
  const map = new Map<number, Seen>();
  merge(map, answer(devices, true));
  return map;
}

const models: ModelSummary[] = [
  { id: 1, code: "sensor", name: "Sensor", firmware_version: null, has_config_schema: false, device_count: 3 },
  { id: 2, code: "gate", name: "Garden gate", firmware_version: null, has_config_schema: true, device_count: 1 },
];

describe("the address of a view", () => {
  it("is empty for the usual one", () => {
    expect(formatView(standardView)).toBe("");
    expect(parseView("")).toEqual(standardView);
  });

  it("comes back as it was", () => {
    const view: FleetView = {
      text: "kitchen & 50% +1",
      model: 3,
      errors: true,
      silent: 15,
      state: "TIMEOUT",
      sort: "errors",
      descending: true,
    };
    expect(parseView(formatView(view))).toEqual(view);
    expect(formatView({ ...standardView, sort: "name", descending: true })).toBe("sort=-name");
  });

  it("leaves out what it does not understand", () => {
    expect(parseView("sort=-nonsense&model=x&silent=-3&state=broken&errors=yes")).toEqual(standardView);
  });
});

describe("the devices of a view", () => {
  const rows = buildRows(
    [
      device(1, { device_name: "Boiler 10", key: "aaaaaaa1" }),
      device(2, { device_name: "boiler 9", key: "bbbbbbb2", device_model_id: 2, rotation_state: "TIMEOUT" }),
      device(3, { device_name: null, device_entity_id: "attic", active: false }),
      device(4, {
        device_name: null,
        device_entity_id: null,
        key: "zzzzzzz4",
        rotation_state: "TIMEOUT",
        active: false,
      }),
    ],
    models,
  );
  const seen = known(
    activity(1, { ago: 5, lines_hour: 60, errors_hour: 2 }),
    activity(2, { ago: 900, lines_hour: 600 }),
    activity(3, { last: null, watchers: 1 }),
  );
  const ids = (v: Partial<FleetView>) => select(rows, seen, { ...standardView, ...v }, now).map((row) => row.device.id);

  it("stand by name as people count, whatever the case", () => {
    expect(ids({})).toEqual([3, 2, 1, 4]);
    expect(ids({ descending: true })).toEqual([4, 1, 2, 3]);
  });

  it("are found by every word in name, entity id, key, client id or model", () => {
    expect(ids({ text: "BOILER" })).toEqual([2, 1]);
    expect(ids({ text: "boiler garden" })).toEqual([2]);
    expect(ids({ text: "attic" })).toEqual([3]);
    expect(ids({ text: "iotdevice-sensor-aaaaaaa1" })).toEqual([1]);
    expect(ids({ text: "zzzz" })).toEqual([4]);
    expect(ids({ text: "boiler nowhere" })).toEqual([]);
  });

  it("are narrowed by model, state, errors and silence", () => {
    expect(ids({ model: 2 })).toEqual([2]);
    expect(ids({ state: "TIMEOUT" })).toEqual([2]);
    expect(ids({ state: "INACTIVE" })).toEqual([3, 4]);
    expect(ids({ errors: true })).toEqual([1]);
    expect(ids({ silent: 10 })).toEqual([3, 2, 4]);
    expect(ids({ silent: 20 })).toEqual([3, 4]);
  });

  it("are sorted by what they do, ties by name", () => {
    expect(ids({ sort: "lines", descending: true })).toEqual([2, 1, 3, 4]);
    expect(ids({ sort: "when", descending: true })).toEqual([1, 2, 3, 4]);
    expect(ids({ sort: "watchers", descending: true })).toEqual([3, 2, 1, 4]);
    expect(ids({ sort: "model" })).toEqual([2, 3, 1, 4]);
    expect(ids({ sort: "state" })).toEqual([1, 2, 3, 4]);
    expect(ids({ sort: "entity" })[3]).toBe(4);
  });

  it("are summed up", () => {
    expect(summarise(rows, seen, now)).toEqual({ devices: 4, errors: 1, silent: 3 });
  });
});

it("sorts the busiest first at a column's first click, and turns at its second", () => {
  const once = sortBy(standardView, "errors");
  expect([once.sort, once.descending]).toEqual(["errors", true]);
  expect(sortBy(once, "errors").descending).toBe(false);
  expect(sortBy(once, "entity").descending).toBe(false);
});

describe("an answer of the server", () => {
  it("changes only the devices in which something changed", () => {
    const map = known(activity(1), activity(2));
    const two = map.get(2);
    const changed = merge(map, answer([activity(1, { ago: -2, lines_hour: 1 }), activity(2), activity(3)]));
    expect([...changed].sort()).toEqual([1, 3]);
    expect(map.get(1)?.at).toBe(now + 2000);
    expect(map.get(2)).toBe(two);
    expect(map.size).toBe(3);
  });

  it("counts errors that fell out of the hour as a change", () => {
    const map = known(activity(1, { errors_hour: 2 }));
    expect([...merge(map, answer([activity(1, { errors_hour: 1 })]))]).toEqual([1]);
    expect(map.get(1)?.errors_hour).toBe(1);
  });

  it("forgets, when complete, the devices that are gone", () => {
    const map = known(activity(1), activity(2));
    expect([...merge(map, answer([activity(2)], true))]).toEqual([1]);
    expect([...map.keys()]).toEqual([2]);
  });
});

it("addresses the log of one device, of several, and of all", () => {
  expect(logsAddress([7])).toBe("/devices/7");
  expect(logsAddress([1, 2])).toBe("/logs?devices=1,2");
  expect(logsAddress([], " beacon timeout ")).toBe("/logs?q=beacon%20timeout");
});
