import { expect, test } from "vitest";
import { formatWords, isOpen, type ProvisioningLink, readSize, sizeFault, sizes } from "./package";

test("a size is read as people write it", () => {
  const f = (text: string, want: number) => expect(readSize(text), text).toBe(want);
  f("20480", 20480);
  f(" 0x5000 ", 0x5000);
  f("20K", 20480);
  f("20 KiB", 20480);
  f("", Number.NaN);
  f("-4096", Number.NaN);
  f("1e5", Number.NaN);
  f("12M", Number.NaN);
});

test("a size that no partition can have is told", () => {
  for (const n of [...sizes, 0x5000, 16 << 20]) expect(sizeFault(n), String(n)).toBeNull();
  expect(sizeFault(Number.NaN)).toMatch(/number/);
  expect(sizeFault(8192)).toMatch(/At least/);
  expect(sizeFault(12289)).toMatch(/multiple/);
  expect(sizeFault((16 << 20) + 4096)).toMatch(/At most/);
});

test("a link is open until it is used or over", () => {
  const link: ProvisioningLink = {
    id: 1,
    format: "nvs",
    partition_size: 16384,
    created_by: "Ann",
    created_at: "2026-01-01T00:00:00Z",
    expires_at: "2026-01-01T01:00:00Z",
    used_at: null,
    used_from: null,
  };
  const at = Date.parse("2026-01-01T00:30:00Z");
  expect(isOpen(link, at)).toBe(true);
  expect(isOpen(link, Date.parse(link.expires_at))).toBe(false);
  expect(isOpen({ ...link, used_at: link.created_at }, at)).toBe(false);
  expect(formatWords(link)).toBe("NVS partition, 16K");
});
