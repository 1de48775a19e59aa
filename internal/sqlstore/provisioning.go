package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore/db"
)

var _ registry.LinkStore = (*DB)(nil)

// InsertLink implements registry.LinkStore.
func (d *DB) InsertLink(ctx context.Context, l registry.Link, most int) (id int64, err error) {
	err = d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		open, err := q.CountOpenProvisioningLinks(ctx, db.CountOpenProvisioningLinksParams{DeviceID: l.Device, Now: micros(l.CreatedAt)})
		if err != nil {
			return classify(err)
		}
		if open >= int64(most) {
			return fleet.E(fleet.TooMany, nil, "The device has %d links that are not used yet, more are not allowed", open)
		}
		if id, err = q.NextID(ctx, "provisioning_links"); err != nil {
			return classify(err)
		}
		err = q.InsertProvisioningLink(ctx, db.InsertProvisioningLinkParams{
			ID: id, DeviceID: l.Device, TokenHash: l.Hash, Format: l.Format, PartitionSize: int64(l.PartitionSize), CreatedBy: l.CreatedBy,
			Maker: l.Maker, CreatedAt: micros(l.CreatedAt), ExpiresAt: micros(l.ExpiresAt),
		})
		switch violated(err) {
		case foreignKey:
			return fleet.ErrNotFound("Device", l.Device)
		case unique:
			return fleet.E(fleet.Exists, err, "There is such a link already")
		}
		return classify(err)
	})
	return id, err
}

// Links implements registry.LinkStore.
func (d *DB) Links(ctx context.Context, device int64) ([]registry.Link, error) {
	rows, err := d.q.ListProvisioningLinks(ctx, device)
	if err != nil {
		return nil, classify(err)
	}
	links := make([]registry.Link, len(rows))
	for i, r := range rows {
		links[i] = linkOf(r)
	}
	return links, nil
}

// LinkByHash implements registry.LinkStore.
func (d *DB) LinkByHash(ctx context.Context, hash string) (registry.Link, error) {
	r, err := d.q.GetProvisioningLink(ctx, hash)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return registry.Link{}, fleet.E(fleet.NotFound, nil, "There is no such link")
	case err != nil:
		return registry.Link{}, classify(err)
	}
	return linkOf(r), nil
}

// UseLink implements registry.LinkStore.
func (d *DB) UseLink(ctx context.Context, id int64, at time.Time, from string) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		n, err := db.New(tx).UseProvisioningLink(ctx, db.UseProvisioningLinkParams{UsedAt: micros(at), UsedFrom: from, ID: id, Now: micros(at)})
		return one(n, err, "Link", id)
	})
}

// DeleteLink implements registry.LinkStore.
func (d *DB) DeleteLink(ctx context.Context, device, id int64) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		n, err := db.New(tx).DeleteProvisioningLink(ctx, db.DeleteProvisioningLinkParams{DeviceID: device, ID: id})
		return one(n, err, "Link", id)
	})
}

// DeleteOldLinks implements registry.LinkStore.
func (d *DB) DeleteOldLinks(ctx context.Context, until time.Time) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		return classify(db.New(tx).DeleteOldProvisioningLinks(ctx, micros(until)))
	})
}

func linkOf(r db.ProvisioningLink) registry.Link {
	return registry.Link{
		ID: r.ID, Device: r.DeviceID, Hash: r.TokenHash, Format: r.Format, PartitionSize: int(r.PartitionSize), CreatedBy: r.CreatedBy,
		Maker: r.Maker, CreatedAt: timeOf(r.CreatedAt), ExpiresAt: timeOf(r.ExpiresAt), UsedAt: timeOf(r.UsedAt), UsedFrom: r.UsedFrom,
	}
}
