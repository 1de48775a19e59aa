import { ago, useNow } from "./clock";
import { usePreferences } from "./preferences";
import { formatTime } from "./time";

/** A moment of the API, in the reader's zone, and how long ago it was; `never` stands where there is none. */
export function Time({ at, never = "never" }: { at: string | null; never?: string }) {
  const { zone } = usePreferences();
  const time = at === null ? Number.NaN : Date.parse(at);
  const text = useNow((now) => (Number.isNaN(time) || time > now + 1000 ? "" : ago(time, now)));
  if (at === null || Number.isNaN(time)) return <span className="hint">{never}</span>;
  return (
    <time dateTime={at}>
      {formatTime(time, zone)} <span className="hint">{text}</span>
    </time>
  );
}

/** How long ago a moment was, with the moment itself in its tooltip. */
export function Ago({ at, never = "never" }: { at: string | null; never?: string }) {
  const { zone } = usePreferences();
  const time = at === null ? Number.NaN : Date.parse(at);
  const text = useNow((now) => (Number.isNaN(time) ? "" : ago(time, now)));
  if (at === null || Number.isNaN(time)) return <>{never}</>;
  return (
    <time dateTime={at} title={formatTime(time, zone)}>
      {text}
    </time>
  );
}
