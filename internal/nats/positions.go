package nats

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
)

const positionsBucket = "positions"

// Positions is logs.Positions in a key-value bucket beside the journal.
type Positions struct{ bucket jetstream.KeyValue }

// OpenPositions creates or opens the bucket on the server of the journal,
// whose connection it shares.
func OpenPositions(ctx context.Context, j *Journal) (*Positions, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	bucket, err := j.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: positionsBucket, Description: "How far each reader of the journal has come", Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "The positions are not available")
	}
	return &Positions{bucket}, nil
}

type position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Position implements logs.Positions.
func (p *Positions) Position(ctx context.Context, name string) (epoch string, seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	entry, err := p.bucket.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fleet.E(fleet.Unavailable, err, "The positions are not available")
	}
	var at position
	if err := json.Unmarshal(entry.Value(), &at); err != nil {
		return "", 0, fleet.E(fleet.Internal, err, "the position of %s cannot be read", name)
	}
	return at.Epoch, at.Seq, nil
}

// SetPosition implements logs.Positions.
func (p *Positions) SetPosition(ctx context.Context, name, epoch string, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	value, err := json.Marshal(position{epoch, seq})
	if err != nil {
		return err
	}
	if _, err := p.bucket.Put(ctx, name, value); err != nil {
		return fleet.E(fleet.Unavailable, err, "The positions are not available")
	}
	return nil
}
