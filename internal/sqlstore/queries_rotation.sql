-- Rotation; the rules of queries.sql hold here as well.

-- name: GetRotatingDevice :one
SELECT d.key, d.active, d.rotation_state, d.secret_created_at, d.last_rotation_attempt_at, d.last_rotation_completed_at,
       CAST(d.revoked_at IS NOT NULL AS BOOLEAN) AS revoked, m.code
FROM devices d
JOIN device_models m ON m.id = d.device_model_id
WHERE d.id = sqlc.arg(id);

-- name: GetRotation :one
SELECT * FROM rotations WHERE device_id = sqlc.arg(device_id);

-- name: InsertRotation :execrows
INSERT INTO rotations (device_id, version, wire, state, old_sealed, new_sealed, old_name, new_name, secret_at, new_at,
                       actor, reason, campaign, urgent, holder, held_until, todo_at, tries, trouble, stuck, due_at, slot_until)
VALUES (sqlc.arg(device_id), 1, sqlc.arg(wire), sqlc.arg(state), sqlc.arg(old_sealed), sqlc.arg(new_sealed), sqlc.arg(old_name),
        sqlc.arg(new_name), sqlc.arg(secret_at), sqlc.arg(new_at), sqlc.arg(actor), sqlc.arg(reason), sqlc.arg(campaign),
        sqlc.arg(urgent), sqlc.arg(holder), sqlc.arg(held_until), sqlc.arg(todo_at), sqlc.arg(tries), sqlc.arg(trouble),
        sqlc.arg(stuck), sqlc.arg(due_at), sqlc.arg(slot_until))
ON CONFLICT (device_id) DO NOTHING;

-- name: AdoptRotations :execrows
INSERT INTO rotations (device_id, version, wire, state, old_sealed, new_sealed, old_name, new_name, secret_at, new_at,
                       actor, reason, campaign, urgent, holder, held_until, todo_at, tries, trouble, stuck, due_at, slot_until)
SELECT d.id, 1, CASE WHEN d.rotation_state = 'QUEUED' THEN 'QUEUED' ELSE 'TIMEOUT' END, '{}', '', '', '', '',
       COALESCE(d.secret_created_at, 0), 0, '', 'begun by another system', 0, FALSE, '', 0, 0, 0, '', FALSE, 0, 0
FROM devices d
WHERE d.rotation_state IN ('QUEUED', 'PENDING') AND NOT EXISTS (SELECT 1 FROM rotations r WHERE r.device_id = d.id);

-- name: AdoptPending :exec
UPDATE devices SET rotation_state = 'TIMEOUT', changed = sqlc.arg(changed)
WHERE rotation_state = 'PENDING' AND EXISTS (SELECT 1 FROM rotations r WHERE r.device_id = devices.id AND r.wire = 'TIMEOUT');

-- name: UpdateRotation :execrows
UPDATE rotations
SET version = version + 1, wire = sqlc.arg(wire), state = sqlc.arg(state), old_sealed = sqlc.arg(old_sealed),
    new_sealed = sqlc.arg(new_sealed), old_name = sqlc.arg(old_name), new_name = sqlc.arg(new_name),
    secret_at = sqlc.arg(secret_at), new_at = sqlc.arg(new_at), actor = sqlc.arg(actor), reason = sqlc.arg(reason),
    campaign = sqlc.arg(campaign), urgent = sqlc.arg(urgent), holder = sqlc.arg(holder), held_until = sqlc.arg(held_until),
    todo_at = sqlc.arg(todo_at), tries = sqlc.arg(tries), trouble = sqlc.arg(trouble), stuck = sqlc.arg(stuck),
    due_at = sqlc.arg(due_at), slot_until = sqlc.arg(slot_until)
WHERE device_id = sqlc.arg(device_id) AND version = sqlc.arg(version);

-- name: SetDeviceRotation :execrows
UPDATE devices
SET rotation_state = sqlc.arg(rotation_state), secret_created_at = sqlc.arg(secret_created_at),
    last_rotation_attempt_at = sqlc.arg(last_rotation_attempt_at),
    last_rotation_completed_at = sqlc.arg(last_rotation_completed_at)
WHERE id = sqlc.arg(id);

-- name: ListDueRotations :many
SELECT device_id FROM rotations WHERE due_at > 0 AND due_at <= sqlc.arg(now) ORDER BY due_at LIMIT sqlc.arg(most);

-- name: ListWaitingRotations :many
SELECT device_id FROM rotations WHERE due_at > 0 ORDER BY todo_at = 0, due_at;

-- name: ListQueuedRotations :many
SELECT r.device_id FROM rotations r
JOIN devices d ON d.id = r.device_id
WHERE r.wire = 'QUEUED' AND r.campaign = 0 AND d.revoked_at IS NULL
ORDER BY r.urgent DESC, r.secret_at, r.device_id LIMIT sqlc.arg(most);

-- name: ListQueuedByCampaigns :many
SELECT r.device_id FROM rotations r
JOIN devices d ON d.id = r.device_id
WHERE r.wire = 'QUEUED' AND r.campaign > 0 AND d.revoked_at IS NULL
ORDER BY r.campaign, r.urgent DESC, r.secret_at, r.device_id LIMIT sqlc.arg(most);

-- name: CountRotationsInFlight :one
SELECT count(*) FROM rotations WHERE slot_until > 0 AND slot_until > sqlc.arg(now) AND device_id <> sqlc.arg(but);

-- name: CountRotations :many
SELECT rotation_state, count(*) AS devices FROM devices GROUP BY rotation_state;

-- name: PutRotationAttempt :exec
INSERT INTO rotation_attempts (device_id, attempt, actor, reason, campaign, started_at, ended_at, outcome)
VALUES (sqlc.arg(device_id), sqlc.arg(attempt), sqlc.arg(actor), sqlc.arg(reason), sqlc.arg(campaign), sqlc.arg(started_at),
        sqlc.arg(ended_at), sqlc.arg(outcome))
ON CONFLICT (device_id, attempt) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome;

-- name: InsertRotationStep :exec
INSERT INTO rotation_steps (id, device_id, attempt, at, what, detail)
VALUES (sqlc.arg(id), sqlc.arg(device_id), sqlc.arg(attempt), sqlc.arg(at), sqlc.arg(what), sqlc.arg(detail));

-- name: DeleteRotationAttempts :exec
DELETE FROM rotation_attempts WHERE device_id = sqlc.arg(device_id) AND attempt <= sqlc.arg(attempt);

-- name: DeleteRotationSteps :exec
DELETE FROM rotation_steps WHERE device_id = sqlc.arg(device_id) AND attempt <= sqlc.arg(attempt);

-- name: ListRotationAttempts :many
SELECT attempt, actor, reason, campaign, started_at, ended_at, outcome FROM rotation_attempts
WHERE device_id = sqlc.arg(device_id) ORDER BY attempt DESC LIMIT sqlc.arg(most);

-- name: ListRotationSteps :many
SELECT id, attempt, at, what, detail FROM rotation_steps
WHERE device_id = sqlc.arg(device_id) AND attempt >= sqlc.arg(attempt) ORDER BY id;

-- name: TakeLease :execrows
UPDATE rotation_lease SET holder = sqlc.arg(holder), until = sqlc.arg(until)
WHERE name = sqlc.arg(name) AND (holder = sqlc.arg(mine) OR until <= sqlc.arg(now) OR until > sqlc.arg(far));

-- name: DropLease :exec
UPDATE rotation_lease SET until = 0 WHERE name = sqlc.arg(name) AND holder = sqlc.arg(holder);

-- name: ListSealedSecrets :many
SELECT id, client_id, sealed FROM device_secrets ORDER BY id;

-- name: SetSealedSecret :exec
UPDATE device_secrets SET sealed = sqlc.arg(sealed) WHERE id = sqlc.arg(id);

-- name: ListSealedKeys :many
SELECT id, sealed FROM signing_keys ORDER BY id;

-- name: SetSealedKey :exec
UPDATE signing_keys SET sealed = sqlc.arg(sealed) WHERE id = sqlc.arg(id);

-- name: ListSealedRotations :many
SELECT device_id, old_sealed, new_sealed FROM rotations WHERE old_sealed <> '' OR new_sealed <> '' ORDER BY device_id;

-- name: SetSealedRotation :exec
UPDATE rotations SET version = version + 1, old_sealed = sqlc.arg(old_sealed), new_sealed = sqlc.arg(new_sealed)
WHERE device_id = sqlc.arg(device_id);
