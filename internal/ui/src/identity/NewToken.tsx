import { useQueryClient } from "@tanstack/react-query";
import { useId, useState } from "react";
import { request } from "../api/client";
import { ownTokensQuery } from "../api/people";
import type { Self, TokenInfo } from "../api/types";
import { Copy } from "../parts/Copy";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { Time } from "../parts/Time";
import { draftOf, LimitFields, limitOf, RoleBoxes } from "./Access";
import { may, ownRoles } from "./roles";

const lifetimes: [days: number, name: string][] = [
  [7, "a week"],
  [30, "30 days"],
  [90, "90 days"],
  [366, "a year"],
];

/** Makes an API token, and shows its secret: only then and never again. */
export function NewToken({ self, onClose }: { self: Self; onClose: () => void }) {
  const id = useId();
  const queries = useQueryClient();
  const [name, setName] = useState("");
  const [roles, setRoles] = useState<string[]>(may(self, "viewer") ? ["viewer"] : ["pipeline"]);
  const [limit, setLimit] = useState(draftOf(null));
  const [days, setDays] = useState(90);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [made, setMade] = useState<(TokenInfo & { secret: string }) | null>(null);
  const part = limitOf(limit);
  const ready = name.trim() !== "" && roles.length > 0 && part !== undefined && !busy;

  if (made) {
    const path = made.roles.length === 1 && made.roles[0] === "pipeline" ? "/api/auth/self" : "/api/devices";
    return (
      <Dialog title={`The secret of ${made.name}`} stays onClose={onClose}>
        <div className="form">
          <p>
            <strong>Copy it now: it is not shown again.</strong> Whoever has it may do what the token may. It is good
            until <Time at={made.expires_at} />
          </p>
          <Copy text={made.secret} />
          <p>To use it:</p>
          <Copy text={`curl ${location.origin}${path} -H 'Authorization: Bearer ${made.secret}'`} />
        </div>
        <div className="actions">
          <button type="button" className="button primary" onClick={onClose}>
            I have copied it
          </button>
        </div>
      </Dialog>
    );
  }
  return (
    <Dialog title="New API token" onClose={onClose}>
      <form
        className="form"
        onSubmit={async (e) => {
          e.preventDefault();
          if (!ready) return;
          setBusy(true);
          setError(null);
          try {
            const body = { name: name.trim(), roles, limit: part, days };
            setMade(await request<TokenInfo & { secret: string }>("/api/account/tokens", { method: "POST", body }));
            void queries.invalidateQueries({ queryKey: ownTokensQuery.queryKey });
            void queries.invalidateQueries({ queryKey: ["tokens"] });
          } catch (failure) {
            setError(failure);
          }
          setBusy(false);
        }}
      >
        <div className="field">
          <label htmlFor={`${id}-name`}>Name</label>
          <input
            id={`${id}-name`}
            className="input"
            autoComplete="off"
            maxLength={100}
            required
            placeholder="Backup script"
            autoFocus
            value={name}
            onChange={(e) => {
              setName(e.target.value);
              setError(null);
            }}
          />
          <span className="hint">By which you know later what uses it</span>
        </div>
        <RoleBoxes
          offered={ownRoles(self)}
          chosen={roles}
          onChange={setRoles}
          hint="It never may more than you, now and later."
        />
        <LimitFields draft={limit} onChange={setLimit} />
        <div className="field">
          <label htmlFor={`${id}-days`}>Good for</label>
          <select id={`${id}-days`} className="input" value={days} onChange={(e) => setDays(Number(e.target.value))}>
            {lifetimes.map(([n, text]) => (
              <option key={n} value={n}>
                {text}
              </option>
            ))}
          </select>
        </div>
        {error !== null && (
          <p className="fault" role="alert">
            It was not made. {explain(error, "token")}
          </p>
        )}
        <div className="actions">
          <button type="button" className="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" className="button primary" disabled={!ready}>
            {busy ? "Working …" : "Make the token"}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
