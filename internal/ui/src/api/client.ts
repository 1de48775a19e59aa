// Requests to the server. One place says what a failure is; nothing decides by its text.

/** An answer that is not 2xx, or none at all (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    /** To show. */
    message: string,
    /** The server's stable word for it, such as RECORD_NOT_FOUND. */
    readonly code: string | null,
    /** Under which the server's log has more. */
    readonly correlationId: string | null,
    /** What is wrong with which field of the request: its path, joined by dots, to a sentence. */
    readonly fields: Readonly<Record<string, string>> = {},
    /** In how many seconds the server wants to be asked again; null if it does not say. */
    readonly retryAfter: number | null = null,
  ) {
    super(message);
    this.name = "ApiError";
  }

  /** Whether the same request may succeed later. */
  get temporary(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

type Query = Record<string, string | number | boolean | null | undefined>;

interface Options {
  method?: "GET" | "POST" | "PUT" | "DELETE";
  query?: Query;
  body?: unknown;
  /** Sent as it is, in place of a body; the headers say its type. */
  raw?: Blob;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** A 401 is an answer like any other: the request is about logging in itself. */
  anonymous?: boolean;
}

/** Who looks after the login, for requests that are refused without one. */
export interface Guard {
  /** Changes each time somebody logs in. */
  readonly epoch: number;
  /**
   * A request of that epoch was answered with 401. The answer comes when it is worth sending again: true when somebody has
   * logged in, false when nothing has changed. Throws when the signal is aborted.
   */
  unauthorized(epoch: number, signal?: AbortSignal): Promise<boolean>;
  /** A request was answered with 403: what somebody may has perhaps changed. */
  forbidden(): void;
}

let guard: Guard | null = null;

/** Has requests without a valid login wait until there is one, instead of failing. */
export function guardedBy(g: Guard): void {
  guard = g;
}

/** The path with its query; what is null, undefined or empty is left out. */
export function url(path: string, query: Query = {}): string {
  const q = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") q.set(name, String(value));
  }
  const text = q.toString();
  return text === "" ? path : `${path}?${text}`;
}

/** The answer itself, for streams and downloads. Throws ApiError, or an AbortError. */
export async function send(path: string, o: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json", ...o.headers };
  const init: RequestInit = { method: o.method ?? "GET", headers, credentials: "same-origin" };
  if (o.signal) init.signal = o.signal;
  if (o.body !== undefined) {
    headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(o.body);
  } else if (o.raw !== undefined) {
    init.body = o.raw;
  }
  let answer: Response;
  for (let refused = false; ; ) {
    const epoch = guard?.epoch ?? 0;
    try {
      answer = await fetch(url(path, o.query), init);
    } catch (e) {
      if (o.signal?.aborted) throw e;
      throw new ApiError(0, "The server does not answer. Is it running, and is this machine online?", null, null);
    }
    if (guard === null || o.anonymous) break;
    if (answer.status === 403) guard.forbidden();
    if (answer.status !== 401) break;
    // Nothing was done, so that it may be sent again, whatever it is.
    if (await guard.unauthorized(epoch, o.signal)) refused = false;
    else if (refused) break;
    else refused = true;
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

/** The JSON of the answer; undefined when it has no body. */
export async function request<T>(path: string, o: Options = {}): Promise<T> {
  const answer = await send(path, o);
  if (answer.status === 204) return undefined as T;
  return (await answer.json()) as T;
}

/** What an answer that is not 2xx says. */
export async function failure(answer: Response): Promise<ApiError> {
  let body: unknown = null;
  try {
    body = await answer.json();
  } catch {
    // A proxy in between may answer with a page of its own.
  }
  if (Array.isArray(body)) {
    const fields: Record<string, string> = {};
    for (const item of body as { loc?: unknown[]; msg?: string }[]) {
      fields[(item.loc ?? []).join(".")] = item.msg ?? "is not valid";
    }
    return new ApiError(answer.status, Object.values(fields).join(". "), "VALIDATION_FAILED", null, fields);
  }
  const e = (body ?? {}) as { error?: string; code?: string; correlationId?: string };
  const text = e.error ?? `The server answered ${answer.status} ${answer.statusText}`.trim();
  const wait = retryAfter(answer.headers.get("Retry-After"), Date.now());
  return new ApiError(answer.status, text, e.code ?? null, e.correlationId ?? null, {}, wait);
}

/** The seconds that a Retry-After header (RFC 9110, section 10.2.3) means, null if it means nothing. */
export function retryAfter(header: string | null, now: number): number | null {
  if (header === null || header.trim() === "") return null;
  const text = header.trim();
  if (/^\d+$/.test(text)) return Number(text);
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : Math.max(0, Math.ceil((at - now) / 1000));
}
