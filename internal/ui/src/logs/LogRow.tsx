import { type CSSProperties, memo } from "react";
import { Problem } from "../parts/Problem";
import type { Preferences } from "../parts/preferences";
import { permalink } from "./address";
import type { Highlighter } from "./highlight";
import { bytes, cut, gapText, plural, prefixLength, visible } from "./text";
import { ago, clock, uptime } from "./times";
import type { GapRow, LineRow } from "./types";

/** A colour of its own for each device, the same everywhere: neighbours in number are far apart. */
export function hue(device: number): number {
  return Math.round((device * 137.508) % 360);
}

interface Props {
  row: LineRow;
  selected: boolean;
  /** The line that the address means. */
  meant: boolean;
  /** The name of its device, where there are several. */
  device: string | null;
  times: Preferences["times"];
  zone: string;
  /** Date.now() to the second where the time is relative, else 0: rows are drawn again when it changes. */
  now: number;
  /** Over as many lines as it takes. */
  flows: boolean;
  whole: boolean;
  highlight: Highlighter | null;
  folded: number | null;
  open: boolean;
}

/** One line of a log. What is clicked in it is handled by the list, by its data. */
export const LogRow = memo(function LogRow(p: Props) {
  const { line, sign, block } = p.row;
  const prefix = prefixLength(line);
  const full = prefix === 0 ? line.message : line.message.slice(prefix);
  const long = full.length > cut;
  const text = long && !p.whole ? full.slice(0, cut) : full;
  let kind = "row";
  if (line.level) kind += ` ${line.level}`;
  if (sign !== null) kind += ` ${sign}`;
  if (block !== null) kind += " of-block";
  if (p.flows) kind += " flows";
  if (p.selected) kind += " selected";
  if (p.meant) kind += " meant";
  const more = long && (
    <button type="button" className="inline" tabIndex={-1} data-does="whole">
      {p.whole ? "show less" : `show all (${bytes(full.length)})`}
    </button>
  );
  return (
    <div className={kind} data-id={p.row.id}>
      {sign === "boot" && <span className="sign">started</span>}
      <a className="time" tabIndex={-1} data-does="link" href={permalink(line.device_id, line.cursor)}>
        {timeText(p)}
      </a>
      {p.device !== null && (
        <span className="device" style={{ "--hue": hue(line.device_id) } as CSSProperties}>
          {p.device}
        </span>
      )}
      {line.level ? (
        <span className="level" role="img" aria-label={line.level}>
          {line.level.charAt(0).toUpperCase()}
        </span>
      ) : (
        <span className="level" />
      )}
      <span className="tag">{line.tag && <Marked text={line.tag} by={p.highlight} />}</span>
      <span className="message">
        <Marked text={visible(text)} by={p.highlight} />
        {p.flows && more}
      </span>
      {!p.flows && more}
      {p.folded !== null && (
        <button type="button" className="inline fold" tabIndex={-1} data-does="fold" aria-expanded={p.open}>
          {p.open ? `fold ${plural(p.folded, "line")}` : `${plural(p.folded, "more line")}`}
        </button>
      )}
    </div>
  );
});

function timeText({ row: { line }, times, zone, now }: Props): string {
  if (times === "absolute") return clock(line.timestamp, zone);
  if (times === "relative") return ago(line.timestamp, now);
  return line.uptime_ms == null ? "" : uptime(line.uptime_ms);
}

/** Text with what was searched for marked in it. */
function Marked({ text, by }: { text: string; by: Highlighter | null }) {
  const found = by?.ranges(text);
  if (!found || found.length === 0) return text;
  const parts = [];
  let at = 0;
  for (const [from, to] of found) {
    if (from > at) parts.push(text.slice(at, from));
    parts.push(<mark key={from}>{text.slice(from, to)}</mark>);
    at = to;
  }
  parts.push(text.slice(at));
  return parts;
}

/** Lines that are missing, and how to have them where that can be. */
export const GapLine = memo(function GapLine({
  row,
  selected,
  device,
}: {
  row: GapRow;
  selected: boolean;
  device: string | null;
}) {
  return (
    <div className={selected ? "row gap selected" : "row gap"} data-id={row.id}>
      {device !== null && (
        <span className="device" style={{ "--hue": hue(row.device) } as CSSProperties} title={device}>
          {device}
        </span>
      )}
      <span className="message" title={gapText(row.gap.count, row.gap.reason)}>
        {gapText(row.gap.count, row.gap.reason)}
      </span>
      {row.error != null && <Fault error={row.error} />}
      {row.fetchable && (
        <button type="button" className="button small" data-does="fetch" disabled={row.fetching}>
          {row.fetching ? "Fetching…" : row.error == null ? "Fetch them" : "Try again"}
        </button>
      )}
      {row.fetching && <progress aria-label="Fetching what is missing" />}
    </div>
  );
});

/** A failure in the little room of a row. */
function Fault({ error }: { error: unknown }) {
  const text = error instanceof Error ? error.message : "Fetching failed.";
  return (
    <span className="fault" role="alert" title={text}>
      {text}
    </span>
  );
}

/** What is before the first row, or after the last one: more, or the end of what is kept. */
export function EdgeRow({
  edge,
  where,
  error,
  retry,
}: {
  edge: "more" | "loading" | "end" | "error";
  where: "older" | "newer";
  error: unknown;
  retry: () => void;
}) {
  if (edge === "error") return <Problem error={error} retry={retry} />;
  if (edge === "end") return where === "older" ? <p className="beginning">Beginning of what is kept</p> : null;
  return (
    <div className="waiting" aria-hidden="true">
      <span className="skeleton" />
      <span className="skeleton" />
      <span className="skeleton" />
    </div>
  );
}
