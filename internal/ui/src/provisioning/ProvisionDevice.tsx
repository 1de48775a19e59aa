import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useId, useState } from "react";
import { request, send } from "../api/client";
import type { Device } from "../api/types";
import { save } from "../logs/export";
import { Copy, copyText } from "../parts/Copy";
import { useNow } from "../parts/clock";
import { deviceTitle } from "../parts/DeviceHead";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { Time } from "../parts/Time";
import { useToast } from "../parts/toast";
import { formatWords, isOpen, linksQuery, type PackageFormat, readSize, sizeFault, sizes } from "./package";
import "./provisioning.css";

/** The way to what a device is provisioned with. For editors: it has the device's secret. */
export function ProvisionDevice({ device }: { device: Device }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <button type="button" className="button" onClick={() => setOpen(true)}>
        Provision …
      </button>
      {open && <Provisioning device={device} onClose={() => setOpen(false)} />}
    </>
  );
}

const formats: [format: PackageFormat, name: string, for_: string][] = [
  ["json", "JSON", "for a tool or a script"],
  ["nvs", "NVS partition", "to be flashed to an ESP32"],
  ["qr", "QR code", "for a device with a camera, or its app"],
];

const lifetimes: [seconds: number, name: string][] = [
  [600, "10 minutes"],
  [3600, "an hour"],
  [86_400, "a day"],
  [604_800, "a week"],
];

function Provisioning({ device, onClose }: { device: Device; onClose: () => void }) {
  const id = useId();
  const toast = useToast();
  const queries = useQueryClient();
  const [format, setFormat] = useState<PackageFormat>("json");
  const [size, setSize] = useState("16384");
  const [custom, setCustom] = useState("20480");
  const [lifetime, setLifetime] = useState(3600);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [code, setCode] = useState<string | null>(null);
  const [link, setLink] = useState<{ url: string; expires_at: string } | null>(null);

  const bytes = size === "custom" ? readSize(custom) : Number(size);
  const fault = format === "nvs" ? sizeFault(bytes) : null;
  const base = `/api/devices/${device.id}`;

  const choose = (f: PackageFormat) => {
    setFormat(f);
    setError(null);
    setCode(null);
    setLink(null);
  };
  const run = async (what: () => Promise<void>) => {
    if (busy || fault) return;
    setBusy(true);
    setError(null);
    try {
      await what();
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };
  const download = () =>
    run(async () => {
      const nvs = format === "nvs";
      const answer = await send(`${base}/${nvs ? "provisioning.bin" : "credentials"}`, {
        query: { partition_size: nvs ? bytes : null },
        headers: { Accept: "*/*" },
      });
      save(await answer.blob(), nvs ? `${device.key}-nvs.bin` : `${device.key}.json`);
      toast({ kind: "done", text: `What ${deviceTitle(device)} is provisioned with was downloaded. It is a secret.` });
    });
  const copy = () =>
    run(async () => {
      const text = await (await send(`${base}/credentials`)).text();
      if (await copyText(text.trim())) toast({ kind: "done", text: "Copied. It is a secret." });
      else toast({ kind: "error", text: "The browser does not allow it: download the file." });
    });
  const show = () =>
    run(async () => {
      const image = await send(`${base}/provisioning/qr`, { query: { format: "svg" }, headers: { Accept: "*/*" } });
      setCode(`data:image/svg+xml;utf8,${encodeURIComponent(await image.text())}`);
    });
  const makeLink = () =>
    run(async () => {
      const body = { format, partition_size: format === "nvs" ? bytes : undefined, expires_in_seconds: lifetime };
      setLink(
        await request<{ url: string; expires_at: string }>(`${base}/provisioning-links`, { method: "POST", body }),
      );
      void queries.invalidateQueries({ queryKey: linksQuery(device.id).queryKey });
    });

  return (
    <Dialog title={`Provision ${deviceTitle(device)}`} onClose={onClose}>
      <div className="form">
        <p className="hint">
          Its credentials, and where it goes with them. Whoever has this can act as the device; that you took it is in
          the audit.
        </p>
        <fieldset className="provision-formats" disabled={busy}>
          <legend>As</legend>
          {formats.map(([f, name, why]) => (
            <label key={f}>
              <input type="radio" name={`${id}-format`} checked={format === f} onChange={() => choose(f)} />
              <span>
                {name} <span className="hint">{why}</span>
              </span>
            </label>
          ))}
        </fieldset>
        {format === "nvs" && (
          <div className="provision-size">
            <div className="field">
              <label htmlFor={`${id}-size`}>Size of the partition</label>
              <select id={`${id}-size`} className="input" value={size} onChange={(e) => setSize(e.target.value)}>
                {sizes.map((n) => (
                  <option key={n} value={n}>
                    {n / 1024}K (0x{n.toString(16)})
                  </option>
                ))}
                <option value="custom">Another</option>
              </select>
            </div>
            {size === "custom" && (
              <div className="field">
                <label htmlFor={`${id}-custom`}>Bytes</label>
                <input
                  id={`${id}-custom`}
                  className="input"
                  value={custom}
                  autoComplete="off"
                  spellCheck={false}
                  aria-invalid={fault !== null}
                  aria-describedby={`${id}-fault`}
                  onChange={(e) => setCustom(e.target.value)}
                />
                <p id={`${id}-fault`} className={fault ? "fault" : "hint"} role="status">
                  {fault ?? `As in the partition table: 0x${bytes.toString(16)}`}
                </p>
              </div>
            )}
          </div>
        )}
        <div className="provision-now">
          {format === "qr" ? (
            <button
              type="button"
              className="button primary"
              disabled={busy}
              onClick={code ? () => setCode(null) : show}
            >
              {code ? "Hide the code" : "Show the code"}
            </button>
          ) : (
            <button type="button" className="button primary" disabled={busy || fault !== null} onClick={download}>
              Download
            </button>
          )}
          {format === "json" && (
            <button type="button" className="button" disabled={busy} onClick={copy}>
              Copy
            </button>
          )}
        </div>
        {code !== null && (
          <img className="provision-code" src={code} alt={`QR code with the credentials of ${device.key}`} />
        )}
        <div className="provision-link">
          <h3>Or for somebody else</h3>
          <p className="hint">
            A link that gives it out once, to whoever has it, without a login. It stops working when you may not do this
            any more.
          </p>
          <div className="provision-now">
            <select
              className="input"
              aria-label="The link is good for"
              value={lifetime}
              onChange={(e) => setLifetime(Number(e.target.value))}
            >
              {lifetimes.map(([n, name]) => (
                <option key={n} value={n}>
                  Good for {name}
                </option>
              ))}
            </select>
            <button type="button" className="button" disabled={busy || fault !== null} onClick={makeLink}>
              Make a link
            </button>
          </div>
          {link && (
            <div className="provision-made" role="status">
              <p>
                <strong>Copy it now: it is not shown again.</strong> Good once, until <Time at={link.expires_at} />
              </p>
              <Copy text={link.url} />
            </div>
          )}
          <Links device={device} />
        </div>
        {error !== null && (
          <p className="fault" role="alert">
            {explain(error, "device")}
          </p>
        )}
      </div>
      <div className="actions">
        <button type="button" className="button" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}

/** The links that can still be used, to be deleted, and what became of the others of late. */
function Links({ device }: { device: Device }) {
  const queries = useQueryClient();
  const links = useQuery({ ...linksQuery(device.id), refetchInterval: 15_000 });
  const [error, setError] = useState<unknown>(null);
  const minute = useNow((now) => Math.floor(now / 10_000));
  if (links.error || error !== null) {
    return (
      <p className="fault" role="alert">
        {explain(error ?? links.error, "device")}
      </p>
    );
  }
  if (!links.data || links.data.length === 0) return null;
  return (
    <ul className="provision-links" aria-label="Links of this device">
      {links.data.map((l) => {
        const open = isOpen(l, minute * 10_000);
        return (
          <li key={l.id}>
            <span className="grow">
              {formatWords(l)} <span className="hint">by {l.created_by || "somebody"}, </span>
              {l.used_at !== null ? (
                <span className="hint">
                  used <Time at={l.used_at} />
                  {l.used_from !== null && ` from ${l.used_from}`}
                </span>
              ) : (
                <span className="hint">
                  {open ? "good until " : "ended "}
                  <Time at={l.expires_at} />
                </span>
              )}
            </span>
            <button
              type="button"
              className="button quiet"
              aria-label={`Delete the link to the ${formatWords(l)}, number ${l.id}`}
              onClick={async () => {
                try {
                  await request(`/api/devices/${device.id}/provisioning-links/${l.id}`, { method: "DELETE" });
                } catch (failure) {
                  setError(failure);
                }
                void queries.invalidateQueries({ queryKey: linksQuery(device.id).queryKey });
              }}
            >
              Delete
            </button>
          </li>
        );
      })}
    </ul>
  );
}
