// A browser's name for itself, in short.

const browsers: [string, RegExp][] = [
  ["Edge", /\bEdgA?\/(\d+)/],
  ["Opera", /\bOPR\/(\d+)/],
  ["Samsung Internet", /\bSamsungBrowser\/(\d+)/],
  ["Firefox", /\b(?:Firefox|FxiOS)\/(\d+)/],
  ["Chrome", /\b(?:HeadlessChrome|Chrome|CriOS)\/(\d+)/],
  ["Safari", /\bVersion\/(\d+).*\bSafari\//],
];

const systems: [string, RegExp][] = [
  ["Android", /\bAndroid\b/],
  ["iPad", /\biPad\b/],
  ["iPhone", /\biPhone\b/],
  ["Windows", /\bWindows\b/],
  ["macOS", /\bMac OS X\b/],
  ["ChromeOS", /\bCrOS\b/],
  ["Linux", /\bLinux\b/],
];

/** "Firefox 140 on Linux"; the first word of what is no browser, "curl 8.5.0". */
export function agentWords(agent: string | null): string {
  const text = (agent ?? "").trim();
  if (text === "") return "an unknown program";
  const system = systems.find(([, is]) => is.test(text))?.[0];
  for (const [name, is] of browsers) {
    const found = is.exec(text);
    if (found) return `${name} ${found[1]}${system ? ` on ${system}` : ""}`;
  }
  const word = (text.split(/[\s(]/)[0] || text).replace("/", " ");
  return word.length > 40 ? `${word.slice(0, 39)}…` : word;
}
