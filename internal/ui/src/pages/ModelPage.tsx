import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Link, useLocation, useParams, useSearch } from "wouter";
import { request } from "../api/client";
import { deviceQuery, devicesQuery, modelQuery, modelsQuery, modelWritten } from "../api/devices";
import type { Model } from "../api/types";
import { CheckState } from "../editor/CheckState";
import { JsonEditor } from "../editor/JsonEditor";
import { syntaxFault } from "../editor/json";
import { useCheck } from "../editor/useCheck";
import { useMay, useSession } from "../identity/index";
import { NotAllowed } from "../identity/NotAllowed";
import { Confirm } from "../parts/Confirm";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";
import { Page } from "../parts/Shell";
import { useToast } from "../parts/toast";
import { useUnsaved } from "../parts/unsaved";
import "../device/settings.css";

/** A device model: its name, its schema, and a place to try configurations; without an id, the making of one. */
export default function ModelPage() {
  const { id } = useParams<{ id?: string }>();
  const from = Number(new URLSearchParams(useSearch()).get("from"));
  const made = id === undefined || id === "new";
  const number = made ? from : Number(id);
  const known = Number.isSafeInteger(number) && number > 0;
  const model = useQuery({ ...modelQuery(number), enabled: known });
  // Who has to do with some devices only makes no models.
  const limited = useSession().self?.limit != null;
  const editor = useMay("editor");
  if (made && (!editor || limited)) return <NotAllowed title="New model" needs="editor" />;
  if (made && !known) return <ModelForm key="new" model={null} original={null} />;
  if (!known) return <NoModel />;
  if (!model.data) {
    return (
      <Page title="Model">
        {model.error ? (
          <Problem error={model.error} retry={() => void model.refetch()} />
        ) : (
          <div className="card">
            <div className="skeleton settings-block" />
          </div>
        )}
      </Page>
    );
  }
  return made ? (
    <ModelForm key={`from ${number}`} model={null} original={model.data} />
  ) : (
    <ModelForm key={number} model={model.data} original={model.data} />
  );
}

function NoModel() {
  return (
    <Page title="Model">
      <div className="empty">
        <h1>There is no such model</h1>
        <Link href="/models" className="button primary">
          To the models
        </Link>
      </div>
    </Page>
  );
}

const codeShape = /^[a-z0-9_]{1,50}$/;

/** `model` is the one that is changed, null for a new one; `original` is what the form begins with. */
function ModelForm({ model, original }: { model: Model | null; original: Model | null }) {
  const queries = useQueryClient();
  const toast = useToast();
  const [, navigate] = useLocation();
  const may = useMay("editor");
  const limit = useSession().self?.limit ?? null;
  const editor = may && (limit === null || (model !== null && limit.models.includes(model.code)));
  const [code, setCode] = useState("");
  const [draft, setDraft] = useState<{ name: string; schema: string } | null>(null);
  const [saving, setSaving] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const saved = { name: original?.name ?? "", schema: original?.config_schema ?? "" };
  const { name, schema } = draft ?? saved;
  const changed = name !== saved.name || schema !== saved.schema || code !== "";
  const letGo = useUnsaved(changed);
  const broken = schema.trim() !== "" && syntaxFault(schema) !== null;
  const named = name.trim() !== "" && name.length <= 255;
  const coded = model !== null || codeShape.test(code);
  const ready = !saving && !broken && named && coded && (changed || model === null);
  const change = (c: { name?: string; schema?: string }) => {
    setError(null);
    setDraft((before) => ({ ...saved, ...before, ...c }));
  };

  const save = async () => {
    if (!ready || !editor) return;
    setSaving(true);
    setError(null);
    try {
      // Null would leave the schema as it is; the empty text takes it away.
      const body = { name, config_schema: schema.trim() === "" ? "" : schema };
      if (model) {
        const m = await request<Model>(`/api/device-models/${model.id}`, { method: "PUT", body });
        modelWritten(queries, m);
        setDraft((d) => (d && (d.name !== name || d.schema !== schema) ? d : null));
        toast({ kind: "done", text: "Saved." });
      } else {
        const m = await request<Model>("/api/device-models", { method: "POST", body: { code, ...body } });
        modelWritten(queries, m);
        letGo();
        toast({
          kind: "done",
          text: `The model ${m.code} is there.`,
          action: { name: "New device", run: () => navigate(`/devices/new?model=${m.id}`) },
        });
        navigate(`/models/${m.id}`);
      }
    } catch (e) {
      setError(e);
    } finally {
      setSaving(false);
    }
  };

  const title = model ? model.name : original ? `Duplicate of ${original.name}` : "New model";
  return (
    <Page title={title}>
      <div className="page-head">
        <Link href="/models" className="crumb">
          Models
        </Link>
        <span className="crumb" aria-hidden="true">
          /
        </span>
        <h1 className="grow">{title}</h1>
        {model && (
          <>
            <Link href={`/?model=${model.id}`} className="button quiet">
              {model.device_count === 1 ? "1 device" : `${model.device_count.toLocaleString("en")} devices`}
            </Link>
            {editor && (
              <>
                <Link href={`/devices/new?model=${model.id}`} className="button">
                  New device
                </Link>
                {limit === null && (
                  <Link href={`/models/new?from=${model.id}`} className="button">
                    Duplicate
                  </Link>
                )}
                <DeleteModel model={model} />
              </>
            )}
          </>
        )}
      </div>
      <div className="card">
        <div className="model-fields">
          <div className="field">
            <label htmlFor="code">Code</label>
            <input
              id="code"
              className="input"
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
              maxLength={50}
              disabled={model !== null}
              aria-invalid={code !== "" && !codeShape.test(code)}
              aria-describedby="code-hint"
              value={model?.code ?? code}
              onChange={(e) => {
                setCode(e.target.value);
                setError(null);
              }}
            />
            <span id="code-hint" className={code !== "" && !codeShape.test(code) ? "fault" : "hint"}>
              {model
                ? "It is in the client ids of its devices and stays."
                : "a to z, 0 to 9 and _; it cannot be changed later"}
            </span>
          </div>
          <div className="field">
            <label htmlFor="name">Name</label>
            <input
              id="name"
              className="input"
              maxLength={255}
              readOnly={!editor}
              value={name}
              onChange={(e) => change({ name: e.target.value })}
            />
            <span className="hint">What people call it</span>
          </div>
        </div>
        {schema.trim() === "" && (draft === null || draft.schema === "") ? (
          <div className="notice">
            <div className="grow">
              <p>It has no schema: its devices may have any JSON as their configuration.</p>
            </div>
            {editor && (
              <button type="button" className="button" onClick={() => change({ schema: schemaTemplate })}>
                Add a schema
              </button>
            )}
          </div>
        ) : (
          <JsonEditor
            label="Schema"
            value={schema}
            readOnly={!editor}
            onChange={(text) => text !== schema && change({ schema: text })}
            status={
              <span>
                A JSON Schema, 2020-12 unless <code>$schema</code> says otherwise. Devices that are there already are
                checked when they are saved next.
              </span>
            }
          >
            {editor && (
              <button type="button" className="button quiet" onClick={() => change({ schema: "" })}>
                Remove the schema
              </button>
            )}
          </JsonEditor>
        )}
        {error !== null && (
          <p className="fault" role="alert">
            It was not saved. {explain(error, "model")}
          </p>
        )}
        {!editor && <p className="hint">You may look at this model; to change it takes the role of an editor.</p>}
        <div className="settings-actions" hidden={!editor}>
          <button type="button" className="button primary" disabled={!ready} onClick={() => void save()}>
            {saving ? "Saving …" : model ? "Save" : "Create model"}
          </button>
          {model ? (
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
          ) : (
            <Link href="/models" className="button quiet">
              Cancel
            </Link>
          )}
          <span className="hint" role="status">
            {model && changed ? "Not saved" : ""}
          </span>
        </div>
      </div>
      {model && may && <TryOut model={model} unsaved={schema !== saved.schema} />}
    </Page>
  );
}

const schemaTemplate = `{
  "type": "object",
  "required": ["deviceEntityId"],
  "properties": {
    "deviceName": { "type": "string" },
    "deviceEntityId": { "type": "string", "minLength": 1 }
  }
}
`;

/** Checks a configuration that nobody has to save. */
function TryOut({ model, unsaved }: { model: Model; unsaved: boolean }) {
  const [config, setConfig] = useState("{}\n");
  const [device, setDevice] = useState<number | null>(null);
  const devices = useQuery({ ...devicesQuery, enabled: model.device_count > 0 });
  const chosen = useQuery({ ...deviceQuery(device ?? 0), enabled: device !== null });
  const text = chosen.data?.config;
  useEffect(() => {
    if (typeof text === "string") setConfig(text);
  }, [text]);
  const check = useCheck(model.id, config);
  const some = devices.data?.filter((d) => d.device_model_id === model.id).slice(0, 50) ?? [];
  return (
    <div className="card try-out">
      <JsonEditor
        label="Try a configuration"
        value={config}
        onChange={setConfig}
        faults={check.state === "invalid" ? check.faults : []}
        status={
          unsaved ? (
            <span>Checked against the schema as it is saved. Save your changes to try them.</span>
          ) : (
            <CheckState check={check} against="as the configuration of a device of this model" />
          )
        }
      >
        {some.length > 0 && (
          <select
            className="input try-device"
            aria-label="Take the configuration of a device"
            value={device ?? ""}
            onChange={(e) => setDevice(e.target.value === "" ? null : Number(e.target.value))}
          >
            <option value="">Take that of a device …</option>
            {some.map((d) => (
              <option key={d.id} value={d.id}>
                {d.device_name ?? d.device_entity_id ?? d.key}
              </option>
            ))}
          </select>
        )}
      </JsonEditor>
    </div>
  );
}

function DeleteModel({ model }: { model: Model }) {
  const queries = useQueryClient();
  const toast = useToast();
  const [, navigate] = useLocation();
  const [asking, setAsking] = useState(false);
  const close = () => setAsking(false);
  return (
    <>
      <button type="button" className="button danger" onClick={() => setAsking(true)}>
        Delete …
      </button>
      {asking && model.device_count > 0 && (
        <Dialog title={`${model.code} is in use`} onClose={close}>
          <p className="form">
            {model.device_count === 1 ? "One device is" : `${model.device_count.toLocaleString("en")} devices are`} of
            this model, and a device cannot be without one. Delete the devices first.
          </p>
          <div className="actions">
            <button type="button" className="button" onClick={close}>
              Cancel
            </button>
            <Link href={`/?model=${model.id}`} className="button primary">
              Show its devices
            </Link>
          </div>
        </Dialog>
      )}
      {asking && model.device_count === 0 && (
        <Confirm
          title={`Delete ${model.name}?`}
          action="Delete the model"
          thing="model"
          onClose={close}
          run={async () => {
            await request(`/api/device-models/${model.id}`, { method: "DELETE" });
            toast({ kind: "done", text: `The model ${model.code} is deleted.` });
            navigate("/models");
            queries.removeQueries({ queryKey: modelQuery(model.id).queryKey });
            void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
          }}
        >
          <p>
            The model <code>{model.code}</code>
            {model.has_config_schema ? " and its schema are" : " is"} lost for good. No device uses it.
          </p>
        </Confirm>
      )}
    </>
  );
}
