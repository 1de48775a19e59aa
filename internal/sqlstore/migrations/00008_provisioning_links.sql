-- Links that give the credentials of a device to who has them, once. Of the
-- secret in a link only the hash is kept. Times that are not are 0.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('provisioning_links', 0);

CREATE TABLE provisioning_links (
    id             BIGINT PRIMARY KEY,
    device_id      BIGINT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    token_hash     TEXT   NOT NULL UNIQUE, -- SHA-256, in hex
    format         TEXT   NOT NULL,
    partition_size BIGINT NOT NULL, -- bytes; 0 unless the format is nvs
    created_by     TEXT   NOT NULL, -- for people
    maker          TEXT   NOT NULL, -- whose rights the link has
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    used_at        BIGINT NOT NULL,
    used_from      TEXT   NOT NULL
);

CREATE INDEX provisioning_links_by_device ON provisioning_links (device_id);
CREATE INDEX provisioning_links_by_end ON provisioning_links (expires_at);
