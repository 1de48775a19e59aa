import { useSyncExternalStore } from "react";

const narrow = matchMedia("(max-width: 720px)");

/** Whether the window is as narrow as a phone's, where a page needs other elements and not only another style. */
export function useNarrow(): boolean {
  return useSyncExternalStore(
    (changed) => {
      narrow.addEventListener("change", changed);
      return () => narrow.removeEventListener("change", changed);
    },
    () => narrow.matches,
  );
}
