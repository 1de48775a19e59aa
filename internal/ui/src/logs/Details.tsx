import { useQuery } from "@tanstack/react-query";
import { request } from "../api/client";
import type { LogLine, LogPage } from "../api/types";
import { Copy } from "../parts/Copy";
import { Dialog } from "../parts/Dialog";
import { Problem } from "../parts/Problem";
import { usePreferences } from "../parts/preferences";
import { behind, permalink } from "./address";
import { visible } from "./text";
import { stamp, uptime } from "./times";

/** Everything about one line, with the document that the device sent. */
export function Details({ line, onClose }: { line: LogLine; onClose: () => void }) {
  const { zone } = usePreferences();
  const { data, error, refetch } = useQuery({
    queryKey: ["line", line.device_id, line.cursor],
    staleTime: Number.POSITIVE_INFINITY,
    queryFn: async ({ signal }) => {
      const page = await request<LogPage>(`/api/devices/${line.device_id}/logs`, {
        query: { before: behind(line.cursor), limit: 1, documents: true },
        signal,
      });
      return page.logs.find((l) => l.cursor === line.cursor) ?? null;
    },
  });
  const facts: [string, string][] = [
    ["Device", `${line.device_entity_id ?? line.device_key}`],
    ["Received", stamp(line.timestamp, zone)],
    ["Level", line.level ?? "none"],
    ["Tag", line.tag ?? "none"],
    ["Uptime", line.uptime_ms == null ? "not said" : uptime(line.uptime_ms)],
    ["Cursor", line.cursor],
  ];
  return (
    <Dialog title="Line" onClose={onClose}>
      <pre className="details-message">{visible(line.message)}</pre>
      <dl className="details-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <h3>As it was sent</h3>
      {error ? (
        <Problem error={error} retry={refetch} />
      ) : data === null ? (
        <p className="hint">The server does not keep this line any more.</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key
        <pre className="details-document" tabIndex={0} aria-busy={data === undefined}>
          {data === undefined ? "…" : JSON.stringify(data.document ?? {}, null, 2)}
        </pre>
      )}
      <h3>Link</h3>
      <Copy text={location.origin + permalink(line.device_id, line.cursor)} />
      <div className="actions">
        <button type="button" className="button primary" onClick={onClose}>
          Close
        </button>
      </div>
    </Dialog>
  );
}
