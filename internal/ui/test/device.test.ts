import { expect, test } from "vitest";
import type { Device, DeviceSummary, ModelSummary } from "../src/api/types";
import { area, type View } from "./harness";

const schema = {
  type: "object",
  required: ["deviceEntityId"],
  properties: {
    deviceName: { type: "string" },
    deviceEntityId: { type: "string", minLength: 1 },
    interval: { type: "integer", minimum: 1 },
  },
};

const editor = (v: View, name = "Configuration") => v.page.getByRole("textbox", { name });
const button = (v: View, name: string) => v.page.getByRole("button", { name, exact: true });

/** Replaces all of the text, as somebody does who pastes. */
async function write(v: View, text: string, name?: string): Promise<void> {
  await v.page.evaluate((t) => navigator.clipboard.writeText(t), text);
  await editor(v, name).click();
  await v.page.keyboard.press("ControlOrMeta+a");
  await v.page.keyboard.press("ControlOrMeta+v");
}

const config = (more: object) => JSON.stringify({ deviceName: "Kitchen", deviceEntityId: "kitchen", ...more }, null, 2);

area("a device", {}, (w) => {
  let n = 0;
  const make = async () => await w.server.device(`d${++n}`, `Device ${n}`, await w.server.model("sensor", schema));
  const read = (id: number) => w.server.api<Device>(`/api/devices/${id}`);
  const all = async () => (await w.server.api<{ devices: DeviceSummary[] }>("/api/devices")).devices;

  test("shows its facts", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    const facts = v.page.getByRole("region", { name: "Facts" });
    for (const text of [d.key, d.client_id, d.device_entity_id ?? ""])
      await facts.getByText(text, { exact: true }).waitFor();
    await v.page.getByRole("navigation", { name: "Of this device" }).getByRole("link", { name: "Log" }).click();
    await v.page.waitForURL(`**/devices/${d.id}`);
  });

  test("is changed in an editor that says where a schema is broken, before it is saved", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    await write(v, config({ interval: "soon" }));
    const fault = v.page.getByRole("button", { name: /\/interval/ });
    await fault.waitFor();
    expect(await button(v, "Save").isDisabled()).toBe(true);
    await fault.click(); // leads to the place
    await write(v, "{ not json");
    await v.page.getByRole("button", { name: /^Line 1/ }).waitFor();
    expect(await button(v, "Save").isDisabled()).toBe(true);
    expect((await read(d.id)).config).toBe(d.config);

    await write(v, config({ deviceEntityId: `mended-${d.id}`, interval: 30 }));
    await v.page.getByText(/Valid against sensor/).waitFor();
    await v.page.keyboard.press("ControlOrMeta+s");
    await expect.poll(async () => (await read(d.id)).device_entity_id).toBe(`mended-${d.id}`);
    expect(JSON.parse((await read(d.id)).config ?? "")).toMatchObject({ interval: 30 });
  });

  test("is laid out by a button", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    await write(v, '{"deviceEntityId":"x","list":[1,2]}');
    await button(v, "Format").click();
    await expect.poll(() => editor(v).textContent()).toContain('  "deviceEntityId": "x"');
    await button(v, "Undo changes").click();
    await expect.poll(() => editor(v).textContent()).toContain(`Device ${n}`);
  });

  test("is not saved over what somebody else saved meanwhile, unless one says so", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    await write(v, config({ deviceEntityId: "mine" }));
    await w.server.api(`/api/devices/${d.id}`, {
      method: "PUT",
      body: { config: config({ deviceEntityId: "theirs" }), active: true },
    });
    await button(v, "Save").click();
    const question = v.page.getByRole("dialog", { name: /Somebody else/ });
    await question.waitFor();
    expect((await read(d.id)).device_entity_id).toBe("theirs");
    await question.getByRole("button", { name: "Save over it" }).click();
    await expect.poll(async () => (await read(d.id)).device_entity_id).toBe("mine");
  });

  test("asks before what was typed is lost", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    await write(v, config({ deviceEntityId: "unsaved" }));
    await v.page.getByRole("navigation", { name: "Places" }).getByRole("link", { name: "Models" }).click();
    const question = v.page.getByRole("dialog", { name: "Leave without saving?" });
    await question.getByRole("button", { name: "Stay" }).click();
    expect(v.page.url()).toContain("/settings");
    await v.page.getByRole("navigation", { name: "Places" }).getByRole("link", { name: "Models" }).click();
    await question.getByRole("button", { name: "Leave" }).click();
    await v.page.waitForURL("**/models");
  });

  test("is created, and its page says how to send its first line", async () => {
    await w.server.model("sensor", schema);
    const v = await w.open("/devices/new");
    await v.page.getByLabel("Model").selectOption({ label: "sensor – Model sensor" });
    await write(v, config({ deviceName: "Brand new", deviceEntityId: "brand-new" }));
    await button(v, "Create device").click();
    await v.page.waitForURL(/\/devices\/\d+$/);
    await v.page.getByText(/mosquitto_pub .*brand-new/).waitFor();
    expect((await all()).filter((d) => d.device_entity_id === "brand-new")).toHaveLength(1);
  });

  test("is duplicated, with a warning while both have one entity id", async () => {
    const d = await make();
    const v = await w.open(`/devices/${d.id}/settings`);
    await v.page.getByRole("link", { name: "Duplicate" }).click();
    await v.page
      .getByRole("note")
      .getByText(/has the entity id/)
      .waitFor();
    await write(v, config({ deviceName: "Twin", deviceEntityId: `twin-${d.id}` }));
    await v.page.getByRole("note").waitFor({ state: "hidden" });
    await button(v, "Create device").click();
    await v.page.waitForURL(/\/devices\/\d+$/);
    const twin = (await all()).find((t) => t.device_entity_id === `twin-${d.id}`);
    expect(twin?.device_model_id).toBe(d.device_model_id);
  });

  test("is deleted after a question that names what is lost", async () => {
    const d = await make();
    await w.server.publish(
      Array.from({ length: 12 }, (_, i) => ({ entity: d.device_entity_id ?? "", message: `I (${i}) main: ${i}` })),
    );
    const v = await w.open(`/devices/${d.id}/settings`, { allow: [/404.*\/api\/devices\//] });
    await button(v, "Delete …").click();
    const question = v.page.getByRole("dialog", { name: `Delete Device ${n}?` });
    await question.getByText(/12 lines of history/).waitFor();
    await question.getByText(d.client_id).waitFor();
    const sure = question.getByRole("button", { name: "Delete the device" });
    expect(await sure.isDisabled()).toBe(true);
    await question.getByRole("button", { name: "Cancel" }).click();
    expect((await all()).some((x) => x.id === d.id)).toBe(true);
    await button(v, "Delete …").click();
    await question.getByRole("textbox").fill(d.key);
    await sure.click();
    await v.page.waitForURL(`${w.server.base}/`);
    expect((await all()).some((x) => x.id === d.id)).toBe(false);
  });

  test("that is not there is said to be so", async () => {
    const v = await w.open("/devices/999999/settings", { allow: [/404/] });
    await v.page
      .getByText(/no(t| such) .*device|device.*(not|no)/i)
      .first()
      .waitFor();
    const log = await w.open("/devices/999999", { allow: [/404/] });
    await log.page.getByRole("link", { name: "To the fleet" }).waitFor();
  });
});

area("device models", {}, (w) => {
  const all = async () => (await w.server.api<{ device_models: ModelSummary[] }>("/api/device-models")).device_models;

  test("are made, with a schema, tried, changed, and deleted", async () => {
    const v = await w.open("/models");
    await v.page.getByRole("heading", { name: "No models yet" }).waitFor();
    await v.page.getByRole("link", { name: "New model" }).click();
    await v.page.getByLabel("Code").fill("Not A Code");
    await v.page.getByLabel("Name").fill("Valve");
    expect(await button(v, "Create model").isDisabled()).toBe(true);
    await v.page.getByLabel("Code").fill("valve");
    await button(v, "Add a schema").click();
    await write(v, JSON.stringify(schema, null, 2), "Schema");
    await button(v, "Create model").click();
    await v.page.waitForURL(/\/models\/\d+$/);
    await expect.poll(async () => (await all())[0]).toMatchObject({ code: "valve", has_config_schema: true });

    await write(v, '{"deviceEntityId": ""}', "Try a configuration");
    await v.page.getByRole("button", { name: /\/deviceEntityId/ }).waitFor();
    await write(v, '{"deviceEntityId": "ok"}', "Try a configuration");
    await v.page.getByText(/✓ Valid/).waitFor();

    await v.page.getByLabel("Name").fill("Valve, new");
    await button(v, "Save").click();
    await expect.poll(async () => (await all())[0]?.name).toBe("Valve, new");

    await v.page.getByRole("link", { name: "Duplicate" }).click();
    await v.page.getByLabel("Code").fill("valve_2");
    await button(v, "Create model").click();
    await expect.poll(async () => (await all()).map((m) => m.code).sort()).toEqual(["valve", "valve_2"]);

    await v.page.waitForURL(/\/models\/2$/);
    await button(v, "Delete …").click();
    await v.page.getByRole("dialog").getByRole("button", { name: "Delete the model" }).click();
    await v.page.waitForURL("**/models");
    await expect.poll(async () => (await all()).map((m) => m.code)).toEqual(["valve"]);
    await v.page.getByRole("cell", { name: "valve", exact: true }).waitFor();
  });

  test("that are in use are not deleted, and their devices are shown", async () => {
    const model = await w.server.model("used");
    await w.server.device("of-used", "Of used", model);
    const v = await w.open(`/models/${model}`);
    await button(v, "Delete …").click();
    await v.page.getByRole("dialog").getByRole("link", { name: "Show its devices" }).click();
    await v.page.waitForURL(new RegExp(`/\\?model=${model}$`));
    await v.page.getByRole("grid", { name: "Devices" }).getByText("Of used").first().waitFor();
  });

  test("refuse a schema that is none, and say why", async () => {
    const v = await w.open("/models/new", { allow: [/4\d\d.*\/api\/device-models/, /status of 4/] });
    await v.page.getByLabel("Code").fill("broken");
    await v.page.getByLabel("Name").fill("Broken");
    await button(v, "Add a schema").click();
    await write(v, '{"type": "no such type"}', "Schema");
    await button(v, "Create model").click();
    await v.page
      .getByRole("alert")
      .getByText(/It was not saved/)
      .waitFor();
    expect((await all()).some((m) => m.code === "broken")).toBe(false);
  });
});
