// biome-ignore-all lint/a11y/useSemanticElements: only the rows in sight are there, at places worked out; a table lays itself out
// biome-ignore-all lint/a11y/useFocusableInteractive: the grid has the focus and names its row by aria-activedescendant
import { useVirtualizer } from "@tanstack/react-virtual";
import {
  type MouseEvent,
  memo,
  type ReactNode,
  useCallback,
  useEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import { Link, useLocation } from "wouter";
import { ago, useNow } from "../parts/clock";
import { DeviceState } from "../parts/DeviceState";
import { useKeys } from "../parts/keys";
import { useNarrow } from "../parts/media";
import { PresenceMark } from "../parts/PresenceMark";
import { usePreferences } from "../parts/preferences";
import { Sparkline } from "../parts/Sparkline";
import { formatTime } from "../parts/time";
import { presenceStore } from "./presence";
import type { FleetRow, Seen } from "./rows";
import { fleetStore, seriesStore } from "./store";
import { type Column, type FleetView, sortBy } from "./view";

const heads: { column: Column; name: string; title: string }[] = [
  { column: "name", name: "Name", title: "The device's name" },
  { column: "entity", name: "Entity id", title: "Under which it sends its lines" },
  { column: "model", name: "Model", title: "Its device model" },
  { column: "last", name: "Last line", title: "What it said last" },
  { column: "when", name: "When", title: "When it said it" },
  {
    column: "lines",
    name: "Lines a minute",
    title: "Lines of each of the last 60 minutes; errors are marked at the foot",
  },
  { column: "errors", name: "Errors", title: "Errors in the last hour" },
  { column: "watchers", name: "Watching", title: "Streams that follow its log now" },
  { column: "state", name: "State", title: "Where the rotation of its secret stands" },
];

const rowHeight = 38;
const cardHeight = 62;

/** Where the list stood when it was left, so that coming back from a device finds the place again. */
let left = { query: "", offset: 0, current: null as number | null };

interface Props {
  rows: readonly FleetRow[];
  view: FleetView;
  /** The view as in the address. */
  query: string;
  setView: (v: FleetView) => void;
  selected: ReadonlySet<number>;
  select: (id: number, on: boolean) => void;
  /** Called while the pointer moves over rows, which should then not move themselves. */
  onPointer: () => void;
  /** Rows in the place of rows, while there are none yet. */
  waiting: ReactNode;
  /** Stands over the table. */
  children?: ReactNode;
}

/** The devices, of which only those in sight are drawn; as a table, or on a phone as cards. */
export function FleetTable({ rows, view, query, setView, selected, select, onPointer, waiting, children }: Props) {
  const narrow = useNarrow();
  const [, navigate] = useLocation();
  const scroller = useRef<HTMLDivElement>(null);
  const back = left.query === query;
  const [current, setCurrent] = useState(back ? left.current : null);
  const height = narrow ? cardHeight : rowHeight;
  // The same functions each time: with others it measures all ten thousand rows again.
  const estimateSize = useCallback(() => height, [height]);
  const getItemKey = useCallback((i: number) => rows[i]?.device.id ?? i, [rows]);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize,
    getItemKey,
    overscan: 8,
    initialOffset: back ? left.offset : 0,
    scrollPaddingStart: narrow ? 0 : rowHeight, // under the head
    useFlushSync: false,
  });
  // biome-ignore lint/correctness/useExhaustiveDependencies: another height of rows needs another measure
  useEffect(() => virtual.measure(), [height]);
  // Its own copy of the offset: to ask the element for it has the browser lay out the page in the middle of a frame.
  const place = useRef({ query, current });
  place.current = { query, current };
  useEffect(
    () => () => {
      left = { ...place.current, offset: virtual.scrollOffset ?? 0 };
    },
    [virtual],
  );

  const step = (by: number) => {
    const from = rows.findIndex((row) => row.device.id === current);
    const to = Math.max(0, Math.min(rows.length - 1, from + by));
    const row = rows[to];
    if (!row) return;
    setCurrent(row.device.id);
    virtual.scrollToIndex(to);
  };
  const screen = () => Math.max(1, Math.floor((scroller.current?.clientHeight ?? 0) / height) - 2);
  const here = () => rows.find((row) => row.device.id === current);
  useKeys([
    { key: "ArrowDown", does: "The next device", run: () => step(1) },
    { key: "ArrowUp", does: "The device before", run: () => step(-1) },
    { key: "PageDown", does: "A screen down", run: () => step(screen()) },
    { key: "PageUp", does: "A screen up", run: () => step(-screen()) },
    { key: "Home", does: "The first device", run: () => step(-rows.length) },
    { key: "End", does: "The last device", run: () => step(rows.length) },
    {
      key: "Enter",
      does: "Open the device's log",
      run: () => {
        const row = here();
        if (row) navigate(`/devices/${row.device.id}`);
      },
    },
    {
      key: "x",
      does: "Select the device, to open several together",
      run: () => {
        const row = here();
        if (row) select(row.device.id, !selected.has(row.device.id));
      },
    },
  ]);

  const open = useCallback(
    (e: MouseEvent, id: number) => {
      // A link or a box does what it does; somebody who marks text does not want to leave.
      if (e.defaultPrevented || (e.target as Element).closest("a, label, input")) return;
      if (getSelection()?.isCollapsed === false) return;
      if (e.ctrlKey || e.metaKey) window.open(`/devices/${id}`, "_blank", "noopener");
      else navigate(`/devices/${id}`);
    },
    [navigate],
  );

  const items = virtual.getVirtualItems();
  const inSight = items.some((item) => rows[item.index]?.device.id === current);
  const Item = narrow ? Card : Row;
  return (
    <div className="fleet-pane">
      <div
        ref={scroller}
        className={narrow ? "fleet-list cards" : "fleet-list"}
        role="grid"
        aria-label="Devices"
        aria-rowcount={rows.length + 1}
        aria-multiselectable="true"
        aria-activedescendant={inSight ? `device-${current}` : undefined}
        tabIndex={0}
        onPointerMove={onPointer}
      >
        <Head view={view} setView={setView} />
        <div
          className="fleet-body"
          role="rowgroup"
          style={{ height: rows.length === 0 ? undefined : virtual.getTotalSize() }}
        >
          {items.map((item) => {
            const row = rows[item.index];
            if (!row) return null;
            const id = row.device.id;
            return (
              <Item
                key={id}
                row={row}
                index={item.index}
                top={item.start}
                selected={selected.has(id)}
                current={id === current}
                select={select}
                open={open}
              />
            );
          })}
          {waiting}
        </div>
      </div>
      {children}
    </div>
  );
}

/** The names of the columns, apart from the rows: these come and go with every frame of a scroll. */
const Head = memo(function Head({ view, setView }: { view: FleetView; setView: (v: FleetView) => void }) {
  return (
    <div className="fleet-head" role="rowgroup">
      <div role="row" aria-rowindex={1} className="fleet-row">
        <span role="columnheader" className="c-select">
          <span className="visually-hidden">Selected</span>
        </span>
        {heads.map((h) => {
          const sorted = view.sort === h.column;
          return (
            <span
              key={h.column}
              role="columnheader"
              className={`c-${h.column}`}
              aria-sort={sorted ? (view.descending ? "descending" : "ascending") : "none"}
            >
              <button type="button" title={h.title} onClick={() => setView(sortBy(view, h.column))}>
                {h.name}
                <span aria-hidden="true" className="arrow">
                  {sorted ? (view.descending ? "↓" : "↑") : ""}
                </span>
              </button>
            </span>
          );
        })}
      </div>
    </div>
  );
});

interface RowProps {
  row: FleetRow;
  index: number;
  top: number;
  selected: boolean;
  current: boolean;
  select: (id: number, on: boolean) => void;
  open: (e: MouseEvent, id: number) => void;
}

function className(kind: string, p: RowProps): string {
  return `${kind}${p.selected ? " selected" : ""}${p.current ? " current" : ""}`;
}

/** What is in order is said quietly or not at all, so that the rest is seen. */
function isFine({ device }: FleetRow): boolean {
  return device.active && device.rotation_state === "OK";
}

const Row = memo(function Row(p: RowProps) {
  const { device, title, model } = p.row;
  const seen = useSeen(device.id);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Enter does so, by the grid
    <div
      id={`device-${device.id}`}
      role="row"
      aria-rowindex={p.index + 2}
      aria-selected={p.selected}
      className={className("fleet-row", p)}
      style={{ transform: `translateY(${p.top}px)` }}
      onClick={(e) => p.open(e, device.id)}
    >
      <span role="gridcell" className="c-select">
        <Select {...p} />
      </span>
      <span role="gridcell" className="c-name">
        <Link href={`/devices/${device.id}`} tabIndex={-1} title={title}>
          {title}
        </Link>
        <Here id={device.id} />
      </span>
      <span role="gridcell" className="c-entity" title={device.device_entity_id ?? undefined}>
        {device.device_entity_id ?? "–"}
      </span>
      <span role="gridcell" className="c-model" title={model?.name}>
        {model?.code ?? ""}
      </span>
      <span role="gridcell" className="c-last">
        <LastLine seen={seen} />
      </span>
      <span role="gridcell" className="c-when">
        <When at={seen?.at ?? null} />
      </span>
      <span role="gridcell" className="c-lines">
        <Lines id={device.id} hour={seen?.lines_hour} />
      </span>
      <span role="gridcell" className="c-errors">
        <Errors count={seen?.errors_hour} />
      </span>
      <span role="gridcell" className="c-watchers">
        {seen && seen.watchers > 0 ? seen.watchers : <span className="none">–</span>}
      </span>
      <span role="gridcell" className="c-state">
        {isFine(p.row) ? <span className="none">OK</span> : <Standing device={device} />}
      </span>
    </div>
  );
});

/** What is not in order, which is also the way to what the rotation of the device did. */
function Standing({ device: d }: { device: FleetRow["device"] }) {
  const state = <DeviceState active={d.active} rotation={d.rotation_state} revoked={d.revoked} />;
  if (d.rotation_state === "OK" || d.revoked) return state;
  return (
    <Link href={`/devices/${d.id}/rotation`} className="to-story" tabIndex={-1}>
      {state}
    </Link>
  );
}

const Card = memo(function Card(p: RowProps) {
  const { device, title } = p.row;
  const seen = useSeen(device.id);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Enter does so, by the grid
    <div
      id={`device-${device.id}`}
      role="row"
      aria-rowindex={p.index + 2}
      aria-selected={p.selected}
      className={className("fleet-card", p)}
      style={{ transform: `translateY(${p.top}px)` }}
      onClick={(e) => p.open(e, device.id)}
    >
      <span role="gridcell" className="c-select">
        <Select {...p} />
      </span>
      <span role="gridcell" className="c-name">
        <Link href={`/devices/${device.id}`} tabIndex={-1}>
          {title}
        </Link>
        <Here id={device.id} />
        {!isFine(p.row) && <Standing device={device} />}
      </span>
      <span role="gridcell" className="c-when">
        {seen !== undefined && seen.errors_hour > 0 && <Errors count={seen.errors_hour} />}
        <When at={seen?.at ?? null} />
      </span>
      <span role="gridcell" className="c-last">
        <LastLine seen={seen} />
      </span>
    </div>
  );
});

function Select({ row, selected, select }: RowProps) {
  return (
    <label>
      <input
        type="checkbox"
        tabIndex={-1}
        checked={selected}
        aria-label={`Select ${row.title}`}
        onChange={(e) => select(row.device.id, e.target.checked)}
      />
    </label>
  );
}

function useSeen(id: number): Seen | undefined {
  const watch = useCallback((changed: () => void) => fleetStore.watchDevice(id, changed), [id]);
  return useSyncExternalStore(watch, () => fleetStore.seen.get(id));
}

function Here({ id }: { id: number }) {
  const watch = useCallback((changed: () => void) => presenceStore.watchDevice(id, changed), [id]);
  const presence = useSyncExternalStore(watch, () => presenceStore.known.get(id));
  return <PresenceMark presence={presence} now={fleetStore.now} />;
}

// Colour codes and other control characters of a terminal say nothing in one cut line.
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is meant
const controls = /\u001b\[[0-9;?]*[ -/]*[@-~]|[\u0000-\u001f\u007f-\u009f]+/g;

function LastLine({ seen }: { seen: Seen | undefined }) {
  if (!seen) return null;
  if (!seen.last) return <span className="none">has said nothing yet</span>;
  const text = seen.last.message.replace(controls, " ").trim();
  return (
    <bdi className="line" data-level={seen.last.level ?? undefined} title={text}>
      {text}
    </bdi>
  );
}

function When({ at }: { at: number | null }) {
  const { zone } = usePreferences();
  const text = useNow(() => (at === null ? "" : ago(at, fleetStore.now())));
  if (at === null) return null;
  return (
    <time dateTime={new Date(at).toISOString()} title={formatTime(at, zone)}>
      {text}
    </time>
  );
}

function Lines({ id, hour }: { id: number; hour: number | undefined }) {
  const watch = useCallback((changed: () => void) => seriesStore.watch(id, changed), [id]);
  const series = useSyncExternalStore(watch, () => seriesStore.get(id));
  if (hour === undefined) return null;
  const rate = hour / 60;
  return (
    <>
      {series ? <Sparkline lines={series.lines} errors={series.errors} /> : <span className="sparkline" />}
      <span title={`${hour} lines in the last hour`} className={hour === 0 ? "none" : undefined}>
        {hour === 0 ? "0" : rate < 1 ? "<1" : Math.round(rate).toLocaleString("en")}
      </span>
    </>
  );
}

function Errors({ count }: { count: number | undefined }) {
  if (count === undefined) return null;
  if (count === 0) return <span className="none">–</span>;
  return (
    <span className="badge error" title={`${count} errors in the last hour`}>
      {count.toLocaleString("en")}
    </span>
  );
}
