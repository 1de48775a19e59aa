import type { Part } from "./campaign";

/** How far something has come. What it shows stands beside it as text, so that nobody has to see it. */
export function Bar({ parts }: { parts: readonly Part[] }) {
  return (
    <span className="rot-bar" aria-hidden="true">
      {parts.map((p) => (
        <span key={p.state} data-state={p.state} style={{ width: `${p.percent}%` }} />
      ))}
    </span>
  );
}
