import { useSyncExternalStore } from "react";
import { Link } from "wouter";
import type { ModelSummary } from "../api/types";
import { useSession } from "../identity/index";
import { limitWords, may } from "../identity/roles";
import { Copy } from "../parts/Copy";
import type { FleetRow } from "./rows";
import { fleetStore } from "./store";

/** The command by which a line comes from a device, to the topic that the server listens to unless it is told otherwise. */
function publish(entity: string): string {
  const message = JSON.stringify({ entity_id: entity, message: "I (1234) main: hello" }).replaceAll("'", "'\\''");
  return `mosquitto_pub -h ${location.hostname} -q 1 -t iotsupport/logsink -m '${message}'`;
}

/** The command that makes something; where people log in it needs an API token. */
function post(path: string, body: unknown, token: boolean): string {
  return `curl ${location.origin}${path}${token ? ' -H "Authorization: Bearer $TOKEN"' : ""} -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
}

/** The fleet page of a server without devices: the way to the first line, by the page or by commands. */
export function Welcome({ models }: { models: readonly ModelSummary[] }) {
  const model = models[0];
  const { self } = useSession();
  const token = self !== null && self.mode !== "off";
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
            </Link>
          </li>
          <li>
            <h2>Send its first line</h2>
            <p>A line is JSON on an MQTT topic. The built-in broker takes it.</p>
            <Copy text={publish("kitchen")} />
          </li>
        </ol>
        <p>Or have a look with twenty simulated devices:</p>
        <Copy text={`signalbox sim --devices 20 --server ${location.origin}`} />
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
      <Copy text={publish(row.device.device_entity_id ?? "")} />
    </div>
  );
}
