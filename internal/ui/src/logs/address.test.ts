import { expect, test } from "vitest";
import { permalink, readAddress, writeAddress } from "./address";

test("an address is read as it was written", () => {
  const text =
    "?devices=3,1&layout=side&level=warn&tag=wifi&q=a%20%26%20*b%3F&regex=1&find=1&at=pqje4r77-741.0&time=2026-07-04T08:00:00Z";
  const a = readAddress(text);
  expect(a.devices).toEqual([3, 1]);
  expect(a.filter).toEqual({ level: "warn", tag: "wifi", text: "a & *b?", regex: true });
  expect(writeAddress(a)).toBe(text);
});

test("what goes without saying is not in it", () => {
  expect(writeAddress(readAddress(""))).toBe("");
  expect(writeAddress(readAddress("?model=3"))).toBe("?model=3");
});

test("what is not as it should be is left out", () => {
  const a = readAddress("?devices=1,x,-2,1,0&level=loud&layout=spiral&at=<script>&time=soon&model=1e3");
  expect(a.devices).toEqual([1]);
  expect(writeAddress(a)).toBe("?devices=1");
});

test("a permalink is a line of a device", () => {
  const link = permalink(7, "pqje4r77-741.0");
  expect(link).toBe("/devices/7?at=pqje4r77-741.0");
  expect(readAddress(link.slice(link.indexOf("?"))).at).toBe("pqje4r77-741.0");
});
