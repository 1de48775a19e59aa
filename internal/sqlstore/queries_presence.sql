-- Presence; the rules of queries.sql hold here as well.

-- name: RenewPresence :execrows
UPDATE presence_processes SET until = sqlc.arg(until) WHERE holder = sqlc.arg(holder);

-- name: InsertPresenceProcess :exec
INSERT INTO presence_processes (holder, until) VALUES (sqlc.arg(holder), sqlc.arg(until));

-- name: PutPresence :exec
INSERT INTO presence (device_id, version, online, since, seen_at, source, by_session, clock_at, clock_off, changes)
SELECT d.id, CAST(sqlc.arg(version) AS BIGINT), FALSE, 0, CAST(sqlc.arg(seen_at) AS BIGINT), CAST(sqlc.arg(source) AS TEXT),
       CAST(sqlc.arg(by_session) AS BOOLEAN), CAST(sqlc.arg(clock_at) AS BIGINT), CAST(sqlc.arg(clock_off) AS BIGINT), 0
FROM devices d
WHERE d.id = sqlc.arg(device_id)
ON CONFLICT (device_id) DO UPDATE
SET version = excluded.version,
    source = CASE WHEN excluded.seen_at >= presence.seen_at THEN excluded.source ELSE presence.source END,
    by_session = CASE WHEN excluded.seen_at >= presence.seen_at THEN excluded.by_session ELSE presence.by_session END,
    seen_at = CASE WHEN excluded.seen_at >= presence.seen_at THEN excluded.seen_at ELSE presence.seen_at END,
    clock_off = CASE WHEN excluded.clock_at > presence.clock_at THEN excluded.clock_off ELSE presence.clock_off END,
    clock_at = CASE WHEN excluded.clock_at > presence.clock_at THEN excluded.clock_at ELSE presence.clock_at END;

-- name: PutPresenceSessions :exec
INSERT INTO presence_sessions (device_id, holder, sessions, version)
SELECT d.id, CAST(sqlc.arg(holder) AS TEXT), CAST(sqlc.arg(sessions) AS BIGINT), CAST(sqlc.arg(version) AS BIGINT)
FROM devices d
WHERE d.id = sqlc.arg(device_id)
ON CONFLICT (device_id, holder) DO UPDATE SET sessions = excluded.sessions, version = excluded.version;

-- name: ComePresence :one
UPDATE presence SET version = sqlc.arg(version), online = TRUE, since = sqlc.arg(since), changes = changes + 1
WHERE device_id = sqlc.arg(device_id) AND online = FALSE
RETURNING changes;

-- name: GoPresence :one
UPDATE presence SET version = sqlc.arg(version), online = FALSE, since = sqlc.arg(since), changes = changes + 1
WHERE presence.device_id = sqlc.arg(device_id) AND presence.online = TRUE AND presence.seen_at <= sqlc.arg(unheard)
  AND NOT EXISTS (SELECT 1 FROM presence_sessions s
                  JOIN presence_processes p ON p.holder = s.holder
                  WHERE s.device_id = presence.device_id AND s.sessions > 0 AND s.holder <> sqlc.arg(holder) AND p.until > sqlc.arg(now))
RETURNING changes;

-- name: GetPresence :one
SELECT online, since FROM presence WHERE device_id = sqlc.arg(device_id);

-- name: InsertPresenceHistory :exec
INSERT INTO presence_history (device_id, number, at, online, reason)
VALUES (sqlc.arg(device_id), sqlc.arg(number), sqlc.arg(at), sqlc.arg(online), sqlc.arg(reason));

-- name: DeletePresenceHistory :exec
DELETE FROM presence_history WHERE device_id = sqlc.arg(device_id) AND number <= sqlc.arg(number);

-- name: ListPresence :many
SELECT device_id, version, online, since, seen_at, source, by_session, clock_at, clock_off FROM presence
WHERE version > sqlc.arg(version);

-- name: ListPresenceSessions :many
SELECT device_id, holder, sessions, version FROM presence_sessions WHERE version > sqlc.arg(version);

-- name: ListPresenceProcesses :many
SELECT holder, until FROM presence_processes;

-- name: DeletePresenceProcesses :exec
DELETE FROM presence_processes WHERE until < sqlc.arg(until) OR holder = sqlc.arg(holder);

-- name: CountPresenceProcesses :one
SELECT count(*) FROM presence_processes WHERE until < sqlc.arg(until) OR holder = sqlc.arg(holder);

-- name: ListPresenceDrops :many
SELECT device_id, at, reason FROM presence_history WHERE at > sqlc.arg(at) AND online = FALSE ORDER BY at;

-- name: ListPresenceHistory :many
SELECT at, online, reason FROM presence_history
WHERE device_id = sqlc.arg(device_id) AND at >= sqlc.arg(at) ORDER BY number DESC LIMIT sqlc.arg(most);

-- name: TrimPresenceHistory :exec
DELETE FROM presence_history WHERE at < sqlc.arg(at);
