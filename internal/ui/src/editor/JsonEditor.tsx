import { json } from "@codemirror/lang-json";
import { HighlightStyle, syntaxHighlighting, syntaxTree } from "@codemirror/language";
import { type Diagnostic, lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState, RangeSetBuilder } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView, ViewPlugin, type ViewUpdate } from "@codemirror/view";
import { basicSetup } from "codemirror";
import { type ReactNode, useEffect, useId, useMemo, useRef } from "react";
import { type Fault, formatJson, locate, type Span, syntaxFault } from "./json";
import "./editor.css";

interface Props {
  /** What the text is, for its heading and for a screen reader. */
  label: string;
  value: string;
  onChange: (text: string) => void;
  /** What the server finds wrong with the text as it is now. What keeps it from being JSON the editor finds itself. */
  faults?: readonly Fault[];
  /** What is said in place of faults while there are none. */
  status?: ReactNode;
  /** It can be read and copied, not changed. */
  readOnly?: boolean;
  /** Beside the heading. */
  children?: ReactNode;
}

/** A text of JSON to edit, with what is wrong with it marked at its place and listed below. */
export function JsonEditor({ label, value, onChange, faults = [], status, readOnly = false, children }: Props) {
  const id = useId();
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>(null);
  const latest = useRef({ value, onChange, label, invalid: false });
  const problems = useMemo(() => problemsOf(value, faults), [value, faults]);
  latest.current = { value, onChange, label, invalid: problems.length > 0 };

  useEffect(() => {
    if (!host.current) return;
    // In a shadow tree CodeMirror keeps its styles in adoptedStyleSheets; in the document it would write a <style>
    // element, which the Content-Security-Policy forbids.
    const root = host.current.shadowRoot ?? host.current.attachShadow({ mode: "open" });
    const editor = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: latest.current.value,
        extensions: [
          basicSetup,
          json(),
          colours,
          theme,
          lintGutter(),
          EditorView.lineWrapping,
          EditorState.readOnly.of(readOnly),
          EditorState.tabSize.of(2),
          EditorView.contentAttributes.of(() => ({
            "aria-label": latest.current.label,
            "aria-invalid": String(latest.current.invalid),
            "aria-readonly": String(readOnly),
          })),
          EditorView.updateListener.of((u) => {
            if (u.docChanged) latest.current.onChange(u.state.doc.toString());
          }),
        ],
      }),
    });
    view.current = editor;
    return () => {
      view.current = null;
      editor.destroy();
    };
  }, [readOnly]);

  // A text from elsewhere, such as a formatted one or the one before the changes.
  useEffect(() => {
    const editor = view.current;
    if (!editor || editor.state.doc.toString() === value) return;
    editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: value } });
  }, [value]);

  useEffect(() => {
    const editor = view.current;
    if (!editor) return;
    const length = editor.state.doc.length;
    const diagnostics = problems.map(
      (p): Diagnostic => ({
        from: Math.min(p.from, length),
        to: Math.min(p.to, length),
        severity: "error",
        message: p.message,
      }),
    );
    editor.dispatch(setDiagnostics(editor.state, diagnostics));
  }, [problems]);

  const go = (p: Span) => {
    const editor = view.current;
    if (!editor) return;
    editor.dispatch({ selection: { anchor: p.from, head: p.to }, scrollIntoView: true });
    editor.focus();
  };
  const formatted = formatJson(value);
  return (
    <section className="json-editor" aria-labelledby={id}>
      <div className="json-head">
        <h2 id={id}>{label}</h2>
        {!readOnly && (
          <button
            type="button"
            className="button quiet"
            disabled={formatted === null || formatted === value}
            onClick={() => formatted !== null && onChange(formatted)}
          >
            Format
          </button>
        )}
        {children}
      </div>
      <div className="json-text" ref={host} />
      {/* A list as high as most are, so that what is below does not move as one types. */}
      <div className="json-faults" role="status">
        {problems.length === 0 ? (
          status
        ) : (
          <ul>
            {problems.slice(0, 20).map((p) => (
              <li key={`${p.from} ${p.path} ${p.message}`}>
                <button type="button" onClick={() => go(p)}>
                  <span className="where">Line {p.line}</span>
                  {p.path !== "" && <code>{p.path}</code>} <span>{p.message}</span>
                </button>
              </li>
            ))}
            {problems.length > 20 && <li>and {problems.length - 20} more</li>}
          </ul>
        )}
      </div>
    </section>
  );
}

type Placed = Fault & Span & { line: number };

function problemsOf(text: string, faults: readonly Fault[]): Placed[] {
  const syntax = syntaxFault(text);
  const line = (at: number) => text.slice(0, at).split("\n").length;
  if (syntax) return [{ ...syntax, path: "", line: line(syntax.from) }];
  return faults
    .map((f) => {
      const span = locate(text, f.path);
      return { ...f, ...span, line: line(span.from) };
    })
    .sort((a, b) => a.from - b.from);
}

const marks: Record<string, Decoration> = {
  PropertyName: Decoration.mark({ class: "json-name" }),
  String: Decoration.mark({ class: "json-string" }),
  Number: Decoration.mark({ class: "json-number" }),
  True: Decoration.mark({ class: "json-word" }),
  False: Decoration.mark({ class: "json-word" }),
  Null: Decoration.mark({ class: "json-word" }),
};

function marksIn(view: EditorView): DecorationSet {
  const set = new RangeSetBuilder<Decoration>();
  for (const { from, to } of view.visibleRanges) {
    syntaxTree(view.state).iterate({
      from,
      to,
      enter: (node) => {
        const mark = marks[node.name];
        if (mark) set.add(node.from, node.to, mark);
      },
    });
  }
  return set.finish();
}

const colours = [
  syntaxHighlighting(HighlightStyle.define([])), // in the place of the default's colours, which know only a light page
  ViewPlugin.fromClass(
    class {
      decorations: DecorationSet;
      constructor(view: EditorView) {
        this.decorations = marksIn(view);
      }
      update(u: ViewUpdate) {
        if (u.docChanged || u.viewportChanged || syntaxTree(u.startState) !== syntaxTree(u.state))
          this.decorations = marksIn(u.view);
      }
    },
    { decorations: (plugin) => plugin.decorations },
  ),
];

// Custom properties are seen inside a shadow tree, and with them the page's colours.
const theme = EditorView.theme({
  "&": { color: "var(--text)", backgroundColor: "var(--surface)", fontSize: "13px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": {
    fontFamily: "var(--mono)",
    lineHeight: "1.55",
    minHeight: "220px",
    maxHeight: "min(560px, 60dvh)",
    overflow: "auto",
  },
  ".cm-content": { padding: "8px 0", caretColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--text-3)", border: "none" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--sunken) 55%, transparent)" },
  ".cm-cursor, .cm-dropCursor": { borderLeftColor: "var(--text)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "color-mix(in srgb, var(--focus) 30%, transparent)",
  },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": {
    backgroundColor: "var(--accent-soft)",
    outline: "1px solid var(--line-strong)",
  },
  "&.cm-focused .cm-nonmatchingBracket": { backgroundColor: "var(--error-soft)" },
  ".cm-selectionMatch": { backgroundColor: "var(--accent-soft)" },
  ".cm-searchMatch": { backgroundColor: "var(--mark)", color: "var(--mark-text)" },
  ".cm-foldPlaceholder": {
    backgroundColor: "var(--sunken)",
    color: "var(--text-2)",
    border: "1px solid var(--line-strong)",
  },
  ".cm-tooltip, .cm-panels": {
    backgroundColor: "var(--raised)",
    color: "var(--text)",
    border: "1px solid var(--line-strong)",
  },
  ".cm-textfield": { backgroundColor: "var(--surface)", border: "1px solid var(--line-strong)", color: "var(--text)" },
  ".cm-button": {
    backgroundImage: "none",
    backgroundColor: "var(--raised)",
    border: "1px solid var(--line-strong)",
    color: "var(--text)",
  },
  ".cm-diagnostic": { fontFamily: "var(--sans)", borderLeftColor: "var(--error)" },
  ".cm-lintRange-error": {
    backgroundImage: "none",
    textDecoration: "underline wavy var(--error)",
    textUnderlineOffset: "3px",
  },
  ".json-name": { color: "var(--text)", fontWeight: "600" },
  ".json-string": { color: "var(--accent)" },
  ".json-number, .json-word": { color: "var(--warn)" },
});
