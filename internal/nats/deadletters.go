package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const (
	deadStream   = "DEADLETTER"
	deadPrefix   = "deadletter." // + sink: the lines it will never take
	deadMaxBytes = 256 << 20
	deadMemory   = 10 * time.Minute // within which a line is refused once
	deadPage     = 8 << 20          // bytes of letters in one answer
	deadFetch    = 64               // letters read at a time
)

// DeadLetters is logs.DeadLetters in a stream beside the journal, whose oldest
// letters make room for new ones.
type DeadLetters struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

var _ logs.DeadLetters = (*DeadLetters)(nil)

// OpenDeadLetters creates or opens the stream on the server of the journal,
// whose connection it shares.
func OpenDeadLetters(ctx context.Context, j *Journal) (*DeadLetters, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := j.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
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
		return nil, noLetters(err)
	}
	return &DeadLetters{j.js, stream}, nil
}

func noLetters(err error) error {
	return fleet.E(fleet.Unavailable, err, "The dead letters are not available")
}

// letter is one message of the stream, as JSON.
type letter struct {
	Line     string          `json:"line"` // its id: <epoch>-<seq>.<n>
	Device   string          `json:"device,omitempty"`
	Received string          `json:"received"`
	Reason   string          `json:"reason"`
	Document json.RawMessage `json:"document"` // a string if it is no JSON
	Meta     json.RawMessage `json:"meta,omitempty"`
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
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // the document is to stay as it is
	if err := enc.Encode(letter{
		Line: line.ID, Device: line.Device, Received: line.Received.UTC().Format(logs.TimeLayout), Reason: reason, Document: doc, Meta: line.Meta,
	}); err != nil {
		return err
	}
	_, err := d.js.PublishMsg(ctx, &nats.Msg{Subject: deadPrefix + sink, Data: text.Bytes()}, jetstream.WithMsgID(sink+"/"+line.ID))
	if err != nil {
		return noLetters(err)
	}
	return nil
}

// List implements logs.DeadLetters.
func (d *DeadLetters) List(ctx context.Context, q logs.DeadQuery) ([]logs.DeadLetter, bool, error) {
	info, err := d.stream.Info(ctx)
	if err != nil {
		return nil, false, noLetters(err)
	}
	first, end := max(1, info.State.FirstSeq), info.State.LastSeq+1 // a stream that never had a message begins at 0
	if !q.Newest {
		letters, more, err := d.read(ctx, q.Sink, max(first, q.After+1), end, q.Limit, false)
		return letters, more, err
	}
	if q.After > 0 {
		end = min(end, q.After)
	}
	// A stream is read forwards: try the last few numbers, then many more.
	for span := uint64(2 * q.Limit); ; span *= 8 {
		from := first
		if end > first+span {
			from = end - span
		}
		letters, more, err := d.read(ctx, q.Sink, from, end, q.Limit, true)
		if err != nil || more || from == first {
			slices.Reverse(letters)
			return letters, more, err
		}
	}
}

// read returns the letters of the sink with a number from first to before end:
// those that stand first, or last, up to limit.
func (d *DeadLetters) read(ctx context.Context, sink string, first, end uint64, limit int, last bool) (letters []logs.DeadLetter, more bool, err error) {
	if first >= end {
		return nil, false, nil
	}
	subject := deadPrefix + "*"
	if sink != "" {
		subject = deadPrefix + sink
	}
	consumer, err := d.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: subject, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, false, noLetters(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
		defer cancel()
		_ = d.stream.DeleteConsumer(ctx, consumer.CachedInfo().Name) // or else it expires
	}()
	size := 0
	for {
		batch, err := consumer.FetchNoWait(deadFetch)
		if err != nil {
			return nil, false, noLetters(err)
		}
		n, done := 0, false
		for m := range batch.Messages() {
			n++
			l, err := readLetter(m)
			switch {
			case err != nil:
				return nil, false, noLetters(err)
			case done || l.Number >= end:
				done = true
				continue
			}
			letters, size = append(letters, l), size+len(l.Line.Doc)
			for len(letters) > limit || size > deadPage && len(letters) > 1 {
				more = true
				gone := len(letters) - 1
				if last {
					gone = 0
				} else {
					done = true
				}
				size -= len(letters[gone].Line.Doc)
				letters = slices.Delete(letters, gone, gone+1)
			}
		}
		if err := batch.Error(); err != nil {
			return nil, false, noLetters(err)
		}
		if n == 0 || done {
			return letters, more, nil
		}
	}
}

func readLetter(m jetstream.Msg) (l logs.DeadLetter, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return l, err
	}
	var text letter
	if err := json.Unmarshal(m.Data(), &text); err != nil {
		return l, err
	}
	at, err := logs.ParseLineCursor(text.Line)
	if err != nil {
		return l, err
	}
	received, err := time.Parse(logs.TimeLayout, text.Received)
	if err != nil {
		return l, err
	}
	l = logs.DeadLetter{
		Number: meta.Sequence.Stream, Sink: strings.TrimPrefix(m.Subject(), deadPrefix), Refused: meta.Timestamp.UTC(), Reason: text.Reason,
		Line: logs.SinkLine{ID: text.Line, Seq: at.Seq, N: at.Line, Device: text.Device, Received: received, Doc: text.Document, Meta: text.Meta},
	}
	return l, nil
}

// Remove implements logs.DeadLetters.
func (d *DeadLetters) Remove(ctx context.Context, number uint64) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	err := d.stream.DeleteMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) { // also: it is not there
		if _, e := d.stream.GetMsg(ctx, number); errors.Is(e, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	if err != nil {
		return noLetters(err)
	}
	return nil
}

// Purge implements logs.DeadLetters.
func (d *DeadLetters) Purge(ctx context.Context, sink string, upTo uint64) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	before, err := d.stream.Info(ctx, jetstream.WithSubjectFilter(deadPrefix+sink))
	if err != nil {
		return 0, noLetters(err)
	}
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(deadPrefix + sink)}
	if upTo < before.State.LastSeq {
		opts = append(opts, jetstream.WithPurgeSequence(upTo+1))
	}
	if err := d.stream.Purge(ctx, opts...); err != nil {
		return 0, noLetters(err)
	}
	after, err := d.stream.Info(ctx, jetstream.WithSubjectFilter(deadPrefix+sink))
	if err != nil {
		return 0, noLetters(err)
	}
	return int(max(0, int64(before.State.Subjects[deadPrefix+sink])-int64(after.State.Subjects[deadPrefix+sink]))), nil
}
