import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { Link, useLocation, useParams, useSearch } from "wouter";
import { ApiError } from "../api/client";
import { deviceQuery, devicesQuery, modelsQuery } from "../api/devices";
import type { Device, DeviceSummary } from "../api/types";
import { useMay } from "../identity/index";
import { openLog } from "../logs";
import { columns, type LogAddress, readAddress, writeAddress } from "../logs/address";
import { DevicePicker } from "../logs/DevicePicker";
import { DownloadDialog } from "../logs/DownloadDialog";
import { FilterBar } from "../logs/FilterBar";
import { FirstLine } from "../logs/FirstLine";
import { LogView } from "../logs/LogView";
import type { Devices } from "../logs/model";
import type { Sender } from "../logs/publish";
import type { LogModel } from "../logs/types";
import { DeviceHead, deviceTitle } from "../parts/DeviceHead";
import { Problem } from "../parts/Problem";
import { FullPage, Page } from "../parts/Shell";
import { streamClient } from "../stream";

/** What devices say: one of them, several merged or side by side, those of a model, or all. */
export default function LogPage() {
  const { id } = useParams<{ id?: string }>();
  if (id === undefined) return <SeveralPage />;
  const device = /^[1-9]\d{0,14}$/.test(id) ? Number(id) : null;
  return device === null ? <NoDevice /> : <DeviceLog key={device} id={device} />;
}

function NoDevice() {
  return (
    <Page title="No such device">
      <div className="empty">
        <h1>No such device</h1>
        <p>It was deleted, or the address is not right.</p>
        <Link className="button" href="/">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}

function DeviceLog({ id }: { id: number }) {
  const { data: device, error, refetch } = useQuery(deviceQuery(id));
  if (error instanceof ApiError && error.status === 404) return <NoDevice />;
  const name = device ? deviceTitle(device) : `Device ${id}`;
  return (
    <FullPage title={name}>
      <DeviceHead id={id} tab="log" />
      {error && !device ? <Problem error={error} retry={refetch} /> : null}
      <Logs
        sets={[{ devices: [id], label: `the log of ${name}` }]}
        names={null}
        empty={device ? <FirstLine from={senderOf(device)} name={name} /> : null}
      />
    </FullPage>
  );
}

function senderOf(device: Device): Sender {
  return { id: device.id, entityId: device.device_entity_id, clientId: device.client_id };
}

function SeveralPage() {
  const [address, setAddress] = useAddress();
  const { data: devices, error, refetch } = useQuery(devicesQuery);
  const { data: models } = useQuery({ ...modelsQuery, enabled: address.model !== null });
  const [picking, setPicking] = useState(false);
  const names = useMemo(() => new Map(devices?.map((d) => [d.id, deviceTitle(d)])), [devices]);
  const model = models?.find((m) => m.id === address.model);

  const chosen = address.devices;
  const side = address.layout === "side" && chosen.length > 1;
  const name = (id: number) => names.get(id) ?? `Device ${id}`;
  const sets: LogSet[] = side
    ? chosen.slice(0, columns).map((id) => ({ devices: [id], label: name(id) }))
    : [
        chosen.length > 0
          ? { devices: chosen, label: `the log of ${chosen.length} devices` }
          : address.model !== null
            ? { devices: { model: address.model }, label: "the log of a model's devices" }
            : { devices: "all", label: "the log of the fleet" },
      ];
  const choose = (ids: number[]) => setAddress({ ...address, devices: ids, model: null, at: null, time: null });
  const title =
    chosen.length > 0 ? "Logs" : address.model !== null ? `Logs of ${model?.code ?? "a model"}` : "Fleet log";
  return (
    <FullPage title={title}>
      <header className="logs-head">
        <h1>{title}</h1>
        <ul className="chosen" aria-label="Devices shown">
          {chosen.map((id) => (
            <li key={id} className="badge">
              <Link href={`/devices/${id}`}>{name(id)}</Link>
              <button
                type="button"
                aria-label={`Remove ${name(id)}`}
                onClick={() => choose(chosen.filter((c) => c !== id))}
              >
                ×
              </button>
            </li>
          ))}
        </ul>
        <button type="button" className="button" onClick={() => setPicking(true)}>
          {chosen.length > 0 ? "Devices…" : "Choose devices…"}
        </button>
        {chosen.length > 1 && (
          // biome-ignore lint/a11y/useSemanticElements: a fieldset would bring a frame
          <div className="segments" role="group" aria-label="Layout">
            <button
              type="button"
              className="button toggle"
              aria-pressed={!side}
              onClick={() => setAddress({ ...address, layout: "merged" })}
            >
              Merged
            </button>
            <button
              type="button"
              className="button toggle"
              aria-pressed={side}
              title={chosen.length > columns ? `The first ${columns}` : undefined}
              onClick={() => setAddress({ ...address, layout: "side" })}
            >
              Side by side
            </button>
          </div>
        )}
      </header>
      {error && !devices ? <Problem error={error} retry={refetch} /> : null}
      <Logs sets={sets} names={side ? null : names} empty={<NoLines devices={devices} />} />
      {picking && (
        <DevicePicker devices={devices ?? []} chosen={chosen} onChange={choose} onClose={() => setPicking(false)} />
      )}
    </FullPage>
  );
}

function NoLines({ devices }: { devices: readonly DeviceSummary[] | undefined }) {
  const editor = useMay("editor");
  if (devices?.length === 0) {
    return (
      <div className="empty">
        <h2>No device yet</h2>
        {editor ? (
          <>
            <p>A line belongs to a device, so make one first; then its page says how to send it the first line.</p>
            <Link className="button primary" href="/devices/new">
              New device
            </Link>
          </>
        ) : (
          <p>A line belongs to a device, and there is none that you may see.</p>
        )}
      </div>
    );
  }
  const d = devices?.find((d) => d.device_entity_id !== null) ?? devices?.[0];
  return d ? <FirstLine from={{ id: d.id, entityId: d.device_entity_id, clientId: null }} name={null} /> : null;
}

interface LogSet {
  devices: Devices;
  label: string;
}

/** One log, or several side by side with one filter. */
function Logs({ sets, names, empty }: { sets: LogSet[]; names: ReadonlyMap<number, string> | null; empty: ReactNode }) {
  const [address, setAddress] = useAddress();
  const [active, setActive] = useState(0);
  const [tags] = useState(() => new Set<string>());
  const [fault, setFault] = useState<string | null>(null);
  const { filter, find } = address;
  const several = sets.length > 1;
  const current = Math.min(active, sets.length - 1);
  const bar = (own: ReactNode) => (
    <FilterBar
      filter={filter}
      find={find}
      fault={fault}
      tags={() => [...tags].sort()}
      onChange={(filter, find) => setAddress({ ...address, filter, find })}
    >
      {own}
    </FilterBar>
  );
  return (
    <>
      <Taken sets={sets} />
      {several && (
        <div className="shared-tools">
          {/* biome-ignore lint/a11y/useSemanticElements: there is none for it */}
          <div className="toolbar" role="group" aria-label="Of all logs">
            {bar(null)}
          </div>
        </div>
      )}
      <div className="logs" data-columns={sets.length}>
        {sets.map((set, i) => (
          <OneLog
            key={JSON.stringify(set.devices)}
            set={set}
            title={several ? set.label : null}
            names={names}
            address={address}
            tags={tags}
            active={i === current}
            onActive={() => setActive(i)}
            onLive={() => setAddress({ ...address, at: null, time: null })}
            onFault={i === 0 ? setFault : null}
            toolbar={several ? (own) => <div className="tools">{own}</div> : bar}
            empty={empty}
          />
        ))}
      </div>
    </>
  );
}

/** Says when a device is followed no more because a right was taken away. A log of that device alone says so itself. */
function Taken({ sets }: { sets: LogSet[] }) {
  const [taken, setTaken] = useState<ReadonlyMap<number, string>>(new Map());
  const shown = useRef(sets);
  shown.current = sets;
  useEffect(
    () =>
      streamClient.on("subscription-ended", (payload) => {
        const { device_id: id, device_entity_id: entity } = payload as { device_id: number; device_entity_id?: string };
        const several = shown.current.some(({ devices: d }) => !Array.isArray(d) || (d.length > 1 && d.includes(id)));
        if (several) setTaken((before) => new Map(before).set(id, entity || `device ${id}`));
      }),
    [],
  );
  if (taken.size === 0) return null;
  return (
    <div className="notice warn taken" role="status">
      <span className="grow">
        New lines of {[...taken.values()].join(", ")} do not come any more: you may not see{" "}
        {taken.size === 1 ? "it" : "them"} now. What came before stays until you leave.
      </span>
      <button type="button" className="button quiet icon" aria-label="Close" onClick={() => setTaken(new Map())}>
        ×
      </button>
    </div>
  );
}

function OneLog(p: {
  set: LogSet;
  title: string | null;
  names: ReadonlyMap<number, string> | null;
  address: LogAddress;
  tags: Set<string>;
  active: boolean;
  onActive: () => void;
  onLive: () => void;
  onFault: ((fault: string | null) => void) | null;
  toolbar: (own: ReactNode) => ReactNode;
  empty: ReactNode;
}) {
  const { address, onFault } = p;
  const [log, setLog] = useState<LogModel | null>(null);
  const [download, setDownload] = useState(false);
  const key = JSON.stringify(p.set.devices);
  const { filter, find } = address;
  const shown = find ? { ...filter, text: "" } : filter;
  const first = useRef(shown); // later ones are set by the view
  first.current = shown;
  useLayoutEffect(() => {
    const made = openLog(JSON.parse(key) as Devices, first.current);
    setLog(made);
    return () => made.close();
  }, [key]);
  useEffect(() => {
    if (log === null || onFault === null) return;
    const tell = () => onFault(log.snapshot().fault);
    tell();
    return log.watch(tell);
  }, [log, onFault]);
  if (log === null) return null;
  return (
    <>
      <LogView
        log={log}
        stream={streamClient}
        label={p.set.label}
        title={p.title}
        names={p.names}
        filter={filter}
        find={find}
        tags={p.tags}
        at={address.at}
        time={address.time}
        active={p.active}
        onActive={p.onActive}
        onLive={p.onLive}
        onDownload={() => setDownload(true)}
        toolbar={p.toolbar}
        empty={p.empty}
      />
      {download && (
        <DownloadDialog devices={p.set.devices} label={p.set.label} filter={shown} onClose={() => setDownload(false)} />
      )}
    </>
  );
}

function useAddress(): [LogAddress, (a: LogAddress) => void] {
  const search = useSearch();
  const [path, navigate] = useLocation();
  const address = useMemo(() => readAddress(search), [search]);
  return [address, (a) => navigate(path + writeAddress(a), { replace: true })];
}
