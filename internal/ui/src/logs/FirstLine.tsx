import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { brokerQuery } from "../api/devices";
import { useMay, useSession } from "../identity/index";
import { Copy } from "../parts/Copy";
import { askSecret, publish, type Sender } from "./publish";

/** How the first line of a device is sent: one command or, where devices prove who they are, two. */
export function FirstLineCommands({ from }: { from: Sender }) {
  const { data: broker, isPending } = useQuery(brokerQuery);
  const { self } = useSession();
  const editor = useMay("editor");
  if (isPending) return null;
  const command = publish(from, location.hostname, broker ?? null);
  if (command === null) {
    return (
      <p>
        Devices prove at the broker who they are: <Link href={`/devices/${from.id}`}>the page of the device</Link> says
        with which command.
      </p>
    );
  }
  const login = self !== null && self.mode !== "off";
  return (
    <>
      {broker && broker.auth !== "off" && (
        <>
          <p>
            The device proves at the broker who it is, with{" "}
            {broker.auth === "secret" ? "its secret" : "a token that it gets for its secret"}.{" "}
            {!editor && "An editor can give you the secret; put it into SECRET."}
            {editor && login && (
              <>
                First get the secret, with an API token of <Link href="/account">your account</Link> in{" "}
                <code>TOKEN</code>:
              </>
            )}
            {editor && !login && "First get the secret:"}
          </p>
          {editor && <Copy text={askSecret(from.id, location.origin, login)} />}
          <p>Then:</p>
        </>
      )}
      <Copy text={command} />
    </>
  );
}

/** What is shown where nothing was ever logged: how to send the first line. */
export function FirstLine({ from, name }: { from: Sender; name: string | null }) {
  return (
    <div className="empty">
      <h2>{name === null ? "No line yet" : `${name} has not said anything yet`}</h2>
      <p>Lines appear here the moment they arrive. Send the first one from any machine with an MQTT client:</p>
      <FirstLineCommands from={from} />
      <p className="hint">
        If nothing comes, the server's own log says why. With <code>MQTT_LISTEN</code> on a loopback address, only the
        server's own machine reaches its broker.
      </p>
    </div>
  );
}
