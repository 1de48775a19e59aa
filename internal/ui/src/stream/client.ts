// The stream as one tab sees it: a handle on the hub, wherever that runs.

import type { Ask, Say } from "./hub";
import type { Port } from "./serve";
import type { Condition, Follow, StreamClient, StreamMessage, StreamStatus, Target } from "./types";

/** Where the tab says when it is gone; the answer to `lock` is the name of a lock that is held as long as the tab lives. */
export interface TabDeps {
  /** Makes the connection to a hub. `failed` is called if that hub cannot be had. */
  open(failed: () => void): Port;
  lock(): Promise<string | null>;
}

/** Follows over a port. After the port failed, or the hub has forgotten the tab, everything is followed anew. */
export class TabClient implements StreamClient {
  private port: Port | null = null;
  private next = 1;
  private readonly follows = new Map<
    number,
    { target: Target; condition: Condition; told: (m: StreamMessage) => void }
  >();
  private readonly watchers = new Set<() => void>();
  private readonly listeners = new Map<string, Set<(payload: unknown) => void>>();
  private current: StreamStatus = {
    state: "idle",
    since: Date.now(),
    heard: 0,
    lag: 0,
    retryAt: null,
    reason: null,
    ended: null,
    newVersion: null,
  };
  /** The server's version when this page was loaded. */
  private version: string | null = null;
  private greeted = false;

  constructor(private readonly deps: TabDeps) {}

  follow(target: Target, condition: Condition, told: (m: StreamMessage) => void): Follow {
    const id = this.next++;
    this.follows.set(id, { target, condition, told });
    this.start();
    if (this.greeted) this.ask({ kind: "follow", id, target, condition });
    return {
      close: () => {
        if (this.follows.delete(id) && this.greeted) this.ask({ kind: "unfollow", id });
      },
    };
  }

  status(): StreamStatus {
    return this.current;
  }

  watch(changed: () => void): () => void {
    this.start();
    this.watchers.add(changed);
    return () => this.watchers.delete(changed);
  }

  retry(): void {
    this.wake(true);
  }

  /** Makes the hub look whether its connection still lives; `hurry`: somebody asked for it. */
  wake(hurry: boolean): void {
    if (this.greeted) this.ask({ kind: "wake", hurry });
  }

  /** Calls back for events of the stream that are no log lines, such as "rotation-updated"; the answer ends that. */
  on(type: string, told: (payload: unknown) => void): () => void {
    this.start();
    const set = this.listeners.get(type) ?? new Set();
    this.listeners.set(type, set.add(told));
    return () => set.delete(told);
  }

  /** The page goes, perhaps to come back from the browser's cache. */
  leave(): void {
    if (this.greeted) this.ask({ kind: "bye" });
    this.greeted = false;
  }

  /** The page is back, or the hub has forgotten it. */
  greet(): void {
    if (this.port === null || this.greeted) return;
    const { port } = this;
    void this.deps.lock().then((lock) => {
      if (this.port !== port || this.greeted) return;
      this.greeted = true;
      this.ask({ kind: "hello", lock });
      for (const [id, f] of this.follows) {
        this.ask({ kind: "follow", id, target: f.target, condition: f.condition });
      }
    });
  }

  private start(): void {
    if (this.port !== null) return;
    const port = this.deps.open(() => {
      if (this.port !== port) return;
      port.close();
      this.restart();
      this.start();
    });
    this.port = port;
    port.onmessage = (e) => this.said(e.data as Say);
    this.greet();
  }

  private restart(): void {
    this.port = null;
    this.greeted = false;
    for (const f of this.follows.values()) f.told({ kind: "lost" });
  }

  private ask(a: Ask): void {
    this.port?.postMessage(a);
  }

  private said(s: Say): void {
    switch (s.kind) {
      case "told":
        for (const { ids, message } of s.messages) for (const id of ids) this.follows.get(id)?.told(message);
        break;
      case "status":
        this.version ??= s.version;
        this.current = { ...s.status, newVersion: s.version !== this.version ? s.version : null };
        for (const w of [...this.watchers]) w();
        break;
      case "event":
        for (const l of this.listeners.get(s.type) ?? []) l(s.payload);
        break;
      case "ping":
        this.ask({ kind: "pong" });
        break;
      case "forgotten":
        if (!this.greeted) break;
        this.greeted = false;
        for (const f of this.follows.values()) f.told({ kind: "lost" });
        this.greet();
        break;
    }
  }
}
