import {
  type KeyboardEvent,
  type MouseEvent,
  type ReactNode,
  type RefObject,
  useCallback,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { LogLine } from "../api/types";
import { copyText } from "../parts/Copy";
import { useKeys } from "../parts/keys";
import { usePreferences } from "../parts/preferences";
import { useToast } from "../parts/toast";
import type { StreamClient } from "../stream/types";
import { permalink } from "./address";
import { Details } from "./Details";
import { highlighter, holds } from "./highlight";
import { JumpDialog } from "./JumpDialog";
import { EdgeRow, GapLine, LogRow } from "./LogRow";
import { StatusLine, StreamBar, useTick } from "./Status";
import { Strip } from "./Strip";
import { Slots } from "./slots";
import { copied, count, plural } from "./text";
import { stamp, uptime } from "./times";
import type { LineFilter, LogModel, Place, Row } from "./types";
import { mark, Viewport } from "./viewport";
import "./log.css";

interface Props {
  log: LogModel;
  stream: StreamClient;
  /** What it is the log of, for screen readers. */
  label: string;
  /** Above it, where it is one of several side by side. */
  title: string | null;
  /** What devices are called; null where there is only one, and rows do not name it. */
  names: ReadonlyMap<number, string> | null;
  filter: LineFilter;
  /** The text of the filter is only marked. */
  find: boolean;
  /** Collects the tags that are seen. */
  tags: Set<string>;
  /** What to look at first, and again when it changes: a line, or a moment. */
  at: string | null;
  time: string | null;
  /** Of several logs side by side, the one that keys are for. */
  active: boolean;
  onActive: () => void;
  /** The reader went on to what is said now, and the address means no line any more. */
  onLive: () => void;
  onDownload: () => void;
  /** Puts the log's own tools into its toolbar. */
  toolbar: (own: ReactNode) => ReactNode;
  /** What is said where nothing was ever logged. */
  empty: ReactNode;
}

/** One log: its toolbar, its rows, and how its stream does. */
export function LogView(p: Props) {
  const [viewport, setViewport] = useState<Viewport | null>(null);
  useLayoutEffect(() => {
    const made = new Viewport(p.log, p.tags);
    setViewport(made);
    return () => made.close();
  }, [p.log, p.tags]);
  return viewport && <Log {...p} viewport={viewport} />;
}

/** The rows from one to another are selected; the second one is where the reader is. */
interface Selection {
  from: number;
  to: number;
}

function Log(p: Props & { viewport: Viewport }) {
  const { viewport, log, filter, find, at, time } = p;
  const { zone, wrap } = usePreferences();
  const toast = useToast();
  const scroller = useRef<HTMLDivElement>(null);
  const [selection, setSelection] = useState<Selection | null>(null);
  const [meant, setMeant] = useState<number | null>(null);
  const [details, setDetails] = useState<LogLine | null>(null);
  const [jump, setJump] = useState<Date | null>(null);
  const [going, setGoing] = useState(false);
  const following = useSyncExternalStore(viewport.watch, () => viewport.view().following);

  useLayoutEffect(() => viewport.setWrap(wrap), [viewport, wrap]);

  const { level, tag, regex } = filter;
  const text = find ? "" : filter.text;
  useLayoutEffect(() => viewport.setFilter({ level, tag, text, regex }), [viewport, level, tag, text, regex]);
  const highlight = useMemo(() => highlighter(filter.text, filter.regex), [filter.text, filter.regex]);
  useLayoutEffect(() => {
    viewport.setMatches(highlight === null ? null : (row) => row.kind === "line" && holds(highlight, row.line.message));
  }, [viewport, highlight]);

  const asked = useRef(0); // places, so that only the last one asked for is gone to
  const goTo = useCallback(
    async (place: Place, missing: string) => {
      const ask = ++asked.current;
      setGoing(true);
      try {
        const id = await viewport.goTo(place);
        if (ask !== asked.current) return;
        if (id === null) {
          toast({ kind: "error", text: missing });
          return;
        }
        setSelection({ from: id, to: id });
        if (typeof place === "object" && "cursor" in place) setMeant(id);
      } finally {
        if (ask === asked.current) setGoing(false);
      }
    },
    [viewport, toast],
  );
  useEffect(() => {
    setMeant(null);
    if (at !== null) void goTo({ cursor: at }, "That line is not kept any more, or the filter leaves it out.");
    else if (time !== null) void goTo({ time: new Date(time) }, "Nothing is kept from that time.");
  }, [goTo, at, time]);

  const live = () => {
    asked.current++;
    setSelection(null);
    viewport.follow();
    if (at !== null || time !== null) p.onLive();
  };

  const select = (row: Row | null, extend: boolean) => {
    if (row === null) return;
    viewport.pause(false);
    setSelection((s) => ({ from: extend && s ? s.from : row.id, to: row.id }));
  };
  const move = (by: 1 | -1, extend: boolean) => {
    const row = viewport.step(selection?.to ?? null, by);
    if (row === null) return;
    select(row, extend);
    viewport.show(row.id);
  };
  const seek = (marks: number, by: 1 | -1, what: string) => {
    // With nothing selected, and nothing further on, the nearest one before is meant: so it is at the end.
    const from = selection?.to ?? null;
    const row = viewport.find(marks, from, by) ?? (from === null ? viewport.find(marks, null, by > 0 ? -1 : 1) : null);
    if (row === null) {
      toast({ kind: "done", text: `No ${what} ${by > 0 ? "below" : "above"} in what is held.` });
      return;
    }
    select(row, false);
    viewport.show(row.id, true);
  };
  const marked = find && highlight !== null;
  const selected = (): LogLine[] =>
    selection === null
      ? []
      : viewport.range(selection.from, selection.to).flatMap((row) => (row.kind === "line" ? [row.line] : []));
  const copy = async () => {
    const lines = selected();
    if (lines.length === 0) {
      toast({ kind: "done", text: "Select lines first: click one, then another with Shift." });
      return;
    }
    const done = await copyText(copied(lines, (iso) => stamp(iso, zone), p.names !== null));
    toast(
      done
        ? { kind: "done", text: `${plural(lines.length, "line")} copied` }
        : { kind: "error", text: "The browser did not allow to copy. Select the text by hand, or download the lines." },
    );
  };
  const link = async (line: LogLine | undefined) => {
    if (!line) return;
    const url = location.origin + permalink(line.device_id, line.cursor);
    const done = await copyText(url);
    toast(
      done ? { kind: "done", text: "Link to the line copied" } : { kind: "error", text: `Copy it by hand: ${url}` },
    );
  };
  const line = (id: number | null): LogLine | undefined => {
    const row = id === null ? null : viewport.range(id, id)[0];
    return row?.kind === "line" ? row.line : undefined;
  };

  const onClick = (e: MouseEvent<HTMLDivElement>) => {
    p.onActive();
    if (!(e.target instanceof Element)) return;
    const id = Number(e.target.closest<HTMLElement>("[data-id]")?.dataset.id ?? Number.NaN);
    const row = viewport.range(id, id)[0];
    if (row === undefined || row.id !== id) return;
    const does = e.target.closest<HTMLElement>("[data-does]")?.dataset.does;
    if (does === "link" && (e.ctrlKey || e.metaKey)) return; // opens it in another tab
    if (does) e.preventDefault();
    if (does === "fetch") log.fetchGap(id);
    else if (does === "fold") viewport.fold(id);
    else if (does === "whole") viewport.showWhole(id);
    else if (getSelection()?.isCollapsed !== false || e.shiftKey) {
      select(row, e.shiftKey);
      if (does === "link") void link(line(id));
    }
    if (does !== "fetch") scroller.current?.focus({ preventScroll: true });
  };

  /** Says more of what the pointer is on. Rows come too fast for each to have its titles ready. */
  const onHover = (e: MouseEvent<HTMLDivElement>) => {
    if (!(e.target instanceof HTMLElement) || e.target.title !== "") return;
    const on = e.target.closest<HTMLElement>("[data-id]");
    const of = line(Number(on?.dataset.id ?? Number.NaN));
    if (!of) return;
    if (e.target.closest(".time")) {
      const up = of.uptime_ms == null ? "" : `, up ${uptime(of.uptime_ms)}`;
      e.target.title = `${stamp(of.timestamp, zone)}${up}. Click copies a link to this line`;
    } else if (e.target.className === "tag" || e.target.className === "device") {
      e.target.title = e.target.textContent;
    }
  };

  const keys = [
    { key: "f", does: "Follow what is said now", run: live },
    { key: " ", does: "Pause, or go on", run: () => (following ? viewport.pause(true) : live()) },
    {
      key: "ArrowUp",
      does: "Select the line above; with Shift, one more",
      run: (e: globalThis.KeyboardEvent) => move(-1, e.shiftKey),
    },
    {
      key: "ArrowDown",
      does: "Select the line below; with Shift, one more",
      run: (e: globalThis.KeyboardEvent) => move(1, e.shiftKey),
    },
    {
      key: "Enter",
      does: "All about the selected line",
      run: () => setDetails(line(selection?.to ?? null) ?? null),
    },
    {
      key: "Escape",
      does: "Select nothing",
      run: () => {
        setSelection(null);
        setMeant(null);
      },
    },
    { key: "c", does: "Copy the selected lines", run: () => void copy() },
    { key: "l", does: "Copy a link to the selected line", run: () => void link(line(selection?.to ?? null)) },
    {
      key: "o",
      does: "Open or fold the crash report that is selected",
      run: () => {
        const row = selection === null ? undefined : viewport.range(selection.to, selection.to)[0];
        if (row?.kind !== "line") return;
        const block = row.block ?? row.id;
        if (viewport.foldOf(block)) {
          viewport.fold(block);
          setSelection({ from: block, to: block });
        }
      },
    },
    {
      key: "n",
      does: "Next match, or error",
      run: () => (marked ? seek(mark.match, 1, "match") : seek(mark.error | mark.panic, 1, "error")),
    },
    {
      key: "N",
      does: "Match, or error, before",
      run: () => (marked ? seek(mark.match, -1, "match") : seek(mark.error | mark.panic, -1, "error")),
    },
    { key: "p", does: "Next crash", run: () => seek(mark.panic, 1, "crash") },
    { key: "P", does: "Crash before", run: () => seek(mark.panic, -1, "crash") },
    { key: "g", does: "To the first line held", run: () => viewport.moveTo(0) },
    { key: "G", does: "To the end", run: live },
    { key: "j", does: "Go to a time", run: () => setJump(new Date()) },
  ];

  const lastSight = () => {
    const row = viewport.inSight()[0];
    return row?.kind === "line" ? new Date(row.line.timestamp) : new Date();
  };

  return (
    <section className="log" aria-label={p.label} data-active={p.active || undefined}>
      {p.active && <Keys keys={keys} />}
      {/* biome-ignore lint/a11y/useSemanticElements: there is none for it */}
      <div className="toolbar" role="group" aria-label="Of the log">
        {p.title !== null && <h2>{p.title}</h2>}
        {p.toolbar(
          <>
            <FollowButton viewport={viewport} following={following} pause={() => viewport.pause(true)} live={live} />
            <button type="button" className="button" title="Go to a time (j)" onClick={() => setJump(lastSight())}>
              Go to time
            </button>
            <button type="button" className="button" title="Copy the selected lines (c)" onClick={copy}>
              Copy
            </button>
            <button type="button" className="button" onClick={p.onDownload}>
              Download
            </button>
          </>,
        )}
      </div>
      <div className="log-body">
        <StreamBar stream={p.stream} log={log} />
        <List
          {...p}
          scroller={scroller}
          selection={selection}
          meant={meant}
          highlight={highlight}
          onClick={onClick}
          onHover={onHover}
          going={going}
        />
        <Strip viewport={viewport} />
      </div>
      <StatusLine viewport={viewport} stream={p.stream} />
      <Announcer viewport={viewport} selected={line(selection?.to ?? null)} />
      {details && <Details line={details} onClose={() => setDetails(null)} />}
      {jump && (
        <JumpDialog
          at={jump}
          onClose={() => setJump(null)}
          onGo={(time) => {
            setJump(null);
            void goTo({ time }, "Nothing is kept from that time on.");
          }}
        />
      )}
    </section>
  );
}

/** The keys, while this log is the one that they are for. */
function Keys({ keys }: { keys: Parameters<typeof useKeys>[0] }) {
  useKeys(keys);
  return null;
}

function FollowButton(p: { viewport: Viewport; following: boolean; pause: () => void; live: () => void }) {
  useTick(250);
  const { waiting } = p.viewport.view().log;
  if (p.following) {
    return (
      <button type="button" className="button follow on" title="Pause (Space)" onClick={p.pause}>
        <span className="dot" aria-hidden="true" />
        Following
      </button>
    );
  }
  return (
    <button type="button" className="button follow primary" title="Follow what is said now (f)" onClick={p.live}>
      {waiting > 0 ? `${plural(waiting, "new line")} ↓` : "Follow ↓"}
    </button>
  );
}

function List(
  p: Props & {
    viewport: Viewport;
    scroller: RefObject<HTMLDivElement | null>;
    selection: Selection | null;
    meant: number | null;
    highlight: ReturnType<typeof highlighter>;
    onClick: (e: MouseEvent<HTMLDivElement>) => void;
    onHover: (e: MouseEvent<HTMLDivElement>) => void;
    going: boolean;
  },
) {
  const { viewport, log, scroller, selection } = p;
  const { times, zone, wrap } = usePreferences();
  const view = useSyncExternalStore(viewport.watch, viewport.view);
  const now = useTick(1000, times === "relative");
  const rows = useRef<HTMLDivElement>(null);
  const probe = useRef<HTMLDivElement>(null);
  const touch = useRef(0);
  const at = useRef(-1); // where it was scrolled to

  // Sizes before the first paint, so that nothing jumps.
  useLayoutEffect(() => {
    const resized = () => {
      const message = probe.current?.querySelector<HTMLElement>(".message");
      const character = probe.current?.querySelector<HTMLElement>(".hundred");
      if (!scroller.current || !message || !character) return;
      viewport.resize(
        scroller.current.clientHeight,
        Math.floor(message.clientWidth / (character.getBoundingClientRect().width / 100)),
      );
    };
    resized();
    const observer = new ResizeObserver(resized);
    if (scroller.current) observer.observe(scroller.current);
    if (probe.current) observer.observe(probe.current);
    return () => observer.disconnect();
  }, [viewport, scroller]);

  useLayoutEffect(() => {
    const el = scroller.current;
    // Asking where it is costs a layout; only where it went by itself since is not known without.
    if (el && (at.current !== view.scrollTop || !view.following)) {
      if (Math.abs(el.scrollTop - view.scrollTop) > 0.5) el.scrollTop = view.scrollTop;
      at.current = view.scrollTop;
    }
    if (!rows.current) return;
    const measured: [number, number][] = [];
    for (const [i, row] of view.rows.entries()) {
      if (!viewport.flows(row)) continue;
      const drawn = rows.current.children[i];
      if (drawn instanceof HTMLElement) measured.push([row.id, drawn.offsetHeight]);
    }
    if (measured.length > 0) viewport.measured(measured);
  }, [view, viewport, scroller]);

  // React listens to wheels and touches passively at the root, but late: following would win against them for a frame.
  useEffect(() => {
    const el = scroller.current;
    if (!el) return;
    const wheel = (e: WheelEvent) => {
      if (e.deltaY < 0 && el.scrollHeight > el.clientHeight) viewport.pause(false);
    };
    const begin = (e: TouchEvent) => {
      touch.current = e.touches[0]?.clientY ?? 0;
    };
    const drag = (e: TouchEvent) => {
      if ((e.touches[0]?.clientY ?? 0) > touch.current + 6) viewport.pause(false);
    };
    el.addEventListener("wheel", wheel, { passive: true });
    el.addEventListener("touchstart", begin, { passive: true });
    el.addEventListener("touchmove", drag, { passive: true });
    return () => {
      el.removeEventListener("wheel", wheel);
      el.removeEventListener("touchstart", begin);
      el.removeEventListener("touchmove", drag);
    };
  }, [viewport, scroller]);

  const low = selection ? Math.min(selection.from, selection.to) : Number.NaN;
  const high = selection ? Math.max(selection.from, selection.to) : Number.NaN;
  const several = p.names !== null;
  const nothing = view.log.rows.length === 0;
  const [slots] = useState(() => new Slots());
  const slotOf = slots.assign(view.rows.map((row) => row.id));
  return (
    <div
      className={`rows-scroller times-${times}${several ? " several" : ""}`}
      ref={scroller}
      role="log"
      aria-live="off"
      aria-label={`Lines of ${p.label}`}
      aria-busy={p.going || view.log.older === "loading"}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key
      tabIndex={0}
      onScroll={(e) => viewport.scrolled(e.currentTarget.scrollTop)}
      onMouseOver={p.onHover}
      onMouseDown={(e) => e.shiftKey && e.preventDefault()}
      onClick={p.onClick}
      onFocus={p.onActive}
      onKeyDown={(e: KeyboardEvent) => e.key === "Home" && viewport.pause(false)}
    >
      <div className="probe row flows" ref={probe} aria-hidden="true">
        <span className="time" />
        {several && <span className="device" />}
        <span className="level" />
        <span className="tag" />
        <span className="message" />
        <span className="hundred">{"0".repeat(100)}</span>
      </div>
      {nothing ? (
        <Nothing {...p} />
      ) : (
        <div className="sizer" style={{ height: view.height }}>
          <div className="edge top">
            <EdgeRow edge={view.log.older} where="older" error={view.log.error} retry={() => log.loadOlder()} />
          </div>
          <div className="rows" ref={rows} style={{ transform: `translateY(${view.top}px)` }}>
            {view.rows.map((row) => {
              const selected = row.id >= low && row.id <= high;
              const device =
                p.names === null ? null : (p.names.get(row.kind === "gap" ? row.device : row.line.device_id) ?? null);
              if (row.kind === "gap")
                return <GapLine key={slotOf.get(row.id)} row={row} selected={selected} device={device} />;
              const fold = viewport.foldOf(row.id);
              return (
                <LogRow
                  key={slotOf.get(row.id)}
                  row={row}
                  selected={selected}
                  meant={row.id === p.meant}
                  device={p.names === null ? null : (device ?? row.line.device_entity_id ?? row.line.device_key)}
                  times={times}
                  zone={zone}
                  now={times === "relative" ? now : 0}
                  flows={wrap || viewport.isWhole(row.id)}
                  whole={viewport.isWhole(row.id)}
                  highlight={p.highlight}
                  folded={fold?.lines ?? null}
                  open={fold?.open ?? false}
                />
              );
            })}
          </div>
          {view.log.newer !== "end" && (
            <div className="edge bottom">
              <EdgeRow edge={view.log.newer} where="newer" error={view.log.error} retry={() => log.loadNewer()} />
            </div>
          )}
        </div>
      )}
    </div>
  );
}

/** What is said instead of rows. */
function Nothing(p: Props & { viewport: Viewport }) {
  const { held, older, error, stream } = p.viewport.view().log;
  if (older === "error") {
    return <EdgeRow edge="error" where="older" error={error} retry={() => p.log.loadOlder()} />;
  }
  const filtered = p.filter.level !== "" || p.filter.tag !== "" || (p.filter.text !== "" && !p.find);
  const searching = older !== "end";
  if (filtered && (held > 0 || !searching || stream !== "joining")) {
    return (
      <div className="empty" role="status">
        <h2>{searching ? "Nothing yet" : "Nothing matches"}</h2>
        <p>
          {searching
            ? `Nothing among ${plural(held, "line")} held; searching older…`
            : "No line that is kept goes through the filter. New ones that do will be shown as they come."}
        </p>
        {searching && <progress className="progress" aria-label="Searching older lines" />}
      </div>
    );
  }
  if (searching || stream === "joining") {
    return (
      <div className="first-rows" role="status">
        <span className="visually-hidden">Loading the log</span>
        {Array.from({ length: 12 }, (_, i) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: they are all the same
          <span className="skeleton" key={i} />
        ))}
      </div>
    );
  }
  return p.empty;
}

const announceEvery = 10_000;

/** Tells screen readers which line is selected, and now and then how much was said; every line would drown them. */
function Announcer({ viewport, selected }: { viewport: Viewport; selected: LogLine | undefined }) {
  const [text, setText] = useState("");
  const seen = useRef<number | null>(null);
  useEffect(() => {
    const timer = setInterval(() => {
      const { rows } = viewport.view().log;
      const last = rows[rows.length - 1]?.id ?? null;
      if (last === seen.current || last === null) return;
      if (seen.current !== null) setText(`New lines, ${count(rows.length)} are shown.`);
      seen.current = last;
    }, announceEvery);
    return () => clearInterval(timer);
  }, [viewport]);
  return (
    <p className="visually-hidden" role="status">
      {selected ? `${selected.level ?? ""} ${selected.tag ?? ""} ${selected.message.slice(0, 300)}` : text}
    </p>
  );
}
