import { useState } from "react";
import { Dialog } from "../parts/Dialog";
import { usePreferences } from "../parts/preferences";
import { fromLocal, toLocal } from "./times";

/** Asks for a moment to look at. */
export function JumpDialog({ at, onGo, onClose }: { at: Date; onGo: (time: Date) => void; onClose: () => void }) {
  const { zone } = usePreferences();
  const [text, setText] = useState(() => toLocal(at, zone));
  const time = fromLocal(text, zone);
  return (
    <Dialog title="Go to a time" onClose={onClose}>
      <form
        className="form"
        onSubmit={(e) => {
          e.preventDefault();
          if (time) onGo(time);
        }}
      >
        <div className="field">
          <label htmlFor="jump-time">Received at about</label>
          <input
            id="jump-time"
            className="input"
            type="datetime-local"
            step={1}
            value={text}
            onChange={(e) => setText(e.target.value)}
          />
          <p className="hint">
            {zone === "local" ? "In this machine's time zone." : `In ${zone === "utc" ? "UTC" : zone}.`}
          </p>
        </div>
        <div className="quick">
          {quick.map(([name, minutes]) => (
            <button
              type="button"
              className="button"
              key={name}
              onClick={() => onGo(new Date(Date.now() - minutes * 60_000))}
            >
              {name}
            </button>
          ))}
        </div>
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={time === null}>
            Go there
          </button>
        </div>
      </form>
    </Dialog>
  );
}

const quick: [string, number][] = [
  ["10 minutes ago", 10],
  ["an hour ago", 60],
  ["a day ago", 1440],
  ["a week ago", 10_080],
];
