// What the pages ask of rotation. All answers are kept under keys that begin with "rotation", so that one nudge of the server
// makes all of them fresh.

import { infiniteQueryOptions, type QueryClient, queryOptions } from "@tanstack/react-query";
import { request, send } from "../api/client";
import { deviceQuery, devicesQuery } from "../api/devices";
import type {
  Campaign,
  CampaignDeviceState,
  CampaignDevices,
  CampaignRequest,
  Dashboard,
  Plan,
  RotationStatus,
  Story,
} from "./types";

/** Under which all of it is kept. */
export const rotationKey = ["rotation"] as const;

/** The server's clock less ours, milliseconds; 0 where they agree as well as can be known. */
let skew = 0;

/** The server's time, by which its deadlines are meant, for a time of ours. */
export function serverTime(now: number): number {
  return now + skew;
}

async function ask<T>(path: string, signal: AbortSignal, query = {}): Promise<T> {
  const answer = await send(path, { signal, query });
  const date = Date.parse(answer.headers.get("Date") ?? "");
  // The header has whole seconds, and the answer was on its way: a small difference says nothing.
  if (!Number.isNaN(date)) {
    const found = date + 500 - Date.now();
    skew = Math.abs(found) > 3_000 ? found : 0;
  }
  return (await answer.json()) as T;
}

/** The fleet's rotation in figures. */
export const statusQuery = queryOptions({
  queryKey: [...rotationKey, "status"],
  queryFn: ({ signal }) => ask<RotationStatus>("/api/rotation/status", signal),
});

/** Every device by how its rotation does. */
export const dashboardQuery = queryOptions({
  queryKey: [...rotationKey, "dashboard"],
  queryFn: ({ signal }) => ask<Dashboard>("/api/rotation/dashboard", signal),
});

/** One device's story: where it stands, and its last attempts. */
export const storyQuery = (device: number, limit = 20) =>
  queryOptions({
    queryKey: [...rotationKey, "device", device, limit],
    queryFn: ({ signal }) => ask<Story>(`/api/devices/${device}/rotation`, signal, { limit }),
  });

/** The campaigns, the newest first. */
export const campaignsQuery = queryOptions({
  queryKey: [...rotationKey, "campaigns"],
  queryFn: async ({ signal }) => (await ask<{ campaigns: Campaign[] }>("/api/rotation/campaigns", signal)).campaigns,
});

/** One campaign. */
export const campaignQuery = (id: number) =>
  queryOptions({
    queryKey: [...rotationKey, "campaign", id],
    queryFn: ({ signal }) => ask<Campaign>(`/api/rotation/campaigns/${id}`, signal),
  });

/** The devices of a campaign, a page at a time; `state` "" is all. */
export const campaignDevicesQuery = (id: number, state: CampaignDeviceState | "") =>
  infiniteQueryOptions({
    queryKey: [...rotationKey, "campaign", id, "devices", state],
    queryFn: ({ signal, pageParam }) =>
      ask<CampaignDevices>(`/api/rotation/campaigns/${id}/devices`, signal, { state, limit: 200, after: pageParam }),
    initialPageParam: null as CampaignDevices["next"],
    getNextPageParam: (last) => last.next,
  });

/** Queues every device that is active and in order; the answer is how many. */
export async function rotateAll(): Promise<number> {
  return (await request<{ queued_count: number }>("/api/rotation/trigger", { method: "POST" })).queued_count;
}

/** Queues one device, before the others. False: it was queued or in an attempt already. */
export async function rotateDevice(id: number): Promise<boolean> {
  const { status } = await request<{ status: string }>(`/api/devices/${id}/rotate`, { method: "POST" });
  return status === "queued";
}

/** Ends the attempt of a device, or takes it from the queue. False: there was nothing to end. */
export async function abortDevice(id: number): Promise<boolean> {
  const { status } = await request<{ status: string }>(`/api/devices/${id}/rotation/abort`, { method: "POST" });
  return status === "aborted";
}

/** Does at once what failed too often. False: there is nothing of the kind. */
export async function retryDevice(id: number): Promise<boolean> {
  const { status } = await request<{ status: string }>(`/api/devices/${id}/rotation/retry`, { method: "POST" });
  return status === "retried";
}

/** What a campaign would do. */
export async function planCampaign(c: CampaignRequest): Promise<Plan> {
  const body = { ...c, dry_run: true };
  return (await request<{ plan: Plan }>("/api/rotation/campaigns", { method: "POST", body })).plan;
}

/** Begins a campaign. */
export function startCampaign(c: CampaignRequest): Promise<Campaign> {
  return request<Campaign>("/api/rotation/campaigns", { method: "POST", body: c });
}

/** Pauses, resumes or aborts a campaign; the answer is how it stands then. */
export function steerCampaign(id: number, how: "pause" | "resume" | "abort"): Promise<Campaign> {
  return request<Campaign>(`/api/rotation/campaigns/${id}/${how}`, { method: "POST" });
}

/** Has everything about rotation asked again after something was done, also what devices say of it. */
export function rotationChanged(queries: QueryClient, device?: number): void {
  void queries.invalidateQueries({ queryKey: rotationKey });
  void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
  if (device !== undefined) void queries.invalidateQueries({ queryKey: deviceQuery(device).queryKey });
}
