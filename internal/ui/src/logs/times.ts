// Times as they are shown: in the zone that somebody prefers, by the device's clock, or as how long ago.

const formats = new Map<string, Intl.DateTimeFormat>();

function format(zone: string, kind: "minute" | "day" | "parts"): Intl.DateTimeFormat {
  const key = `${kind} ${zone}`;
  let f = formats.get(key);
  if (f === undefined) {
    const timeZone = zone === "local" ? undefined : zone === "utc" ? "UTC" : zone;
    const options: Intl.DateTimeFormatOptions =
      kind === "day"
        ? { weekday: "short", day: "numeric", month: "short", year: "numeric" }
        : { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" };
    f = new Intl.DateTimeFormat(kind === "day" ? undefined : "en-GB", { ...options, timeZone, hourCycle: "h23" });
    formats.set(key, f);
  }
  return f;
}

/** The parts of a moment in a zone, as numbers in text: "2026-07-04" and "14:02". */
function parts(at: Date, zone: string): { date: string; minute: string } {
  const p: Record<string, string> = {};
  for (const { type, value } of format(zone, "parts").formatToParts(at)) p[type] = value;
  return { date: `${p.year}-${p.month}-${p.day}`, minute: `${p.hour}:${p.minute}` };
}

// Formatting costs microseconds, and all lines of a minute have the same answer: no zone has an offset of seconds.
let cache = new Map<string, { date: string; minute: string }>();

function minuteOf(iso: string, zone: string): { date: string; minute: string } {
  const key = zone + iso.slice(0, 16);
  let known = cache.get(key);
  if (known === undefined) {
    if (cache.size > 2000) cache = new Map();
    known = parts(new Date(`${iso.slice(0, 16)}:00Z`), zone);
    cache.set(key, known);
  }
  return known;
}

/** The time of day with milliseconds of a timestamp of the API, which is ISO 8601 in UTC: "14:02:11.123". */
export function clock(iso: string, zone: string): string {
  return `${minuteOf(iso, zone).minute}:${iso.slice(17, 19)}.${(/\.(\d+)/.exec(iso)?.[1] ?? "").padEnd(3, "0").slice(0, 3)}`;
}

/** "2026-07-04" */
export function dateOf(iso: string, zone: string): string {
  return minuteOf(iso, zone).date;
}

/** "2026-07-04 14:02:11.123", as it is copied. */
export function stamp(iso: string, zone: string): string {
  return `${dateOf(iso, zone)} ${clock(iso, zone)}`;
}

/** The day in the reader's language: "Sat, 4 Jul 2026". */
export function day(iso: string, zone: string): string {
  return format(zone, "day").format(new Date(iso));
}

/** How long ago: "0.4 s", "12 s", "5 min 02", "3 h 07", "2 d 04 h". */
export function ago(iso: string, now: number): string {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const two = (n: number) => String(Math.floor(n)).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)}`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${two((seconds % 3600) / 60)}`;
  return `${Math.floor(seconds / 86_400)} d ${two((seconds % 86_400) / 3600)} h`;
}

/** The device's clock: "81.234", "2:01:21.234", "1d 02:01:21.234". */
export function uptime(ms: number): string {
  const two = (n: number) => String(n).padStart(2, "0");
  const whole = Math.floor(ms / 1000);
  const rest = `.${String(Math.floor(ms % 1000)).padStart(3, "0")}`;
  if (whole < 60) return `${whole}${rest}`;
  const s = two(whole % 60);
  const m = Math.floor(whole / 60) % 60;
  const h = Math.floor(whole / 3600) % 24;
  if (whole < 3600) return `${m}:${s}${rest}`;
  if (whole < 86_400) return `${h}:${two(m)}:${s}${rest}`;
  return `${Math.floor(whole / 86_400)}d ${two(h)}:${two(m)}:${s}`;
}

/** What a field of the kind datetime-local shows for a moment in the zone. */
export function toLocal(at: Date, zone: string): string {
  const p = parts(at, zone);
  return `${p.date}T${p.minute}:${String(at.getUTCSeconds()).padStart(2, "0")}`;
}

/** The moment that such a field means in the zone; null when it is empty. Of two, when clocks are set back, the first. */
export function fromLocal(text: string, zone: string): Date | null {
  const wanted = Date.parse(`${text}Z`);
  if (Number.isNaN(wanted)) return null;
  // The offset there is not known before the moment is. Those a day before and after are the only ones it can be.
  let best: number | null = null;
  for (const near of [wanted - 86_400_000, wanted + 86_400_000]) {
    const at = wanted - offset(near, zone);
    if (at + offset(at, zone) === wanted && (best === null || at < best)) best = at;
  }
  return new Date(best ?? wanted - offset(wanted - 86_400_000, zone));
}

function offset(at: number, zone: string): number {
  const minute = Math.floor(at / 60_000) * 60_000;
  const p = parts(new Date(minute), zone);
  return Date.parse(`${p.date}T${p.minute}:00Z`) - minute;
}
