import { useEffect, useState, useSyncExternalStore } from "react";
import { usePreferences } from "../parts/preferences";
import type { StreamClient } from "../stream/types";
import { count, plural } from "./text";
import { ago, clock, dateOf, day } from "./times";
import type { LogModel } from "./types";
import type { Viewport } from "./viewport";

/** Date.now(), again every so many milliseconds: for what need not be drawn with every line. */
export function useTick(every: number, on = true): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!on) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every, on]);
  return now;
}

const quietAfter = 10_000; // milliseconds without a line before it is said that the stream is live all the same

/** Below the rows: whether the stream is live, quiet or behind, how much is held, and which day is looked at. */
export function StatusLine({ viewport, stream }: { viewport: Viewport; stream: StreamClient }) {
  const now = useTick(500);
  const status = useSyncExternalStore(
    (changed) => stream.watch(changed),
    () => stream.status(),
  );
  const { zone } = usePreferences();
  const { log, following } = viewport.view();
  const [first] = viewport.inSight();
  const last = lastTime(log.rows);

  let kind = "quiet";
  let text: string;
  if (log.stream === "joining") text = "Joining the stream…";
  else if (typeof log.stream === "object") [kind, text] = ["bad", "Not live"];
  else if (["reconnecting", "refused", "signed-out"].includes(status.state)) [kind, text] = ["bad", "Not live"];
  else if (status.state === "silent") [kind, text] = ["bad", `Nothing heard for ${ago(iso(status.heard), now)}`];
  else if (log.newer !== "end") text = "In the history";
  else if (!following) text = "Paused";
  else if (last !== null && now - Date.parse(last) > quietAfter) {
    kind = "live";
    const date = dateOf(last, zone) === dateOf(iso(now), zone) ? "" : `${dateOf(last, zone)} `;
    text = `Live; no line since ${date}${clock(last, zone).slice(0, 8)}`;
  } else if (status.lag > 5000) [kind, text] = ["bad", `Behind by ${ago(iso(now - status.lag), now)}`];
  else [kind, text] = ["live", "Live"];

  return (
    <footer className="status-line">
      <span className={`state ${kind}`} title={text}>
        <span className="dot" aria-hidden="true" />
        {text}
      </span>
      <span className="grow" />
      {first?.kind === "line" && <span className="wide-only">{day(first.line.timestamp, zone)}</span>}
      <span>
        {log.rows.length === log.held
          ? `${plural(log.held, "line")} held`
          : `${count(log.rows.length)} of ${plural(log.held, "line")}`}
      </span>
    </footer>
  );
}

/** Over the rows, when the stream is not what it should be. They stay. */
export function StreamBar({ stream, log }: { stream: StreamClient; log: LogModel }) {
  const status = useSyncExternalStore(
    (changed) => stream.watch(changed),
    () => stream.status(),
  );
  const refused = useSyncExternalStore(log.watch.bind(log), () => {
    const s = log.snapshot().stream;
    return typeof s === "object" ? s.refused : null;
  });
  const lost = status.state === "reconnecting" || status.state === "silent" || status.state === "refused";
  const now = useTick(500, lost);
  if (refused !== null) {
    return (
      <div className="stream-bar" role="alert">
        New lines are not shown: {refused}
      </div>
    );
  }
  if (status.state === "signed-out") {
    return (
      <div className="stream-bar" role="status">
        <span>Your session has ended. What is said meanwhile follows when you have logged in again.</span>
      </div>
    );
  }
  if (!lost) return null;
  const wait = status.retryAt === null ? null : Math.ceil((status.retryAt - now) / 1000);
  return (
    <div className="stream-bar" role="status">
      <span>
        {status.state === "refused"
          ? `The server refuses the stream${status.reason ? `: ${status.reason}` : ""}.`
          : `Connection lost ${ago(iso(status.state === "silent" ? status.heard : status.since), now)} ago. What is said meanwhile will follow.`}
        {wait !== null && wait > 0 && ` Trying again in ${wait} s.`}
      </span>
      <button type="button" className="button small" onClick={() => stream.retry()}>
        Try now
      </button>
    </div>
  );
}

function iso(at: number): string {
  return new Date(at).toISOString();
}

function lastTime(rows: LogModelRows): string | null {
  for (let i = rows.length - 1; i >= Math.max(0, rows.length - 20); i--) {
    const row = rows[i];
    if (row?.kind === "line") return row.line.timestamp;
  }
  return null;
}

type LogModelRows = ReturnType<LogModel["snapshot"]>["rows"];
