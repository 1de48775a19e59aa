-- Campaigns; the rules of queries.sql hold here as well.

-- name: ListCampaignCandidates :many
SELECT d.id, d.key, d.device_name, d.device_entity_id, d.tags, d.device_model_id, m.code, d.active, d.revoked_at, d.rotation_state,
       d.secret_created_at, r.wire, r.stuck, CAST(coalesce(CASE WHEN r.wire <> 'OK' THEN r.state END, '') AS TEXT) AS state, c.campaign_id
FROM devices d
JOIN device_models m ON m.id = d.device_model_id
LEFT JOIN rotations r ON r.device_id = d.id
LEFT JOIN campaign_devices c ON c.device_id = d.id AND c.state IN ('waiting', 'deferred', 'in_flight');

-- name: ListTookLately :many
SELECT device_id, started_at, ended_at FROM rotation_attempts
WHERE outcome = 'done' ORDER BY ended_at DESC LIMIT sqlc.arg(most);

-- name: InsertCampaign :exec
INSERT INTO campaigns (id, version, live, state, name, reason, actor, created_at, rules, course, options)
VALUES (sqlc.arg(id), 1, TRUE, sqlc.arg(state), sqlc.arg(name), sqlc.arg(reason), sqlc.arg(actor), sqlc.arg(created_at), sqlc.arg(rules),
        sqlc.arg(course), sqlc.arg(options));

-- name: GetCampaign :one
SELECT id, version, name, reason, actor, created_at, rules, course, options FROM campaigns WHERE id = sqlc.arg(id);

-- name: ListCampaigns :many
SELECT id, version, name, reason, actor, created_at, rules, course, options FROM campaigns
WHERE id < sqlc.arg(before_id) ORDER BY id DESC LIMIT sqlc.arg(most);

-- name: ListLiveCampaigns :many
SELECT id, version, name, reason, actor, created_at, rules, course FROM campaigns WHERE live = TRUE ORDER BY id;

-- name: CountCampaigns :many
SELECT state, count(*) AS campaigns FROM campaigns GROUP BY state;

-- name: UpdateCampaign :execrows
UPDATE campaigns
SET version = version + 1, live = sqlc.arg(live), state = sqlc.arg(state), course = sqlc.arg(course)
WHERE id = sqlc.arg(id) AND version = sqlc.arg(version);

-- name: BeginCampaignDevice :execrows
UPDATE campaign_devices
SET state = 'in_flight', reason = '', started_at = sqlc.arg(at), queued_at = 0
WHERE campaign_id = sqlc.arg(campaign_id) AND device_id = sqlc.arg(device_id) AND state = sqlc.arg(was);

-- name: DeferCampaignDevice :execrows
UPDATE campaign_devices
SET state = 'deferred', reason = sqlc.arg(reason), deferred_at = sqlc.arg(at)
WHERE campaign_id = sqlc.arg(campaign_id) AND device_id = sqlc.arg(device_id) AND state = sqlc.arg(was);

-- name: EndCampaignDevice :execrows
UPDATE campaign_devices
SET state = sqlc.arg(state), reason = sqlc.arg(reason), ended_at = sqlc.arg(at), attempt = sqlc.arg(attempt)
WHERE campaign_id = sqlc.arg(campaign_id) AND device_id = sqlc.arg(device_id) AND state = sqlc.arg(was);

-- name: SkipOpenCampaignDevices :exec
UPDATE campaign_devices SET state = 'skipped', reason = sqlc.arg(reason), ended_at = sqlc.arg(at)
WHERE campaign_id = sqlc.arg(campaign_id) AND state IN ('waiting', 'deferred');

-- name: DeferAgain :exec
UPDATE campaign_devices SET deferred_at = sqlc.arg(at) WHERE campaign_id = sqlc.arg(campaign_id) AND state = 'deferred';

-- name: MarkCampaignDeviceQueued :exec
UPDATE campaign_devices SET queued_at = sqlc.arg(at)
WHERE campaign_id = sqlc.arg(campaign_id) AND device_id = sqlc.arg(device_id) AND state = 'in_flight';

-- name: ListCampaignDevices :many
SELECT device_id, device_key, position, wave, state, reason, started_at, ended_at FROM campaign_devices
WHERE campaign_id = sqlc.arg(campaign_id) AND position > sqlc.arg(after)
ORDER BY position LIMIT sqlc.arg(most);

-- name: ListCampaignDevicesIn :many
SELECT device_id, device_key, position, wave, state, reason, started_at, ended_at FROM campaign_devices
WHERE campaign_id = sqlc.arg(campaign_id) AND state = sqlc.arg(state) AND position > sqlc.arg(after)
ORDER BY position LIMIT sqlc.arg(most);

-- name: ListCampaignDeviceIDs :many
SELECT device_id FROM campaign_devices WHERE campaign_id = sqlc.arg(campaign_id);

-- name: ListCampaignTurns :many
SELECT c.device_id, c.wave, c.deferred_at, d.active, d.revoked_at, r.wire
FROM campaign_devices c
LEFT JOIN devices d ON d.id = c.device_id
LEFT JOIN rotations r ON r.device_id = c.device_id
WHERE c.campaign_id = sqlc.arg(campaign_id) AND c.state = sqlc.arg(state) AND c.wave >= sqlc.arg(first_wave) AND c.wave <= sqlc.arg(last_wave)
ORDER BY c.position LIMIT sqlc.arg(most);

-- name: ListCampaignFlights :many
SELECT c.device_id, c.wave, c.queued_at, d.id AS there, r.wire, r.campaign, r.stuck, r.trouble, a.attempt, a.outcome, a.ended_at
FROM campaign_devices c
LEFT JOIN devices d ON d.id = c.device_id
LEFT JOIN rotations r ON r.device_id = c.device_id
LEFT JOIN rotation_attempts a ON a.device_id = c.device_id AND a.campaign = c.campaign_id
      AND a.attempt = (SELECT max(b.attempt) FROM rotation_attempts b WHERE b.device_id = c.device_id AND b.campaign = c.campaign_id)
WHERE c.campaign_id = sqlc.arg(campaign_id) AND c.state = 'in_flight'
ORDER BY c.position;

-- name: ListLateCampaignDevices :many
SELECT c.campaign_id, c.device_id, c.wave, c.ended_at AS failed_at, a.attempt, a.ended_at
FROM campaign_devices c
JOIN rotation_attempts a ON a.device_id = c.device_id AND a.attempt >= c.attempt AND a.outcome IN ('done', 'believed')
     AND (a.campaign = c.campaign_id OR a.campaign = 0 AND a.actor = '')
WHERE c.state = 'failed' AND c.ended_at > sqlc.arg(since) AND c.attempt > 0
ORDER BY c.campaign_id, c.device_id, a.attempt LIMIT sqlc.arg(most);
