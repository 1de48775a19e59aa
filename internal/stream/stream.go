// Package stream knows who is listening: the open event streams, the identity
// each belongs to, and the devices each follows. It does not know how a stream
// is carried; it puts frames into the connection's outbox.
package stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// Feed gives a connection its devices' log lines.
type Feed interface {
	// Open returns what feeds a new connection: it queues events in out.
	// resume is the last event id of the client's connection before, or "";
	// before holds the keys of the devices which that followed, nil if that is
	// not known.
	Open(out *sse.Outbox, resume string, before []string) Reader
}

// Reader feeds one connection.
type Reader interface {
	// Follow adds devices, all at once or, with an error, none. When it returns
	// nil, every wanted line stored from then on will come. Of a device that was
	// added before it changes which lines are wanted. It returns fleet.Invalid
	// for a Want that makes no sense.
	Follow(ctx context.Context, devices []fleet.DeviceRef, want Want) error
	// Unfollow takes it away again and reports whether it was there.
	Unfollow(deviceKey string) bool
	// Advance lets a quiet stream know how far it has come.
	Advance()
	// Close ends the feeding and waits for it to have ended.
	Close()
}

// Want says which lines of a device a connection wants. The zero Want is all of
// them, from now on.
type Want struct {
	After   string // cursor to go on from; "": from now, or where the last connection ended
	Level   string // at least this severe; "" is any
	Tag     string
	Pattern string // what the message must hold, as in a query of the history
	Regex   string
	Bounded bool // at the connection's bounded rate
	Made    bool // the device was made just now and has said nothing yet
}

// Devices finds devices.
type Devices interface {
	ByID(id int64) (fleet.DeviceRef, bool)
	All() []fleet.DeviceRef
}

// Options of a Registry. Limits of 0 do not limit.
type Options struct {
	Feed       Feed
	Devices    Devices
	Log        *slog.Logger
	Registerer prometheus.Registerer

	// Watched is told when the number of connections that follow a device
	// changes. It must be quick. May be nil.
	Watched func(fleet.DeviceRef)

	MaxConnections   int // over all
	MaxPerSubject    int // connections of one subject
	MaxSubscriptions int // devices that one connection follows
}

// Registry is the set of open connections. Safe for concurrent use.
type Registry struct {
	opts    Options
	metrics metrics

	mu        sync.Mutex
	draining  bool
	byRequest map[string]*Connection
	bySubject map[string]int
	// followers is the other side of Connection.follows: they always agree.
	followers map[int64]map[*Connection]struct{}
	gone      map[string]memory // by request id: connections that ended of late
	observers []Observer

	// What Run listens to; each has room for one.
	rechecks, opened, joins chan struct{}
}

// memory is what a connection leaves behind for the next one of its client.
type memory struct {
	subject string
	devices map[string]lately // by key
	at      time.Time
}

// lately says when a connection last followed a device.
type lately struct {
	device int64
	at     time.Time
}

// How long, and how many, memories are kept; and for how long a connection
// that was cut off before it followed a device again passes on that one before
// it did.
const (
	memoryAge  = 10 * time.Minute
	memories   = 20_000
	awaitedAge = time.Minute
)

// Observer hears of every connection once it is open, and may queue events in
// it. It must not block. One that panics harms nobody.
type Observer func(*Connection)

// Connection is one open stream. It belongs to the subject that opened it, for
// as long as it is open.
type Connection struct {
	RequestID string // chosen by the client, the same over its reconnects
	Token     string // ours, new for each connection
	Subject   string
	Opened    time.Time

	out    *sse.Outbox
	end    func(*sse.Frame)
	cut    func(*sse.Frame)
	check  func(time.Time) (Standing, error)
	reader Reader

	busy sync.Mutex // one subscribe or unsubscribe at a time

	// Guarded by Registry.mu.
	follows  map[int64]followed // by device id
	groups   []group
	partial  bool              // there may be devices of groups that it may see and does not follow
	awaited  map[string]lately // what is in memory.devices and not followed again yet
	closed   bool
	standing Standing
	extended time.Time // what Extend said last
	warnAt   time.Time // when it is to be told of its end; zero: it was, or there is none
}

// followed is a device that a connection follows.
type followed struct {
	fleet.DeviceRef
	want Want
	own  bool // by a subscription to it alone, which stands beside those of sets
}

// Send queues an event other than log lines. It reports false if the stream is
// too far behind to take it.
func (c *Connection) Send(f *sse.Frame) bool { return c.out.OfferControl(f) }

// Advance lets the client know how far its log lines have come.
func (c *Connection) Advance() { c.reader.Advance() }

// Request is what opens a connection.
type Request struct {
	ID          string // the request_id
	Subject     string // who opens it; never ""
	LastEventID string // of the client's connection before, or ""
	Out         *sse.Outbox
	// End closes the stream, after the given frame if it is not nil. It must
	// not block.
	End func(*sse.Frame)
	// Cut closes the stream at once: what waits is dropped, and the frame is
	// written if the client takes it within a fraction of a second. It must not
	// block. Nil: End is used.
	Cut func(*sse.Frame)
	// Check returns how the one who opens the stream stands at the moment it is
	// called; extended is what Extend said last of it, zero if nothing. Its
	// error ends the stream, or keeps it from being opened. It must be quick.
	// Nil: the stream may carry everything, for ever.
	Check func(extended time.Time) (Standing, error)
}

const maxRequestID = 128

type metrics struct {
	connections   *prometheus.CounterVec
	active        prometheus.Gauge
	bindings      *prometheus.CounterVec
	subscriptions prometheus.Gauge
	ended         *prometheus.CounterVec
}

// NewRegistry returns a Registry without connections.
func NewRegistry(o Options) *Registry {
	m := metrics{
		connections:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_gateway_connections_total", Help: "Event streams opened and closed."}, []string{"action"}),
		active:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "sse_gateway_active_connections", Help: "Event streams open now."}),
		bindings:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_identity_binding_total", Help: "Attempts to open an event stream, by whether an identity was bound to it."}, []string{"status"}),
		subscriptions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sse_device_log_subscriptions_active", Help: "Devices followed now, summed over all streams."}),
	}
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_streams_ended_total", Help: "Event streams ended because the right to them was over, by why."}, []string{"reason"})
	o.Registerer.MustRegister(m.connections, m.active, m.bindings, m.subscriptions, m.ended)
	for _, reason := range []string{reasonExpired, reasonRevoked, reasonLogout} {
		m.ended.WithLabelValues(reason)
	}
	return &Registry{
		opts: o, metrics: m,
		byRequest: map[string]*Connection{}, bySubject: map[string]int{}, followers: map[int64]map[*Connection]struct{}{}, gone: map[string]memory{},
		rechecks: make(chan struct{}, 1), opened: make(chan struct{}, 1), joins: make(chan struct{}, 1),
	}
}

// Observe adds an observer. Not to be called once connections may open.
func (r *Registry) Observe(o Observer) { r.observers = append(r.observers, o) }

// BindingFailed counts a stream that was refused because nobody could be
// identified behind it.
func (r *Registry) BindingFailed() { r.metrics.bindings.WithLabelValues("failed").Inc() }

// Connect opens a connection. A request id that is in use already is taken
// over, with nothing inherited, if it is the same subject's; the old stream is
// ended. Errors: Invalid for a bad id, Forbidden for somebody else's, TooMany
// at a limit, Unavailable during shutdown, and those of the Check.
func (r *Registry) Connect(q Request) (*Connection, error) {
	if err := checkRequestID(q.ID); err != nil {
		r.metrics.bindings.WithLabelValues("failed").Inc()
		return nil, err
	}
	c := &Connection{
		RequestID: q.ID, Token: rand.Text(), Subject: q.Subject, Opened: time.Now(),
		out: q.Out, end: q.End, cut: q.Cut, check: q.Check,
	}
	if c.cut == nil {
		c.cut = q.End
	}
	if c.check == nil {
		c.check = func(time.Time) (Standing, error) { return Standing{}, nil }
	}
	s, err := c.check(time.Time{})
	if err != nil {
		r.metrics.bindings.WithLabelValues("failed").Inc()
		return nil, err
	}
	c.settle(s)
	old, err := r.admit(c, q.LastEventID)
	if err != nil {
		r.metrics.bindings.WithLabelValues("failed").Inc()
		return nil, err
	}
	if old != nil {
		old.end(nil)
		old.reader.Close()
	}
	// What changed since the Check was perhaps told to those that were open, and
	// this one was not yet.
	if s, err = c.check(time.Time{}); err != nil {
		r.metrics.bindings.WithLabelValues("failed").Inc()
		r.Disconnect(c)
		return nil, err
	}
	r.mu.Lock()
	c.settle(s)
	r.mu.Unlock()
	signal(r.opened)
	r.metrics.bindings.WithLabelValues("success").Inc()
	for _, o := range r.observers {
		r.notify(o, c)
	}
	return c, nil
}

// admit enters c, in the place of old if there is one.
func (r *Registry) admit(c *Connection, resume string) (old *Connection, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old = r.byRequest[c.RequestID]
	switch {
	case r.draining:
		return nil, fleet.E(fleet.Unavailable, nil, "The server is shutting down")
	case old != nil && old.Subject != c.Subject:
		return nil, fleet.E(fleet.Forbidden, nil, "This request_id belongs to another connection")
	case old != nil: // one goes, one comes
	case r.opts.MaxConnections > 0 && len(r.byRequest) >= r.opts.MaxConnections:
		return nil, fleet.E(fleet.TooMany, nil, "The server has reached its limit of %d event streams", r.opts.MaxConnections)
	case r.opts.MaxPerSubject > 0 && r.bySubject[c.Subject] >= r.opts.MaxPerSubject:
		return nil, fleet.E(fleet.TooMany, nil, "You have reached the limit of %d event streams", r.opts.MaxPerSubject)
	}
	if old != nil {
		r.remove(old)
	}
	c.reader = r.opts.Feed.Open(c.out, resume, r.recall(c))
	r.byRequest[c.RequestID] = c
	r.bySubject[c.Subject]++
	r.metrics.active.Inc()
	r.metrics.connections.WithLabelValues("connect").Inc()
	return old, nil
}

func (r *Registry) notify(o Observer, c *Connection) {
	defer func() {
		if p := recover(); p != nil {
			r.opts.Log.Error("a connection observer panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	o(c)
}

func checkRequestID(id string) error {
	switch {
	case id == "":
		return fleet.E(fleet.Invalid, nil, "Missing request_id in URL")
	case len(id) > maxRequestID, strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' || c == ':' }):
		return fleet.E(fleet.Invalid, nil, "Invalid request_id format")
	}
	return nil
}

// Disconnect takes a connection out, with its subscriptions. Once is enough;
// more does no harm.
func (r *Registry) Disconnect(c *Connection) {
	r.mu.Lock()
	r.remove(c)
	r.mu.Unlock()
	c.reader.Close()
}

// remove takes c out of every map. r.mu is held.
func (r *Registry) remove(c *Connection) {
	if c.closed {
		return
	}
	c.closed = true
	r.remember(c)
	delete(r.byRequest, c.RequestID)
	if r.bySubject[c.Subject]--; r.bySubject[c.Subject] == 0 {
		delete(r.bySubject, c.Subject)
	}
	for id := range c.follows {
		r.unlink(c, id)
	}
	r.metrics.active.Dec()
	r.metrics.connections.WithLabelValues("disconnect").Inc()
}

// remember keeps what c followed. r.mu is held.
func (r *Registry) remember(c *Connection) {
	if len(r.gone) >= memories {
		for id, m := range r.gone { // the old ones, or else any: forgetting costs little
			if time.Since(m.at) > memoryAge || len(r.gone) >= memories {
				delete(r.gone, id)
			}
		}
	}
	m := memory{subject: c.Subject, devices: make(map[string]lately, len(c.follows)+len(c.awaited)), at: time.Now()}
	for key, l := range c.awaited {
		if m.at.Sub(l.at) < awaitedAge {
			m.devices[key] = l
		}
	}
	for _, d := range c.follows {
		m.devices[d.Key] = lately{d.ID, m.at}
	}
	r.gone[c.RequestID] = m
}

// recall returns the keys of what the client of c followed before and may see,
// nil if that is not known. r.mu is held.
func (r *Registry) recall(c *Connection) []string {
	m, ok := r.gone[c.RequestID]
	delete(r.gone, c.RequestID)
	if !ok || m.subject != c.Subject || time.Since(m.at) > memoryAge {
		return nil
	}
	for key, l := range m.devices {
		if d, ok := r.opts.Devices.ByID(l.device); ok && !c.sees(d) {
			delete(m.devices, key)
		}
	}
	c.awaited = m.devices
	return slices.AppendSeq(make([]string, 0, len(m.devices)), maps.Keys(m.devices))
}

func (r *Registry) link(c *Connection, d fleet.DeviceRef, want Want, own bool) {
	if c.follows == nil {
		c.follows = map[int64]followed{}
	}
	if _, again := c.follows[d.ID]; !again {
		r.metrics.subscriptions.Inc()
	}
	c.follows[d.ID] = followed{d, want, own}
	delete(c.awaited, d.Key)
	if r.followers[d.ID] == nil {
		r.followers[d.ID] = map[*Connection]struct{}{}
	}
	r.followers[d.ID][c] = struct{}{}
	r.watched(d)
}

func (r *Registry) unlink(c *Connection, device int64) {
	d := c.follows[device].DeviceRef
	delete(c.follows, device)
	delete(r.followers[device], c)
	if len(r.followers[device]) == 0 {
		delete(r.followers, device)
	}
	r.metrics.subscriptions.Dec()
	r.watched(d)
}

func (r *Registry) watched(d fleet.DeviceRef) {
	if r.opts.Watched != nil {
		r.opts.Watched(d)
	}
}

// Watchers returns how many connections follow each device, by its id; those
// that none follows are not in it.
func (r *Registry) Watchers() map[int64]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := make(map[int64]int, len(r.followers))
	for id, connections := range r.followers {
		n[id] = len(connections)
	}
	return n
}

// caller returns the open connection of a request id, if it is the subject's.
// r.mu is held.
func (r *Registry) caller(subject, requestID string) (*Connection, error) {
	c := r.byRequest[requestID]
	switch {
	case c == nil:
		return nil, fleet.E(fleet.Forbidden, nil, "No identity binding for this SSE connection")
	case c.Subject != subject:
		return nil, fleet.E(fleet.Forbidden, nil, "Identity mismatch for SSE connection")
	}
	return c, nil
}

// Subscribe makes the subject's connection follow a device, and returns the
// device's entity id. Twice is once; with another filter it replaces the first.
// What is wanted of the device holds whatever sets with it are followed.
// Errors: NotFound for the device, also if it may not be seen, or its entity id,
// Forbidden if the connection is not the subject's, Invalid for what is wanted, TooMany at the limit,
// Unavailable if the journal does not answer.
func (r *Registry) Subscribe(ctx context.Context, subject, requestID string, device int64, want Want) (entityID string, err error) {
	d, ok := r.opts.Devices.ByID(device)
	if !ok {
		return "", fleet.ErrNotFound("Device", device)
	}
	if d.EntityID == "" {
		return "", fleet.ErrNotFound("Device entity ID", device)
	}
	r.mu.Lock()
	c, err := r.caller(subject, requestID)
	r.mu.Unlock()
	if err != nil {
		return "", err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	if !r.visible(c, device) {
		return "", fleet.ErrNotFound("Device", device)
	}
	if err := r.follow(ctx, c, []fleet.DeviceRef{d}, want, true, r.opts.MaxSubscriptions); err != nil {
		return "", err
	}
	if !r.visible(c, device) {
		return "", fleet.ErrNotFound("Device", device)
	}
	return d.EntityID, nil
}

// visible reports whether there is such a device that c may follow.
func (r *Registry) visible(c *Connection, device int64) bool {
	d, ok := r.opts.Devices.ByID(device)
	r.mu.Lock()
	defer r.mu.Unlock()
	return ok && c.sees(d)
}

// follow makes c follow devices, if it then follows at most that many; 0 is no
// limit. Of those that are followed already only the filter changes, and those
// that are deleted meanwhile, or may not be seen any more, are left out. c.busy is held.
func (r *Registry) follow(ctx context.Context, c *Connection, devices []fleet.DeviceRef, want Want, own bool, most int) error {
	r.mu.Lock()
	var change []fleet.DeviceRef
	added := map[int64]struct{}{}
	for _, d := range devices {
		had, follows := c.follows[d.ID]
		// What it wants from when is settled with the first call.
		same := want
		same.After, same.Made = had.want.After, had.want.Made
		if _, twice := added[d.ID]; twice {
			continue
		}
		if follows && same == had.want {
			had.own = own
			c.follows[d.ID] = had
			continue
		}
		change = append(change, d)
		if !follows {
			added[d.ID] = struct{}{}
		}
	}
	full := most > 0 && len(added) > 0 && len(c.follows)+len(added) > most
	r.mu.Unlock()
	if full {
		return fleet.E(fleet.TooMany, nil, "A connection can follow at most %d devices", most)
	}
	if len(change) == 0 {
		return nil
	}
	if err := c.reader.Follow(ctx, change, want); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// All may have gone while the journal was asked.
	if c.closed {
		return fleet.E(fleet.Forbidden, nil, "No identity binding for this SSE connection")
	}
	for _, d := range change {
		switch now, exists := r.opts.Devices.ByID(d.ID); {
		case exists && c.sees(now):
			r.link(c, now, want, own)
		default:
			if _, follows := c.follows[d.ID]; follows {
				r.unlink(c, d.ID)
			}
			c.reader.Unfollow(d.Key)
		}
	}
	return nil
}

// Unsubscribe ends that; in a set that the connection follows the device stays.
// If it is followed for a set only, it is left out of it. It works whatever
// became of the device's entity id.
// Errors: NotFound for the device or the subscription, Forbidden if the
// connection is not the subject's.
func (r *Registry) Unsubscribe(ctx context.Context, subject, requestID string, device int64) error {
	d, ok := r.opts.Devices.ByID(device)
	if !ok {
		return fleet.ErrNotFound("Device", device)
	}
	r.mu.Lock()
	c, err := r.caller(subject, requestID)
	r.mu.Unlock()
	if err != nil {
		if d.EntityID == "" {
			return fleet.ErrNotFound("Device entity ID", device)
		}
		return err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	r.mu.Lock()
	had, follows := c.follows[device]
	r.mu.Unlock()
	if !follows {
		if d.EntityID == "" {
			return fleet.ErrNotFound("Device entity ID", device)
		}
		return fleet.ErrNotFound("Subscription", d.EntityID)
	}
	var want Want
	if had.own && r.belongs(c, d, &want) {
		return r.follow(ctx, c, []fleet.DeviceRef{d}, want, false, 0)
	}
	r.leaveOut(c, d)
	r.unfollow(c, d)
	return nil
}

// unfollow ends that c follows d.
func (r *Registry) unfollow(c *Connection, d fleet.DeviceRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, follows := c.follows[d.ID]; follows {
		r.unlink(c, d.ID)
		c.reader.Unfollow(d.Key)
	}
}

// DeviceDeleted ends every subscription to the device, and tells the streams,
// behind the device's last line that they get.
func (r *Registry) DeviceDeleted(d fleet.DeviceRef) {
	payload, _ := json.Marshal(map[string]any{"device_entity_id": d.EntityID, "device_id": d.ID}) // always marshals
	told := sse.Event("device-deleted", "", payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.followers[d.ID] {
		r.unlink(c, d.ID)
		c.reader.Unfollow(d.Key)
		if !c.Send(told) {
			c.end(nil) // who comes back finds out
		}
	}
}

// Broadcast queues an event in every connection and returns how many took it.
func (r *Registry) Broadcast(f *sse.Frame) (sent int) {
	for _, c := range r.connections() {
		if c.Send(f) {
			sent++
		}
	}
	return sent
}

func (r *Registry) connections() []*Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*Connection, 0, len(r.byRequest))
	for _, c := range r.byRequest {
		all = append(all, c)
	}
	return all
}

// Subscription says that a connection follows a device.
type Subscription struct {
	Device    fleet.DeviceRef
	RequestID string
	Subject   string
	Opened    time.Time // of the connection
}

// Subscriptions lists who follows what, by device and request id; for one
// device if only is not nil.
func (r *Registry) Subscriptions(only *int64) []Subscription {
	var list []Subscription
	r.mu.Lock()
	add := func(id int64) {
		for c := range r.followers[id] {
			list = append(list, Subscription{c.follows[id].DeviceRef, c.RequestID, c.Subject, c.Opened})
		}
	}
	if only != nil {
		add(*only)
	} else {
		for id := range r.followers {
			add(id)
		}
	}
	r.mu.Unlock()
	for i := range list { // what the device is called now
		if d, ok := r.opts.Devices.ByID(list[i].Device.ID); ok {
			list[i].Device = d
		}
	}
	slices.SortFunc(list, func(a, b Subscription) int {
		if a.Device.ID != b.Device.ID {
			return int(a.Device.ID - b.Device.ID)
		}
		return strings.Compare(a.RequestID, b.RequestID)
	})
	return list
}

// Close refuses new connections and ends the open ones, each with the frame
// that goodbye returns.
func (r *Registry) Close(goodbye func() *sse.Frame) {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	for _, c := range r.connections() {
		c.end(goodbye())
	}
}
