import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link, useParams, useSearch } from "wouter";
import { ApiError } from "../api/client";
import { deviceQuery } from "../api/devices";
import { DeviceHead, deviceTitle } from "../parts/DeviceHead";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { FullPage, Page } from "../parts/Shell";
import { Ago } from "../parts/Time";
import { formatTime } from "../parts/time";
import { DeviceActions } from "../rotation/Actions";
import { rotationKey, storyQuery } from "../rotation/api";
import { useLiveRotation, useServerNow } from "../rotation/live";
import { Mark, Sentence } from "../rotation/Marks";
import { logAt, storyAddress } from "../rotation/story";
import { Teach } from "../rotation/Teach";
import { TimeLine } from "../rotation/TimeLine";
import type { Attempt, Story } from "../rotation/types";
import { advice, askedBy, countdown, outcomeWords, standingIn } from "../rotation/words";
import "../rotation/rotation.css";

/** The rotation of one device: where it stands, its attempts, and each with what the device said meanwhile. */
export default function StoryPage() {
  const { id } = useParams<{ id: string }>();
  return /^[1-9]\d{0,14}$/.test(id) ? <One key={id} id={Number(id)} /> : <Gone />;
}

function Gone() {
  return (
    <Page title="Rotation">
      <div className="empty">
        <h1>There is no such device</h1>
        <p>It may have been deleted, or the address is mistyped.</p>
        <Link href="/rotation" className="button primary">
          To the rotation
        </Link>
      </div>
    </Page>
  );
}

function One({ id }: { id: number }) {
  const device = useQuery(deviceQuery(id));
  const story = useQuery(storyQuery(id, 100));
  useLiveRotation([rotationKey, deviceQuery(id).queryKey]);
  const chosen = Number(new URLSearchParams(useSearch()).get("attempt"));
  const d = device.data;
  const s = story.data;
  const standing = useMemo(() => (s && d ? standingIn(s, d.active) : null), [s, d]);
  const failed = device.error ?? story.error;
  if (device.error instanceof ApiError && device.error.status === 404) return <Gone />;
  const name = d ? deviceTitle(d) : `Device ${id}`;
  const attempt = s?.attempts.find((a) => a.number === chosen) ?? s?.attempts[0];
  const what = standing && advice(standing);
  return (
    <FullPage title={`Rotation of ${name}`}>
      <DeviceHead id={id} tab="rotation" />
      <div className="settings-scroll rot-scroll">
        <div className="rot-story">
          {failed && (
            <Problem
              error={failed}
              retry={() => {
                void device.refetch();
                void story.refetch();
              }}
            />
          )}
          {d?.revoked && (
            <div className="notice error" role="note">
              <span className="grow">
                <strong>This device is revoked.</strong> No secret of it is taken, so it cannot be rotated before it is{" "}
                <Link href={`/devices/${id}/settings`}>restored</Link>.
              </span>
            </div>
          )}
          {!(failed && !s) && (
            <section className="card rot-card rot-standing" aria-label="Now" aria-busy={standing === null}>
              {standing === null ? (
                <div className="skeleton rot-wait" />
              ) : (
                <>
                  <Mark standing={standing} />
                  <div className="rot-item">
                    <p className="rot-says">
                      <Sentence standing={standing} />
                    </p>
                    {what !== null && <p>{what}</p>}
                    <Facts story={s} />
                  </div>
                  {!(d?.revoked && standing.rotation_state === "OK") && (
                    <DeviceActions id={id} title={name} standing={standing} />
                  )}
                </>
              )}
            </section>
          )}
          {s && s.attempts.length === 0 && (
            <section className="card rot-card" aria-label="Attempts">
              <h2>No attempt yet</h2>
              <p>
                The first one will stand here with its steps, and beside them what the device says meanwhile. What
                happens then:
              </p>
              <Teach />
            </section>
          )}
          {s && attempt && (
            <div className="rot-attempts">
              <nav className="card rot-history" aria-label="Attempts">
                <h2>Attempts</h2>
                <ol>
                  {s.attempts.map((a) => (
                    <AttemptLink key={a.number} device={id} attempt={a} current={a === attempt} />
                  ))}
                </ol>
              </nav>
              <AttemptCard device={id} attempt={attempt} />
            </div>
          )}
        </div>
      </div>
    </FullPage>
  );
}

function Facts({ story: s }: { story: Story | undefined }) {
  if (!s) return null;
  return (
    <p className="hint">
      Secret made <Ago at={s.secret_created_at} never="at an unknown time" />
      {s.completed_at === null ? (
        " · never rotated"
      ) : (
        <>
          {" · "}rotated <Ago at={s.completed_at} />
        </>
      )}
      {s.failures > 0 && ` · ${s.failures} timed out since`}
      {s.campaign_id !== null && (
        <>
          {" · "}
          <Link href={`/rotation/campaigns/${s.campaign_id}`}>campaign {s.campaign_id}</Link>
        </>
      )}
    </p>
  );
}

function AttemptLink({ device, attempt: a, current }: { device: number; attempt: Attempt; current: boolean }) {
  const w = outcomeWords(a.outcome);
  return (
    <li>
      <Link href={storyAddress(device, a.number)} replace aria-current={current ? "true" : undefined}>
        <span className="rot-nth">#{a.number}</span>
        <span className="rot-outcome" data-tone={w.tone}>
          {w.name}
        </span>
        <span className="hint">
          <Ago at={a.started_at} />
        </span>
      </Link>
    </li>
  );
}

/** One attempt: what became of it, who asked for it, and its time line. */
function AttemptCard({ device, attempt: a }: { device: number; attempt: Attempt }) {
  const { zone } = usePreferences();
  const w = outcomeWords(a.outcome);
  const took = useServerNow((now) =>
    countdown((a.ended_at === null ? now : Date.parse(a.ended_at)) - Date.parse(a.started_at)),
  );
  return (
    <section className="card rot-card rot-attempt" aria-label={`Attempt ${a.number}`}>
      <div className="rot-card-head">
        <h2>
          Attempt {a.number}:{" "}
          <span className="rot-outcome" data-tone={w.tone}>
            {w.name.toLowerCase()}
          </span>
        </h2>
        <Link
          href={logAt(device, a.outcome === "timeout" && a.ended_at !== null ? a.ended_at : a.started_at)}
          className="button"
        >
          {a.outcome === "timeout" ? "Open the log when it timed out" : "Open the log at its start"}
        </Link>
      </div>
      <p className="hint">
        {formatTime(a.started_at, zone)}, {a.ended_at === null ? "for" : "took"} {took}, {askedBy(a)}
        {a.campaign_id !== null && (
          <>
            , in <Link href={`/rotation/campaigns/${a.campaign_id}`}>campaign {a.campaign_id}</Link>
          </>
        )}
      </p>
      <TimeLine key={a.number} device={device} attempt={a} />
    </section>
  );
}
