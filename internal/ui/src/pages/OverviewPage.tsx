import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";
import { useMemo, useRef } from "react";
import { Link, useSearchParams } from "wouter";
import { request } from "../api/client";
import type { Overview } from "../api/types";
import { useSession } from "../identity/index";
import { limitWords } from "../identity/roles";
import { ChartCard } from "../overview/ChartCard";
import { charts } from "../overview/charts";
import { words } from "../overview/format";
import { extent, type History, merge, newest, now, since } from "../overview/series";
import { troubles } from "../overview/troubles";
import { Problem } from "../parts/Problem";
import { Page } from "../parts/Shell";
import "../overview/overview.css";

const ranges = [
  { key: "15m", name: "15 min", seconds: 900, long: "the last 15 minutes" },
  { key: "1h", name: "1 h", seconds: 3600, long: "the last hour" },
  { key: "6h", name: "6 h", seconds: 21_600, long: "the last six hours" },
] as const;

type Range = (typeof ranges)[number];

const key = ["overview"];

/** How the server does, for those who see the whole fleet: the figures are of everything. */
export default function OverviewPage() {
  const { self } = useSession();
  if (!self?.limit) return <Figures />;
  return (
    <Page title="Overview">
      <div className="empty">
        <h1>This page is of the whole fleet</h1>
        <p>What you may see is {limitWords(self.limit)}, so it is not for you.</p>
        <Link href="/" className="button primary">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}

/** How it does, and how it did in the last hours. */
function Figures() {
  const client = useQueryClient();
  const query = useQuery({
    queryKey: key,
    queryFn: async ({ signal }) => {
      const known = client.getQueryData<History>(key) ?? null;
      return merge(known, await request<Overview>("/api/overview", { query: { since: since(known) }, signal }));
    },
    refetchInterval: 10_000,
    staleTime: 5_000,
    structuralSharing: false, // what is known grows; comparing it each time is work for nothing
    placeholderData: keepPreviousData,
  });
  const [search, setSearch] = useSearchParams();
  const history = query.data;
  // Without a choice: an hour, unless the server is too young to fill a quarter of it. It stays as it was when the page was opened.
  const usual = useRef<Range | null>(null);
  if (usual.current === null && history !== undefined) {
    usual.current = ranges[history.times.length * history.step < ranges[0].seconds ? 0 : 1];
  }
  const range = ranges.find((r) => r.key === search.get("range")) ?? usual.current ?? ranges[1];
  const wrong = useMemo(() => (history === undefined ? [] : troubles(history)), [history]);
  const measured = history !== undefined && history.times.length > 0;

  return (
    <Page title="Overview">
      <div className="overview-head">
        <h1>Overview</h1>
        {query.error === null && measured && wrong.length === 0 && (
          <span className="badge ok">Everything is as it should be</span>
        )}
        <fieldset className="ranges plain" aria-label="How far back">
          {ranges.map((r) => (
            <button
              key={r.key}
              type="button"
              className="button"
              aria-pressed={r === range}
              onClick={() => setSearch({ range: r.key }, { replace: true })}
            >
              {r.name}
            </button>
          ))}
        </fieldset>
      </div>
      {(query.error !== null || wrong.length > 0) && (
        <div className="troubles">
          {query.error !== null && <Problem error={query.error} retry={() => void query.refetch()} />}
          {wrong.map((t) => (
            <div key={t.series} className={`notice ${t.severity}`} role={t.severity === "error" ? "alert" : "status"}>
              <div className="grow">
                <p>
                  <strong>{t.text}</strong>
                </p>
                <p className="hint">{t.advice}</p>
              </div>
            </div>
          ))}
        </div>
      )}
      {history === undefined && query.error === null && (
        <div className="charts" aria-busy="true">
          {charts.map((c) => (
            <div key={c.title} className="card skeleton" />
          ))}
        </div>
      )}
      {history !== undefined && (
        <>
          {!measured && <p className="hint">The server has just started: the first figures come within ten seconds.</p>}
          <div className="charts">
            {charts.map((c) => (
              <ChartCard key={c.title} chart={c} history={history} range={range.seconds} />
            ))}
          </div>
          <Table history={history} seconds={range.seconds} over={range.long} />
        </>
      )}
    </Page>
  );
}

/** What the charts show, for those who do not see them. */
function Table({ history, seconds, over }: { history: History; seconds: number; over: string }) {
  return (
    <div className="visually-hidden">
      <table>
        <caption>Figures of {over}</caption>
        <thead>
          <tr>
            <th scope="col">Figure</th>
            <th scope="col">Now</th>
            <th scope="col">Minimum</th>
            <th scope="col">Maximum</th>
          </tr>
        </thead>
        <tbody>
          {charts.flatMap((c) =>
            c.lines.map((l) => {
              const { points } = newest(history, l.series, seconds);
              const e = extent(points);
              return (
                <tr key={l.series}>
                  <th scope="row">{l.name === "" ? c.title : `${c.title}: ${l.name}`}</th>
                  <td>{words(c.kind, now(points))}</td>
                  <td>{words(c.kind, e?.min)}</td>
                  <td>{words(c.kind, e?.max)}</td>
                </tr>
              );
            }),
          )}
        </tbody>
      </table>
    </div>
  );
}
