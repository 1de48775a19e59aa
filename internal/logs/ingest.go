package logs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"signalbox/internal/fleet"
)

// Directory answers which device a line belongs to. Its methods are called for
// every message, from several goroutines.
type Directory interface {
	// ByEntity returns the devices with that entity id: usually one, none if it
	// is unknown, several if their configurations say the same.
	ByEntity(entityID string) []fleet.DeviceRef
	// ByClientID returns the device that authenticates under that name.
	ByClientID(clientID string) (fleet.DeviceRef, bool)
}

// Ingest attributes the lines of devices' messages to devices and appends them
// to the journal.
type Ingest struct {
	entityField string
	directory   Directory
	journal     Journal
	ledger      *Ledger
	quota       *Quota
	redactor    *Redactor
	activity    *Activity
	heard       func(fleet.DeviceRef, time.Time)
	metrics     *Metrics
	samples     *sampler
	log         *slog.Logger

	// What was journalled before this process began, by origin: a message that
	// comes again was stored then, though its acknowledgement got lost.
	mu      sync.Mutex
	origins map[string]int
}

// IngestOptions are the parts of an Ingest; all but Redactor, Activity and Heard
// are needed.
type IngestOptions struct {
	EntityField string // the document's field that names the device
	Directory   Directory
	Journal     Journal
	Ledger      *Ledger
	Quota       *Quota
	Redactor    *Redactor
	Activity    *Activity // told of what was journalled

	// Heard is told once of each device in a message, and when it was received,
	// whatever becomes of the lines. It must be quick.
	Heard func(fleet.DeviceRef, time.Time)

	Metrics *Metrics
	Log     *slog.Logger
}

// NewIngest returns an Ingest.
func NewIngest(o IngestOptions) *Ingest {
	o.Quota.cutting = o.Metrics.cut.Add
	return &Ingest{
		entityField: o.EntityField, directory: o.Directory, journal: o.Journal, ledger: o.Ledger,
		quota: o.Quota, redactor: o.Redactor, activity: o.Activity, heard: o.Heard, metrics: o.Metrics, samples: newSampler(o.Log, o.Redactor), log: o.Log,
	}
}

// Stored tells the Ingest which batches, by Batch.Origin, the journal has from
// before. A message that a source delivers again is not stored again.
func (in *Ingest) Stored(origins []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.origins == nil {
		in.origins = map[string]int{}
	}
	for _, o := range origins {
		in.origins[o]++
	}
}

// stored reports whether the journal has that batch, and forgets it: the next
// one that is the same is another one.
func (in *Ingest) stored(origin string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := in.origins[origin]
	if n > 1 {
		in.origins[origin] = n - 1
	} else {
		delete(in.origins, origin)
	}
	return n > 0
}

// Run feeds the source's messages to the journal until ctx ends, and then
// waits until the journal has answered for each of them.
func (in *Ingest) Run(ctx context.Context, source Source) error {
	w := worker{Ingest: in, decoder: NewDecoder(in.entityField), index: map[string]int{}}
	w.decoder.Redactor = in.redactor
	ctx, stop := context.WithCancel(ctx)
	w.pending.Go(func() { w.tellClosings(ctx) })
	err := source.Run(ctx, w.handle)
	stop()
	w.pending.Wait()
	return err
}

// tellClosings writes in the logs of devices that fell silent that they are
// within their quota again, until ctx ends.
func (w *worker) tellClosings(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, c := range w.quota.sweep(now) {
				if d, ok := w.directory.ByClientID(c.device.ClientID); !ok || d.ID != c.device.ID {
					continue // it was deleted
				}
				w.pending.Add(1)
				a := &answer{done: func(error) {}, pending: &w.pending}
				a.open.Store(1)
				w.store(a, Batch{Device: c.device.Key}, now, []Entry{*c.notice})
				a.settle(nil)
			}
		}
	}
}

// worker handles the messages of one source, one at a time.
type worker struct {
	*Ingest
	decoder *Decoder
	pending sync.WaitGroup // what the journal has not answered for, and tellClosings

	// Kept from message to message for their memory.
	entries []Entry
	groups  []group
	index   map[string]int // entity -> place in groups
}

// group is the part of a message that goes to the same devices.
type group struct {
	entity  string
	entries []Entry
}

// handle decodes a message and appends a batch for each device it concerns.
// The message is done when the journal has answered for all of them.
func (w *worker) handle(m Message) {
	w.metrics.messages.Inc()
	w.metrics.bytes.Add(float64(len(m.Payload)))
	w.entries = w.decoder.Decode(w.entries[:0], m.Payload, m.Received, func(r Reason) {
		w.irregular(r, m.ClientID, m.Payload)
	})
	for rule, n := range w.decoder.redaction.counts {
		if n > 0 {
			w.metrics.redactions.WithLabelValues(ruleNames[rule]).Add(float64(n))
		}
	}
	w.metrics.lines.WithLabelValues("success").Add(float64(len(w.entries)))

	w.pending.Add(1)
	a := &answer{done: m.Done, pending: &w.pending, dup: m.Dup}
	if m.Repeats {
		sum := sha256.Sum256(append(append([]byte(m.ClientID), 0), m.Payload...))
		a.origin = base64.RawURLEncoding.EncodeToString(sum[:12])
	}
	a.open.Store(1) // handle's own share, so that the message cannot be done halfway through
	if m.ClientID != "" {
		w.byClient(a, m)
	} else {
		w.byEntity(a, m)
	}
	a.settle(nil)
}

// byClient attributes a message by its topic, whatever its lines claim.
func (w *worker) byClient(a *answer, m Message) {
	if len(w.entries) == 0 {
		return
	}
	if device, ok := w.directory.ByClientID(m.ClientID); ok {
		w.append(a, device, m.Received, w.entries)
		return
	}
	w.unmatched(a, ReasonUnknownClient, m, m.ClientID, w.entries)
}

// byEntity attributes each line by its entity field. Lines of one entity stay
// in order and in one batch.
func (w *worker) byEntity(a *answer, m Message) {
	w.groups = w.groups[:0]
	clear(w.index)
	for _, e := range w.entries {
		g := w.group(e.EntityID)
		g.entries = append(g.entries, e)
	}
	for _, g := range w.groups {
		devices := w.directory.ByEntity(g.entity)
		switch {
		case g.entity == "":
			w.unmatched(a, ReasonNoEntity, m, "", g.entries)
		case len(devices) == 0:
			w.unmatched(a, ReasonUnknownEntity, m, g.entity, g.entries)
		}
		if len(devices) > 1 {
			w.metrics.ambiguous.Add(float64(len(g.entries)))
		}
		for _, device := range devices {
			w.append(a, device, m.Received, g.entries)
		}
	}
}

// group returns the group of an entity, a new one at the end if there is none.
func (w *worker) group(entity string) *group {
	if i, ok := w.index[entity]; ok {
		return &w.groups[i]
	}
	w.index[entity] = len(w.groups)
	if len(w.groups) < cap(w.groups) {
		w.groups = w.groups[:len(w.groups)+1]
	} else {
		w.groups = append(w.groups, group{})
	}
	g := &w.groups[len(w.groups)-1]
	g.entity, g.entries = entity, g.entries[:0]
	return g
}

// append gives a device's entries, as far as its quota goes, to the journal.
func (w *worker) append(a *answer, device fleet.DeviceRef, received time.Time, entries []Entry) {
	if w.heard != nil {
		w.heard(device, received)
	}
	v := w.quota.take(device, received, entries)
	if over := len(entries) - v.allowed; over > 0 {
		w.metrics.reasons.WithLabelValues(string(v.reason)).Add(float64(over))
		entries = entries[:v.allowed]
	}
	if v.notice != nil {
		entries = append(entries[:len(entries):len(entries)], *v.notice)
	}
	if len(entries) == 0 {
		return
	}
	w.store(a, Batch{Device: device.Key}, received, entries)
}

func (w *worker) unmatched(a *answer, reason Reason, m Message, who string, entries []Entry) {
	for range entries {
		w.irregular(reason, who, entries[0].Doc)
	}
	w.store(a, Batch{Unmatched: reason}, m.Received, entries)
}

// store appends the entries to the journal as the body of b.
func (w *worker) store(a *answer, b Batch, received time.Time, entries []Entry) {
	lines := len(entries)
	if a.origin != "" {
		b.Origin = a.origin + "/" + cmp.Or(b.Device, string(b.Unmatched))
		if a.dup && w.stored(b.Origin) {
			w.metrics.repeated.Add(float64(lines))
			return
		}
	}
	w.metrics.batches.Observe(float64(lines))
	b.Body = EncodeBody(received, entries)
	var said heard // the entries are gone when the journal answers
	if w.activity != nil && b.Device != "" {
		said = hear(received, entries)
	}
	a.open.Add(1)
	w.journal.Append(b, func(seq uint64, err error) {
		if err == nil {
			w.metrics.appends.WithLabelValues("success").Inc()
			w.ledger.Add(seq, b.Device, lines)
			if said.lines > 0 {
				w.activity.add(b.Device, seq, &said)
			}
		} else {
			w.metrics.appends.WithLabelValues("error").Inc()
			w.log.Error("the journal did not take a batch; the message will not be acknowledged", "device", b.Device, "lines", lines, "err", err)
		}
		a.settle(err)
	})
}

// irregular counts a line and, now and then, logs one with a sample.
func (w *worker) irregular(r Reason, who string, sample []byte) {
	w.metrics.reasons.WithLabelValues(string(r)).Inc()
	switch r {
	case ReasonNotJSON:
		w.metrics.lines.WithLabelValues("parse_error").Inc()
	case ReasonNotObject, ReasonTooManyLines, ReasonMessageTooLong:
		w.metrics.lines.WithLabelValues("processing_error").Inc()
	}
	w.samples.note(r, who, sample)
}

// answer counts what a message still waits for and then says that it is done.
type answer struct {
	origin  string // names the message, if it may be delivered again
	dup     bool
	open    atomic.Int32
	mu      sync.Mutex
	err     error
	done    func(error)
	pending *sync.WaitGroup
}

func (a *answer) settle(err error) {
	if err != nil {
		a.mu.Lock()
		if a.err == nil {
			a.err = err
		}
		a.mu.Unlock()
	}
	if a.open.Add(-1) == 0 {
		a.done(a.err)
		a.pending.Done()
	}
}

// sampler logs the first ten lines of each reason and then every time their
// number has grown by a tenth, so that a flood does not drown the log.
type sampler struct {
	log      *slog.Logger
	redactor *Redactor
	mu       sync.Mutex
	seen     map[Reason]*sampled
}

type sampled struct{ count, next uint64 }

const sampleBytes = 200

func newSampler(log *slog.Logger, redactor *Redactor) *sampler {
	return &sampler{log: log, redactor: redactor, seen: map[Reason]*sampled{}}
}

func (s *sampler) note(r Reason, who string, sample []byte) {
	s.mu.Lock()
	n := s.seen[r]
	if n == nil {
		n = &sampled{next: 1}
		s.seen[r] = n
	}
	n.count++
	log := n.count >= n.next
	if log {
		n.next = n.count + max(1, n.count/10)
	}
	count := n.count
	s.mu.Unlock()
	if log {
		s.log.Warn("irregular log line", "reason", r, "count", count, "who", who, "sample", s.shown(sample))
	}
}

// shown returns what the log may show of a sample. It may be no JSON, and is
// searched as a text far enough to know a secret that begins in what is shown.
func (s *sampler) shown(sample []byte) string {
	sample = sample[:min(len(sample), MaxLine)]
	if s.redactor != nil {
		r := redaction{Redactor: s.redactor}
		sample, _ = r.clean(bytes.ToValidUTF8(sample, []byte("\uFFFD")))
	}
	return string(sample[:min(len(sample), sampleBytes)])
}
