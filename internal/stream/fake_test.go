package stream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// feed is a Feed that remembers.
type feed struct {
	mu     sync.Mutex
	opened []opening
	fail   error  // what Follow answers
	during func() // called within Follow
}

// opening is one call of Open.
type opening struct {
	resume string
	before []string // sorted
	known  bool     // before was not nil
	reader *reader
}

func (f *feed) Open(out *sse.Outbox, resume string, before []string) Reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &reader{feed: f, follows: map[string]bool{}}
	f.opened = append(f.opened, opening{resume, slices.Sorted(slices.Values(before)), before != nil, r})
	return r
}

// last returns the latest opening.
func (f *feed) last() opening {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened[len(f.opened)-1]
}

// reader is a Reader that remembers.
type reader struct {
	feed *feed

	mu       sync.Mutex
	follows  map[string]bool
	wants    []Want // of every Follow that succeeded
	closed   bool
	advanced int
}

func (r *reader) Follow(_ context.Context, devices []fleet.DeviceRef, want Want) error {
	if rand.IntN(4) == 0 {
		runtime.Gosched() // the journal is asked
	}
	r.feed.mu.Lock()
	fail, during := r.feed.fail, r.feed.during
	r.feed.mu.Unlock()
	if during != nil {
		during()
	}
	if fail != nil {
		return fail
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		for _, d := range devices {
			r.follows[d.Key] = true
			r.wants = append(r.wants, want)
		}
	}
	return nil
}

func (r *reader) Unfollow(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.follows[key]
	delete(r.follows, key)
	return had
}

func (r *reader) Advance() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advanced++
}

func (r *reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	clear(r.follows)
}

// keys returns what is followed, sorted.
func (r *reader) keys() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.follows))
}

// directory is a Devices that changes.
type directory struct {
	mu     sync.RWMutex
	byID   map[int64]fleet.DeviceRef
	listed func() // called when All has its answer
}

func (d *directory) ByID(id int64) (fleet.DeviceRef, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r, ok := d.byID[id]
	return r, ok
}

func (d *directory) All() []fleet.DeviceRef {
	if d.listed != nil {
		defer d.listed()
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.SortedFunc(maps.Values(d.byID), func(a, b fleet.DeviceRef) int { return int(a.ID - b.ID) })
}

func (d *directory) set(r fleet.DeviceRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID[r.ID] = r
}

func (d *directory) drop(id int64) (fleet.DeviceRef, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.byID[id]
	delete(d.byID, id)
	return r, ok
}

func device(id int64) fleet.DeviceRef {
	return fleet.DeviceRef{ID: id, Key: fmt.Sprintf("k%07d", id), EntityID: fmt.Sprintf("e%d", id)}
}

// world is a Registry over fakes.
type world struct {
	t        testing.TB
	registry *Registry
	feed     *feed
	devices  *directory
	metrics  *prometheus.Registry
	log      *bytes.Buffer
}

// newWorld has the devices 1 to n.
func newWorld(t testing.TB, n int64, change func(*Options)) *world {
	w := &world{t: t, feed: &feed{}, devices: &directory{byID: map[int64]fleet.DeviceRef{}}, metrics: prometheus.NewRegistry(), log: new(bytes.Buffer)}
	for id := range n {
		w.devices.set(device(id + 1))
	}
	o := Options{Feed: w.feed, Devices: w.devices, Log: slog.New(slog.NewTextHandler(w.log, nil)), Registerer: w.metrics}
	if change != nil {
		change(&o)
	}
	w.registry = NewRegistry(o)
	return w
}

// client is the carrier's end of a connection.
type client struct {
	*Connection
	reader *reader
	out    *sse.Outbox

	who *holder // nil: may everything

	mu   sync.Mutex
	ends []*sse.Frame
	cuts []string // the payloads of the frames
}

// holder is who opened connections, as Check tells it.
type holder struct {
	mu       sync.Mutex
	standing Standing
	err      error
	asked    func() // called within Check
}

func (h *holder) set(change func(*holder)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *holder) check(extended time.Time) (Standing, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked != nil {
		h.asked()
	}
	s := h.standing
	if extended.After(s.Expires) {
		s.Expires = extended
	}
	if h.err == nil && !s.Expires.IsZero() && !s.Expires.After(time.Now()) {
		return s, fmt.Errorf("token: %w", ErrExpired)
	}
	return s, h.err
}

// only allows the devices with one of the tags.
func only(tags ...string) func(fleet.DeviceRef) bool {
	return func(d fleet.DeviceRef) bool {
		for tag := range d.Tags.All() {
			if slices.Contains(tags, tag) {
				return true
			}
		}
		return false
	}
}

// names returns the names of the frames that wait, and takes them.
func (c *client) names() (names []string) {
	for _, f := range c.out.Take(nil, 1<<30) {
		names = append(names, f.Name)
	}
	return names
}

func (c *client) ended() []*sse.Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ends)
}

func (c *client) cutWith() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.cuts)
}

func (w *world) connect(subject, id, resume string) (*client, error) {
	return w.connectAs(nil, subject, id, resume)
}

func (w *world) connectAs(who *holder, subject, id, resume string) (*client, error) {
	c := &client{out: sse.NewOutbox(1<<20, func() {}), who: who}
	q := Request{ID: id, Subject: subject, LastEventID: resume, Out: c.out, End: func(f *sse.Frame) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ends = append(c.ends, f)
	}}
	if who != nil {
		q.Check = who.check
		q.Cut = func(f *sse.Frame) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.cuts = append(c.cuts, f.Name+" "+string(f.Payload()))
		}
	}
	conn, err := w.registry.Connect(q)
	if err != nil {
		return nil, err
	}
	c.Connection, c.reader = conn, conn.reader.(*reader)
	return c, nil
}

// open connects, which must succeed.
func (w *world) open(subject, id string) *client {
	w.t.Helper()
	c, err := w.connect(subject, id, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// subscribe must succeed.
func (w *world) subscribe(c *client, devices ...int64) {
	w.t.Helper()
	for _, id := range devices {
		if _, err := w.registry.Subscribe(context.Background(), c.Subject, c.RequestID, id, Want{}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// want compares an error with a kind and a text.
func (w *world) want(err error, kind fleet.Kind, text string) {
	w.t.Helper()
	if gotKind, got := fleet.Public(err); err == nil || gotKind != kind || got != text {
		w.t.Errorf("error %v: kind %s; want %s: %s", err, gotKind, kind, text)
	}
}

// value returns a gauge or counter; label is the value of its only label.
func (w *world) value(name, label string) int {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return int(m.GetGauge().GetValue() + m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

// check compares everything that the registry keeps with everything else, at
// a moment when nobody works on it.
func (w *world) check() {
	w.t.Helper()
	r := w.registry
	r.mu.Lock()
	open, pairs := len(r.byRequest), 0
	subjects := map[string]int{}
	for id, c := range r.byRequest {
		subjects[c.Subject]++
		if c.RequestID != id || c.closed {
			w.t.Errorf("%s is entered as %s, closed %v", c.RequestID, id, c.closed)
		}
		var keys []string
		for device, ref := range c.follows {
			pairs++
			if _, ok := r.followers[device][c]; !ok || ref.ID != device {
				w.t.Errorf("%s follows %d, which does not know it", id, device)
			}
			if now, ok := r.opts.Devices.ByID(device); !ok {
				w.t.Errorf("%s follows %d, which is deleted", id, device)
			} else if !c.sees(now) {
				w.t.Errorf("%s follows %d, which it may not see", id, device)
			}
			keys = append(keys, ref.Key)
		}
		slices.Sort(keys)
		if diff := cmp.Diff(keys, c.reader.(*reader).keys()); diff != "" {
			w.t.Errorf("%s: what its reader follows (-want +got):\n%s", id, diff)
		}
	}
	back := 0
	for device, set := range r.followers {
		back += len(set)
		for c := range set {
			if _, ok := c.follows[device]; !ok || r.byRequest[c.RequestID] != c {
				w.t.Errorf("%d is followed by %s, which does not know it", device, c.RequestID)
			}
		}
		if len(set) == 0 {
			w.t.Errorf("%d keeps an empty set", device)
		}
	}
	if diff := cmp.Diff(subjects, r.bySubject); diff != "" {
		w.t.Errorf("connections by subject (-want +got):\n%s", diff)
	}
	r.mu.Unlock()
	if pairs != back {
		w.t.Errorf("%d subscriptions seen from the connections, %d from the devices", pairs, back)
	}
	for name, n := range map[string]int{"sse_device_log_subscriptions_active": pairs, "sse_gateway_active_connections": open} {
		if got := w.value(name, ""); got != n {
			w.t.Errorf("%s is %d, want %d", name, got, n)
		}
	}
	if got := w.value("sse_gateway_connections_total", "connect") - w.value("sse_gateway_connections_total", "disconnect"); got != open {
		w.t.Errorf("%d more connects than disconnects, %d open", got, open)
	}
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	live := 0
	for _, o := range w.feed.opened {
		o.reader.mu.Lock()
		if !o.reader.closed {
			live++
		}
		o.reader.mu.Unlock()
	}
	if live != open {
		w.t.Errorf("%d readers are open, want %d", live, open)
	}
}
