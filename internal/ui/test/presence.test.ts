import { expect, test } from "vitest";
import { area, patience, type View } from "./harness";

const row = (v: View, name: string) =>
  v.page.getByRole("grid", { name: "Devices" }).getByRole("row").filter({ hasText: name });

area("presence", {}, (w) => {
  test("shows which devices are there, in words, and since when", async () => {
    const pump = await w.server.device("pump", "Pump house");
    await w.server.device("gate", "Gate");
    const feed = w.server.feed(pump);
    feed.say([{ entity: "pump", message: "I (1) main: water is fine" }]);

    const v = await w.open("/");
    await row(v, "Pump house").getByText("Online", { exact: true }).waitFor({ state: "attached" });
    await row(v, "Gate").getByText("Not seen yet").waitFor({ state: "attached" });
    await expect
      .poll(() => row(v, "Pump house").locator(".presence").getAttribute("title"))
      .toMatch(/^Online for .+, known through its session$/);
    expect(await v.axe()).toEqual([]);

    const one = await w.open(`/devices/${pump.id}/settings`);
    await one.page.getByText("Online since", { exact: true }).waitFor();
    await one.page.getByText("not in the last 24 hours").waitFor();

    await feed.end(); // both pages learn of it by themselves
    await row(v, "Pump house").getByText("Offline", { exact: true }).waitFor({ timeout: patience });
    await one.page.getByText("Offline since", { exact: true }).waitFor({ timeout: patience });
    await one.page.getByText("once in the last 24 hours").waitFor();
  });
});
