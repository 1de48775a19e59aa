import { useQuery } from "@tanstack/react-query";
import { useRef, useState } from "react";
import { allTokensQuery, peopleQuery } from "../api/people";
import type { PersonInfo } from "../api/types";
import { useSession } from "../identity/index";
import { LoginHelp } from "../identity/LoginHelp";
import { NotAllowed } from "../identity/NotAllowed";
import { NewPerson, PersonDialog } from "../identity/PersonDialog";
import { decides, limitWords } from "../identity/roles";
import { TokenList } from "../identity/TokenList";
import { useKeys } from "../parts/keys";
import { Problem } from "../parts/Problem";
import { Page } from "../parts/Shell";
import { Ago } from "../parts/Time";
import { Waiting } from "./AccountPage";
import "../device/settings.css";
import "../identity/identity.css";

/** Who may come here, and what they may. For admins. */
export default function PeoplePage() {
  const admin = decides(useSession().self);
  return admin ? <People /> : <NotAllowed title="People" needs="admin" />;
}

function matches(p: PersonInfo, text: string): boolean {
  const hay = [p.name, p.username, p.email, p.subject, ...p.roles, limitWords(p.limit)].join(" ").toLowerCase();
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => hay.includes(word));
}

function People() {
  const { self, mode } = useSession();
  const people = useQuery(peopleQuery);
  const [text, setText] = useState("");
  const [open, setOpen] = useState<number | null>(null);
  const [making, setMaking] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useKeys([{ key: "/", does: "Search people", run: () => field.current?.focus() }]);
  const list = people.data;
  const shown = list?.filter((p) => matches(p, text));
  const chosen = list?.find((p) => p.id === open);
  const local = mode?.mode === "local";

  if (mode?.mode === "off" && list?.length === 0) {
    return (
      <Page title="People">
        <div className="empty">
          <h1>Nobody has an account yet</h1>
          <LoginHelp />
        </div>
      </Page>
    );
  }
  return (
    <Page title="People">
      <div className="page-head">
        <h1 className="grow">People</h1>
        <search className="people-search">
          <input
            ref={field}
            type="search"
            className="input"
            aria-label="Search people"
            placeholder="Name, e-mail, role"
            title="Search people (/)"
            value={text}
            onChange={(e) => setText(e.target.value)}
          />
        </search>
        {local && (
          <button type="button" className="button" onClick={() => setMaking(true)}>
            New person
          </button>
        )}
      </div>
      {people.error && !list ? (
        <Problem error={people.error} retry={() => void people.refetch()} />
      ) : (
        <div className="card">
          {mode?.mode === "oidc" && (
            <p className="hint">
              Everybody who has logged in by your identity provider. Names and roles are given there; here somebody can
              be locked out.
            </p>
          )}
          <ul className="items" aria-label="People" aria-busy={people.isPending}>
            {shown?.map((p) => (
              <li key={p.id} className={p.disabled ? "off" : undefined}>
                <div className="item-main">
                  <p>
                    <strong>{p.name || p.username || p.email || p.subject}</strong>
                    {p.username && p.username !== p.name && <code className="hint">{p.username}</code>}
                    {p.subject === self?.subject && <span className="badge ok">You</span>}
                    {p.disabled && <span className="badge error">Locked out</span>}
                    {p.roles.map((r) => (
                      <span key={r} className="badge">
                        {r}
                      </span>
                    ))}
                    {p.roles.length === 0 && <span className="badge warn">no role</span>}
                  </p>
                  <p className="hint">
                    {p.email && `${p.email} · `}
                    {limitWords(p.limit)} · here: <Ago at={p.seen_at} />
                    {p.sessions > 0 && ` · ${p.sessions} ${p.sessions === 1 ? "session" : "sessions"}`}
                    {p.tokens > 0 && ` · ${p.tokens} ${p.tokens === 1 ? "token" : "tokens"}`}
                    {p.external && " · from the identity provider"}
                  </p>
                </div>
                <button
                  type="button"
                  className="button"
                  aria-label={`Edit ${p.name || p.username || p.subject}`}
                  onClick={() => setOpen(p.id)}
                >
                  Edit …
                </button>
              </li>
            )) ?? <Waiting rows={4} />}
          </ul>
          {list && shown?.length === 0 && (
            <p className="none">
              {list.length === 0 ? "Nobody has logged in yet." : `Nobody of ${list.length} is like that.`}
            </p>
          )}
        </div>
      )}
      <AllTokens people={list ?? []} />
      {making && <NewPerson onClose={() => setMaking(false)} />}
      {chosen && <PersonDialog key={chosen.id} person={chosen} onClose={() => setOpen(null)} />}
    </Page>
  );
}

function AllTokens({ people }: { people: readonly PersonInfo[] }) {
  const tokens = useQuery(allTokensQuery);
  const names = new Map(people.map((p) => [p.subject, p.name || p.username || p.subject]));
  return (
    <section className="card after" aria-label="API tokens of everybody">
      <h2>API tokens of everybody</h2>
      {tokens.error && !tokens.data ? (
        <Problem error={tokens.error} retry={() => void tokens.refetch()} />
      ) : tokens.data?.length === 0 ? (
        <p className="none">There are none. Everybody makes their own, on their account page.</p>
      ) : tokens.data ? (
        <TokenList
          tokens={tokens.data}
          path="/api/tokens"
          owner={(t) => <span className="hint">of {names.get(t.subject) ?? t.subject}</span>}
        />
      ) : (
        <ul className="items" aria-busy="true">
          <Waiting rows={2} />
        </ul>
      )}
    </section>
  );
}
