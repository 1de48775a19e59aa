// The commands by which a device sends its first line.

import type { Broker } from "../api/types";

/** A shell's single word of any text. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The device that sends a line. */
export interface Sender {
  id: number;
  entityId: string | null;
  /** Null if it is not at hand; the device's own page has it. */
  clientId: string | null;
}

/** Where the server says nothing of a broker of its own: what it has unless it is told otherwise. */
const usual: Broker = {
  auth: "off",
  port: 1883,
  tls: false,
  topic: "iotsupport/logsink",
  shared_topic: true,
  token_url: "",
};

/**
 * The command that sends a device's first line; null when that cannot be said of this sender. Where the broker asks devices who they
 * are, the secret is in `$SECRET`.
 */
export function publish(from: Sender, host: string, broker: Broker | null): string | null {
  const b = broker ?? usual;
  const open = b.auth === "off";
  const shared = open && b.shared_topic && from.entityId !== null;
  if (!shared && from.clientId === null) return null;
  const message = "I (1) app: hello";
  const [topic, line] = shared
    ? [b.topic, { entity_id: from.entityId, message }]
    : [`${b.topic}/${from.clientId}`, { message }];
  const words = ["mosquitto_pub", "-h", host, "-p", String(b.port)];
  if (b.tls) words.push("--capath", "/etc/ssl/certs");
  if (!open) {
    words.push("-i", String(from.clientId), "-u", String(from.clientId), "-P");
    words.push(b.auth === "secret" ? '"$SECRET"' : `"$(${token(String(from.clientId), b.token_url)})"`);
  }
  words.push("-q", "1", "-t", topic, "-m", quoted(JSON.stringify(line)));
  return words.join(" ");
}

/** The command that prints a device's access token, without a program that every machine may not have. */
function token(clientId: string, url: string): string {
  return `curl -s -u "${clientId}:$SECRET" -d grant_type=client_credentials ${quoted(url)} | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'`;
}

/** The command that puts a device's secret into `$SECRET`; where people log in, with an API token. */
export function askSecret(id: number, origin: string, login: boolean): string {
  const header = login ? ' -H "Authorization: Bearer $TOKEN"' : "";
  return `SECRET=$(curl -s${header} ${origin}/api/devices/${id}/credentials | sed 's/.*"client_secret":"\\([^"]*\\)".*/\\1/')`;
}
