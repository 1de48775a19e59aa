import { useEffect, useRef, useState } from "react";
import { Link, useLocation } from "wouter";
import { Dialog } from "../parts/Dialog";
import { explain } from "../parts/explain";
import { useNarrow } from "../parts/media";
import { useToast } from "../parts/toast";
import { useSession } from "./index";
import { LoginHelp } from "./LoginHelp";
import { askToLogOut } from "./logout";
import { decides, limitWords, mainRole } from "./roles";

/** Who is logged in, and what there is for them: their account, what an admin decides, and the way out. */
export function UserMenu() {
  const { self, mode } = useSession();
  const [open, setOpen] = useState(false);
  const [help, setHelp] = useState(false);
  const [path] = useLocation();
  const narrow = useNarrow();
  const toast = useToast();
  const root = useRef<HTMLDivElement>(null);
  const opener = useRef<HTMLButtonElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: it closes when it has led somewhere
  useEffect(() => setOpen(false), [path]);
  useEffect(() => {
    if (!open) return;
    const beside = (e: Event) => {
      if (e.target instanceof Node && !root.current?.contains(e.target)) setOpen(false);
    };
    const onEscape = (e: KeyboardEvent) => {
      if (e.key !== "Escape") return;
      setOpen(false);
      opener.current?.focus();
    };
    addEventListener("pointerdown", beside);
    addEventListener("focusin", beside);
    addEventListener("keydown", onEscape);
    return () => {
      removeEventListener("pointerdown", beside);
      removeEventListener("focusin", beside);
      removeEventListener("keydown", onEscape);
    };
  }, [open]);
  if (self === null) return null;
  const off = mode?.mode === "off";
  const name = self.name || self.email || self.subject;
  const admin = decides(self);
  const role = mainRole(self.roles);
  return (
    <div className="user-menu" ref={root}>
      <button
        ref={opener}
        type="button"
        className="button quiet icon"
        aria-label={off ? "Login is off" : `Account: ${name}`}
        title={off ? "Login is off" : name}
        aria-expanded={open}
        aria-controls="user-menu"
        onClick={() => setOpen(!open)}
      >
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <circle cx="8" cy="5.2" r="2.7" />
          <path d="M2.8 13.6c.4-3 2.5-4.6 5.2-4.6s4.8 1.6 5.2 4.6" />
        </svg>
      </button>
      <nav id="user-menu" className="menu" aria-label="Account" hidden={!open}>
        <div className="menu-who">
          {off ? (
            <>
              <strong>Login is off</strong>
              <span className="hint">Whoever reaches this address may do everything.</span>
            </>
          ) : (
            <>
              <strong>{name}</strong>
              {self.email && self.email !== name && <span className="hint">{self.email}</span>}
              <span className="hint">
                {role ?? "no role"}, {limitWords(self.limit)}
              </span>
            </>
          )}
        </div>
        {off && (
          <button type="button" onClick={() => setHelp(true)}>
            Switch login on …
          </button>
        )}
        {!off && (
          <Link href="/account" aria-current={path === "/account" ? "page" : undefined}>
            Your account
          </Link>
        )}
        {narrow && !self.limit && (
          <Link href="/overview" aria-current={path === "/overview" ? "page" : undefined}>
            Overview
          </Link>
        )}
        {admin && narrow && (
          <>
            <Link href="/people" aria-current={path === "/people" ? "page" : undefined}>
              People
            </Link>
            <Link href="/audit" aria-current={path === "/audit" ? "page" : undefined}>
              Audit
            </Link>
          </>
        )}
        {!off && (
          <button
            type="button"
            onClick={() =>
              askToLogOut((e) => toast({ kind: "error", text: `Not logged out. ${explain(e, "session")}` }))
            }
          >
            Log out
          </button>
        )}
      </nav>
      {help && (
        <Dialog title="How to switch login on" onClose={() => setHelp(false)}>
          <LoginHelp />
          <div className="actions">
            <button type="button" className="button primary" onClick={() => setHelp(false)}>
              Close
            </button>
          </div>
        </Dialog>
      )}
    </div>
  );
}
