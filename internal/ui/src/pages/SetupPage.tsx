import { type FormEvent, useEffect, useId, useState } from "react";
import { Link, useLocation } from "wouter";
import { ApiError, request } from "../api/client";
import type { Self } from "../api/types";
import { Door } from "../identity/Door";
import { session, useSession } from "../identity/index";
import { PasswordField } from "../identity/PasswordField";
import { leastPassword, passwordFault, passwordReady } from "../identity/password";
import { rememberName } from "../identity/remembered";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";

const nameShape = /^[a-z0-9._@-]{1,64}$/;

/** Makes the first admin, with the link that the program prints at its start. From then on everybody has to log in. */
export default function SetupPage() {
  const { phase, mode, error } = useSession();
  useEffect(() => void session.boot(), []);
  const secret = decodeURIComponent(location.hash.slice(1));
  if (phase === "starting") return null;
  if (phase === "failed" && mode === null) {
    return (
      <Door title="Signalbox does not answer">
        <Problem error={error} retry={() => void session.boot()} />
      </Door>
    );
  }
  if (mode?.mode !== "off" || !mode.setup) {
    return (
      <Door title="It is set up already">
        <p>There are people who can log in, so this link is not good any more. Ask one of the admins for an account.</p>
        <div className="actions">
          <Link href={mode?.mode === "off" ? "/" : "/login"} className="button primary">
            {mode?.mode === "off" ? "To the fleet" : "Log in"}
          </Link>
        </div>
      </Door>
    );
  }
  if (secret === "") {
    return (
      <Door title="The link is not whole">
        <p>
          What follows the <code>#</code> is missing. Copy the whole link from what the program printed at its start.
        </p>
      </Door>
    );
  }
  return <FirstAdmin secret={secret} />;
}

function FirstAdmin({ secret }: { secret: string }) {
  const id = useId();
  const [, navigate] = useLocation();
  const [username, setUsername] = useState("");
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const fault = passwordFault(password, again);
  const named = nameShape.test(username);
  const submit = async (e: FormEvent) => {
    e.preventDefault();
    if (busy || !named || !passwordReady(password, again)) return;
    setBusy(true);
    setError(null);
    try {
      const body = { setup: secret, username, password, name };
      const self = await request<Self>("/api/auth/setup", { method: "POST", body, anonymous: true });
      rememberName(username);
      session.entered(self);
      navigate("/", { replace: true });
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const spent = error instanceof ApiError && (error.status === 401 || error.status === 403 || error.status === 404);
  return (
    <Door title="Make the first admin">
      <p>From then on everybody has to log in. You can add other people afterwards.</p>
      <form className="form" method="post" onSubmit={submit}>
        <div className="field">
          <label htmlFor={`${id}-user`}>User name</label>
          <input
            id={`${id}-user`}
            name="username"
            className="input"
            autoComplete="username"
            autoCapitalize="off"
            spellCheck={false}
            maxLength={64}
            required
            // biome-ignore lint/a11y/noAutofocus: it is all that the page is for
            autoFocus
            aria-invalid={username !== "" && !named}
            aria-describedby={`${id}-user-hint`}
            value={username}
            onChange={(e) => setUsername(e.target.value.toLowerCase())}
          />
          <span id={`${id}-user-hint`} className={username !== "" && !named ? "fault" : "hint"}>
            a to z, 0 to 9 and . _ @ -
          </span>
        </div>
        <div className="field">
          <label htmlFor={`${id}-name`}>Name</label>
          <input
            id={`${id}-name`}
            name="name"
            className="input"
            autoComplete="name"
            maxLength={255}
            value={name}
            onChange={(e) => setName(e.target.value)}
          />
          <span className="hint">What others see; may be empty</span>
        </div>
        <PasswordField
          label="Password"
          kind="new-password"
          value={password}
          onChange={setPassword}
          hint={`At least ${leastPassword} characters. A few words in a row are good and easy to keep.`}
        />
        <PasswordField label="Password again" name="again" kind="new-password" value={again} onChange={setAgain} />
        <p className="fault login-fault" role="alert">
          {error === null
            ? fault
            : spent
              ? "The server does not take this link any more. Start the program again: it prints a new one while there is no account."
              : explain(error, "password")}
        </p>
        <div className="actions">
          <button type="submit" className="button primary" disabled={busy || !named || !passwordReady(password, again)}>
            {busy ? "Working …" : "Make the admin"}
          </button>
        </div>
      </form>
    </Door>
  );
}
