import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Fragment, useEffect, useMemo, useRef, useState } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { send } from "../api/client";
import { auditQuery, peopleQuery } from "../api/people";
import type { AuditEvent } from "../api/types";
import {
  type AuditFilter,
  actionWords,
  actorName,
  auditActions,
  calledWords,
  noAuditFilter,
  outcomeWords,
  readAuditFilter,
  targetAddress,
  writeAuditFilter,
} from "../identity/audit";
import { useSession } from "../identity/index";
import { NotAllowed } from "../identity/NotAllowed";
import { decides } from "../identity/roles";
import { fileName, gather, save } from "../logs/export";
import { fromLocal, toLocal } from "../logs/times";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { Page } from "../parts/Shell";
import { formatTime } from "../parts/time";
import { useToast } from "../parts/toast";
import "../device/settings.css";
import "../identity/identity.css";

/** Who did what. For admins. */
export default function AuditPage() {
  const admin = decides(useSession().self);
  return admin ? <Audit /> : <NotAllowed title="Audit" needs="admin" />;
}

/** The filter of the address. What is typed goes there when the typing rests. */
function useFilter(): [AuditFilter, (change: Partial<AuditFilter>) => void, AuditFilter] {
  const search = useSearch();
  const [path, navigate] = useLocation();
  const address = useMemo(() => readAuditFilter(search), [search]);
  const [draft, setDraft] = useState<AuditFilter | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  // biome-ignore lint/correctness/useExhaustiveDependencies: an address from elsewhere, such as the back button, wins
  useEffect(() => setDraft(null), [search]);
  const set = (change: Partial<AuditFilter>) => {
    const next = { ...(draft ?? address), ...change };
    setDraft(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      if (location.pathname === path) navigate(path + writeAuditFilter(next), { replace: true });
    }, 300);
  };
  return [draft ?? address, set, address];
}

function Audit() {
  const [filter, setFilter, asked] = useFilter();
  const audit = useInfiniteQuery(auditQuery(asked));
  const people = useQuery(peopleQuery);
  const events = audit.data?.pages.flatMap((p) => p.events);
  const narrowed = writeAuditFilter(filter) !== "";
  return (
    <Page title="Audit">
      <div className="page-head audit-head">
        <h1 className="grow">Audit</h1>
        <Export filter={asked} />
        <button type="button" className="button" disabled={audit.isFetching} onClick={() => void audit.refetch()}>
          Refresh
        </button>
      </div>
      <search className="audit-filters">
        <select
          className="input"
          aria-label="Who"
          value={filter.actor}
          onChange={(e) => setFilter({ actor: e.target.value })}
        >
          <option value="">Anybody</option>
          {people.data?.map((p) => (
            <option key={p.subject} value={p.subject}>
              {p.name || p.username || p.subject}
            </option>
          ))}
          {filter.actor !== "" && !people.data?.some((p) => p.subject === filter.actor) && (
            <option value={filter.actor}>{filter.actor}</option>
          )}
        </select>
        <select
          className="input"
          aria-label="What"
          value={filter.action}
          onChange={(e) => setFilter({ action: e.target.value })}
        >
          <option value="">Anything</option>
          {auditActions.map(([value, name]) => (
            <option key={value} value={value}>
              {name}
            </option>
          ))}
          {filter.action !== "" && !auditActions.some(([v]) => v === filter.action) && (
            <option value={filter.action}>{filter.action}</option>
          )}
        </select>
        <input
          type="search"
          className="input"
          aria-label="Of what"
          placeholder="device/12, model/*"
          autoCapitalize="off"
          spellCheck={false}
          value={filter.target}
          onChange={(e) => setFilter({ target: e.target.value })}
        />
        <Moment name="From" at={filter.since} onChange={(since) => setFilter({ since })} />
        <Moment name="To" at={filter.until} onChange={(until) => setFilter({ until })} />
        <button
          type="button"
          className="button quiet"
          disabled={!narrowed}
          onClick={() => setFilter({ ...noAuditFilter })}
        >
          Clear
        </button>
      </search>
      {audit.error && !events ? (
        <Problem error={audit.error} retry={() => void audit.refetch()} />
      ) : events?.length === 0 ? (
        <div className="empty">
          <h2>{narrowed ? "Nothing is like that" : "Nothing was done yet"}</h2>
          <p>
            {narrowed
              ? "No event that is kept fits the filter."
              : "Logins, changes, and who saw which log or secret will stand here."}
          </p>
        </div>
      ) : (
        <div className="card models-card">
          <table className="models audit" aria-busy={audit.isPending}>
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col">Who</th>
                <th scope="col">What</th>
                <th scope="col" className="spare">
                  From
                </th>
                <th scope="col">
                  <span className="visually-hidden">Details</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {events?.map((e) => <Row key={e.id} event={e} />) ??
                ["first", "second", "third", "fourth"].map((row) => (
                  <tr key={row}>
                    <td colSpan={5}>
                      <div className="skeleton">&nbsp;</div>
                    </td>
                  </tr>
                ))}
            </tbody>
          </table>
        </div>
      )}
      {events && events.length > 0 && (
        <More
          more={audit.hasNextPage}
          busy={audit.isFetchingNextPage}
          error={audit.isFetchNextPageError ? audit.error : null}
          load={() => void audit.fetchNextPage()}
        />
      )}
    </Page>
  );
}

/** Loads what is older when its end comes into sight, and says so. */
function More({ more, busy, error, load }: { more: boolean; busy: boolean; error: unknown; load: () => void }) {
  const end = useRef<HTMLDivElement>(null);
  const latest = useRef(load);
  latest.current = load;
  const wants = more && !busy && error === null;
  useEffect(() => {
    if (!wants || !end.current) return;
    const eye = new IntersectionObserver((seen) => {
      if (seen.some((s) => s.isIntersecting)) latest.current();
    });
    eye.observe(end.current);
    return () => eye.disconnect();
  }, [wants]);
  return (
    <div ref={end} className="audit-end hint">
      {error !== null ? (
        <Problem error={error} retry={load} />
      ) : more ? (
        <button type="button" className="button quiet" disabled={busy} onClick={load}>
          {busy ? "Loading …" : "Older"}
        </button>
      ) : (
        "That is all that is kept."
      )}
    </div>
  );
}

function Row({ event: e }: { event: AuditEvent }) {
  const { zone } = usePreferences();
  const [open, setOpen] = useState(false);
  const words = actionWords(e.action);
  const to = targetAddress(e.target);
  const called = calledWords(e);
  const id = `audit-${e.id}`;
  return (
    <Fragment>
      <tr>
        <td className="when">
          <time dateTime={e.at}>{formatTime(e.at, zone)}</time>
        </td>
        <td>
          {e.actor === null ? (
            actorName(e)
          ) : (
            <Link href={`/audit${writeAuditFilter({ ...noAuditFilter, actor: e.actor })}`} title={`All of ${e.actor}`}>
              {actorName(e)}
            </Link>
          )}
          {e.kind === "token" && <span className="badge">token</span>}
          {e.kind === "device" && <span className="badge">device</span>}
        </td>
        <td className="what">
          {words}{" "}
          {called !== "" &&
            (to === null ? <span title={e.target ?? ""}>{called}</span> : <Link href={to}>{called}</Link>)}
          {e.outcome !== "ok" && <span className="badge error">{outcomeWords(e.outcome)}</span>}
        </td>
        <td className="spare">
          <code>{e.address}</code>
        </td>
        <td className="end">
          <button
            type="button"
            className="button quiet icon"
            aria-expanded={open}
            aria-controls={id}
            aria-label={`Details: ${words} ${called}`}
            onClick={() => setOpen(!open)}
          >
            <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
              <path d={open ? "M3.5 10 8 5.5 12.5 10" : "M3.5 6 8 10.5 12.5 6"} />
            </svg>
          </button>
        </td>
      </tr>
      <tr id={id} className="audit-detail" hidden={!open}>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key */}
        <td colSpan={5}>{open && <pre tabIndex={0}>{JSON.stringify(e, null, 2)}</pre>}</td>
      </tr>
    </Fragment>
  );
}

function Moment({ name, at, onChange }: { name: string; at: string; onChange: (at: string) => void }) {
  const { zone } = usePreferences();
  const [text, setText] = useState(at === "" ? "" : toLocal(new Date(at), zone).slice(0, 16));
  useEffect(() => setText(at === "" ? "" : toLocal(new Date(at), zone).slice(0, 16)), [at, zone]);
  return (
    <label className="moment">
      <span>{name}</span>
      <input
        type="datetime-local"
        className="input"
        value={text}
        onChange={(e) => {
          setText(e.target.value);
          const moment = fromLocal(e.target.value, zone);
          if (e.target.value === "") onChange("");
          else if (moment) onChange(moment.toISOString());
        }}
      />
    </label>
  );
}

const formats = [
  { name: "CSV", type: "text/csv", ending: "csv" },
  { name: "NDJSON", type: "application/x-ndjson", ending: "ndjson" },
] as const;

/** Everything that passes the filter as a file. */
function Export({ filter }: { filter: AuditFilter }) {
  const toast = useToast();
  const [busy, setBusy] = useState<string | null>(null);
  return formats.map((f) => (
    <button
      key={f.name}
      type="button"
      className="button quiet"
      disabled={busy !== null}
      title={`All events that pass the filter, as ${f.name}`}
      onClick={async () => {
        setBusy(f.name);
        try {
          const answer = await send("/api/audit", { query: { ...filter }, headers: { Accept: f.type } });
          const file = await gather(answer.body, f.type, null, () => {});
          save(file, fileName("audit", "ndjson", new Date()).replace(/ndjson$/, f.ending));
        } catch (e) {
          toast({ kind: "error", text: `Not exported. ${explain(e, "audit")}` });
        }
        setBusy(null);
      }}
    >
      {busy === f.name ? "Exporting …" : f.name}
    </button>
  ));
}
