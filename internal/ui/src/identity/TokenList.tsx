import { useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { request } from "../api/client";
import type { TokenInfo } from "../api/types";
import { Confirm } from "../parts/Confirm";
import { Ago, Time } from "../parts/Time";
import { useToast } from "../parts/toast";
import { limitWords } from "./roles";

/** API tokens, each with a button that ends it. `owner` says whose one is, where they are not all of one person. */
export function TokenList({
  tokens,
  path,
  owner,
}: {
  tokens: readonly TokenInfo[];
  /** Where one is revoked, before its id. */
  path: string;
  owner?: (t: TokenInfo) => ReactNode;
}) {
  const queries = useQueryClient();
  const toast = useToast();
  const [asking, setAsking] = useState<TokenInfo | null>(null);
  return (
    <>
      <ul className="items">
        {tokens.map((t) => (
          <li key={t.id}>
            <div className="item-main">
              <p>
                <strong>{t.name}</strong> <code className="hint">{t.hint}…</code>
                {t.roles.map((r) => (
                  <span key={r} className="badge">
                    {r}
                  </span>
                ))}
                {owner?.(t)}
              </p>
              <p className="hint">
                {limitWords(t.limit)} · used: <Ago at={t.used_at} /> · good until <Time at={t.expires_at} />
              </p>
            </div>
            <button
              type="button"
              className="button danger"
              aria-label={`Revoke ${t.name}`}
              onClick={() => setAsking(t)}
            >
              Revoke …
            </button>
          </li>
        ))}
      </ul>
      {asking && (
        <Confirm
          title={`Revoke ${asking.name}?`}
          action="Revoke the token"
          thing="token"
          onClose={() => setAsking(null)}
          run={async () => {
            await request(`${path}/${asking.id}`, { method: "DELETE" });
            toast({ kind: "done", text: `${asking.name} is revoked.` });
            setAsking(null);
            await Promise.all([
              queries.invalidateQueries({ queryKey: ["account", "tokens"] }),
              queries.invalidateQueries({ queryKey: ["tokens"] }),
              queries.invalidateQueries({ queryKey: ["people"] }),
            ]);
          }}
        >
          <p>
            Whatever uses it is refused from the next request on, and its streams end. It cannot be had back; make a new
            one if it is still needed.
          </p>
        </Confirm>
      )}
    </>
  );
}
