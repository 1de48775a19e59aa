// What a device is provisioned with, as the page offers it.

import { queryOptions } from "@tanstack/react-query";
import { request } from "../api/client";

/** The forms in which the package comes. */
export type PackageFormat = "json" | "nvs" | "qr";

/** A link that gives out a package once; without its address, which is told only when it is made. */
export interface ProvisioningLink {
  id: number;
  format: PackageFormat;
  partition_size: number | null;
  created_by: string;
  created_at: string;
  expires_at: string;
  used_at: string | null;
  used_from: string | null;
}

/** The links of a device, the newest first. */
export const linksQuery = (device: number) =>
  queryOptions({
    queryKey: ["provisioning-links", device],
    queryFn: async ({ signal }) =>
      (await request<{ links: ProvisioningLink[] }>(`/api/devices/${device}/provisioning-links`, { signal })).links,
  });

/** Sizes of partitions that are usual, in bytes. */
export const sizes = [12 << 10, 16 << 10, 24 << 10] as const;

const step = 4096;
const most = 16 << 20;

/** The size that somebody typed, in bytes: a number, hexadecimal with 0x, or with K behind it. NaN if it is none. */
export function readSize(text: string): number {
  const t = text.trim();
  if (/^0x[0-9a-f]+$/i.test(t) || /^\d+$/.test(t)) return Number(t);
  const k = /^(\d+)\s*k(ib|b)?$/i.exec(t);
  return k ? Number(k[1]) * 1024 : Number.NaN;
}

/** Why a partition cannot have that size, as a sentence; null if it can. */
export function sizeFault(bytes: number): string | null {
  if (Number.isNaN(bytes)) return "A number of bytes, such as 20480, 0x5000 or 20K.";
  if (bytes % step !== 0) return "A partition is made of pages: a multiple of 4096 bytes.";
  if (bytes < 3 * step) return "At least 12288 bytes (12K): the device needs three pages.";
  if (bytes > most) return "At most 16 MiB.";
  return null;
}

/** Whether a link can still be used. */
export function isOpen(link: ProvisioningLink, now: number): boolean {
  return link.used_at === null && Date.parse(link.expires_at) > now;
}

/** What a link leads to, in words. */
export function formatWords(link: Pick<ProvisioningLink, "format" | "partition_size">): string {
  switch (link.format) {
    case "nvs":
      return `NVS partition, ${(link.partition_size ?? 0) / 1024}K`;
    case "qr":
      return "QR code";
    case "json":
      return "JSON";
    default:
      return link.format; // a newer server may have others
  }
}
