import { useState } from "react";
import { Dialog } from "../parts/Dialog";
import { useSession } from "./index";
import { LoginHelp } from "./LoginHelp";

/** Says for as long as it is so that nobody has to log in although others can come here. */
export function InsecureBar() {
  const { mode } = useSession();
  const [help, setHelp] = useState(false);
  if (!mode?.insecure) return null;
  return (
    <aside className="insecure" aria-label="Warning">
      <span>
        <strong>Anybody who can reach this address can see and change everything.</strong>{" "}
        <span className="wide-only">Nobody has to log in here, and the server listens to more than this machine.</span>
      </span>
      <button type="button" onClick={() => setHelp(true)}>
        How to switch login on
      </button>
      {help && (
        <Dialog title="How to switch login on" onClose={() => setHelp(false)}>
          <LoginHelp />
          <p className="hint login-help">
            Or let the server listen to this machine only: <code>HOST=127.0.0.1</code>, without{" "}
            <code>ALLOW_INSECURE</code>.
          </p>
          <div className="actions">
            <button type="button" className="button primary" onClick={() => setHelp(false)}>
              Close
            </button>
          </div>
        </Dialog>
      )}
    </aside>
  );
}
