import type { ReactNode } from "react";
import { Link, useLocation } from "wouter";
import { InsecureBar } from "../identity/InsecureBar";
import { useSession } from "../identity/index";
import { decides } from "../identity/roles";
import { UserMenu } from "../identity/UserMenu";
import "../identity/identity.css";
import { HelpButton } from "./keys";
import { SettingsButton } from "./Preferences";
import { StreamState } from "./StreamState";

interface Place {
  href: string;
  name: string;
  at: (path: string) => boolean;
  /** Only for them; on a phone it is in the menu, as is what is of the whole fleet. */
  admin?: true;
  /** It is of the whole fleet, and not for those who see only a part. */
  whole?: true;
}

const places: Place[] = [
  { href: "/", name: "Fleet", at: (path) => path === "/" || path.startsWith("/devices") },
  { href: "/logs", name: "Logs", at: (path) => path.startsWith("/logs") },
  { href: "/models", name: "Models", at: (path) => path.startsWith("/models") },
  { href: "/rotation", name: "Rotation", at: (path) => path.startsWith("/rotation") },
  { href: "/overview", name: "Overview", at: (path) => path.startsWith("/overview"), whole: true },
  { href: "/people", name: "People", at: (path) => path.startsWith("/people"), admin: true },
  { href: "/audit", name: "Audit", at: (path) => path.startsWith("/audit"), admin: true },
];

/** The bar at the top, and the page below it. */
export function Shell({ children }: { children: ReactNode }) {
  const [path] = useLocation();
  const { self } = useSession();
  const admin = decides(self);
  return (
    <div className="shell">
      <header className="bar">
        <Link href="/" className="brand" aria-label="Signalbox">
          <img src="/icon.svg" alt="" />
          <span>Signalbox</span>
        </Link>
        <nav aria-label="Places">
          {places.map((p) =>
            (p.admin && !admin) || (p.whole && self?.limit) ? null : (
              <Link
                key={p.href}
                href={p.href}
                className={p.admin || p.whole ? "in-menu" : undefined}
                aria-current={p.at(path) ? "page" : undefined}
              >
                {p.name}
              </Link>
            ),
          )}
        </nav>
        <div className="end">
          <StreamState />
          <HelpButton />
          <SettingsButton />
          <UserMenu />
        </div>
      </header>
      <InsecureBar />
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
