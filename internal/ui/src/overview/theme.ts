import { useSyncExternalStore } from "react";
import { usePreferences } from "../parts/preferences";

const dark = "(prefers-color-scheme: dark)";

/** Which colours hold now; what is drawn on a canvas has to be drawn again when they change. */
export function useTheme(): "light" | "dark" {
  const { theme } = usePreferences();
  const system = useSyncExternalStore(
    (changed) => {
      const query = matchMedia(dark);
      query.addEventListener("change", changed);
      return () => query.removeEventListener("change", changed);
    },
    () => (matchMedia(dark).matches ? "dark" : "light"),
  );
  return theme === "system" ? system : theme;
}
