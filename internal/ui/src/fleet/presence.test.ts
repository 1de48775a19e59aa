import { describe, expect, it } from "vitest";
import type { Presence } from "../api/types";
import { clockText, presenceKind, presenceName, presenceTitle, times } from "../parts/presence";
import { mergePresence } from "./presence";

const now = Date.parse("2026-07-04T12:00:00Z");
const at = (minutes: number) => new Date(now - minutes * 60_000).toISOString();

function presence(id: number, change: Partial<Presence> = {}): Presence {
  return {
    device_id: id,
    online: true,
    sessions: 1,
    last_seen_at: at(0),
    last_source: "session",
    since: at(90),
    drops_24h: 0,
    ...change,
  };
}

const gone = { online: false, sessions: 0, last_seen_at: at(8), since: at(3) } as const;
const never = { ...gone, last_seen_at: null, last_source: null, since: null } as const;

describe("what is known of who is there", () => {
  it("tells which devices came, went or were deleted", () => {
    const known = new Map<number, Presence>();
    const list = (...devices: Presence[]) => ({ now: at(0), devices });
    expect([...mergePresence(known, list(presence(1), presence(2)))]).toEqual([1, 2]);
    // That it was seen once more is nothing to draw a row for.
    expect([...mergePresence(known, list(presence(1, { last_seen_at: at(-1) }), presence(2)))]).toEqual([]);
    expect([...mergePresence(known, list(presence(1), presence(2, gone)))]).toEqual([2]);
    expect(known.get(2)?.online).toBe(false);
    expect([...mergePresence(known, list(presence(1, { drops_24h: 1 })))]).toEqual([1, 2]);
    expect([...known.keys()]).toEqual([1]);
  });
});

describe("how it is said", () => {
  it("tells a device that is gone from one that never was", () => {
    expect(presenceKind(presence(1))).toBe("online");
    expect(presenceKind(presence(1, gone))).toBe("offline");
    expect(presenceKind(presence(1, never))).toBe("unknown");
    expect(presenceKind(undefined)).toBe("unknown");
    expect(presenceName(presence(1, never))).toBe("Not seen yet");
    expect(presenceName(presence(1, { ...never, last_seen_at: at(5) }))).toBe("Offline");
  });

  it("says since when, and how it is known", () => {
    expect(presenceTitle(presence(1), now)).toBe("Online for 1 h, known through its session");
    expect(presenceTitle(presence(1, { ...gone, drops_24h: 2 }), now)).toBe(
      "Offline for 3 min; last seen 8 min ago; went away 2 times in 24 hours",
    );
    expect(presenceTitle(presence(1, { last_source: "line", drops_24h: 1 }), now)).toBe(
      "Online for 1 h, known by its lines; went away once in 24 hours",
    );
    expect(presenceTitle(undefined, now)).toBe("Not seen yet");
    expect(times(1200)).toBe("1,200 times");
  });

  it("says what a clock is off by, which tells whole seconds", () => {
    expect(clockText(-1900)).toBe("right");
    expect(clockText(-2400)).toBe("2 s behind");
    expect(clockText(125_000)).toBe("2 min ahead");
  });
});
