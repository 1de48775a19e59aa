// Package registry keeps the devices and device models: the rules they obey,
// the index that the log path looks devices up in, and the news of every
// change, told after it is committed and in that order.
package registry

import (
	"context"
	"time"

	"signalbox/internal/fleet"
)

// Store keeps devices and models. Its own Queries each run by themselves.
type Store interface {
	Queries
	// Tx runs f in one transaction and commits when f returns nil. Transactions
	// run one after the other, whichever process they come from, so that what f
	// reads stays true until the commit. After an error of f, a panic or a
	// failed commit nothing of it is left, except that a commit whose answer
	// was lost may have happened: then the error is not one that f returned.
	// f must not use the Store itself.
	Tx(ctx context.Context, f func(Queries) error) error
}

// Queries is what can be asked of a store, inside a transaction or out of it.
// A missing row is fleet.NotFound, a second row of one name fleet.Exists, and a
// database that cannot be reached fleet.Unavailable.
type Queries interface {
	// Models returns all models by code.
	Models(ctx context.Context) ([]fleet.Model, error)
	// Model returns one model.
	Model(ctx context.Context, id int64) (fleet.Model, error)
	// BareModel returns one model without its DeviceCount, the only part that
	// costs more the more devices there are.
	BareModel(ctx context.Context, id int64) (fleet.Model, error)
	// InsertModel stores a new model under an id never used before, which it
	// returns; m.ID and m.DeviceCount are ignored.
	InsertModel(ctx context.Context, m fleet.Model) (int64, error)
	// UpdateModel stores m's name, firmware version, schema and update time.
	UpdateModel(ctx context.Context, m fleet.Model) error
	// DeleteModel removes a model. One that has devices stays:
	// fleet.InvalidOperation.
	DeleteModel(ctx context.Context, id int64) error

	// Devices returns the devices that pass the filter, by key, without their
	// Config.
	Devices(ctx context.Context, filter DeviceFilter) ([]fleet.Device, error)
	// Device returns one device.
	Device(ctx context.Context, id int64) (fleet.Device, error)
	// InsertDevice stores a new device of model d.Model.ID under an id never
	// used before, which it returns; d.ID is ignored. The key of another device
	// is fleet.Exists, a missing model fleet.NotFound.
	InsertDevice(ctx context.Context, d fleet.Device) (int64, error)
	// UpdateDevice stores everything of d that can change: all but the id, key,
	// model, creation time and RevokedAt.
	UpdateDevice(ctx context.Context, d fleet.Device) error
	// DeleteDevice removes a device.
	DeleteDevice(ctx context.Context, id int64) error

	// SetRevoked stores since when a device's credential is withdrawn; nil: it is
	// good.
	SetRevoked(ctx context.Context, id int64, at *time.Time) error
	// SetClientStale stores whether a device's client at the issuer may be other
	// than the device says. That of a new device may be.
	SetClientStale(ctx context.Context, id int64, stale bool) error
	// StaleDevices returns the ids of the devices for which that is so.
	StaleDevices(ctx context.Context) ([]int64, error)
	// PutRemoval notes that a client is to be deleted at the issuer at that time; one
	// that is noted already gets the new time.
	PutRemoval(ctx context.Context, clientID string, due time.Time) error
	// Removals returns what is noted.
	Removals(ctx context.Context) ([]Removal, error)
	// DeleteRemoval forgets it, and reports whether it was there.
	DeleteRemoval(ctx context.Context, clientID string) (bool, error)
}

// Removal is a client that is to be deleted at the issuer.
type Removal struct {
	ClientID string
	Due      time.Time
}

// DeviceFilter selects devices; a nil field selects all.
type DeviceFilter struct {
	ModelID  *int64
	Rotation *fleet.RotationState // a state that does not exist selects none
}
