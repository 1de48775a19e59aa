-- One schema for SQLite and PostgreSQL. Times are microseconds since 1970 UTC.
-- Ids come from id_counters, not from a driver's own sequence, so that both
-- databases read the same and an id is never given out twice.

-- +goose Up
CREATE TABLE id_counters (
    name    TEXT PRIMARY KEY,
    last_id BIGINT NOT NULL
);

INSERT INTO id_counters (name, last_id) VALUES ('device_models', 0), ('devices', 0);

CREATE TABLE device_models (
    id               BIGINT PRIMARY KEY,
    code             TEXT   NOT NULL UNIQUE CHECK (length(code) BETWEEN 1 AND 50),
    name             TEXT   NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    firmware_version TEXT,
    config_schema    TEXT,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL
);

CREATE TABLE devices (
    id                         BIGINT  PRIMARY KEY,
    key                        TEXT    NOT NULL UNIQUE CHECK (length(key) = 8),
    device_model_id            BIGINT  NOT NULL REFERENCES device_models (id) ON DELETE RESTRICT,
    active                     BOOLEAN NOT NULL,
    config                     TEXT    NOT NULL,
    device_name                TEXT    CHECK (length(device_name) BETWEEN 1 AND 255),
    device_entity_id           TEXT    CHECK (length(device_entity_id) BETWEEN 1 AND 255),
    enable_ota                 BOOLEAN,
    rotation_state             TEXT    NOT NULL CHECK (rotation_state IN ('OK', 'QUEUED', 'PENDING', 'TIMEOUT')),
    secret_created_at          BIGINT,
    last_rotation_attempt_at   BIGINT,
    last_rotation_completed_at BIGINT,
    created_at                 BIGINT  NOT NULL,
    updated_at                 BIGINT  NOT NULL
);

CREATE INDEX devices_by_model ON devices (device_model_id);
