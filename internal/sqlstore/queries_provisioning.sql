-- Links to the credentials of devices; the rules of queries.sql hold here as well.

-- name: InsertProvisioningLink :exec
INSERT INTO provisioning_links (id, device_id, token_hash, format, partition_size, created_by, maker, created_at, expires_at, used_at, used_from)
VALUES (sqlc.arg(id), sqlc.arg(device_id), sqlc.arg(token_hash), sqlc.arg(format), sqlc.arg(partition_size), sqlc.arg(created_by),
        sqlc.arg(maker), sqlc.arg(created_at), sqlc.arg(expires_at), 0, '');

-- name: CountOpenProvisioningLinks :one
SELECT count(*) FROM provisioning_links WHERE device_id = sqlc.arg(device_id) AND used_at = 0 AND expires_at > sqlc.arg(now);

-- name: ListProvisioningLinks :many
SELECT * FROM provisioning_links WHERE device_id = sqlc.arg(device_id);

-- name: GetProvisioningLink :one
SELECT * FROM provisioning_links WHERE token_hash = sqlc.arg(token_hash);

-- name: UseProvisioningLink :execrows
UPDATE provisioning_links
SET used_at = sqlc.arg(used_at), used_from = sqlc.arg(used_from)
WHERE id = sqlc.arg(id) AND used_at = 0 AND expires_at > sqlc.arg(now);

-- name: DeleteProvisioningLink :execrows
DELETE FROM provisioning_links WHERE device_id = sqlc.arg(device_id) AND id = sqlc.arg(id);

-- name: DeleteOldProvisioningLinks :exec
DELETE FROM provisioning_links WHERE expires_at <= sqlc.arg(before);
