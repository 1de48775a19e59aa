-- Rotation of many devices; the rules of queries.sql hold here as well.

-- name: RotationChanges :one
SELECT last_id FROM id_counters WHERE name = 'rotation_changes';

-- name: MarkDevice :exec
UPDATE devices SET changed = sqlc.arg(changed) WHERE id = sqlc.arg(id);

-- name: ListRotationStandings :many
-- What an attempt's state says is not read where there is nothing to be said.
SELECT d.id, d.changed, d.active, d.rotation_state, d.secret_created_at, d.last_rotation_attempt_at, d.last_rotation_completed_at, d.created_at,
       d.revoked_at, COALESCE(r.stuck, FALSE) AS stuck, COALESCE(r.trouble, '') AS trouble, COALESCE(r.campaign, 0) AS campaign,
       CAST(CASE WHEN r.wire <> 'OK' OR r.new_sealed <> '' THEN r.state ELSE '' END AS TEXT) AS state
FROM devices d
LEFT JOIN rotations r ON r.device_id = d.id
WHERE d.changed > sqlc.arg(changed);

-- name: GetRotationLease :one
SELECT holder, until FROM rotation_lease WHERE name = 'runner';

-- name: GetRotationSchedule :one
SELECT schedule, done FROM rotation_schedule WHERE name = 'fleet';

-- name: PutRotationSchedule :exec
INSERT INTO rotation_schedule (name, schedule, done) VALUES ('fleet', sqlc.arg(schedule), sqlc.arg(done))
ON CONFLICT (name) DO UPDATE SET schedule = excluded.schedule, done = excluded.done WHERE rotation_schedule.schedule <> excluded.schedule;

-- name: RewindRotationSchedule :exec
UPDATE rotation_schedule SET done = sqlc.arg(done) WHERE name = 'fleet' AND schedule = sqlc.arg(schedule) AND done > sqlc.arg(latest);

-- name: AdvanceRotationSchedule :execrows
UPDATE rotation_schedule SET done = sqlc.arg(done) WHERE name = 'fleet' AND schedule = sqlc.arg(schedule) AND done < sqlc.arg(before);

-- name: DeleteRotationSchedule :exec
DELETE FROM rotation_schedule WHERE name = 'fleet';
