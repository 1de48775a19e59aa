package logs

import (
	"context"
	"time"

	"signalbox/internal/fleet"
)

// Sink is a store outside Signalbox that gets a copy of every line.
type Sink interface {
	// Name names the sink in metrics, the log and its position: [a-z0-9-]+.
	Name() string

	// Write hands the lines over. Every line that is not among the refusals is
	// stored when err is nil. With an error none but the refused are settled, and
	// all others are to be written again: at once and fewer at a time if it is of
	// kind fleet.TooLarge or fleet.Invalid, which is about what was sent; later
	// for any other kind, which is about the sink. A line that is written again
	// after it was stored must not become a second one.
	Write(ctx context.Context, lines []SinkLine) (refused []Refusal, err error)
}

// SinkLine is one line as a Sink gets it.
type SinkLine struct {
	ID       string // names the line for ever: its LineCursor
	Seq      uint64
	N        int       // its index within its batch
	Device   string    // the device's key; "" when no device matched
	Received time.Time // when it arrived
	Doc      []byte    // the document as journalled, a JSON object
	Meta     []byte    // a JSON object with what is known of "level", "tag" and "uptime_ms"; nil if nothing is
}

// size is what the line counts towards the size of a request.
func (l *SinkLine) size() int { return len(l.Doc) + len(l.Meta) + sinkLineOverhead }

// Refusal says that a sink did not take one line.
type Refusal struct {
	Index int // in the lines given to Write
	// Kind is fleet.Invalid or fleet.TooLarge for a line that the sink will never
	// take. Any other kind means that it may take it later.
	Kind   fleet.Kind
	Reason string // the sink's own words
}

// final reports whether a line refused with this kind is refused for good.
func final(k fleet.Kind) bool { return k == fleet.Invalid || k == fleet.TooLarge }

// Positions remembers how far each reader of the journal has come.
type Positions interface {
	// Position returns what was stored last, or the zero Progress.
	Position(ctx context.Context, name string) (Progress, error)
	// SetPosition stores it, all or nothing.
	SetPosition(ctx context.Context, name string, p Progress) error
}

// Progress is how far a reader of the journal has come, and what it did not get
// on the way.
type Progress struct {
	Epoch string
	Seq   uint64
	Lost  []Lost // at most maxLosses, in order; without EpochNumber
}

// DeadLetters keeps the lines that a sink will never take, by the order in which
// they were refused. Safe for concurrent use.
type DeadLetters interface {
	// Refuse stores the line; when it returns nil, that is durable. A line that
	// is refused again shortly after is stored once.
	Refuse(ctx context.Context, sink string, line SinkLine, reason string) error
	// List returns the letters that q selects, in its order, and whether there
	// are more behind them. It returns fewer than q.Limit where those would be
	// very long.
	List(ctx context.Context, q DeadQuery) (letters []DeadLetter, more bool, err error)
	// Remove removes one letter, if it is there.
	Remove(ctx context.Context, number uint64) error
	// Purge removes all letters of the sink with a number up to the given one,
	// and returns how many there were.
	Purge(ctx context.Context, sink string, upTo uint64) (int, error)
}

// DeadLetter is a line that a sink refused for good.
type DeadLetter struct {
	Number  uint64 // its place among all
	Sink    string
	Refused time.Time
	Reason  string // the sink's own words
	Line    SinkLine
}

// DeadQuery selects dead letters.
type DeadQuery struct {
	Sink   string // "": of any
	After  uint64 // only those with a greater number, or a smaller one if Newest; 0: all
	Newest bool   // the newest first
	Limit  int    // at least 1
}

// sinkLines appends the lines of the record. A record that is no Body is one
// line, and ok is false.
func sinkLines(dst []SinkLine, epoch string, r Record) (lines []SinkLine, ok bool) {
	received := r.Body.Received()
	docs, metas, ok := splitBody(r.Body, nil, nil)
	if !ok {
		docs, metas = [][]byte{r.Body}, nil
	}
	for n, doc := range docs {
		l := SinkLine{ID: LineCursor{Cursor{epoch, r.Seq}, n}.String(), Seq: r.Seq, N: n, Device: r.Device, Received: received, Doc: doc}
		if metas != nil && len(metas[n]) > len("{}") {
			l.Meta = metas[n]
		}
		dst = append(dst, l)
	}
	return dst, ok
}
