-- The same text runs on SQLite and PostgreSQL. Two rules keep it so: every
-- parameter is first used in the order of its number (SQLite binds by first
-- use), and an optional parameter is cast (PostgreSQL cannot guess its type).
-- Order is left to the caller, because the databases collate differently.

-- name: NextID :one
UPDATE id_counters SET last_id = last_id + 1 WHERE name = sqlc.arg(name) RETURNING last_id;

-- name: ListModels :many
SELECT m.id, m.code, m.name, m.firmware_version, m.config_schema, m.created_at, m.updated_at,
       (SELECT count(*) FROM devices d WHERE d.device_model_id = m.id) AS device_count
FROM device_models m;

-- name: GetModel :one
SELECT m.id, m.code, m.name, m.firmware_version, m.config_schema, m.created_at, m.updated_at,
       (SELECT count(*) FROM devices d WHERE d.device_model_id = m.id) AS device_count
FROM device_models m
WHERE m.id = sqlc.arg(id);

-- name: GetBareModel :one
SELECT id, code, name, firmware_version, config_schema, created_at, updated_at
FROM device_models
WHERE id = sqlc.arg(id);

-- name: InsertModel :exec
INSERT INTO device_models (id, code, name, firmware_version, config_schema, created_at, updated_at)
VALUES (sqlc.arg(id), sqlc.arg(code), sqlc.arg(name), sqlc.arg(firmware_version), sqlc.arg(config_schema),
        sqlc.arg(created_at), sqlc.arg(updated_at));

-- name: UpdateModel :execrows
UPDATE device_models
SET name = sqlc.arg(name), firmware_version = sqlc.arg(firmware_version), config_schema = sqlc.arg(config_schema),
    updated_at = sqlc.arg(updated_at)
WHERE id = sqlc.arg(id);

-- name: DeleteModel :execrows
DELETE FROM device_models WHERE id = sqlc.arg(id);

-- name: ListDevices :many
SELECT d.id, d.key, d.active, d.device_name, d.device_entity_id, d.enable_ota, d.rotation_state,
       d.secret_created_at, d.last_rotation_attempt_at, d.last_rotation_completed_at, d.created_at, d.updated_at, d.revoked_at,
       m.id AS model_id, m.code AS model_code, m.name AS model_name, m.firmware_version
FROM devices d
JOIN device_models m ON m.id = d.device_model_id
WHERE (CAST(sqlc.narg(model_id) AS BIGINT) IS NULL OR d.device_model_id = CAST(sqlc.narg(model_id) AS BIGINT))
  AND (CAST(sqlc.narg(rotation_state) AS TEXT) IS NULL OR d.rotation_state = CAST(sqlc.narg(rotation_state) AS TEXT));

-- name: GetDevice :one
SELECT d.id, d.key, d.active, d.config, d.device_name, d.device_entity_id, d.enable_ota, d.rotation_state,
       d.secret_created_at, d.last_rotation_attempt_at, d.last_rotation_completed_at, d.created_at, d.updated_at, d.revoked_at,
       m.id AS model_id, m.code AS model_code, m.name AS model_name, m.firmware_version
FROM devices d
JOIN device_models m ON m.id = d.device_model_id
WHERE d.id = sqlc.arg(id);

-- name: InsertDevice :exec
INSERT INTO devices (id, key, device_model_id, active, config, device_name, device_entity_id, enable_ota, rotation_state,
                     secret_created_at, last_rotation_attempt_at, last_rotation_completed_at, created_at, updated_at)
VALUES (sqlc.arg(id), sqlc.arg(key), sqlc.arg(device_model_id), sqlc.arg(active), sqlc.arg(config), sqlc.arg(device_name),
        sqlc.arg(device_entity_id), sqlc.arg(enable_ota), sqlc.arg(rotation_state), sqlc.arg(secret_created_at),
        sqlc.arg(last_rotation_attempt_at), sqlc.arg(last_rotation_completed_at), sqlc.arg(created_at), sqlc.arg(updated_at));

-- name: UpdateDevice :execrows
UPDATE devices
SET active = sqlc.arg(active), config = sqlc.arg(config), device_name = sqlc.arg(device_name),
    device_entity_id = sqlc.arg(device_entity_id), enable_ota = sqlc.arg(enable_ota),
    rotation_state = sqlc.arg(rotation_state), secret_created_at = sqlc.arg(secret_created_at),
    last_rotation_attempt_at = sqlc.arg(last_rotation_attempt_at),
    last_rotation_completed_at = sqlc.arg(last_rotation_completed_at), updated_at = sqlc.arg(updated_at)
WHERE id = sqlc.arg(id);

-- name: DeleteDevice :execrows
DELETE FROM devices WHERE id = sqlc.arg(id);
