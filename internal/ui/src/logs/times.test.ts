import { expect, test } from "vitest";
import { ago, clock, dateOf, fromLocal, stamp, toLocal, uptime } from "./times";

test("clocks are in the zone, to the millisecond", () => {
  expect(clock("2026-07-04T23:59:59.123456Z", "utc")).toBe("23:59:59.123");
  expect(clock("2026-07-04T23:59:59.1Z", "Europe/Berlin")).toBe("01:59:59.100");
  expect(clock("2026-07-04T23:59:59Z", "Asia/Kolkata")).toBe("05:29:59.000");
  expect(dateOf("2026-07-04T23:59:59.1Z", "Europe/Berlin")).toBe("2026-07-05");
  expect(stamp("2026-07-04T00:00:00.5Z", "utc")).toBe("2026-07-04 00:00:00.500");
});

test("how long ago", () => {
  const now = Date.parse("2026-07-04T12:00:00Z");
  expect(ago("2026-07-04T11:59:59.5Z", now)).toBe("0 s");
  expect(ago("2026-07-04T12:00:05Z", now)).toBe("0 s"); // the server's clock is ahead
  expect(ago("2026-07-04T11:54:57Z", now)).toBe("5 min 03");
  expect(ago("2026-07-04T08:53:00Z", now)).toBe("3 h 07");
  expect(ago("2026-07-02T08:00:00Z", now)).toBe("2 d 04 h");
});

test("the device's clock", () => {
  expect(uptime(1234)).toBe("1.234");
  expect(uptime(81_234)).toBe("1:21.234");
  expect(uptime(7_281_234)).toBe("2:01:21.234");
  expect(uptime(93_681_234)).toBe("1d 02:01:21");
});

test.each([
  ["2026-07-04T14:02:11", "Europe/Berlin", "2026-07-04T12:02:11.000Z"],
  ["2026-01-04T14:02", "Europe/Berlin", "2026-01-04T13:02:00.000Z"],
  ["2026-01-04T14:02", "utc", "2026-01-04T14:02:00.000Z"],
  ["2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30:00.000Z"], // twice: the first
  ["2026-03-29T01:59", "Europe/Berlin", "2026-03-29T00:59:00.000Z"],
  ["2026-03-29T03:01", "Europe/Berlin", "2026-03-29T01:01:00.000Z"],
  ["2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:30:00.000Z"], // never: as if the clock had not been set yet
])("%s in %s", (text, zone, want) => {
  expect(fromLocal(text, zone)?.toISOString()).toBe(want);
});

test("a moment and its field are the same", () => {
  const at = new Date("2026-07-04T12:02:11Z");
  for (const zone of ["utc", "local", "America/St_Johns", "Pacific/Chatham"]) {
    expect(fromLocal(toLocal(at, zone), zone)).toEqual(at);
  }
  expect(fromLocal("", "utc")).toBeNull();
});
