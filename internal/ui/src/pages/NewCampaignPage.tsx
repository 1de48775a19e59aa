import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useId, useMemo, useRef, useState } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { devicesQuery, modelsQuery } from "../api/devices";
import { useMay } from "../identity/index";
import { NotAllowed } from "../identity/NotAllowed";
import { DevicePicker } from "../logs/DevicePicker";
import { explain } from "../parts/explain";
import { usePreferences } from "../parts/preferences";
import { Page } from "../parts/Shell";
import { useToast } from "../parts/toast";
import { useUnsaved } from "../parts/unsaved";
import { campaignQuery, planCampaign, rotationChanged, startCampaign } from "../rotation/api";
import { type CampaignForm, type Faults, newForm, presetForm, readForm, type Who } from "../rotation/campaign";
import { PlanView } from "../rotation/PlanView";
import type { CampaignRequest, CampaignWindow, Plan } from "../rotation/types";
import "../rotation/rotation.css";

/** The making of a campaign: what it would do is shown before it begins. */
export default function NewCampaignPage() {
  const editor = useMay("editor");
  return editor ? <Form /> : <NotAllowed title="New campaign" needs="editor" />;
}

const zones: string[] = Intl.supportedValuesOf("timeZone");

/** The zone that somebody prefers, by its name. */
function zoneName(preferred: string): string {
  if (preferred === "utc") return "UTC";
  return preferred === "local" ? Intl.DateTimeFormat().resolvedOptions().timeZone : preferred;
}

function Form() {
  const search = useSearch();
  const { zone } = usePreferences();
  const queries = useQueryClient();
  const toast = useToast();
  const [, navigate] = useLocation();
  const start = useRef<CampaignForm>(null);
  start.current ??= presetForm(newForm(zoneName(zone)), search);
  const [form, setForm] = useState(start.current);
  /** Whether it was tried, so that what is missing is said. */
  const [tried, setTried] = useState(false);
  const [plan, setPlan] = useState<{ of: CampaignRequest; plan: Plan } | null>(null);
  const [busy, setBusy] = useState<"plan" | "start" | null>(null);
  const [error, setError] = useState<{ what: string; error: unknown } | null>(null);
  const panel = useRef<HTMLElement>(null);
  const letGo = useUnsaved(form !== start.current);
  const read = useMemo(() => readForm(form), [form]);
  const faults: Faults = tried ? (read.faults ?? {}) : {};
  const set = (change: Partial<CampaignForm>) => {
    setForm((f) => ({ ...f, ...change }));
    setError(null);
  };
  // What was previewed is what may be started: a name or a reason makes no other plan.
  const current = plan !== null && read.request !== null && samePlan(plan.of, read.request);

  const preview = async () => {
    setTried(true);
    if (read.request === null || busy !== null) {
      if (read.request === null)
        requestAnimationFrame(() => document.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
      return;
    }
    setBusy("plan");
    setError(null);
    try {
      setPlan({ of: read.request, plan: await planCampaign(read.request) });
      requestAnimationFrame(() => panel.current?.scrollIntoView({ block: "nearest" }));
    } catch (e) {
      setError({ what: "There is no preview.", error: e });
    }
    setBusy(null);
  };
  const begin = async () => {
    if (read.request === null || !current || busy !== null) return;
    setBusy("start");
    setError(null);
    try {
      const c = await startCampaign(read.request);
      queries.setQueryData(campaignQuery(c.id).queryKey, c);
      rotationChanged(queries);
      letGo();
      toast({ kind: "done", text: `${c.name} has begun.` });
      navigate(`/rotation/campaigns/${c.id}`);
    } catch (e) {
      setError({ what: "It was not started.", error: e });
      setBusy(null);
    }
  };

  return (
    <Page title="New campaign">
      <div className="page-head">
        <Link href="/rotation" className="crumb">
          Rotation
        </Link>
        <span className="crumb" aria-hidden="true">
          /
        </span>
        <h1>New campaign</h1>
      </div>
      <div className="rot-new">
        <form
          className="rot-form"
          aria-label="The campaign"
          noValidate
          onSubmit={(e) => {
            e.preventDefault();
            void preview();
          }}
        >
          <Part title="What it is">
            <Field label="Name" fault={faults.name}>
              {(p) => (
                <input
                  {...p}
                  className="input"
                  maxLength={200}
                  autoComplete="off"
                  placeholder="Spring rotation"
                  value={form.name}
                  onChange={(e) => set({ name: e.target.value })}
                />
              )}
            </Field>
            <Field label="Why" hint="Stands in the history of every device. May be empty.">
              {(p) => (
                <input
                  {...p}
                  className="input"
                  autoComplete="off"
                  value={form.reason}
                  onChange={(e) => set({ reason: e.target.value })}
                />
              )}
            </Field>
          </Part>
          <Which form={form} set={set} faults={faults} />
          <Part title="In which steps">
            <div className="rot-fields">
              <Field
                label="First"
                unit="devices alone"
                hint="Canaries. If one fails, nothing else is touched."
                fault={faults.canary}
              >
                {(p) => <NumberInput {...p} value={form.canary} onChange={(canary) => set({ canary })} empty="none" />}
              </Field>
              <Field label="Then waves of" unit="devices" hint="Empty: all the rest at once." fault={faults.waveSize}>
                {(p) => (
                  <NumberInput {...p} value={form.waveSize} onChange={(waveSize) => set({ waveSize })} empty="all" />
                )}
              </Field>
              <Field label="At once" unit="devices" hint="Each of them waits for no other." fault={faults.inFlight}>
                {(p) => <NumberInput {...p} value={form.inFlight} onChange={(inFlight) => set({ inFlight })} />}
              </Field>
              <Field
                label="Between waves"
                unit="minutes"
                hint="Time to see whether all is well."
                fault={faults.pauseMinutes}
              >
                {(p) => (
                  <NumberInput {...p} value={form.pauseMinutes} onChange={(pauseMinutes) => set({ pauseMinutes })} />
                )}
              </Field>
            </div>
          </Part>
          <When form={form} set={set} fault={faults.windows} />
          <Part title="When it goes wrong">
            <div className="rot-fields">
              <Field label="Pause itself above" unit="% failed" fault={faults.failureRate}>
                {(p) => (
                  <NumberInput {...p} value={form.failureRate} onChange={(failureRate) => set({ failureRate })} />
                )}
              </Field>
              <Field label="But not before" unit="devices ended" fault={faults.minDevices}>
                {(p) => <NumberInput {...p} value={form.minDevices} onChange={(minDevices) => set({ minDevices })} />}
              </Field>
            </div>
            <Check
              checked={form.deferOffline}
              onChange={(deferOffline) => set({ deferOffline })}
              label="Put off devices that are offline"
              hint="They have their turn when they are back, and hold up nobody."
            />
            {form.deferOffline && (
              <div className="rot-fields">
                <Field label="For at most" unit="hours" hint="Then they are skipped." fault={faults.deferHours}>
                  {(p) => <NumberInput {...p} value={form.deferHours} onChange={(deferHours) => set({ deferHours })} />}
                </Field>
              </div>
            )}
          </Part>
          {tried && read.faults !== null && (
            <p className="fault" role="alert">
              Something above is missing or not right yet: it is marked.
            </p>
          )}
          <div className="rot-submit">
            <button type="submit" className={current ? "button" : "button primary"} disabled={busy !== null}>
              {busy === "plan" ? "Working it out …" : "Preview"}
            </button>
            <span className="hint">A preview changes nothing.</span>
          </div>
        </form>
        <section className="card rot-plan" ref={panel} aria-label="Preview" aria-busy={busy === "plan"}>
          <h2>Preview</h2>
          {error !== null && (
            <p className="fault" role="alert">
              {error.what} {explain(error.error, "campaign")}
            </p>
          )}
          {plan === null ? (
            <p className="rot-none">
              Here you will see what the campaign would do before it does: its waves, when it is over, and which devices
              may give trouble.
            </p>
          ) : (
            <>
              {!current && (
                <p className="notice warn" role="status">
                  The form has changed since. Preview again to see what it would do now.
                </p>
              )}
              <div className={current ? undefined : "rot-stale"}>
                <PlanView plan={plan.plan} />
              </div>
              <div className="rot-submit">
                <button
                  type="button"
                  className="button primary"
                  disabled={!current || plan.plan.devices === 0 || busy !== null}
                  onClick={() => void begin()}
                >
                  {busy === "start" ? "Starting …" : `Start with ${devices(plan.plan.devices)}`}
                </button>
                <span className="hint">It can be paused and aborted at any time.</span>
              </div>
            </>
          )}
        </section>
      </div>
    </Page>
  );
}

const devices = (n: number) => `${n.toLocaleString("en")} ${n === 1 ? "device" : "devices"}`;

function samePlan(a: CampaignRequest, b: CampaignRequest): boolean {
  const plain = (c: CampaignRequest) => JSON.stringify({ ...c, name: "", reason: "" });
  return plain(a) === plain(b);
}

function Part({ title, children }: { title: string; children: ReactNode }) {
  return (
    <fieldset className="card rot-part">
      <legend>
        <h2>{title}</h2>
      </legend>
      {children}
    </fieldset>
  );
}

interface Control {
  id: string;
  "aria-invalid": boolean | undefined;
  "aria-describedby": string | undefined;
}

function Field({
  label,
  unit,
  hint,
  fault,
  children,
}: {
  label: string;
  unit?: string;
  hint?: string;
  fault?: string | undefined;
  children: (control: Control) => ReactNode;
}) {
  const id = useId();
  const about = hint || fault ? `${id}-about` : undefined;
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <span className="rot-unit">
        {children({ id, "aria-invalid": fault ? true : undefined, "aria-describedby": about })}
        {unit && <span>{unit}</span>}
      </span>
      {about && (
        <span id={about}>{fault ? <span className="fault">{fault}</span> : <span className="hint">{hint}</span>}</span>
      )}
    </div>
  );
}

function NumberInput({
  value,
  onChange,
  empty,
  ...control
}: Control & { value: string; onChange: (text: string) => void; empty?: string }) {
  return (
    <input
      {...control}
      className="input rot-number"
      inputMode="numeric"
      autoComplete="off"
      placeholder={empty}
      value={value}
      onChange={(e) => onChange(e.target.value)}
    />
  );
}

function Check({
  checked,
  onChange,
  label,
  hint,
}: {
  checked: boolean;
  onChange: (on: boolean) => void;
  label: string;
  hint?: string;
}) {
  return (
    <label className="rot-check">
      <input type="checkbox" checked={checked} onChange={(e) => onChange(e.target.checked)} />
      <span>
        {label}
        {hint && <span className="hint"> {hint}</span>}
      </span>
    </label>
  );
}

const kinds: [Who, string][] = [
  ["all", "All of them"],
  ["models", "Of some models"],
  ["tags", "With some tags"],
  ["devices", "Chosen ones"],
];

/** Which devices take part. */
function Which({ form, set, faults }: { form: CampaignForm; set: (c: Partial<CampaignForm>) => void; faults: Faults }) {
  const all = useQuery(devicesQuery);
  const models = useQuery(modelsQuery);
  const [picking, setPicking] = useState(false);
  const tags = useMemo(
    () => [...new Set([...(all.data?.flatMap((d) => d.tags ?? []) ?? []), ...form.tags])].sort(),
    [all.data, form.tags],
  );
  const toggle = <T,>(list: readonly T[], item: T) =>
    list.includes(item) ? list.filter((x) => x !== item) : [...list, item];
  const fault = faults.models ?? faults.tags ?? faults.devices;
  return (
    <Part title="Which devices">
      <div className="rot-radios" role="radiogroup" aria-label="Which devices">
        {kinds.map(([who, name]) => (
          <label key={who} className="rot-check">
            <input type="radio" name="who" checked={form.who === who} onChange={() => set({ who })} />
            <span>{name}</span>
          </label>
        ))}
      </div>
      {form.who === "models" && (
        <Chips
          label="Models"
          none="There is no model yet."
          items={models.data?.map((m) => ({ key: m.id, name: m.code, more: devices(m.device_count) }))}
          on={(id) => form.models.includes(id)}
          toggle={(id) => set({ models: toggle(form.models, id) })}
        />
      )}
      {form.who === "tags" && (
        <Chips
          label="Tags"
          none="No device has a tag: they come from the tags of its configuration."
          items={all.data && tags.map((t) => ({ key: t, name: t }))}
          on={(t) => form.tags.includes(t)}
          toggle={(t) => set({ tags: toggle(form.tags, t) })}
        />
      )}
      {form.who === "devices" && (
        <p className="rot-chosen">
          {form.devices.length === 0 ? "None chosen yet" : `${devices(form.devices.length)} chosen`}
          <button type="button" className="button" onClick={() => setPicking(true)}>
            Choose …
          </button>
        </p>
      )}
      {fault && (
        <p className="fault" role="alert">
          {fault}
        </p>
      )}
      <div className="rot-fields">
        <Field label="Only if the secret is older than" unit="days" hint="Empty: of any age." fault={faults.older}>
          {(p) => <NumberInput {...p} value={form.older} onChange={(older) => set({ older })} empty="any" />}
        </Field>
      </div>
      <Check checked={form.late} onChange={(late) => set({ late })} label="Only those whose last rotation timed out" />
      <Check
        checked={form.inactive}
        onChange={(inactive) => set({ inactive })}
        label="Inactive ones too"
        hint="They are left out otherwise."
      />
      {picking && (
        <DevicePicker
          devices={all.data ?? []}
          chosen={form.devices}
          onChange={(ids) => set({ devices: ids })}
          onClose={() => setPicking(false)}
          none="None"
        />
      )}
    </Part>
  );
}

function Chips<T extends string | number>({
  label,
  none,
  items,
  on,
  toggle,
}: {
  label: string;
  none: string;
  items: { key: T; name: string; more?: string }[] | undefined;
  on: (key: T) => boolean;
  toggle: (key: T) => void;
}) {
  if (items === undefined) return <div className="skeleton rot-wait" />;
  if (items.length === 0) return <p className="hint">{none}</p>;
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset would bring a frame
    <div className="rot-chips" role="group" aria-label={label}>
      {items.map((i) => (
        <button
          key={i.key}
          type="button"
          className="button"
          aria-pressed={on(i.key)}
          title={i.more}
          onClick={() => toggle(i.key)}
        >
          {i.name}
        </button>
      ))}
    </div>
  );
}

const days = [
  [1, "Mon", "Monday"],
  [2, "Tue", "Tuesday"],
  [3, "Wed", "Wednesday"],
  [4, "Thu", "Thursday"],
  [5, "Fri", "Friday"],
  [6, "Sat", "Saturday"],
  [7, "Sun", "Sunday"],
] as const;

/** At which times of day devices begin. */
function When({
  form,
  set,
  fault,
}: {
  form: CampaignForm;
  set: (c: Partial<CampaignForm>) => void;
  fault: string | undefined;
}) {
  const zone = useId();
  const change = (i: number, c: Partial<CampaignWindow>) =>
    set({ windows: form.windows.map((w, j) => (i === j ? { ...w, ...c } : w)) });
  return (
    <Part title="At what times">
      <div className="rot-radios" role="radiogroup" aria-label="At what times">
        <label className="rot-check">
          <input type="radio" name="when" checked={!form.windowed} onChange={() => set({ windowed: false })} />
          <span>At any time, from now on</span>
        </label>
        <label className="rot-check">
          <input type="radio" name="when" checked={form.windowed} onChange={() => set({ windowed: true })} />
          <span>Only in windows</span>
        </label>
      </div>
      {form.windowed && (
        <>
          {form.windows.map((w, i) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: a window is nothing but its place and what it says
            <fieldset key={i} className="rot-window" aria-label={`Window ${i + 1}`}>
              <span className="rot-days">
                {days.map(([d, short, long]) => (
                  <button
                    key={d}
                    type="button"
                    className="button"
                    title={long}
                    aria-pressed={w.days.includes(d)}
                    onClick={() =>
                      change(i, { days: w.days.includes(d) ? w.days.filter((x) => x !== d) : [...w.days, d].sort() })
                    }
                  >
                    {short}
                  </button>
                ))}
              </span>
              <span className="rot-times">
                <input
                  type="time"
                  className="input"
                  aria-label="From"
                  value={w.from}
                  onChange={(e) => change(i, { from: e.target.value })}
                />
                to
                <input
                  type="time"
                  className="input"
                  aria-label="To"
                  value={w.to}
                  onChange={(e) => change(i, { to: e.target.value })}
                />
                <button
                  type="button"
                  className="button quiet icon"
                  aria-label={`Remove window ${i + 1}`}
                  title="Remove"
                  onClick={() => set({ windows: form.windows.filter((_, j) => j !== i) })}
                >
                  ×
                </button>
              </span>
              {w.to <= w.from && w.to !== w.from && <span className="hint">until the next day</span>}
            </fieldset>
          ))}
          {fault && (
            <p className="fault" role="alert">
              {fault}
            </p>
          )}
          <div className="rot-zone">
            <button
              type="button"
              className="button"
              onClick={() => set({ windows: [...form.windows, { days: [6, 7], from: "09:00", to: "17:00" }] })}
            >
              Another window
            </button>
            <label htmlFor={zone}>in the time of</label>
            <select id={zone} className="input" value={form.zone} onChange={(e) => set({ zone: e.target.value })}>
              {!zones.includes(form.zone) && form.zone !== "UTC" && <option>{form.zone}</option>}
              <option>UTC</option>
              {zones
                .filter((z) => z !== "UTC")
                .map((z) => (
                  <option key={z}>{z}</option>
                ))}
            </select>
          </div>
        </>
      )}
    </Part>
  );
}
