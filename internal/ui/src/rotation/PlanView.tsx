import { useState } from "react";
import { Link } from "wouter";
import { usePreferences } from "../parts/preferences";
import { planWords, riskWords } from "./campaign";
import { rotationTitle } from "./fleet";
import { useServerNow } from "./live";
import { storyAddress } from "./story";
import type { Plan } from "./types";
import { dueWords } from "./words";

const few = 8;

/** What a campaign would do. */
export function PlanView({ plan: p }: { plan: Plan }) {
  const { zone } = usePreferences();
  const end = useServerNow((now) => dueWords(p.expected_end, zone, now));
  const largest = Math.max(1, ...p.waves.map((w) => w.size));
  return (
    <div className="rot-plan-body">
      <p>
        {planWords(p)}
        {p.devices > 0 && ` Expected to end ${end}.`}
      </p>
      {p.waves.length > 0 && (
        <ol className="rot-plan-waves" aria-label="Waves">
          {p.waves.slice(0, 12).map((w) => (
            <li key={w.number}>
              <span>Wave {w.number}</span>
              <span className="rot-bar" aria-hidden="true">
                <span data-state="in_flight" style={{ width: `${Math.max(1, (100 * w.size) / largest)}%` }} />
              </span>
              <span className="number">{w.size.toLocaleString("en")}</span>
            </li>
          ))}
          {p.waves.length > 12 && <li className="hint">and {p.waves.length - 12} more waves</li>}
        </ol>
      )}
      {p.devices > 0 && (
        <>
          <h3>
            {p.at_risk.length === 0
              ? "No device looks as if it would give trouble"
              : `${p.at_risk.length.toLocaleString("en")} may give trouble`}
          </h3>
          <Few
            items={p.at_risk}
            draw={(d) => (
              <li key={d.device_id}>
                <Link href={storyAddress(d.device_id)} target="_blank">
                  {rotationTitle(d)}
                </Link>
                {d.risks.map((r) => (
                  <p key={r.kind} className="hint">
                    <strong>{riskWords(r.kind)}</strong>
                    {r.detail && `: ${r.detail}`}
                  </p>
                ))}
              </li>
            )}
          />
        </>
      )}
      {p.excluded.length > 0 && (
        <>
          <h3>{p.excluded.length.toLocaleString("en")} left out</h3>
          <Few
            items={p.excluded}
            draw={(d) => (
              <li key={d.device_id}>
                <Link href={storyAddress(d.device_id)} target="_blank">
                  <code>{d.key}</code>
                </Link>{" "}
                <span className="hint">{d.reason}</span>
              </li>
            )}
          />
        </>
      )}
    </div>
  );
}

/** The first of a list, and all of it for the asking. */
function Few<T>({ items, draw }: { items: readonly T[]; draw: (item: T) => React.ReactNode }) {
  const [all, setAll] = useState(false);
  if (items.length === 0) return null;
  return (
    <>
      <ul className="rot-risks">{(all ? items : items.slice(0, few)).map(draw)}</ul>
      {items.length > few && (
        <button type="button" className="button quiet" onClick={() => setAll(!all)}>
          {all ? "Fewer" : `${(items.length - few).toLocaleString("en")} more`}
        </button>
      )}
    </>
  );
}
