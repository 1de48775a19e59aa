-- Rotation of the devices' credentials. Secrets are sealed before they come here
-- (internal/secret). Times that are not are 0.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('rotation_steps', 0);

CREATE TABLE rotations (
    device_id  BIGINT  PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    version    BIGINT  NOT NULL, -- grows with each change
    wire       TEXT    NOT NULL, -- as devices.rotation_state
    state      TEXT    NOT NULL, -- JSON of rotation.State
    old_sealed TEXT    NOT NULL,
    new_sealed TEXT    NOT NULL,
    old_name   TEXT    NOT NULL,
    new_name   TEXT    NOT NULL,
    secret_at  BIGINT  NOT NULL,
    new_at     BIGINT  NOT NULL,
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    campaign   BIGINT  NOT NULL,
    urgent     BOOLEAN NOT NULL,
    holder     TEXT    NOT NULL,
    held_until BIGINT  NOT NULL,
    todo_at    BIGINT  NOT NULL,
    tries      BIGINT  NOT NULL,
    trouble    TEXT    NOT NULL,
    stuck      BOOLEAN NOT NULL,
    due_at     BIGINT  NOT NULL,
    slot_until BIGINT  NOT NULL DEFAULT 0
);

-- Of the whole fleet only those that wait for something are in these.
CREATE INDEX rotations_by_due ON rotations (due_at) WHERE due_at > 0;
CREATE INDEX rotations_queued ON rotations (secret_at) WHERE wire = 'QUEUED';
CREATE INDEX rotations_slots ON rotations (slot_until) WHERE slot_until > 0;
CREATE INDEX devices_by_rotation ON devices (rotation_state);

CREATE TABLE rotation_attempts (
    device_id  BIGINT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    attempt    BIGINT NOT NULL,
    actor      TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    campaign   BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at   BIGINT NOT NULL,
    outcome    TEXT   NOT NULL,
    PRIMARY KEY (device_id, attempt)
);

CREATE TABLE rotation_steps (
    id        BIGINT PRIMARY KEY,
    device_id BIGINT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    attempt   BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    what      TEXT   NOT NULL,
    detail    TEXT   NOT NULL
);

CREATE INDEX rotation_steps_by_attempt ON rotation_steps (device_id, attempt);

-- Which process runs the timers.
CREATE TABLE rotation_lease (
    name   TEXT   PRIMARY KEY,
    holder TEXT   NOT NULL,
    until  BIGINT NOT NULL
);

INSERT INTO rotation_lease (name, holder, until) VALUES ('runner', '', 0);
