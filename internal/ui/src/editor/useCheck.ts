import { useEffect, useState } from "react";
import { request } from "../api/client";
import { type Fault, syntaxFault } from "./json";

/** How a configuration stands to its model, as far as is known. */
export type Check =
  | { state: "none" }
  | { state: "checking" }
  | { state: "valid" }
  | { state: "invalid"; faults: readonly Fault[] }
  | { state: "failed"; error: unknown };

const none: Check = { state: "none" };

/** Asks the server, when the typing rests, what it would say to the configuration if it were saved. */
export function useCheck(model: number | null, config: string): Check {
  const [answer, setAnswer] = useState<{ model: number; config: string; check: Check } | null>(null);
  useEffect(() => {
    if (model === null || syntaxFault(config)) return;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const { valid, errors } = await request<{ valid: boolean; errors: Fault[] }>(
          `/api/device-models/${model}/validate`,
          { method: "POST", body: { config }, signal: abort.signal },
        );
        setAnswer({ model, config, check: valid ? { state: "valid" } : { state: "invalid", faults: errors } });
      } catch (error) {
        if (!abort.signal.aborted) setAnswer({ model, config, check: { state: "failed", error } });
      }
    }, 350);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [model, config]);
  if (model === null || syntaxFault(config)) return none;
  return answer?.model === model && answer.config === config ? answer.check : { state: "checking" };
}
