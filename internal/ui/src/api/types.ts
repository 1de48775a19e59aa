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
}

/** `GET /api/devices/{id}` */
export interface Device {
  id: number;
  key: string;
  device_model_id: number;
  device_model: { id: number; code: string; name: string; firmware_version: string | null };
  active: boolean;
  /** The JSON text as it was submitted. */
  config: string;
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

/** `GET /api/overview?since=…` */
export interface Overview {
  step: number;
  start: number;
  series: { name: string; unit: string; points: (number | null)[] }[];
}

/** `GET /api/auth/self` */
export interface Self {
  subject: string;
  email: string | null;
  name: string | null;
  roles: string[];
}
