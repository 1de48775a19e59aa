import type { ReactNode } from "react";
import { Link, useLocation } from "wouter";
import { HelpButton } from "./keys";
import { SettingsButton } from "./Preferences";
import { StreamState } from "./StreamState";

const places = [
  { href: "/", name: "Fleet", at: (path: string) => path === "/" || path.startsWith("/devices") },
  { href: "/logs", name: "Logs", at: (path: string) => path.startsWith("/logs") },
  { href: "/models", name: "Models", at: (path: string) => path.startsWith("/models") },
  { href: "/overview", name: "Overview", at: (path: string) => path.startsWith("/overview") },
];

/** The bar at the top, and the page below it. */
export function Shell({ children }: { children: ReactNode }) {
  const [path] = useLocation();
  return (
    <div className="shell">
      <header className="bar">
        <Link href="/" className="brand" aria-label="Signalbox">
          <img src="/icon.svg" alt="" />
          <span>Signalbox</span>
        </Link>
        <nav aria-label="Places">
          {places.map((p) => (
            <Link key={p.href} href={p.href} aria-current={p.at(path) ? "page" : undefined}>
              {p.name}
            </Link>
          ))}
        </nav>
        <div className="end">
          <StreamState />
          <HelpButton />
          <SettingsButton />
        </div>
      </header>
      {children}
    </div>
  );
}

/** A page that scrolls as a whole. */
export function Page({ title, children }: { title: string; children: ReactNode }) {
  return (
    <main className="view">
      <title>{`${title} · Signalbox`}</title>
      <div className="page">{children}</div>
    </main>
  );
}

/** A page that fills the window and scrolls inside. */
export function FullPage({ title, children }: { title: string; children: ReactNode }) {
  return (
    <main className="view fill">
      <title>{`${title} · Signalbox`}</title>
      {children}
    </main>
  );
}
