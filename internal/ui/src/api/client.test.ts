import { afterEach, expect, test, vi } from "vitest";
import { ApiError, type Guard, guardedBy, request, retryAfter, send } from "./client";

afterEach(() => vi.unstubAllGlobals());

test("what a Retry-After header means", () => {
  const now = Date.parse("2026-07-04T08:00:00Z");
  expect(retryAfter("12", now)).toBe(12);
  expect(retryAfter("Sat, 04 Jul 2026 08:00:30 GMT", now)).toBe(30);
  expect(retryAfter("Sat, 04 Jul 2026 07:00:00 GMT", now)).toBe(0);
  for (const nothing of [null, "", " ", "soon", "-1.5x"]) expect(retryAfter(nothing, now)).toBe(null);
});

/** Answers with these statuses, one after the other. */
function server(...statuses: number[]) {
  const sent: string[] = [];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit) => {
    sent.push(`${init.method} ${path} ${init.body ?? ""}`.trim());
    const status = statuses.shift() ?? 200;
    return status === 200 ? Response.json({ ok: true }) : Response.json({ error: "no" }, { status });
  });
  return sent;
}

class Waiting implements Guard {
  epoch = 1;
  asked = 0;
  forbade = 0;
  constructor(private readonly answer: () => Promise<boolean>) {}
  unauthorized() {
    this.asked++;
    return this.answer();
  }
  forbidden() {
    this.forbade++;
  }
}

test("a request without a login waits for one and is sent again", async () => {
  let go = () => {};
  const guard = new Waiting(() => new Promise((resolve) => (go = () => resolve(true))));
  guardedBy(guard);
  const sent = server(401, 200);
  const answer = request("/api/devices/7", { method: "PUT", body: { a: 1 } });
  await vi.waitFor(() => expect(guard.asked).toBe(1));
  expect(sent.length).toBe(1);
  go();
  expect(await answer).toEqual({ ok: true });
  expect(sent).toEqual(['PUT /api/devices/7 {"a":1}', 'PUT /api/devices/7 {"a":1}']);
});

test("what is refused although somebody is logged in is tried once more and then fails", async () => {
  const guard = new Waiting(async () => false);
  guardedBy(guard);
  const sent = server(401, 401, 401);
  await expect(send("/api/x")).rejects.toMatchObject({ status: 401 });
  expect(sent.length).toBe(2);
});

test("a request about logging in itself does not wait", async () => {
  const guard = new Waiting(async () => true);
  guardedBy(guard);
  server(401);
  await expect(request("/api/auth/login", { method: "POST", anonymous: true })).rejects.toBeInstanceOf(ApiError);
  expect(guard.asked).toBe(0);
});

test("what is forbidden is told", async () => {
  const guard = new Waiting(async () => true);
  guardedBy(guard);
  server(403);
  await expect(send("/api/x")).rejects.toMatchObject({ status: 403 });
  expect(guard.forbade).toBe(1);
});
