// The devices as the fleet page holds them: what seldom changes apart from what changes every second.

import type { Activity, DeviceSummary, Fleet, ModelSummary } from "../api/types";

/** What a device did lately, with the time of its last line in milliseconds. */
export interface Seen extends Activity {
  at: number | null;
}

/** A device and what is worked out of it once, for searching and sorting ten thousand of them. */
export interface FleetRow {
  device: DeviceSummary;
  /** What it is called: its name, or else its entity id, or else its key. */
  title: string;
  model: { code: string; name: string } | null;
  /** All that a search looks at, in lower case. */
  haystack: string;
  /** Its place by each column of text. */
  rank: { name: number; entity: number; model: number; state: number };
}

const states = ["OK", "QUEUED", "PENDING", "TIMEOUT"];

/** Makes the rows of the devices, in the order of their names. */
export function buildRows(devices: readonly DeviceSummary[], models: readonly ModelSummary[]): FleetRow[] {
  const byId = new Map(models.map((m) => [m.id, m]));
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const rows = devices.map((device): FleetRow => {
    const model = byId.get(device.device_model_id) ?? null;
    const title = device.device_name ?? device.device_entity_id ?? device.key;
    return {
      device,
      title,
      model,
      haystack: [
        title,
        device.device_entity_id ?? "",
        device.key,
        model ? `iotdevice-${model.code}-${device.key}` : "",
        model?.code ?? "",
        model?.name ?? "",
      ]
        .join("\n")
        .toLowerCase(),
      rank: {
        name: 0,
        entity: 0,
        model: 0,
        state: device.active ? states.indexOf(device.rotation_state) : states.length,
      },
    };
  });
  const place = (column: "entity" | "model", text: (row: FleetRow) => string | undefined) => {
    const sorted = [...rows].sort((a, b) => collator.compare(text(a) ?? "\uffff", text(b) ?? "\uffff"));
    let rank = 0;
    sorted.forEach((row, i) => {
      const before = sorted[i - 1];
      if (before && text(before) !== text(row)) rank++;
      row.rank[column] = rank;
    });
  };
  place("entity", (row) => row.device.device_entity_id ?? undefined);
  place("model", (row) => row.model?.code);
  rows.sort((a, b) => collator.compare(a.title, b.title) || (a.device.key < b.device.key ? -1 : 1));
  rows.forEach((row, i) => {
    row.rank.name = i;
  });
  return rows;
}

/** Puts an answer of the server into what is known, and returns the ids of the devices that it changes. */
export function merge(known: Map<number, Seen>, answer: Fleet): Set<number> {
  const changed = new Set<number>();
  if (answer.complete) {
    const there = new Set(answer.devices.map((d) => d.device_id));
    for (const id of known.keys()) {
      if (there.has(id)) continue;
      known.delete(id);
      changed.add(id);
    }
  }
  for (const d of answer.devices) {
    const before = known.get(d.device_id);
    if (before && same(before, d)) continue;
    const at = d.last ? Date.parse(d.last.timestamp) : null;
    known.set(d.device_id, { ...d, at });
    changed.add(d.device_id);
  }
  return changed;
}

function same(a: Activity, b: Activity): boolean {
  return (
    a.last?.cursor === b.last?.cursor &&
    a.lines_hour === b.lines_hour &&
    a.errors_hour === b.errors_hour &&
    a.watchers === b.watchers
  );
}
