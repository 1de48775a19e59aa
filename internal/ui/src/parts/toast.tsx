import { createContext, type ReactNode, useCallback, useContext, useMemo, useRef, useState } from "react";

interface Toast {
  id: number;
  kind: "done" | "error";
  text: string;
  /** What can be done about it. */
  action?: { name: string; run: () => void };
}

type Show = (toast: Omit<Toast, "id">) => void;

const Context = createContext<Show>(() => {});

/** Shows a short message over the page: what was done for six seconds, an error until it is closed. */
export function useToast(): Show {
  return useContext(Context);
}

/** Holds the messages of what is within. */
export function Toasts({ children }: { children: ReactNode }) {
  const [toasts, setToasts] = useState<Toast[]>([]);
  const next = useRef(1);
  const close = useCallback((id: number) => setToasts((all) => all.filter((t) => t.id !== id)), []);
  const show = useCallback<Show>(
    (toast) => {
      const id = next.current++;
      setToasts((all) => [...all.slice(-3), { ...toast, id }]);
      if (toast.kind === "done") setTimeout(close, 6000, id);
    },
    [close],
  );
  const list = useMemo(
    () =>
      toasts.map((t) => (
        <div
          key={t.id}
          className={t.kind === "error" ? "notice error" : "notice"}
          role={t.kind === "error" ? "alert" : "status"}
        >
          <span className="grow">{t.text}</span>
          {t.action && (
            <button type="button" className="button quiet" onClick={t.action.run}>
              {t.action.name}
            </button>
          )}
          <button type="button" className="button quiet icon" aria-label="Close" onClick={() => close(t.id)}>
            ×
          </button>
        </div>
      )),
    [toasts, close],
  );
  return (
    <Context.Provider value={show}>
      {children}
      <div className="toasts">{list}</div>
    </Context.Provider>
  );
}
