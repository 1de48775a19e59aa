import { expect, test } from "vitest";
import { area, type View } from "./harness";

// Every view in both themes, wide and on a phone: axe finds nothing, nothing stands out of the window, and there is a picture
// to look at in test/out.
const schema = {
  type: "object",
  required: ["deviceName"],
  properties: {
    deviceName: { type: "string" },
    deviceEntityId: { type: "string" },
    enableOTA: { type: "boolean" },
    interval: { type: "integer", minimum: 1, maximum: 3600 },
  },
};

const main = (v: View) => v.page.getByRole("main");

const views: [name: string, path: string, ready: (v: View) => Promise<void>][] = [
  ["fleet", "/", (v) => v.page.getByRole("grid", { name: "Devices" }).getByRole("row").nth(5).waitFor()],
  ["fleet-logs", "/logs", (v) => v.page.getByRole("log").getByRole("link").nth(10).waitFor()],
  ["merged", "/logs?devices=1,2,3", (v) => v.page.getByRole("log").getByRole("link").nth(10).waitFor()],
  [
    "side-by-side",
    "/logs?devices=1,2&layout=side",
    (v) => v.page.getByRole("log").nth(1).getByRole("link").nth(3).waitFor(),
  ],
  ["log", "/devices/1", (v) => v.page.getByRole("log").getByRole("link").nth(10).waitFor()],
  ["search", "/logs?q=wifi", (v) => v.page.getByRole("log").getByRole("link").first().waitFor()],
  ["settings", "/devices/1/settings", (v) => main(v).getByRole("textbox").first().waitFor()],
  ["new-device", "/devices/new", (v) => main(v).getByRole("textbox").first().waitFor()],
  ["models", "/models", (v) => main(v).getByText("simulated").first().waitFor()],
  ["model", "/models/1", (v) => main(v).getByText("simulated").first().waitFor()],
  ["new-model", "/models/new", (v) => main(v).getByRole("textbox").first().waitFor()],
  ["overview", "/overview", (v) => main(v).getByRole("table").waitFor({ state: "attached" })],
  ["not-found", "/no/such/page", (v) => v.page.getByRole("link", { name: "To the fleet" }).waitFor()],
];

const sizes = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

area("views", { fleet: { devices: 24, rate: 4 } }, (w) => {
  for (const theme of ["dark", "light"] as const) {
    test.each(views)(`%s, ${theme}`, async (name, path, ready) => {
      await w.server.model("relay", schema);
      for (const [size, viewport] of Object.entries(sizes)) {
        const v = await w.open(path, { theme, viewport });
        await ready(v);
        await v.page.waitForTimeout(400); // charts and fonts
        await v.screenshot(`${name}-${theme}-${size}`);
        const out = await v.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        expect(out, `${name} is wider than a ${size} window`).toBeLessThanOrEqual(0);
        expect(await v.axe(), `${name}, ${theme}, ${size}`).toEqual([]);
        await v.page.close();
      }
    });
  }

  test.each(["dark", "light"] as const)("dialogs, %s", async (theme) => {
    const v = await w.open("/devices/1", { theme });
    await v.page.getByRole("log").getByRole("link").nth(10).waitFor();
    const dialogs: [string, () => Promise<void>][] = [
      ["keys", () => v.page.getByRole("button", { name: "Keyboard shortcuts" }).click()],
      ["preferences", () => v.page.getByRole("button", { name: "Preferences" }).click()],
      ["go-to-time", () => v.page.getByRole("button", { name: "Go to time" }).click()],
      ["download", () => v.page.getByRole("button", { name: "Download" }).click()],
    ];
    for (const [name, open] of dialogs) {
      await open();
      const dialog = v.page.getByRole("dialog");
      await dialog.waitFor();
      await v.screenshot(`${name}-${theme}`);
      expect(await v.axe(), name).toEqual([]);
      await v.page.keyboard.press("Escape");
      await dialog.waitFor({ state: "hidden" });
    }
  });

  test("the overview draws its charts, keeps the range in the address, and follows the theme", async () => {
    const v = await w.open("/overview", { theme: "light" });
    const chart = v.page.getByRole("region", { name: "Lines a second", exact: true });
    await chart.waitFor();
    await expect.poll(() => chart.locator("strong").first().textContent(), { timeout: 40_000 }).toMatch(/^[1-9]/);
    const now = v.page
      .getByRole("row", { name: /^Lines a second: in/ })
      .getByRole("cell")
      .first();
    expect(await now.textContent()).toMatch(/^[1-9]/);
    await v.page.getByRole("button", { name: "6 h" }).click();
    await expect.poll(() => v.page.url()).toContain("range=6h");
    await v.page.reload();
    await expect.poll(() => v.page.getByRole("button", { name: "6 h" }).getAttribute("aria-pressed")).toBe("true");
    const pixels = () => chart.locator("canvas").evaluate((c: HTMLCanvasElement) => c.toDataURL());
    await expect.poll(pixels).not.toBe("");
    await v.page.waitForTimeout(300);
    const light = await pixels();
    await v.page.emulateMedia({ colorScheme: "dark" });
    await expect.poll(pixels).not.toBe(light);
  });

  test("every chart shows what was at the moment under the pointer", async () => {
    const v = await w.open("/overview?range=15m");
    const chart = (name: string) => v.page.getByRole("region", { name, exact: true });
    await expect
      .poll(() => chart("Lines a second").locator("strong").first().textContent(), { timeout: 40_000 })
      .toMatch(/^[1-9]/);
    const box = await chart("Lines a second").locator(".u-over").boundingBox();
    if (!box) throw new Error("the chart is not drawn");
    await v.page.mouse.move(box.x + box.width - 3, box.y + 30);
    const time = /^\d\d:\d\d:\d\d$/;
    await chart("Lines a second").getByText(time).waitFor();
    await chart("Memory").getByText(time).waitFor();
  });
});
