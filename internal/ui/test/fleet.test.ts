import { expect, test } from "vitest";
import { area, type View } from "./harness";

const grid = (v: View) => v.page.getByRole("grid", { name: "Devices" });
const row = (v: View, name: string) => grid(v).getByRole("row").filter({ hasText: name });
const cells = (v: View, name: string) => row(v, name).getByRole("gridcell");

/** The devices in the order in which they are shown. */
const names = async (v: View) =>
  await grid(v).evaluate((g) =>
    [...g.querySelectorAll<HTMLElement>("[role=row][aria-rowindex]")]
      .sort((a, b) => Number(a.getAttribute("aria-rowindex")) - Number(b.getAttribute("aria-rowindex")))
      .flatMap((r) => r.querySelector("a")?.textContent ?? []),
  );

area("an empty fleet", {}, (w) => {
  test("teaches how to send the first line", async () => {
    const v = await w.open("/");
    await v.page.getByRole("heading", { name: "No devices yet" }).waitFor();
    await v.page.getByText(/mosquitto_pub/).waitFor();
    await v.page.getByText(/signalbox sim/).waitFor();
    // It shows a device as soon as it is there, without being loaded again.
    await w.server.device("kitchen", "Kitchen");
    await row(v, "Kitchen").waitFor({ timeout: 90_000 });
  });
});

area("the fleet", {}, (w) => {
  let made: Promise<void> | null = null;
  const devices = () => {
    made ??= (async () => {
      const relay = await w.server.model("relay");
      const camera = await w.server.model("camera");
      await w.server.device("pump", "Pump house", relay);
      await w.server.device("gate", "Gate", relay);
      await w.server.device("barn", "Barn", camera);
      await w.server.publish([
        { entity: "pump", message: "I (1) main: water is fine" },
        { entity: "gate", message: "E (1) motor: stuck" },
        { entity: "gate", message: "E (2) motor: still stuck" },
        { entity: "gate", message: "I (3) main: moving again" },
      ]);
    })();
    return made;
  };

  test("shows name, entity id, model, last line, rate and errors of each device", async () => {
    await devices();
    const v = await w.open("/");
    await row(v, "Gate").getByText("moving again").waitFor();
    await expect.poll(() => cells(v, "Gate").allTextContents()).toContain("2"); // errors in the last hour
    for (const text of ["gate", "relay"]) await row(v, "Gate").getByText(text, { exact: true }).waitFor();
    await row(v, "Barn").getByText("has said nothing yet").waitFor();
  });

  test("shows a line when it comes, and who is watching", async () => {
    await devices();
    const v = await w.open("/");
    await row(v, "Pump house").getByText("water is fine").waitFor();
    const log = await w.open("/devices/1");
    await log.page.getByRole("log").getByText("water is fine").waitFor();
    await w.server.publish([{ entity: "pump", message: "W (9) main: the level falls" }]);
    await row(v, "Pump house")
      .getByText(/the level falls/)
      .waitFor();
    await expect.poll(() => cells(v, "Pump house").allTextContents(), { timeout: 30_000 }).toContain("1");
  });

  test("searches, filters and sorts, in the address", async () => {
    await devices();
    const v = await w.open("/");
    await row(v, "Barn").waitFor();
    await v.page.keyboard.press("/");
    await v.page.keyboard.type("pump");
    await expect.poll(() => names(v)).toEqual(["Pump house"]);
    await expect.poll(() => v.page.url()).toContain("q=pump");
    await v.page.reload();
    await expect.poll(() => names(v)).toEqual(["Pump house"]);
    await v.page.getByRole("searchbox", { name: "Search devices" }).fill("");
    await v.page.getByLabel("Model").selectOption({ label: "camera" });
    await expect.poll(() => names(v)).toEqual(["Barn"]);
    await v.page.getByLabel("Model").selectOption({ label: "Any model" });
    await v.page.getByRole("button", { name: "With errors", exact: true }).click();
    await expect.poll(() => names(v)).toEqual(["Gate"]);
    await v.page.getByRole("button", { name: "With errors", exact: true }).click();
    await v.page.getByRole("button", { name: "Name" }).click();
    await expect.poll(() => names(v)).toEqual(["Pump house", "Gate", "Barn"]);
    await expect.poll(() => v.page.url()).toContain("sort=-name");
    await v.page.getByRole("searchbox", { name: "Search devices" }).fill("no such thing");
    await v.page.getByRole("heading", { name: "No device is like that" }).waitFor();
    await v.page.getByRole("button", { name: "Show all devices" }).click();
    await expect.poll(async () => (await names(v)).length).toBe(3);
  });

  test("opens a device, and several together, by key", async () => {
    await devices();
    const v = await w.open("/?sort=name");
    await row(v, "Barn").waitFor();
    await v.page.keyboard.press("ArrowDown");
    await v.page.keyboard.press("x");
    await v.page.keyboard.press("ArrowDown");
    await v.page.keyboard.press("x");
    await v.page.getByText("2 devices selected").waitFor();
    await v.page.getByRole("link", { name: "Open their logs together" }).click();
    await v.page.waitForURL(/\/logs\?devices=3,2|\/logs\?devices=2,3|devices=\d%2C\d/);
    await v.page.goBack();
    await row(v, "Barn").waitFor();
    await v.page.keyboard.press("Home");
    await v.page.keyboard.press("Enter");
    await v.page.waitForURL(/\/devices\/3$/);
  });

  test("searches what all devices say", async () => {
    await devices();
    const v = await w.open("/");
    await row(v, "Barn").waitFor();
    await v.page.getByRole("searchbox", { name: "Search devices" }).fill("stuck");
    await v.page
      .getByRole("link", { name: /Search the logs for/ })
      .first()
      .click();
    await v.page.waitForURL(/\/logs\?q=stuck/);
    await v.page
      .getByRole("log")
      .getByText(/still stuck/)
      .waitFor();
  });
});

area("a large fleet", {}, (w) => {
  test("of 2 000 devices scrolls, and draws only what is in sight", async () => {
    const model = await w.server.model();
    for (let i = 0; i < 2000; i += 20) {
      await Promise.all(
        Array.from({ length: 20 }, (_, k) => {
          const n = String(i + k).padStart(5, "0");
          return w.server.device(`many-${n}`, `Device ${n}`, model);
        }),
      );
    }
    const v = await w.open("/");
    await row(v, "Device 00000").waitFor();
    expect(await grid(v).getAttribute("aria-rowcount")).toBe("2001");
    expect(await grid(v).getByRole("row").count()).toBeLessThan(100);
    await grid(v).focus();
    await v.page.keyboard.press("End");
    await row(v, "Device 01999").waitFor();
    expect(await grid(v).getByRole("row").count()).toBeLessThan(100);
  });
});
