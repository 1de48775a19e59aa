import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect, useState } from "react";
import { Link, useLocation, useParams, useSearch } from "wouter";
import { request } from "../api/client";
import { deviceQuery, deviceWritten, modelsQuery } from "../api/devices";
import type { Device } from "../api/types";
import { DeleteDevice } from "../device/DeleteDevice";
import { DeviceFacts } from "../device/DeviceFacts";
import { RevokeDevice } from "../device/RevokeDevice";
import { CheckState } from "../editor/CheckState";
import { JsonEditor } from "../editor/JsonEditor";
import { syntaxFault } from "../editor/json";
import { type Check, useCheck } from "../editor/useCheck";
import { useMay } from "../identity/index";
import { NotAllowed } from "../identity/NotAllowed";
import { Confirm } from "../parts/Confirm";
import { DeviceHead, deviceTitle } from "../parts/DeviceHead";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";
import { FullPage, Page } from "../parts/Shell";
import { useToast } from "../parts/toast";
import { useUnsaved } from "../parts/unsaved";
import { ImportDevices } from "../provisioning/ImportDevices";
import { ProvisionDevice } from "../provisioning/ProvisionDevice";
import "../device/settings.css";

/** A device's facts and its configuration; without an id, the making of one. */
export default function DevicePage() {
  const { id } = useParams<{ id?: string }>();
  const number = Number(id);
  const editor = useMay("editor");
  if (id === undefined) return editor ? <NewDevice /> : <NotAllowed title="New device" needs="editor" />;
  if (!Number.isSafeInteger(number) || number <= 0) return <Gone />;
  return <Settings key={number} id={number} />;
}

function Gone() {
  return (
    <Page title="Device">
      <div className="empty">
        <h1>There is no such device</h1>
        <p>It may have been deleted, or the address is mistyped.</p>
        <Link href="/" className="button primary">
          To the fleet
        </Link>
      </div>
    </Page>
  );
}

/** What somebody changed, and what the device was when they began. */
interface Draft {
  config: string;
  active: boolean;
  base: Device;
}

function Settings({ id }: { id: number }) {
  const queries = useQueryClient();
  const toast = useToast();
  const editor = useMay("editor");
  const device = useQuery(deviceQuery(id));
  const [draft, setDraft] = useState<Draft | null>(null);
  const [saving, setSaving] = useState(false);
  const [error, setError] = useState<unknown>(null);
  /** Set when somebody else saved meanwhile. */
  const [other, setOther] = useState<Device | null>(null);
  const d = device.data;
  const config = draft?.config ?? d?.config ?? "";
  const changed = draft !== null && (draft.config !== draft.base.config || draft.active !== draft.base.active);
  useUnsaved(changed);
  const check = useCheck(draft && draft.config !== draft.base.config ? draft.base.device_model_id : null, config);
  const syntax = syntaxFault(config) !== null;

  const save = async (over: boolean) => {
    if (!editor || !draft || !changed || saving || syntax) return;
    setSaving(true);
    setError(null);
    setOther(null);
    try {
      const now = await request<Device>(`/api/devices/${id}`);
      if (!over && (now.config !== draft.base.config || now.active !== draft.base.active)) {
        setOther(now);
        return;
      }
      const { config, active } = draft;
      deviceWritten(queries, await request<Device>(`/api/devices/${id}`, { method: "PUT", body: { config, active } }));
      // What was typed while it was being saved is a change still.
      setDraft((d) =>
        d && (d.config !== config || d.active !== active) ? { ...d, base: { ...now, config, active } } : null,
      );
      toast({ kind: "done", text: `${deviceTitle(now)} is saved.` });
    } catch (e) {
      setError(e);
    } finally {
      setSaving(false);
    }
  };
  useSaveKey(() => void save(false));

  if (!d) {
    if (device.error) {
      return (
        <FullPage title="Device">
          <DeviceHead id={id} tab="settings" />
          <div className="page">
            <Problem error={device.error} retry={() => void device.refetch()} />
          </div>
        </FullPage>
      );
    }
    return (
      <FullPage title="Device">
        <DeviceHead id={id} tab="settings" />
        <SettingsSkeleton />
      </FullPage>
    );
  }
  const active = draft?.active ?? d.active;
  const change = (c: { config?: string; active?: boolean }) => {
    setError(null);
    if (d.config === null) return;
    const { config } = d;
    setDraft((before) => ({ config, active: d.active, base: d, ...before, ...c }));
  };
  return (
    <FullPage title={`Settings of ${deviceTitle(d)}`}>
      <DeviceHead id={id} tab="settings" />
      <div className="settings-scroll">
        <div className="settings">
          {d.warnings.map((w) => (
            <div key={w} className="notice warn wide" role="note">
              {w}
            </div>
          ))}
          {d.revoked && (
            <div className="notice error wide" role="note">
              <span className="grow">
                <strong>This device is revoked.</strong> Its secret and its tokens are not taken, and it cannot connect.
              </span>
            </div>
          )}
          <div className="card settings-main">
            {d.config === null ? (
              <>
                <h2>Configuration</h2>
                <p className="hidden-config">
                  It is not shown: there may be secrets in it. To see and change it takes the role of an editor.
                </p>
              </>
            ) : (
              <JsonEditor
                label="Configuration"
                value={config}
                readOnly={!editor}
                onChange={(text) => text !== config && change({ config: text })}
                faults={check.state === "invalid" ? check.faults : []}
                status={
                  check.state === "none" ? (
                    <span>
                      <code>deviceName</code>, <code>deviceEntityId</code>, <code>enableOTA</code> and <code>tags</code>{" "}
                      are what Signalbox itself reads of it.
                    </span>
                  ) : (
                    <CheckState check={check} against={`against ${d.device_model.code}`} />
                  )
                }
              />
            )}
            {!editor && d.config !== null && (
              <p className="hint">You may look at this device; to change it takes the role of an editor.</p>
            )}
            <label className="switch" hidden={!editor}>
              <input
                type="checkbox"
                role="switch"
                aria-checked={active}
                checked={active}
                onChange={(e) => change({ active: e.target.checked })}
              />
              <span>
                Active
                <span className="hint"> takes part in the rotation of the fleet's secrets</span>
              </span>
            </label>
            {error !== null && (
              <p className="fault" role="alert">
                It was not saved. {explain(error, "device")}
              </p>
            )}
            <div className="settings-actions" hidden={!editor}>
              <button
                type="button"
                className="button primary"
                disabled={!changed || saving || syntax || check.state === "invalid"}
                title={saveTitle(changed, syntax, check)}
                onClick={() => void save(false)}
              >
                {saving ? "Saving …" : "Save"}
              </button>
              <button
                type="button"
                className="button quiet"
                disabled={!changed || saving}
                onClick={() => {
                  setDraft(null);
                  setError(null);
                }}
              >
                Undo changes
              </button>
              <span className="hint" role="status">
                {changed ? "Not saved" : ""}
              </span>
            </div>
          </div>
          <div className="settings-side">
            <DeviceFacts device={d} />
            {editor && (
              <div className="card settings-more">
                <Link href={`/devices/new?from=${id}`} className="button">
                  Duplicate
                </Link>
                <ProvisionDevice device={d} />
                <RevokeDevice device={d} />
                <DeleteDevice device={d} />
              </div>
            )}
          </div>
        </div>
      </div>
      {other && (
        <Confirm
          title="Somebody else changed this device"
          action="Save over it"
          thing="device"
          run={() => save(true)}
          onClose={() => setOther(null)}
        >
          <p>
            Its configuration was saved by somebody else since you began. Saving now replaces what they saved; cancel to
            copy your text, and undo your changes to see theirs.
          </p>
        </Confirm>
      )}
    </FullPage>
  );
}

function saveTitle(changed: boolean, syntax: boolean, check: Check): string {
  if (!changed) return "Nothing has changed";
  if (syntax) return "It is not JSON yet";
  if (check.state === "invalid") return "The server would not take it: see below the text";
  return "Save (Ctrl+S)";
}

/** Has Ctrl+S, or ⌘S, save instead of the browser. */
function useSaveKey(save: () => void): void {
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key !== "s" || !(e.ctrlKey || e.metaKey) || e.altKey || e.shiftKey) return;
      e.preventDefault();
      if (!document.querySelector("dialog[open]")) save();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  });
}

function SettingsSkeleton() {
  return (
    <div className="settings" aria-busy="true">
      <div className="card settings-main">
        <div className="skeleton settings-block" />
      </div>
      <div className="settings-side">
        <div className="card">
          <div className="skeleton settings-block" />
        </div>
      </div>
    </div>
  );
}

const template = `{
  "deviceName": "",
  "deviceEntityId": ""
}
`;

function NewDevice() {
  const query = new URLSearchParams(useSearch());
  const from = Number(query.get("from"));
  const models = useQuery(modelsQuery);
  const original = useQuery({ ...deviceQuery(from), enabled: from > 0 });
  if (models.error || original.error) {
    return (
      <Page title="New device">
        <Problem
          error={models.error ?? original.error}
          retry={() => {
            void models.refetch();
            if (from > 0) void original.refetch();
          }}
        />
      </Page>
    );
  }
  if (!models.data || (from > 0 && !original.data)) {
    return (
      <FullPage title="New device">
        <SettingsSkeleton />
      </FullPage>
    );
  }
  if (models.data.length === 0) {
    return (
      <Page title="New device">
        <div className="empty">
          <h1>First a model</h1>
          <p>Every device is of a device model, and there is none yet. It takes a code and a name.</p>
          <Link href="/models/new" className="button primary">
            New model
          </Link>
        </div>
      </Page>
    );
  }
  const wanted = original.data?.device_model_id ?? Number(query.get("model"));
  const model = models.data.find((m) => m.id === wanted) ?? models.data[0];
  return (
    <DeviceForm
      key={from}
      original={original.data ?? null}
      model={model?.id ?? 0}
      models={models.data.map((m) => ({ id: m.id, name: m.name === m.code ? m.code : `${m.code} – ${m.name}` }))}
    />
  );
}

function DeviceForm({
  original,
  model: first,
  models,
}: {
  original: Device | null;
  model: number;
  models: { id: number; name: string }[];
}) {
  const queries = useQueryClient();
  const toast = useToast();
  const [, navigate] = useLocation();
  const start = original?.config ?? template;
  const [model, setModel] = useState(first);
  const [config, setConfig] = useState(start);
  const [saving, setSaving] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const letGo = useUnsaved(config !== start);
  const check = useCheck(model, config);
  const syntax = syntaxFault(config) !== null;
  const ready = !saving && !syntax && check.state !== "invalid";

  const create = async () => {
    if (!ready) return;
    setSaving(true);
    setError(null);
    try {
      const d = await request<Device>("/api/devices", { method: "POST", body: { device_model_id: model, config } });
      deviceWritten(queries, d);
      letGo();
      toast({ kind: "done", text: `${deviceTitle(d)} is there. Its client id is ${d.client_id}.` });
      navigate(`/devices/${d.id}`);
    } catch (e) {
      setError(e);
      setSaving(false);
    }
  };
  useSaveKey(() => void create());

  const entity = original && sharedEntity(original, config);
  return (
    <Page title={original ? "Duplicate a device" : "New device"}>
      <div className="page-head">
        <Link href="/" className="crumb">
          Fleet
        </Link>
        <span className="crumb" aria-hidden="true">
          /
        </span>
        <h1 className="grow">{original ? `Duplicate of ${deviceTitle(original)}` : "New device"}</h1>
        {!original && <ImportDevices name="Many at once" />}
      </div>
      <div className="card new-device">
        <div className="field">
          <label htmlFor="model">Model</label>
          <select id="model" className="input" value={model} onChange={(e) => setModel(Number(e.target.value))}>
            {models.map((m) => (
              <option key={m.id} value={m.id}>
                {m.name}
              </option>
            ))}
          </select>
        </div>
        <JsonEditor
          label="Configuration"
          value={config}
          onChange={(text) => {
            setConfig(text);
            setError(null);
          }}
          faults={check.state === "invalid" ? check.faults : []}
          status={<CheckState check={check} against="against the model's schema" />}
        />
        <Hint>
          <code>deviceName</code> is what it is called here. <code>deviceEntityId</code> is what it calls itself: lines
          that carry this entity id are its. Everything else is its own.
        </Hint>
        {entity && (
          <div className="notice warn" role="note">
            {deviceTitle(original)} has the entity id “{entity}” too: lines with it would belong to both. Give this one
            another.
          </div>
        )}
        {error !== null && (
          <p className="fault" role="alert">
            It was not created. {explain(error, "device")}
          </p>
        )}
        <div className="settings-actions">
          <button type="button" className="button primary" disabled={!ready} onClick={() => void create()}>
            {saving ? "Creating …" : "Create device"}
          </button>
          <Link href="/" className="button quiet">
            Cancel
          </Link>
        </div>
      </div>
    </Page>
  );
}

function Hint({ children }: { children: ReactNode }) {
  return <p className="hint">{children}</p>;
}

/** The entity id, if the text still has the original's. */
function sharedEntity(original: Device, config: string): string | null {
  if (original.device_entity_id === null) return null;
  try {
    const value: unknown = JSON.parse(config);
    const id = (value as { deviceEntityId?: unknown } | null)?.deviceEntityId;
    return id === original.device_entity_id ? original.device_entity_id : null;
  } catch {
    return null;
  }
}
