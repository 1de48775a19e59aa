-- Sealed log lines, for SQLite (in a file of their own) and PostgreSQL. Times are
-- microseconds since 1970 UTC. What is searched, what filters and what is read
-- stand in three tables, so that each is dense on the disk.

-- +goose Up
CREATE TABLE log_epochs (
    number BIGINT NOT NULL PRIMARY KEY, -- orders epochs
    epoch  TEXT   NOT NULL UNIQUE,
    sealed BIGINT NOT NULL              -- every record up to this sequence is in a chunk, or lost
);

CREATE TABLE log_chunks (
    id        INTEGER  NOT NULL PRIMARY KEY,
    device    TEXT     NOT NULL,
    epoch     BIGINT   NOT NULL REFERENCES log_epochs (number),
    first_seq BIGINT   NOT NULL,
    last_seq  BIGINT   NOT NULL,
    least_at  BIGINT   NOT NULL,
    most_at   BIGINT   NOT NULL,
    lines     INTEGER  NOT NULL,
    bytes     INTEGER  NOT NULL,
    stored    INTEGER  NOT NULL,
    levels    INTEGER  NOT NULL
);

CREATE UNIQUE INDEX log_chunks_by_device ON log_chunks (device, epoch, last_seq);
CREATE UNIQUE INDEX log_chunks_by_device_first ON log_chunks (device, epoch, first_seq);
CREATE UNIQUE INDEX log_chunks_by_last ON log_chunks (epoch, last_seq);
CREATE UNIQUE INDEX log_chunks_by_first ON log_chunks (epoch, first_seq);
CREATE INDEX log_chunks_by_time ON log_chunks (most_at);

CREATE TABLE log_filters (
    chunk  INTEGER NOT NULL PRIMARY KEY,
    filter BYTEA   NOT NULL
);

CREATE TABLE log_data (
    chunk INTEGER NOT NULL PRIMARY KEY,
    data  BYTEA   NOT NULL
);

CREATE TABLE log_lost (
    device   TEXT   NOT NULL, -- '' is any
    epoch    BIGINT NOT NULL REFERENCES log_epochs (number),
    from_seq BIGINT NOT NULL, -- exclusive
    to_seq   BIGINT NOT NULL,
    reason   TEXT   NOT NULL,
    least_at BIGINT,
    most_at  BIGINT,
    lines    BIGINT NOT NULL, -- 0 is not known
    PRIMARY KEY (device, epoch, from_seq, reason)
);

CREATE TABLE log_ids (
    name    TEXT   NOT NULL PRIMARY KEY,
    last_id BIGINT NOT NULL
);

INSERT INTO log_ids (name, last_id) VALUES ('chunks', 0);
