import { useEffect, useRef, useState } from "react";
import { Dialog } from "../parts/Dialog";
import { Problem } from "../parts/Problem";
import { useToast } from "../parts/toast";
import { type ExportFormat, type ExportProgress, fileName, readExport, save } from "./export";
import { isEmpty } from "./filter";
import type { Devices } from "./model";
import { bytes, count, plural } from "./text";
import type { LineFilter } from "./types";

const spans: [name: string, hours: number | null][] = [
  ["the last hour", 1],
  ["the last day", 24],
  ["the last week", 168],
  ["all that is kept", null],
];

/** Asks what to download, and shows how far it is. */
export function DownloadDialog(p: { devices: Devices; label: string; filter: LineFilter; onClose: () => void }) {
  const filtered = !isEmpty(p.filter);
  const [span, setSpan] = useState(1);
  const [onlyMatches, setOnlyMatches] = useState(filtered);
  const [format, setFormat] = useState<ExportFormat>("text");
  const [progress, setProgress] = useState<ExportProgress | null>(null);
  const [error, setError] = useState<unknown>(null);
  const running = useRef<AbortController | null>(null);
  const toast = useToast();
  useEffect(() => () => running.current?.abort(), []);

  const start = async () => {
    const abort = new AbortController();
    running.current = abort;
    setError(null);
    setProgress({ lines: 0, bytes: 0, total: null });
    const hours = spans[span]?.[1] ?? null;
    let shown = 0;
    try {
      let last: ExportProgress | null = null;
      const file = await readExport(
        {
          devices: p.devices,
          filter: onlyMatches && filtered ? p.filter : null,
          format,
          start: hours === null ? null : new Date(Date.now() - hours * 3_600_000).toISOString(),
          end: new Date().toISOString(), // what is said meanwhile would keep it from coming to an end
        },
        (at) => {
          last = at;
          if (performance.now() - shown < 100) return;
          shown = performance.now();
          setProgress(at);
        },
        abort.signal,
      );
      if (abort.signal.aborted) return;
      save(file, fileName(p.label, format, new Date()));
      const lines = (last as ExportProgress | null)?.lines ?? 0;
      toast({ kind: "done", text: `${plural(lines, "line")} downloaded (${bytes(file.size)})` });
      p.onClose();
    } catch (e) {
      if (abort.signal.aborted) return;
      setProgress(null);
      setError(e);
    }
  };
  const cancel = () => {
    running.current?.abort();
    setProgress(null);
  };

  const exact = !(onlyMatches && filtered);
  return (
    <Dialog title="Download lines" onClose={p.onClose}>
      <div className="form">
        <fieldset className="choices" disabled={progress !== null}>
          <legend>Received within</legend>
          {spans.map(([name], i) => (
            <label key={name}>
              <input type="radio" name="span" checked={span === i} onChange={() => setSpan(i)} />
              {name}
            </label>
          ))}
        </fieldset>
        {filtered && (
          <fieldset className="choices" disabled={progress !== null}>
            <legend>Which</legend>
            <label>
              <input type="radio" name="which" checked={onlyMatches} onChange={() => setOnlyMatches(true)} />
              those that the filter shows
            </label>
            <label>
              <input type="radio" name="which" checked={!onlyMatches} onChange={() => setOnlyMatches(false)} />
              every line
            </label>
          </fieldset>
        )}
        <fieldset className="choices" disabled={progress !== null}>
          <legend>As</legend>
          <label>
            <input type="radio" name="format" checked={format === "text"} onChange={() => setFormat("text")} />
            text, to read
          </label>
          <label>
            <input type="radio" name="format" checked={format === "ndjson"} onChange={() => setFormat("ndjson")} />
            NDJSON, for programs
          </label>
        </fieldset>
        {error !== null && <Problem error={error} />}
        <div className="export-progress" role="status">
          {progress !== null && (
            <>
              <progress
                className="progress"
                aria-label="Download"
                max={progress.total ?? 1}
                value={exact && progress.total ? Math.min(progress.lines, progress.total) : undefined}
              />
              <span>
                {exact && progress.total
                  ? `${count(progress.lines)} of about ${plural(progress.total, "line")}`
                  : `${plural(progress.lines, "line")} so far`}
                , {bytes(progress.bytes)}
              </span>
            </>
          )}
        </div>
      </div>
      <div className="actions">
        {progress === null ? (
          <>
            <button type="button" className="button" onClick={p.onClose}>
              Close
            </button>
            <button type="button" className="button primary" onClick={start}>
              Download
            </button>
          </>
        ) : (
          <button type="button" className="button" onClick={cancel}>
            Cancel
          </button>
        )}
      </div>
    </Dialog>
  );
}
