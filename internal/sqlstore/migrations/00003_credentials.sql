-- Credentials of devices. Secrets and private keys are sealed before they come
-- here (internal/secret).

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('device_secrets', 0), ('credentials_version', 0);

ALTER TABLE devices ADD COLUMN revoked_at BIGINT;

-- Whether the client at the issuer may be other than the device says. Devices
-- from before there were clients have none.
ALTER TABLE devices ADD COLUMN client_stale BOOLEAN NOT NULL DEFAULT TRUE;

-- Clients that are to be deleted at the issuer when it is time, until that
-- succeeded. One whose device is only being made is here as well, for later.
CREATE TABLE client_removals (
    client_id TEXT   PRIMARY KEY,
    due_at    BIGINT NOT NULL
);

-- What the built-in issuer has.
CREATE TABLE device_clients (
    client_id   TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL,
    description TEXT    NOT NULL,
    enabled     BOOLEAN NOT NULL,
    public_key  TEXT,             -- JWK (RFC 7517) that its assertions are signed with
    not_before  BIGINT  NOT NULL, -- tokens from before are refused
    created_at  BIGINT  NOT NULL,
    updated_at  BIGINT  NOT NULL
);

CREATE TABLE device_secrets (
    id         BIGINT PRIMARY KEY,
    client_id  TEXT   NOT NULL REFERENCES device_clients (client_id) ON DELETE CASCADE,
    sealed     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE INDEX device_secrets_by_client ON device_secrets (client_id);

-- Assertions that were used, until they expire: each is good once.
CREATE TABLE device_assertions (
    client_id  TEXT   NOT NULL REFERENCES device_clients (client_id) ON DELETE CASCADE,
    jti        TEXT   NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (client_id, jti)
);

CREATE TABLE signing_keys (
    id          TEXT   PRIMARY KEY,
    algorithm   TEXT   NOT NULL,
    sealed      TEXT   NOT NULL,
    active_from BIGINT NOT NULL, -- signs from then on, until the next one does
    lifetime    BIGINT NOT NULL, -- of the longest-lived token that it signed
    created_at  BIGINT NOT NULL
);
