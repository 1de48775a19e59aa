// The one event stream of a browser: who follows what, over all tabs, and the connection that serves them. It knows neither
// whether it runs in a worker nor what carries its messages.

import { ApiError, failure } from "../api/client";
import type { Gap, LogLine } from "../api/types";
import { compile, type Matcher } from "../logs/filter";
import type { LineFilter } from "../logs/types";
import { type Block, reader } from "./sse";
import type { Condition, StreamMessage, StreamStatus, Target } from "./types";

/** What a tab asks of the hub. `id` is the tab's own number for one follower. */
export type Ask =
  | { kind: "hello"; lock: string | null }
  | { kind: "follow"; id: number; target: Target; condition: Condition }
  | { kind: "unfollow"; id: number }
  /** Try at once if it is not connected. `hurry` false: only if something was not heard for long. */
  | { kind: "wake"; hurry: boolean }
  | { kind: "pong" }
  | { kind: "bye" };

/** What the hub says to a tab. */
export type Say =
  | { kind: "told"; messages: { ids: number[]; message: StreamMessage }[] }
  | { kind: "status"; status: StreamStatus; version: string | null }
  | { kind: "event"; type: string; payload: unknown }
  | { kind: "ping" }
  /** The hub took the tab for gone and has forgotten what it follows. */
  | { kind: "forgotten" };

/** The surroundings of a hub. */
export interface HubDeps {
  fetch: typeof fetch;
  now(): number;
  /** Calls back after some milliseconds; the answer undoes that. */
  after(ms: number, f: () => void): () => void;
  /** Of [0, 1). */
  random(): number;
}

/** A tab, as the hub has it. */
export interface Tab {
  ask(a: Exclude<Ask, { kind: "hello" } | { kind: "pong" }>): void;
  leave(): void;
}

interface Member {
  say(s: Say): void;
  follows: Map<number, Follower>;
  /** What is to be said to it when the present piece of the stream was read. */
  queue: { ids: number[]; message: StreamMessage }[];
}

interface Follower {
  member: Member;
  id: number;
  condition: Condition;
  matches: Matcher | null;
  topic: Topic;
  following: boolean;
}

/** A target, with everybody who follows it. */
interface Topic {
  key: string;
  target: Target;
  followers: Set<Follower>;
  /** What the server was asked for on this connection; null: nothing yet. */
  asked: Condition | null;
  /** The server has confirmed that. */
  confirmed: boolean;
  /** Something else is to be asked when the answer is there. */
  again: boolean;
  asking: AbortController | null;
  failures: number;
  /** It was followed on an earlier connection, so that this one goes on where that was. */
  before: boolean;
  members: Set<number>;
}

/** One connection of the stream. */
interface Connection {
  ready: boolean;
  /** When it became ready. */
  since: number;
  abort: AbortController;
  beats: number;
  beat: number;
}

const noCondition: Condition = { level: "", tag: "", query: "", regex: "" };

/** How often the server is expected to be heard, until it has shown how often it is. */
const heartbeat = 15_000;
const leastHeartbeat = 5_000;
const mostHeartbeat = 300_000;
const firstWait = 1_000;
const mostWait = 30_000;
/** Status of a stream that only goes on is told so often. */
const statusEvery = 1_000;
/** The stream is kept for a moment when nobody is left: a page that is loaded anew comes back. */
const linger = 2_000;

/** A stream that lasted so long was not refused. */
const lasting = 10_000;

/** Why the server ends a session. */
const endings = ["expired", "revoked", "logout"] as const;
const endingWords: Record<(typeof endings)[number], string> = {
  expired: "It was over by time.",
  revoked: "It was ended from elsewhere.",
  logout: "Somebody logged out.",
};

/** The statuses that do not go away by trying again. */
const final = new Set([400, 401, 403, 404, 405, 410]);

/** Holds the stream. Messages to tabs are sent after the piece of the stream that they come from was read, in one. */
export class Hub {
  private readonly members = new Set<Member>();
  private readonly topics = new Map<string, Topic>();
  /** Requests to unsubscribe that are under way, by topic: one to subscribe again that overtook them would be undone. */
  private readonly leaving = new Map<string, Promise<void>>();
  private status: StreamStatus;
  private version: string | null = null;
  private requestId: string;
  private lastId: string | null = null;
  /** The connection: of one number each, so that what belongs to an old one is known by it. */
  private connection: Connection | null = null;
  private failures = 0;
  private denied = 0;
  /** How often the login was asked for without a stream that lasted since. */
  private renewals = 0;
  private renewing: Promise<boolean | null> | null = null;
  private retryAfter: number | null = null;
  private interval = heartbeat;
  /** The server's clock less ours, milliseconds; null until it was seen. */
  private skew: number | null = null;
  private readonly seen = new Map<number, { epoch: string; seq: number; end: number }>();
  /** The keys of devices, as answers to subscriptions gave them. */
  private readonly keys = new Map<number, string>();
  private readonly models = new Map<number, number | null>();
  private readonly held = new Map<number, StreamMessage[]>();
  private readonly undo = new Map<string, () => void>();
  private toldStatus = 0;

  constructor(private readonly deps: HubDeps) {
    this.requestId = this.name();
    this.status = {
      state: "idle",
      since: deps.now(),
      heard: 0,
      lag: 0,
      retryAt: null,
      reason: null,
      ended: null,
      newVersion: null,
    };
  }

  /** A tab has come; `say` reaches it. */
  join(say: (s: Say) => void): Tab {
    const member: Member = { say, follows: new Map(), queue: [] };
    this.members.add(member);
    this.cancel("linger");
    this.sayStatus(member);
    // A tab that comes after the login has ended was let in: there is one again.
    if (this.status.state === "idle" || this.status.state === "signed-out") this.connect();
    let gone = false;
    const leave = () => {
      if (gone) return;
      gone = true;
      for (const f of [...member.follows.values()]) this.unfollow(f);
      this.members.delete(member);
      if (this.members.size === 0) this.later("linger", linger, () => this.stop());
    };
    return {
      leave,
      ask: (a) => {
        if (gone) return;
        switch (a.kind) {
          case "follow":
            this.follow(member, a.id, a.target, a.condition);
            break;
          case "unfollow": {
            const f = member.follows.get(a.id);
            if (f) this.unfollow(f);
            break;
          }
          case "wake":
            this.wake(a.hurry);
            break;
          case "bye":
            leave();
            break;
        }
        this.flush();
      },
    };
  }

  // Followers.

  private follow(member: Member, id: number, target: Target, condition: Condition): void {
    const key = "device" in target ? `device ${target.device}` : "model" in target ? `model ${target.model}` : "all";
    let topic = this.topics.get(key);
    if (!topic) {
      topic = {
        key,
        target,
        followers: new Set(),
        asked: null,
        confirmed: false,
        again: false,
        asking: null,
        failures: 0,
        before: false,
        members: new Set(),
      };
      this.topics.set(key, topic);
    }
    let matches: Matcher | null = null;
    if (!("device" in target) && !isEmpty(condition)) {
      try {
        matches = compile(asFilter(condition));
      } catch (e) {
        this.tell([{ member, id }], {
          kind: "refused",
          status: 400,
          message: e instanceof Error ? e.message : String(e),
        });
        return;
      }
    }
    const f: Follower = { member, id, condition, matches, topic, following: false };
    topic.followers.add(f);
    member.follows.set(id, f);
    this.subscribe(topic);
  }

  private unfollow(f: Follower): void {
    const { topic } = f;
    f.member.follows.delete(f.id);
    topic.followers.delete(f);
    if (topic.followers.size > 0) return; // what is asked for may be more than is needed, and stays so: it costs no seam
    this.topics.delete(topic.key);
    topic.asking?.abort();
    if (topic.asked !== null && this.connection?.ready) this.unsubscribe(topic);
  }

  /** What the followers of a topic want, if that is the same, else everything. */
  private wanted(topic: Topic): Condition {
    if ("device" in topic.target) return noCondition;
    const [first, ...others] = topic.followers;
    return first && others.every((o) => same(o.condition, first.condition)) ? first.condition : noCondition;
  }

  /** Asks the server for the lines of a topic, if it was not asked for all that is wanted. */
  private subscribe(topic: Topic): void {
    const c = this.connection;
    if (!c?.ready) return;
    const want = this.wanted(topic);
    if (topic.asked !== null && (same(topic.asked, want) || isEmpty(topic.asked))) {
      if (topic.confirmed) this.following(topic);
      return;
    }
    if (topic.asking !== null) {
      topic.again = true;
      return;
    }
    const abort = new AbortController();
    topic.asking = abort;
    topic.again = false;
    const body: Record<string, unknown> = { ...this.naming(topic.target), request_id: this.requestId };
    for (const [name, value] of Object.entries(want)) if (value !== "") body[name] = value;
    // With another condition the server begins anew: what comes between is asked for again, and known by its cursors.
    if (topic.asked !== null && this.lastId !== null) body.after = this.lastId.split("~")[0];
    topic.asked = want;
    topic.confirmed = false;
    const current = () => this.connection === c && topic.asking === abort;
    const left = this.leaving.get(topic.key);
    const post = () => this.post("/api/device-logs/subscribe", body, abort.signal);
    (left === undefined ? post() : left.then(post)).then(
      (answer) => {
        if (!current()) return;
        topic.asking = null;
        topic.failures = 0;
        this.denied = 0;
        topic.confirmed = true;
        topic.before = true;
        const { devices } = answer as { devices?: { device_id: number; device_key: string }[] };
        if (devices) topic.members = new Set(devices.map((d) => d.device_id));
        for (const d of devices ?? []) this.keys.set(d.device_id, d.device_key);
        if (topic.again) this.subscribe(topic);
        else this.following(topic);
        this.flush();
      },
      (e: unknown) => {
        if (!current()) return;
        topic.asking = null;
        topic.asked = null;
        this.notSubscribed(topic, e);
        this.flush();
      },
    );
  }

  private notSubscribed(topic: Topic, e: unknown): void {
    const status = e instanceof ApiError ? e.status : 0;
    if (status === 403 && this.denied === 0) {
      // The server does not know the connection any more, as after a restart between two requests.
      this.denied++;
      this.drop();
      this.connect();
      return;
    }
    if (status === 401) {
      this.signedOut(null);
      return;
    }
    if (e instanceof ApiError && (final.has(status) || status === 429)) {
      const whom = [...topic.followers];
      this.tell(whom, { kind: "refused", status, message: e.message });
      return;
    }
    topic.failures++;
    const wait = Math.min(mostWait, firstWait * 2 ** (topic.failures - 1)) * (0.5 + this.deps.random() / 2);
    this.later(`subscribe ${topic.key}`, wait, () => {
      if (this.topics.get(topic.key) === topic) this.subscribe(topic);
    });
  }

  /** The server has confirmed: those are told who were not. */
  private following(topic: Topic): void {
    const devices = "device" in topic.target ? 1 : topic.members.size;
    const whom = [...topic.followers].filter((f) => !f.following);
    for (const f of whom) f.following = true;
    this.tell(whom, { kind: "following", devices });
  }

  private unsubscribe(topic: Topic): void {
    const body = { ...this.naming(topic.target), request_id: this.requestId };
    // If that fails its lines come and find nobody, until the next connection.
    const done = this.post("/api/device-logs/unsubscribe", body, this.connection?.abort.signal).then(
      () => {},
      () => {},
    );
    this.leaving.set(topic.key, done);
    void done.then(() => {
      if (this.leaving.get(topic.key) === done) this.leaving.delete(topic.key);
    });
  }

  private naming(target: Target): Record<string, unknown> {
    if ("device" in target) return { device_id: target.device };
    return "model" in target ? { model_id: target.model } : { all: true };
  }

  private async post(path: string, body: unknown, signal: AbortSignal | undefined): Promise<unknown> {
    const init: RequestInit = {
      method: "POST",
      headers: { Accept: "application/json", "Content-Type": "application/json" },
      body: JSON.stringify(body),
      credentials: "same-origin",
    };
    if (signal) init.signal = signal;
    const answer = await this.deps.fetch(path, init);
    this.clock(answer);
    if (!answer.ok) throw await failure(answer);
    return answer.json();
  }

  // The connection.

  private connect(): void {
    this.cancel("retry");
    const c: Connection = { ready: false, since: 0, abort: new AbortController(), beats: 0, beat: 0 };
    this.connection = c;
    for (const t of this.topics.values()) {
      t.asking?.abort();
      t.asking = null;
      t.asked = null;
      t.confirmed = false;
    }
    this.setState(this.status.heard === 0 ? "connecting" : "reconnecting", this.status.reason);
    this.watchDog();
    void this.listen(c);
  }

  private async listen(c: Connection): Promise<void> {
    const current = () => this.connection === c;
    try {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (this.lastId !== null) headers["Last-Event-ID"] = this.lastId;
      const answer = await this.deps.fetch(`/api/sse/stream?request_id=${this.requestId}`, {
        headers,
        signal: c.abort.signal,
        cache: "no-store",
        credentials: "same-origin",
      });
      if (!current()) return;
      this.clock(answer);
      if (!answer.ok) {
        const e = await failure(answer);
        if (!current()) return;
        const wait = Number(answer.headers.get("Retry-After"));
        if (wait > 0) this.retryAfter = wait * 1000;
        if (e.status === 401) this.signedOut(null);
        else if (final.has(e.status)) this.refuse(e.status, e.message);
        else this.lost(e.message);
        return;
      }
      if (answer.body === null || !/^text\/event-stream\b/.test(answer.headers.get("Content-Type") ?? "")) {
        this.refuse(404, "Something else than Signalbox answers in its place. A proxy may stand in between.");
        return;
      }
      const read = reader({
        block: (b) => this.block(c, b),
        retry: (ms) => {
          this.retryAfter = ms;
        },
        comment: () => this.beat(c),
      });
      const decoder = new TextDecoder();
      const body = answer.body.getReader();
      for (;;) {
        const { done, value } = await body.read();
        if (!current()) return;
        if (done) break;
        this.heard();
        read(decoder.decode(value, { stream: true }));
        this.flush();
        if (!current()) return;
      }
      this.lost("The server has ended the connection.");
    } catch (e) {
      if (!current()) return;
      this.lost(e instanceof TypeError ? "The server cannot be reached." : String(e));
    } finally {
      this.flush();
    }
  }

  private block(c: Connection, b: Block): void {
    if (this.connection !== c) return;
    if (b.id !== null && b.id !== "") this.lastId = b.id;
    if (b.data === null) {
      this.setLag(0); // the server says where it is when it has nothing else to say
      return;
    }
    if (b.event === "ready") {
      c.ready = true;
      c.since = this.deps.now();
      this.failures = 0;
      this.setState("live", null);
      if (this.lastId === null) this.forgetPlaces();
      for (const t of this.topics.values()) this.subscribe(t);
      return;
    }
    let content: { type?: string; payload?: unknown; status?: number; message?: string };
    try {
      content = JSON.parse(b.data) as typeof content;
    } catch {
      return; // of another kind than ours
    }
    if (b.event === "rejected") {
      this.rejected(content.status ?? 403, content.message ?? "");
      return;
    }
    switch (content.type) {
      case "device-logs":
        this.lines(content.payload as Batch, b.id ?? this.lastId);
        break;
      case "log-gap":
        this.deliver((content.payload as { device_id: number }).device_id, {
          kind: "gap",
          gap: content.payload as Gap,
        });
        break;
      case "version": {
        const { version, error } = content.payload as { version?: string; error?: string };
        if (version !== undefined && error === undefined && version !== this.version) {
          this.version = version;
          this.sayStatuses();
        }
        break;
      }
      case "session-expiring":
        // To be asked who we are renews what can be renewed, and the stream with it; if not, the stream says that it ends.
        void this.whoAreWe();
        break;
      case "session-ended":
        this.signedOut(endings.find((r) => r === (content.payload as { reason?: string }).reason) ?? null);
        break;
      case "subscription-ended":
        this.taken((content.payload as { device_id: number }).device_id);
        for (const m of this.members) m.say({ kind: "event", type: content.type, payload: content.payload });
        break;
      case undefined:
        break;
      default:
        for (const m of this.members) m.say({ kind: "event", type: content.type, payload: content.payload });
    }
  }

  /** Without an id nothing says where an earlier connection was. */
  private forgetPlaces(): void {
    for (const t of this.topics.values()) {
      if (t.before) this.tell([...t.followers], { kind: "lost" });
      t.before = false;
      for (const f of t.followers) f.following = false;
    }
  }

  /** The server opens the stream only to say that it does not. */
  private rejected(status: number, message: string): void {
    if ((status === 403 || status === 400) && this.denied === 0) {
      // Somebody else may have the name, or the place may be one that this server never gave: begin as a new client.
      this.denied++;
      this.requestId = this.name();
      this.lastId = null;
      this.drop();
      this.connect();
      return;
    }
    if (status === 401) this.signedOut(null);
    else this.refuse(status, message);
  }

  /** A right was taken away: what is followed for itself is so no more. Sets go on without the device. */
  private taken(device: number): void {
    const topic = this.topics.get(`device ${device}`);
    if (!topic) return;
    topic.asked = null;
    topic.confirmed = false;
    for (const f of topic.followers) f.following = false;
    this.tell([...topic.followers], { kind: "refused", status: 403, message: "You may not see this device any more." });
  }

  /**
   * The server does not know who we are, or no longer. The places of everything are kept. If a session can be renewed, the
   * stream goes on by itself; else it waits until somebody has logged in, and asks for nothing meanwhile.
   */
  private signedOut(why: StreamStatus["ended"]): void {
    const c = this.connection;
    if (c?.ready && this.deps.now() - c.since > lasting) this.renewals = 0;
    this.drop();
    if (this.members.size === 0) {
      this.stop();
      return;
    }
    this.status.retryAt = null;
    this.setState("reconnecting", why === null ? null : endingWords[why]);
    this.flush();
    void this.whoAreWe().then((known) => {
      if (this.connection !== null || this.status.state !== "reconnecting" || this.undo.has("retry")) return;
      if (known === false) {
        this.status.ended = why;
        this.setState("signed-out", why === null ? null : endingWords[why]);
      } else if (known && this.renewals++ === 0) this.connect();
      else {
        // It would not stop by itself: the stream is refused to somebody who is logged in.
        this.failures = Math.max(this.failures + 1, this.renewals);
        this.lost(
          known
            ? "The server does not take the login of this browser for the stream."
            : "The server cannot be reached.",
        );
      }
      this.flush();
    });
  }

  /** Whether somebody is logged in; null when that cannot be found out. */
  private whoAreWe(): Promise<boolean | null> {
    this.renewing ??= this.deps
      .fetch("/api/auth/self", {
        headers: { Accept: "application/json" },
        cache: "no-store",
        credentials: "same-origin",
      })
      .then(
        // Without a role somebody is known as well: the stream says then that they may not have it.
        (answer) => (answer.ok || answer.status === 403 ? true : answer.status === 401 ? false : null),
        () => null,
      )
      .finally(() => {
        this.renewing = null;
      });
    return this.renewing;
  }

  /** Gives up, until somebody asks for another attempt. */
  private refuse(status: number, message: string): void {
    this.drop();
    this.setState("refused", sentence(status, message));
    this.flush();
  }

  private drop(): void {
    const c = this.connection;
    this.connection = null;
    c?.abort.abort();
    this.cancel("watch");
    this.cancel("retry");
  }

  private lost(reason: string): void {
    const said = this.connection?.ready ? this.retryAfter : null;
    if (this.connection && !this.connection.ready) this.failures++;
    this.drop();
    if (this.members.size === 0) {
      this.stop();
      return;
    }
    const backoff = Math.min(mostWait, firstWait * 2 ** this.failures) * (0.5 + this.deps.random() / 2);
    const wait = said ?? Math.max(this.retryAfterOnce() ?? 0, backoff);
    this.status.retryAt = this.deps.now() + wait;
    this.setState("reconnecting", reason);
    this.later("retry", wait, () => this.connect());
    this.flush();
  }

  private retryAfterOnce(): number | null {
    const ms = this.failures > 0 ? this.retryAfter : null;
    this.retryAfter = null;
    return ms;
  }

  private stop(): void {
    this.drop();
    this.lastId = null;
    this.requestId = this.name();
    this.seen.clear();
    this.held.clear();
    this.setState("idle", null);
  }

  private wake(hurry: boolean): void {
    const quiet = this.deps.now() - this.status.heard;
    const state = this.status.state;
    if (state === "reconnecting" && this.connection === null) this.connect();
    else if ((state === "refused" || state === "signed-out") && hurry) {
      this.denied = 0;
      this.renewals = 0;
      this.connect();
    } else if (this.connection !== null && (state === "live" || state === "silent") && quiet > 2 * this.interval) {
      this.lost("Nothing was heard of the server.");
      this.connect();
    }
  }

  // What is heard.

  private heard(): void {
    this.status.heard = this.deps.now();
    if (this.status.state === "silent") this.setState("live", null);
    else if (this.status.heard - this.toldStatus >= statusEvery) this.sayStatuses();
    this.watchDog();
  }

  private beat(c: Connection): void {
    const now = this.deps.now();
    // The operator may have set another interval: two heartbeats show it.
    if (c.beats++ > 0) this.interval = Math.min(mostHeartbeat, Math.max(leastHeartbeat, (now - c.beat) * 1.1));
    c.beat = now;
  }

  private watchDog(): void {
    if (this.undo.has("watch")) return;
    const look = () => {
      const c = this.connection;
      if (c === null) return;
      const since = Math.max(this.status.heard, this.status.state === "live" ? 0 : this.status.since);
      const quiet = this.deps.now() - since;
      if (quiet >= 3 * this.interval) {
        // A server with a longer interval would be left again and again.
        if (c.ready && c.beats === 0) this.interval = Math.min(mostHeartbeat, this.interval * 2);
        this.lost("Nothing was heard of the server.");
        return;
      }
      if (quiet >= 2 * this.interval && this.status.state === "live") {
        this.status = {
          ...this.status,
          state: "silent",
          since: this.status.heard,
          reason: "Nothing was heard of the server.",
        };
        this.sayStatuses();
      }
      this.later("watch", Math.max(250, this.interval / 4), look);
    };
    this.later("watch", Math.max(250, this.interval / 4), look);
  }

  private clock(answer: Response): void {
    const date = Date.parse(answer.headers.get("Date") ?? "");
    // The header has whole seconds: on average it is half a second old.
    if (!Number.isNaN(date)) this.skew = date + 500 - this.deps.now();
  }

  private setLag(ms: number): void {
    const before = this.status.lag;
    this.status.lag = ms;
    // Shown in seconds, and only if it is some.
    if (ms !== before && Math.floor(ms / 1000) !== Math.floor(before / 1000) && Math.max(ms, before) > 2000) {
      if (ms === 0 || this.deps.now() - this.toldStatus >= statusEvery) this.sayStatuses();
    }
  }

  private lines(p: Batch, id: string | null): void {
    const cursor = p.cursor ?? (id ?? "").split("~")[0] ?? "";
    const places = p.indices ?? p.logs.map((_, i) => i);
    if (this.repeated(p.device_id, cursor, places[0] ?? 0, places.at(-1) ?? 0)) return;
    const received = Date.parse(p.received);
    if (this.skew !== null) this.setLag(Math.max(0, this.deps.now() + this.skew - received));
    const lines = p.logs.map((doc, i): LogLine => {
      const meta = p.meta?.[i];
      return {
        timestamp: p.received,
        message: typeof doc.message === "string" ? doc.message : "",
        cursor: `${cursor}.${places[i]}`,
        level: (meta?.level ?? null) as LogLine["level"],
        tag: meta?.tag ?? null,
        uptime_ms: meta?.uptime_ms ?? null,
        device_id: p.device_id,
        device_key: this.keys.get(p.device_id) ?? "", // of use only where there is no entity id, which only sets have
        device_entity_id: p.device_entity_id || null,
      };
    });
    this.deliver(p.device_id, { kind: "lines", lines });
  }

  /**
   * A subscription that is replaced may bring lines again; each device's come in their order. A long batch may come in
   * pieces, which have the same cursor and other lines of it.
   */
  private repeated(device: number, cursor: string, first: number, end: number): boolean {
    const [epoch = "", seq = ""] = cursor.split("-");
    const now = { epoch, seq: Number(seq), end };
    const last = this.seen.get(device);
    if (last && last.epoch === now.epoch && (now.seq < last.seq || (now.seq === last.seq && first <= last.end)))
      return true;
    this.seen.set(device, now);
    return false;
  }

  private deliver(device: number, message: StreamMessage): void {
    const own = this.topics.get(`device ${device}`);
    if (own) this.pass(own, message);
    const all = this.topics.get("all");
    if (all) this.pass(all, message);
    const models = [...this.topics.values()].filter((t) => "model" in t.target);
    if (models.length === 0) return;
    const known = models.filter((t) => t.members.has(device));
    for (const t of known) this.pass(t, message);
    if (known.length > 0) return;
    // A device that was made after a model was subscribed to, or one that is followed for itself.
    const model = this.models.get(device);
    if (model !== undefined) {
      const t = model === null ? undefined : this.topics.get(`model ${model}`);
      if (t) this.pass(t, message);
      return;
    }
    const held = this.held.get(device);
    if (held) {
      held.push(message);
      return;
    }
    this.held.set(device, [message]);
    this.modelOf(device).then((m) => {
      this.models.set(device, m);
      const messages = this.held.get(device) ?? [];
      this.held.delete(device);
      const t = m === null ? undefined : this.topics.get(`model ${m}`);
      for (const h of messages) if (t) this.pass(t, h);
      this.flush();
    });
  }

  private async modelOf(device: number): Promise<number | null> {
    try {
      const answer = await this.deps.fetch(`/api/devices/${device}`, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
      });
      if (!answer.ok) return null;
      return ((await answer.json()) as { device_model_id?: number }).device_model_id ?? null;
    } catch {
      return null;
    }
  }

  private pass(topic: Topic, message: StreamMessage): void {
    // Before it is told that it follows, whatever comes is in the history that it will ask for.
    const followers = [...topic.followers].filter((f) => f.following);
    if (message.kind !== "lines") {
      this.tell(followers, message);
      return;
    }
    const plain: Follower[] = [];
    for (const f of followers) {
      const { matches } = f;
      if (matches === null) plain.push(f);
      else {
        const lines = message.lines.filter(matches);
        if (lines.length > 0) this.tell([f], { kind: "lines", lines });
      }
    }
    if (plain.length > 0) this.tell(plain, message);
  }

  // Saying.

  private tell(whom: readonly { member: Member; id: number }[], message: StreamMessage): void {
    const ids = new Map<Member, number[]>();
    for (const f of whom) {
      const list = ids.get(f.member);
      if (list) list.push(f.id);
      else ids.set(f.member, [f.id]);
    }
    for (const [member, list] of ids) member.queue.push({ ids: list, message });
  }

  private flush(): void {
    for (const m of this.members) {
      if (m.queue.length === 0) continue;
      const messages = m.queue;
      m.queue = [];
      m.say({ kind: "told", messages });
    }
  }

  private setState(state: StreamStatus["state"], reason: string | null): void {
    const now = this.deps.now();
    const since = state === this.status.state ? this.status.since : now;
    const retryAt = state === "reconnecting" && this.connection === null ? this.status.retryAt : null;
    const ended = state === "signed-out" ? this.status.ended : null;
    this.status = { ...this.status, state, since, reason, retryAt, ended };
    this.sayStatuses();
  }

  private sayStatuses(): void {
    this.toldStatus = this.deps.now();
    for (const m of this.members) this.sayStatus(m);
  }

  private sayStatus(m: Member): void {
    m.say({ kind: "status", status: { ...this.status }, version: this.version });
  }

  private name(): string {
    const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
    let name = "";
    for (let i = 0; i < 32; i++) name += letters[Math.floor(this.deps.random() * letters.length)];
    return name;
  }

  private later(name: string, ms: number, f: () => void): void {
    this.cancel(name);
    this.undo.set(
      name,
      this.deps.after(ms, () => {
        this.undo.delete(name);
        f();
      }),
    );
  }

  private cancel(name: string): void {
    this.undo.get(name)?.();
    this.undo.delete(name);
  }
}

/** The payload of a device-logs event: one batch of one device. */
interface Batch {
  device_entity_id: string;
  device_id: number;
  received: string;
  /** `<epoch>-<seq>` */
  cursor?: string;
  /** The places of the lines in the batch, where a filter left some out. */
  indices?: number[];
  logs: Record<string, unknown>[];
  meta?: ({ level?: string; tag?: string; uptime_ms?: number } | null)[];
}

function isEmpty(c: Condition): boolean {
  return c.level === "" && c.tag === "" && c.query === "" && c.regex === "";
}

function same(a: Condition, b: Condition): boolean {
  return a.level === b.level && a.tag === b.tag && a.query === b.query && a.regex === b.regex;
}

function asFilter(c: Condition): LineFilter {
  const regex = c.regex !== "";
  return { level: c.level as LineFilter["level"], tag: c.tag, text: regex ? c.regex : c.query, regex };
}

/** Why the server will not have us, and what can be done. */
function sentence(status: number, message: string): string {
  switch (status) {
    case 401:
      return "Nobody is logged in here. Reload the page to log in.";
    case 403:
      return "You may not follow devices here. Ask whoever runs this server for access.";
    case 404:
      return message || "There is no event stream at this address.";
    default:
      return message || `The server answered ${status}.`;
  }
}
