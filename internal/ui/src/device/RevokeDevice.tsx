import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { request } from "../api/client";
import { deviceQuery, devicesQuery } from "../api/devices";
import type { Device } from "../api/types";
import { Confirm } from "../parts/Confirm";
import { deviceTitle } from "../parts/DeviceHead";
import { useToast } from "../parts/toast";
import "./settings.css";

/** Locks a device out, or lets it in again. */
export function RevokeDevice({ device }: { device: Device }) {
  const queries = useQueryClient();
  const toast = useToast();
  const [asking, setAsking] = useState(false);
  const [fresh, setFresh] = useState(false);
  const name = deviceTitle(device);
  const { revoked } = device;
  return (
    <>
      <button type="button" className={revoked ? "button" : "button danger"} onClick={() => setAsking(true)}>
        {revoked ? "Restore …" : "Revoke …"}
      </button>
      {asking && (
        <Confirm
          title={revoked ? `Restore ${name}?` : `Revoke ${name}?`}
          action={revoked ? "Restore the device" : "Revoke the device"}
          harmless={revoked}
          thing="device"
          onClose={() => setAsking(false)}
          run={async () => {
            const path = `/api/devices/${device.id}/${revoked ? "restore" : "revoke"}`;
            const answer = await request<{ client_error?: string | null } | undefined>(path, {
              method: "POST",
              ...(revoked && fresh && { body: { new_secret: true } }),
            });
            const restored = fresh
              ? `${name} has another secret. Provision it: it cannot log in before.`
              : `${name} is let in again.`;
            const done = revoked ? restored : `${name} is locked out.`;
            if (answer?.client_error) {
              const left = `What gives out its tokens could not be told yet, and is tried again: ${answer.client_error}`;
              toast({ kind: "error", text: `${done} ${left}` });
            } else toast({ kind: "done", text: done });
            await queries.invalidateQueries({ queryKey: deviceQuery(device.id).queryKey });
            void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
            setAsking(false);
          }}
        >
          {revoked ? (
            <>
              <p>
                {fresh
                  ? "It gets another secret, and every one that it had is destroyed. It can log in once it was provisioned anew."
                  : "Its secret and its tokens are taken again, and it can connect and log as before."}
              </p>
              <label className="fresh-secret">
                <input type="checkbox" checked={fresh} onChange={(e) => setFresh(e.target.checked)} />
                Somebody else may know its secret: give it another one
              </label>
            </>
          ) : (
            <>
              <p>
                It is locked out at once: its secret and its tokens are not taken any more, and its connection to the
                broker is closed. Its configuration and its history stay, and it can be restored.
              </p>
              <p className="hint">
                This is for a device that is lost or does what it should not. One that is only to be left out of
                rotation is set inactive instead.
              </p>
            </>
          )}
        </Confirm>
      )}
    </>
  );
}
