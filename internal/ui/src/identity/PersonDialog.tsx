import { useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useId, useState } from "react";
import { request } from "../api/client";
import { allTokensQuery, peopleQuery } from "../api/people";
import type { PersonInfo } from "../api/types";
import { Confirm } from "../parts/Confirm";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { useToast } from "../parts/toast";
import { draftOf, LimitFields, limitOf, RoleBoxes } from "./Access";
import { session, useSession } from "./index";
import { PasswordField } from "./PasswordField";
import { leastPassword, passwordFault, passwordReady } from "./password";
import { roles as allRoles, limitWords } from "./roles";

const nameShape = /^[a-z0-9._@-]{1,64}$/;

function usePeopleChanged(): () => void {
  const queries = useQueryClient();
  return () => {
    void queries.invalidateQueries({ queryKey: peopleQuery.queryKey });
    void queries.invalidateQueries({ queryKey: allTokensQuery.queryKey });
    void session.check("unknown"); // it may be oneself
  };
}

/** Makes an account. */
export function NewPerson({ onClose }: { onClose: () => void }) {
  const id = useId();
  const toast = useToast();
  const changed = usePeopleChanged();
  const [username, setUsername] = useState("");
  const [name, setName] = useState("");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [roles, setRoles] = useState<string[]>(["viewer"]);
  const [limit, setLimit] = useState(draftOf(null));
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const named = nameShape.test(username);
  const part = limitOf(limit);
  const ready = named && passwordReady(password, again) && part !== undefined && !busy;
  const submit = async (e: FormEvent) => {
    e.preventDefault();
    if (!ready) return;
    setBusy(true);
    setError(null);
    try {
      const body = { username, name: name.trim(), email: email.trim(), password, roles, limit: part };
      await request<PersonInfo>("/api/people", { method: "POST", body });
      changed();
      toast({ kind: "done", text: `${name.trim() || username} can log in.` });
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return (
    <Dialog title="New person" stays onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <div className="field">
          <label htmlFor={`${id}-user`}>User name</label>
          <input
            id={`${id}-user`}
            className="input"
            autoComplete="off"
            autoCapitalize="off"
            spellCheck={false}
            maxLength={64}
            required
            autoFocus
            aria-invalid={username !== "" && !named}
            aria-describedby={`${id}-user-hint`}
            value={username}
            onChange={(e) => setUsername(e.target.value.toLowerCase())}
          />
          <span id={`${id}-user-hint`} className={username !== "" && !named ? "fault" : "hint"}>
            To log in with: a to z, 0 to 9 and . _ @ -
          </span>
        </div>
        <NameAndMail id={id} name={name} email={email} onName={setName} onEmail={setEmail} />
        <PasswordField
          label="Password"
          kind="new-password"
          value={password}
          onChange={setPassword}
          hint={`At least ${leastPassword} characters; they can change it on their account page`}
        />
        <PasswordField label="Password again" name="again" kind="new-password" value={again} onChange={setAgain} />
        <RoleBoxes
          offered={allRoles}
          chosen={roles}
          onChange={setRoles}
          {...(roles.length === 0 ? { hint: "Without a role somebody can log in and see nothing." } : {})}
        />
        <LimitFields draft={limit} onChange={setLimit} />
        <p className="fault login-fault" role="alert">
          {error === null ? passwordFault(password, again) : `Not made. ${explain(error, "person")}`}
        </p>
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={!ready}>
            {busy ? "Working …" : "Make the account"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function NameAndMail(p: {
  id: string;
  name: string;
  email: string;
  onName: (text: string) => void;
  onEmail: (text: string) => void;
}) {
  return (
    <>
      <div className="field">
        <label htmlFor={`${p.id}-name`}>Name</label>
        <input
          id={`${p.id}-name`}
          className="input"
          autoComplete="off"
          maxLength={255}
          value={p.name}
          onChange={(e) => p.onName(e.target.value)}
        />
      </div>
      <div className="field">
        <label htmlFor={`${p.id}-email`}>E-mail</label>
        <input
          id={`${p.id}-email`}
          className="input"
          type="email"
          autoComplete="off"
          maxLength={255}
          value={p.email}
          onChange={(e) => p.onEmail(e.target.value)}
        />
      </div>
    </>
  );
}

/** Changes an account: what it may, its password, whether it is let in at all. */
export function PersonDialog({ person: p, onClose }: { person: PersonInfo; onClose: () => void }) {
  const id = useId();
  const toast = useToast();
  const changed = usePeopleChanged();
  const { self } = useSession();
  const [name, setName] = useState(p.name);
  const [email, setEmail] = useState(p.email ?? "");
  const [roles, setRoles] = useState<string[]>(p.roles);
  const [limit, setLimit] = useState(draftOf(p.limit));
  const [disabled, setDisabled] = useState(p.disabled);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [asking, setAsking] = useState<"password" | "sessions" | "delete" | null>(null);
  const part = limitOf(limit);
  const called = p.name || p.username || p.email || p.subject;
  const own = p.subject === self?.subject;
  const submit = async (e: FormEvent) => {
    e.preventDefault();
    if (busy || part === undefined) return;
    setBusy(true);
    setError(null);
    try {
      const body = p.external
        ? { disabled }
        : { name: name.trim(), email: email.trim(), roles: [...roles].sort(), limit: part, disabled };
      await request<PersonInfo>(`/api/people/${p.id}`, { method: "PUT", body });
      changed();
      toast({ kind: "done", text: `${called} is saved.` });
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  if (asking === "password") return <SetPassword person={p} called={called} onClose={() => setAsking(null)} />;
  if (asking === "sessions") {
    return (
      <Confirm
        title={`End the sessions of ${called}?`}
        action="End them"
        thing="person"
        onClose={() => setAsking(null)}
        run={async () => {
          await request(`/api/people/${p.id}/sessions`, { method: "DELETE" });
          changed();
          toast({ kind: "done", text: `${called} has to log in again.` });
          setAsking(null);
        }}
      >
        <p>
          {own ? "You have" : `${called} has`} to log in again everywhere, and open pages stop within a second. API
          tokens stay good.
        </p>
      </Confirm>
    );
  }
  if (asking === "delete") {
    return (
      <Confirm
        title={`Delete ${called}?`}
        action="Delete the account"
        thing="person"
        {...(p.username ? { typed: p.username } : {})}
        onClose={() => setAsking(null)}
        run={async () => {
          await request(`/api/people/${p.id}`, { method: "DELETE" });
          changed();
          toast({ kind: "done", text: `${called} is deleted.` });
          onClose();
        }}
      >
        <p>This cannot be undone. It is lost for good:</p>
        <ul className="loss">
          <li>
            the account{p.username && " "}
            {p.username && <code>{p.username}</code>} with its roles{p.external ? "" : " and its password"}
          </li>
          <li>
            {p.sessions === 0 ? "no session: none is open" : `${count(p.sessions, "session")}, which end at once`}
          </li>
          <li>
            {p.tokens === 0 ? "no API token: there is none" : `${count(p.tokens, "API token")}, and what uses them`}
          </li>
        </ul>
        <p>
          What they did stays in the audit.
          {p.external &&
            " They are back with the next login at the identity provider: to keep them out, lock them out instead."}
        </p>
      </Confirm>
    );
  }
  return (
    <Dialog title={called} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        {p.external ? (
          <>
            <dl className="facts">
              <div>
                <dt>E-mail</dt>
                <dd>{p.email ?? <span className="hint">none</span>}</dd>
              </div>
              <div>
                <dt>Roles</dt>
                <dd>{p.roles.length > 0 ? p.roles.join(", ") : "none"}</dd>
              </div>
              <div>
                <dt>Devices</dt>
                <dd>{limitWords(p.limit)}</dd>
              </div>
              <div>
                <dt>Known as</dt>
                <dd>
                  <code>{p.subject}</code>
                </dd>
              </div>
            </dl>
            <p className="hint">
              Name, e-mail, roles and password are changed only at the identity provider, and hold here from the next
              login on.
            </p>
          </>
        ) : (
          <>
            <p className="hint">
              Logs in as <code>{p.username}</code>.
            </p>
            <NameAndMail id={id} name={name} email={email} onName={setName} onEmail={setEmail} />
            <RoleBoxes
              offered={allRoles}
              chosen={roles}
              onChange={setRoles}
              {...(roles.length === 0 ? { hint: "Without a role somebody can log in and see nothing." } : {})}
            />
            <LimitFields draft={limit} onChange={setLimit} />
          </>
        )}
        <label className="switch">
          <input
            type="checkbox"
            role="switch"
            aria-checked={disabled}
            checked={disabled}
            onChange={(e) => setDisabled(e.target.checked)}
          />
          <span>
            Locked out
            <span className="hint"> cannot log in, and all that is open ends</span>
          </span>
        </label>
        <div className="person-more">
          {!p.external && (
            <button type="button" className="button" onClick={() => setAsking("password")}>
              Set password …
            </button>
          )}
          <button type="button" className="button" onClick={() => setAsking("sessions")}>
            End sessions …
          </button>
          <button type="button" className="button danger" onClick={() => setAsking("delete")}>
            Delete …
          </button>
        </div>
        {error !== null && (
          <p className="fault" role="alert">
            Not saved. {explain(error, "person")}
          </p>
        )}
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={busy || part === undefined}>
            {busy ? "Saving …" : "Save"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

function SetPassword({ person: p, called, onClose }: { person: PersonInfo; called: string; onClose: () => void }) {
  const toast = useToast();
  const changed = usePeopleChanged();
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  return (
    <Dialog title={`New password of ${called}`} stays onClose={onClose}>
      <form
        className="form"
        onSubmit={async (e) => {
          e.preventDefault();
          if (busy || !passwordReady(password, again)) return;
          setBusy(true);
          setError(null);
          try {
            await request(`/api/people/${p.id}/password`, { method: "POST", body: { password } });
            changed();
            toast({ kind: "done", text: `${called} has a new password.` });
            onClose();
          } catch (failure) {
            setError(failure);
            setBusy(false);
          }
        }}
      >
        <p>The sessions of {called} end. Tell them the password in a way that nobody else hears.</p>
        <PasswordField
          label="New password"
          kind="new-password"
          autoFocus
          value={password}
          onChange={setPassword}
          hint={`At least ${leastPassword} characters`}
        />
        <PasswordField label="New password again" name="again" kind="new-password" value={again} onChange={setAgain} />
        <p className="fault login-fault" role="alert">
          {error === null ? passwordFault(password, again) : explain(error, "password")}
        </p>
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={busy || !passwordReady(password, again)}>
            {busy ? "Working …" : "Set the password"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
