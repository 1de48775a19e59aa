package nats

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const (
	positionsBucket = "positions"
	deadStream      = "DEADLETTER"
	deadPrefix      = "deadletter." // + sink: the lines it will never take
	deadMaxBytes    = 256 << 20
	deadMemory      = 10 * time.Minute // within which a line is refused once
)

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

// DeadLetters is logs.DeadLetters in a stream beside the journal, whose oldest
// letters make room for new ones.
type DeadLetters struct{ js jetstream.JetStream }

// OpenDeadLetters creates or opens the stream on the server of the journal,
// whose connection it shares.
func OpenDeadLetters(ctx context.Context, j *Journal) (*DeadLetters, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := j.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        deadStream,
		Description: "Log lines that a sink will never take, and why",
		Subjects:    []string{deadPrefix + "*"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    deadMaxBytes,
		Storage:     jetstream.FileStorage,
		Duplicates:  deadMemory,
	})
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "The dead letters are not available")
	}
	return &DeadLetters{j.js}, nil
}

// A DeadLetter is one message of the stream, as JSON.
type DeadLetter struct {
	Line     string          `json:"line"` // its id: <epoch>-<seq>.<n>
	Device   string          `json:"device,omitempty"`
	Received string          `json:"received"`
	Reason   string          `json:"reason"`
	Document json.RawMessage `json:"document"` // a string if it is no JSON
}

// Refuse implements logs.DeadLetters.
func (d *DeadLetters) Refuse(ctx context.Context, sink string, line logs.SinkLine, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	doc := json.RawMessage(line.Doc)
	if !json.Valid(doc) {
		var err error
		if doc, err = json.Marshal(string(line.Doc)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(DeadLetter{
		Line: line.ID, Device: line.Device, Received: line.Received.UTC().Format(logs.TimeLayout), Reason: reason, Document: doc,
	})
	if err != nil {
		return err
	}
	_, err = d.js.PublishMsg(ctx, &nats.Msg{Subject: deadPrefix + sink, Data: text}, jetstream.WithMsgID(sink+"/"+line.ID))
	if err != nil {
		return fleet.E(fleet.Unavailable, err, "The dead letters are not available")
	}
	return nil
}

// Read gives the letters of the sink that were stored by now, oldest first.
func (d *DeadLetters) Read(ctx context.Context, sink string, emit func(DeadLetter) error) error {
	failed := func(err error) error { return fleet.E(fleet.Unavailable, err, "The dead letters are not available") }
	consumer, err := d.js.OrderedConsumer(ctx, deadStream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{deadPrefix + sink}})
	if err != nil {
		return failed(err)
	}
	for {
		batch, err := consumer.FetchNoWait(pageRecords)
		if err != nil {
			return failed(err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			var letter DeadLetter
			if err := json.Unmarshal(m.Data(), &letter); err != nil {
				return failed(err)
			}
			if err := emit(letter); err != nil {
				return err
			}
		}
		if err := batch.Error(); err != nil {
			return failed(err)
		}
		if n == 0 {
			return nil
		}
	}
}
