import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import { type Level, levels } from "../api/types";
import { useKeys } from "../parts/keys";
import { setPreferences, usePreferences } from "../parts/preferences";
import type { LineFilter } from "./types";

const typingTime = 200; // milliseconds after the last key before what was typed holds

interface Props {
  filter: LineFilter;
  /** The text is only marked. */
  find: boolean;
  /** Why the text is no regular expression. */
  fault: string | null;
  onChange: (filter: LineFilter, find: boolean) => void;
  /** The tags seen so far. */
  tags: () => readonly string[];
  /** More tools, behind its own. */
  children?: ReactNode;
}

/** What is searched for, and how lines are shown: the part of the toolbar that logs side by side share. */
export function FilterBar({ filter, find, fault, onChange, tags, children }: Props) {
  const p = usePreferences();
  const id = useId();
  const search = useRef<HTMLInputElement>(null);
  const [text, setText] = useDraft(filter.text, (t) => onChange({ ...filter, text: t }, find));
  const [tag, setTag] = useDraft(filter.tag, (t) => onChange({ ...filter, tag: t.trim() }, find));
  const [known, setKnown] = useState<readonly string[]>([]);

  useKeys([
    {
      key: "/",
      does: "Search",
      run: () => {
        search.current?.focus();
        search.current?.select();
      },
    },
    { key: "w", does: "Wrap long lines, or not", run: () => setPreferences({ wrap: !p.wrap }) },
    { key: "t", does: "Time of receipt, how long ago, or the device's clock", run: () => nextTimes(p.times) },
  ]);

  return (
    <>
      {/* biome-ignore lint/a11y/useSemanticElements: <search> is not known to every screen reader yet */}
      <div className="search" role="search">
        <input
          ref={search}
          type="search"
          className="input"
          aria-label="Search the log"
          placeholder={filter.regex ? "Regular expression" : "Search: word, begin*, *part*"}
          title="Whole words; * is any text, ? any character"
          aria-invalid={fault !== null}
          aria-describedby={fault === null ? undefined : `${id}fault`}
          spellCheck={false}
          autoCapitalize="none"
          autoComplete="off"
          maxLength={1024}
          value={text}
          onChange={(e) => setText(e.target.value)}
          onKeyDown={(e) => {
            if (e.key !== "Escape" && e.key !== "Enter") return;
            if (e.key === "Escape" && text !== "") setText("");
            else e.currentTarget.blur();
            e.preventDefault();
          }}
        />
        <button
          type="button"
          className="button toggle"
          aria-pressed={filter.regex}
          aria-label="Regular expression"
          title="Regular expression (RE2)"
          onClick={() => onChange({ ...filter, regex: !filter.regex }, find)}
        >
          .*
        </button>
        <button
          type="button"
          className="button toggle"
          aria-pressed={!find}
          title="Show only the lines that match; otherwise they are marked among the others"
          onClick={() => onChange(filter, !find)}
        >
          Only matches
        </button>
        {fault !== null && (
          <p className="search-fault" id={`${id}fault`} role="alert">
            {fault}
          </p>
        )}
      </div>
      <div className="tools">
        <select
          className="input level-select"
          aria-label="Least severe level"
          value={filter.level}
          onChange={(e) => onChange({ ...filter, level: e.target.value as Level | "" }, find)}
        >
          <option value="">All levels</option>
          {levels.slice(0, -1).map((l) => (
            <option key={l} value={l}>
              {l === "error" ? "Errors only" : `${l.charAt(0).toUpperCase()}${l.slice(1)} and worse`}
            </option>
          ))}
        </select>
        <input
          className="input tag-input"
          aria-label="Tag"
          placeholder="Tag"
          list={`${id}tags`}
          spellCheck={false}
          autoCapitalize="none"
          autoComplete="off"
          value={tag}
          onFocus={() => setKnown(tags())}
          onChange={(e) => setTag(e.target.value)}
        />
        <datalist id={`${id}tags`}>
          {known.map((t) => (
            <option key={t} value={t} />
          ))}
        </datalist>
        <button
          type="button"
          className="button toggle"
          aria-pressed={p.wrap}
          title="Wrap long lines (w)"
          onClick={() => setPreferences({ wrap: !p.wrap })}
        >
          Wrap
        </button>
        <button
          type="button"
          className="button times-button"
          title="What stands before a line: time of receipt, how long ago, or the device's clock (t)"
          onClick={() => nextTimes(p.times)}
        >
          {{ absolute: "Received", relative: "Ago", uptime: "Uptime" }[p.times]}
        </button>
        {children}
      </div>
    </>
  );
}

function nextTimes(times: "absolute" | "relative" | "uptime"): void {
  setPreferences({ times: times === "absolute" ? "relative" : times === "relative" ? "uptime" : "absolute" });
}

/** A text that is told when no key was pressed for a while, and follows what it is set to from elsewhere. */
function useDraft(value: string, tell: (text: string) => void): [string, (text: string) => void] {
  const [draft, setDraft] = useState(value);
  const timer = useRef<ReturnType<typeof setTimeout> | null>(null);
  const latest = useRef(tell);
  latest.current = tell;
  useEffect(() => {
    if (timer.current === null) setDraft(value);
  }, [value]);
  useEffect(
    () => () => {
      if (timer.current !== null) clearTimeout(timer.current);
    },
    [],
  );
  return [
    draft,
    (text) => {
      setDraft(text);
      if (timer.current !== null) clearTimeout(timer.current);
      timer.current = setTimeout(() => {
        timer.current = null;
        latest.current(text);
      }, typingTime);
    },
  ];
}
