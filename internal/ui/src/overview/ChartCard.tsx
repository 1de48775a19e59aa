import { useEffect, useId, useRef } from "react";
import uPlot from "uplot";
import { usePreferences } from "../parts/preferences";
import type { Chart } from "./charts";
import { figure, increments, labels, words } from "./format";
import { type History, newest, now } from "./series";
import { useTheme } from "./theme";
import "uplot/dist/uPlot.min.css";

const height = 132;

/** One chart with its title and what is so now. Its cursor moves with those of all others. */
export function ChartCard({ chart, history, range }: { chart: Chart; history: History; range: number }) {
  const title = useId();
  const lines = chart.lines.map((l) => newest(history, l.series, range));
  const most = chart.limit === undefined ? null : now(newest(history, chart.limit, range).points);
  return (
    <section className="card chart" aria-labelledby={title}>
      <h2 id={title}>{chart.title}</h2>
      <div className="figures">
        {chart.lines.map((l, i) => {
          const f = figure(chart.kind, now(lines[i]?.points ?? []));
          return (
            <div className="figure" key={l.series}>
              <strong className={f.value === "–" ? "none" : undefined}>{f.value}</strong>
              {f.unit !== "" && <span className="unit">{f.unit}</span>}
              {most !== null && <span className="unit">of {words(chart.kind, most)}</span>}
              {l.name !== "" && (
                <span className="name">
                  <span className="swatch" style={{ background: `var(${l.colour})` }} />
                  {l.name}
                </span>
              )}
            </div>
          );
        })}
      </div>
      <Plot chart={chart} times={lines[0]?.times ?? []} points={lines.map((l) => l.points)} range={range} />
    </section>
  );
}

interface Drawn {
  chart: Chart;
  times: number[];
  points: (number | null)[][];
  range: number;
}

/** The drawing. Screen readers get the table of the page instead. */
function Plot(drawn: Drawn) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(drawn);
  latest.current = drawn;
  const { zone } = usePreferences();
  const theme = useTheme();
  const { chart, times, range } = drawn;

  useEffect(() => {
    const host = box.current;
    if (host === null) return;
    const tip = tooltip();
    const made = new uPlot(options(chart, zone, host.clientWidth, latest, tip), aligned(latest.current), host);
    made.over.append(tip.root);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: host.clientWidth, height }));
    observer.observe(host);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [chart, zone]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: drawn again with new points or another range, read from `latest`
  useEffect(() => plot.current?.setData(aligned(latest.current)), [times, range]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the colours are read while drawing
  useEffect(() => plot.current?.redraw(false), [theme]);

  return <div className="plot" ref={box} aria-hidden="true" />;
}

function aligned(d: Drawn): uPlot.AlignedData {
  return [d.times, ...d.points];
}

function options(
  chart: Chart,
  zone: string,
  width: number,
  latest: { readonly current: Drawn },
  tip: Tooltip,
): uPlot.Options {
  const font = `11px ${colour("--sans")}`;
  const axis = (more: uPlot.Axis): uPlot.Axis => ({
    stroke: () => colour("--text-3"),
    font,
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
    ...more,
  });
  const name = zone === "local" ? undefined : zone === "utc" ? "UTC" : zone;
  const clock = new Intl.DateTimeFormat("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    ...(name === undefined ? {} : { timeZone: name }),
  });
  return {
    width,
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    tzDate: (unix) => (name === undefined ? new Date(unix * 1000) : uPlot.tzDate(new Date(unix * 1000), name)),
    cursor: {
      sync: { key: "overview", scales: ["x", null] },
      drag: { x: false, y: false },
      y: false,
      points: { size: 6 },
    },
    scales: {
      x: {
        range: () => {
          const end = latest.current.times.at(-1) ?? Date.now() / 1000;
          return [end - latest.current.range, end];
        },
      },
      y: { range: (_, __, max) => [0, Math.max((max ?? 0) * 1.12, chart.floor)] },
    },
    axes: [
      axis({
        size: 24,
        space: 64,
        values: (_, ticks) => ticks.map((t) => clock.format(t * 1000).slice(0, 5)),
        incrs: [60, 300, 600, 900, 1800, 3600, 7200],
      }),
      axis({
        size: 58,
        gap: 6,
        space: 28,
        incrs: increments(chart.kind),
        values: (_, ticks) => labels(chart.kind, ticks),
      }),
    ],
    series: [
      {},
      ...chart.lines.map(
        (l, i): uPlot.Series => ({
          stroke: () => colour(l.colour),
          width: 1.5,
          points: { size: 4, fill: () => colour(l.colour) },
          ...(i === 0 ? { fill: () => `${colour(l.colour)}1c` } : {}),
        }),
      ),
    ],
    hooks: {
      setCursor: [
        (u) => {
          const i = u.cursor.idx;
          const left = u.cursor.left ?? -1;
          const time = i === null || i === undefined ? undefined : u.data[0]?.[i];
          if (left < 0 || time === undefined || i === null || i === undefined) return tip.hide();
          const said = chart.lines.map((l, k) => {
            const text = words(chart.kind, u.data[k + 1]?.[i] ?? null);
            return l.name === "" ? text : `${l.name} ${text}`;
          });
          tip.show(left, u.over.clientWidth, clock.format(time * 1000), said);
        },
      ],
    },
  };
}

/** A colour as the theme has it now. */
function colour(token: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(token).trim();
}

interface Tooltip {
  root: HTMLElement;
  show(left: number, width: number, time: string, lines: string[]): void;
  hide(): void;
}

// It follows the mouse over a dozen charts at once: too often for React.
function tooltip(): Tooltip {
  const root = document.createElement("div");
  root.className = "tip";
  root.hidden = true;
  return {
    root,
    show(left, width, time, lines) {
      root.replaceChildren(
        ...[time, ...lines].map((text, i) => {
          const row = document.createElement(i === 0 ? "span" : "b");
          row.textContent = text;
          return row;
        }),
      );
      root.hidden = false;
      // Beside the cursor, on the side that has room.
      const wide = root.offsetWidth;
      const at = left + 10 + wide <= width ? left + 10 : left - 10 - wide;
      root.style.transform = `translateX(${Math.round(at)}px)`;
    },
    hide() {
      root.hidden = true;
    },
  };
}
