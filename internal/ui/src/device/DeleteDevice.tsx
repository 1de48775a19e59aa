import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useLocation } from "wouter";
import { request, send } from "../api/client";
import { deviceQuery, devicesQuery, modelsQuery } from "../api/devices";
import type { Device, LogPage } from "../api/types";
import { Confirm } from "../parts/Confirm";
import { deviceTitle } from "../parts/DeviceHead";
import { usePreferences } from "../parts/preferences";
import { formatTime } from "../parts/time";
import { useToast } from "../parts/toast";
import { forgetUnsaved } from "../parts/unsaved";

/** Deletes a device, after it has said what goes with it. */
export function DeleteDevice({ device }: { device: Device }) {
  const queries = useQueryClient();
  const toast = useToast();
  const [, navigate] = useLocation();
  const [asking, setAsking] = useState(false);
  const name = deviceTitle(device);
  return (
    <>
      <button type="button" className="button danger" onClick={() => setAsking(true)}>
        Delete …
      </button>
      {asking && (
        <Confirm
          title={`Delete ${name}?`}
          action="Delete the device"
          thing="device"
          typed={device.key}
          onClose={() => setAsking(false)}
          run={async () => {
            await request(`/api/devices/${device.id}`, { method: "DELETE" });
            toast({ kind: "done", text: `${name} is deleted.` });
            forgetUnsaved();
            navigate("/");
            queries.removeQueries({ queryKey: deviceQuery(device.id).queryKey });
            void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
            void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
          }}
        >
          <Loss device={device} />
        </Confirm>
      )}
    </>
  );
}

/** What is lost with it: who it is, its access, and what it ever said. */
function Loss({ device }: { device: Device }) {
  const { zone } = usePreferences();
  const history = useQuery({
    queryKey: ["device", device.id, "history"],
    staleTime: 0,
    gcTime: 0,
    queryFn: async ({ signal }) => {
      const path = `/api/devices/${device.id}/logs`;
      const query = { start: "1970-01-01", limit: 1 };
      const oldest = (await request<LogPage>(path, { query, signal })).logs[0] ?? null;
      return { oldest, lines: await countLines(path, signal) };
    },
  });
  const h = history.data;
  return (
    <>
      <p>This cannot be undone. It is lost for good:</p>
      <ul className="loss">
        <li>
          <strong>{deviceTitle(device)}</strong> with its configuration
        </li>
        <li>
          its client <code>{device.client_id}</code>: what comes under it is nobody's from then on
        </li>
        <li aria-live="polite">
          {h === undefined
            ? history.error
              ? "its history of lines, whose size could not be found out"
              : "its history of lines …"
            : h.oldest === null
              ? "no history: it never said anything that is kept"
              : `${h.lines === null ? "all" : `about ${h.lines.toLocaleString("en")}`} ${h.lines === 1 ? "line" : "lines"} of history since ${formatTime(h.oldest.timestamp, zone)}`}
        </li>
      </ul>
    </>
  );
}

/** How many lines an export would look at: its head says so, and the rest of it is not read. */
async function countLines(path: string, signal: AbortSignal): Promise<number | null> {
  const abort = new AbortController();
  const stop = () => abort.abort();
  signal.addEventListener("abort", stop);
  try {
    const headers = { Accept: "application/x-ndjson" };
    const answer = await send(path, { query: { start: "1970-01-01" }, headers, signal: abort.signal });
    const lines = answer.headers.get("X-Total-Lines");
    return lines === null ? null : Number(lines);
  } finally {
    signal.removeEventListener("abort", stop);
    abort.abort();
  }
}
