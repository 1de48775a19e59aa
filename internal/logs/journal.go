package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"time"
)

// Journal is the durable, ordered record of batches. What it has acknowledged
// survives the death of the process; its sequence numbers order everything
// after it. Safe for concurrent use.
type Journal interface {
	// Epoch names this incarnation of the journal. It changes only when the
	// journal is created anew, and with it the meaning of every sequence.
	Epoch() string

	// Append stores a batch. It may return before that is done and blocks only
	// while too much is under way. done is called exactly once, in the order
	// of the calls of Append, from one goroutine, which it must not hold up:
	// with the batch's sequence, or with an error of kind fleet.Unavailable if
	// it is not certain that the batch was stored.
	Append(b Batch, done func(seq uint64, err error))

	// Bounds returns the sequences of the oldest and the newest record that the
	// journal holds; oldest is newest+1 when it holds none.
	Bounds(ctx context.Context) (oldest, newest uint64, err error)

	// Newest returns a sequence that no record is beyond which was acknowledged
	// before the call, to whomever, and up to which the journal had everything.
	// It mostly costs nothing.
	Newest(ctx context.Context) (uint64, error)

	// Replay reads the records of the devices (their keys; nil: all) with a sequence
	// after the given one, in order, in pages, until emit has had everything
	// that the journal held when Replay was called, and returns the sequence up
	// to which that is so. It stops with the error of emit, unchanged.
	Replay(ctx context.Context, devices []string, after uint64, emit func(Page) error) (upTo uint64, err error)

	// Consume reads every record after the given sequence, of devices and of none,
	// in order, in pages, and goes on with what is appended until ctx ends; then
	// it returns nil. A sequence that is missing between two records, or before
	// the first, was given up by the journal. It stops with the error of emit,
	// unchanged. What is new may wait a moment to become a page, unless hurry,
	// which may be nil, gives something.
	Consume(ctx context.Context, after uint64, hurry <-chan struct{}, emit func([]Record) error) error

	// Trim gives up every record with a sequence below the given one, which is
	// at most that of the next record.
	Trim(ctx context.Context, below uint64) error

	// Advance makes every sequence that is given from now on greater than the
	// given one. What it passes over is a cut: the end of the journal was lost, and
	// its sequences are not given twice. Consume gives a Record without Device and
	// Body for each of them, Replay tells of it as Page.Lost.
	Advance(ctx context.Context, beyond uint64) error

	// Origins returns the origins, where they have one, of the newest n records.
	Origins(ctx context.Context, n int) ([]string, error)

	// Watch makes Live deliver the devices' records. When it returns nil, every
	// record stored from then on will be delivered; after an error none is watched.
	Watch(ctx context.Context, devices ...string) error
	// Unwatch ends that for one.
	Unwatch(device string)

	// Live delivers the records of watched devices in the order of their
	// sequence, one at a time, until ctx ends. It calls lost before the next
	// delivery when it cannot vouch for having delivered everything.
	Live(ctx context.Context, deliver func(Record), lost func()) error
}

// Batch is what one MQTT message holds of one device's lines.
type Batch struct {
	Device    string // its key; "" if no device matched
	Unmatched Reason // why none did
	Body      Body
	Origin    string // names the message it came in, if that may come again; "" if not
}

// Record is a Batch in its place in the journal.
type Record struct {
	Seq    uint64
	Prev   uint64 // the device's record before this one, 0 if none; only from Live
	Device string // its key; "" for a record of no device, which only Consume gives
	Body   Body
}

// ofCut reports whether the record stands for a sequence of a cut.
func (r *Record) ofCut() bool { return r.Device == "" && len(r.Body) == 0 }

// Page is a run of records in the order of their sequence.
type Page struct {
	Records []Record
	// Oldest is the oldest sequence the journal still held after the page was
	// read: a record with a lower one may be missing from it.
	Oldest uint64
	// Lost is what is gone and stood before Records: cuts, and from a History all
	// else too. That looks after Oldest itself and leaves it 0.
	Lost []Lost
}

// Cut is a range of sequences, From < sequence <= To, that have no batch because
// the end of the journal was lost.
type Cut struct{ From, To uint64 }

// WithCuts emits a page of a Replay, and in its place each cut that lies between
// after, the end of the page before, and upTo, that of this one.
func WithCuts(epoch string, cuts []Cut, after, upTo uint64, p Page, emit func(Page) error) error {
	for _, c := range cuts {
		if c.To <= after || c.To > upTo {
			continue
		}
		before := 0
		for before < len(p.Records) && p.Records[before].Seq <= c.From {
			before++
		}
		if before > 0 {
			if err := emit(Page{Records: p.Records[:before], Oldest: p.Oldest, Lost: p.Lost}); err != nil {
				return err
			}
			p.Records, p.Lost = p.Records[before:], nil
		}
		p.Lost = append(p.Lost, Lost{Epoch: epoch, From: c.From, To: c.To, Reason: LostReset})
	}
	return emit(p)
}

// Body is the JSON text of a batch, a part of the event that readers receive:
//
//	{"received":"<TimeLayout>","lines":<n>,"logs":[<document>...],"meta":[{"level","tag","uptime_ms"}...]}
//
// meta[i] says what was recognised in logs[i]; meta is left out when nothing was.
type Body []byte

const (
	bodyReceived = `{"received":"`
	bodyLines    = `","lines":`
	bodyLogs     = `,"logs":[`
)

// EncodeBody encodes the entries of one batch; there must be at least one.
func EncodeBody(received time.Time, entries []Entry) Body {
	size, meta := 128, false
	for i := range entries {
		e := &entries[i]
		size += len(e.Doc) + 1
		if e.Level != Unknown || e.Tag != "" || e.HasUptime {
			meta = true
			size += len(e.Tag) + 56
		}
	}
	b := make([]byte, 0, size)
	b = append(b, bodyReceived...)
	b = received.UTC().AppendFormat(b, TimeLayout)
	b = append(b, bodyLines...)
	b = strconv.AppendInt(b, int64(len(entries)), 10)
	b = append(b, bodyLogs...)
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, entries[i].Doc...)
	}
	b = append(b, ']')
	if meta {
		b = append(b, `,"meta":[`...)
		for i := range entries {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendMeta(b, &entries[i])
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendMeta(b []byte, e *Entry) []byte {
	sep := byte('{')
	if e.Level != Unknown {
		b = append(append(append(append(b, sep), `"level":"`...), e.Level.String()...), '"')
		sep = ','
	}
	if e.Tag != "" {
		tag, _ := json.Marshal(e.Tag) // a string always marshals
		b = append(append(append(b, sep), `"tag":`...), tag...)
		sep = ','
	}
	if e.HasUptime {
		b = append(append(b, sep), `"uptime_ms":`...)
		b = strconv.AppendInt(b, e.Uptime.Milliseconds(), 10)
		sep = ','
	}
	if sep == '{' {
		b = append(b, '{')
	}
	return append(b, '}')
}

// Received returns when the batch arrived, or the zero time if b is no Body.
func (b Body) Received() time.Time {
	if len(b) < len(bodyReceived)+len(TimeLayout) || string(b[:len(bodyReceived)]) != bodyReceived {
		return time.Time{}
	}
	t, err := time.Parse(TimeLayout, string(b[len(bodyReceived):len(bodyReceived)+len(TimeLayout)]))
	if err != nil {
		return time.Time{}
	}
	return t
}

// Lines returns the number of entries, or 0 if b is no Body.
func (b Body) Lines() int {
	at := len(bodyReceived) + len(TimeLayout)
	if len(b) < at+len(bodyLines) || string(b[at:at+len(bodyLines)]) != bodyLines {
		return 0
	}
	num, _, ok := bytes.Cut(b[at+len(bodyLines):], []byte(","))
	n, err := strconv.Atoi(string(num))
	if !ok || err != nil || n < 0 {
		return 0
	}
	return n
}

// fields returns the members of the object without its opening brace, to be
// put behind other members.
func (b Body) fields() []byte { return b[1:] }
