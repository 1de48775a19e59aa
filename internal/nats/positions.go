package nats

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
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

// position is a logs.Progress as it is stored.
type position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
	Lost  []loss `json:"lost,omitempty"`
}

// loss is a logs.Lost.
type loss struct {
	Device string `json:"device,omitempty"`
	Epoch  string `json:"epoch,omitempty"` // if not that of the position
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Least  int64  `json:"least,omitempty"` // microseconds since 1970
	Most   int64  `json:"most,omitempty"`
	Lines  int    `json:"lines,omitempty"`
	Reason string `json:"reason"`
}

// Position implements logs.Positions.
func (s *Positions) Position(ctx context.Context, name string) (logs.Progress, error) {
	var none logs.Progress
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	entry, err := s.bucket.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return none, nil
	}
	if err != nil {
		return none, fleet.E(fleet.Unavailable, err, "The positions are not available")
	}
	var at position
	if err := json.Unmarshal(entry.Value(), &at); err != nil {
		return none, fleet.E(fleet.Internal, err, "the position of %s cannot be read", name)
	}
	p := logs.Progress{Epoch: at.Epoch, Seq: at.Seq}
	for _, l := range at.Lost {
		lost := logs.Lost{Device: l.Device, Epoch: cmp.Or(l.Epoch, at.Epoch), From: l.From, To: l.To, Lines: l.Lines, Reason: l.Reason}
		if l.Most != 0 {
			lost.Least, lost.Most = time.UnixMicro(l.Least).UTC(), time.UnixMicro(l.Most).UTC()
		}
		p.Lost = append(p.Lost, lost)
	}
	return p, nil
}

// SetPosition implements logs.Positions.
func (s *Positions) SetPosition(ctx context.Context, name string, p logs.Progress) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	at := position{Epoch: p.Epoch, Seq: p.Seq}
	for _, l := range p.Lost {
		kept := loss{Device: l.Device, From: l.From, To: l.To, Lines: l.Lines, Reason: l.Reason}
		if l.Epoch != p.Epoch {
			kept.Epoch = l.Epoch
		}
		if !l.Most.IsZero() {
			kept.Least, kept.Most = l.Least.UnixMicro(), l.Most.UnixMicro()
		}
		at.Lost = append(at.Lost, kept)
	}
	value, err := json.Marshal(at)
	if err != nil {
		return err
	}
	if _, err := s.bucket.Put(ctx, name, value); err != nil {
		return fleet.E(fleet.Unavailable, err, "The positions are not available")
	}
	return nil
}
