-- Of package access. The rules are at the head of queries.sql.

-- name: AccessVersion :one
SELECT last_id FROM id_counters WHERE name = 'access';

-- name: ListPeople :many
SELECT id, subject, external, username, name, email, password, roles, limit_models, limit_tags, disabled, created_at, seen_at
FROM people;

-- name: InsertPerson :exec
INSERT INTO people (id, subject, external, username, name, email, password, roles, limit_models, limit_tags, disabled,
                    created_at, seen_at)
VALUES (sqlc.arg(id), sqlc.arg(subject), sqlc.arg(external), sqlc.arg(username), sqlc.arg(name), sqlc.arg(email),
        sqlc.arg(password), sqlc.arg(roles), sqlc.arg(limit_models), sqlc.arg(limit_tags), sqlc.arg(disabled),
        sqlc.arg(created_at), sqlc.arg(seen_at));

-- name: UpdatePerson :execrows
UPDATE people
SET name = sqlc.arg(name), email = sqlc.arg(email), password = sqlc.arg(password), roles = sqlc.arg(roles),
    limit_models = sqlc.arg(limit_models), limit_tags = sqlc.arg(limit_tags), disabled = sqlc.arg(disabled)
WHERE id = sqlc.arg(id);

-- name: DeletePerson :execrows
DELETE FROM people WHERE id = sqlc.arg(id);

-- name: ListSessions :many
SELECT id, person_id, secret_hash, address, agent, created_at, seen_at, expires_at, ends_at
FROM sessions;

-- name: InsertSession :exec
INSERT INTO sessions (id, person_id, secret_hash, address, agent, created_at, seen_at, expires_at, ends_at)
VALUES (sqlc.arg(id), sqlc.arg(person_id), sqlc.arg(secret_hash), sqlc.arg(address), sqlc.arg(agent), sqlc.arg(created_at),
        sqlc.arg(seen_at), sqlc.arg(expires_at), sqlc.arg(ends_at));

-- name: ExtendSession :execrows
UPDATE sessions SET seen_at = sqlc.arg(seen_at), expires_at = sqlc.arg(expires_at) WHERE id = sqlc.arg(id);

-- name: DeleteSession :exec
DELETE FROM sessions WHERE id = sqlc.arg(id);

-- name: ListTokens :many
SELECT id, person_id, name, hint, secret_hash, roles, limit_models, limit_tags, created_at, expires_at, used_at
FROM api_tokens;

-- name: InsertToken :exec
INSERT INTO api_tokens (id, person_id, name, hint, secret_hash, roles, limit_models, limit_tags, created_at, expires_at, used_at)
VALUES (sqlc.arg(id), sqlc.arg(person_id), sqlc.arg(name), sqlc.arg(hint), sqlc.arg(secret_hash), sqlc.arg(roles),
        sqlc.arg(limit_models), sqlc.arg(limit_tags), sqlc.arg(created_at), sqlc.arg(expires_at), sqlc.arg(used_at));

-- name: DeleteToken :exec
DELETE FROM api_tokens WHERE id = sqlc.arg(id);

-- name: ListRevocations :many
SELECT subject, session, kept, revoked_at, until FROM revocations;

-- name: PutRevocation :exec
INSERT INTO revocations (subject, session, kept, revoked_at, until)
VALUES (sqlc.arg(subject), sqlc.arg(session), sqlc.arg(kept), sqlc.arg(revoked_at), sqlc.arg(until))
ON CONFLICT (subject, session) DO UPDATE SET kept = excluded.kept, revoked_at = excluded.revoked_at, until = excluded.until;

-- name: DeleteRevocation :exec
DELETE FROM revocations WHERE subject = sqlc.arg(subject) AND session = sqlc.arg(session);

-- name: NotePerson :exec
UPDATE people SET seen_at = CAST(sqlc.arg(seen_at) AS BIGINT)
WHERE id = sqlc.arg(id) AND (seen_at IS NULL OR seen_at < CAST(sqlc.arg(seen_at) AS BIGINT));

-- name: NoteToken :exec
UPDATE api_tokens SET used_at = CAST(sqlc.arg(used_at) AS BIGINT)
WHERE id = sqlc.arg(id) AND (used_at IS NULL OR used_at < CAST(sqlc.arg(used_at) AS BIGINT));

-- name: NoteSession :exec
UPDATE sessions SET seen_at = CAST(sqlc.arg(seen_at) AS BIGINT)
WHERE id = sqlc.arg(id) AND seen_at < CAST(sqlc.arg(seen_at) AS BIGINT);

-- name: NoteSessionEnd :exec
UPDATE sessions SET expires_at = CAST(sqlc.arg(expires_at) AS BIGINT)
WHERE id = sqlc.arg(id) AND expires_at < CAST(sqlc.arg(expires_at) AS BIGINT);

-- name: InsertEvent :exec
INSERT INTO audit_events (id, at, actor, name, kind, action, target, label, outcome, address, detail)
VALUES (sqlc.arg(id), sqlc.arg(at), sqlc.arg(actor), sqlc.arg(name), sqlc.arg(kind), sqlc.arg(action), sqlc.arg(target),
        sqlc.arg(label), sqlc.arg(outcome), sqlc.arg(address), sqlc.arg(detail));

-- name: ListEvents :many
SELECT id, at, actor, name, kind, action, target, label, outcome, address, detail
FROM audit_events
WHERE (CAST(sqlc.narg(before_id) AS BIGINT) IS NULL OR id < CAST(sqlc.narg(before_id) AS BIGINT))
  AND (CAST(sqlc.narg(since) AS BIGINT) IS NULL OR at >= CAST(sqlc.narg(since) AS BIGINT))
  AND (CAST(sqlc.narg(until) AS BIGINT) IS NULL OR at < CAST(sqlc.narg(until) AS BIGINT))
  AND (CAST(sqlc.narg(actor) AS TEXT) IS NULL OR actor = CAST(sqlc.narg(actor) AS TEXT))
  AND (CAST(sqlc.narg(action) AS TEXT) IS NULL OR action = CAST(sqlc.narg(action) AS TEXT))
  AND (CAST(sqlc.narg(action_prefix) AS TEXT) IS NULL
       OR substr(action, 1, length(CAST(sqlc.narg(action_prefix) AS TEXT))) = CAST(sqlc.narg(action_prefix) AS TEXT))
  AND (CAST(sqlc.narg(target) AS TEXT) IS NULL OR target = CAST(sqlc.narg(target) AS TEXT))
  AND (CAST(sqlc.narg(target_prefix) AS TEXT) IS NULL
       OR substr(target, 1, length(CAST(sqlc.narg(target_prefix) AS TEXT))) = CAST(sqlc.narg(target_prefix) AS TEXT))
ORDER BY id DESC
LIMIT sqlc.arg(most);

-- name: DeleteEvents :execrows
DELETE FROM audit_events
WHERE id IN (SELECT e.id FROM audit_events e WHERE e.at < sqlc.arg(before) ORDER BY e.at, e.id LIMIT sqlc.arg(most));
