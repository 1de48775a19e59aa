// What the pages ask about devices and models, each question under one key, so that pages share the answers.

import { type QueryClient, queryOptions } from "@tanstack/react-query";
import { request } from "./client";
import type { Broker, Device, DeviceSummary, Model, ModelSummary, PresenceStory } from "./types";

/** Every device, by its key. */
export const devicesQuery = queryOptions({
  queryKey: ["devices"],
  queryFn: async ({ signal }) => (await request<{ devices: DeviceSummary[] }>("/api/devices", { signal })).devices,
});

/** One device with its configuration. */
export const deviceQuery = (id: number) =>
  queryOptions({
    queryKey: ["device", id],
    queryFn: ({ signal }) => request<Device>(`/api/devices/${id}`, { signal }),
  });

/** Whether one device is there; asked again while somebody looks. */
export const presenceQuery = (id: number) =>
  queryOptions({
    queryKey: ["presence", id],
    queryFn: ({ signal }) => request<PresenceStory>(`/api/devices/${id}/presence`, { signal }),
    refetchInterval: 15_000,
  });

/** Every model, by its code. */
export const modelsQuery = queryOptions({
  queryKey: ["models"],
  queryFn: async ({ signal }) =>
    (await request<{ device_models: ModelSummary[] }>("/api/device-models", { signal })).device_models,
});

/** One model with its schema. */
export const modelQuery = (id: number) =>
  queryOptions({
    queryKey: ["model", id],
    queryFn: ({ signal }) => request<Model>(`/api/device-models/${id}`, { signal }),
  });

/** How devices reach the built-in broker; null where it is off. It stays so as long as the program runs. */
export const brokerQuery = queryOptions({
  queryKey: ["broker"],
  queryFn: async ({ signal }) => (await request<{ broker: Broker | null }>("/api/broker", { signal })).broker,
});

/** Puts a device, as a write answered it, in the place of what was known; lists are asked for again. */
export function deviceWritten(queries: QueryClient, device: Device): void {
  queries.setQueryData(deviceQuery(device.id).queryKey, device);
  void queries.invalidateQueries({ queryKey: devicesQuery.queryKey });
  void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
}

/** The same for a model. Devices are asked for again too: they say their model's name. */
export function modelWritten(queries: QueryClient, model: Model): void {
  queries.setQueryData(modelQuery(model.id).queryKey, model);
  void queries.invalidateQueries({ queryKey: modelsQuery.queryKey });
  void queries.invalidateQueries({ queryKey: ["device"] });
}
