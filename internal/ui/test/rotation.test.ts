import { expect, test } from "vitest";
import type { Device } from "../src/api/types";
import type { Campaign, Dashboard, Story } from "../src/rotation/types";
import { area, away, type Server, until, type View, type World } from "./harness";

const button = (v: View, name: string | RegExp) =>
  v.page.getByRole("button", { name, exact: typeof name === "string" });
const field = (v: View, name: string) => v.page.getByLabel(name, { exact: true });
const region = (v: View, name: string | RegExp) =>
  v.page.getByRole("region", { name, exact: typeof name === "string" });

/** For what looks at many pages on a machine that is busy with other things. */
const long = 300_000;

const sizes = { wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

/** The view as it is now: pictures of it, wide and narrow, dark and light, and nothing for axe to say. */
async function look(v: View, name: string): Promise<void> {
  for (const theme of ["dark", "light"] as const) {
    await v.page.emulateMedia({ colorScheme: theme });
    for (const [size, viewport] of Object.entries(sizes)) {
      await v.page.setViewportSize(viewport);
      await v.page.waitForTimeout(250);
      await v.screenshot(`${name}-${theme}-${size}`);
      const out = await v.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(out, `${name} is wider than a ${size} window`).toBeLessThanOrEqual(0);
      expect(await v.axe(), `${name}, ${theme}, ${size}`).toEqual([]);
    }
  }
  await v.page.emulateMedia({ colorScheme: "dark" });
  await v.page.setViewportSize(sizes.wide);
}

interface Package {
  client_id: string;
  client_secret: string;
  token_url: string;
}

/** What a device does with its secret, as its firmware would. */
class Board {
  private constructor(
    private readonly server: Server,
    private readonly client: string,
    private readonly tokens: string,
    private secret: string,
  ) {}

  static async of(server: Server, device: Device): Promise<Board> {
    const p = await server.api<Package>(`/api/devices/${device.id}/credentials`);
    return new Board(server, p.client_id, `${server.base}${new URL(p.token_url).pathname}`, p.client_secret);
  }

  private async ask<T>(path: string): Promise<T> {
    const answer = await fetch(this.tokens, {
      method: "POST",
      headers: { Authorization: `Basic ${Buffer.from(`${this.client}:${this.secret}`).toString("base64")}` },
      body: new URLSearchParams({ grant_type: "client_credentials" }),
    });
    if (!answer.ok) throw new Error(`no token: ${answer.status} ${await answer.text()}`);
    const { access_token } = (await answer.json()) as { access_token: string };
    return this.server.api<T>(path, { headers: { Authorization: `Bearer ${access_token}` } });
  }

  /** Fetches the secret that it is to use from now on. */
  async fetch(): Promise<void> {
    this.secret = (await this.ask<Package>("/api/iot/provisioning")).client_secret;
  }

  /** Comes with the secret that it has, which proves that it has it. */
  async use(): Promise<void> {
    await this.ask("/api/iot/config");
  }
}

const storyOf = (w: World, d: Device) => w.server.api<Story>(`/api/devices/${d.id}/rotation`);
const isIn = (w: World, d: Device, state: Story["rotation_state"], step?: Story["step"]) =>
  until(`${d.device_name} is ${state}`, async () => {
    const s = await storyOf(w, d);
    return s.rotation_state === state && (step === undefined || s.step === step);
  });

area("rotation of no device", {}, (w) => {
  test("teaches what it is", async () => {
    const v = await w.open("/rotation");
    await v.page.getByRole("heading", { name: "No device has a secret yet" }).waitFor();
    await v.page.getByText("Withdrawn.").waitFor();
    await look(v, "rotation-empty");
    await button(v, "Rotate all …").waitFor({ state: "detached" });
  });
});

area("rotation", { settings: { ROTATION_CRON: "0 8 * * 6", ROTATION_TIMEOUT_SECONDS: "1h" } }, (w) => {
  let n = 0;
  const make = () => w.server.device(`board-${++n}`, `Board ${n}`);

  test(
    "of a device is seen as it goes, and told with what the device said meanwhile",
    async () => {
      const d = await make();
      const board = await Board.of(w.server, d);
      const say = (message: string) => w.server.publish([{ entity: d.device_entity_id ?? "", message }]);
      const v = await w.open("/rotation");
      await v.page.getByText(/^Saturday/).waitFor();
      const story = await w.open(`/devices/${d.id}/rotation`, { beside: v });
      await story.page.getByRole("heading", { name: "No attempt yet" }).waitFor();
      await look(story, "story-none");

      await say("I (1) main: before it all");
      await button(story, `Rotate ${d.device_name}`).click();
      await story.page.getByText(`${d.device_name} is queued`).waitFor();
      await isIn(w, d, "PENDING", "offered");
      // Nobody loads this page again.
      await region(v, "Now")
        .getByRole("link", { name: d.device_name ?? "" })
        .waitFor();
      await story.page.getByText(/^Waiting for the device to fetch its new secret since .*times out in/).waitFor();
      await look(v, "rotation-running");
      await look(story, "story-running");

      await say("I (2) iot: a new secret is there");
      await board.fetch();
      await story.page.getByText(/^The device fetched its new secret .* ago, and has still to use it/).waitFor();
      await say("I (3) iot: it is stored");
      await board.use();
      await isIn(w, d, "OK");
      await story.page.getByText(/^In order: its secret was last rotated/).waitFor();

      // Steps and lines are in the one order in which they were.
      const entries = story.page.getByRole("list", { name: /^Steps of attempt 1/ }).getByRole("listitem");
      await expect
        .poll(async () => {
          const all = await entries.allTextContents();
          const at = (text: string) => all.findIndex((e) => e.includes(text));
          const places = [
            "before it all",
            "Started",
            "a new secret is there",
            "Fetched",
            "it is stored",
            "Proven",
            "Withdrawn",
          ].map(at);
          return places.every((p, i) => p >= 0 && (i === 0 || p > (places[i - 1] ?? 0)));
        })
        .toBe(true);
      await story.page.getByRole("heading", { name: "Attempt 1: done" }).waitFor();
      await look(story, "story-done");
      await story.page
        .getByRole("listitem")
        .filter({ hasText: "it is stored" })
        .getByRole("link", { name: /\d\d:\d\d/ })
        .click();
      await story.page.getByRole("log").getByText("it is stored").waitFor();
      await button(v, `Rotate ${d.device_name}`).waitFor();
      expect(
        await region(v, "Now")
          .getByRole("link", { name: d.device_name ?? "" })
          .count(),
      ).toBe(0);
    },
    long,
  );

  test("of all devices says how many, and one that was begun can be ended", async () => {
    const [one, other] = [await make(), await make()];
    const v = await w.open("/rotation");
    await button(v, `Rotate ${other.device_name}`).waitFor();
    const { healthy } = await w.server.api<Dashboard>("/api/rotation/dashboard");
    const ready = healthy.filter((d) => d.rotation_state === "OK").length;
    await button(v, "Rotate all …").click();
    const question = v.page.getByRole("dialog", { name: `Rotate ${ready} devices?` });
    await question.waitFor();
    await look(v, "rotate-all");
    await question.getByRole("button", { name: `Queue ${ready} devices` }).click();
    await v.page.getByText(`${ready} devices are queued.`).waitFor();
    await v.page.getByText(/devices? waits?$/).waitFor();
    for (const d of [one, other]) {
      await button(v, `Abort ${d.device_name}`).first().click();
      await v.page.getByText(`${d.device_name} keeps the secret`).waitFor();
      await isIn(w, d, "OK");
    }
    const { healthy: left } = await w.server.api<Dashboard>("/api/rotation/dashboard");
    for (const d of left.filter((x) => x.rotation_state !== "OK")) {
      await w.server.api(`/api/devices/${d.id}/rotation/abort`, { method: "POST" });
    }
  });

  test("is searched, and its parts are in the address", async () => {
    const d = await make();
    const v = await w.open("/rotation");
    const rows = region(v, "Devices").getByRole("row");
    await region(v, "Devices")
      .getByRole("link", { name: d.device_name ?? "", exact: true })
      .waitFor();
    await v.page.keyboard.press("/");
    await v.page.keyboard.type(d.key);
    await v.page.waitForURL((u) => u.searchParams.get("q") === d.key);
    await expect.poll(() => rows.count()).toBe(2); // the head and the device
    await v.page.reload();
    await expect.poll(() => rows.count()).toBe(2);
    await v.page.getByRole("button", { name: /Critical$/ }).click();
    await v.page.getByText("No device is like that.").waitFor();
    await button(v, "Show all").click();
    await v.page.waitForURL((u) => u.search === "");
  });

  test(
    "in a campaign is planned before it begins, runs, and is steered",
    async () => {
      const devices = [await make(), await make(), await make()];
      const ids = devices.map((d) => d.id).join(",");
      const v = await w.open(`/rotation/campaigns/new?devices=${ids}`);
      await v.page.getByText("3 devices chosen").waitFor();
      await field(v, "At once").fill("none");
      await button(v, "Preview").click();
      await v.page.getByText("It needs a name").waitFor();
      await v.page.getByText("A whole number from 1 to 1,000").waitFor();
      await look(v, "campaign-faults");
      await field(v, "Name").fill("Spring rotation");
      await field(v, "At once").fill("1");
      await v.page.getByLabel("Put off devices that are offline").uncheck(); // these have no session at the broker
      await field(v, "Then waves of").fill("1");
      await button(v, "Preview").click();
      await v.page.getByText("3 devices in 3 waves, the first of 1 device.").waitFor();
      await look(v, "campaign-plan");
      expect((await w.server.api<{ count: number }>("/api/rotation/campaigns")).count).toBe(0);
      // What changes the plan has to be looked at again.
      await field(v, "Then waves of").fill("2");
      await v.page.getByText("The form has changed since.").waitFor();
      expect(await button(v, "Start with 3 devices").isDisabled()).toBe(true);
      await button(v, "Preview").click();
      await v.page.getByText("3 devices in 2 waves").waitFor();
      await button(v, "Start with 3 devices").click();
      await v.page.waitForURL(/\/rotation\/campaigns\/\d+$/);
      await v.page.getByRole("heading", { name: "Spring rotation" }).waitFor();
      const id = Number(v.page.url().split("/").pop());
      const campaign = () => w.server.api<Campaign>(`/api/rotation/campaigns/${id}`);

      // The canary does as it should, and the page follows.
      await until("a device is in flight", async () => (await campaign()).counts.in_flight === 1);
      await v.page.getByText(/^Wave 1 of 2: 1 device is being rotated/).waitFor();
      await look(v, "campaign-running");
      let canary: Device | undefined;
      for (const d of devices) if ((await storyOf(w, d)).rotation_state === "PENDING") canary = d;
      if (!canary) throw new Error("no device of the campaign is in an attempt");
      await isIn(w, canary, "PENDING", "offered");
      const board = await Board.of(w.server, canary);
      await board.fetch();
      await board.use();
      await v.page.getByText("1 of 3 done", { exact: false }).first().waitFor();

      await button(v, "Pause").click();
      await v.page
        .getByText(/^Paused/)
        .first()
        .waitFor();
      await expect.poll(async () => (await campaign()).state).toBe("paused");
      await look(v, "campaign-paused");
      await button(v, "Resume").click();
      await button(v, "Pause").waitFor();
      await v.page.getByRole("group", { name: "Which" }).getByRole("button", { name: "done 1" }).click();
      await expect.poll(() => region(v, "Devices").getByRole("row").count()).toBe(2);

      const list = await w.open("/rotation", { beside: v });
      await region(list, "Campaigns").getByRole("link", { name: "Spring rotation" }).waitFor();
      await button(v, "Abort …").click();
      await look(v, "campaign-abort");
      await button(v, "Abort the campaign").click();
      await expect.poll(async () => (await campaign()).state).toBe("aborted");
      await v.page
        .getByText(/^Aborted/)
        .first()
        .waitFor();
      await region(list, "Campaigns").getByText("Aborted", { exact: true }).waitFor();
      for (const d of devices) {
        const s = await storyOf(w, d);
        if (s.rotation_state === "PENDING" || s.rotation_state === "QUEUED") {
          await w.server.api(`/api/devices/${d.id}/rotation/abort`, { method: "POST" });
        }
      }
    },
    long,
  );

  test("is shown as it is after the server was away", async () => {
    const d = await make();
    const v = await w.open("/rotation", { allow: away });
    await button(v, `Rotate ${d.device_name}`).waitFor();
    await w.server.kill();
    await w.server.launch();
    await w.server.api(`/api/devices/${d.id}/rotate`, { method: "POST" });
    await button(v, `Abort ${d.device_name}`).first().waitFor();
    await w.server.api(`/api/devices/${d.id}/rotation/abort`, { method: "POST" });
    await button(v, `Rotate ${d.device_name}`).waitFor();
  });

  test("of what is not there says so", async () => {
    const gone = [/\b404\b/];
    const a = await w.open("/devices/999999/rotation", { allow: gone });
    await a.page.getByRole("heading", { name: "There is no such device" }).waitFor();
    const b = await w.open("/rotation/campaigns/999999", { allow: gone });
    await b.page.getByRole("heading", { name: "There is no such campaign" }).waitFor();
    await look(b, "campaign-gone");
  });
});

area("a rotation that times out", { settings: { ROTATION_TIMEOUT_SECONDS: "5s", ROTATION_TRIES: "1" } }, (w) => {
  test(
    "is marked, explained, and leads to the log at that time",
    async () => {
      const d = await w.server.device("silent", "Silent");
      await w.server.publish([{ entity: "silent", message: "E (1) wifi: no network" }]);
      const v = await w.open("/rotation");
      await button(v, "Rotate Silent").click();
      await isIn(w, d, "TIMEOUT");
      const person = region(v, "Needs a person");
      await person
        .getByText(/^Did not fetch and use its new secret in time\. It is not tried again by itself\.$/)
        .waitFor();
      await person.getByText(/then rotate it again/).waitFor();
      await look(v, "rotation-person");
      await v.page.getByRole("navigation", { name: "Places" }).getByRole("link", { name: "Fleet" }).click();
      await v.page.getByRole("grid", { name: "Devices" }).getByRole("link", { name: "Timed out" }).click();
      await v.page.waitForURL(`**/devices/${d.id}/rotation`);
      await v.page.getByRole("heading", { name: "Attempt 1: timed out" }).waitFor();
      await v.page.getByRole("listitem").filter({ hasText: "no network" }).waitFor();
      await v.page.getByRole("listitem").filter({ hasText: "did not use the new secret in time" }).waitFor();
      await look(v, "story-timeout");
      await v.page.getByRole("link", { name: "Open the log when it timed out" }).click();
      await v.page.waitForURL(/\/devices\/\d+\?time=/);
      await v.page.getByRole("log").getByText("no network").waitFor();
    },
    long,
  );
});

area("rotation and who may what", {}, (w) => {
  test("who looks only sees everything and changes nothing", async () => {
    const d = await w.server.device("seen", "Seen");
    const link = /\/setup#([\w-]+)/.exec(w.server.log());
    if (!link) throw new Error(`no set-up link in the log:\n${w.server.log()}`);
    const password = "a good long password";
    const answer = await w.server.raw("/api/auth/setup", {
      method: "POST",
      body: { setup: link[1], username: "root", password, name: "Rosa Root" },
    });
    const Cookie = answer.headers
      .getSetCookie()
      .map((c) => c.split(";")[0])
      .join("; ");
    w.server.credentials = { Cookie };
    const vera = {
      username: "vera",
      name: "Vera",
      email: "vera@example.org",
      password,
      roles: ["viewer"],
      limit: null,
    };
    await w.server.api("/api/people", { method: "POST", body: vera });

    const v = await w.open("/rotation", { allow: [/\b401\b/, /\b403\b/] });
    await field(v, "User name").fill("vera");
    await field(v, "Password").fill(password);
    await button(v, "Log in").click();
    await v.page.getByRole("link", { name: "Seen", exact: true }).first().waitFor();
    expect(await button(v, /Rotate|Abort|Retry/).count()).toBe(0);
    expect(await v.page.getByRole("link", { name: "New campaign" }).count()).toBe(0);
    await look(v, "rotation-viewer");
    await v.page.goto(`${w.server.base}/devices/${d.id}/rotation`);
    await v.page.getByText(/^In order/).waitFor();
    expect(await button(v, /Rotate|Abort|Retry/).count()).toBe(0);
    await v.page.goto(`${w.server.base}/rotation/campaigns/new`);
    await v.page.getByRole("heading", { name: "This page is for editors" }).waitFor();
  });
});
