import { type ReactNode, useEffect } from "react";
import { useLocation } from "wouter";
import { Problem } from "../parts/Problem";
import { Door } from "./Door";
import { Ended } from "./Ended";
import { listenToStream, session, useSession } from "./index";
import { logOut } from "./logout";
import { arrived, comesFromLogout, goesInCircles, toProvider } from "./provider";
import { loginAddress } from "./redirect";

/** Lets in who is logged in, and the others nowhere but to the login. Who is in stays so when their session ends. */
export function Gate({ children }: { children: ReactNode }) {
  const s = useSession();
  const inside = s.phase === "in" || s.phase === "ended";
  useEffect(() => void session.boot(), []);
  useEffect(() => {
    if (!inside) return;
    arrived();
    return listenToStream();
  }, [inside]);
  switch (s.phase) {
    case "in":
    case "ended":
      return (
        <>
          {children}
          {s.phase === "ended" && <Ended />}
        </>
      );
    case "starting":
      return (
        <div className="shell" aria-busy="true">
          <div className="bar" />
        </div>
      );
    case "out":
      return <Out />;
    case "denied":
      return <Denied />;
    case "failed":
      return (
        <Door title="Signalbox does not answer">
          <Problem error={s.error} retry={() => void session.boot()} />
        </Door>
      );
    case "left":
      return null;
  }
}

/** Leads to the login, and from there back to this page. */
function Out() {
  const { mode } = useSession();
  const [, navigate] = useLocation();
  useEffect(() => {
    const here = location.pathname + location.search + location.hash;
    if (comesFromLogout()) navigate("/logged-out", { replace: true });
    else if (mode?.mode === "oidc" && !goesInCircles(Date.now())) toProvider(here);
    else navigate(loginAddress(here), { replace: true });
  }, [mode, navigate]);
  return null;
}

function Denied() {
  const { error } = useSession();
  return (
    <Door title="You have no role here">
      <p>
        You are logged in, but nobody has given you a role in Signalbox. Ask an admin for one: <em>viewer</em> to see
        devices and their logs, <em>editor</em> to change them.
      </p>
      <p className="hint">The server says: {error instanceof Error ? error.message : ""}</p>
      <div className="actions">
        <button type="button" className="button" onClick={() => void session.boot()}>
          Try again
        </button>
        <button type="button" className="button primary" onClick={() => void logOut()}>
          Log out
        </button>
      </div>
    </Door>
  );
}
