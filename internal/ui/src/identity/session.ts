// Who is logged in, over the life of the page. When a session ends the page stays as it is: requests wait, a dialog asks for
// the login, and then everything goes on. What carries this (browser tabs, the stream) is in index.ts.

import { ApiError, type Guard } from "../api/client";
import type { Mode, Self } from "../api/types";

/** Why a session has ended, as far as it is known. */
export type Ending = "expired" | "revoked" | "logout" | "unknown";

export interface SessionState {
  /**
   * starting: not known yet. failed: the server does not answer. out: nobody is logged in. denied: somebody is who may
   * nothing here. in: as it should be. ended: the session of `self` is over, and the page waits. left: logged out, and the
   * page is about to go.
   */
  phase: "starting" | "failed" | "out" | "denied" | "in" | "ended" | "left";
  mode: Mode | null;
  self: Self | null;
  ending: Ending;
  /** Of failed and denied. */
  error: unknown;
}

/** What tabs of a browser tell each other. */
export type Told = { kind: "in"; subject: string } | { kind: "out" };

export interface SessionDeps {
  mode(): Promise<Mode>;
  /** Asks who we are, which renews a session that can be. Throws ApiError. */
  self(): Promise<Self>;
  tell(t: Told): void;
  /** Loads the page anew: it is somebody else's from now on. */
  reload(): void;
  /** Goes to the page for those who logged out. */
  away(): void;
  /** Whether something was typed here that is not saved. */
  unsaved(): boolean;
  now(): number;
}

/** Whether a page of the one may go on as the other's: it is the same person, or the page was everybody's. */
function goesOn(before: Self | null, now: Self): boolean {
  return before !== null && (before.kind === "local" || before.subject === now.subject);
}

/** A session is looked at again after so long, when somebody comes back to the tab. */
const stale = 60_000;

/** Holds the state of the login of one tab. */
export class Session implements Guard {
  epoch = 1;
  private current: SessionState = { phase: "starting", mode: null, self: null, ending: "unknown", error: null };
  private readonly watchers = new Set<() => void>();
  private waiting: (() => void)[] = [];
  private checking: Promise<boolean> | null = null;
  private why: Ending = "unknown";
  private booting: Promise<void> | null = null;
  private checked = 0;

  constructor(private readonly deps: SessionDeps) {}

  state = (): SessionState => this.current;

  watch = (changed: () => void): (() => void) => {
    this.watchers.add(changed);
    return () => this.watchers.delete(changed);
  };

  /** Finds out who is here; once, or again after it failed. */
  boot(): Promise<void> {
    const { phase } = this.current;
    if (phase === "in" || phase === "ended" || phase === "left") return Promise.resolve();
    this.booting ??= this.begin().finally(() => {
      this.booting = null;
    });
    return this.booting;
  }

  private async begin(): Promise<void> {
    let mode: Mode;
    try {
      mode = await this.deps.mode();
    } catch (error) {
      this.set({ phase: "failed", error });
      return;
    }
    try {
      const self = await this.deps.self();
      this.checked = this.deps.now();
      this.set({ phase: "in", mode, self, error: null });
    } catch (error) {
      const status = error instanceof ApiError ? error.status : 0;
      this.set({ phase: status === 401 ? "out" : status === 403 ? "denied" : "failed", mode, error });
    }
  }

  /** Somebody has logged in here. */
  entered(self: Self): void {
    const before = this.current.self;
    this.deps.tell({ kind: "in", subject: self.subject });
    if (this.current.phase === "ended" && !goesOn(before, self)) {
      this.deps.reload();
      return;
    }
    this.goOn(self);
  }

  private goOn(self: Self): void {
    const mode: Mode = { mode: self.mode, insecure: self.insecure, setup: false };
    this.epoch++;
    this.checked = this.deps.now();
    this.set({ phase: "in", self, mode, error: null, ending: "unknown" });
    for (const go of this.waiting.splice(0)) go();
  }

  /** Tells the other tabs of a login that did not happen by this page. */
  announce(): void {
    const { phase, self } = this.current;
    if (phase === "in" && self !== null) this.deps.tell({ kind: "in", subject: self.subject });
  }

  /** Somebody has logged out here. */
  left(): void {
    this.set({ phase: "left" });
    this.deps.tell({ kind: "out" });
  }

  /** Another tab has told something. */
  async heard(t: Told): Promise<void> {
    const { phase, self } = this.current;
    if (t.kind === "out") {
      if (phase === "in" || phase === "ended") await this.check("logout");
      return;
    }
    if (phase === "in" && self !== null && self.kind !== "local" && self.subject !== t.subject) this.deps.reload();
    else if (phase === "out" || phase === "denied") await this.boot();
    else if (phase === "in" || phase === "ended") await this.check("unknown");
  }

  /** The stream is over for want of a login. */
  async streamEnded(why: Ending): Promise<boolean> {
    return this.current.phase === "in" ? this.check(why) : false;
  }

  /** Somebody has come back to the tab. */
  seen(): void {
    const { phase, mode } = this.current;
    if (phase === "ended") void this.check("unknown");
    else if (phase === "in" && mode?.mode !== "off" && this.deps.now() - this.checked > stale)
      void this.check("unknown");
  }

  /** Asks whether the login still holds; the same question is asked once however many want to know. */
  check(why: Ending): Promise<boolean> {
    // Several may know why: that it was a logout says the most.
    if (this.why === "unknown" || why === "logout") this.why = why;
    this.checking ??= this.look().finally(() => {
      this.checking = null;
      this.why = "unknown";
    });
    return this.checking;
  }

  private async look(): Promise<boolean> {
    this.checked = this.deps.now();
    try {
      const self = await this.deps.self();
      const { phase, self: before } = this.current;
      if (phase !== "in" && phase !== "ended") return false;
      if (!goesOn(before, self)) {
        this.deps.reload();
        return false;
      }
      if (phase === "ended" || before?.subject !== self.subject) this.goOn(self);
      else this.set({ self });
      return true;
    } catch (e) {
      const { phase, self } = this.current;
      if (!(e instanceof ApiError) || (phase !== "in" && phase !== "ended")) return false;
      if (e.status === 403 && self !== null) this.set({ self: { ...self, roles: [] } });
      if (e.status === 401) this.end(this.why);
      return false;
    }
  }

  private end(why: Ending): void {
    if (why === "logout" && !this.deps.unsaved()) {
      this.set({ phase: "left" });
      this.deps.away();
      return;
    }
    if (this.current.phase === "in") this.set({ phase: "ended", ending: why });
    else if (why !== "unknown") this.set({ ending: why });
  }

  async unauthorized(epoch: number, signal?: AbortSignal): Promise<boolean> {
    if (epoch !== this.epoch) return true;
    if (this.current.phase === "in") await this.check("unknown");
    if (epoch !== this.epoch) return true;
    const { phase } = this.current;
    if (phase !== "ended" && phase !== "left") return false;
    await new Promise<void>((resolve, reject) => {
      const abort = () => {
        this.waiting = this.waiting.filter((w) => w !== go);
        reject(signal?.reason);
      };
      const go = () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      signal?.addEventListener("abort", abort, { once: true });
      this.waiting.push(go);
    });
    return true;
  }

  forbidden(): void {
    if (this.current.phase === "in" && this.deps.now() - this.checked > 5_000) void this.check("unknown");
  }

  private set(change: Partial<SessionState>): void {
    this.current = { ...this.current, ...change };
    for (const w of [...this.watchers]) w();
  }
}
