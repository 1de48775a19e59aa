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

/** Where a device's rotation stands; inactive devices take no part in it. One that is locked out says only that. */
export function DeviceState({
  active,
  rotation,
  revoked = false,
}: {
  active: boolean;
  rotation: RotationState;
  revoked?: boolean;
}) {
  const s = says[rotation];
  if (revoked) {
    return (
      <span className="badge error" title="Locked out: its tokens and its secret are not taken">
        Revoked
      </span>
    );
  }
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
