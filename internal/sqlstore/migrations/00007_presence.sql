-- Which devices are there, and when they came and went. Times that are not are 0.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('presence', 0);

CREATE TABLE presence (
    device_id  BIGINT  PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    version    BIGINT  NOT NULL, -- of the commit that changed it last
    online     BOOLEAN NOT NULL,
    since      BIGINT  NOT NULL,
    seen_at    BIGINT  NOT NULL,
    source     TEXT    NOT NULL,
    by_session BOOLEAN NOT NULL,
    clock_at   BIGINT  NOT NULL,
    clock_off  BIGINT  NOT NULL, -- microseconds
    changes    BIGINT  NOT NULL  -- number of the last of its history
);

CREATE INDEX presence_by_version ON presence (version);

CREATE TABLE presence_history (
    device_id BIGINT  NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    number    BIGINT  NOT NULL,
    at        BIGINT  NOT NULL,
    online    BOOLEAN NOT NULL,
    reason    TEXT    NOT NULL,
    PRIMARY KEY (device_id, number)
);

CREATE INDEX presence_history_by_time ON presence_history (at);

-- The processes that have sessions of devices, and how long what they said holds.
CREATE TABLE presence_processes (
    holder TEXT   PRIMARY KEY,
    until  BIGINT NOT NULL
);

CREATE TABLE presence_sessions (
    device_id BIGINT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    holder    TEXT   NOT NULL REFERENCES presence_processes (holder) ON DELETE CASCADE,
    sessions  BIGINT NOT NULL,
    version   BIGINT NOT NULL,
    PRIMARY KEY (device_id, holder)
);

CREATE INDEX presence_sessions_by_holder ON presence_sessions (holder);
CREATE INDEX presence_sessions_by_version ON presence_sessions (version);
