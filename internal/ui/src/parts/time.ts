// Times as people read them, in the zone they prefer.

const formats = new Map<string, Intl.DateTimeFormat>();

function format(zone: string): Intl.DateTimeFormat {
  let f = formats.get(zone);
  if (!f) {
    const timeZone = zone === "local" ? undefined : zone === "utc" ? "UTC" : zone;
    const options: Intl.DateTimeFormatOptions = {
      dateStyle: "medium",
      timeStyle: "medium",
      hourCycle: "h23",
    };
    try {
      f = new Intl.DateTimeFormat("en-GB", timeZone === undefined ? options : { ...options, timeZone });
    } catch {
      f = new Intl.DateTimeFormat("en-GB", options); // a zone that this browser does not know
    }
    formats.set(zone, f);
  }
  return f;
}

/** A date with its time of day, "4 Jul 2026, 08:00:00"; `zone` as in the preferences. */
export function formatTime(at: number | string, zone: string): string {
  const time = typeof at === "number" ? at : Date.parse(at);
  return Number.isNaN(time) ? "" : format(zone).format(time);
}
