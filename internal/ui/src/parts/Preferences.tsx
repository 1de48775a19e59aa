import { useState } from "react";
import { Dialog } from "./Dialog";
import { type Preferences, setPreferences, usePreferences } from "./preferences";

const zones: string[] = Intl.supportedValuesOf("timeZone");

/** Opens the preferences. */
export function SettingsButton() {
  const [open, setOpen] = useState(false);
  const p = usePreferences();
  return (
    <>
      <button
        type="button"
        className="button quiet icon"
        aria-label="Preferences"
        title="Preferences"
        onClick={() => setOpen(true)}
      >
        ⚙
      </button>
      {open && (
        <Dialog title="Preferences" onClose={() => setOpen(false)}>
          <div className="form">
            <div className="field">
              <label htmlFor="p-theme">Colours</label>
              <select
                id="p-theme"
                className="input"
                value={p.theme}
                onChange={(e) => setPreferences({ theme: e.target.value as Preferences["theme"] })}
              >
                <option value="system">as this machine</option>
                <option value="light">light</option>
                <option value="dark">dark</option>
              </select>
            </div>
            <div className="field">
              <label htmlFor="p-zone">Time zone</label>
              <select
                id="p-zone"
                className="input"
                value={p.zone}
                onChange={(e) => setPreferences({ zone: e.target.value })}
              >
                <option value="local">this machine's</option>
                <option value="utc">UTC</option>
                {zones.map((z) => (
                  <option key={z}>{z}</option>
                ))}
              </select>
            </div>
            <div className="field">
              <label htmlFor="p-times">Times before lines</label>
              <select
                id="p-times"
                className="input"
                value={p.times}
                onChange={(e) => setPreferences({ times: e.target.value as Preferences["times"] })}
              >
                <option value="absolute">time of receipt</option>
                <option value="relative">how long ago</option>
                <option value="uptime">the device's own clock</option>
              </select>
            </div>
            <p className="hint">They are kept in this browser only.</p>
          </div>
          <div className="actions">
            <button type="button" className="button primary" onClick={() => setOpen(false)}>
              Done
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}
