import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useMay } from "../identity/index";
import { explain } from "../parts/explain";
import { useToast } from "../parts/toast";
import { abortDevice, retryDevice, rotateDevice, rotationChanged } from "./api";
import { possible, type Standing } from "./words";

type Act = "rotate" | "abort" | "retry";

const acts: Record<
  Act,
  { name: string; busy: string; title: string; run: (id: number) => Promise<boolean>; done: string; not: string }
> = {
  retry: {
    name: "Retry",
    busy: "Retrying …",
    title: "Do at once what failed",
    run: retryDevice,
    done: "is tried again.",
    not: "had nothing left to be tried again.",
  },
  rotate: {
    name: "Rotate",
    busy: "Queueing …",
    title: "Give it a new secret, before the other devices that wait",
    run: rotateDevice,
    done: "is queued, before the others.",
    not: "was queued already, or is in an attempt.",
  },
  abort: {
    name: "Abort",
    busy: "Aborting …",
    title: "End the attempt; its old secret stays good",
    run: abortDevice,
    done: "keeps the secret that it has: its attempt is over.",
    not: "had no attempt that could be ended.",
  },
};

/** What an editor can do about the rotation of a device now; nothing for others. `quiet`: one of many beside each other. */
export function DeviceActions({
  id,
  title,
  standing,
  quiet = false,
}: {
  id: number;
  title: string;
  standing: Standing;
  quiet?: boolean;
}) {
  const editor = useMay("editor");
  const queries = useQueryClient();
  const toast = useToast();
  const [busy, setBusy] = useState<Act | null>(null);
  if (!editor) return null;
  const can = possible(standing);
  const act = async (what: Act) => {
    if (busy !== null) return;
    setBusy(what);
    const a = acts[what];
    try {
      toast({ kind: "done", text: `${title} ${(await a.run(id)) ? a.done : a.not}` });
    } catch (e) {
      toast({ kind: "error", text: `${title}: ${a.name.toLowerCase()} failed. ${explain(e, "rotation")}` });
    }
    setBusy(null);
    rotationChanged(queries, id);
  };
  return (
    <span className="rot-actions">
      {(["retry", "rotate", "abort"] as const)
        .filter((what) => can[what] || busy === what)
        .map((what) => (
          <button
            key={what}
            type="button"
            className={quiet && what !== "retry" ? "button quiet" : "button"}
            title={acts[what].title}
            aria-label={`${acts[what].name} ${title}`}
            disabled={busy !== null}
            onClick={() => void act(what)}
          >
            {busy === what ? acts[what].busy : acts[what].name}
          </button>
        ))}
    </span>
  );
}
