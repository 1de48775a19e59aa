import type { ReactNode } from "react";
import "./identity.css";

/** A page for those who are not in: nothing of the fleet is on it. */
export function Door({ title, children }: { title: string; children: ReactNode }) {
  return (
    <main className="door">
      <title>{`${title} · Signalbox`}</title>
      <div className="door-card">
        <div className="door-brand">
          <img src="/icon.svg" alt="" />
          <span>Signalbox</span>
        </div>
        <h1>{title}</h1>
        {children}
      </div>
    </main>
  );
}
