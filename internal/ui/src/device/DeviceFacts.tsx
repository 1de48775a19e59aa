import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { presenceQuery } from "../api/devices";
import type { Device } from "../api/types";
import { CopyButton } from "../parts/Copy";
import { DeviceState } from "../parts/DeviceState";
import { clockText, presenceName, times } from "../parts/presence";
import { Time } from "../parts/Time";

/** What Signalbox knows of a device beside its configuration. */
export function DeviceFacts({ device: d }: { device: Device }) {
  const { data: presence } = useQuery(presenceQuery(d.id));
  return (
    <section className="card" aria-label="Facts">
      <h2>Facts</h2>
      <dl className="facts">
        <Fact name="Key">
          <Copied text={d.key} what="key" />
        </Fact>
        <Fact name="Client id">
          <Copied text={d.client_id} what="client id" />
        </Fact>
        <Fact name="Entity id">
          {d.device_entity_id === null ? (
            <span className="hint">none: no line on the shared topic is its</span>
          ) : (
            <Copied text={d.device_entity_id} what="entity id" />
          )}
        </Fact>
        <Fact name="Model">
          <Link href={`/models/${d.device_model_id}`}>{d.device_model.name}</Link>
          {d.device_model.firmware_version && <span className="hint"> firmware {d.device_model.firmware_version}</span>}
        </Fact>
        <Fact name="Tags">
          {d.tags?.length > 0 ? (
            <span className="tags">
              {d.tags.map((t) => (
                <span key={t} className="badge">
                  {t}
                </span>
              ))}
            </span>
          ) : (
            <span className="hint">
              none: <code>tags</code> of the configuration
            </span>
          )}
        </Fact>
        <Fact name={`${presence?.since ? presenceName(presence) : "Online"} since`}>
          <Time at={presence?.since ?? null} never={presence ? "was never seen online" : "…"} />
        </Fact>
        <Fact name="Last seen">
          <Time at={presence?.last_seen_at ?? null} never={presence ? "never" : "…"} />
        </Fact>
        <Fact name="Went away">
          {presence === undefined ? (
            <span className="hint">…</span>
          ) : presence.drops_24h === 0 ? (
            <span className="hint">not in the last 24 hours</span>
          ) : (
            `${times(presence.drops_24h)} in the last 24 hours`
          )}
        </Fact>
        {typeof presence?.clock_off_ms === "number" && <Fact name="Its clock">{clockText(presence.clock_off_ms)}</Fact>}
        <Fact name="Created">
          <Time at={d.created_at} />
        </Fact>
        <Fact name="Updated">
          <Time at={d.updated_at} />
        </Fact>
        <Fact name="Secret made">
          <Time at={d.secret_created_at} />
        </Fact>
        <Fact name="Rotation">
          <DeviceState active={d.active} rotation={d.rotation_state} />
          <Link href={`/devices/${d.id}/rotation`}>its story</Link>
        </Fact>
        <Fact name="Access">
          {d.revoked ? (
            <span className="badge error" title="Its tokens and its secret are not taken">
              Revoked
            </span>
          ) : (
            <span className="badge ok" title="Its tokens and its secret are taken">
              Allowed
            </span>
          )}
        </Fact>
        <Fact name="Last try">
          <Time at={d.last_rotation_attempt_at} />
        </Fact>
        <Fact name="Last success">
          <Time at={d.last_rotation_completed_at} />
        </Fact>
      </dl>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Copied({ text, what }: { text: string; what: string }) {
  return (
    <>
      <code>{text}</code>
      <CopyButton text={text} what={what} />
    </>
  );
}
