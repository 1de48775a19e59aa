import { useEffect, useRef, useState } from "react";
import { Dialog } from "./Dialog";

/** A key that does something on the page that is open. */
export interface Key {
  /** As in KeyboardEvent.key: "f", "/", "ArrowUp", "?". */
  key: string;
  /** What it does, for the list. */
  does: string;
  run: (e: KeyboardEvent) => void;
}

const active = new Set<readonly Key[]>();

/** Makes the keys work while the component is mounted, unless somebody types in a field or a dialog is open. */
export function useKeys(keys: readonly Key[]): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const list = latest.current.map((k, i) => ({ ...k, run: (e: KeyboardEvent) => latest.current[i]?.run(e) }));
    active.add(list);
    return () => {
      active.delete(list);
    };
  }, []);
}

function typing(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return !/^(checkbox|radio|button)$/.test(target.type);
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName));
}

/** Whether the key is the one that works the link or the button that has the focus. */
function works(e: KeyboardEvent): boolean {
  return (
    (e.key === "Enter" || e.key === " ") &&
    e.target instanceof HTMLElement &&
    e.target.closest("a, button, summary, input") !== null
  );
}

function dispatch(e: KeyboardEvent): void {
  const target = e.composedPath()[0] ?? e.target; // an editor may be in a shadow tree, of which e.target is the host
  if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || typing(target) || works(e)) return;
  if (document.querySelector("dialog[open]")) return;
  for (const list of [...active].reverse()) {
    const key = list.find((k) => k.key === e.key);
    if (key) {
      e.preventDefault();
      key.run(e);
      return;
    }
  }
}

/** Opens the list of keys; `?` does so too. */
export function HelpButton() {
  const [open, setOpen] = useState(false);
  useEffect(() => {
    addEventListener("keydown", dispatch);
    return () => removeEventListener("keydown", dispatch);
  }, []);
  useKeys([{ key: "?", does: "This list", run: () => setOpen(true) }]);
  return (
    <>
      <button
        type="button"
        className="button quiet icon help-button"
        aria-label="Keyboard shortcuts"
        title="Keyboard shortcuts (?)"
        onClick={() => setOpen(true)}
      >
        ?
      </button>
      {open && (
        <Dialog title="Keyboard" onClose={() => setOpen(false)}>
          <dl className="keys">
            {[...active].flat().map((k) => (
              <div key={k.key + k.does}>
                <dt>
                  <kbd>{names[k.key] ?? k.key}</kbd>
                </dt>
                <dd>{k.does}</dd>
              </div>
            ))}
          </dl>
          <div className="actions">
            <button type="button" className="button primary" onClick={() => setOpen(false)}>
              Close
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}

const names: Record<string, string> = {
  ArrowUp: "↑",
  ArrowDown: "↓",
  ArrowLeft: "←",
  ArrowRight: "→",
  " ": "Space",
  Escape: "Esc",
};
