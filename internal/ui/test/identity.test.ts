import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { AuditPage, PersonInfo, Self, TokenInfo } from "../src/api/types";
import { area, patience, type View, type World } from "./harness";
import { shows, walkUp } from "./log";

const passwords = {
  root: "a good long password",
  vera: "vera may only look",
  ed: "ed may change things",
} as const;
type User = keyof typeof passwords;

/** What a browser says of an answer that a page must be able to take. */
const refused = [/\b401\b/, /\b403\b/];

const button = (v: View, name: string | RegExp) =>
  v.page.getByRole("button", { name, exact: typeof name === "string" });
const field = (v: View, name: string) => v.page.getByLabel(name, { exact: true });

/** The link that the program prints at its start. */
function setupPath(w: World): string {
  const link = /\/setup#[\w-]+/.exec(w.server.log());
  if (!link) throw new Error(`no set-up link in the log:\n${w.server.log()}`);
  return link[0];
}

/** Makes the accounts, and a token by which the test asks the server. */
async function people(w: World): Promise<void> {
  if (w.server.credentials.Authorization) return;
  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    w.server.raw(path, { method: "POST", body, headers });
  const answer = await post("/api/auth/setup", {
    setup: setupPath(w).split("#")[1],
    username: "root",
    password: passwords.root,
    name: "Rosa Root",
  });
  const Cookie = answer.headers
    .getSetCookie()
    .map((c) => c.split(";")[0])
    .join("; ");
  const token = await post("/api/account/tokens", { name: "test", roles: ["admin"], limit: null, days: 1 }, { Cookie });
  w.server.credentials = { Authorization: `Bearer ${((await token.json()) as { secret: string }).secret}` };
  for (const [username, role, name] of [
    ["vera", "viewer", "Vera Viewer"],
    ["ed", "editor", "Ed Editor"],
  ] as const) {
    await post("/api/people", {
      username,
      name,
      email: `${username}@example.org`,
      password: passwords[username],
      roles: [role],
      limit: null,
    });
  }
}

async function person(w: World, username: string): Promise<PersonInfo> {
  const { people } = await w.server.api<{ people: PersonInfo[] }>("/api/people");
  const p = people.find((x) => x.username === username);
  if (!p) throw new Error(`no ${username}`);
  return p;
}

/** Fills in the form that is shown. */
async function logIn(v: View, user: User, password: string = passwords[user]): Promise<void> {
  await field(v, "User name").fill(user);
  await field(v, "Password").fill(password);
  await button(v, "Log in").click();
}

/** A page of somebody who is logged in, reached by way of the login. */
async function enter(w: World, path: string, user: User, o: Parameters<World["open"]>[1] = {}): Promise<View> {
  const v = await w.open(path, { ...o, allow: [...refused, ...(o.allow ?? [])] });
  await logIn(v, user);
  await v.page.getByRole("navigation", { name: "Places" }).waitFor();
  return v;
}

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

area("the first admin", {}, (w) => {
  test("is made with the link that the program prints, and then everybody has to log in", async () => {
    const before = await w.open("/", { allow: refused });
    await button(before, "Login is off").click();
    await look(before, "menu-off");
    await button(before, "Switch login on …").click();
    await before.page.getByRole("dialog").getByText("set-up link").waitFor();
    await look(before, "login-help");
    await before.page.keyboard.press("Escape");

    const wrong = await w.open("/setup#wrong", { allow: refused });
    const fill = async (v: View) => {
      await field(v, "User name").fill("root");
      await field(v, "Name").fill("Rosa Root");
      await field(v, "Password").fill("short");
      await v.page.getByText("5 more characters").waitFor();
      expect(await button(v, "Make the admin").isDisabled()).toBe(true);
      await field(v, "Password").fill(passwords.root);
      await field(v, "Password again").fill(passwords.root);
    };
    await fill(wrong);
    await look(wrong, "setup");
    await button(wrong, "Make the admin").click();
    await wrong.page.getByText("does not take this link").waitFor();

    const v = await w.open(setupPath(w));
    await fill(v);
    await button(v, "Make the admin").click();
    await v.page.waitForURL((u) => u.pathname === "/" && u.hash === "");
    await button(v, "Account: Rosa Root").waitFor();
    // The page that was open to everybody stays, and asks who it is.
    await before.page.getByRole("dialog", { name: "Login was switched on" }).waitFor();
    await logIn(before, "root");
    await button(before, "Account: Rosa Root").waitFor();

    const again = await w.open(setupPath(w), { allow: refused });
    await again.page.getByRole("heading", { name: "It is set up already" }).waitFor();
  });
});

area("a server that anybody can reach", { settings: { HOST: "0.0.0.0", ALLOW_INSECURE: "1" } }, (w) => {
  test("says so on every page", async () => {
    const v = await w.open("/overview");
    await v.page.getByText("Anybody who can reach this address can see and change everything.").waitFor();
    await look(v, "insecure");
    await button(v, "How to switch login on").click();
    await v.page.getByRole("dialog").getByText("signalbox user add").waitFor();
    await v.page.keyboard.press("Escape");
    await v.page.getByRole("link", { name: "Models" }).click();
    await v.page.getByText("Anybody who can reach this address").waitFor();
  });
});

for (const auth of ["token", "secret"] as const) {
  area(`a broker that wants a ${auth}`, { settings: { MQTT_AUTH: auth } }, (w) => {
    test("is reached by the commands that the page shows", async () => {
      await people(w);
      const fleet = await enter(w, "/", "ed");
      await fleet.page.getByText(`--login ${auth}`).waitFor();
      await fleet.page.getByText("the page of the device, once it is made, says with which command").waitFor();
      await look(fleet, `welcome-${auth}`);
      const d = await w.server.device("kitchen", "Kitchen");
      const v = await w.open(`/devices/${d.id}`, { beside: fleet, allow: refused });
      await v.page.getByText("First get the secret").waitFor();
      await look(v, `first-line-${auth}`);
      const commands = await v.page.locator(".empty .copy code").allTextContents();
      expect(commands.length).toBe(2);
      const TOKEN = w.server.credentials.Authorization?.split(" ")[1];
      execFileSync("bash", ["-ec", commands.join("\n")], { env: { ...process.env, TOKEN }, timeout: patience });
      await shows(v, "hello");

      const other = await w.server.device("hall", "Hall");
      const viewer = await enter(w, `/devices/${other.id}`, "vera");
      await viewer.page.getByText("An editor can give you the secret").waitFor();
      expect(await viewer.page.locator(".empty .copy code").count()).toBe(1);
    });
  });
}

area("people", {}, (w) => {
  let n = 0;
  const device = async () => {
    await people(w);
    return await w.server.device(`d${++n}`, `Device ${n}`);
  };

  test("who is not logged in is led to the login, and from there back", async () => {
    await people(w);
    const v = await w.open("/models?x=1", { allow: refused });
    await v.page.waitForURL((u) => u.pathname === "/login" && u.searchParams.get("redirect") === "/models?x=1");
    const focused = () => v.page.evaluate(() => document.activeElement?.getAttribute("autocomplete"));
    await expect.poll(focused).toBe("username");
    await look(v, "login");
    await logIn(v, "vera", "not her password");
    await v.page.getByRole("alert").getByText("The user name or the password is not right.").waitFor();
    expect(await field(v, "Password").inputValue()).toBe("");
    await look(v, "login-wrong");
    await field(v, "Password").fill(passwords.vera);
    await button(v, "Show: Password").click();
    expect(await field(v, "Password").getAttribute("type")).toBe("text");
    await field(v, "Password").press("Enter");
    await v.page.waitForURL((u) => u.pathname === "/models" && u.search === "?x=1");
  });

  test("a login leads nowhere else", async () => {
    await people(w);
    for (const to of ["https://example.org/", "//example.org/", "/\\example.org/", "/%09/example.org"]) {
      const v = await w.open(`/login?redirect=${encodeURIComponent(to)}`, { allow: refused });
      await logIn(v, "vera");
      await v.page.getByRole("navigation", { name: "Places" }).waitFor();
      expect(new URL(v.page.url()).origin).toBe(w.server.base);
      await v.page.close();
    }
  });

  test("a viewer sees everything and no way to change it", async () => {
    const d = await device();
    const v = await enter(w, "/", "vera");
    await v.page
      .getByRole("grid", { name: "Devices" })
      .getByText(d.device_name ?? "")
      .first()
      .waitFor();
    for (const name of ["New device", "People", "Audit"]) {
      expect(await v.page.getByRole("link", { name }).count(), name).toBe(0);
    }
    await v.page.goto(`${w.server.base}/devices/${d.id}/settings`);
    await v.page.getByText("It is not shown: there may be secrets in it.").waitFor();
    expect(await v.page.getByRole("textbox", { name: "Configuration" }).count()).toBe(0);
    for (const name of ["Save", "Delete …", "Revoke …", "Undo changes", "Format"]) {
      expect(await button(v, name).filter({ visible: true }).count(), name).toBe(0);
    }
    await look(v, "viewer-settings");
    await v.page.goto(`${w.server.base}/models`);
    await v.page.getByRole("link", { name: "relay", exact: true }).waitFor();
    expect(await v.page.getByRole("link", { name: "New model" }).count()).toBe(0);
    for (const [path, heading] of [
      ["/people", "This page is for admins"],
      ["/audit", "This page is for admins"],
      ["/devices/new", "This page is for editors"],
    ] as const) {
      await v.page.goto(w.server.base + path);
      await v.page.getByRole("heading", { name: heading }).waitFor();
    }
    await look(v, "not-allowed");
  });

  test("an editor locks a device out and lets it in again", async () => {
    const d = await device();
    const v = await enter(w, `/devices/${d.id}/settings`, "ed");
    await button(v, "Revoke …").click();
    await button(v, "Revoke the device").click();
    await v.page.getByText("This device is revoked.").waitFor();
    await look(v, "revoked");
    expect((await w.server.api<{ revoked: boolean }>(`/api/devices/${d.id}`)).revoked).toBe(true);
    await button(v, "Restore …").click();
    await button(v, "Restore the device").click();
    await button(v, "Revoke …").waitFor();
    expect((await w.server.api<{ revoked: boolean }>(`/api/devices/${d.id}`)).revoked).toBe(false);

    // Somebody knows its secret: it gets another one.
    const secret = async () =>
      (await w.server.api<{ client_secret: string }>(`/api/devices/${d.id}/credentials`)).client_secret;
    const before = await secret();
    await button(v, "Revoke …").click();
    await button(v, "Revoke the device").click();
    await button(v, "Restore …").click();
    await v.page.getByLabel("Somebody else may know its secret: give it another one").check();
    await look(v, "restore-new-secret");
    await button(v, "Restore the device").click();
    await button(v, "Revoke …").waitFor();
    expect(await secret()).not.toBe(before);
  });

  test("a session that ends under an open log loses and doubles nothing", async () => {
    const d = await device();
    const entity = d.device_entity_id ?? "";
    const say = (from: number, to: number) =>
      w.server.publish(
        Array.from({ length: to - from }, (_, i) => ({ entity, message: `I (${from + i}) app: line ${from + i}` })),
      );
    await say(0, 50);
    const v = await enter(w, `/devices/${d.id}`, "vera");
    await shows(v, "line 49");
    await say(50, 60);
    await shows(v, "line 59");
    const at = await v.page.evaluate(() => {
      (window as { mark?: number }).mark = 7; // gone if the page is loaded anew
      return performance.timeOrigin;
    });
    await w.server.api(`/api/people/${(await person(w, "vera")).id}/sessions`, { method: "DELETE" });
    const dialog = v.page.getByRole("dialog", { name: "Your session has ended" });
    await dialog.waitFor();
    await say(60, 90);
    expect(await v.page.getByRole("dialog").count()).toBe(1);
    await v.page.keyboard.press("Escape");
    await v.page.keyboard.press("Escape");
    expect(await dialog.isVisible()).toBe(true);
    expect(await field(v, "User name").inputValue()).toBe("vera");
    await field(v, "Password").fill("wrong once more");
    await button(v, "Log in").click();
    await dialog.getByText("is not right").waitFor();
    await field(v, "Password").fill(passwords.vera);
    await button(v, "Log in").click();
    await dialog.waitFor({ state: "hidden" });
    await say(90, 100);
    await shows(v, "line 99");
    expect(await v.page.evaluate(() => [(window as { mark?: number }).mark, performance.timeOrigin])).toEqual([7, at]);
    const all = await walkUp(v);
    expect(all).toEqual((await w.server.lines(d.id)).map((l) => l.cursor));
    expect(all.length).toBe(100);
  });

  test("a draft outlives the session, and is saved with the next one", async () => {
    const d = await device();
    const v = await enter(w, `/devices/${d.id}/settings`, "ed");
    const text = v.page.getByRole("textbox", { name: "Configuration" });
    await text.waitFor();
    await v.page.getByRole("switch", { name: /Active/ }).click();
    await w.server.api(`/api/people/${(await person(w, "ed")).id}/sessions`, { method: "DELETE" });
    await v.page.getByRole("dialog", { name: "Your session has ended" }).waitFor();
    await v.page.getByText("what you have not saved is still here").waitFor();
    await field(v, "Password").fill(passwords.ed);
    await button(v, "Log in").click();
    await v.page.getByRole("dialog").waitFor({ state: "hidden" });
    await button(v, "Save").click();
    await expect.poll(async () => (await w.server.api<{ active: boolean }>(`/api/devices/${d.id}`)).active).toBe(false);
  });

  test("a right that is taken away ends what was followed by it, and says so", async () => {
    const [kept, taken] = [await device(), await device()];
    const config = JSON.stringify({ ...JSON.parse(kept.config ?? "{}"), tags: ["lab"] });
    await w.server.api(`/api/devices/${kept.id}`, { method: "PUT", body: { config, active: true } });
    const say = (text: string) =>
      w.server.publish(
        [kept, taken].map((d) => ({ entity: d.device_entity_id ?? "", message: `I (1) app: ${text} ${d.id}` })),
      );
    const v = await enter(w, `/devices/${taken.id}`, "vera", { allow: [/\b404\b/] });
    const both = await w.open(`/logs?devices=${kept.id},${taken.id}`, { beside: v, allow: [...refused, /\b404\b/] });
    await say("first");
    await shows(v, `first ${taken.id}`);
    await shows(both, `first ${taken.id}`);
    const { id } = await person(w, "vera");
    await w.server.api(`/api/people/${id}`, { method: "PUT", body: { limit: { models: [], tags: ["lab"] } } });
    try {
      await v.page.getByText("You may not see this device any more.").waitFor();
      await both.page.getByText(`New lines of ${taken.device_entity_id} do not come any more`).waitFor();
      await say("second");
      await shows(both, `second ${kept.id}`);
      expect(await both.page.getByText(`second ${taken.id}`, { exact: true }).count()).toBe(0);
      expect(await both.page.getByText("New lines are not shown").count()).toBe(0);
      await look(both, "taken");
    } finally {
      await w.server.api(`/api/people/${id}`, { method: "PUT", body: { limit: null } });
    }
  });

  test("who sees a part of the fleet gets no figures of the whole", async () => {
    await people(w);
    const { id } = await person(w, "vera");
    await w.server.api(`/api/people/${id}`, { method: "PUT", body: { limit: { models: [], tags: ["lab"] } } });
    try {
      const v = await enter(w, "/", "vera");
      await v.page.getByRole("link", { name: "Models" }).waitFor();
      expect(await v.page.getByRole("link", { name: "Overview" }).count()).toBe(0);
      await v.page.goto(`${w.server.base}/overview`);
      await v.page.getByRole("heading", { name: "This page is of the whole fleet" }).waitFor();
    } finally {
      await w.server.api(`/api/people/${id}`, { method: "PUT", body: { limit: null } });
    }
  });

  test("another person who logs in gets a page of their own", async () => {
    await people(w);
    const v = await enter(w, "/people", "root");
    await v.page.getByText("Vera Viewer").waitFor();
    await w.server.api(`/api/people/${(await person(w, "root")).id}/sessions`, { method: "DELETE" });
    await v.page.getByRole("dialog", { name: "Your session has ended" }).waitFor();
    await logIn(v, "vera");
    await v.page.getByRole("heading", { name: "This page is for admins" }).waitFor();
    expect(await v.page.getByText("Ed Editor").count()).toBe(0);
  });

  test("too many attempts are counted down", async () => {
    await people(w);
    const v = await w.open("/login", { allow: [...refused, /\b429\b/] });
    const wait = button(v, /^Wait \d+ s$/);
    for (let i = 0; i < 30 && (await wait.count()) === 0; i++) {
      await field(v, "User name").fill("nobody-at-all");
      await field(v, "Password").fill(`guess number ${i}`);
      await v.page.getByRole("button", { name: "Log in" }).click();
      await v.page
        .getByRole("alert")
        .getByText(/not right|Too many/)
        .waitFor();
    }
    await v.page.getByText("Too many attempts").waitFor();
    const seconds = async () => Number(/\d+/.exec((await wait.textContent()) ?? "")?.[0]);
    const first = await seconds();
    await expect.poll(seconds).toBeLessThan(first);
    expect(await wait.isDisabled()).toBe(true);
  });

  test("the account: sessions, password, API tokens", async () => {
    await people(w);
    const elsewhere = await enter(w, "/", "ed");
    const v = await enter(w, "/account", "ed");
    const sessions = v.page.getByRole("region", { name: "Sessions" });
    await sessions.getByText("This browser").waitFor();
    await button(v, "New token").click();
    await field(v, "Name").fill("Backup script");
    expect(await v.page.getByRole("checkbox", { name: /^admin/ }).count()).toBe(0);
    await v.page.getByRole("radio", { name: "only some" }).check();
    expect(await button(v, "Make the token").isDisabled()).toBe(true);
    await field(v, "or with one of these tags").fill("lab, north");
    await look(v, "new-token");
    await button(v, "Make the token").click();
    const dialog = v.page.getByRole("dialog", { name: "The secret of Backup script" });
    await dialog.waitFor();
    const secret = await dialog.locator("code").first().textContent();
    await dialog.getByRole("button", { name: "Copy" }).first().click();
    expect(await v.page.evaluate(() => navigator.clipboard.readText())).toBe(secret);
    const self = await w.server.api<Self>("/api/auth/self", { headers: { Authorization: `Bearer ${secret}` } });
    expect(self).toMatchObject({ kind: "token", roles: ["viewer"], limit: { tags: ["lab", "north"] } });
    await look(v, "token-secret");
    await button(v, "I have copied it").click();
    await v.page.getByText("Backup script").first().waitFor();
    expect(await v.page.getByText(secret ?? "", { exact: false }).count()).toBe(0);
    await look(v, "account");
    await button(v, "Revoke Backup script").click();
    await button(v, "Revoke the token").click();
    await v.page.getByText("You have none.").waitFor();
    const after = await fetch(`${w.server.base}/api/devices`, { headers: { Authorization: `Bearer ${secret}` } });
    expect(after.status).toBe(401);

    await button(v, "End all others …").click();
    await button(v, "End them").click();
    await elsewhere.page.getByRole("dialog", { name: "Your session has ended" }).waitFor();
    await expect.poll(() => sessions.getByRole("listitem").count()).toBe(1);

    await field(v, "Present password").fill("not it at all");
    await field(v, "New password").fill(passwords.ed);
    await field(v, "New password again").fill(passwords.ed);
    const change = button(v, "Change the password");
    v.tolerate(/\b400\b/);
    await change.click();
    await v.page
      .getByRole("region", { name: "Password" })
      .getByRole("alert")
      .getByText(/password is wrong/i)
      .waitFor();
    await field(v, "Present password").fill(passwords.ed);
    await change.click();
    await v.page.getByText("Your password is changed.").waitFor();
  });

  test("people: made, found, changed, locked out, deleted", async () => {
    await people(w);
    const v = await enter(w, "/people", "root", { allow: [/\b400\b|\b409\b/] });
    await v.page.getByText("Vera Viewer").waitFor();
    await look(v, "people");
    await button(v, "New person").click();
    await field(v, "User name").fill("tom");
    await field(v, "Name").fill("Tom Temporary");
    await field(v, "Password").fill("a password for tom");
    await field(v, "Password again").fill("a password for tom");
    await look(v, "new-person");
    await button(v, "Make the account").click();
    await v.page.getByText("Tom Temporary can log in.").waitFor();
    await v.page.keyboard.press("/");
    await v.page.keyboard.type("tempo");
    await expect.poll(() => v.page.getByRole("list", { name: "People" }).getByRole("listitem").count()).toBe(1);
    await button(v, "Edit Tom Temporary").click();
    await v.page.getByRole("checkbox", { name: /^editor/ }).check();
    await v.page.getByRole("switch", { name: /Locked out/ }).click();
    await look(v, "person");
    await button(v, "Save").click();
    await v.page.getByRole("list", { name: "People" }).getByText("Locked out").waitFor();
    expect(await person(w, "tom")).toMatchObject({ disabled: true, roles: ["editor", "viewer"] });
    await button(v, "Edit Tom Temporary").click();
    await button(v, "Delete …").click();
    expect(await button(v, "Delete the account").isDisabled()).toBe(true);
    await look(v, "delete-person");
    await v.page.getByRole("textbox", { name: "Type tom to confirm" }).fill("tom");
    await button(v, "Delete the account").click();
    await v.page.getByText("Tom Temporary is deleted.").waitFor();
    await field(v, "Search people").fill("");

    await button(v, "Edit Rosa Root").click();
    await v.page.getByRole("checkbox", { name: /^admin/ }).uncheck();
    await button(v, "Save").click();
    await v.page
      .getByRole("dialog")
      .getByRole("alert")
      .getByText(/last admin/i)
      .waitFor();
    await v.page.keyboard.press("Escape");
    await v.page.getByRole("region", { name: "API tokens of everybody" }).getByText("of Rosa Root").waitFor();
  });

  test("the audit says who did what, filtered by its address, and gives it away as a file", async () => {
    const d = await device();
    await w.server.api(`/api/devices/${d.id}`, { method: "PUT", body: { config: d.config, active: false } });
    const v = await enter(w, "/audit", "root");
    const table = v.page.getByRole("table");
    await table.getByRole("row").filter({ hasText: "changed the device" }).first().waitFor();
    await look(v, "audit");
    await v.page.getByRole("combobox", { name: "What" }).selectOption("device.*");
    await field(v, "Of what").fill(`device/${d.id}`);
    await v.page.waitForURL((u) => u.searchParams.get("target") === `device/${d.id}`);
    await expect.poll(() => table.getByRole("row").filter({ visible: true }).count()).toBe(3); // the head, made, changed
    await button(v, /^Details: changed the device/).click();
    await table.getByText('"action": "device.update"').waitFor();
    await look(v, "audit-details");
    await v.page.reload();
    await expect.poll(() => table.getByRole("row").filter({ visible: true }).count()).toBe(3);
    const wanted = await w.server.api<AuditPage>(`/api/audit?action=device.*&target=device/${d.id}`);
    for (const [name, lines] of [
      ["NDJSON", 2],
      ["CSV", 3],
    ] as const) {
      const [file] = await Promise.all([v.page.waitForEvent("download"), button(v, name).click()]);
      const text = readFileSync((await file.path()) ?? "", "utf8");
      expect(text.trim().split(/\r?\n/).length).toBe(lines);
      expect(text).toContain(wanted.events[0]?.at);
    }
    await button(v, "Clear").click();
    await v.page.waitForURL((u) => u.search === "");
    await field(v, "Of what").fill("device/999999");
    await v.page.getByRole("heading", { name: "Nothing is like that" }).waitFor();
  });

  test("the audit loads what is older", async () => {
    await people(w);
    for (let i = 0; i < 130; i++) {
      const t = await w.server.api<TokenInfo>("/api/people/1", { method: "PUT", body: { name: "Rosa Root" } });
      expect(t.id).toBe(1);
    }
    const v = await enter(w, "/audit?action=person.update", "root");
    const rows = v.page.getByRole("table").getByRole("button", { name: /^Details:/ });
    await expect.poll(() => rows.count()).toBe(100);
    await v.page.mouse.move(700, 500);
    await v.page.mouse.wheel(0, 100_000);
    await expect.poll(() => rows.count()).toBeGreaterThan(129);
    await v.page.getByText("That is all that is kept.").waitFor();
  });

  test("a logout ends every tab", async () => {
    const d = await device();
    const v = await enter(w, "/", "vera");
    const other = await w.open(`/devices/${d.id}`, { beside: v, allow: refused });
    await other.page.getByRole("log").waitFor();
    await button(v, "Account: Vera Viewer").click();
    await look(v, "menu");
    await v.page.getByRole("navigation", { name: "Account" }).getByRole("button", { name: "Log out" }).click();
    for (const page of [v.page, other.page]) {
      await page.getByRole("heading", { name: "You are logged out" }).waitFor();
    }
    await look(v, "logged-out");
    await v.page.goBack();
    await v.page.waitForURL((u) => u.pathname === "/login");
    expect(await other.page.getByRole("log").count()).toBe(0);
  });

  test("a login in another tab opens the one that waits", async () => {
    const d = await device();
    const v = await enter(w, `/devices/${d.id}`, "vera");
    const other = await w.open("/models", { beside: v, allow: refused });
    await other.page.getByRole("link", { name: "relay", exact: true }).waitFor();
    await w.server.api(`/api/people/${(await person(w, "vera")).id}/sessions`, { method: "DELETE" });
    for (const page of [v.page, other.page]) {
      await page.getByRole("dialog", { name: "Your session has ended" }).waitFor();
    }
    expect(await v.page.evaluate(() => document.activeElement?.getAttribute("autocomplete"))).toBe("current-password");
    await look(v, "session-ended");
    await field(v, "Password").fill(passwords.vera);
    await button(v, "Log in").click();
    for (const page of [v.page, other.page]) {
      await page.getByRole("dialog", { name: "Your session has ended" }).waitFor({ state: "hidden" });
    }
  });
});
