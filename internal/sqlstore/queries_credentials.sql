-- Credentials of devices; the rules of queries.sql hold here as well.

-- name: SetDeviceRevoked :execrows
UPDATE devices SET revoked_at = sqlc.arg(revoked_at) WHERE id = sqlc.arg(id);

-- name: ListStaleDevices :many
SELECT id FROM devices WHERE client_stale = TRUE;

-- name: SetClientStale :execrows
UPDATE devices SET client_stale = sqlc.arg(client_stale) WHERE id = sqlc.arg(id);

-- name: PutRemoval :exec
INSERT INTO client_removals (client_id, due_at) VALUES (sqlc.arg(client_id), sqlc.arg(due_at))
ON CONFLICT (client_id) DO UPDATE SET due_at = excluded.due_at;

-- name: ListRemovals :many
SELECT client_id, due_at FROM client_removals;

-- name: DeleteRemoval :execrows
DELETE FROM client_removals WHERE client_id = sqlc.arg(client_id);

-- name: CredentialsVersion :one
SELECT last_id FROM id_counters WHERE name = 'credentials_version';

-- name: ListClients :many
SELECT client_id, name, description, enabled, public_key, not_before, created_at, updated_at FROM device_clients;

-- name: GetClient :one
SELECT client_id, name, description, enabled, public_key, not_before, created_at, updated_at FROM device_clients
WHERE client_id = sqlc.arg(client_id);

-- name: PutClient :exec
INSERT INTO device_clients (client_id, name, description, enabled, public_key, not_before, created_at, updated_at)
VALUES (sqlc.arg(client_id), sqlc.arg(name), sqlc.arg(description), sqlc.arg(enabled), sqlc.arg(public_key),
        sqlc.arg(not_before), sqlc.arg(created_at), sqlc.arg(updated_at))
ON CONFLICT (client_id) DO UPDATE
SET name = excluded.name, description = excluded.description, enabled = excluded.enabled, public_key = excluded.public_key,
    not_before = excluded.not_before, updated_at = excluded.updated_at;

-- name: DeleteClient :execrows
DELETE FROM device_clients WHERE client_id = sqlc.arg(client_id);

-- name: ListSecrets :many
SELECT id, client_id, sealed, created_at FROM device_secrets WHERE revoked_at IS NULL;

-- name: ListSecretsOfClient :many
SELECT id, client_id, sealed, created_at FROM device_secrets WHERE client_id = sqlc.arg(client_id) AND revoked_at IS NULL;

-- name: InsertSecret :exec
INSERT INTO device_secrets (id, client_id, sealed, created_at)
VALUES (sqlc.arg(id), sqlc.arg(client_id), sqlc.arg(sealed), sqlc.arg(created_at));

-- name: RevokeSecret :execrows
UPDATE device_secrets SET revoked_at = sqlc.arg(revoked_at) WHERE id = sqlc.arg(id) AND revoked_at IS NULL;

-- name: DeleteExpiredAssertions :exec
DELETE FROM device_assertions WHERE expires_at < sqlc.arg(expires_at);

-- name: CountAssertions :one
SELECT count(*) FROM device_assertions WHERE client_id = sqlc.arg(client_id);

-- name: InsertAssertion :exec
INSERT INTO device_assertions (client_id, jti, expires_at) VALUES (sqlc.arg(client_id), sqlc.arg(jti), sqlc.arg(expires_at));

-- name: ListSigningKeys :many
SELECT id, algorithm, sealed, active_from, lifetime, created_at FROM signing_keys;

-- name: InsertSigningKey :exec
INSERT INTO signing_keys (id, algorithm, sealed, active_from, lifetime, created_at)
VALUES (sqlc.arg(id), sqlc.arg(algorithm), sqlc.arg(sealed), sqlc.arg(active_from), sqlc.arg(lifetime), sqlc.arg(created_at));

-- name: SetSigningKeyLifetime :execrows
UPDATE signing_keys SET lifetime = sqlc.arg(lifetime) WHERE id = sqlc.arg(id);

-- name: DeleteSigningKey :execrows
DELETE FROM signing_keys WHERE id = sqlc.arg(id);
