import { expect, test } from "vitest";
import { judge, type SignState, unknownState } from "./signs";

/** The sign of each line; "+" for one that goes on with a crash report. */
function signs(lines: (string | [string, number])[]): (string | null)[] {
  let state: SignState = unknownState;
  return lines.map((l) => {
    const j = typeof l === "string" ? judge(state, l, null) : judge(state, l[0], l[1]);
    state = j.state;
    return j.within ? "+" : j.sign;
  });
}

test("a start is marked once, at its first line", () => {
  const start = [
    "ESP-ROM:esp32s3-20210327",
    "Build:Mar 27 2021",
    "rst:0x1 (POWERON),boot:0x8 (SPI_FAST_FLASH_BOOT)",
    "\u001b[0;32mI (27) boot: ESP-IDF v5.3.1 2nd stage bootloader\u001b[0m",
    "I (234) cpu_start: Multicore app",
    "I (300) app: hello",
  ];
  expect(signs([...start, ...start])).toEqual(Array(2).fill(["boot", null, null, null, null, null]).flat());
  expect(signs(start.slice(2))).toEqual(["boot", null, null, null]);
  expect(signs([...start.slice(3), ...start.slice(3)])).toEqual(["boot", null, null, "boot", null, null]);
});

test("a clock that goes back is a start, a small step is not", () => {
  const up = (ms: number): [string, number] => ["x", ms];
  expect(signs([up(90_000), up(90_500), up(90_200), up(400), up(800)])).toEqual([null, null, null, "boot", null]);
  // Lines that print no clock do not hide it, and the lines of the start are not marked again for it.
  expect(signs([up(90_000), "no clock", up(10)])).toEqual([null, null, "boot"]);
  expect(signs([up(90_000), ["ESP-ROM:esp32", 0], ["I (27) boot: ESP-IDF v5.3", 27], up(80)])).toEqual([
    null,
    "boot",
    null,
    null,
  ]);
});

test("a crash report goes on to its end", () => {
  expect(
    signs([
      "I (1) app: fine",
      "Guru Meditation Error: Core  0 panic'ed (LoadProhibited). Exception was unhandled.",
      "",
      "Core  0 register dump:",
      "PC      : 0x400d1234  PS      : 0x00060130  A0      : 0x800d1234  A1      : 0x3ffb4000",
      "EXCVADDR: 0x00000000  LBEG    : 0x400d0000  LEND    : 0x400d0000  LCOUNT  : 0x00000000",
      "Backtrace: 0x400d1234:0x3ffb4000 0x400d5678:0x3ffb4020",
      "ELF file SHA256: 0123456789abcdef",
      "Rebooting...",
      "",
      "ESP-ROM:esp32s3-20210327",
    ]),
  ).toEqual([null, "panic", "+", "+", "+", "+", "+", "+", "+", null, "boot"]);
});

test.each([
  "abort() was called at PC 0x400d1234 on core 0",
  "assert failed: xQueueReceive queue.c:1535 (( pxQueue ))",
  "Brownout detector was triggered",
  "E (10230) task_wdt: Task watchdog got triggered. The following tasks/users did not reset the watchdog in time:",
  "***ERROR*** A stack overflow in task main has been detected.",
])("%s is a crash", (line) => {
  expect(signs([line, "Backtrace: 0x400d1234:0x3ffb4000", "I (1) app: on"])).toEqual(["panic", "+", null]);
});

test("what says both of a failed assertion is one crash; talk of one is none", () => {
  expect(signs(["assert failed: f a.c:1 (x)", "abort() was called at PC 0x1", "Rebooting..."])).toEqual([
    "panic",
    "+",
    "+",
  ]);
  expect(signs(["I (1) app: assert failed to arrive", "I (2) x: Backtrace: none"])).toEqual([null, null]);
});
