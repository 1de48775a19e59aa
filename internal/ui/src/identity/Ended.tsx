import { useState } from "react";
import { Dialog } from "../parts/Dialog";
import { forgetUnsaved, hasUnsaved } from "../parts/unsaved";
import { session, useSession } from "./index";
import { LoginForm } from "./LoginForm";
import { providerAddress } from "./provider";
import { loginAddress } from "./redirect";
import { rememberedName } from "./remembered";
import type { Ending } from "./session";

const why: Record<Ending, string> = {
  expired: "It was over by time.",
  revoked: "It was ended from elsewhere, or your account was changed.",
  logout: "You logged out in another tab.",
  unknown: "The server does not know it any more.",
};

/**
 * Over a page whose session has ended. The page stays as it is below: what is typed, where it is scrolled to, what is held of
 * a log. Requests wait meanwhile, and go on after the login.
 */
export function Ended() {
  const { mode, ending, self } = useSession();
  const [opened, setOpened] = useState(false);
  const nobody = self?.kind === "local";
  const leave = () => {
    forgetUnsaved();
    location.assign(loginAddress(location.pathname + location.search));
  };
  return (
    <Dialog title={nobody ? "Login was switched on" : "Your session has ended"} stays onClose={() => {}}>
      <p className="ended-why">
        {nobody ? "" : `${why[ending]} `}Log in{nobody ? "" : " again"} to go on where you are
        {hasUnsaved() ? "; what you have not saved is still here" : ""}.
      </p>
      {mode?.mode === "oidc" ? (
        <div className="form">
          {opened && (
            <p className="hint" role="status">
              The login is open in another tab. This page goes on by itself when you are done there.
            </p>
          )}
          <div className="actions">
            <button type="button" className="button quiet" onClick={leave}>
              Leave this page
            </button>
            <a
              className="button primary"
              href={providerAddress("/login/done")}
              target="_blank"
              rel="noopener"
              data-autofocus
              onClick={() => setOpened(true)}
            >
              Log in again
            </a>
          </div>
        </div>
      ) : (
        <LoginForm username={nobody ? "" : rememberedName()} action="Log in" onIn={(self) => session.entered(self)}>
          <button type="button" className="button quiet" onClick={leave}>
            Leave this page
          </button>
        </LoginForm>
      )}
    </Dialog>
  );
}
