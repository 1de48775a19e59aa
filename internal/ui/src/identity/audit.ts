// The audit in the page: its filter in the address, and what was done in words.

import type { AuditEvent } from "../api/types";

/** Which events are shown; "" is no condition. */
export interface AuditFilter {
  actor: string;
  /** One that ends with * is what begins so. */
  action: string;
  target: string;
  /** ISO 8601 */
  since: string;
  until: string;
}

export const noAuditFilter: AuditFilter = { actor: "", action: "", target: "", since: "", until: "" };

const names = ["actor", "action", "target", "since", "until"] as const;

/** The filter that an address holds. What is no time is left out. */
export function readAuditFilter(search: string): AuditFilter {
  const q = new URLSearchParams(search);
  const f = { ...noAuditFilter };
  for (const n of names) f[n] = (q.get(n) ?? "").trim().slice(0, 200);
  for (const n of ["since", "until"] as const) {
    const at = Date.parse(f[n]);
    f[n] = f[n] === "" || Number.isNaN(at) ? "" : new Date(at).toISOString();
  }
  return f;
}

/** The address of a filter, from its `?` on; "" for none. */
export function writeAuditFilter(f: AuditFilter): string {
  const q = new URLSearchParams();
  for (const n of names) if (f[n] !== "") q.set(n, f[n].replace(/\.000Z$/, "Z"));
  const text = q.toString();
  return text === "" ? "" : `?${text}`;
}

/** What can be chosen. */
export const auditActions: readonly [value: string, name: string][] = [
  ["login*", "Logins, good and bad"],
  ["login.failed", "Failed logins"],
  ["logout", "Logouts"],
  ["session.*", "Sessions ended"],
  ["password.*", "Passwords changed"],
  ["device.*", "Devices changed"],
  ["model.*", "Models changed"],
  ["secret.*", "Secrets seen"],
  ["link.*", "Links to secrets"],
  ["devices.*", "Devices imported, exported"],
  ["config.*", "Configs read"],
  ["logs.*", "Logs watched, read, exported"],
  ["person.*", "People changed"],
  ["token.*", "API tokens"],
];

const whole: Record<string, string> = {
  login: "logged in",
  "login.failed": "failed to log in",
  logout: "logged out",
  setup: "made the first admin",
  "session.end": "ended a session",
  "session.end-all": "ended all sessions",
  "secret.read": "saw the secrets of",
  "logs.watch": "watched the log of",
  "logs.read": "read the log of",
  "config.read": "read the config of",
  "logs.export": "exported the log of",
  "audit.export": "exported the audit",
  "link.create": "made a link to the secrets of",
  "link.delete": "deleted a link to the secrets of",
  "devices.import": "imported devices",
  "devices.export": "exported the devices",
  "password.change": "changed their password",
  "password.reset": "set the password of",
  "deadletters.purge": "purged the dead letters",
  "deadletters.retry": "sent the dead letters again",
};

const verbs: Record<string, string> = {
  create: "made",
  update: "changed",
  delete: "deleted",
  revoke: "revoked",
  restore: "restored",
  rotate: "rotated the secret of",
  provision: "provisioned",
  sync: "synchronised",
  password: "set the password of",
  sessions: "ended the sessions of",
  retry: "retried",
  disable: "disabled",
  enable: "enabled",
  upload: "uploaded",
  read: "read",
  end: "ended",
};

const nouns: Record<string, string> = {
  device: "the device",
  model: "the model",
  person: "the account",
  people: "the account",
  account: "the account",
  token: "the API token",
  session: "the session",
  firmware: "the firmware",
  rotation: "the rotation",
};

function own(words: Record<string, string>, name: string): string | undefined {
  return Object.hasOwn(words, name) ? words[name] : undefined;
}

/** What was done, as it follows who did it: "changed the device". An action that is new is said as it is. */
export function actionWords(action: string): string {
  const known = own(whole, action);
  if (known !== undefined) return known;
  const [noun = "", verb = ""] = action.split(/[.:](.*)/);
  const v = own(verbs, verb.replace(/^.*\./, ""));
  const n = own(nouns, noun);
  return v !== undefined && n !== undefined ? `${v} ${n}` : action;
}

/** What it was done to: by its name, or else as it was asked for. "" if it was done to nothing. */
export function calledWords(e: Pick<AuditEvent, "action" | "target" | "label" | "detail">): string {
  const named = e.label ?? e.target;
  if (named !== null || !e.action.startsWith("logs.")) return named ?? "";
  const asked = e.detail ?? {};
  if (asked.all === true) return "all devices";
  if (typeof asked.device_id === "number") return `device/${asked.device_id}`;
  if (typeof asked.model_id === "number") return `the devices of model/${asked.model_id}`;
  return "several devices";
}

/** The page that shows a target, null where there is none. */
export function targetAddress(target: string | null): string | null {
  if (target === null) return null;
  const device = /^device\/([1-9]\d{0,14})$/.exec(target);
  if (device) return `/devices/${device[1]}`;
  const model = /^model\/([1-9]\d{0,14})$/.exec(target);
  if (model) return `/models/${model[1]}`;
  if (/^(person|people|account)\//.test(target)) return "/people";
  return null;
}

/** Who did it. Of a login that failed only the name is known that was typed. */
export function actorName(e: Pick<AuditEvent, "actor" | "name" | "address" | "detail">): string {
  const typed = e.detail?.username;
  if (e.name || e.actor) return e.name || e.actor || "";
  if (typeof typed === "string" && typed !== "") return typed;
  return e.address === null ? "Signalbox" : "somebody";
}

/** An outcome that is not "ok", in words. */
export function outcomeWords(outcome: string): string {
  const known: Record<string, string> = {
    refused: "refused",
    revoked: "revoked",
    expired: "expired",
    missing: "not logged in",
    forbidden: "not allowed",
    missing_role: "not allowed",
    invalid: "not valid",
    too_many: "too many attempts",
    internal: "failed",
    unavailable: "not available",
  };
  return own(known, outcome) ?? outcome.replaceAll("_", " ");
}
