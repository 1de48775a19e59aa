-- Rotation of many devices. Each change of a device, or of its rotation, gets
-- the next number of the counter rotation_changes: whoever knows the devices up to a number
-- reads what came after it, and no more.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('rotation_changes', 0);

ALTER TABLE devices ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;

CREATE INDEX devices_by_change ON devices (changed);

-- The schedule by which the whole fleet is rotated, in the only row, and the
-- date up to which it was carried out.
CREATE TABLE rotation_schedule (
    name     TEXT   PRIMARY KEY,
    schedule TEXT   NOT NULL, -- the cron expression and its zone
    done     BIGINT NOT NULL
);
