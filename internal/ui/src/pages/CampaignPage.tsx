import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useParams } from "wouter";
import { ApiError } from "../api/client";
import { useMay } from "../identity/index";
import { Confirm } from "../parts/Confirm";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { Page } from "../parts/Shell";
import { Ago, Time } from "../parts/Time";
import { useToast } from "../parts/toast";
import { campaignDevicesQuery, campaignQuery, rotationChanged, steerCampaign } from "../rotation/api";
import { Bar } from "../rotation/Bar";
import { CampaignBadge } from "../rotation/CampaignList";
import {
  campaignSentence,
  deviceStateName,
  partsOf,
  partsOfWave,
  progressWords,
  rateWords,
  selectionWords,
  steps,
  waveWords,
  windowWords,
} from "../rotation/campaign";
import { rotationTitle } from "../rotation/fleet";
import { useLiveRotation, useServerNow } from "../rotation/live";
import { storyAddress } from "../rotation/story";
import type { Campaign, CampaignDeviceState } from "../rotation/types";
import { dueWords } from "../rotation/words";
import "../rotation/rotation.css";

/** One campaign as it runs. */
export default function CampaignPage() {
  const { id } = useParams<{ id: string }>();
  return /^[1-9]\d{0,14}$/.test(id) ? <One key={id} id={Number(id)} /> : <Gone />;
}

function Gone() {
  return (
    <Page title="Campaign">
      <div className="empty">
        <h1>There is no such campaign</h1>
        <p>The address is mistyped, or none of its devices is one that you may see.</p>
        <Link href="/rotation" className="button primary">
          To the rotation
        </Link>
      </div>
    </Page>
  );
}

function One({ id }: { id: number }) {
  useLiveRotation();
  const campaign = useQuery(campaignQuery(id));
  const c = campaign.data;
  if (campaign.error instanceof ApiError && campaign.error.status === 404) return <Gone />;
  return (
    <Page title={c?.name ?? "Campaign"}>
      <div className="page-head rot-head">
        <Link href="/rotation" className="crumb">
          Rotation
        </Link>
        <span className="crumb" aria-hidden="true">
          /
        </span>
        <h1>{c?.name ?? `Campaign ${id}`}</h1>
        {c && <CampaignBadge state={c.state} />}
        <span className="grow" />
        {c && <Steer campaign={c} />}
      </div>
      {campaign.error && (
        <div className="rot-fault">
          <Problem error={campaign.error} retry={() => void campaign.refetch()} />
        </div>
      )}
      {c ? (
        <div className="rot-page">
          <Progress campaign={c} />
          <div className="rot-two">
            <Waves campaign={c} />
            <Facts campaign={c} />
          </div>
          <Devices campaign={c} />
        </div>
      ) : (
        !campaign.error && <div className="skeleton rot-block" aria-busy="true" />
      )}
    </Page>
  );
}

/** What an editor can do with it. */
function Steer({ campaign: c }: { campaign: Campaign }) {
  const editor = useMay("editor");
  const queries = useQueryClient();
  const toast = useToast();
  const [busy, setBusy] = useState(false);
  const [asking, setAsking] = useState(false);
  if (!editor) return null;
  const can = steps(c);
  const done = { pause: "is paused.", resume: "goes on.", abort: "is aborted." };
  const steer = async (how: "pause" | "resume" | "abort") => {
    queries.setQueryData(campaignQuery(c.id).queryKey, await steerCampaign(c.id, how));
    rotationChanged(queries);
    toast({ kind: "done", text: `${c.name} ${done[how]}` });
  };
  const now = async (how: "pause" | "resume") => {
    setBusy(true);
    try {
      await steer(how);
    } catch (e) {
      toast({ kind: "error", text: `${c.name}: ${how} failed. ${explain(e, "campaign")}` });
      rotationChanged(queries);
    }
    setBusy(false);
  };
  return (
    <>
      {can.pause && (
        <button type="button" className="button" disabled={busy} onClick={() => void now("pause")}>
          Pause
        </button>
      )}
      {can.resume && (
        <button type="button" className="button primary" disabled={busy} onClick={() => void now("resume")}>
          Resume
        </button>
      )}
      {can.abort && (
        <button type="button" className="button danger" disabled={busy} onClick={() => setAsking(true)}>
          Abort …
        </button>
      )}
      {asking && (
        <Confirm
          title={`Abort ${c.name}?`}
          action="Abort the campaign"
          thing="campaign"
          onClose={() => setAsking(false)}
          run={async () => {
            await steer("abort");
            setAsking(false);
          }}
        >
          <p>
            No further device begins, and this cannot be taken back: the rest takes another campaign. What is in flight
            is finished or times out, and what is done stays done. Every device keeps a secret that works.
          </p>
          <p className="hint">To look at something first, pause it instead.</p>
        </Confirm>
      )}
    </>
  );
}

/** How far it is, and why it is as it is. */
function Progress({ campaign: c }: { campaign: Campaign }) {
  const { zone } = usePreferences();
  const says = useServerNow((now) => campaignSentence(c, zone, now));
  const { expected_end: expected } = c;
  const end = useServerNow((now) => (expected === null ? "" : dueWords(expected, zone, now)));
  return (
    <section className="card rot-card rot-progress" aria-label="Progress">
      <p className="rot-says" role="status">
        {says}
      </p>
      <Bar parts={partsOf(c.counts)} />
      <p>
        {progressWords(c.counts)}.{" "}
        {c.ended_at === null && expected !== null && <span className="hint">Expected to end {end}.</span>}
      </p>
      <p className="hint">{rateWords(c)}</p>
    </section>
  );
}

function Waves({ campaign: c }: { campaign: Campaign }) {
  return (
    <section className="card rot-card" aria-label="Waves">
      <h2>{c.waves.length === 1 ? "One wave" : `${c.waves.length.toLocaleString("en")} waves`}</h2>
      <ol className="rot-waves">
        {c.waves.map((w) => (
          <li key={w.number} aria-current={c.ended_at === null && w.number === c.wave ? "step" : undefined}>
            <span className="rot-wave-name">
              Wave {w.number}
              {w.number === 1 && (c.options?.canary?.count ?? 0) > 0 ? <span className="hint"> canary</span> : null}
            </span>
            <Bar parts={partsOfWave(w)} />
            <span className="hint">{waveWords(w)}</span>
          </li>
        ))}
      </ol>
    </section>
  );
}

/** What was asked for, by whom, and when. */
function Facts({ campaign: c }: { campaign: Campaign }) {
  const o = c.options;
  const facts: [string, React.ReactNode][] = [
    ["Which", o?.selection ? selectionWords(o.selection, o.device_ids_count) : "not known"],
    ["At once", `${c.in_flight_limit.toLocaleString("en")} ${c.in_flight_limit === 1 ? "device" : "devices"}`],
    [
      "Times",
      o?.windows?.length ? (
        <>
          {o.windows.map((w) => (
            <span key={JSON.stringify(w)} className="rot-line">
              {windowWords(w)}
            </span>
          ))}
          <span className="hint">{o.timezone ?? "UTC"}</span>
        </>
      ) : (
        "at any time"
      ),
    ],
    ["Made", <Time key="made" at={c.created_at} />],
  ];
  if (c.created_by) facts.push(["By", c.created_by]);
  if (c.reason) facts.push(["Why", c.reason]);
  if (c.started_at) facts.push(["Started", <Time key="started" at={c.started_at} />]);
  if (c.ended_at) facts.push(["Ended", <Time key="ended" at={c.ended_at} />]);
  return (
    <section className="card rot-card" aria-label="What was asked for">
      <h2>What was asked for</h2>
      <dl className="rot-dl">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

const states: CampaignDeviceState[] = ["in_flight", "failed", "deferred", "waiting", "done", "skipped"];

const kinds: Record<CampaignDeviceState, string> = {
  waiting: "",
  deferred: "warn",
  in_flight: "warn",
  done: "ok",
  failed: "error",
  skipped: "",
};

/** Its devices by their state. */
function Devices({ campaign: c }: { campaign: Campaign }) {
  const [state, setState] = useState<CampaignDeviceState | "">("");
  const devices = useInfiniteQuery(campaignDevicesQuery(c.id, state));
  const list = devices.data?.pages.flatMap((p) => p.devices);
  return (
    <section className="card rot-card" aria-label="Devices">
      <div className="rot-card-head">
        <h2>Devices</h2>
        {/* biome-ignore lint/a11y/useSemanticElements: a fieldset would bring a frame */}
        <div className="rot-chips" role="group" aria-label="Which">
          <button type="button" className="button" aria-pressed={state === ""} onClick={() => setState("")}>
            all {c.counts.total.toLocaleString("en")}
          </button>
          {states
            .filter((s) => c.counts[s] > 0 || s === state)
            .map((s) => (
              <button key={s} type="button" className="button" aria-pressed={state === s} onClick={() => setState(s)}>
                {deviceStateName(s)} {c.counts[s].toLocaleString("en")}
              </button>
            ))}
        </div>
      </div>
      {devices.error && !list ? (
        <Problem error={devices.error} retry={() => void devices.refetch()} />
      ) : list?.length === 0 ? (
        <p className="rot-none">No device is like that now.</p>
      ) : (
        <table className="rot-table" aria-busy={devices.isPending}>
          <thead>
            <tr>
              <th scope="col">Device</th>
              <th scope="col">State</th>
              <th scope="col" className="number">
                Wave
              </th>
              <th scope="col" className="spare">
                Started
              </th>
              <th scope="col" className="spare">
                Ended
              </th>
            </tr>
          </thead>
          <tbody>
            {list?.map((d) => (
              <tr key={d.device_id}>
                <td className="rot-device">
                  <Link href={storyAddress(d.device_id)}>{rotationTitle(d)}</Link>
                  {d.reason && <p className="hint">{d.reason}</p>}
                </td>
                <td>
                  <span className={`badge ${kinds[d.state] ?? ""}`}>{deviceStateName(d.state)}</span>
                </td>
                <td className="number">{d.wave}</td>
                <td className="spare">
                  <Ago at={d.started_at} never="–" />
                </td>
                <td className="spare">
                  <Ago at={d.ended_at} never="–" />
                </td>
              </tr>
            )) ??
              ["first", "second", "third"].map((row) => (
                <tr key={row}>
                  <td colSpan={5}>
                    <div className="skeleton">&nbsp;</div>
                  </td>
                </tr>
              ))}
          </tbody>
        </table>
      )}
      {devices.hasNextPage && (
        <button
          type="button"
          className="button quiet"
          disabled={devices.isFetchingNextPage}
          onClick={() => void devices.fetchNextPage()}
        >
          {devices.isFetchingNextPage ? "Loading …" : "More"}
        </button>
      )}
    </section>
  );
}
