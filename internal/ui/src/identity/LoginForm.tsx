import { type FormEvent, useEffect, useId, useRef, useState } from "react";
import { ApiError, request } from "../api/client";
import type { Self } from "../api/types";
import { useNow } from "../parts/clock";
import { explain } from "../parts/explain";
import { PasswordField } from "./PasswordField";
import { rememberName } from "./remembered";

interface Props {
  /** Filled in already, so that only the password is asked for. */
  username: string;
  /** What the button says. */
  action: string;
  onIn: (self: Self) => void;
  /** Beside the button. */
  children?: React.ReactNode;
}

/** A user name and a password. */
export function LoginForm({ username: first, action, onIn, children }: Props) {
  const id = useId();
  const [username, setUsername] = useState(first);
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const [until, setUntil] = useState(0);
  const wait = useNow((now) => Math.max(0, Math.ceil((until - now) / 1000)));
  const passwordField = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (wait === 0 && until > 0) setFault(null);
  }, [wait, until]);

  const submit = async (e: FormEvent<HTMLFormElement>) => {
    e.preventDefault();
    if (busy || wait > 0) return;
    // A password manager may have filled in what no event told of.
    const form = new FormData(e.currentTarget);
    const body = { username: String(form.get("username")).trim(), password: String(form.get("password")) };
    if (body.username === "" || body.password === "") {
      setFault(body.username === "" ? "The user name is missing." : "The password is missing.");
      return;
    }
    setBusy(true);
    setFault(null);
    try {
      const self = await request<Self>("/api/auth/login", { method: "POST", body, anonymous: true });
      rememberName(body.username);
      onIn(self);
    } catch (error) {
      setBusy(false);
      if (error instanceof ApiError && error.status === 401) {
        setFault("The user name or the password is not right.");
        setPassword("");
        passwordField.current?.focus();
      } else if (error instanceof ApiError && error.status === 429) {
        setUntil(Date.now() + (error.retryAfter ?? 5) * 1000);
        setFault("Too many attempts. Wait a little before the next one.");
      } else setFault(explain(error, "password"));
    }
  };

  return (
    <form className="form" method="post" onSubmit={submit}>
      <div className="field">
        <label htmlFor={id}>User name</label>
        <input
          id={id}
          name="username"
          className="input"
          autoComplete="username"
          autoCapitalize="off"
          spellCheck={false}
          maxLength={64}
          required
          // biome-ignore lint/a11y/noAutofocus: it is all that the form is for
          autoFocus={first === ""}
          value={username}
          onChange={(e) => setUsername(e.target.value)}
        />
      </div>
      <PasswordField
        ref={passwordField}
        label="Password"
        kind="current-password"
        autoFocus={first !== ""}
        value={password}
        onChange={setPassword}
      />
      <p className="fault login-fault" role="alert">
        {fault}
      </p>
      <div className="actions">
        {children}
        <button type="submit" className="button primary" disabled={busy || wait > 0}>
          {busy ? "Logging in …" : wait > 0 ? `Wait ${wait} s` : action}
        </button>
      </div>
    </form>
  );
}
