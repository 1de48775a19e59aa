import { useEffect } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { Door } from "../identity/Door";
import { session, useSession } from "../identity/index";
import { LoginForm } from "../identity/LoginForm";
import { forgetLogout, goesInCircles, toProvider } from "../identity/provider";
import { safePath } from "../identity/redirect";
import { rememberedName } from "../identity/remembered";
import { Problem } from "../parts/Problem";

/** Asks who somebody is, and leads on to where they wanted. */
export default function LoginPage() {
  const { phase, mode, error } = useSession();
  const [, navigate] = useLocation();
  const to = safePath(new URLSearchParams(useSearch()).get("redirect"));
  useEffect(() => void session.boot(), []);
  const inside = phase === "in" || phase === "denied";
  const leads = phase === "out" && mode?.mode === "oidc" && !goesInCircles(Date.now());
  useEffect(() => {
    if (inside && to.startsWith("/api/")) location.replace(to);
    else if (inside) navigate(to, { replace: true });
    else if (leads) toProvider(to);
  }, [inside, leads, to, navigate]);
  if (phase === "starting" || inside || leads) return null;
  if (phase === "failed") {
    return (
      <Door title="Signalbox does not answer">
        <Problem error={error} retry={() => void session.boot()} />
      </Door>
    );
  }
  if (mode?.mode === "oidc") {
    return (
      <Door title="Log in">
        <p>
          The login at your identity provider did not last. If that happens again, look whether this browser keeps
          cookies of {location.host}.
        </p>
        <div className="actions">
          <button type="button" className="button primary" onClick={() => toProvider(to)}>
            Log in
          </button>
        </div>
      </Door>
    );
  }
  return (
    <Door title="Log in">
      <LoginForm username={rememberedName()} action="Log in" onIn={(self) => session.entered(self)} />
      <p className="hint">
        Forgotten the password? An admin can set a new one, or whoever runs the server by{" "}
        <code>signalbox user passwd</code>.
      </p>
    </Door>
  );
}

/** Where a login in a tab of its own ends, which another tab waits for. */
export function LoginDonePage() {
  const { phase } = useSession();
  useEffect(() => void session.boot(), []);
  useEffect(() => {
    if (phase === "in") session.announce();
  }, [phase]);
  if (phase === "starting") return null;
  return phase === "in" ? (
    <Door title="You are logged in">
      <p>You can close this tab. The one that asked for the login has gone on.</p>
      <div className="actions">
        <Link href="/" className="button">
          To the fleet
        </Link>
      </div>
    </Door>
  ) : (
    <Door title="You are not logged in">
      <p>The login did not come through.</p>
      <div className="actions">
        <Link href="/login?redirect=%2Flogin%2Fdone" className="button primary">
          Log in
        </Link>
      </div>
    </Door>
  );
}

/** Where a logout ends. */
export function LoggedOutPage() {
  useEffect(forgetLogout, []);
  return (
    <Door title="You are logged out">
      <p>Your session has ended, in all tabs of this browser.</p>
      <div className="actions">
        {/* Loaded anew: nothing of before is left. */}
        <a href="/login" className="button primary">
          Log in again
        </a>
      </div>
    </Door>
  );
}
