// A campaign as it is made in a form, and as it runs.

import type {
  Campaign,
  CampaignCounts,
  CampaignDeviceState,
  CampaignRequest,
  CampaignState,
  CampaignWindow,
  Plan,
  Selection,
  Wave,
} from "./types";
import { about, dueWords } from "./words";

/** Which devices the form means. */
export type Who = "all" | "models" | "tags" | "devices";

/** What somebody has typed; numbers are text until they are read. */
export interface CampaignForm {
  name: string;
  reason: string;
  who: Who;
  models: number[];
  tags: string[];
  devices: number[];
  /** Only those whose secret is older than so many days; "" is any. */
  older: string;
  /** Only those that timed out. */
  late: boolean;
  inactive: boolean;
  canary: string;
  waveSize: string;
  inFlight: string;
  pauseMinutes: string;
  /** Whether it begins with devices only in the windows. */
  windowed: boolean;
  windows: CampaignWindow[];
  zone: string;
  /** Percent. */
  failureRate: string;
  minDevices: string;
  deferOffline: boolean;
  deferHours: string;
}

/** The form as it is opened: what harms least. `zone` is of the IANA data base. */
export function newForm(zone: string): CampaignForm {
  return {
    name: "",
    reason: "",
    who: "all",
    models: [],
    tags: [],
    devices: [],
    older: "",
    late: false,
    inactive: false,
    canary: "1",
    waveSize: "",
    inFlight: "1",
    pauseMinutes: "0",
    windowed: false,
    windows: [{ days: [1, 2, 3, 4, 5, 6, 7], from: "22:00", to: "05:00" }],
    zone,
    failureRate: "20",
    minDevices: "5",
    deferOffline: true,
    deferHours: "72",
  };
}

/** What the address of the form may say beforehand: `?devices=1,2`, `?models=3`, `?tags=lab`. */
export function presetForm(form: CampaignForm, search: string): CampaignForm {
  const q = new URLSearchParams(search);
  const list = (name: string) => (q.get(name) ?? "").split(",").filter((t) => t !== "");
  const ids = (name: string) => [
    ...new Set(
      list(name)
        .filter((t) => /^[1-9]\d{0,14}$/.test(t))
        .map(Number),
    ),
  ];
  const [devices, models, tags] = [ids("devices"), ids("models"), list("tags")];
  const who: Who = devices.length > 0 ? "devices" : models.length > 0 ? "models" : tags.length > 0 ? "tags" : form.who;
  return { ...form, devices, models, tags, who };
}

/** Of which field something is wrong, and what. */
export type Faults = Partial<Record<keyof CampaignForm, string>>;

/** Reads the form: the request, or what is wrong with it. */
export function readForm(
  f: CampaignForm,
): { request: CampaignRequest; faults: null } | { request: null; faults: Faults } {
  const faults: Faults = {};
  const whole = (field: keyof CampaignForm, from: number, to: number, empty: number): number => {
    const text = String(f[field]).trim();
    if (text === "") return empty;
    const n = Number(text);
    if (/^\d+$/.test(text) && n >= from && n <= to) return n;
    faults[field] = `A whole number from ${from.toLocaleString("en")} to ${to.toLocaleString("en")}`;
    return empty;
  };
  const name = f.name.trim();
  if (name === "") faults.name = "It needs a name, by which people will know it";
  else if (name.length > 100) faults.name = "100 characters at most";
  const selection: Selection = {};
  switch (f.who) {
    case "all":
      selection.all = true;
      break;
    case "models":
      selection.model_ids = f.models;
      if (f.models.length === 0) faults.models = "Choose at least one model";
      break;
    case "tags":
      selection.tags = f.tags;
      if (f.tags.length === 0) faults.tags = "Choose at least one tag";
      break;
    case "devices":
      selection.device_ids = f.devices;
      if (f.devices.length === 0) faults.devices = "Choose at least one device";
  }
  const older = whole("older", 1, 36_500, 0);
  if (older > 0) selection.secret_older_than_days = older;
  if (f.late) selection.states = ["TIMEOUT"];
  if (f.inactive) selection.include_inactive = true;
  const canary = whole("canary", 0, 1_000_000, 0);
  const rate = whole("failureRate", 0, 100, 20);
  const request: CampaignRequest = {
    name,
    selection,
    wave_size: whole("waveSize", 0, 1_000_000, 0),
    in_flight: whole("inFlight", 1, 1_000, 1),
    pause_failure_rate: rate / 100,
    pause_min_devices: whole("minDevices", 1, 1_000_000, 5),
    wave_pause_seconds: whole("pauseMinutes", 0, 7 * 24 * 60, 0) * 60,
    defer_offline: f.deferOffline,
  };
  if (f.reason.trim() !== "") request.reason = f.reason.trim();
  request.canary = { count: canary }; // without it the server takes one
  if (f.deferOffline) request.defer_hours = whole("deferHours", 1, 24 * 365, 72);
  if (f.windowed) {
    request.windows = f.windows;
    request.timezone = f.zone;
    if (f.windows.length === 0) faults.windows = "Add a window, or let it run at any time";
    else if (f.windows.some((w) => w.days.length === 0)) faults.windows = "A window needs at least one day";
    else if (f.windows.some((w) => !clock.test(w.from) || !clock.test(w.to)))
      faults.windows = "A window needs two times of day";
    else if (f.windows.some((w) => w.from === w.to)) faults.windows = "A window that ends when it begins is never open";
  }
  return Object.keys(faults).length === 0 ? { request, faults: null } : { request: null, faults };
}

const clock = /^([01]\d|2[0-3]):[0-5]\d$/;

const dayNames = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/** The days of a window in short: "every day", "Mon–Fri", "Sat, Sun". */
export function daysWords(days: readonly number[]): string {
  const sorted = [...new Set(days)].filter((d) => d >= 1 && d <= 7).sort();
  if (sorted.length === 7) return "every day";
  const runs: [number, number][] = [];
  for (const d of sorted) {
    const last = runs[runs.length - 1];
    if (last && last[1] === d - 1) last[1] = d;
    else runs.push([d, d]);
  }
  const name = (d: number) => dayNames[d - 1];
  return runs
    .map(([from, to]) =>
      from === to ? name(from) : to === from + 1 ? `${name(from)}, ${name(to)}` : `${name(from)}–${name(to)}`,
    )
    .join(", ");
}

/** A window in words: "Mon–Fri 22:00 to 05:00 the next day". */
export function windowWords(w: CampaignWindow): string {
  return `${daysWords(w.days)} ${w.from} to ${w.to}${w.to <= w.from ? " the next day" : ""}`;
}

const plural = (n: number, one: string, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** What was selected, in words; `chosen` is how many devices were, where not all of them are told. */
export function selectionWords(s: Selection, chosen = s.device_ids?.length ?? 0): string {
  const parts: string[] = [];
  if (chosen > 0) parts.push(plural(chosen, "chosen device"));
  if (s.model_ids?.length) parts.push(`devices of ${plural(s.model_ids.length, "model")}`);
  if (s.tags?.length) parts.push(`devices tagged ${s.tags.join(" or ")}`);
  let text = parts.length === 0 ? "all devices" : parts.join(", ");
  if (s.secret_older_than_days) text += ` whose secret is older than ${plural(s.secret_older_than_days, "day")}`;
  if (s.states?.length === 1 && s.states[0] === "TIMEOUT") text += ", only those that timed out";
  else if (s.states?.length) text += `, only those in ${s.states.join(" or ")}`;
  if (s.include_inactive) text += ", inactive ones too";
  return text;
}

/** What a plan comes to, in one sentence. */
export function planWords(p: Plan): string {
  if (p.devices === 0) return "No device fits this selection, so there is nothing to rotate.";
  const n = p.waves.length;
  const first = p.waves[0];
  const waves = n <= 1 ? "in one wave" : `in ${n} waves, the first of ${plural(first?.size ?? 0, "device")}`;
  return `${plural(p.devices, "device")} ${waves}. It takes about ${about(p.expected_seconds)}.`;
}

const risks: Record<string, string> = {
  unseen: "Not seen lately",
  flaky: "Connection drops often",
  clock: "Its clock is wrong",
  failed_before: "Timed out before",
  revoked: "Revoked",
  busy: "In a rotation already",
};

/** What a risk is called; one that the page does not know is shown as it is. */
export function riskWords(kind: string): string {
  return Object.hasOwn(risks, kind) ? (risks[kind] ?? kind) : kind;
}

export const stateWords: Record<CampaignState, { name: string; kind: "" | "ok" | "warn" | "error" }> = {
  running: { name: "Running", kind: "ok" },
  waiting: { name: "Waiting", kind: "" },
  paused: { name: "Paused", kind: "warn" },
  done: { name: "Done", kind: "" },
  aborted: { name: "Aborted", kind: "error" },
};

/** Why a campaign is as it is, in one sentence; `now` is the server's time. */
export function campaignSentence(c: Campaign, zone: string, now: number): string {
  const n = c.counts;
  const reason = c.state_reason === null ? null : c.state_reason.trim().replace(/\.+$/, "");
  switch (c.state) {
    case "running": {
      const wave = c.waves.length > 1 ? `Wave ${c.wave} of ${c.waves.length}: ` : "";
      const busy = `${plural(n.in_flight, "device")} ${n.in_flight === 1 ? "is" : "are"} being rotated, at most ${c.in_flight_limit} at once`;
      const text = `${wave}${busy}.`;
      return text[0]?.toUpperCase() + text.slice(1);
    }
    case "waiting": {
      if (c.next_window_at !== null) {
        return `Goes on ${dueWords(c.next_window_at, zone, now)}; until then it is outside its windows.`;
      }
      return `Waits: ${reason ?? "for its next wave"}.`;
    }
    case "paused":
      return `${because("Paused", reason)}. No further device begins; what is in flight goes on.`;
    case "done":
      return n.failed > 0
        ? `${n.done.toLocaleString("en")} of ${plural(n.total, "device")} have a new secret; ${n.failed.toLocaleString("en")} failed, and keep their old one.`
        : n.done === n.total
          ? `${n.total === 1 ? "The device has" : `All ${plural(n.total, "device")} have`} a new secret.`
          : `${n.done.toLocaleString("en")} of ${plural(n.total, "device")} have a new secret.`;
    default:
      return `${because("Aborted", reason)}. ${n.done.toLocaleString("en")} of ${plural(n.total, "device")} have a new secret.`;
  }
}

/** "Paused by Ed" and "Paused: a canary failed", whichever the server says. */
function because(what: string, reason: string | null): string {
  if (reason === null) return what;
  return reason.toLowerCase().startsWith(what.toLowerCase()) ? what + reason.slice(what.length) : `${what}: ${reason}`;
}

/** A part of a bar, in percent of it. */
export interface Part {
  state: CampaignDeviceState;
  percent: number;
}

const inOrder = ["done", "failed", "skipped", "in_flight", "deferred", "waiting"] as const;

/** The bar of a whole campaign. What there is at all can be seen: no part is narrower than half a percent. */
export function partsOf(c: CampaignCounts): Part[] {
  return bar(inOrder.map((state) => [state, c[state]]));
}

/** The bar of one wave, of which less is told. */
export function partsOfWave(w: Wave): Part[] {
  const rest = Math.max(0, w.size - w.done - w.failed - w.deferred);
  return bar([
    ["done", w.done],
    ["failed", w.failed],
    ["deferred", w.deferred],
    ["waiting", rest],
  ]);
}

function bar(counts: [CampaignDeviceState, number][]): Part[] {
  const some = counts.filter(([, n]) => n > 0);
  const total = some.reduce((sum, [, n]) => sum + n, 0);
  const wide = some.map(([state, n]) => ({ state, percent: Math.max(0.5, (100 * n) / total) }));
  const sum = wide.reduce((s, p) => s + p.percent, 0);
  return wide.map((p) => ({ ...p, percent: (100 * p.percent) / sum }));
}

const names: Record<CampaignDeviceState, string> = {
  done: "done",
  failed: "failed",
  skipped: "skipped",
  in_flight: "in flight",
  deferred: "deferred",
  waiting: "waiting",
};

/** What a device's state in a campaign is called. */
export function deviceStateName(state: CampaignDeviceState): string {
  return names[state] ?? state;
}

/** The bar in words: "45 of 120 done, 2 failed, 5 in flight". */
export function progressWords(c: CampaignCounts): string {
  const rest = inOrder.filter((s) => s !== "done" && s !== "waiting" && c[s] > 0);
  return [
    `${c.done.toLocaleString("en")} of ${c.total.toLocaleString("en")} done`,
    ...rest.map((s) => `${c[s].toLocaleString("en")} ${names[s]}`),
  ].join(", ");
}

/** The same of a wave. */
export function waveWords(w: Wave): string {
  const parts = [`${w.done.toLocaleString("en")} of ${w.size.toLocaleString("en")} done`];
  if (w.failed > 0) parts.push(`${w.failed.toLocaleString("en")} failed`);
  if (w.deferred > 0) parts.push(`${w.deferred.toLocaleString("en")} deferred`);
  return parts.join(", ");
}

/** What the failure rate is, and at which it pauses itself. */
export function rateWords(c: Pick<Campaign, "failure_rate" | "pause_failure_rate" | "options" | "counts">): string {
  const percent = (r: number) => `${Math.round(r * 1000) / 10} %`;
  const from = c.options?.pause_min_devices ?? 5;
  const limit = `it pauses itself above ${percent(c.pause_failure_rate)}, once ${plural(from, "device")} ended`;
  // It is counted anew when somebody has it go on.
  const none = c.counts.done + c.counts.failed === 0 ? "None has ended yet" : "None has ended since it was resumed";
  return c.failure_rate === null ? `${none}; ${limit}.` : `${percent(c.failure_rate)} failed; ${limit}.`;
}

/** What can be done with a campaign. */
export function steps(c: Pick<Campaign, "state">): { pause: boolean; resume: boolean; abort: boolean } {
  const goes = c.state === "running" || c.state === "waiting";
  return { pause: goes, resume: c.state === "paused", abort: goes || c.state === "paused" };
}
