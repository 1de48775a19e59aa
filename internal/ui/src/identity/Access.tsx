import { useQuery } from "@tanstack/react-query";
import { useId } from "react";
import { modelsQuery } from "../api/devices";
import type { Limit, Role } from "../api/types";
import { readNames, roleWords } from "./roles";

/** Boxes to tick for roles. */
export function RoleBoxes({
  offered,
  chosen,
  onChange,
  hint,
}: {
  offered: readonly Role[];
  chosen: readonly string[];
  onChange: (roles: string[]) => void;
  hint?: string;
}) {
  return (
    <fieldset className="boxes">
      <legend>Roles</legend>
      {[...offered].reverse().map((r) => (
        <label key={r}>
          <input
            type="checkbox"
            checked={chosen.includes(r)}
            onChange={(e) => onChange(e.target.checked ? [...chosen, r].sort() : chosen.filter((c) => c !== r))}
          />
          <span>
            {r} <span className="hint">{roleWords[r]}</span>
          </span>
        </label>
      ))}
      {hint && <span className="hint">{hint}</span>}
    </fieldset>
  );
}

/** What a limit is while it is being written: the tags as they are typed. */
export interface LimitDraft {
  on: boolean;
  models: string[];
  tags: string;
}

export function draftOf(limit: Limit | null): LimitDraft {
  return { on: limit !== null, models: limit?.models ?? [], tags: limit?.tags.join(", ") ?? "" };
}

/** The limit that is meant; undefined when it is on and says nothing, which is not to be sent. */
export function limitOf(d: LimitDraft): Limit | null | undefined {
  if (!d.on) return null;
  const limit = { models: [...d.models].sort(), tags: readNames(d.tags) };
  return limit.models.length === 0 && limit.tags.length === 0 ? undefined : limit;
}

/** The whole fleet, or devices of some models and with some tags. */
export function LimitFields({ draft, onChange }: { draft: LimitDraft; onChange: (d: LimitDraft) => void }) {
  const id = useId();
  const { data } = useQuery({ ...modelsQuery, enabled: draft.on });
  const codes = [...new Set([...(data?.map((m) => m.code) ?? []), ...draft.models])].sort();
  return (
    <fieldset className="boxes">
      <legend>Devices</legend>
      <label>
        <input type="radio" name={id} checked={!draft.on} onChange={() => onChange({ ...draft, on: false })} />
        <span>the whole fleet</span>
      </label>
      <label>
        <input type="radio" name={id} checked={draft.on} onChange={() => onChange({ ...draft, on: true })} />
        <span>only some</span>
      </label>
      {draft.on && (
        <div className="limit">
          {codes.length > 0 && (
            // biome-ignore lint/a11y/useSemanticElements: a fieldset within would bring a frame
            <div className="limit-models" role="group" aria-label="Of these models">
              {codes.map((c) => (
                <label key={c}>
                  <input
                    type="checkbox"
                    checked={draft.models.includes(c)}
                    onChange={(e) =>
                      onChange({
                        ...draft,
                        models: e.target.checked ? [...draft.models, c] : draft.models.filter((m) => m !== c),
                      })
                    }
                  />
                  <code>{c}</code>
                </label>
              ))}
            </div>
          )}
          <div className="field">
            <label htmlFor={`${id}-tags`}>or with one of these tags</label>
            <input
              id={`${id}-tags`}
              className="input"
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
              placeholder="lab, north"
              value={draft.tags}
              onChange={(e) => onChange({ ...draft, tags: e.target.value })}
            />
          </div>
          {limitOf(draft) === undefined && <span className="hint">Choose a model or write a tag.</span>}
        </div>
      )}
    </fieldset>
  );
}
