import { type ReactNode, useEffect, useId, useRef } from "react";

interface Props {
  title: string;
  onClose: () => void;
  /** Only its own buttons close it. */
  stays?: boolean;
  children: ReactNode;
}

/** A modal dialog. It is open while it is mounted; Escape and a click beside it close it, unless it stays. */
export function Dialog({ title, onClose, stays = false, children }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    // By itself it takes the first field, and React's autoFocus comes before it is shown.
    dialog?.querySelector<HTMLElement>("[data-autofocus]")?.focus();
    return () => dialog?.close();
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: Escape closes it, by the browser
    <dialog
      ref={ref}
      aria-labelledby={id}
      // A browser lets a second Escape through whatever the first was answered.
      {...(stays ? { closedby: "none" } : {})}
      onCancel={(e) => {
        e.preventDefault();
        if (!stays) onClose();
      }}
      onClose={() => {
        if (stays && ref.current?.isConnected && !ref.current.open) ref.current.showModal();
      }}
      onClick={(e) => {
        if (e.target === ref.current && !stays) onClose();
      }}
    >
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}
