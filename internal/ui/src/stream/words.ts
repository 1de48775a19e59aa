// The state of the stream in words.

import type { StreamStatus } from "./types";

/** How the state looks: good, worth a look, or bad. */
export type Mood = "good" | "off" | "warn" | "bad";

export interface Words {
  mood: Mood;
  /** In the bar. */
  word: string;
  /** In the tooltip: what it means, and what can be done. */
  detail: string;
  /** For a screen reader, said when it changes: it has no numbers that count down. */
  said: string;
  /** What a button can do about it. */
  action: { name: string; kind: "retry" | "reload" } | null;
}

/** A stream whose newest line was older than that when it came is behind; clocks and networks explain the rest. */
const behindAfter = 5_000;

/** Says how the stream does. */
export function words(s: StreamStatus, now: number): Words {
  const seconds = (ms: number) => `${Math.max(0, Math.round(ms / 1000))} s`;
  const heard = s.heard === 0 ? "" : ` The server was heard ${seconds(now - s.heard)} ago.`;
  const why = s.reason === null ? "" : ` ${s.reason}`;
  const reload = s.newVersion === null ? null : ({ name: "Reload for the new version", kind: "reload" } as const);
  switch (s.state) {
    case "idle":
      return { mood: "off", word: "Not connected", detail: "Nothing is followed.", said: "", action: reload };
    case "connecting":
      return { mood: "off", word: "Connecting", detail: `Connecting to the server.${why}`, said: "", action: null };
    case "live":
      if (s.lag > behindAfter) {
        const word = `Behind by ${seconds(s.lag)}`;
        const detail = `Lines come, but ${seconds(s.lag)} late: the stream is catching up.${heard}`;
        return { mood: "warn", word, detail, said: "The stream is behind.", action: reload };
      }
      return {
        mood: "good",
        word: "Live",
        detail: `Lines come as they are logged.${heard}`,
        said: "Live.",
        action: reload,
      };
    case "silent":
      return {
        mood: "warn",
        word: `Silent for ${seconds(now - s.heard)}`,
        detail: `The connection is open, but even the server's heartbeat does not come.${heard}`,
        said: "The server is silent.",
        action: { name: "Reconnect", kind: "retry" },
      };
    case "reconnecting": {
      const wait = s.retryAt === null ? 0 : s.retryAt - now;
      return {
        mood: "bad",
        word: wait > 500 ? `Reconnecting in ${seconds(wait)}` : "Reconnecting",
        detail: `The connection was lost.${why} No line is lost: the stream goes on where it was.${heard}`,
        said: "The connection was lost.",
        action: s.retryAt === null ? null : { name: "Now", kind: "retry" },
      };
    }
    case "signed-out":
      return {
        mood: "bad",
        word: "Logged out",
        detail: `Your session has ended.${why} The stream goes on where it was when you have logged in again.`,
        said: "Your session has ended.",
        action: null,
      };
    case "refused":
      return {
        mood: "bad",
        word: "Refused",
        detail: s.reason ?? "The server refuses the stream.",
        said: `The server refuses the stream.${why}`,
        action: { name: "Try again", kind: "retry" },
      };
  }
}
