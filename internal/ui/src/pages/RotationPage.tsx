import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link } from "wouter";
import { useMay } from "../identity/index";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { Page } from "../parts/Shell";
import { Ago } from "../parts/Time";
import { DeviceActions } from "../rotation/Actions";
import { dashboardQuery, statusQuery } from "../rotation/api";
import { CampaignList } from "../rotation/CampaignList";
import { DeviceTable, useRotationView } from "../rotation/DeviceTable";
import { countRotatable, groupWords, type RotationRow, type RotationView, rowsOf } from "../rotation/fleet";
import { useLiveRotation, useServerNow } from "../rotation/live";
import { Mark, Sentence } from "../rotation/Marks";
import { RotateAll } from "../rotation/RotateAll";
import { storyAddress } from "../rotation/story";
import { Teach } from "../rotation/Teach";
import type { Dashboard, RotationStatus } from "../rotation/types";
import { advice, dueWords, standingOf } from "../rotation/words";
import "../rotation/rotation.css";

/** The rotation of the fleet's secrets: how it stands, what goes on, and what needs a person. */
export default function RotationPage() {
  useLiveRotation();
  const editor = useMay("editor");
  const status = useQuery(statusQuery);
  const dashboard = useQuery(dashboardQuery);
  const rows = useMemo(() => (dashboard.data ? rowsOf(dashboard.data) : null), [dashboard.data]);
  const [view, setView] = useRotationView();
  const failed = dashboard.error ?? status.error;
  const again = () => {
    void status.refetch();
    void dashboard.refetch();
  };
  if (rows?.length === 0) {
    return (
      <Page title="Rotation">
        <div className="empty rot-empty">
          <h1>No device has a secret yet</h1>
          <p>
            Every device proves who it is by a secret of its own. Rotation gives it a new one now and then, without ever
            locking it out:
          </p>
          <Teach />
          {editor ? (
            <Link href="/devices/new" className="button primary">
              New device
            </Link>
          ) : (
            <p>Devices are shown here as soon as there are some that you may see.</p>
          )}
        </div>
      </Page>
    );
  }
  const untouched =
    status.data !== undefined &&
    status.data.last_rotation_completed_at === null &&
    status.data.counts_by_state.OK + status.data.inactive >= (rows?.length ?? 0);
  return (
    <Page title="Rotation">
      <div className="page-head">
        <h1 className="grow">Rotation</h1>
        {editor && <RotateAll count={rows && countRotatable(rows)} />}
      </div>
      {failed && (
        <div className="rot-fault">
          <Problem error={failed} retry={again} />
        </div>
      )}
      {!(failed && !dashboard.data) && (
        <div className="rot-page">
          <Strip dashboard={dashboard.data} view={view} setView={setView} />
          <Schedule status={status.data} />
          <People rows={rows} />
          {untouched ? (
            <section className="card rot-card" aria-label="What rotation does">
              <h2>No device was rotated yet</h2>
              <Teach />
            </section>
          ) : (
            <Now rows={rows} queued={status.data?.counts_by_state.QUEUED ?? 0} />
          )}
          <CampaignList />
          <DeviceTable rows={rows} view={view} setView={setView} />
        </div>
      )}
    </Page>
  );
}

const tiles = ["healthy", "warning", "critical", "inactive"] as const;

/** How many devices do how, which is also the way to them. */
function Strip({
  dashboard,
  view,
  setView,
}: {
  dashboard: Dashboard | undefined;
  view: RotationView;
  setView: (v: Partial<RotationView>) => void;
}) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset would bring a frame
    <div className="rot-strip" role="group" aria-label="Devices by how their rotation does">
      {tiles.map((g) => {
        const n = dashboard?.counts[g];
        return (
          <button
            key={g}
            type="button"
            className="rot-tile"
            data-group={g}
            data-none={n === 0 || undefined}
            aria-pressed={view.group === g}
            title={groupWords[g].says}
            onClick={() => setView({ group: view.group === g ? null : g })}
          >
            <strong>{n === undefined ? <span className="skeleton">&nbsp;</span> : n.toLocaleString("en")}</strong>
            <span>{groupWords[g].name}</span>
          </button>
        );
      })}
    </div>
  );
}

/** When the fleet is rotated next, and how old it is. */
function Schedule({ status: s }: { status: RotationStatus | undefined }) {
  const { zone } = usePreferences();
  const next = s?.next_scheduled_rotation ?? null;
  const due = useServerNow((now) => (next === null ? "" : dueWords(next, zone, now)));
  return (
    <dl className="rot-facts" aria-busy={s === undefined}>
      <div>
        <dt>Next</dt>
        <dd>
          {s === undefined ? (
            <span className="skeleton">&nbsp;</span>
          ) : next !== null ? (
            <time dateTime={next} title={s.schedule ? `${s.schedule.cron}, ${s.schedule.timezone}` : undefined}>
              {due}
            </time>
          ) : (
            <>
              no schedule: set <code>ROTATION_CRON</code>
            </>
          )}
        </dd>
      </div>
      <div>
        <dt>Last done</dt>
        <dd>
          <Ago at={s?.last_rotation_completed_at ?? null} />
        </dd>
      </div>
      <div>
        <dt>Oldest secret</dt>
        <dd>
          <Ago at={s?.oldest_secret_at ?? null} never="none" />
        </dd>
      </div>
    </dl>
  );
}

const most = 6;

/** Who goes no further without a person, and what that person can do. */
function People({ rows }: { rows: readonly RotationRow[] | null }) {
  const stuck = rows?.filter((r) => r.person) ?? [];
  if (stuck.length === 0) return null;
  return (
    <section className="card rot-card rot-people" aria-label="Needs a person">
      <h2>
        {stuck.length === 1
          ? "One device needs a person"
          : `${stuck.length.toLocaleString("en")} devices need a person`}
      </h2>
      <ul className="rot-list">
        {stuck.slice(0, most).map((r) => (
          <Item key={r.device.id} row={r} />
        ))}
      </ul>
      {stuck.length > most && (
        <p className="hint">And {(stuck.length - most).toLocaleString("en")} more, at the top of the list below.</p>
      )}
    </section>
  );
}

/** Who is being rotated now. */
function Now({ rows, queued }: { rows: readonly RotationRow[] | null; queued: number }) {
  const busy = rows?.filter((r) => r.device.rotation_state === "PENDING" && !r.person) ?? [];
  return (
    <section className="card rot-card" aria-label="Now">
      <div className="rot-card-head">
        <h2>Now</h2>
        <span className="hint" role="status">
          {queued === 0
            ? "Nobody waits"
            : `${queued.toLocaleString("en")} ${queued === 1 ? "device waits" : "devices wait"}`}
        </span>
      </div>
      {busy.length === 0 ? (
        <p className="rot-none">
          {rows === null ? <span className="skeleton">&nbsp;</span> : "Nothing is being rotated."}
        </p>
      ) : (
        <ul className="rot-list">
          {busy.slice(0, most).map((r) => (
            <Item key={r.device.id} row={r} />
          ))}
        </ul>
      )}
      {busy.length > most && <p className="hint">And {(busy.length - most).toLocaleString("en")} more.</p>}
    </section>
  );
}

function Item({ row: { device: d, title } }: { row: RotationRow }) {
  const standing = useMemo(() => standingOf(d), [d]);
  const what = advice(standing);
  return (
    <li>
      <Mark standing={standing} />
      <div className="rot-item">
        <p>
          <Link href={storyAddress(d.id)}>{title}</Link> <span className="hint">{d.device_model_code}</span>
        </p>
        <p>
          <Sentence standing={standing} />
        </p>
        {what !== null && <p className="hint">{what}</p>}
      </div>
      <DeviceActions id={d.id} title={title} standing={standing} />
    </li>
  );
}
