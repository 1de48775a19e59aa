import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, type ReactNode, useState } from "react";
import { request } from "../api/client";
import { ownTokensQuery, sessionsQuery } from "../api/people";
import type { Self, SessionInfo } from "../api/types";
import { agentWords } from "../identity/agent";
import { useSession } from "../identity/index";
import { LoginHelp } from "../identity/LoginHelp";
import { askToLogOut } from "../identity/logout";
import { NewToken } from "../identity/NewToken";
import { PasswordField } from "../identity/PasswordField";
import { leastPassword, passwordFault, passwordReady } from "../identity/password";
import { rememberedName } from "../identity/remembered";
import { limitWords } from "../identity/roles";
import { TokenList } from "../identity/TokenList";
import { Confirm } from "../parts/Confirm";
import { explain } from "../parts/explain";
import { Problem } from "../parts/Problem";
import { Page } from "../parts/Shell";
import { Ago, Time } from "../parts/Time";
import { useToast } from "../parts/toast";
import "../device/settings.css";
import "../identity/identity.css";

/** Who somebody is here, where they are logged in, and the tokens of their scripts. */
export default function AccountPage() {
  const { self, mode } = useSession();
  if (self === null) return null;
  if (mode?.mode === "off") {
    return (
      <Page title="Account">
        <div className="empty">
          <h1>Nobody has an account yet</h1>
          <LoginHelp />
        </div>
      </Page>
    );
  }
  return (
    <Page title="Account">
      <div className="page-head">
        <h1 className="grow">Your account</h1>
      </div>
      <div className="account">
        <Facts self={self} />
        <Sessions />
        {self.mode === "local" && self.kind === "person" && <Password />}
        <Tokens self={self} />
      </div>
    </Page>
  );
}

function Facts({ self }: { self: Self }) {
  return (
    <section className="card" aria-label="Facts">
      <h2>Facts</h2>
      <dl className="facts">
        <Fact name="Name">{self.name || <span className="hint">none</span>}</Fact>
        <Fact name="E-mail">{self.email || <span className="hint">none</span>}</Fact>
        <Fact name="Roles">
          <span className="tags">
            {self.roles.map((r) => (
              <span key={r} className="badge ok">
                {r}
              </span>
            ))}
            {self.roles.length === 0 && "none"}
          </span>
        </Fact>
        <Fact name="Devices">{limitWords(self.limit)}</Fact>
        <Fact name="Known as">
          <code>{self.subject}</code>
        </Fact>
        {self.mode === "local" && (
          <Fact name="Logged in until">
            <Time at={self.expires_at} never="you log out" />
          </Fact>
        )}
      </dl>
      <p className="hint">
        {self.mode === "oidc"
          ? "Name, e-mail and roles come from your identity provider and are changed there."
          : "An admin can change your name, e-mail and roles."}
      </p>
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Sessions() {
  const sessions = useQuery(sessionsQuery);
  const queries = useQueryClient();
  const toast = useToast();
  const [asking, setAsking] = useState<SessionInfo | "others" | null>(null);
  const list = sessions.data;
  const others = list?.filter((s) => !s.current).length ?? 0;
  return (
    <section className="card" aria-label="Sessions">
      <div className="card-head">
        <h2>Sessions</h2>
        {others > 0 && (
          <button type="button" className="button" onClick={() => setAsking("others")}>
            End all others …
          </button>
        )}
      </div>
      <p className="hint">Where you are logged in. End what you do not know, then change your password.</p>
      {sessions.error && !list ? (
        <Problem error={sessions.error} retry={() => void sessions.refetch()} />
      ) : (
        <ul className="items" aria-busy={sessions.isPending}>
          {list?.map((s) => (
            <li key={s.id}>
              <div className="item-main">
                <p>
                  <strong title={s.agent ?? undefined}>{agentWords(s.agent)}</strong>
                  {s.current && <span className="badge ok">This browser</span>}
                </p>
                <p className="hint">
                  {s.address || "unknown address"} · used <Ago at={s.seen_at} /> · since <Time at={s.created_at} />
                </p>
              </div>
              <button
                type="button"
                className="button"
                aria-label={
                  s.current
                    ? "Log out here"
                    : `End the session of ${agentWords(s.agent)}, ${s.address ?? "unknown address"}`
                }
                onClick={() =>
                  s.current
                    ? askToLogOut((e) => toast({ kind: "error", text: `Not logged out. ${explain(e, "session")}` }))
                    : setAsking(s)
                }
              >
                {s.current ? "Log out" : "End …"}
              </button>
            </li>
          )) ?? <Waiting rows={2} />}
          {list?.length === 0 && (
            <li>
              <p className="hint">None is kept here: your identity provider knows where you are logged in.</p>
            </li>
          )}
        </ul>
      )}
      {asking !== null && (
        <Confirm
          title={asking === "others" ? "End all other sessions?" : "End this session?"}
          action={asking === "others" ? "End them" : "End it"}
          thing="session"
          onClose={() => setAsking(null)}
          run={async () => {
            await request(asking === "others" ? "/api/account/sessions" : `/api/account/sessions/${asking.id}`, {
              method: "DELETE",
            });
            toast({
              kind: "done",
              text: asking === "others" ? "You are logged in only here." : "The session is ended.",
            });
            setAsking(null);
            await queries.invalidateQueries({ queryKey: sessionsQuery.queryKey });
          }}
        >
          <p>
            {asking === "others"
              ? `Whoever uses ${others === 1 ? "the other one" : `the ${others} others`} has to log in again. This browser stays logged in.`
              : `${agentWords(asking.agent)} at ${asking.address || "an unknown address"} has to log in again.`}
          </p>
        </Confirm>
      )}
    </section>
  );
}

/** Rows in the place of those that are being loaded. */
export function Waiting({ rows }: { rows: number }) {
  return Array.from({ length: rows }, (_, i) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: they are all alike
    <li key={i}>
      <div className="item-main">
        <p className="skeleton">&nbsp;</p>
        <p className="skeleton">&nbsp;</p>
      </div>
    </li>
  ));
}

function Password() {
  const queries = useQueryClient();
  const toast = useToast();
  const [old, setOld] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [busy, setBusy] = useState(false);
  const [fault, setFault] = useState<string | null>(null);
  const submit = async (e: FormEvent) => {
    e.preventDefault();
    if (busy || old === "" || !passwordReady(password, again)) return;
    setBusy(true);
    setFault(null);
    try {
      await request("/api/account/password", { method: "POST", body: { old, password } });
      setOld("");
      setPassword("");
      setAgain("");
      toast({ kind: "done", text: "Your password is changed. Your other sessions are ended." });
      await queries.invalidateQueries({ queryKey: sessionsQuery.queryKey });
    } catch (error) {
      setFault(explain(error, "password"));
    }
    setBusy(false);
  };
  return (
    <section className="card" aria-label="Password">
      <h2>Password</h2>
      <form className="form password-form" method="post" onSubmit={submit}>
        {/* By which a password manager knows whose password it is. */}
        <input
          type="text"
          name="username"
          className="visually-hidden"
          autoComplete="username"
          tabIndex={-1}
          aria-hidden="true"
          readOnly
          value={rememberedName()}
        />
        <PasswordField label="Present password" name="old" kind="current-password" value={old} onChange={setOld} />
        <PasswordField
          label="New password"
          kind="new-password"
          value={password}
          onChange={setPassword}
          hint={`At least ${leastPassword} characters`}
        />
        <PasswordField label="New password again" name="again" kind="new-password" value={again} onChange={setAgain} />
        <p className="fault login-fault" role="alert">
          {fault ?? passwordFault(password, again)}
        </p>
        <div>
          <button
            type="submit"
            className="button primary"
            disabled={busy || old === "" || !passwordReady(password, again)}
          >
            {busy ? "Working …" : "Change the password"}
          </button>
        </div>
      </form>
    </section>
  );
}

function Tokens({ self }: { self: Self }) {
  const tokens = useQuery(ownTokensQuery);
  const [making, setMaking] = useState(false);
  return (
    <section className="card" aria-label="API tokens">
      <div className="card-head">
        <h2>API tokens</h2>
        <button type="button" className="button" onClick={() => setMaking(true)}>
          New token
        </button>
      </div>
      <p className="hint">By which scripts and other programs act for you, with your rights or fewer.</p>
      {tokens.error && !tokens.data ? (
        <Problem error={tokens.error} retry={() => void tokens.refetch()} />
      ) : tokens.data?.length === 0 ? (
        <p className="none">You have none.</p>
      ) : tokens.data ? (
        <TokenList tokens={tokens.data} path="/api/account/tokens" />
      ) : (
        <ul className="items" aria-busy="true">
          <Waiting rows={1} />
        </ul>
      )}
      {making && <NewToken self={self} onClose={() => setMaking(false)} />}
    </section>
  );
}
