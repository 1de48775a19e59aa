// What keeps somebody from losing what they typed, by whichever way they leave.

import { useCallback, useEffect, useRef, useSyncExternalStore } from "react";
import type { AroundNavHandler } from "wouter";
import { Dialog } from "./Dialog";

const guards = new Set<object>();
const listeners = new Set<() => void>();
/** The leaving that waits for an answer. */
let leaving: (() => void) | null = null;
/** The address of the page that is guarded. */
let guarded = "";

function ask(leave: (() => void) | null): void {
  leaving = leave;
  for (const l of listeners) l();
}

/** Between a link and where it goes. */
export const aroundNavigation: AroundNavHandler = (navigate, to, options) => {
  if (guards.size === 0 || to.split("?")[0] === location.pathname) navigate(to, options);
  else ask(() => navigate(to, options));
};

addEventListener("beforeunload", (e) => {
  if (guards.size > 0) e.preventDefault();
});

// The back button has gone back before anybody can say no. So this page is put behind the one that it went to, and
// going back again is the answer.
addEventListener(
  "popstate",
  (e) => {
    if (guards.size === 0 || location.href === guarded) return;
    e.stopImmediatePropagation();
    history.pushState(null, "", guarded);
    ask(() => history.back());
  },
  { capture: true },
);

/**
 * Guards the page while there is something unsaved. The answer lets go of it at once, for leaving right after it was
 * saved.
 */
export function useUnsaved(unsaved: boolean): () => void {
  const guard = useRef({});
  useEffect(() => {
    if (!unsaved) return;
    const g = guard.current;
    guarded = location.href;
    guards.add(g);
    return () => {
      guards.delete(g);
    };
  }, [unsaved]);
  return useCallback(() => {
    guards.delete(guard.current);
  }, []);
}

/** Leaves the page by another way than a link, after a question if something is unsaved. */
export function beforeLeaving(leave: () => void): void {
  if (guards.size === 0) leave();
  else ask(leave);
}

/** Whether something is unsaved. */
export function hasUnsaved(): boolean {
  return guards.size > 0;
}

/** Lets go of everything unsaved: what it belonged to is gone. */
export function forgetUnsaved(): void {
  guards.clear();
}

/** The question itself; once in the page. */
export function UnsavedQuestion() {
  const leave = useSyncExternalStore(
    (changed) => {
      listeners.add(changed);
      return () => listeners.delete(changed);
    },
    () => leaving,
  );
  if (leave === null) return null;
  return (
    <Dialog title="Leave without saving?" onClose={() => ask(null)}>
      <p className="form">What you changed here is not saved, and would be lost.</p>
      <div className="actions">
        <button type="button" className="button primary" onClick={() => ask(null)}>
          Stay
        </button>
        <button
          type="button"
          className="button danger"
          onClick={() => {
            forgetUnsaved();
            ask(null);
            leave();
          }}
        >
          Leave
        </button>
      </div>
    </Dialog>
  );
}
