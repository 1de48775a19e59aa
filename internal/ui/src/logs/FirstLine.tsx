import { Copy } from "../parts/Copy";

/** A shell's single word of any text. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The command that sends a device's first line. */
export function publish(entityId: string, host: string): string {
  const line = JSON.stringify({ entity_id: entityId, message: "I (1) app: hello" });
  return `mosquitto_pub -h ${host} -p 1883 -q 1 -t iotsupport/logsink -m ${quoted(line)}`;
}

/** What is shown where nothing was ever logged: how to send the first line. */
export function FirstLine({ entityId, name }: { entityId: string | null; name: string | null }) {
  return (
    <div className="empty">
      <h2>{name === null ? "No line yet" : `${name} has not said anything yet`}</h2>
      {entityId === null && name !== null ? (
        <p>
          It has no entity id, by which a line on the shared topic says which device it is from. Give it one in its
          settings, or have it publish on a topic of its own, below <code>iotsupport/logsink</code>.
        </p>
      ) : (
        <>
          <p>Lines appear here the moment they arrive. Send the first one from any machine with an MQTT client:</p>
          <Copy text={publish(entityId ?? "kitchen", location.hostname)} />
          <p className="hint">
            If nothing comes, the server's own log says why. Its MQTT listener and topic can be others: see{" "}
            <code>MQTT_LISTEN</code> and <code>LOGSINK_TOPIC</code>.
          </p>
        </>
      )}
    </div>
  );
}
