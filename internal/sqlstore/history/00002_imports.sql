-- Imports of lines that another program stored, each with an epoch of its own. What
-- is stored of one and where it goes on are written together.

-- +goose Up
CREATE TABLE log_imports (
    source   TEXT   NOT NULL PRIMARY KEY, -- names what is imported, from where
    epoch    BIGINT NOT NULL REFERENCES log_epochs (number),
    mark     TEXT   NOT NULL,             -- where it goes on; '' is the beginning
    last_seq BIGINT NOT NULL
);
