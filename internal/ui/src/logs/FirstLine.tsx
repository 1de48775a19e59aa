import { Copy } from "../parts/Copy";

/** A shell's single word of any text. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Who sends a line: an entity id on the shared topic, or a client on its own topic below it. */
export type Sender = { entityId: string } | { clientId: string };

/** The command that sends a device's first line. */
export function publish(from: Sender, host: string): string {
  const message = "I (1) app: hello";
  const [topic, line] =
    "entityId" in from
      ? ["iotsupport/logsink", { entity_id: from.entityId, message }]
      : [`iotsupport/logsink/${from.clientId}`, { message }];
  return `mosquitto_pub -h ${host} -p 1883 -q 1 -t ${topic} -m ${quoted(JSON.stringify(line))}`;
}

/** What is shown where nothing was ever logged: how to send the first line. */
export function FirstLine({ from, name }: { from: Sender; name: string | null }) {
  return (
    <div className="empty">
      <h2>{name === null ? "No line yet" : `${name} has not said anything yet`}</h2>
      <p>Lines appear here the moment they arrive. Send the first one from any machine with an MQTT client:</p>
      <Copy text={publish(from, location.hostname)} />
      <p className="hint">
        If nothing comes, the server's own log says why. Its MQTT listener and topic can be others: see{" "}
        <code>MQTT_LISTEN</code> and <code>LOGSINK_TOPIC</code>.
      </p>
    </div>
  );
}
