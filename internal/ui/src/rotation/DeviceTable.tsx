import { useEffect, useMemo, useRef, useState } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { DeviceState } from "../parts/DeviceState";
import { useKeys } from "../parts/keys";
import { Ago } from "../parts/Time";
import { DeviceActions } from "./Actions";
import {
  groups,
  groupWords,
  isMoving,
  type RotationRow,
  type RotationView,
  readView,
  selectRows,
  writeView,
} from "./fleet";
import { Sentence } from "./Marks";
import { storyAddress } from "./story";
import { standingOf } from "./words";

/** Rows that are drawn at first, and more each time that the end comes into sight. */
const page = 100;

/** The view that the address holds. What is typed shows at once and goes there when the typing rests. */
export function useRotationView(): [RotationView, (change: Partial<RotationView>) => void] {
  const search = useSearch();
  const [path, navigate] = useLocation();
  const address = useMemo(() => readView(search), [search]);
  const [draft, setDraft] = useState<RotationView | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: an address from elsewhere, such as the back button, wins
  useEffect(() => setDraft(null), [search]);
  const set = (change: Partial<RotationView>) => {
    const next = { ...(draft ?? address), ...change };
    setDraft(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      if (location.pathname === path) navigate(path + writeView(next), { replace: true });
    }, 200);
  };
  return [draft ?? address, set];
}

/** All devices, those that need a look first. */
export function DeviceTable({
  rows,
  view,
  setView,
}: {
  rows: readonly RotationRow[] | null;
  view: RotationView;
  setView: (change: Partial<RotationView>) => void;
}) {
  const field = useRef<HTMLInputElement>(null);
  useKeys([{ key: "/", does: "Search devices", run: () => field.current?.focus() }]);
  const shown = useMemo(() => (rows ? selectRows(rows, view) : []), [rows, view]);
  const [drawn, setDrawn] = useState(page);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another view begins at its top
  useEffect(() => setDrawn(page), [view.text, view.group]);
  const moving = rows?.filter(isMoving).length ?? 0;
  return (
    <section className="card rot-card" aria-label="Devices">
      <div className="rot-card-head">
        <h2>Devices</h2>
        <search className="rot-filters">
          <input
            ref={field}
            type="search"
            className="input"
            aria-label="Search devices"
            placeholder="Name, key, model"
            title="Search devices (/)"
            value={view.text}
            onChange={(e) => setView({ text: e.target.value })}
          />
          <select
            className="input"
            aria-label="Which"
            value={view.group ?? ""}
            onChange={(e) =>
              setView({ group: e.target.value === "" ? null : (e.target.value as RotationView["group"]) })
            }
          >
            <option value="">All of them</option>
            <option value="moving">Queued or rotating ({moving.toLocaleString("en")})</option>
            {groups.map((g) => (
              <option key={g} value={g}>
                {groupWords[g].name}
              </option>
            ))}
          </select>
        </search>
        <span className="hint" role="status">
          {rows && shown.length !== rows.length
            ? `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`
            : ""}
        </span>
      </div>
      {rows !== null && shown.length === 0 ? (
        <p className="rot-none">
          No device is like that.{" "}
          <button type="button" className="button quiet" onClick={() => setView({ text: "", group: null })}>
            Show all
          </button>
        </p>
      ) : (
        <table className="rot-table" aria-busy={rows === null}>
          <thead>
            <tr>
              <th scope="col">Device</th>
              <th scope="col">State</th>
              <th scope="col" className="spare">
                Secret made
              </th>
              <th scope="col" className="spare">
                Last try
              </th>
              <th scope="col">
                <span className="visually-hidden">What can be done</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {rows === null
              ? ["first", "second", "third", "fourth"].map((row) => (
                  <tr key={row}>
                    <td colSpan={5}>
                      <div className="skeleton">&nbsp;</div>
                    </td>
                  </tr>
                ))
              : shown.slice(0, drawn).map((row) => <Row key={row.device.id} row={row} />)}
          </tbody>
        </table>
      )}
      <More more={drawn < shown.length} load={() => setDrawn((n) => n + page)} />
    </section>
  );
}

function Row({ row: { device: d, title, group, person } }: { row: RotationRow }) {
  const standing = useMemo(() => standingOf(d), [d]);
  const quiet = d.rotation_state === "OK" && !d.stuck;
  return (
    <tr data-group={group}>
      <td className="rot-device">
        <Link href={storyAddress(d.id)} title={`The story of ${title}`}>
          {title}
        </Link>{" "}
        <span className="hint">{d.device_model_code}</span>
        {!quiet && (
          <p className="hint">
            <Sentence standing={standing} />
          </p>
        )}
      </td>
      <td>
        {d.stuck ? (
          <span className="badge error">Stuck</span>
        ) : quiet && d.active ? (
          <span className="hint">OK</span>
        ) : (
          <DeviceState active={d.active || !quiet} rotation={d.rotation_state} />
        )}
        {group === "critical" && !person && <span className="visually-hidden"> critical</span>}
      </td>
      <td className="spare">
        <Ago at={d.secret_created_at} never="not known" />
      </td>
      <td className="spare">
        <Ago at={d.last_rotation_attempt_at} never="–" />
      </td>
      <td className="rot-end">
        <DeviceActions id={d.id} title={title} standing={standing} quiet />
      </td>
    </tr>
  );
}

/** Draws more when its end comes into sight. */
function More({ more, load }: { more: boolean; load: () => void }) {
  const end = useRef<HTMLDivElement>(null);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => {
    if (!more || !end.current) return;
    const eye = new IntersectionObserver((seen) => {
      if (seen.some((s) => s.isIntersecting)) latest.current();
    });
    eye.observe(end.current);
    return () => eye.disconnect();
  });
  return (
    <div ref={end} className="rot-more" hidden={!more}>
      <button type="button" className="button quiet" onClick={load}>
        More
      </button>
    </div>
  );
}
