// What the pages ask about people, sessions, tokens and the audit.

import { infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { type AuditFilter, writeAuditFilter } from "../identity/audit";
import { request } from "./client";
import type { AuditPage, PersonInfo, SessionInfo, TokenInfo } from "./types";

/** The sessions of who asks. */
export const sessionsQuery = queryOptions({
  queryKey: ["account", "sessions"],
  queryFn: async ({ signal }) =>
    (await request<{ sessions: SessionInfo[] }>("/api/account/sessions", { signal })).sessions,
});

/** The API tokens of who asks. */
export const ownTokensQuery = queryOptions({
  queryKey: ["account", "tokens"],
  queryFn: async ({ signal }) => (await request<{ tokens: TokenInfo[] }>("/api/account/tokens", { signal })).tokens,
});

/** Everybody's. */
export const allTokensQuery = queryOptions({
  queryKey: ["tokens"],
  queryFn: async ({ signal }) => (await request<{ tokens: TokenInfo[] }>("/api/tokens", { signal })).tokens,
});

/** Everybody whom the server knows. */
export const peopleQuery = queryOptions({
  queryKey: ["people"],
  queryFn: async ({ signal }) => (await request<{ people: PersonInfo[] }>("/api/people", { signal })).people,
});

/** The audit, page by page, the newest first. */
export const auditQuery = (filter: AuditFilter) =>
  infiniteQueryOptions({
    queryKey: ["audit", writeAuditFilter(filter)],
    queryFn: ({ signal, pageParam }) =>
      request<AuditPage>("/api/audit", { query: { ...filter, before: pageParam, limit: 100 }, signal }),
    initialPageParam: null as number | null,
    getNextPageParam: (page: AuditPage) => page.next,
    staleTime: 0,
  });
