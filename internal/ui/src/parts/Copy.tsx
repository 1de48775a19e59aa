import { useState } from "react";

/** A command, or another short text, with a button that copies it. */
export function Copy({ text }: { text: string }) {
  const [copied, setCopied] = useState<boolean | null>(null);
  const copy = async () => {
    setCopied(await copyText(text));
    setTimeout(setCopied, 2000, null);
  };
  return (
    <div className="copy">
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key */}
      <code tabIndex={0}>{text}</code>
      <button type="button" className="button" onClick={copy}>
        {copied === null ? "Copy" : copied ? "Copied" : "Select it by hand"}
      </button>
    </div>
  );
}

/** A small button that copies a text that stands beside it; `what` says which. */
export function CopyButton({ text, what }: { text: string; what: string }) {
  const [copied, setCopied] = useState<boolean | null>(null);
  return (
    <button
      type="button"
      className="button quiet icon copy-button"
      aria-label={copied ? "Copied" : `Copy the ${what}`}
      title={copied === false ? "The browser does not allow it: select it by hand" : `Copy the ${what}`}
      onClick={async () => {
        setCopied(await copyText(text));
        setTimeout(setCopied, 2000, null);
      }}
    >
      <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
        {copied ? (
          <path d="M3 8.5 6.5 12 13 4.5" />
        ) : copied === false ? (
          <path d="M4 4l8 8M12 4l-8 8" />
        ) : (
          <path d="M5.5 5.5h7v8h-7zM10 5V2.5H3V11h2" />
        )}
      </svg>
    </button>
  );
}

/** Puts the text into the clipboard and reports whether that was allowed; without TLS a browser may refuse it. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    try {
      return document.execCommand("copy");
    } finally {
      area.remove();
    }
  }
}
