import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "wouter";
import { useMay } from "../identity/index";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { Ago } from "../parts/Time";
import { campaignsQuery } from "./api";
import { Bar } from "./Bar";
import { campaignSentence, partsOf, progressWords, stateWords } from "./campaign";
import { useServerNow } from "./live";
import type { Campaign } from "./types";

/** How many that are over are shown at first. */
const few = 3;

/** The campaigns: those that go on, and the last ones that did. */
export function CampaignList() {
  const editor = useMay("editor");
  const campaigns = useQuery(campaignsQuery);
  const [all, setAll] = useState(false);
  const open = campaigns.data?.filter((c) => c.ended_at === null) ?? [];
  const over = campaigns.data?.filter((c) => c.ended_at !== null) ?? [];
  const shown = [...open, ...(all ? over : over.slice(0, few))];
  return (
    <section className="card rot-card" aria-label="Campaigns">
      <div className="rot-card-head">
        <h2>Campaigns</h2>
        {editor && (
          <Link href="/rotation/campaigns/new" className="button">
            New campaign
          </Link>
        )}
      </div>
      {campaigns.error && !campaigns.data ? (
        <Problem error={campaigns.error} retry={() => void campaigns.refetch()} />
      ) : campaigns.data?.length === 0 ? (
        <p className="rot-none">
          There was none yet. A campaign rotates many devices in waves, a few first, at the times of day that you
          choose, and pauses itself when too many fail.
        </p>
      ) : campaigns.data ? (
        <ul className="rot-campaigns">
          {shown.map((c) => (
            <Item key={c.id} campaign={c} />
          ))}
        </ul>
      ) : (
        <div className="skeleton rot-wait" aria-busy="true" />
      )}
      {over.length > few && (
        <button type="button" className="button quiet" onClick={() => setAll(!all)}>
          {all ? "Fewer" : `${(over.length - few).toLocaleString("en")} older`}
        </button>
      )}
    </section>
  );
}

function Item({ campaign: c }: { campaign: Campaign }) {
  const { zone } = usePreferences();
  const says = useServerNow((now) => campaignSentence(c, zone, now));
  return (
    <li>
      <p className="rot-campaign-head">
        <Link href={`/rotation/campaigns/${c.id}`}>{c.name}</Link>
        <CampaignBadge state={c.state} />
        <span className="hint">
          {c.ended_at === null ? (
            <>
              made <Ago at={c.created_at} />
            </>
          ) : (
            <>
              ended <Ago at={c.ended_at} />
            </>
          )}
        </span>
      </p>
      <Bar parts={partsOf(c.counts)} />
      <p className="hint">
        {progressWords(c.counts)}. {c.ended_at === null && says}
      </p>
    </li>
  );
}

/** The state of a campaign in one word. */
export function CampaignBadge({ state }: { state: Campaign["state"] }) {
  const w = Object.hasOwn(stateWords, state) ? stateWords[state] : { name: state, kind: "" };
  return <span className={`badge ${w.kind}`}>{w.name}</span>;
}
