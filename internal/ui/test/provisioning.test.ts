import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { DeviceSummary } from "../src/api/types";
import { area, type View } from "./harness";

const settings = { WIFI_SSID: "net", WIFI_PASSWORD: "hunter22", DEVICE_MQTT_URL: "mqtt://broker.example:1883" };
const button = (v: View, name: string | RegExp) =>
  v.page.getByRole("button", { name, exact: typeof name === "string" });

area("provisioning", { settings }, (w) => {
  const credentials = (id: number) => w.server.api<Record<string, string>>(`/api/devices/${id}/credentials`);
  const open = async (id: number, o: Parameters<typeof w.open>[1] = {}) => {
    const v = await w.open(`/devices/${id}/settings`, o);
    await button(v, "Provision …").click();
    await v.page.getByRole("dialog").waitFor();
    return v;
  };
  const downloaded = async (v: View, press: () => Promise<void>) => {
    const [file] = await Promise.all([v.page.waitForEvent("download"), press()]);
    return { name: file.suggestedFilename(), data: readFileSync(await file.path()) };
  };

  test("gives what a device needs, as JSON and as a partition of the size that was asked for", async () => {
    const d = await w.server.device("hall", "Hall");
    const v = await open(d.id);
    const json = await downloaded(v, () => button(v, "Download").click());
    expect(json.name).toBe(`${d.key}.json`);
    expect(JSON.parse(json.data.toString())).toEqual(await credentials(d.id));

    await v.page.getByLabel("NVS partition").check();
    await v.page.getByLabel("Size of the partition").selectOption("24576");
    const nvs = await downloaded(v, () => button(v, "Download").click());
    expect(nvs.data.length).toBe(24576);
    expect(nvs.data.includes(Buffer.from((await credentials(d.id)).client_secret ?? "?"))).toBe(true);

    await v.page.getByLabel("Size of the partition").selectOption("custom");
    await v.page.getByLabel("Bytes", { exact: true }).fill("13000");
    await v.page.getByText("a multiple of 4096").waitFor();
    expect(await button(v, "Download").isDisabled()).toBe(true);
    await v.page.getByLabel("Bytes", { exact: true }).fill("20K");
    expect((await downloaded(v, () => button(v, "Download").click())).data.length).toBe(20480);
    expect(await v.axe()).toEqual([]);
    await v.screenshot("provisioning");
  });

  test("shows the code only when it is asked to", async () => {
    const d = await w.server.device("door", "Door");
    const v = await open(d.id, { viewport: { width: 390, height: 844 }, theme: "light" });
    await v.page.getByLabel("QR code").check();
    const image = v.page.getByRole("img", { name: /QR code/ });
    expect(await image.count()).toBe(0);
    await button(v, "Show the code").click();
    await expect.poll(() => image.evaluate((i: HTMLImageElement) => i.naturalWidth)).toBeGreaterThan(0);
    expect(await v.axe()).toEqual([]);
    await v.screenshot("provisioning-qr");
    expect(await v.page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    await button(v, "Hide the code").click();
    expect(await image.count()).toBe(0);
  });

  test("makes a link that works once, without a login, and deletes one", async () => {
    const d = await w.server.device("gate", "Gate");
    const v = await open(d.id);
    await button(v, "Make a link").click();
    const address = await v.page.locator(".provision-made code").textContent();
    const list = v.page.getByRole("list", { name: "Links of this device" }).getByRole("listitem");
    await expect.poll(() => list.count()).toBe(1);

    const other = await w.open(new URL(address ?? "").pathname);
    await other.page.getByText("Gate").first().waitFor();
    expect(await other.axe()).toEqual([]);
    await other.screenshot("provisioning-link");
    const file = await downloaded(other, () => button(other, "Download").click());
    expect(JSON.parse(file.data.toString())).toEqual(await credentials(d.id));
    await v.page.getByText(/used .* from 127/).waitFor();
    other.tolerate(/404/);
    await other.page.reload();
    await other.page.getByRole("alert").waitFor();

    await button(v, "Make a link").click();
    await expect.poll(() => list.count()).toBe(2);
    const second = await v.page.locator(".provision-made code").textContent();
    await list
      .first()
      .getByRole("button", { name: /Delete/ })
      .click();
    await expect.poll(() => list.count()).toBe(1);
    expect((await fetch(second ?? "", { method: "POST" })).status).toBe(404);
  });

  test("a link to a code shows it, once", async () => {
    const d = await w.server.device("lamp", "Lamp");
    const link = await w.server.api<{ url: string }>(`/api/devices/${d.id}/provisioning-links`, {
      method: "POST",
      body: { format: "qr" },
    });
    const v = await w.open(new URL(link.url).pathname, { theme: "light" });
    await button(v, "Show the code").click();
    await v.page.getByRole("img", { name: "QR code" }).waitFor();
    expect(await v.axe()).toEqual([]);
    await v.screenshot("provisioning-link-qr");
  });
});

area("import", { settings }, (w) => {
  const devices = async () => (await w.server.api<{ devices: DeviceSummary[] }>("/api/devices")).devices;
  const csv = (text: string) => ({ name: "fleet.csv", mimeType: "text/csv", buffer: Buffer.from(text) });
  const open = async (o: Parameters<typeof w.open>[1] = {}) => {
    const v = await w.open(o.viewport ? "/devices/new" : "/", o);
    await button(v, /import devices/).click();
    return v;
  };

  test("says first what is wrong with which line, and makes what is right", async () => {
    await w.server.model("sensor", { type: "object", properties: { interval: { type: "integer" } } });
    await w.server.device("there", "There");
    const v = await open();
    expect(await v.axe()).toEqual([]);
    await v.screenshot("import-choose");
    const text =
      '\ufeffmodel;name;entity_id;config\nsensor;Kitchen;kitchen;\nsensor;Bad;bad;"{""interval"": ""soon""}"\nnope;X;x;\nsensor;There;there;\n';
    await v.page.getByLabel("CSV file").setInputFiles(csv(text));
    await v.page.getByText("1 device can be made").waitFor();
    const notes = v.page.getByRole("region", { name: /say of lines/ });
    await notes.getByText(/config\/interval/).waitFor();
    await notes.getByText(/"nope"/).waitFor();
    expect(await v.axe()).toEqual([]);
    await v.screenshot("import-checked");
    expect((await devices()).length).toBe(1);

    await button(v, "Import 1 device").click();
    await v.page.getByText("1 device was made").waitFor();
    expect((await devices()).map((d) => d.device_name).sort()).toEqual(["Kitchen", "There"]);
    await v.screenshot("import-done");
    await button(v, "Close").click();
    await v.page.getByText("Kitchen").first().waitFor();
  });

  test("takes back what was exported, and changes nothing", async () => {
    const v = await open({ viewport: { width: 390, height: 844 }, theme: "light" });
    const exported = await (await w.server.raw("/api/devices/export")).text();
    await v.page.getByLabel("CSV file").setInputFiles(csv(exported));
    await v.page.getByText(/there already/).waitFor();
    expect(await v.axe()).toEqual([]);
    await v.screenshot("import-phone");
    expect(await v.page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    expect(
      await button(v, /^Import/)
        .last()
        .isDisabled(),
    ).toBe(true);
  });

  test("refuses what is no such file", async () => {
    const v = await open({ allow: [/400/] });
    await v.page.getByLabel("CSV file").setInputFiles({ ...csv("x"), name: "fleet.xlsx" });
    await v.page
      .getByRole("alert")
      .getByText(/Save it as CSV/)
      .waitFor();
    await v.page.getByLabel("CSV file").setInputFiles(csv("name\nx\n"));
    await v.page
      .getByRole("alert")
      .getByText(/none named model/)
      .waitFor();
  });

  test("the fleet page is fine on a phone", async () => {
    const v = await w.open("/", { viewport: { width: 390, height: 844 } });
    await button(v, /silent/).waitFor();
    await v.screenshot("fleet-phone");
    expect(await v.page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    expect(await v.axe()).toEqual([]);
  });
});
