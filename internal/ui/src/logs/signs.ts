// What lines say of a device's life: that it started, that it crashed, and which lines belong to the report of a crash.

/** What has to be known of a device's line before to judge the next one. */
export interface SignState {
  /** The last uptime that the device told, milliseconds; null since it started. */
  up: number | null;
  /** How far the start has come whose lines were recognised last; see boots. */
  phase: number;
  /** Whether the line belongs to a crash report that may go on. */
  crash: boolean;
}

/** A line as it is judged. */
export interface Judged {
  sign: "boot" | "panic" | null;
  /** It goes on with the crash report of the line before. */
  within: boolean;
  state: SignState;
}

export const unknownState: SignState = { up: null, phase: -1, crash: false };

/**
 * The lines that every start of an ESP32 prints, in their order. A device need not send all of them; the first one that comes
 * is the start, and one that is not further than the last seen is another start.
 */
const boots: readonly RegExp[] = [
  /^(ESP-ROM:|ets [A-Z][a-z]{2} +\d+ \d{4})/,
  /^rst:0x[0-9a-f]+ \(/i,
  /\bboot: ESP-IDF v/,
  /\bcpu_start: (Pro cpu up|Multicore app|Unicore app)/,
];

/** What the panic handler, abort, the watchdogs and the brownout detector begin with. */
const panics =
  /Guru Meditation Error|abort\(\) was called|^assert failed|\bassertion ".*" failed|Brownout detector was triggered|Task watchdog got triggered|stack overflow in task|Stack smashing protect failure|CORRUPT HEAP|^Interrupt wdt timeout on CPU|^Unhandled debug exception/i;

/** What follows in a crash report. */
const reports: readonly RegExp[] = [
  /^\s*$/,
  /Backtrace: ?(0x|\|<)?/,
  /^\s*(PC|PS|A\d+|SAR|EXCCAUSE|EXCVADDR|LBEG|LEND|LCOUNT|EPC\d|M[A-Z]{3,8}|RA|SP|GP|TP|[TSA]\d+(\/FP)?|F\d+) *: 0x[0-9a-f]+/i,
  /register dump:$/i,
  /^Stack memory:|^[0-9a-f]{8}:( 0x[0-9a-f]{8})+/i,
  /^ELF file SHA256|^Rebooting\.\.\.|^CPU halted|^Setting breakpoint|^Debug exception reason|^Memory dump at/,
  /^ *#\d+ +0x[0-9a-f]+/i,
  /^Tasks currently running|^CPU \d: |^Print CPU \d/,
  /\btask_wdt:|\besp_core_dump_\w+:/,
  /^ - [\w ]+ \(CPU \d(\/\d)?\)/,
];

const last = /^Rebooting\.\.\.|^CPU halted/;

/** Clocks that count in two places may differ by a little without a start in between. */
const slack = 1000;

/** Judges a line by itself and the state after the device's line before it. */
export function judge(before: SignState, message: string, uptime: number | null | undefined): Judged {
  const text = strip(message);
  const up = uptime ?? before.up;
  for (let phase = 0; phase < boots.length; phase++) {
    if ((boots[phase] as RegExp).test(text)) {
      const again = before.phase < 0 || phase <= before.phase;
      const state = { up: uptime ?? null, phase, crash: false };
      return { sign: again ? "boot" : null, within: false, state };
    }
  }
  const report = before.crash && reports.some((r) => r.test(text));
  if (panics.test(text)) {
    // An assertion that failed aborts, and says both.
    if (before.crash) return { sign: null, within: true, state: { up, phase: before.phase, crash: true } };
    return { sign: "panic", within: false, state: { up, phase: before.phase, crash: true } };
  }
  if (report) return { sign: null, within: true, state: { up, phase: before.phase, crash: !last.test(text) } };
  const back = before.up !== null && uptime != null && uptime < before.up - slack;
  if (back) return { sign: "boot", within: false, state: { up, phase: boots.length, crash: false } };
  return { sign: null, within: false, state: { up, phase: before.phase, crash: false } };
}

/** The message without the colours that a terminal would show. */
function strip(message: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with ESC
  return message.includes("\u001b") ? message.replace(/\u001b\[[0-9;]*m/g, "") : message;
}
