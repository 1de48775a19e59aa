import { expect, test } from "vitest";
import { ApiError } from "../api/client";
import type { Mode, Self } from "../api/types";
import { Session, type Told } from "./session";

const alice: Self = {
  subject: "alice",
  email: null,
  name: "Alice",
  roles: ["editor"],
  mode: "local",
  insecure: false,
  limit: null,
  expires_at: null,
  session: "s1",
  kind: "person",
};
const bob: Self = { ...alice, subject: "bob" };
const everybody: Self = { ...alice, subject: "local-user", kind: "local", mode: "off", roles: ["admin"] };
const refused = (status: number) => new ApiError(status, "no", null, null);

/** A tab before a server that knows who is logged in, or not. */
function tab(first: Self | number) {
  const t = {
    who: first as Self | number,
    mode: { mode: "local", insecure: false, setup: false } as Mode,
    asked: 0,
    told: [] as Told[],
    reloads: 0,
    aways: 0,
    unsaved: false,
    now: 0,
  };
  const session = new Session({
    mode: async () => t.mode,
    self: async () => {
      t.asked++;
      await Promise.resolve();
      if (typeof t.who === "number") throw refused(t.who);
      return t.who;
    },
    tell: (m) => t.told.push(m),
    reload: () => t.reloads++,
    away: () => t.aways++,
    unsaved: () => t.unsaved,
    now: () => t.now,
  });
  return { t, session };
}

const settled = async () => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

test.each<[Self | number, string]>([
  [alice, "in"],
  [401, "out"],
  [403, "denied"],
  [0, "failed"],
  [500, "failed"],
])("a page that is opened: %j", async (who, phase) => {
  const { session } = tab(who);
  await session.boot();
  expect(session.state().phase).toBe(phase);
});

test("however many requests are refused, one question is asked, and all go on after the login", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  const { epoch } = session;
  const before = t.asked;
  const waiting = Array.from({ length: 20 }, () => session.unauthorized(epoch));
  await settled();
  expect(t.asked - before).toBe(1);
  expect(session.state()).toMatchObject({ phase: "ended", self: { subject: "alice" } });
  const late = session.unauthorized(epoch);
  t.who = alice;
  session.entered(alice);
  expect(await Promise.all([...waiting, late])).toEqual(Array(21).fill(true));
  expect(session.state().phase).toBe("in");
  expect(t.told).toEqual([{ kind: "in", subject: "alice" }]);
  // One that was sent before the login and answered after it is sent again without a question.
  expect(await session.unauthorized(epoch)).toBe(true);
  expect(t.reloads).toBe(0);
});

test("a request that is refused to somebody who is logged in does not bring the dialog", async () => {
  const { session } = tab(alice);
  await session.boot();
  expect(await session.unauthorized(session.epoch)).toBe(false);
  expect(session.state().phase).toBe("in");
});

test("a request that is given up waits no longer", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  const abort = new AbortController();
  const waiting = session.unauthorized(session.epoch, abort.signal);
  await settled();
  abort.abort();
  await expect(waiting).rejects.toThrow();
});

test("another person who logs in gets a page of their own", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  await session.check("expired");
  expect(session.state()).toMatchObject({ phase: "ended", ending: "expired" });
  session.entered(bob);
  expect(t.reloads).toBe(1);
  expect(session.state().phase).toBe("ended");
});

test("a login in another tab is taken over, another person's is not", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  await session.check("revoked");
  t.who = alice;
  await session.heard({ kind: "in", subject: "alice" });
  expect(session.state().phase).toBe("in");
  await session.heard({ kind: "in", subject: "bob" });
  expect(t.reloads).toBe(1);
});

test("coming back to the tab finds a login that nobody told of", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  await session.check("unknown");
  t.who = alice;
  session.seen();
  await settled();
  expect(session.state().phase).toBe("in");
});

test("a tab that is come back to often asks once a minute, and never where nobody logs in", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  const before = t.asked;
  for (let i = 0; i < 10; i++) session.seen();
  await settled();
  expect(t.asked).toBe(before);
  t.now = 61_000;
  session.seen();
  await settled();
  expect(t.asked).toBe(before + 1);

  const off = tab(everybody);
  off.t.mode = { mode: "off", insecure: false, setup: true };
  await off.session.boot();
  off.t.now = 1e9;
  off.session.seen();
  await settled();
  expect(off.t.asked).toBe(1);
});

test("a logout in another tab takes this page away, unless something is unsaved here", async () => {
  const first = tab(alice);
  await first.session.boot();
  first.t.who = 401;
  await first.session.heard({ kind: "out" });
  expect(first.t.aways).toBe(1);
  expect(first.session.state().phase).toBe("left");

  const second = tab(alice);
  await second.session.boot();
  second.t.who = 401;
  second.t.unsaved = true;
  await second.session.heard({ kind: "out" });
  expect(second.t.aways).toBe(0);
  expect(second.session.state()).toMatchObject({ phase: "ended", ending: "logout" });
});

test("a logout is one, whichever way it is heard of first", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  const stream = session.streamEnded("revoked");
  const channel = session.heard({ kind: "out" });
  await Promise.all([stream, channel]);
  expect(session.state().phase).toBe("left");

  const late = tab(alice);
  await late.session.boot();
  late.t.who = 401;
  await late.session.streamEnded("revoked");
  expect(late.session.state().phase).toBe("ended");
  await late.session.heard({ kind: "out" });
  expect(late.session.state().phase).toBe("left");
});

test("the tab that logs out shows no dialog", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.who = 401;
  session.left();
  void session.unauthorized(session.epoch);
  await session.streamEnded("logout");
  expect(session.state().phase).toBe("left");
  expect(t.told).toEqual([{ kind: "out" }]);
});

test("a page of everybody goes on as whoever logs in first when login is switched on", async () => {
  const { t, session } = tab(everybody);
  t.mode = { mode: "off", insecure: false, setup: true };
  await session.boot();
  t.who = 401;
  await session.streamEnded("revoked");
  expect(session.state().phase).toBe("ended");
  session.entered(alice);
  expect(t.reloads).toBe(0);
  expect(session.state()).toMatchObject({ phase: "in", self: { subject: "alice" }, mode: { mode: "local" } });
});

test("roles that are taken away are noticed, and the page stays", async () => {
  const { t, session } = tab(alice);
  await session.boot();
  t.now = 10_000;
  t.who = { ...alice, roles: ["viewer"] };
  session.forbidden();
  await settled();
  expect(session.state()).toMatchObject({ phase: "in", self: { roles: ["viewer"] } });
  t.now = 20_000;
  t.who = 403;
  session.forbidden();
  await settled();
  expect(session.state()).toMatchObject({ phase: "in", self: { roles: [] } });
});
