// What the state of a rotation means, in sentences that somebody can act on at night.

import type { RotationState } from "../api/types";
import { duration } from "../parts/clock";
import type { Attempt, AttemptStep, Outcome, RotationDevice, Step, Story } from "./types";

/** Where the rotation of a device stands, as much of it as a sentence needs. */
export interface Standing {
  active: boolean;
  rotation_state: RotationState;
  step: Step;
  stuck: boolean;
  trouble: string | null;
  failures: number;
  started_at: string | null;
  deadline: string | null;
  retry_at: string | null;
  completed_at: string | null;
  secret_created_at: string | null;
  /** When the new secret was first handed out; undefined where that is not told. */
  fetched_at: string | null | undefined;
  believed: boolean;
}

/** Of a device of the dashboard. */
export function standingOf(d: RotationDevice): Standing {
  return {
    ...d,
    started_at: d.last_rotation_attempt_at,
    completed_at: d.last_rotation_completed_at,
    fetched_at: undefined,
    believed: false,
  };
}

/** Of a device's story. */
export function standingIn(s: Story, active: boolean): Standing {
  return { ...s, active };
}

/** Whether nothing goes on unless a person does something. */
export function needsPerson(s: Standing): boolean {
  return s.stuck || (s.rotation_state === "TIMEOUT" && s.retry_at === null);
}

/** What a state is, for a mark beside its sentence. */
export type Mood = "ok" | "busy" | "wait" | "warn" | "bad" | "off";

export function mood(s: Standing): Mood {
  if (s.stuck) return "bad";
  switch (s.rotation_state) {
    case "PENDING":
      return "busy";
    case "QUEUED":
      return "wait";
    case "TIMEOUT":
      return needsPerson(s) ? "bad" : "warn";
    default:
      return s.active ? "ok" : "off";
  }
}

/** How long until or since, to be read as it counts: "12 s", "4:48", "1:04:48", "2 d 3 h". */
export function countdown(milliseconds: number): string {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)}:${two(s % 60)}`;
  if (s < 86_400) return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return `${Math.floor(s / 86_400)} d ${Math.floor(s / 3600) % 24} h`;
}

/** How long something takes, in words that need not be exact: "under a minute", "12 minutes", "3 hours 20 minutes". */
export function about(seconds: number): string {
  const plural = (n: number, one: string) => `${n} ${one}${n === 1 ? "" : "s"}`;
  if (seconds < 60) return "under a minute";
  if (seconds < 3600) return plural(Math.round(seconds / 60), "minute");
  const minutes = Math.round(seconds / 60);
  const both = (a: string, n: number, b: string) => (n === 0 ? a : `${a} ${plural(n, b)}`);
  if (minutes < 48 * 60) return both(plural(Math.floor(minutes / 60), "hour"), minutes % 60, "minute");
  const hours = Math.round(minutes / 60);
  return both(plural(Math.floor(hours / 24), "day"), hours % 24, "hour");
}

const time = (at: string | null) => (at === null ? Number.NaN : Date.parse(at));

function since(at: string | null | undefined, now: number): string {
  const t = time(at ?? null);
  return Number.isNaN(t) ? "" : ` since ${countdown(now - t)}`;
}

/** "times out in 4:48", after a semicolon; nothing where no end is set. */
function until(deadline: string | null, now: number): string {
  const t = time(deadline);
  if (Number.isNaN(t)) return "";
  return t <= now ? "; its time is up" : `; times out in ${countdown(t - now)}`;
}

/** Where it stands in one sentence; `now` is the server's time. */
export function sentence(s: Standing, now: number): string {
  if (s.stuck) return `Stuck: ${strip(s.trouble) ?? "something outside failed too often"}.`;
  const tries = s.trouble === null ? "" : ` At the moment this fails, and is tried again: ${strip(s.trouble)}.`;
  switch (s.rotation_state) {
    case "QUEUED":
      return "Waits for its turn to get a new secret.";
    case "PENDING":
      switch (s.step) {
        case "idle":
        case "creating":
          return `A new secret is being made beside the old one${since(s.started_at, now)}.${tries}`;
        case "proven":
          return `The device uses its new secret; the old one is being withdrawn.${tries}`;
        default:
          if (s.fetched_at === undefined) {
            return `Waiting for the device to fetch its new secret and use it${since(s.started_at, now)}${until(s.deadline, now)}.${tries}`;
          }
          if (s.fetched_at === null) {
            return `Waiting for the device to fetch its new secret${since(s.started_at, now)}${until(s.deadline, now)}.${tries}`;
          }
          return `The device fetched its new secret ${countdown(now - time(s.fetched_at))} ago, and has still to use it${until(s.deadline, now)}.${tries}`;
      }
    case "TIMEOUT": {
      const what =
        s.fetched_at === undefined
          ? "Did not fetch and use its new secret in time"
          : s.fetched_at === null
            ? "Did not fetch its new secret in time"
            : "Fetched its new secret, but did not use it in time";
      const often = s.failures > 1 ? `, ${s.failures} times in a row` : "";
      const retry = time(s.retry_at);
      if (Number.isNaN(retry)) return `${what}${often}. It is not tried again by itself.`;
      const left = retry <= now ? "soon" : `in ${countdown(retry - now)}`;
      return `${what}${often}. Its old secret stays good, and it is tried again ${left}.`;
    }
    default: {
      if (!s.active) return "Inactive: the rotation of the fleet leaves it out.";
      if (s.believed) return "Seems to use its new secret; the old one stays good beside it until that is certain.";
      const made = time(s.completed_at);
      if (!Number.isNaN(made))
        return `In order: its secret was last rotated ${now - made < 1000 ? "just now" : `${duration(now - made)} ago`}.`;
      const first = time(s.secret_created_at);
      return Number.isNaN(first)
        ? "In order: its secret was never rotated."
        : `In order: it has its first secret, which is ${duration(now - first)} old.`;
    }
  }
}

/** Text of the server without the full stop that a sentence around it brings. */
function strip(text: string | null): string | null {
  return text === null ? null : text.trim().replace(/\.+$/, "");
}

/** What a person can do for a device that goes no further by itself; null where there is nothing to do. */
export function advice(s: Standing): string | null {
  if (s.stuck) {
    switch (s.step) {
      case "proven":
        return "The device works with its new secret. Only the old one could not be withdrawn: see that the identity provider can be reached, then retry.";
      case "offered":
        return "The device works with its old secret. See that the MQTT broker and the identity provider can be reached, then retry.";
      default:
        return "The device works with its old secret. See that the identity provider can be reached and lets Signalbox change clients, then retry.";
    }
  }
  if (s.rotation_state === "TIMEOUT" && needsPerson(s)) {
    return s.fetched_at
      ? "It works with its old secret, and may have the new one. Look in its log for why it did not use it, then rotate it again."
      : "It works with its old secret. See that it is on and connected, and that its firmware fetches new secrets, then rotate it again.";
  }
  return null;
}

/** What an editor can do about it now. */
export interface Possible {
  rotate: boolean;
  abort: boolean;
  retry: boolean;
}

export function possible(s: Standing): Possible {
  return {
    rotate: !s.stuck && (s.rotation_state === "OK" || s.rotation_state === "TIMEOUT"),
    abort: s.rotation_state === "QUEUED" || (s.rotation_state === "PENDING" && s.step !== "proven"),
    retry: s.stuck,
  };
}

/** How a step of an attempt is drawn. */
export type Tone = "plain" | "good" | "warn" | "bad";

const words: Record<string, { name: string; says: string; tone: Tone }> = {
  started: { name: "Started", says: "The attempt began. A new secret is made beside the old one.", tone: "plain" },
  offered: { name: "Ready", says: "The device can fetch the new secret. The old one still works.", tone: "plain" },
  told: { name: "Told", says: "The device was told over MQTT that there is a new secret for it.", tone: "plain" },
  fetched: { name: "Fetched", says: "The device fetched the new secret.", tone: "good" },
  switched: {
    name: "Switched",
    says: "The identity provider takes one secret at a time, and was changed",
    tone: "plain",
  },
  proven: { name: "Proven", says: "The device used the new secret: it has it.", tone: "good" },
  believed: {
    name: "Believed",
    says: "The device seems to use the new secret. Nothing proves it, so the old one is kept.",
    tone: "good",
  },
  withdrawn: { name: "Withdrawn", says: "The old secret was withdrawn. Only the new one works now.", tone: "good" },
  postponed: { name: "Put off", says: "The attempt waits for another turn:", tone: "plain" },
  reset: { name: "Set back", says: "Whatever secrets the device had are replaced by a new one.", tone: "warn" },
  aborted: {
    name: "Aborted",
    says: "Somebody ended the attempt. The device keeps the secret that it has.",
    tone: "warn",
  },
  "timed out": {
    name: "Timed out",
    says: "The device did not use the new secret in time. Its old one stays good.",
    tone: "bad",
  },
  failed: { name: "Failed", says: "Something outside failed, and is tried again:", tone: "warn" },
  stuck: { name: "Stuck", says: "It failed too often, and waits for a person:", tone: "bad" },
};

// What the runner says that it was at when something failed.
const doing: [RegExp, string][] = [
  [/^create: /, "making the new secret: "],
  [/^switch: /, "changing which secret is taken: "],
  [/^withdraw: /, "withdrawing the old secret: "],
  [/^tell: /, "telling the device: "],
];

/** A step in words: a short name, a sentence, and how it is drawn. A step that the page does not know is shown as it is. */
export function stepWords({ what, detail }: Pick<AttemptStep, "what" | "detail">): {
  name: string;
  says: string;
  tone: Tone;
} {
  const w = Object.hasOwn(words, what) ? words[what] : undefined;
  if (w === undefined) return { name: what, says: detail ?? "", tone: "plain" };
  if (what === "started" && detail === "its turn again") {
    return { name: "Goes on", says: "It is its turn again, and the attempt goes on.", tone: "plain" };
  }
  let more = what === "withdrawn" && detail === "the old secret" ? "" : (detail ?? "");
  for (const [word, plain] of doing) more = more.replace(word, plain);
  if (more === "") return { ...w, says: w.says.endsWith(".") ? w.says : `${w.says.replace(/:$/, "")}.` };
  // A sentence that is complete without its detail is followed by it.
  return { ...w, says: w.says.endsWith(".") ? `${w.says} (${more})` : `${w.says} ${strip(more)}.` };
}

const outcomes: Record<Outcome, { name: string; tone: Tone | "busy" }> = {
  "": { name: "Goes on", tone: "busy" },
  done: { name: "Done", tone: "good" },
  believed: { name: "Done, as it seems", tone: "good" },
  timeout: { name: "Timed out", tone: "bad" },
  aborted: { name: "Aborted", tone: "warn" },
};

/** What became of an attempt. */
export function outcomeWords(outcome: string): { name: string; tone: Tone | "busy" } {
  return Object.hasOwn(outcomes, outcome) ? outcomes[outcome as Outcome] : { name: outcome, tone: "plain" };
}

/** Who asked for an attempt and why, as the end of a line: "by Ed Editor: asked for". */
export function askedBy(a: Pick<Attempt, "actor" | "reason">): string {
  const by = a.actor ? `by ${a.actor}` : "by Signalbox itself";
  return a.reason ? `${by}: ${a.reason}` : by;
}

/** When something is due, as people say it: "today 08:00", "Saturday 08:00", "Saturday 4 July, 08:00"; with the name of the zone. */
export function dueWords(iso: string, zone: string, now: number): string {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return "";
  const part = (o: Intl.DateTimeFormatOptions, of: Date | number = at) => inZone(o, zone).format(of);
  const clock = part({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const name =
    inZone({ timeZoneName: "short", hour: "2-digit" }, zone)
      .formatToParts(at)
      .find((p) => p.type === "timeZoneName")?.value ?? "";
  const day: Intl.DateTimeFormatOptions = { year: "numeric", month: "numeric", day: "numeric" };
  const when = `${clock} ${name}`.trim();
  if (part(day) === part(day, now)) return `today ${when}`;
  const weekday = part({ weekday: "long" });
  const ahead = at.getTime() - now;
  // After six days the name of a weekday could mean two days.
  if (ahead > 0 && ahead < 6 * 86_400_000) return `${weekday} ${when}`;
  return `${weekday} ${part({ day: "numeric", month: "long" })}, ${when}`;
}

function inZone(o: Intl.DateTimeFormatOptions, zone: string): Intl.DateTimeFormat {
  const timeZone = zone === "local" ? undefined : zone === "utc" ? "UTC" : zone;
  try {
    return new Intl.DateTimeFormat("en-GB", timeZone === undefined ? o : { ...o, timeZone });
  } catch {
    return new Intl.DateTimeFormat("en-GB", o); // a zone that this browser does not know
  }
}
