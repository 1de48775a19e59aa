// The shapes of the HTTP API of rotation, as docs/API.md has them. Times are ISO 8601.

import type { RotationState } from "../api/types";

/** How far the new secret of a device has come: there is none, it is being made, it can be fetched, it was used. */
export type Step = "idle" | "creating" | "offered" | "proven";

/** `GET /api/rotation/status`: the fleet's rotation in figures. */
export interface RotationStatus {
  counts_by_state: Record<RotationState, number>;
  inactive: number;
  pending_device_id: number | null;
  last_rotation_completed_at: string | null;
  next_scheduled_rotation: string | null;
  /** Devices that are in an attempt now. */
  in_flight: number;
  /** Devices for which something outside failed too often. */
  stuck: number;
  /** Null without ROTATION_CRON. */
  schedule: { cron: string; timezone: string; last_scheduled_at: string | null } | null;
  oldest_secret_at: string | null;
}

/** A device of `GET /api/rotation/dashboard`. */
export interface RotationDevice {
  id: number;
  key: string;
  device_name: string | null;
  device_model_code: string;
  active: boolean;
  rotation_state: RotationState;
  last_rotation_completed_at: string | null;
  days_since_rotation: number | null;
  /** Something outside failed too often, and a person ought to look at it. */
  stuck: boolean;
  /** Attempts that timed out since the last one that did not. */
  failures: number;
  step: Step;
  secret_created_at: string | null;
  last_rotation_attempt_at: string | null;
  /** When the attempt times out. */
  deadline: string | null;
  /** When a device that timed out is tried again; null: when a person says so. */
  retry_at: string | null;
  /** Why something outside failed. */
  trouble: string | null;
  campaign_id: number | null;
}

export type Group = "healthy" | "warning" | "critical" | "inactive";

/** `GET /api/rotation/dashboard` */
export type Dashboard = Record<Group, RotationDevice[]> & { counts: Record<Group, number> };

/** What became of an attempt; "" goes on. */
export type Outcome = "" | "done" | "believed" | "timeout" | "aborted";

/** A line of the history of an attempt. */
export interface AttemptStep {
  at: string;
  /** A word such as "fetched"; a server newer than the page may say others. */
  what: string;
  detail: string | null;
}

/** One rotation of a device's secret. */
export interface Attempt {
  number: number;
  actor: string | null;
  reason: string | null;
  campaign_id: number | null;
  started_at: string;
  ended_at: string | null;
  outcome: Outcome;
  /** The oldest first. */
  steps: AttemptStep[];
}

/** `GET /api/devices/{id}/rotation`: one device's story. */
export interface Story {
  rotation_state: RotationState;
  step: Step;
  stuck: boolean;
  trouble: string | null;
  failures: number;
  /** Counts from 1; 0: there was none. */
  attempt: number;
  started_at: string | null;
  deadline: string | null;
  /** When the new secret was first handed out. */
  fetched_at: string | null;
  retry_at: string | null;
  completed_at: string | null;
  secret_created_at: string | null;
  /** It seems to use its new secret, and the old one stays good beside it. */
  believed: boolean;
  campaign_id: number | null;
  /** The newest first. */
  attempts: Attempt[];
}

export type CampaignState = "running" | "waiting" | "paused" | "done" | "aborted";

/** When a campaign may begin with devices. */
export interface CampaignWindow {
  /** 1 is Monday, 7 is Sunday. */
  days: number[];
  /** "22:00" */
  from: string;
  /** "04:00"; before `from` it is of the next day. */
  to: string;
}

/** Which devices a campaign rotates. */
export interface Selection {
  all?: boolean;
  device_ids?: number[];
  model_ids?: number[];
  tags?: string[];
  secret_older_than_days?: number;
  states?: RotationState[];
  include_inactive?: boolean;
}

/** The body of `POST /api/rotation/campaigns`. */
export interface CampaignRequest {
  name: string;
  reason?: string | null;
  selection: Selection;
  canary?: { count: number };
  /** 0: the rest in one wave. */
  wave_size?: number;
  in_flight?: number;
  /** 0 to 1. */
  pause_failure_rate?: number;
  pause_min_devices?: number;
  wave_pause_seconds?: number;
  windows?: CampaignWindow[];
  timezone?: string;
  defer_offline?: boolean;
  defer_hours?: number;
  dry_run?: boolean;
}

export type RiskKind = "unseen" | "flaky" | "clock" | "failed_before" | "revoked" | "busy";

/** What a campaign would do: the answer to a dry run. */
export interface Plan {
  devices: number;
  waves: { number: number; size: number; devices: number[] }[];
  expected_seconds: number;
  expected_end: string;
  at_risk: {
    device_id: number;
    key: string;
    device_name: string | null;
    risks: { kind: RiskKind | string; detail: string }[];
  }[];
  excluded: { device_id: number; key: string; reason: string }[];
}

export interface Wave {
  number: number;
  size: number;
  done: number;
  failed: number;
  deferred: number;
}

/** A rotation of many devices, of `GET /api/rotation/campaigns/{id}`. */
export interface Campaign {
  id: number;
  name: string;
  reason: string | null;
  state: CampaignState;
  state_reason: string | null;
  created_by: string | null;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  expected_end: string | null;
  next_window_at: string | null;
  in_flight_limit: number;
  /** 0 to 1: above it the campaign pauses itself. */
  pause_failure_rate: number;
  /** The one that it is at; counts from 1. */
  wave: number;
  waves: Wave[];
  counts: CampaignCounts;
  /** 0 to 1; null while nothing has ended. */
  failure_rate: number | null;
  /** As it was asked for, with what was left out; of a long list of devices only the first. */
  options: CampaignRequest & { device_ids_count?: number };
}

export interface CampaignCounts {
  total: number;
  waiting: number;
  deferred: number;
  in_flight: number;
  done: number;
  failed: number;
  skipped: number;
}

export type CampaignDeviceState = "waiting" | "deferred" | "in_flight" | "done" | "failed" | "skipped";

/** A device of `GET /api/rotation/campaigns/{id}/devices`. */
export interface CampaignDevice {
  device_id: number;
  key: string;
  device_name: string | null;
  wave: number;
  state: CampaignDeviceState;
  reason: string | null;
  started_at: string | null;
  ended_at: string | null;
}

/** A page of them. */
export interface CampaignDevices {
  devices: CampaignDevice[];
  /** What `after` asks for the next page by; null when there is none. */
  next: number | null;
}
