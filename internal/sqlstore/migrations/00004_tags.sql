-- The tags of a device's config, sorted and each on a line of its own, so that
-- nobody has to read the configs to know them. Those of the devices there are
-- already are read when the registry starts.

-- +goose Up
ALTER TABLE devices ADD COLUMN tags TEXT NOT NULL DEFAULT '';
