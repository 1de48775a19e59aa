import { useQuery } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import { Link } from "wouter";
import { brokerQuery } from "../api/devices";
import type { Broker, ModelSummary } from "../api/types";
import { useSession } from "../identity/index";
import { limitWords, may } from "../identity/roles";
import { FirstLineCommands } from "../logs/FirstLine";
import { publish } from "../logs/publish";
import { Copy } from "../parts/Copy";
import { ImportDevices } from "../provisioning/ImportDevices";
import type { FleetRow } from "./rows";
import { fleetStore } from "./store";

/** The command that makes something; where people log in it needs an API token. */
function post(path: string, body: unknown, token: boolean): string {
  return `curl ${location.origin}${path}${token ? ' -H "Authorization: Bearer $TOKEN"' : ""} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
}

/** The command that plays a fleet. */
function simulate(broker: Broker | null, token: boolean): string {
  const words = [
    ...(token ? ['SIGNALBOX_TOKEN="$TOKEN"'] : []),
    "signalbox sim --devices 20 --server",
    location.origin,
  ];
  if (broker) words.push("--mqtt", `${broker.tls ? "mqtts" : "mqtt"}://${location.hostname}:${broker.port}`);
  if (broker && broker.topic !== "iotsupport/logsink") words.push("--topic", broker.topic);
  if (broker && broker.auth !== "off") words.push("--login", broker.auth);
  return words.join(" ");
}

/** The fleet page of a server without devices: the way to the first line, by the page or by commands. */
export function Welcome({ models }: { models: readonly ModelSummary[] }) {
  const model = models[0];
  const { self } = useSession();
  const { data: broker } = useQuery(brokerQuery);
  const token = self !== null && self.mode !== "off";
  const command = publish({ id: 0, entityId: "kitchen", clientId: null }, location.hostname, broker ?? null);
  if (!may(self, "editor")) {
    return (
      <div className="view">
        <div className="empty">
          <h1>No devices yet</h1>
          <p>
            {self?.limit
              ? `What you may see is ${limitWords(self.limit)}, and there is none of those.`
              : "They are shown here as soon as an editor has made them known."}
          </p>
        </div>
      </div>
    );
  }
  return (
    <div className="view">
      <div className="page welcome">
        <h1>No devices yet</h1>
        <p>
          Three steps to the first line. Each can be done here, or by a command
          {token && (
            <>
              {" "}
              with an API token of <Link href="/account">your account</Link> in <code>TOKEN</code>
            </>
          )}
          .
        </p>
        <ol>
          <li className={model ? "done" : undefined}>
            <h2>Make a device model</h2>
            {model ? (
              <p>
                Done: there is <Link href={`/models/${model.id}`}>{model.code}</Link>.
              </p>
            ) : (
              <>
                <p>
                  Devices of one kind share a model. It may have a schema, which the configuration of its devices must
                  follow.
                </p>
                <Copy text={post("/api/device-models", { code: "sensor", name: "Sensor" }, token)} />
                <Link href="/models/new" className="button primary">
                  New model
                </Link>
              </>
            )}
          </li>
          <li>
            <h2>Make a device known</h2>
            <p>
              By the entity id in its configuration Signalbox knows which lines are its. This page shows it as soon as
              it is there.
            </p>
            <Copy
              text={post(
                "/api/devices",
                {
                  device_model_id: model?.id ?? 1,
                  config: JSON.stringify({ deviceName: "Kitchen", deviceEntityId: "kitchen" }),
                },
                token,
              )}
            />
            <Link href="/devices/new" className={model ? "button primary" : "button"}>
              New device
            </Link>{" "}
            {model && <ImportDevices />}
          </li>
          <li>
            <h2>Send its first line</h2>
            <p>A line is JSON on an MQTT topic. The built-in broker takes it.</p>
            {command === null ? (
              <p>Devices prove there who they are: the page of the device, once it is made, says with which command.</p>
            ) : (
              <Copy text={command} />
            )}
          </li>
        </ol>
        <p>Or have a look with twenty simulated devices:</p>
        <Copy text={simulate(broker ?? null, token)} />
      </div>
    </div>
  );
}

/** Below the devices, until any of them has said something: how to send the first line. */
export function FirstLine({ rows }: { rows: readonly FleetRow[] }) {
  const quiet = useSyncExternalStore(fleetStore.watch, () => {
    if (!fleetStore.status().known) return false;
    for (const s of fleetStore.seen.values()) if (s.at !== null) return false;
    return true;
  });
  const row = rows.find((r) => r.device.device_entity_id !== null);
  if (!quiet || !row || rows.length > 5) return null;
  return (
    <div className="first-line">
      <h2>Nothing was said yet</h2>
      <p>Send the first line of {row.title}:</p>
      <FirstLineCommands from={{ id: row.device.id, entityId: row.device.device_entity_id, clientId: null }} />
    </div>
  );
}
