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
