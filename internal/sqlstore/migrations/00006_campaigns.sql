-- Campaigns: rotations of many devices. Times that are not are 0.

-- +goose Up
INSERT INTO id_counters (name, last_id) VALUES ('campaigns', 0);

CREATE TABLE campaigns (
    id         BIGINT  PRIMARY KEY,
    version    BIGINT  NOT NULL, -- grows with each change
    live       BOOLEAN NOT NULL, -- it has not ended
    state      TEXT    NOT NULL, -- that of course
    name       TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    created_at BIGINT  NOT NULL,
    rules      TEXT    NOT NULL, -- JSON of rotation.CampaignRules
    course     TEXT    NOT NULL, -- JSON of rotation.Course
    options    TEXT    NOT NULL  -- JSON as it was asked for
);

CREATE INDEX campaigns_live ON campaigns (id) WHERE live = TRUE;

-- A device that is deleted stays in the account of its campaigns.
CREATE TABLE campaign_devices (
    campaign_id BIGINT NOT NULL REFERENCES campaigns (id) ON DELETE CASCADE,
    device_id   BIGINT NOT NULL,
    device_key  TEXT   NOT NULL,
    position    BIGINT NOT NULL,
    wave        BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    attempt     BIGINT NOT NULL,
    queued_at   BIGINT NOT NULL,
    deferred_at BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL,
    PRIMARY KEY (campaign_id, device_id)
);

-- A device takes part in one campaign at a time.
CREATE UNIQUE INDEX campaign_devices_open ON campaign_devices (device_id) WHERE state IN ('waiting', 'deferred', 'in_flight');
CREATE INDEX campaign_devices_by_state ON campaign_devices (campaign_id, state, position);
CREATE INDEX campaign_devices_failed ON campaign_devices (ended_at) WHERE state = 'failed';

CREATE INDEX rotation_attempts_done ON rotation_attempts (ended_at) WHERE outcome = 'done';

INSERT INTO rotation_lease (name, holder, until) VALUES ('campaigns', '', 0);
