import { useId, useMemo, useState } from "react";
import type { DeviceSummary } from "../api/types";
import { Dialog } from "../parts/Dialog";
import { plural } from "./text";
import "./log.css";

const mostShown = 100;

/** Devices whose name, entity id or key holds every word of the text. */
export function findDevices(devices: readonly DeviceSummary[], text: string): DeviceSummary[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return devices.filter((d) => {
    const said = `${d.device_name ?? ""} ${d.device_entity_id ?? ""} ${d.key}`.toLowerCase();
    return words.every((w) => said.includes(w));
  });
}

/** Which devices are shown: finds them by name, entity id or key, and adds and removes them. */
export function DevicePicker({
  devices,
  chosen,
  onChange,
  onClose,
  none = "Whole fleet",
}: {
  devices: readonly DeviceSummary[];
  chosen: readonly number[];
  onChange: (chosen: number[]) => void;
  onClose: () => void;
  /** What it means that none is chosen. */
  none?: string;
}) {
  const id = useId();
  const [text, setText] = useState("");
  const found = useMemo(() => findDevices(devices, text), [devices, text]);
  const toggle = (device: number) =>
    onChange(chosen.includes(device) ? chosen.filter((c) => c !== device) : [...chosen, device]);
  return (
    <Dialog title="Devices" onClose={onClose}>
      <div className="form">
        <input
          className="input"
          type="search"
          aria-label="Find a device"
          aria-describedby={`${id}found`}
          placeholder="Name, entity id or key"
          spellCheck={false}
          autoComplete="off"
          value={text}
          onChange={(e) => setText(e.target.value)}
          onKeyDown={(e) => {
            const first = found[0];
            if (e.key === "Enter" && text !== "" && first) toggle(first.id);
          }}
        />
        <ul className="picker">
          {found.slice(0, mostShown).map((d) => (
            <li key={d.id}>
              <label>
                <input type="checkbox" checked={chosen.includes(d.id)} onChange={() => toggle(d.id)} />
                <span className="picker-name">{d.device_name ?? d.device_entity_id ?? d.key}</span>
                <code>{d.device_entity_id ?? d.key}</code>
              </label>
            </li>
          ))}
        </ul>
        <p className="hint" id={`${id}found`} role="status">
          {found.length === 0
            ? "No device is called so."
            : found.length > mostShown
              ? `${plural(found.length, "device")}; the first ${mostShown} are shown. Type more of the name.`
              : plural(found.length, "device")}
        </p>
      </div>
      <div className="actions">
        <button type="button" className="button" disabled={chosen.length === 0} onClick={() => onChange([])}>
          {none}
        </button>
        <button type="button" className="button primary" onClick={onClose}>
          Done
        </button>
      </div>
    </Dialog>
  );
}
