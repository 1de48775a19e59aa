import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "wouter";
import { Confirm } from "../parts/Confirm";
import { useToast } from "../parts/toast";
import { rotateAll, rotationChanged } from "./api";

const devices = (n: number) => `${n.toLocaleString("en")} ${n === 1 ? "device" : "devices"}`;

/** Queues every device that is in order, after it has said how many those are and what happens to them. */
export function RotateAll({ count }: { count: number | null }) {
  const queries = useQueryClient();
  const toast = useToast();
  const [asking, setAsking] = useState(false);
  return (
    <>
      <button
        type="button"
        className="button"
        disabled={count === null || count === 0}
        title={count === 0 ? "No active device is in order and waits for nothing" : undefined}
        onClick={() => setAsking(true)}
      >
        Rotate all …
      </button>
      {asking && count !== null && (
        <Confirm
          title={`Rotate ${devices(count)}?`}
          action={`Queue ${devices(count)}`}
          harmless
          thing="rotation"
          onClose={() => setAsking(false)}
          run={async () => {
            const n = await rotateAll();
            toast({
              kind: "done",
              text: n === 0 ? "No device was queued: none is in order and waits." : `${devices(n)} are queued.`,
            });
            setAsking(false);
            rotationChanged(queries);
          }}
        >
          <p>
            Each gets a new secret, one after the other, the oldest secret first. It is told over MQTT, fetches the new
            secret and uses it; only then is the old one withdrawn. One that does not answer keeps its old secret and
            delays nobody for longer than its time-out.
          </p>
          <p className="hint">
            Devices that timed out, wait already or are inactive are left as they are. For waves, times of day, and a
            stop when devices fail, <Link href="/rotation/campaigns/new">make a campaign</Link> instead.
          </p>
        </Confirm>
      )}
    </>
  );
}
