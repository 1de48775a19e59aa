// The shapes of the HTTP API, as docs/API.md and the reference system have them.

export type Level = "error" | "warn" | "info" | "debug" | "verbose";

/** The most severe first. */
export const levels: readonly Level[] = ["error", "warn", "info", "debug", "verbose"];

/** One line of a device, of `GET /api/devices/{id}/logs` and `GET /api/logs`. */
export interface LogLine {
  /** When it was received, ISO 8601 with microseconds, UTC. */
  timestamp: string;
  message: string;
  /** `<epoch>-<seq>.<n>` */
  cursor: string;
  level?: Level | null;
  tag?: string | null;
  /** The device's own clock, milliseconds since it started. */
  uptime_ms?: number | null;
  device_id: number;
  device_key: string;
  device_entity_id: string | null;
  /** The document as the device sent it, with `documents=true`. */
  document?: Record<string, unknown>;
}

/** Lines that are missing from an answer or a stream. */
export interface Gap {
  device_id?: number;
  device_entity_id?: string | null;
  /** Exclusive. */
  from: string;
  /** Inclusive. */
  to: string;
  /** Lines; null where it is not known. */
  count: number | null;
  reason: string;
}

/** A page of the history. Lines are oldest first, whichever way it was read. */
export interface LogPage {
  logs: LogLine[];
  has_more: boolean;
  window_start: string | null;
  window_end: string | null;
  first_cursor: string | null;
  last_cursor: string | null;
  /** The answer is complete up to this cursor. */
  complete_to: string | null;
  gaps: Gap[];
}

export type RotationState = "OK" | "QUEUED" | "PENDING" | "TIMEOUT";

/** An item of `GET /api/devices`. */
export interface DeviceSummary {
  id: number;
  key: string;
  device_model_id: number;
  active: boolean;
  device_name: string | null;
  device_entity_id: string | null;
  enable_ota: boolean | null;
  rotation_state: RotationState;
  secret_created_at: string | null;
  last_coredump_at: string | null;
  tags: string[];
  /** It is locked out: its tokens and its secret are not taken. */
  revoked: boolean;
}

/** `GET /api/devices/{id}` */
export interface Device {
  id: number;
  key: string;
  device_model_id: number;
  device_model: { id: number; code: string; name: string; firmware_version: string | null };
  active: boolean;
  /** The JSON text as it was submitted; null for those who may not see the secrets that may be in it. */
  config: string | null;
  device_name: string | null;
  device_entity_id: string | null;
  enable_ota: boolean | null;
  rotation_state: RotationState;
  client_id: string;
  secret_created_at: string | null;
  last_rotation_attempt_at: string | null;
  last_rotation_completed_at: string | null;
  created_at: string;
  updated_at: string;
  tags: string[];
  /** It is locked out: its tokens and its secret are not taken. */
  revoked: boolean;
  /** What is wrong with it although it works, such as an entity id that another device has. */
  warnings: string[];
}

/** An item of `GET /api/device-models`. */
export interface ModelSummary {
  id: number;
  code: string;
  name: string;
  firmware_version: string | null;
  has_config_schema: boolean;
  device_count: number;
}

/** `GET /api/device-models/{id}` */
export interface Model extends ModelSummary {
  config_schema: string | null;
  created_at: string;
  updated_at: string;
}

/** What a device did lately, of `GET /api/fleet`. */
export interface Activity {
  device_id: number;
  last: { timestamp: string; message: string; level: Level | null; cursor: string } | null;
  lines_hour: number;
  errors_hour: number;
  watchers: number;
}

/** `GET /api/fleet?since=token` */
export interface Fleet {
  now: string;
  token: string;
  /** Every device is in it, not only those that changed. */
  complete: boolean;
  /** The numbers count the whole hour; not so shortly after the server's start, while it reads what was said before. */
  filled: boolean;
  devices: Activity[];
}

/** `GET /api/fleet/series?device_ids=…`: one number a minute, the oldest first. */
export interface FleetSeries {
  end: string;
  step: number;
  series: { device_id: number; lines: number[]; errors: number[] }[];
}

/** Whether a device is there, of `GET /api/presence`. */
export interface Presence {
  device_id: number;
  online: boolean;
  /** At the built-in broker. */
  sessions: number;
  last_seen_at: string | null;
  /** How it was last heard of. */
  last_source: "session" | "token" | "line" | null;
  /** Since when it is online, or is not; null: it never was. */
  since: string | null;
  /** Times that it went away in the last 24 hours. */
  drops_24h: number;
}

/** `GET /api/presence` */
export interface PresenceList {
  now: string;
  devices: Presence[];
}

/** `GET /api/devices/{id}/presence?hours=…` */
export interface PresenceStory extends Presence {
  now: string;
  /** By how much its clock is ahead of the server's; null: it never said. */
  clock_off_ms: number | null;
  /** When it came and went, the newest first. */
  history: { at: string; online: boolean; reason: string | null }[];
}

/** The built-in MQTT broker: `GET /api/broker` */
export interface Broker {
  /** What a device needs there: nothing, an access token, or its secret or a token. */
  auth: "off" | "token" | "secret";
  port: number;
  tls: boolean;
  /** Of the log. */
  topic: string;
  /** A device may publish to `topic` itself, and not only below it. */
  shared_topic: boolean;
  /** Where it gets its tokens. */
  token_url: string;
}

/** `GET /api/overview?since=…` */
export interface Overview {
  step: number;
  start: number;
  series: { name: string; unit: string; points: (number | null)[] }[];
}

/** `GET /api/auth/mode`: how people are told apart here. */
export interface Mode {
  /** off: they are not, and everybody is an admin. local: by accounts of Signalbox. oidc: by an identity provider. */
  mode: "off" | "local" | "oidc";
  /** Nobody logs in, and not only this machine can reach the server. */
  insecure: boolean;
  /** Nobody logs in yet, and the program has printed a link to make the first admin. */
  setup: boolean;
}

/** Which part of the fleet somebody has to do with: devices of these models, or with one of these tags. */
export interface Limit {
  models: string[];
  tags: string[];
}

export type Role = "viewer" | "editor" | "admin" | "pipeline";

/** `GET /api/auth/self` */
export interface Self {
  subject: string;
  email: string | null;
  name: string | null;
  roles: string[];
  mode: Mode["mode"];
  insecure: boolean;
  /** Null is the whole fleet. */
  limit: Limit | null;
  /** When the session ends if nothing is done with it. */
  expires_at: string | null;
  session: string | null;
  kind: string;
}

/** An item of `GET /api/account/sessions` */
export interface SessionInfo {
  id: string;
  created_at: string;
  seen_at: string | null;
  expires_at: string;
  address: string | null;
  agent: string | null;
  /** It is this browser's. */
  current: boolean;
}

/** An API token without its secret, of `GET /api/account/tokens` and `GET /api/tokens`. */
export interface TokenInfo {
  id: number;
  name: string;
  /** The first characters of the secret. */
  hint: string;
  roles: string[];
  limit: Limit | null;
  created_at: string;
  expires_at: string;
  used_at: string | null;
  /** Whose it is. */
  subject: string;
}

/** Somebody whom the server knows, of `GET /api/people`. */
export interface PersonInfo {
  id: number;
  subject: string;
  /** The identity provider knows their password and their roles. */
  external: boolean;
  username: string | null;
  name: string;
  email: string | null;
  roles: string[];
  limit: Limit | null;
  disabled: boolean;
  created_at: string;
  seen_at: string | null;
  /** Open now. */
  sessions: number;
  /** Good now. */
  tokens: number;
}

/** An item of `GET /api/audit` */
export interface AuditEvent {
  id: number;
  at: string;
  /** The subject of who did it; null is the program itself. */
  actor: string | null;
  /** What they were called then. */
  name: string | null;
  kind: string | null;
  /** Such as device.update. */
  action: string;
  /** Such as device/12; null if it is about nothing in particular. */
  target: string | null;
  /** What the target was called then. */
  label: string | null;
  /** "ok", or why not. */
  outcome: string;
  address: string | null;
  detail: Record<string, unknown> | null;
}

/** `GET /api/audit` */
export interface AuditPage {
  /** The newest first. */
  events: AuditEvent[];
  /** What `before` asks for the next page by; null when there is none. */
  next: number | null;
}
