import { expect, test } from "vitest";
import { area } from "./harness";

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
  "worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

area("the page", { fleet: { devices: 3, rate: 2 } }, (w) => {
  const addresses = [
    ["/", "Fleet"],
    ["/logs", "Logs"],
    ["/devices/new", "New device"],
    ["/devices/1", null],
    ["/devices/1/settings", null],
    ["/models", "Models"],
    ["/models/new", null],
    ["/models/1", null],
    ["/overview", "Overview"],
  ] as const;

  test.each(addresses)("answers at %s, and does nothing that it must not", async (path) => {
    const v = await w.open(path);
    await v.page.getByRole("main").waitFor();
    expect(await v.page.title()).toMatch(/ · Signalbox$/);
    await v.page.waitForTimeout(500); // what goes wrong late: a worker, a stream
  });

  test("sends the strict policy with every page, and lets assets be kept for ever", async () => {
    for (const path of ["/", "/devices/1", "/no/such/page"]) {
      const r = await fetch(w.server.base + path, { headers: { Accept: "text/html" } });
      expect(r.status).toBe(200);
      expect(r.headers.get("content-security-policy")).toBe(policy);
      expect(r.headers.get("cache-control")).toBe("no-cache");
      expect(r.headers.get("etag")).toBeTruthy();
    }
    const html = await (await fetch(`${w.server.base}/`, { headers: { Accept: "text/html" } })).text();
    const script = /src="(\/assets\/[^"]+\.js)"/.exec(html)?.[1];
    const r = await fetch(w.server.base + script);
    expect(r.headers.get("cache-control")).toBe("public, max-age=31536000, immutable");
    expect(r.headers.get("content-type")).toMatch(/javascript/);
  });

  test("leaves the API's own answers alone", async () => {
    const r = await fetch(`${w.server.base}/api/no-such-thing`, { headers: { Accept: "text/html" } });
    expect(r.status).toBe(404);
    expect(r.headers.get("content-type")).toMatch(/json/);
  });

  test("says so where there is no page, and leads back", async () => {
    const v = await w.open("/no/such/page");
    await v.page.getByRole("heading", { name: "There is no such page" }).waitFor();
    await v.page.getByRole("link", { name: "To the fleet" }).click();
    await v.page.waitForURL(`${w.server.base}/`);
  });

  test("goes from place to place without being loaded again", async () => {
    const v = await w.open("/");
    let loads = 0;
    v.page.on("load", () => loads++);
    for (const [name, path] of [
      ["Logs", "/logs"],
      ["Models", "/models"],
      ["Overview", "/overview"],
      ["Fleet", "/"],
    ] as const) {
      await v.page.getByRole("navigation", { name: "Places" }).getByRole("link", { name }).click();
      await v.page.waitForURL((u) => u.pathname === path);
      await v.page.getByRole("main").waitFor();
    }
    expect(loads).toBe(0);
  });

  test("lists its keys at ?, and closes the list at Escape", async () => {
    const v = await w.open("/");
    await v.page.getByRole("main").waitFor();
    await v.page.keyboard.press("?");
    const list = v.page.getByRole("dialog", { name: "Keyboard" });
    await list.getByText("This list").waitFor();
    await v.page.keyboard.press("Escape");
    await list.waitFor({ state: "hidden" });
  });

  test("keeps preferences, and tells other tabs", async () => {
    const v = await w.open("/", { theme: "light" });
    const other = await w.open("/overview", { beside: v });
    await v.page.getByRole("button", { name: "Preferences" }).click();
    await v.page.getByLabel("Colours").selectOption({ label: "dark" });
    const scheme = () => other.page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
    await expect.poll(scheme).toBe("dark");
    await other.page.reload();
    await expect.poll(scheme).toBe("dark");
  });
});
