// biome-ignore-all lint/a11y/useSemanticElements: the skeleton stands in a grid
// biome-ignore-all lint/a11y/useFocusableInteractive: the same
import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { devicesQuery, modelsQuery } from "../api/devices";
import type { ModelSummary } from "../api/types";
import { FirstLine, Welcome } from "../fleet/Empty";
import { FleetTable } from "../fleet/FleetTable";
import { presenceStore } from "../fleet/presence";
import { buildRows, type FleetRow } from "../fleet/rows";
import { fleetStore } from "../fleet/store";
import {
  columns,
  type FleetView,
  formatView,
  isLive,
  logsAddress,
  narrows,
  parseView,
  select,
  silentMinutes,
  standardView,
  summarise,
} from "../fleet/view";
import { useMay } from "../identity/index";
import { useNow } from "../parts/clock";
import { stateName } from "../parts/DeviceState";
import { explain } from "../parts/explain";
import { useKeys } from "../parts/keys";
import { Problem } from "../parts/Problem";
import { FullPage } from "../parts/Shell";
import { ImportDevices } from "../provisioning/ImportDevices";
import { useLiveRotation } from "../rotation/live";
import "../fleet/fleet.css";

const none: readonly never[] = [];

/** All devices: who they are, what they said last, and how they do. */
export default function FleetPage() {
  const queries = useQueryClient();
  const editor = useMay("editor");
  const devices = useQuery({ ...devicesQuery, refetchInterval: 60_000, placeholderData: keepPreviousData });
  const models = useQuery({ ...modelsQuery, refetchInterval: 60_000 });
  const rows = useMemo(
    () => (devices.data && models.data ? buildRows(devices.data, models.data) : none),
    [devices.data, models.data],
  );
  const [view, setView, query] = useView();
  const moved = useRef(0);

  useEffect(() => fleetStore.start(), []);
  useEffect(() => presenceStore.start(), []);
  useLiveRotation([devicesQuery.queryKey], 5_000);

  // Devices that others made show themselves by what they do.
  const ids = useMemo(() => new Set(devices.data?.map((d) => d.id)), [devices.data]);
  useEffect(() => {
    if (!devices.data) return;
    let asked = false;
    return fleetStore.watch((changed) => {
      if (asked || ![...changed].some((id) => fleetStore.seen.has(id) && !ids.has(id))) return;
      asked = true;
      void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
      void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
    });
  }, [ids, devices.data, queries]);

  // Only a view of what devices do changes with what they do, and not under a pointer that is about to click.
  const [turn, setTurn] = useState(0);
  const live = isLive(view);
  useEffect(() => {
    if (!live) return;
    return fleetStore.watch(() => {
      if (Date.now() - moved.current > 3000) setTurn((n) => n + 1);
    });
  }, [live]);
  const last = useRef<FleetRow[]>([]);
  const shown = useMemo(() => {
    void turn;
    const now = select(rows, fleetStore.seen, view, fleetStore.now());
    const before = last.current;
    if (now.length === before.length && now.every((row, i) => row === before[i])) return before;
    last.current = now;
    return now;
  }, [rows, view, turn]);

  const [selected, setSelected] = useState<ReadonlySet<number>>(new Set());
  const choose = useCallback((id: number, on: boolean) => {
    setSelected((before) => {
      const after = new Set(before);
      if (on) after.add(id);
      else after.delete(id);
      return after;
    });
  }, []);
  const onPointer = useCallback(() => {
    moved.current = Date.now();
  }, []);

  const loading = devices.isPending || models.isPending;
  const failed = devices.error ?? models.error;
  if (failed && rows.length === 0) {
    return (
      <FullPage title="Fleet">
        <div className="page">
          <Problem
            error={failed}
            retry={() => {
              void devices.refetch();
              void models.refetch();
            }}
          />
        </div>
      </FullPage>
    );
  }
  if (!loading && devices.data?.length === 0) {
    return (
      <FullPage title="Fleet">
        <Welcome models={models.data ?? []} />
      </FullPage>
    );
  }
  return (
    <FullPage title="Fleet">
      <div className="fleet-top">
        <h1>Fleet</h1>
        <Summary rows={rows} view={view} setView={setView} loading={loading} />
        <span className="wide fleet-many">
          <a className="button" href="/api/devices/export" download="devices.csv">
            Export CSV
          </a>
          {editor && <ImportDevices />}
        </span>
        {editor && (
          <Link href="/devices/new" className="button" aria-label="New device">
            New<span className="wide"> device</span>
          </Link>
        )}
      </div>
      <Filters view={view} setView={setView} models={models.data ?? []} shown={shown.length} total={rows.length} />
      <FleetTable
        rows={shown}
        view={view}
        query={query}
        setView={setView}
        selected={selected}
        select={choose}
        onPointer={onPointer}
        waiting={loading && <Skeleton />}
      >
        {!loading && shown.length === 0 && (
          <div className="empty">
            <h2>No device is like that</h2>
            <p>None of {rows.length.toLocaleString("en")} devices fits the search and the filters.</p>
            <button
              type="button"
              className="button"
              onClick={() => setView({ ...standardView, sort: view.sort, descending: view.descending })}
            >
              Show all devices
            </button>
            {view.text.trim() !== "" && (
              <p>
                Is it something that a device said?{" "}
                <Link href={logsAddress([], view.text)}>Search the logs for “{view.text.trim()}”</Link>
              </p>
            )}
          </div>
        )}
        {!loading && shown.length > 0 && <FirstLine rows={rows} />}
      </FleetTable>
      {selected.size > 0 && (
        <div className="fleet-selection" role="status">
          <span>{selected.size === 1 ? "1 device selected" : `${selected.size} devices selected`}</span>
          <Link href={logsAddress([...selected])} className="button primary">
            {selected.size === 1 ? "Open its log" : "Open their logs together"}
          </Link>
          <button type="button" className="button quiet" onClick={() => setSelected(new Set())}>
            Clear
          </button>
        </div>
      )}
    </FullPage>
  );
}

/** The view that the address holds. What is typed shows at once and goes to the address when the typing rests. */
function useView(): [FleetView, (v: FleetView) => void, string] {
  const query = useSearch();
  const [path, navigate] = useLocation();
  const address = useMemo(() => parseView(query), [query]);
  const [draft, setDraft] = useState<FleetView | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: an address from elsewhere, such as the back button, wins
  useEffect(() => setDraft(null), [query]);
  const set = useCallback(
    (v: FleetView) => {
      setDraft(v);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => {
        if (location.pathname !== path) return; // left meanwhile, and kept until the next page's code is there
        const text = formatView(v);
        navigate(text === "" ? path : `${path}?${text}`, { replace: true });
      }, 200);
    },
    [navigate, path],
  );
  return [draft ?? address, set, query];
}

/** One line on the whole fleet. Its figures are also the way to the devices that they count. */
function Summary({
  rows,
  view,
  setView,
  loading,
}: {
  rows: readonly FleetRow[];
  view: FleetView;
  setView: (v: FleetView) => void;
  loading: boolean;
}) {
  const status = useSyncExternalStore(fleetStore.watch, fleetStore.status);
  // As a text, so that it is drawn again when a figure changes and not with every answer.
  const text = useSyncExternalStore(fleetStore.watch, () => {
    if (!status.known) return "";
    const s = summarise(rows, fleetStore.seen, fleetStore.now());
    return `${s.errors.toLocaleString("en")} ${s.silent.toLocaleString("en")}`;
  });
  if (status.error !== null) return <Trouble error={status.error} retryAt={status.retryAt} />;
  if (loading || text === "") {
    return (
      <p className="fleet-summary">
        <span className="skeleton">&nbsp;</span>
      </p>
    );
  }
  const [errors = "0", silent = "0"] = text.split(" ");
  return (
    <p className="fleet-summary">
      {rows.length.toLocaleString("en")} {rows.length === 1 ? "device" : "devices"}
      {", "}
      <button
        type="button"
        className={errors === "0" ? "" : "bad"}
        aria-pressed={view.errors}
        onClick={() => setView({ ...view, errors: !view.errors })}
      >
        {errors} <span className="wide">with </span>errors<span className="wide"> in the last hour</span>
      </button>
      {", "}
      <button
        type="button"
        title={`Without a line for ${silentMinutes} minutes`}
        aria-pressed={view.silent === silentMinutes}
        onClick={() => setView({ ...view, silent: view.silent === null ? silentMinutes : null })}
      >
        {silent} silent
      </button>
      {!status.filled && (
        <span className="hint" title="The server has just started and reads what was said before it did">
          {"  still counting the last hour"}
        </span>
      )}
    </p>
  );
}

function Trouble({ error, retryAt }: { error: unknown; retryAt: number }) {
  const seconds = useNow((now) => Math.max(0, Math.round((retryAt - now) / 1000)));
  const why = explain(error, "device");
  return (
    <p className="fleet-summary trouble">
      <span role="status" title={why}>
        {why}
      </span>
      <button type="button" onClick={() => fleetStore.retry()}>
        Try again{seconds > 0 ? ` (${seconds} s)` : ""}
      </button>
    </p>
  );
}

const silences = [1, 5, 10, 60, 24 * 60, 7 * 24 * 60];

function silence(minutes: number): string {
  if (minutes % 1440 === 0) return minutes === 1440 ? "a day" : `${minutes / 1440} days`;
  if (minutes % 60 === 0) return minutes === 60 ? "an hour" : `${minutes / 60} hours`;
  return minutes === 1 ? "a minute" : `${minutes} minutes`;
}

const columnNames: Record<(typeof columns)[number], string> = {
  name: "name",
  entity: "entity id",
  model: "model",
  last: "last line",
  when: "last heard",
  lines: "lines",
  errors: "errors",
  watchers: "watching",
  state: "state",
};

function Filters({
  view,
  setView,
  models,
  shown,
  total,
}: {
  view: FleetView;
  setView: (v: FleetView) => void;
  models: readonly ModelSummary[];
  shown: number;
  total: number;
}) {
  const field = useRef<HTMLInputElement>(null);
  useKeys([{ key: "/", does: "Search devices", run: () => field.current?.focus() }]);
  const options = view.silent === null || silences.includes(view.silent) ? silences : [...silences, view.silent];
  return (
    <search className="fleet-filters">
      <input
        ref={field}
        type="search"
        className="input"
        aria-label="Search devices"
        placeholder="Name, entity id, key, client id, model"
        title="Search devices (/)"
        value={view.text}
        onChange={(e) => setView({ ...view, text: e.target.value })}
        onKeyDown={(e) => {
          // To the list, where the arrows go on and Enter opens.
          if (e.key === "Escape" && view.text === "") e.currentTarget.blur();
          if (e.key !== "ArrowDown" && e.key !== "Enter") return;
          e.preventDefault();
          e.stopPropagation();
          document.querySelector<HTMLElement>(".fleet-list")?.focus();
        }}
      />
      <select
        className="input"
        aria-label="Model"
        value={view.model ?? ""}
        onChange={(e) => setView({ ...view, model: e.target.value === "" ? null : Number(e.target.value) })}
      >
        <option value="">Any model</option>
        {models.map((m) => (
          <option key={m.id} value={m.id}>
            {m.code}
          </option>
        ))}
      </select>
      <select
        className="input"
        aria-label="State"
        value={view.state ?? ""}
        onChange={(e) =>
          setView({ ...view, state: e.target.value === "" ? null : (e.target.value as FleetView["state"]) })
        }
      >
        <option value="">Any state</option>
        {(["OK", "QUEUED", "PENDING", "TIMEOUT"] as const).map((s) => (
          <option key={s} value={s}>
            {stateName(s)}
          </option>
        ))}
        <option value="INACTIVE">Inactive</option>
      </select>
      <select
        className="input"
        aria-label="Silence"
        value={view.silent ?? ""}
        onChange={(e) => setView({ ...view, silent: e.target.value === "" ? null : Number(e.target.value) })}
      >
        <option value="">Silent or not</option>
        {options.map((m) => (
          <option key={m} value={m}>
            Silent for {silence(m)}
          </option>
        ))}
      </select>
      <button
        type="button"
        className="button"
        aria-pressed={view.errors}
        onClick={() => setView({ ...view, errors: !view.errors })}
      >
        With errors
      </button>
      <select
        className="input narrow-only"
        aria-label="Order"
        value={`${view.descending ? "-" : ""}${view.sort}`}
        onChange={(e) => {
          const sort = columns.find((c) => c === e.target.value.replace("-", "")) ?? "name";
          setView({ ...view, sort, descending: e.target.value.startsWith("-") });
        }}
      >
        {columns.flatMap((c) => [
          <option key={c} value={c}>
            By {columnNames[c]} ↑
          </option>,
          <option key={`-${c}`} value={`-${c}`}>
            By {columnNames[c]} ↓
          </option>,
        ])}
      </select>
      <span className="fleet-count" role="status">
        {narrows(view) && `${shown.toLocaleString("en")} of ${total.toLocaleString("en")}`}
      </span>
      <Link href={logsAddress([], view.text)} className="fleet-logs">
        {view.text.trim() === "" ? "What all devices say" : `Search the logs for “${view.text.trim()}”`}
      </Link>
    </search>
  );
}

function Skeleton() {
  return (
    <div className="fleet-skeleton" role="row" aria-busy="true">
      <span role="gridcell" className="visually-hidden">
        The devices are being loaded
      </span>
      {Array.from({ length: 16 }, (_, i) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: they are all alike
        <div key={i} className="fleet-row" aria-hidden="true">
          <span className="c-select" />
          {["name", "entity", "model", "last", "when", "lines"].map((c) => (
            <span key={c} className={`c-${c}`}>
              <span className="skeleton" />
            </span>
          ))}
        </div>
      ))}
    </div>
  );
}
