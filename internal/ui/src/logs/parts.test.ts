import { expect, test } from "vitest";
import type { DeviceSummary } from "../api/types";
import { behind } from "./address";
import { findDevices } from "./DevicePicker";
import { publish } from "./FirstLine";

test("the command survives a shell, whatever the device is called", () => {
  expect(publish({ entityId: 'it\'s "x" $HOME' }, "box")).toBe(
    `mosquitto_pub -h box -p 1883 -q 1 -t iotsupport/logsink -m '{"entity_id":"it'\\''s \\"x\\" $HOME","message":"I (1) app: hello"}'`,
  );
});

test("a device without an entity id has a topic of its own", () => {
  expect(publish({ clientId: "iotsupport-thermo-k1" }, "box")).toContain(
    `-t iotsupport/logsink/iotsupport-thermo-k1 -m '{"message":`,
  );
});

test("what is before the cursor behind a line ends with it", () => {
  expect(behind("pqje4r77-741.0")).toBe("pqje4r77-741.1");
  expect(behind("pqje4r77-741.99")).toBe("pqje4r77-741.100");
});

test("devices are found by every word of name, entity id or key", () => {
  const device = (id: number, device_name: string | null, device_entity_id: string | null) =>
    ({ id, key: `key${id}`, device_name, device_entity_id }) as DeviceSummary;
  const all = [device(1, "Pump house", "sim-0001"), device(2, null, "pump-2"), device(3, "House", null)];
  const found = (text: string) => findDevices(all, text).map((d) => d.id);
  expect(found("")).toEqual([1, 2, 3]);
  expect(found("PUMP")).toEqual([1, 2]);
  expect(found("house 0001")).toEqual([1]);
  expect(found("key3")).toEqual([3]);
  expect(found("barn")).toEqual([]);
});
