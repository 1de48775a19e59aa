import { type PointerEvent, useEffect, useRef } from "react";
import { mark, type Viewport } from "./viewport";

const every = 250; // milliseconds between two drawings of the marks: they are a map, not the log

/**
 * The scroll bar: where the window is in all that is held, and where errors, crashes, starts, matches and gaps are. A click goes
 * there. It repeats what keys do, so it is hidden from screen readers.
 */
export function Strip({ viewport }: { viewport: Viewport }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const thumb = useRef<HTMLDivElement>(null);
  const grip = useRef<number | null>(null);

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    const draw = () => {
      timer = null;
      if (canvas.current) drawMarks(canvas.current, viewport);
    };
    const changed = () => {
      const { top, size } = viewport.share();
      if (thumb.current) {
        const room = thumb.current.parentElement?.clientHeight ?? 0;
        const height = Math.max(24, size * room);
        const y = size >= 1 ? 0 : (top / (1 - size)) * (room - height);
        thumb.current.style.height = `${height}px`;
        thumb.current.style.transform = `translateY(${y}px)`;
        thumb.current.hidden = size >= 1;
      }
      timer ??= setTimeout(draw, every);
    };
    const stop = viewport.watch(changed);
    const sized = new ResizeObserver(changed);
    if (canvas.current) sized.observe(canvas.current);
    const theme = new MutationObserver(changed);
    theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", changed);
    changed();
    return () => {
      stop();
      sized.disconnect();
      theme.disconnect();
      dark.removeEventListener("change", changed);
      if (timer !== null) clearTimeout(timer);
    };
  }, [viewport]);

  const down = (e: PointerEvent<HTMLDivElement>) => {
    e.preventDefault();
    e.currentTarget.setPointerCapture(e.pointerId);
    const box = thumb.current?.getBoundingClientRect();
    grip.current = null;
    if (box && e.clientY >= box.top && e.clientY <= box.bottom) grip.current = e.clientY - box.top;
    else move(e);
  };
  const move = (e: PointerEvent<HTMLDivElement>) => {
    if (!e.currentTarget.hasPointerCapture(e.pointerId)) return;
    const bar = e.currentTarget.getBoundingClientRect();
    if (grip.current === null) {
      viewport.showShare((e.clientY - bar.top) / bar.height);
      return;
    }
    const { size } = viewport.share();
    const room = bar.height - Math.max(24, size * bar.height);
    viewport.showShare(((e.clientY - bar.top - grip.current) / Math.max(1, room)) * (1 - size) + size / 2);
  };

  return (
    <div className="strip" aria-hidden="true" onPointerDown={down} onPointerMove={move}>
      <canvas ref={canvas} />
      <div className="thumb" ref={thumb} />
    </div>
  );
}

// From the least important to the most: what is drawn later stays on top.
const drawn: [bits: number, colour: string, from: number, to: number, height: number][] = [
  [mark.gap, "--line-strong", 0, 1, 2],
  [mark.boot, "--focus", 0, 0.4, 2],
  [mark.match, "--match", 0.35, 1, 2],
  [mark.error, "--error", 0.35, 0.8, 1],
  [mark.panic, "--error", 0, 1, 3],
];

function drawMarks(canvas: HTMLCanvasElement, viewport: Viewport): void {
  const ratio = devicePixelRatio;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  if (context === null || height === 0) return;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  // What is in each line of pixels first, so that a hundred thousand marks are at most a thousand rectangles.
  const lines = new Uint8Array(height);
  viewport.eachMark((marks, from) => {
    const y = Math.min(height - 1, Math.floor(from * height));
    lines[y] = (lines[y] ?? 0) | marks;
  });
  const colours = getComputedStyle(canvas);
  context.clearRect(0, 0, width, height);
  for (const [bits, colour, from, to, thick] of drawn) {
    context.fillStyle = colours.getPropertyValue(colour);
    for (let y = 0; y < height; y++) {
      if (((lines[y] ?? 0) & bits) === 0) continue;
      context.fillRect(from * width, y, (to - from) * width, Math.max(1, thick * ratio));
    }
  }
}
