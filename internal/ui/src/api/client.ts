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
  headers?: Record<string, string>;
  signal?: AbortSignal;
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
  }
  let answer: Response;
  try {
    answer = await fetch(url(path, o.query), init);
  } catch (e) {
    if (o.signal?.aborted) throw e;
    throw new ApiError(0, "The server does not answer. Is it running, and is this machine online?", null, null);
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
  return new ApiError(answer.status, text, e.code ?? null, e.correlationId ?? null);
}
