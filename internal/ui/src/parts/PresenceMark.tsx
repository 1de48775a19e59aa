import { useQuery } from "@tanstack/react-query";
import { presenceQuery } from "../api/devices";
import type { Presence } from "../api/types";
import { duration, useNow } from "./clock";
import { presenceKind, presenceName, presenceTitle } from "./presence";
import "./presence.css";

/**
 * A small mark of whether a device is there: a full dot, a ring, or nothing for one that was never seen. It is told apart by its
 * shape, and said in words to those who do not see it and, when the device is gone, to all.
 */
export function PresenceMark({ presence, now }: { presence: Presence | undefined; now?: () => number }) {
  const title = useNow((t) => presenceTitle(presence, now ? now() : t));
  if (!presence) return null;
  const kind = presenceKind(presence);
  return (
    <span className={`presence ${kind}`} title={title}>
      <span className="presence-dot" aria-hidden="true" />
      <span className={kind === "offline" ? "presence-word" : "visually-hidden"}>{presenceName(presence)}</span>
    </span>
  );
}

/** The same for one device, in words, with how long it has been so. */
export function PresenceState({ id }: { id: number }) {
  const { data } = useQuery(presenceQuery(id));
  const title = useNow((now) => presenceTitle(data, now));
  const since = data?.since ? Date.parse(data.since) : null;
  const time = useNow((now) => (since === null ? "" : duration(now - since)));
  if (!data) return null;
  return (
    <span className={`presence ${presenceKind(data)}`} title={title}>
      <span className="presence-dot" aria-hidden="true" />
      <span className="presence-word">
        {presenceName(data)} <span className="presence-since">{time}</span>
      </span>
    </span>
  );
}
