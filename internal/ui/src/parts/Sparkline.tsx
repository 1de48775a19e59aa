import { memo } from "react";
import "./sparkline.css";

/**
 * Numbers as the path of a line in a box of the given size. Nothing at all is flat at its foot; a single line in an
 * hour of silence can still be seen.
 */
export function linePath(values: readonly number[], width: number, height: number): string {
  if (values.length === 0) return "";
  const top = Math.max(1, ...values);
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  const points = values.map((v, i) => {
    const y = height - Math.max(v > 0 ? 1 : 0, (v / top) * height);
    return `${round(i * step)} ${round(y)}`;
  });
  return `M${points.join("L")}`;
}

/** Where the minutes with errors are, as short strokes along the bottom. */
export function marksPath(values: readonly number[], width: number, height: number): string {
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  return values.map((v, i) => (v > 0 ? `M${round(i * step)} ${height}v-4` : "")).join("");
}

function round(n: number): number {
  return Math.round(n * 10) / 10;
}

const width = 92;
const height = 22;

/** The lines of each of the last sixty minutes, and in which of them there were errors. */
export const Sparkline = memo(function Sparkline({
  lines,
  errors,
}: {
  lines: readonly number[];
  errors: readonly number[];
}) {
  const line = linePath(lines, width, height - 1);
  return (
    <svg className="sparkline" viewBox={`0 0 ${width} ${height}`} width={width} height={height} aria-hidden="true">
      {lines.length > 1 && <path className="area" d={`${line}V${height}H0Z`} />}
      <path className="line" d={line} />
      <path className="marks" d={marksPath(errors, width, height)} />
    </svg>
  );
});
