// What the browser tests stand on: the real program with ports and data of its own, devices that speak to it by MQTT, and a
// Chromium that reports whatever a page must never do.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server as HttpServer } from "node:http";
import { createRequire } from "node:module";
import { type AddressInfo, createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { AxeResults } from "axe-core";
import { type Browser, type BrowserContext, type CDPSession, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect } from "vitest";
import type { Device, LogLine, LogPage, Model } from "../src/api/types";

/** How long to wait for what should take milliseconds, on a machine that is busy with other things. */
export const patience = 30_000;

/** Tests run for as long as CI does, or as a laptop likes. */
export const full = process.env.CI === "true" || process.env.FULL === "1";

const root = join(import.meta.dirname, "../../..");
const program = process.env.SIGNALBOX_BIN ?? join(root, "bin/signalbox");
const browserProgram = process.env.CHROMIUM ?? "/usr/bin/chromium";
export const out = join(import.meta.dirname, "out");

/** What this machine lacks; "" when nothing. */
function missing(): string {
  try {
    accessSync(browserProgram, constants.X_OK);
  } catch {
    return `${browserProgram} is not installed; "make setup" installs it on Debian`;
  }
  try {
    execFileSync("mosquitto_pub", ["--version"], { stdio: "ignore" });
  } catch (e) {
    // It answers with a status that is not 0 in some versions.
    if ((e as NodeJS.ErrnoException).code === "ENOENT") {
      return 'mosquitto_pub is not installed; "make setup" installs it on Debian';
    }
  }
  return "";
}

/** The tests of one area, with a server of their own and a browser. What a page did wrong fails the test that opened it. */
export function area(
  name: string,
  options: { settings?: Record<string, string>; fleet?: Fleet },
  tests: (w: World) => void,
): void {
  const lack = missing();
  if (lack !== "" && process.env.CI !== "true") {
    describe.skip(`${name} (skipped: ${lack})`, () => tests(new World()));
    return;
  }
  describe(name, () => {
    const world = new World();
    beforeAll(async () => {
      if (lack !== "") throw new Error(lack);
      await world.begin(options.settings ?? {}, options.fleet);
    });
    afterEach(() => world.endOfTest());
    afterAll(() => world.end());
    tests(world);
  });
}

/** A simulated fleet beside the server. */
export interface Fleet {
  devices: number;
  /** Lines a second of each device. */
  rate: number;
}

/** A server and a browser. Its fields are there once the tests run. */
export class World {
  server!: Server;
  private browser!: Browser;
  private fence!: HttpServer;
  private outside: string[] = [];
  private views: View[] = [];
  private contexts: BrowserContext[] = [];

  async begin(settings: Record<string, string>, fleet?: Fleet): Promise<void> {
    mkdirSync(out, { recursive: true });
    this.server = await Server.start(settings);
    if (fleet) await this.server.simulate(fleet);
    // Whatever does not go to this machine goes to this proxy, also from workers, which no event of the page would show.
    this.fence = createServer((req, res) => {
      this.outside.push(String(req.url));
      res.writeHead(502).end();
    });
    this.fence.on("connect", (req, socket) => {
      this.outside.push(String(req.url));
      socket.end();
    });
    this.fence.listen(0, "127.0.0.1");
    await once(this.fence, "listening");
    this.browser = await chromium.launch({
      executablePath: browserProgram,
      args: ["--no-sandbox", "--force-color-profile=srgb"],
      proxy: { server: `http://127.0.0.1:${(this.fence.address() as AddressInfo).port}`, bypass: "127.0.0.1" },
    });
  }

  /** Opens a page of the server. Tabs of one context share their storage and their worker, as those of one browser do. */
  async open(path: string, o: OpenOptions = {}): Promise<View> {
    const context =
      o.beside?.page.context() ??
      (await this.browser.newContext({
        viewport: o.viewport ?? { width: 1440, height: 900 },
        colorScheme: o.theme ?? "dark",
        permissions: ["clipboard-read", "clipboard-write"],
        reducedMotion: "reduce",
        timezoneId: "Asia/Kathmandu",
        locale: "en-GB",
        acceptDownloads: true,
      }));
    if (!o.beside) this.contexts.push(context);
    const view = await View.open(context, this.server.base + path, o.allow ?? []);
    this.views.push(view);
    return view;
  }

  async endOfTest(): Promise<void> {
    const wrong = [
      ...this.views.flatMap((v) => v.wrong()),
      ...this.outside
        .filter((address) => !chromiumsOwn.test(address))
        .map((address) => `a request left the machine: ${address}`),
    ];
    const contexts = this.contexts;
    this.views = [];
    this.contexts = [];
    this.outside = [];
    for (const c of contexts) await c.close();
    expect(wrong, "what a page must never do").toEqual([]);
  }

  async end(): Promise<void> {
    await this.browser?.close();
    this.fence?.close();
    await this.server?.end();
  }
}

interface OpenOptions {
  viewport?: { width: number; height: number };
  theme?: "dark" | "light";
  /** A tab in the same browser as that one. */
  beside?: View;
  /** Errors in the console that belong to the test, such as those of a server that is away. */
  allow?: RegExp[];
}

// Where Chromium itself calls, whatever page is open. A page that asked for one of these would be seen by View.
const chromiumsOwn =
  /^(https?:\/\/)?(accounts\.google|update\.googleapis|clients\d\.google|(optimizationguide-pa|content-autofill)\.googleapis|(redirector|edgedl\.me)\.gvt1)\.com[:/]/;

/** What the browser says while a server is away. */
export const away = [/net::ERR_/, /Failed to load resource/];

/** An open page. */
export class View {
  private faults: string[] = [];
  private constructor(
    readonly page: Page,
    private readonly allow: RegExp[],
  ) {}

  /** From now on such an error belongs to the test as well. */
  tolerate(error: RegExp): void {
    this.allow.push(error);
  }

  static async open(context: BrowserContext, url: string, allow: RegExp[]): Promise<View> {
    const page = await context.newPage();
    page.setDefaultTimeout(patience);
    const view = new View(page, [...allow]);
    page.on("console", (m) => {
      // A violation of the Content-Security-Policy is told as an error.
      if (m.type() === "error") view.faults.push(`console: ${m.text()} (${m.location().url})`);
    });
    page.on("pageerror", (e) => view.faults.push(`exception: ${e.stack ?? e.message}`));
    page.on("request", (r) => {
      if (/^(https?|wss?):/.test(r.url()) && new URL(r.url()).origin !== new URL(url).origin) {
        view.faults.push(`a request to another place: ${r.url()}`);
      }
    });
    page.on("requestfailed", (r) => {
      const why = r.failure()?.errorText ?? "";
      if (why !== "net::ERR_ABORTED") view.faults.push(`request failed: ${r.url()} ${why}`); // aborted: by the page itself
    });
    page.on("response", (r) => {
      if (r.status() >= 400) view.faults.push(`console: Failed to load resource: ${r.status()} ${r.url()}`);
    });
    await page.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (e) => {
        console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`);
      });
    });
    await page.goto(url);
    return view;
  }

  wrong(): string[] {
    return this.faults.filter((f) => !this.allow.some((a) => a.test(f)));
  }

  /** What axe has to say about the page as it is. */
  async axe(): Promise<string[]> {
    const cdp = await this.devtools();
    try {
      // By the debugger, which the policy of the page does not bind.
      await cdp.send("Runtime.evaluate", { expression: axeSource, returnByValue: false });
      const { result, exceptionDetails } = await cdp.send("Runtime.evaluate", {
        expression: "axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations))",
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      const violations = JSON.parse(String(result.value)) as AxeResults["violations"];
      return violations.map(
        (v) =>
          `${v.id}: ${v.help}: ${v.nodes
            .slice(0, 3)
            .map((n) => `${n.html.slice(0, 160)} ${n.failureSummary ?? ""}`)
            .join(" | ")}`,
      );
    } finally {
      await cdp.detach();
    }
  }

  devtools(): Promise<CDPSession> {
    return this.page.context().newCDPSession(this.page);
  }

  async screenshot(name: string): Promise<void> {
    await this.page.screenshot({ path: join(out, `${name}.png`) });
  }
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** A line to publish: who says it, and what. */
export interface Said {
  entity: string;
  message: string;
}

/** A running `signalbox serve`. Its ports and data stay the same over restarts. */
export class Server {
  /** What goes along with every request, such as an API token where people log in. */
  credentials: Record<string, string> = {};
  private process: ChildProcess | null = null;
  private others: ChildProcess[] = [];
  private constructor(
    private readonly dir: string,
    private readonly env: Record<string, string>,
    readonly base: string,
    private readonly internal: string,
    private readonly mqttPort: number,
  ) {}

  static async start(settings: Record<string, string>): Promise<Server> {
    try {
      accessSync(program, constants.X_OK);
    } catch {
      throw new Error(`${program} is not there: run "make build", or set SIGNALBOX_BIN`);
    }
    const dir = mkdtempSync(join(tmpdir(), "signalbox-page-"));
    const [port, mqtt, internal] = [await freePort(), await freePort(), await freePort()];
    const env = {
      PATH: process.env.PATH ?? "",
      TZ: "Asia/Kathmandu",
      PORT: String(port),
      MQTT_LISTEN: `127.0.0.1:${mqtt}`,
      INTERNAL_LISTEN: `127.0.0.1:${internal}`,
      DATA_DIR: join(dir, "data"),
      LOG_FORMAT: "json",
      // A page must come back within the patience of a test.
      SSE_HEARTBEAT_INTERVAL: "2s",
      ...settings,
    };
    const server = new Server(dir, env, `http://127.0.0.1:${port}`, `http://127.0.0.1:${internal}`, mqtt);
    await server.launch();
    return server;
  }

  /** Starts the process and waits until it is ready. */
  async launch(): Promise<void> {
    const log = openSync(join(this.dir, "log"), "a");
    const child = spawn(program, ["serve"], { cwd: this.dir, env: this.env, stdio: ["ignore", log, log] });
    this.process = child;
    await until("the server is ready", async () => {
      if (child.exitCode !== null) throw new Stop(`signalbox ended with ${child.exitCode}:\n${this.log()}`);
      return (await fetch(`${this.base}/health/readyz`)).ok;
    });
  }

  /** Ends it as `kill -9` does: what was not written is lost. */
  async kill(): Promise<void> {
    const child = this.process;
    this.process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** Ends it and all that speaks to it, and removes its data. */
  async end(): Promise<void> {
    for (const o of this.others) {
      if (o.exitCode === null && o.signalCode === null) {
        const ended = once(o, "exit");
        o.kill("SIGKILL");
        await ended;
      }
    }
    await this.kill();
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** The end of its log. */
  log(): string {
    return readFileSync(join(this.dir, "log"), "utf8").slice(-4000);
  }

  /** One request to the API; its answer must be 2xx. */
  async api<T>(
    path: string,
    init: { method?: string; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<T> {
    const answer = await this.raw(path, init);
    const text = await answer.text();
    return (text === "" ? undefined : JSON.parse(text)) as T;
  }

  async raw(
    path: string,
    init: { method?: string; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<Response> {
    const answer = await fetch(this.base + path, {
      method: init.method ?? "GET",
      headers: {
        ...(init.body === undefined ? {} : { "Content-Type": "application/json" }),
        ...this.credentials,
        ...init.headers,
      },
      ...(init.body === undefined ? {} : { body: JSON.stringify(init.body) }),
    });
    if (!answer.ok) throw new Error(`${init.method ?? "GET"} ${path}: ${answer.status} ${await answer.text()}`);
    return answer;
  }

  /** A figure of /metrics, all of its labels together; 0 when there is none. */
  async metric(name: string): Promise<number> {
    const text = await (await fetch(`${this.internal}/metrics`)).text();
    let sum = 0;
    for (const line of text.split("\n")) {
      if (line.startsWith(`${name} `) || line.startsWith(`${name}{`)) sum += Number(line.slice(line.lastIndexOf(" ")));
    }
    return sum;
  }

  private models = new Map<string, Promise<number>>();

  /** The id of the model with that code, made when it is missing. */
  model(code = "relay", schema?: object): Promise<number> {
    let id = this.models.get(code);
    if (id === undefined) {
      id = this.api<Model>("/api/device-models", {
        method: "POST",
        body: {
          code,
          name: `Model ${code}`,
          ...(schema === undefined ? {} : { config_schema: JSON.stringify(schema, null, 2) }),
        },
      }).then((m) => m.id);
      this.models.set(code, id);
    }
    return id;
  }

  /** A new device. */
  async device(entity: string, name = entity, model?: number): Promise<Device> {
    const config = { deviceName: name, deviceEntityId: entity, enableOTA: true };
    return await this.api<Device>("/api/devices", {
      method: "POST",
      body: { device_model_id: model ?? (await this.model()), config: JSON.stringify(config, null, 2) },
    });
  }

  /** Publishes the lines in order, and returns when the server has taken all. */
  async publish(lines: readonly Said[]): Promise<void> {
    const pub = this.publisher();
    const ended = once(pub, "exit");
    pub.stdin?.end(encode(lines));
    const [status] = await ended;
    if (status !== 0) throw new Error(`mosquitto_pub ended with ${status}`);
  }

  /** A connection that stays open, to publish lines while something else happens; the device's own if it is given. */
  feed(device?: Device): { say(lines: readonly Said[]): void; end(): Promise<void> } {
    const pub = this.publisher(...(device ? ["-i", device.client_id] : []));
    const ended = once(pub, "exit");
    return {
      say: (lines) => void pub.stdin?.write(encode(lines)),
      end: async () => {
        pub.stdin?.end();
        await ended;
      },
    };
  }

  private publisher(...args: string[]): ChildProcess {
    const pub = spawn(
      "mosquitto_pub",
      ["-h", "127.0.0.1", "-p", String(this.mqttPort), "-q", "1", "-t", "iotsupport/logsink", "-l", ...args],
      { stdio: ["pipe", "ignore", "ignore"] },
    );
    pub.stdin?.on("error", () => {}); // it ends when the server is away, and says so by its status
    this.others.push(pub);
    return pub;
  }

  /** Starts a simulated fleet, and returns when its devices are there. */
  async simulate(fleet: Fleet): Promise<ChildProcess> {
    const log = openSync(join(this.dir, "sim.log"), "a");
    const sim = spawn(
      program,
      [
        "sim",
        ...["--devices", String(fleet.devices), "--rate", String(fleet.rate)],
        ...["--mqtt", `mqtt://127.0.0.1:${this.mqttPort}`, "--server", this.base],
      ],
      { cwd: this.dir, env: { PATH: this.env.PATH ?? "" }, stdio: ["ignore", log, log] },
    );
    this.others.push(sim);
    await until("the fleet speaks", async () => {
      if (sim.exitCode !== null) {
        throw new Stop(`the simulated fleet ended:\n${readFileSync(join(this.dir, "sim.log"), "utf8").slice(-2000)}`);
      }
      const { devices } = await this.api<{ devices: unknown[] }>("/api/devices");
      return devices.length >= fleet.devices && (await this.metric("iot_logsink_messages_received_total")) > 0;
    });
    return sim;
  }

  /** Ends a process that simulate started. */
  async hush(sim: ChildProcess): Promise<void> {
    const ended = once(sim, "exit");
    sim.kill("SIGTERM");
    await ended;
  }

  /** Every line of a device that the API has, oldest first. */
  async lines(device: number): Promise<LogLine[]> {
    const all: LogLine[] = [];
    let after = "";
    for (;;) {
      const query = after === "" ? "start=2000-01-01" : `after=${after}`;
      const page = await this.api<LogPage>(`/api/devices/${device}/logs?limit=10000&${query}`);
      all.push(...page.logs);
      if (!page.has_more || page.last_cursor === null) return all;
      after = page.last_cursor;
    }
  }
}

function encode(lines: readonly Said[]): string {
  return lines.map((l) => `${JSON.stringify({ entity_id: l.entity, message: l.message })}\n`).join("");
}

// Below the ports that the kernel gives to clients: one of those could otherwise take the port of a server that is down.
async function freePort(): Promise<number> {
  for (let i = 0; i < 1000; i++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const socket = createSocket();
    const free = await new Promise<boolean>((resolve) => {
      socket.once("error", () => resolve(false));
      socket.listen(port, "127.0.0.1", () => socket.close(() => resolve(true)));
    });
    if (free) return port;
  }
  throw new Error("no free port");
}

/** An error that ends the waiting at once. */
export class Stop extends Error {}

/** Waits until it is so. Errors count as "not yet", unless they are a Stop. */
export async function until(what: string, so: () => Promise<boolean> | boolean, limit = patience): Promise<void> {
  const end = Date.now() + limit;
  let last: unknown = null;
  for (;;) {
    try {
      if (await so()) return;
      last = null;
    } catch (e) {
      if (e instanceof Stop) throw e;
      last = e;
    }
    if (Date.now() > end) throw new Error(`still not so after ${limit} ms: ${what}`, { cause: last });
    await sleep(25);
  }
}

/** Writes figures of this run beside the screenshots, by name. */
export function record(name: string, figures: Record<string, number>): void {
  const path = join(out, "figures.json");
  let all: Record<string, unknown> = {};
  try {
    all = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch {
    // The first of this run.
  }
  all[name] = figures;
  mkdirSync(out, { recursive: true });
  writeFileSync(path, `${JSON.stringify(all, null, 2)}\n`);
}
