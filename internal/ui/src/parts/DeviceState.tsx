import type { RotationState } from "../api/types";

const says: Record<RotationState, { text: string; kind: string; title: string }> = {
  OK: { text: "OK", kind: "ok", title: "Its secret is in order" },
  QUEUED: { text: "Queued", kind: "", title: "Waits for its turn to get a new secret" },
  PENDING: { text: "Rotating", kind: "warn", title: "Was told to fetch a new secret, and has not yet" },
  TIMEOUT: { text: "Timed out", kind: "error", title: "Did not fetch its new secret in time" },
};

/** What a rotation state is called in the page. */
export function stateName(state: RotationState): string {
  return says[state].text;
}

/** Where a device's rotation stands; inactive devices take no part in it. */
export function DeviceState({ active, rotation }: { active: boolean; rotation: RotationState }) {
  const s = says[rotation];
  if (!active) {
    return (
      <span className="badge" title={`Takes no part in rotation; the last state is ${s.text}`}>
        Inactive
      </span>
    );
  }
  return (
    <span className={`badge ${s.kind}`} title={s.title}>
      {s.text}
    </span>
  );
}
