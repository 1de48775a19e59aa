-- People, what they are let in with, and the audit. Times are microseconds since
-- 1970 UTC, secrets are SHA-256 in hexadecimal digits, lists are JSON arrays of text.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('access', 0), ('people', 0), ('api_tokens', 0), ('audit_events', 0);

CREATE TABLE people (
    id           BIGINT  PRIMARY KEY,
    subject      TEXT    NOT NULL UNIQUE,
    external     BOOLEAN NOT NULL,
    username     TEXT    UNIQUE, -- NULL for external ones
    name         TEXT    NOT NULL,
    email        TEXT    NOT NULL,
    password     TEXT    NOT NULL, -- hash, as a PHC string; '' for external ones
    roles        TEXT    NOT NULL,
    limit_models TEXT    NOT NULL,
    limit_tags   TEXT    NOT NULL,
    disabled     BOOLEAN NOT NULL,
    created_at   BIGINT  NOT NULL,
    seen_at      BIGINT
);

CREATE TABLE sessions (
    id          TEXT   PRIMARY KEY,
    person_id   BIGINT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    secret_hash TEXT   UNIQUE, -- NULL for those of an external provider
    address     TEXT   NOT NULL,
    agent       TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    seen_at     BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    ends_at     BIGINT NOT NULL
);

CREATE INDEX sessions_by_person ON sessions (person_id);

CREATE TABLE api_tokens (
    id           BIGINT PRIMARY KEY,
    person_id    BIGINT NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    name         TEXT   NOT NULL,
    hint         TEXT   NOT NULL,
    secret_hash  TEXT   NOT NULL UNIQUE,
    roles        TEXT   NOT NULL,
    limit_models TEXT   NOT NULL,
    limit_tags   TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    used_at      BIGINT
);

CREATE INDEX api_tokens_by_person ON api_tokens (person_id);

-- What an external provider gave out and is not good any more.
CREATE TABLE revocations (
    subject    TEXT   NOT NULL, -- '' if only the session says it
    session    TEXT   NOT NULL, -- the provider's sid; '' is every session of the subject
    kept       TEXT   NOT NULL, -- the sid that stays good, '' is none
    revoked_at BIGINT NOT NULL,
    until      BIGINT NOT NULL,
    PRIMARY KEY (subject, session)
);

CREATE TABLE audit_events (
    id      BIGINT PRIMARY KEY,
    at      BIGINT NOT NULL,
    actor   TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    kind    TEXT   NOT NULL,
    action  TEXT   NOT NULL,
    target  TEXT   NOT NULL,
    label   TEXT   NOT NULL,
    outcome TEXT   NOT NULL,
    address TEXT   NOT NULL,
    detail  TEXT   NOT NULL
);

CREATE INDEX audit_events_by_time ON audit_events (at);
