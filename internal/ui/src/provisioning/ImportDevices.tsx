import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import { devicesQuery, modelsQuery } from "../api/devices";
import { count, plural } from "../logs/text";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { fileFault, type ImportState, importDevices, ordered } from "./import";
import "./provisioning.css";

/** The way to the import of devices. */
export function ImportDevices({ name = "Import" }: { name?: string }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button type="button" className="button" aria-label={`${name}: import devices`} onClick={() => setOpen(true)}>
        {name}
      </button>
      {open && <Import onClose={() => setOpen(false)} />}
    </>
  );
}

type Step = "choose" | "checking" | "checked" | "importing" | "done";

function Import({ onClose }: { onClose: () => void }) {
  const id = useId();
  const queries = useQueryClient();
  const field = useRef<HTMLInputElement>(null);
  const [file, setFile] = useState<File | null>(null);
  const [step, setStep] = useState<Step>("choose");
  const [state, setState] = useState<ImportState | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [over, setOver] = useState(false);
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);

  const run = async (chosen: File, dry: boolean) => {
    const abort = new AbortController();
    running.current = abort;
    setError(null);
    setState(null);
    setStep(dry ? "checking" : "importing");
    let shown = 0;
    let last: ImportState | null = null;
    const told = (s: ImportState) => {
      last = s;
      if (performance.now() - shown < 100) return;
      shown = performance.now();
      setState({ ...s });
    };
    try {
      const end = await importDevices(chosen, dry, told, abort.signal);
      if (abort.signal.aborted) return;
      setState({ ...end });
      setStep(dry ? "checked" : "done");
      if (!end.ended)
        setError(
          "The connection was lost before the end. Import the file again: what is there already stays as it is.",
        );
    } catch (e) {
      if (abort.signal.aborted) return;
      setState(last === null ? null : { ...(last as ImportState) });
      setError(explain(e, "file"));
      setStep(dry ? "choose" : "done");
    }
    if (!dry) {
      void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
      void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
    }
  };
  const choose = (chosen: File | undefined) => {
    if (!chosen) return;
    const fault = fileFault(chosen);
    setFile(fault ? null : chosen);
    setState(null);
    setError(fault);
    setStep("choose");
    if (!fault) void run(chosen, true);
  };
  const stop = () => {
    running.current?.abort();
    setStep("done");
    setError("You stopped it. What is made stays; the rest of the file was not looked at.");
    void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
  };

  const busy = step === "checking" || step === "importing";
  const c = state?.counts;
  return (
    <Dialog title="Import devices" onClose={onClose} stays={step === "importing"}>
      <div className="form import">
        {(step === "choose" || step === "checked") && (
          // biome-ignore lint/a11y/noStaticElementInteractions: dropping is a shorter way to what the button does
          <div
            className={over ? "import-drop over" : "import-drop"}
            onDragOver={(e) => {
              e.preventDefault();
              setOver(true);
            }}
            onDragLeave={() => setOver(false)}
            onDrop={(e) => {
              e.preventDefault();
              setOver(false);
              choose(e.dataTransfer.files[0]);
            }}
          >
            <input
              ref={field}
              id={id}
              className="visually-hidden"
              type="file"
              accept=".csv,text/csv"
              aria-label="CSV file"
              onChange={(e) => {
                choose(e.target.files?.[0]);
                e.target.value = ""; // so that the same one may be chosen again, when it was mended
              }}
            />
            <p>{file ? <strong>{file.name}</strong> : "Drop a CSV file here, or"}</p>
            <button type="button" className="button" onClick={() => field.current?.click()}>
              {file ? "Choose another" : "Choose a file"}
            </button>
          </div>
        )}
        {step === "choose" && (
          <>
            <p className="hint">
              The first line names the columns: <code>model</code> (its code), and as you like <code>name</code>,{" "}
              <code>entity_id</code>, <code>tags</code> (separated by spaces), <code>active</code>, <code>config</code>{" "}
              (JSON) and <code>key</code> (of a device that has one). Nothing is made before you have seen what would
              be.
            </p>
            <pre className="import-example">{"model,name,entity_id,tags\nrelay,Hall,hall-1,ground north"}</pre>
          </>
        )}
        {error !== null && (
          <p className="fault" role="alert">
            {error}
          </p>
        )}
        {state?.stopped && (
          <p className="fault" role="alert">
            It was stopped: {state.stopped}. What is made stays.
          </p>
        )}
        <div role="status" className="import-status">
          {busy && (
            <>
              <progress
                className="progress"
                aria-label={step === "checking" ? "Check" : "Import"}
                max={state?.total || 1}
                value={state ? state.counts.lines : undefined}
              />
              <span>
                {step === "checking" ? "Checking" : "Importing"}
                {c && state ? ` line ${count(c.lines)} of ${count(state.total)}` : " …"}
              </span>
            </>
          )}
          {!busy && c && state && (
            <p>
              {step === "checked" ? (
                <strong>{plural(c.ok, "device")} can be made</strong>
              ) : (
                <strong>
                  {plural(c.created, "device")} {c.created === 1 ? "was" : "were"} made
                </strong>
              )}
              {c.exists > 0 && `, ${count(c.exists)} there already`}
              {c.errors > 0 && (
                <>
                  , <span className="import-bad">{plural(c.errors, "line")} with errors</span>
                </>
              )}
              {c.lines < state.total && `, ${count(state.total - c.lines)} not looked at`}.
              {step === "checked" && c.lines === 0 && " The file has no line but its first."}
            </p>
          )}
        </div>
        {!busy && state && state.notes.length > 0 && (
          // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key
          <section className="import-notes" aria-label="What there is to say of lines" tabIndex={0}>
            <table>
              <thead>
                <tr>
                  <th scope="col">Line</th>
                  <th scope="col">What is wrong</th>
                </tr>
              </thead>
              <tbody>
                {ordered(state.notes).map((n) => (
                  <tr key={n.line}>
                    <td>{n.line}</td>
                    <td>
                      {n.errors.map((t) => (
                        <div key={t} className="import-bad">
                          {t}
                        </div>
                      ))}
                      {n.warnings.map((t) => (
                        <div key={t}>{t}</div>
                      ))}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
            {c && c.errors + c.warnings > state.notes.length && <p className="hint">And more: mend these first.</p>}
          </section>
        )}
      </div>
      <div className="actions">
        {step === "importing" ? (
          <button type="button" className="button" onClick={stop}>
            Stop
          </button>
        ) : (
          <button type="button" className="button" onClick={onClose}>
            {step === "done" ? "Close" : "Cancel"}
          </button>
        )}
        {file && step === "checked" && (
          <button
            type="button"
            className="button primary"
            disabled={!c || c.ok === 0}
            onClick={() => void run(file, false)}
          >
            Import {c && c.ok > 0 ? plural(c.ok, "device") : ""}
          </button>
        )}
      </div>
    </Dialog>
  );
}
