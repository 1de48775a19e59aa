import { useSyncExternalStore } from "react";

/** What somebody prefers, kept in the browser. */
export interface Preferences {
  theme: "system" | "light" | "dark";
  /** "local", "utc", or a name of the IANA time zone database. */
  zone: string;
  /** What stands before a line. */
  times: "absolute" | "relative" | "uptime";
  wrap: boolean;
}

const key = "signalbox.preferences";
const standard: Preferences = { theme: "system", zone: "local", times: "absolute", wrap: false };

let current = read();
const listeners = new Set<() => void>();

function read(): Preferences {
  try {
    return { ...standard, ...(JSON.parse(localStorage.getItem(key) ?? "{}") as Partial<Preferences>) };
  } catch {
    return standard; // no storage, or something else wrote there
  }
}

function apply(): void {
  if (current.theme === "system") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = current.theme;
}

/** Changes some of them, in every open tab. */
export function setPreferences(change: Partial<Preferences>): void {
  current = { ...current, ...change };
  try {
    localStorage.setItem(key, JSON.stringify(current));
  } catch {
    // They hold for this tab only.
  }
  apply();
  for (const l of listeners) l();
}

/** The preferences; the component is drawn again when they change. */
export function usePreferences(): Preferences {
  return useSyncExternalStore(
    (changed) => {
      listeners.add(changed);
      return () => listeners.delete(changed);
    },
    () => current,
  );
}

apply();
addEventListener("storage", (e) => {
  if (e.key !== key) return;
  current = read();
  apply();
  for (const l of listeners) l();
});
