import { expect, test } from "vitest";
import type { Broker, DeviceSummary } from "../api/types";
import { behind } from "./address";
import { findDevices } from "./DevicePicker";
import { publish } from "./publish";

const broker: Broker = {
  auth: "off",
  port: 1884,
  tls: false,
  topic: "iotsupport/logsink",
  shared_topic: true,
  token_url: "http://box:3101/oauth/token",
};
const sender = { id: 7, entityId: "kitchen", clientId: "iotdevice-thermo-k1" };

test("the command survives a shell, whatever the device is called", () => {
  expect(publish({ ...sender, entityId: 'it\'s "x" $HOME' }, "box", null)).toBe(
    `mosquitto_pub -h box -p 1883 -q 1 -t iotsupport/logsink -m '{"entity_id":"it'\\''s \\"x\\" $HOME","message":"I (1) app: hello"}'`,
  );
});

test("a device without an entity id has a topic of its own", () => {
  expect(publish({ ...sender, entityId: null }, "box", broker)).toContain(
    `-p 1884 -q 1 -t iotsupport/logsink/iotdevice-thermo-k1 -m '{"message":`,
  );
  expect(publish({ ...sender, entityId: null, clientId: null }, "box", broker)).toBe(null);
});

test("where devices prove who they are, the command does", () => {
  const client = "-i iotdevice-thermo-k1 -u iotdevice-thermo-k1 -P";
  const topic = "-q 1 -t iotsupport/logsink/iotdevice-thermo-k1 -m";
  expect(publish(sender, "box", { ...broker, auth: "secret", tls: true })).toContain(
    `-p 1884 --capath /etc/ssl/certs ${client} "$SECRET" ${topic}`,
  );
  expect(publish(sender, "box", { ...broker, auth: "token" })).toContain(
    `${client} "$(curl -s -u "iotdevice-thermo-k1:$SECRET" -d grant_type=client_credentials 'http://box:3101/oauth/token' |`,
  );
  expect(publish({ ...sender, clientId: null }, "box", { ...broker, auth: "token" })).toBe(null);
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
