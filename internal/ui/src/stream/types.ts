// What the page asks of the one event stream that all tabs of a browser share.

import type { Gap, LogLine } from "../api/types";

/** Whose lines are followed: one device, those of a model, or all. */
export type Target = { device: number } | { model: number } | { all: true };

/** What of them; the empty string is no condition. Only sets are filtered by the server, a device's lines all come. */
export interface Condition {
  level: string;
  tag: string;
  query: string;
  regex: string;
}

/** What a follower is told, in the order of the stream. */
export type StreamMessage =
  /** From here on every line of the target comes: what is journalled later than the server's answer to a history request made now. */
  | { kind: "following"; devices: number }
  /** The stream had to begin anew without knowing where it was: lines may be missing until `following` comes again. */
  | { kind: "lost" }
  /** Lines of one device, in order. */
  | { kind: "lines"; lines: LogLine[] }
  /** Lines of one device that will not come. */
  | { kind: "gap"; gap: Gap }
  /** The target cannot be followed: it is gone, or not allowed. */
  | { kind: "refused"; status: number; message: string };

/** The state of the connection, as it is shown. */
export interface StreamStatus {
  /**
   * idle: nobody follows anything. connecting: for the first time. live: the server was heard within two heartbeats.
   * silent: connected, but nothing was heard for longer. reconnecting: lost. refused: the server will not have us.
   * signed-out: it does not know who we are, and is asked again when somebody has logged in.
   */
  state: "idle" | "connecting" | "live" | "silent" | "reconnecting" | "refused" | "signed-out";
  /** When the state began, Date.now(). */
  since: number;
  /** When anything was heard last, a heartbeat included; Date.now(). */
  heard: number;
  /** How old the newest line was when it came, milliseconds by the server's clock; above a few seconds the stream is behind. */
  lag: number;
  /** When the next attempt is due, Date.now(); null when none is. */
  retryAt: number | null;
  /** Why it was lost or refused. */
  reason: string | null;
  /** Of signed-out: why the session has ended, if the server said so. */
  ended: "expired" | "revoked" | "logout" | null;
  /** The server's version when it changed under the open page, else null. */
  newVersion: string | null;
}

/** A follower's handle. */
export interface Follow {
  close(): void;
}

/** The stream as a tab sees it. */
export interface StreamClient {
  /**
   * Follows a target until the handle is closed. The answer is `following`, then every line of it, each once, across lost
   * connections and restarts of the server; what cannot come is a `gap`.
   */
  follow(target: Target, condition: Condition, told: (m: StreamMessage) => void): Follow;
  status(): StreamStatus;
  /** Calls back when the status changed; the answer ends that. */
  watch(changed: () => void): () => void;
  /** Tries again at once instead of at the time that is due. */
  retry(): void;
}
