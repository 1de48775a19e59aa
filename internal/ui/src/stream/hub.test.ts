import { expect, test } from "vitest";
import { seeded } from "../logs/world";
import { TabClient } from "./client";
import { Hub, type HubDeps } from "./hub";
import { type Port, serve } from "./serve";
import type { Condition, StreamMessage } from "./types";

const none: Condition = { level: "", tag: "", query: "", regex: "" };
const tick = () => new Promise<void>((r) => setImmediate(r));

interface Stream {
  id: string;
  last: string | null;
  send(text: string): Promise<void>;
  end(): Promise<void>;
  gone(): boolean;
}

/** A server whose streams are written by the test, and a clock that the test moves. */
class Server {
  now = 1_000_000;
  timers: { at: number; f: () => void }[] = [];
  streams: Stream[] = [];
  posts: { path: string; body: Record<string, unknown> }[] = [];
  /** Statuses that the next requests are answered with, by path. */
  refusals: { path: string; status: number; error?: string }[] = [];
  down = false;
  /** Whether somebody is logged in, and how often that was asked. */
  known = true;
  asked = 0;

  readonly deps: HubDeps = {
    now: () => this.now,
    random: seeded(7),
    after: (ms, f) => {
      const t = { at: this.now + ms, f };
      this.timers.push(t);
      return () => {
        this.timers = this.timers.filter((o) => o !== t);
      };
    },
    fetch: (async (input: string, init?: RequestInit) => this.answer(input, init ?? {})) as typeof fetch,
  };

  private async answer(input: string, init: RequestInit): Promise<Response> {
    const [path, query] = input.split("?");
    if (this.down) throw new TypeError("network");
    const i = this.refusals.findIndex((r) => r.path === path);
    if (i >= 0) {
      const [r] = this.refusals.splice(i, 1);
      return new Response(JSON.stringify({ error: r?.error ?? "no" }), { status: r?.status ?? 500 });
    }
    if (path === "/api/auth/self") {
      this.asked++;
      return this.known ? Response.json({ subject: "alice" }) : Response.json({ error: "no" }, { status: 401 });
    }
    if (path === "/api/sse/stream") return this.open(new URLSearchParams(query).get("request_id") ?? "", init);
    if (path?.startsWith("/api/devices/")) return Response.json({ device_model_id: Number(path.split("/")[3]) % 10 });
    const body = JSON.parse(String(init.body)) as Record<string, unknown>;
    this.posts.push({ path: path?.split("/").pop() ?? "", body });
    return Response.json(body.device_id ? {} : { devices: [{ device_id: 11, device_key: "k11" }] });
  }

  private open(id: string, init: RequestInit): Response {
    let gone = false;
    init.signal?.addEventListener("abort", () => {
      gone = true;
    });
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      start: (c) => {
        this.streams.push({
          id,
          last: new Headers(init.headers).get("Last-Event-ID"),
          send: async (text) => {
            c.enqueue(encoder.encode(text));
            for (let i = 0; i < 5; i++) await tick();
          },
          end: async () => {
            c.close();
            for (let i = 0; i < 5; i++) await tick();
          },
          gone: () => gone,
        });
      },
    });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  async pass(ms: number): Promise<void> {
    const until = this.now + ms;
    for (;;) {
      const next = this.timers.filter((t) => t.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.now = next.at;
      this.timers = this.timers.filter((t) => t !== next);
      next.f();
      for (let i = 0; i < 5; i++) await tick();
    }
    this.now = until;
  }

  get stream(): Stream {
    const s = this.streams[this.streams.length - 1];
    if (!s) throw new Error("no stream");
    return s;
  }
}

/** A tab of the hub, over a port that is as asynchronous as a real one. */
function tab(hub: Hub) {
  let hubSide: Port | null = null;
  const client = new TabClient({
    open: () => {
      const a: Port = {
        onmessage: null,
        close: () => {},
        postMessage: (m) => queueMicrotask(() => b.onmessage?.({ data: structuredClone(m) } as MessageEvent)),
      };
      const b: Port = {
        onmessage: null,
        close: () => {},
        postMessage: (m) => queueMicrotask(() => a.onmessage?.({ data: structuredClone(m) } as MessageEvent)),
      };
      serve(hub, b, undefined);
      hubSide = b;
      return a;
    },
    lock: async () => null,
  });
  return { client, port: () => hubSide };
}

const batch = (device: number, seq: number, ...messages: string[]) =>
  `id: e-${seq}\ndata: ${JSON.stringify({
    type: "device-logs",
    payload: {
      device_entity_id: `d${device}`,
      device_id: device,
      received: new Date(1_000_000).toISOString(),
      lines: messages.length,
      logs: messages.map((message) => ({ message })),
      meta: messages.map((m) => ({ level: m.startsWith("E") ? "error" : "info", tag: "app", uptime_ms: 5 })),
      cursor: `e-${seq}`,
    },
  })}\n\n`;
const ready = "retry: 2000\n\nevent: ready\ndata:\n\n";

async function started() {
  const server = new Server();
  const hub = new Hub(server.deps);
  const t = tab(hub);
  const got: StreamMessage[] = [];
  const follow = t.client.follow({ device: 1 }, none, (m) => got.push(m));
  for (let i = 0; i < 5; i++) await tick();
  return { server, hub, t, got, follow };
}

const texts = (got: StreamMessage[]) =>
  got.flatMap((m) => (m.kind === "lines" ? m.lines.map((l) => `${l.cursor} ${l.message}`) : [m.kind]));

test("a device is followed once for all, and confirmed to each", async () => {
  const { server, hub, got } = await started();
  expect(server.posts).toEqual([]); // not before the stream is ready
  await server.stream.send(ready);
  expect(server.posts).toEqual([{ path: "subscribe", body: { device_id: 1, request_id: server.stream.id } }]);
  expect(server.stream.id).toMatch(/^[a-z0-9]{32}$/);
  await server.stream.send(batch(1, 5, "a", "b"));
  const other = tab(hub);
  const late: StreamMessage[] = [];
  other.client.follow({ device: 1 }, none, (m) => late.push(m));
  for (let i = 0; i < 5; i++) await tick();
  await server.stream.send(batch(1, 6, "c"));
  expect(texts(got)).toEqual(["following", "e-5.0 a", "e-5.1 b", "e-6.0 c"]);
  expect(texts(late)).toEqual(["following", "e-6.0 c"]);
  expect(server.posts.length).toBe(1);
  expect(got[1]).toMatchObject({ lines: [{ level: "info", tag: "app", uptime_ms: 5, device_entity_id: "d1" }, {}] });
});

test("a connection that comes back says where it was, by marks too, and nobody is told", async () => {
  const { server, t, got } = await started();
  await server.stream.send(ready);
  await server.stream.send(`${batch(1, 5, "a")}id: e-9\n\n`);
  const { id } = server.stream;
  await server.stream.end();
  expect(t.client.status()).toMatchObject({ state: "reconnecting", retryAt: server.now + 2000 }); // as it was told
  await server.pass(2000);
  expect(server.streams.length).toBe(2);
  expect(server.stream).toMatchObject({ id, last: "e-9" });
  await server.stream.send(ready + batch(1, 5, "a") + batch(1, 10, "b"));
  expect(texts(got)).toEqual(["following", "e-5.0 a", "e-10.0 b"]); // what is known already falls
  expect(t.client.status().state).toBe("live");
  expect(server.posts.map((p) => p.body.after)).toEqual([undefined, undefined]);
});

test("a long batch that comes in pieces is shown whole, and once", async () => {
  const { server, got } = await started();
  await server.stream.send(ready);
  const piece = (first: number, last: boolean, ...messages: string[]) => {
    const [, data = ""] = batch(1, 5, ...messages).split("data: ");
    const event = JSON.parse(data) as { payload: Record<string, unknown> };
    event.payload.indices = messages.map((_, i) => first + i);
    return `${last ? "id: e-5\n" : ""}data: ${JSON.stringify(event)}\n\n`;
  };
  const first = piece(0, false, "a", "b");
  const second = piece(2, true, "c", "d");
  await server.stream.send(first + second);
  expect(texts(got)).toEqual(["following", "e-5.0 a", "e-5.1 b", "e-5.2 c", "e-5.3 d"]);
  // After a connection that was lost between the pieces, or behind them, they may come again.
  await server.stream.send(first + second + batch(1, 5, "a", "b", "c", "d") + batch(1, 6, "e"));
  expect(texts(got).slice(5)).toEqual(["e-6.0 e"]);
});

test("a connection that never knew its place is told as lost", async () => {
  const { server, got } = await started();
  await server.stream.send(ready);
  await server.stream.end();
  await server.pass(2000);
  await server.stream.send(ready);
  expect(texts(got)).toEqual(["following", "lost", "following"]);
});

test("attempts are further and further apart, and a wake hastens them", async () => {
  const { server, t } = await started();
  await server.stream.send(ready);
  server.down = true;
  await server.stream.end();
  const waits: number[] = [];
  for (let i = 0; i < 9; i++) {
    const at = t.client.status().retryAt ?? 0;
    waits.push(at - server.now);
    await server.pass(at - server.now);
  }
  expect(waits[0]).toBe(2000);
  expect(waits[8]).toBeGreaterThan(14_999);
  expect(Math.max(...waits)).toBeLessThanOrEqual(30_000);
  server.down = false;
  t.client.wake(false);
  for (let i = 0; i < 5; i++) await tick();
  await server.stream.send(ready);
  expect(t.client.status().state).toBe("live");
});

test("a stream without heartbeats is silent after two, and left after three", async () => {
  const { server, t } = await started();
  await server.stream.send(`${ready}id: e-1\n\n`);
  for (let i = 0; i < 4; i++) {
    await server.pass(15_000);
    await server.stream.send(": heartbeat\n\n");
  }
  expect(t.client.status().state).toBe("live");
  await server.pass(38_000);
  expect(t.client.status().state).toBe("silent");
  await server.stream.send(": heartbeat\n\n");
  expect(t.client.status().state).toBe("live");
  const first = server.stream;
  await server.pass(140_000);
  expect(first.gone()).toBe(true);
  expect(server.streams.length).toBeGreaterThan(1);
});

test("what the server refuses is said, and can be tried again", async () => {
  const { server, t, got } = await started();
  server.refusals.push({ path: "/api/device-logs/subscribe", status: 404, error: "Device 1 not found" });
  await server.stream.send(ready);
  expect(got).toEqual([{ kind: "refused", status: 404, message: "Device 1 not found" }]);
  server.refusals.push({ path: "/api/sse/stream", status: 403 });
  await server.stream.end();
  await server.pass(2000);
  expect(t.client.status()).toMatchObject({ state: "refused" });
  expect(t.client.status().reason).toContain("access");
  await server.pass(600_000);
  expect(server.streams.length).toBe(1); // it does not try by itself
  t.client.retry();
  for (let i = 0; i < 5; i++) await tick();
  expect(server.streams.length).toBe(2);
});

test("a name that is somebody else's is changed, once", async () => {
  const { server, t } = await started();
  const rejected = 'event: rejected\ndata: {"status":403,"message":"Forbidden"}\n\n';
  const first = server.stream;
  await first.send(rejected);
  await server.pass(0);
  expect(server.streams.length).toBe(2);
  expect(server.stream.id).not.toBe(first.id);
  await server.stream.send(rejected);
  expect(t.client.status().state).toBe("refused");
});

test("a set that is wanted in two ways is asked for in whole, from where it is, and filtered here", async () => {
  const { server, hub, t } = await started();
  await server.stream.send(ready);
  const errors: StreamMessage[] = [];
  const every: StreamMessage[] = [];
  t.client.follow({ all: true }, { ...none, level: "error" }, (m) => errors.push(m));
  for (let i = 0; i < 5; i++) await tick();
  expect(server.posts[1]?.body).toMatchObject({ all: true, level: "error" });
  await server.stream.send(batch(7, 3, "E x"));
  const other = tab(hub);
  const follow = other.client.follow({ all: true }, none, (m) => every.push(m));
  for (let i = 0; i < 5; i++) await tick();
  expect(server.posts[2]?.body).toEqual({ all: true, after: "e-3", request_id: server.stream.id });
  await server.stream.send(batch(7, 4, "E y", "z"));
  expect(texts(errors)).toEqual(["following", "e-3.0 E x", "e-4.0 E y"]);
  expect(texts(every)).toEqual(["following", "e-4.0 E y", "e-4.1 z"]);
  follow.close();
  for (let i = 0; i < 5; i++) await tick();
  expect(server.posts.length).toBe(3); // asking for less would only risk a seam
});

test("the devices of a model are told apart, those made later too", async () => {
  const { server, t } = await started();
  await server.stream.send(ready);
  const got: StreamMessage[] = [];
  t.client.follow({ model: 1 }, none, (m) => got.push(m));
  for (let i = 0; i < 5; i++) await tick();
  await server.stream.send(
    batch(11, 2, "known") + batch(21, 3, "later") + batch(12, 4, "another's") + batch(21, 5, "again"),
  );
  for (let i = 0; i < 5; i++) await tick();
  expect(texts(got)).toEqual(["following", "e-2.0 known", "e-3.0 later", "e-5.0 again"]);
});

test("only the last tab's going closes the stream", async () => {
  const { server, hub, t } = await started();
  await server.stream.send(ready);
  const other = tab(hub);
  other.client.watch(() => {});
  for (let i = 0; i < 5; i++) await tick();
  t.client.leave();
  await tick();
  expect(server.posts.map((p) => p.path)).toEqual(["subscribe", "unsubscribe"]);
  await server.pass(10_000);
  expect(server.stream.gone()).toBe(false);
  other.client.leave();
  await tick();
  await server.pass(10_000);
  expect(server.stream.gone()).toBe(true);
});

test("a tab that the hub took for dead follows again", async () => {
  const { server, t, got } = await started();
  await server.stream.send(ready);
  t.port()?.onmessage?.({ data: { kind: "bye" } } as MessageEvent); // as if it had died
  t.client.wake(true);
  for (let i = 0; i < 10; i++) await tick();
  expect(texts(got)).toEqual(["following", "lost", "following"]);
});

test("the page learns of a new version, and of what else is told", async () => {
  const { server, t } = await started();
  const rotated: unknown[] = [];
  t.client.on("rotation-updated", (p) => rotated.push(p));
  const version = (v: string) => `data: ${JSON.stringify({ type: "version", payload: { version: v } })}\n\n`;
  await server.stream.send(version("1") + ready);
  expect(t.client.status().newVersion).toBe(null);
  await server.stream.send('data: {"type":"rotation-updated","payload":{"device_id":3}}\n\n');
  await server.stream.end();
  await server.pass(2000);
  await server.stream.send(version("2") + ready);
  expect(t.client.status().newVersion).toBe("2");
  expect(rotated).toEqual([{ device_id: 3 }]);
});

// The login.

const ended = (reason: string) => `data: ${JSON.stringify({ type: "session-ended", payload: { reason } })}\n\n`;
const rejected = 'event: rejected\ndata: {"status":401,"message":"Unauthorized"}\n\n';
const settled = async () => {
  for (let i = 0; i < 10; i++) await tick();
};

test("a session that nears its end is renewed by one question, and the stream goes on", async () => {
  const { server, hub, t } = await started();
  const other = tab(hub);
  other.client.watch(() => {});
  await server.stream.send(ready);
  await server.stream.send('data: {"type":"session-expiring","payload":{"expires_at":"2026-07-04T08:00:00Z"}}\n\n');
  await settled();
  expect(server.asked).toBe(1);
  expect(server.streams.length).toBe(1);
  expect(t.client.status().state).toBe("live");
});

test("after the end of a session nothing is asked until somebody has logged in, and then it goes on where it was", async () => {
  const { server, t, got } = await started();
  await server.stream.send(ready);
  await server.stream.send(batch(1, 5, "a"));
  server.known = false;
  await server.stream.send(ended("expired"));
  await settled();
  expect(t.client.status()).toMatchObject({ state: "signed-out", ended: "expired" });
  expect(server.streams[0]?.gone()).toBe(true);
  const { asked } = server;
  await server.pass(3_600_000);
  t.client.wake(false);
  await settled();
  expect(server.streams.length).toBe(1);
  expect(server.asked).toBe(asked);
  server.known = true;
  t.client.retry(); // as a tab does when somebody has logged in
  await settled();
  expect(server.stream.last).toBe("e-5");
  await server.stream.send(ready);
  await server.stream.send(batch(1, 5, "a") + batch(1, 6, "b"));
  expect(texts(got)).toEqual(["following", "e-5.0 a", "e-6.0 b"]);
  expect(t.client.status()).toMatchObject({ state: "live", ended: null });
});

test("a stream that is rejected for want of a login goes on at once when there is one by then", async () => {
  const { server, t } = await started();
  await server.stream.send(rejected); // the token was over, and asking renews it
  await settled();
  expect(server.asked).toBe(1);
  expect(server.streams.length).toBe(2);
  await server.stream.send(ready);
  expect(t.client.status().state).toBe("live");
});

test("a stream that is rejected again and again is not hammered", async () => {
  const { server, t } = await started();
  server.refusals.push(...Array.from({ length: 500 }, () => ({ path: "/api/sse/stream", status: 401 })));
  await server.stream.send(rejected);
  await settled();
  await server.pass(120_000);
  expect(server.asked).toBeLessThan(16);
  expect(t.client.status().state).toBe("reconnecting");
});

test("so is one that opens and ends at once", async () => {
  const { server } = await started();
  for (let i = 0; i < 200 && server.now < 1_120_000; i++) {
    if (!server.stream.gone()) await server.stream.send(ready + ended("revoked"));
    await settled();
    await server.pass(500);
  }
  expect(server.streams.length).toBeLessThan(16);
});

test("a subscription that is refused for want of a login waits for one", async () => {
  const { server, t, got } = await started();
  server.known = false;
  server.refusals.push({ path: "/api/device-logs/subscribe", status: 401 });
  await server.stream.send(ready);
  await settled();
  expect(got).toEqual([]);
  expect(t.client.status().state).toBe("signed-out");
  server.known = true;
  t.client.retry();
  await settled();
  await server.stream.send(ready);
  expect(texts(got)).toEqual(["following"]);
});

test("a tab that is opened after the login wakes the stream", async () => {
  const { server, hub, t } = await started();
  await server.stream.send(ready);
  server.known = false;
  await server.stream.send(ended("logout"));
  await settled();
  expect(t.client.status()).toMatchObject({ state: "signed-out", ended: "logout" });
  server.known = true;
  tab(hub).client.watch(() => {});
  await settled();
  expect(server.streams.length).toBe(2);
});

test("a right that is taken away ends what was followed by it, and is told", async () => {
  const { server, t, got } = await started();
  const all: StreamMessage[] = [];
  const taken: unknown[] = [];
  t.client.follow({ all: true }, none, (m) => all.push(m));
  t.client.on("subscription-ended", (p) => taken.push(p));
  await server.stream.send(ready);
  await settled();
  const payload = { device_id: 1, device_entity_id: "d1", reason: "forbidden" };
  await server.stream.send(`data: ${JSON.stringify({ type: "subscription-ended", payload })}\n\n`);
  await server.stream.send(batch(2, 7, "other"));
  expect(got.at(-1)).toMatchObject({ kind: "refused", status: 403 });
  expect(taken).toEqual([payload]);
  expect(texts(all)).toEqual(["following", "e-7.0 other"]);
});
