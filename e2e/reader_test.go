package e2e_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"signalbox/internal/sse"
)

// reader is a client of event streams that does what a page does: it follows
// devices, and when its connection ends it opens another with the same
// request_id and the last event id, and follows them again.
type reader struct {
	s         *server
	requestID string
	devices   []device
	http      *http.Client
	at        string // base URL of where it opens its streams
	valve     valve
	cancel    context.CancelFunc
	ended     sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and renewed whenever something below changes
	lastID  string
	opened  int                 // streams that became ready
	live    bool                // all devices are followed on the present one
	lines   map[int64][]line    // by device
	gaps    map[int64][]gap     // by device
	counts  map[string]int      // events by type
	faults  []error             // what no stream may ever hold
	onLine  func(l line)        // called for each, if set
	entity  map[int64]string    // the last entity id that events named, by device
	ids     map[string]struct{} // of all log events
}

// line is a log line as the tests' devices write it.
type line struct {
	N       int    `json:"n"` // counts the lines of one device from 1
	Sent    int64  `json:"t"` // nanoseconds
	Message string `json:"message"`
	Entity  string `json:"entity_id"`
}

// gap is the payload of log-gap.
type gap struct {
	DeviceID int64  `json:"device_id"`
	Entity   string `json:"device_entity_id"`
	From     string `json:"from"`
	To       string `json:"to"`
	Count    *int   `json:"count"`
	Reason   string `json:"reason"`
}

// batch is the payload of device-logs.
type batch struct {
	DeviceID int64  `json:"device_id"`
	Entity   string `json:"device_entity_id"`
	Lines    int    `json:"lines"`
	Logs     []line `json:"logs"`
}

// newReader returns a reader that is not connected.
func (s *server) newReader(requestID string, devices ...device) *reader {
	r := &reader{
		s: s, requestID: requestID, devices: devices, at: cmp.Or(s.streams, s.url("")), changed: make(chan struct{}),
		lines: map[int64][]line{}, gaps: map[int64][]gap{}, counts: map[string]int{}, entity: map[int64]string{}, ids: map[string]struct{}{},
	}
	r.valve.flow()
	r.http = &http.Client{Transport: &http.Transport{}}
	s.t.Cleanup(r.stop)
	return r
}

// follow starts a reader that reads until it is stopped or the test ends. It
// returns when the devices are followed.
func (s *server) follow(requestID string, devices ...device) *reader {
	s.t.Helper()
	r := s.newReader(requestID, devices...)
	r.start()
	r.wait("the devices are followed", func() bool { return r.live })
	return r
}

// start makes the reader read until it is stopped.
func (r *reader) start() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.ended.Go(func() {
		for ctx.Err() == nil {
			r.session(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// stop ends the reading and waits for that.
func (r *reader) stop() {
	if r.cancel != nil {
		r.cancel()
	}
	r.valve.flow()
	r.ended.Wait()
	r.http.CloseIdleConnections()
}

// session opens a stream and reads it until it, or ctx, ends.
func (r *reader) session(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "GET", r.at+streamPath(r.requestID), nil)
	if err != nil {
		panic(err) // not with these URLs
	}
	last := r.last()
	if last != "" {
		q.Header.Set("Last-Event-ID", last)
	}
	a, err := r.http.Do(q)
	if err != nil {
		return
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return
	}
	d := sse.NewDecoder(r.valve.on(a.Body), last)
	for {
		m, err := d.Next()
		r.mu.Lock()
		before := r.lastID
		r.lastID = d.LastID()
		if err != nil {
			r.live = false
			r.notify()
			r.mu.Unlock()
			return
		}
		r.take(m, before)
		r.notify()
		r.mu.Unlock()
		if m.Name == "ready" {
			asking.Go(func() {
				if err := r.subscribe(ctx); err != nil {
					cancel()
				}
			})
		}
	}
}

func (r *reader) subscribe(ctx context.Context) error {
	for _, d := range r.devices {
		a, err := r.s.try(ctx, "POST", r.s.url("/api/device-logs/subscribe"), map[string]any{"request_id": r.requestID, "device_id": d.ID})
		if err != nil {
			return err
		}
		if a.status != http.StatusOK {
			return fmt.Errorf("status %d", a.status)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = ctx.Err() == nil
	r.notify()
	return nil
}

// take notes an event; before is the last event id before it. r.mu is held.
func (r *reader) take(m sse.Message, before string) {
	if m.Name != "" {
		r.counts[m.Name]++
		if m.Name == "ready" {
			r.opened++
		}
		return
	}
	var e struct {
		Type    string          `json:"type"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		r.faults = append(r.faults, fmt.Errorf("an event that is not JSON: %w", err))
		return
	}
	r.counts[e.Type]++
	var err error
	switch e.Type {
	case "device-logs":
		var b batch
		if err = json.Unmarshal(e.Payload, &b); err != nil {
			break
		}
		if b.Lines != len(b.Logs) {
			err = fmt.Errorf("an event says that it has %d lines and has %d", b.Lines, len(b.Logs))
		}
		// Of a batch that came in pieces the last one has the id.
		if _, twice := r.ids[r.lastID]; twice && r.lastID != before {
			err = errors.Join(err, fmt.Errorf("two log events have the id %s", r.lastID))
		}
		r.ids[r.lastID] = struct{}{}
		r.entity[b.DeviceID] = b.Entity
		r.lines[b.DeviceID] = append(r.lines[b.DeviceID], b.Logs...)
		if r.onLine != nil {
			for _, l := range b.Logs {
				r.onLine(l)
			}
		}
	case "log-gap":
		var g gap
		err = json.Unmarshal(e.Payload, &g)
		r.gaps[g.DeviceID] = append(r.gaps[g.DeviceID], g)
	}
	if err != nil {
		r.faults = append(r.faults, err)
	}
}

func (r *reader) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// last returns the last event id.
func (r *reader) last() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastID
}

// wait waits until ok, which is called with r.mu held, and fails the test if
// that does not happen.
func (r *reader) wait(what string, ok func() bool) {
	r.s.t.Helper()
	timeout := time.After(patience)
	for {
		r.mu.Lock()
		done, changed := ok(), r.changed
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			r.mu.Lock()
			defer r.mu.Unlock()
			for id, lines := range r.lines {
				r.s.t.Logf("device %d: %d lines, gaps %+v", id, len(lines), r.gaps[id])
			}
			r.s.t.Fatalf("reader %s: did not happen in %v: %s", r.requestID, patience, what)
		}
	}
}

// waitFor waits until the reader has line n of the device.
func (r *reader) waitFor(d device, n int) {
	r.s.t.Helper()
	r.wait(fmt.Sprintf("line %d of %s arrives", n, d.Entity), func() bool { return r.newest(d) >= n })
}

// newest returns the number of the last line of the device. r.mu is held.
func (r *reader) newest(d device) int {
	if lines := r.lines[d.ID]; len(lines) > 0 {
		return lines[len(lines)-1].N
	}
	return 0
}

// numbers returns the numbers of the lines of a device.
func (r *reader) numbers(d device) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []int
	for _, l := range r.lines[d.ID] {
		all = append(all, l.N)
	}
	return all
}

// check fails the test if the reader saw what no reader may: a line of a
// device twice or out of order, a gap, or a malformed event.
func (r *reader) check() {
	r.s.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, err := range r.faults {
		r.s.t.Errorf("reader %s: %v", r.requestID, err)
	}
	for _, d := range r.devices {
		last := 0
		for _, l := range r.lines[d.ID] {
			if l.N <= last {
				r.s.t.Errorf("reader %s: line %d of %s came after line %d", r.requestID, l.N, d.Entity, last)
			}
			last = l.N
		}
		if g := r.gaps[d.ID]; len(g) > 0 {
			r.s.t.Errorf("reader %s: was told gaps of %s: %+v", r.requestID, d.Entity, g)
		}
	}
}

// valve stops a reading without ending it.
type valve struct {
	mu   sync.Mutex
	open chan struct{} // closed while it flows
}

// flow opens the valve.
func (v *valve) flow() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open == nil {
		v.open = make(chan struct{})
	}
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

// shut closes it.
func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = make(chan struct{})
}

// on returns r behind the valve.
func (v *valve) on(r io.Reader) io.Reader { return valved{v, r} }

type valved struct {
	valve *valve
	from  io.Reader
}

// Read implements io.Reader.
func (v valved) Read(p []byte) (int, error) {
	v.valve.mu.Lock()
	open := v.valve.open
	v.valve.mu.Unlock()
	<-open
	return v.from.Read(p)
}

// event reads events of a decoder until one has the given type or name, and
// returns its payload or data.
func next(t *testing.T, d *sse.Decoder, kind string) []byte {
	t.Helper()
	for {
		m, err := d.Next()
		if err != nil {
			t.Fatalf("the stream ended while it should bring %s: %v", kind, err)
		}
		if m.Name != "" && m.Name == kind {
			return append([]byte(nil), m.Data...)
		}
		var e struct {
			Type    string          `json:"type"`
			Payload json.RawMessage `json:"payload"`
		}
		if m.Name == "" && json.Unmarshal(m.Data, &e) == nil && e.Type == kind {
			return append([]byte(nil), e.Payload...)
		}
	}
}
