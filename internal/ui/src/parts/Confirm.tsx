import { type ReactNode, useId, useState } from "react";
import { Dialog } from "./Dialog";
import { explain, type Thing } from "./explain";

interface Props {
  title: string;
  /** What the button does, such as "Delete the device". */
  action: string;
  /** It takes nothing away. */
  harmless?: boolean;
  /** What has to be typed before the button works; nothing where that is not asked for. */
  typed?: string;
  /** What the thing is called in an error. */
  thing: Thing;
  /** May fail: the dialog stays open then and says why. It closes the dialog itself when it succeeded. */
  run: () => Promise<void>;
  onClose: () => void;
  children: ReactNode;
}

/** Asks before something that cannot be taken back. */
export function Confirm({ title, action, harmless = false, typed, thing, run, onClose, children }: Props) {
  const id = useId();
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const sure = typed === undefined || text.trim() === typed;
  return (
    <Dialog title={title} onClose={onClose}>
      <form
        className="form"
        onSubmit={async (e) => {
          e.preventDefault();
          if (!sure || busy) return;
          setBusy(true);
          setError(null);
          try {
            await run();
          } catch (failure) {
            setError(failure);
          }
          setBusy(false);
        }}
      >
        {children}
        {typed !== undefined && (
          <div className="field">
            <label htmlFor={id}>
              Type <code>{typed}</code> to confirm
            </label>
            <input
              id={id}
              className="input"
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
              value={text}
              onChange={(e) => setText(e.target.value)}
            />
          </div>
        )}
        {error !== null && (
          <p className="fault" role="alert">
            {explain(error, thing)}
          </p>
        )}
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className={harmless ? "button primary" : "button danger"} disabled={!sure || busy}>
            {busy ? "Working …" : action}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
