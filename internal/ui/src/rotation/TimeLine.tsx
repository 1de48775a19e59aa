import { useMemo, useState } from "react";
import { Link } from "wouter";
import type { LogLine } from "../api/types";
import { permalink } from "../logs/address";
import { prefixLength, visible } from "../logs/text";
import { clock, stamp } from "../logs/times";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { useServerNow } from "./live";
import { after, type Entry, interleave, logAt, stretches } from "./story";
import type { Attempt, AttemptStep } from "./types";
import { useHeard } from "./useHeard";
import { about, stepWords } from "./words";

/** The steps of an attempt together with what the device said at that time. */
export function TimeLine({ device, attempt: a }: { device: number; attempt: Attempt }) {
  const running = a.ended_at === null;
  const now = useServerNow((t) => (running ? Math.ceil(t / 60_000) * 60_000 : 0));
  // What a device says because of the end comes after it.
  const live = useServerNow((t) => a.ended_at === null || t < Date.parse(a.ended_at) + after);
  const parts = useMemo(() => stretches(a, now), [a, now]);
  const [opened, setOpened] = useState<ReadonlySet<number>>(new Set());
  const { heard, loading, error, retry } = useHeard(device, parts, opened, { open: running, live });
  const entries = useMemo(() => interleave(a.steps, heard), [a.steps, heard]);
  const quiet = !loading && error === null && !entries.some((e) => e.kind === "line");
  return (
    <>
      {error !== null && <Problem error={error} retry={retry} />}
      <ol className="tl" aria-label={`Steps of attempt ${a.number} and what the device said`} aria-busy={loading}>
        {entries.map((e) => (
          <Item key={keyOf(e)} entry={e} device={device} open={(from) => setOpened((o) => new Set(o).add(from))} />
        ))}
      </ol>
      {loading && <div className="skeleton tl-loading" />}
      {quiet && (
        <p className="hint tl-quiet">
          The device said nothing around these steps. Was it on, and does it log?{" "}
          <Link href={logAt(device, a.started_at)}>Its log before that</Link>
        </p>
      )}
    </>
  );
}

function keyOf(e: Entry): string {
  switch (e.kind) {
    case "step":
      return `s${e.index}`;
    case "line":
      return e.line.cursor;
    case "gap":
      return `g${e.from}`;
    case "more":
      return `m${e.at}`;
  }
}

function Item({ entry: e, device, open }: { entry: Entry; device: number; open: (from: number) => void }) {
  switch (e.kind) {
    case "step":
      return <Step step={e.step} />;
    case "line":
      return <Line line={e.line} />;
    case "gap":
      return (
        <li className="tl-gap">
          <button type="button" className="button quiet" onClick={() => open(e.from)}>
            {about((e.to - e.from) / 1000)} without a step: show what it said
          </button>
        </li>
      );
    case "more":
      return (
        <li className="tl-gap">
          <Link href={logAt(device, e.at)}>There are more lines here: open the log at this time</Link>
        </li>
      );
  }
}

function Step({ step }: { step: AttemptStep }) {
  const { zone } = usePreferences();
  const w = stepWords(step);
  return (
    <li className="tl-step" data-tone={w.tone}>
      <time dateTime={step.at} title={stamp(utc(step.at), zone)}>
        {clock(utc(step.at), zone)}
      </time>
      <span className="tl-dot" aria-hidden="true" />
      <p>
        <strong>{w.name}</strong> {w.says}
      </p>
    </li>
  );
}

/** A moment as the log has them: in UTC, with whatever fraction it has. */
function utc(iso: string): string {
  return iso.endsWith("Z") ? iso : new Date(iso).toISOString();
}

function Line({ line }: { line: LogLine }) {
  const { zone } = usePreferences();
  const text = visible(line.message.slice(prefixLength(line)));
  return (
    <li className="tl-line" data-level={line.level ?? undefined}>
      <Link href={permalink(line.device_id, line.cursor)} title="Open the log at this line">
        <time dateTime={line.timestamp}>{clock(line.timestamp, zone)}</time>
      </Link>
      <span className="tl-rail" aria-hidden="true" />
      <p>
        {line.level && (
          <span className="tl-level" role="img" aria-label={line.level}>
            {line.level.charAt(0).toUpperCase()}
          </span>
        )}
        {line.tag && <span className="tl-tag">{line.tag}</span>}
        <span className="tl-text">{text.length > 600 ? `${text.slice(0, 600)} …` : text}</span>
      </p>
    </li>
  );
}
