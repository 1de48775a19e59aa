package presence

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/fleet"
)

const (
	flushEvery  = 10 * time.Second // what was heard is stored, and what others stored is read
	flushSoon   = time.Second      // after a device came or went
	lease       = 45 * time.Second // of a process: what it said of sessions ends with it
	grace       = time.Minute      // for devices to come back from what was not their doing
	leftover    = 10 * time.Second // after the end of a session in which its last lines may still come
	inSession   = 10 * time.Minute // how old the stored time of a device with a session may be
	maxPending  = 200_000          // steps that wait for a store that is down
	trimEvery   = time.Hour
	finalFlush  = 5 * time.Second // for the last look at the store
	oneCommit   = 2000            // rows or steps: others wait for the store only so long
	lateCommits = 10 * time.Minute
)

// Options is what a Tracker is made of.
type Options struct {
	Store     Store
	Directory Directory
	Log       *slog.Logger

	// Window is for how long a device without a session counts as online after it was
	// heard of. 0: DefaultWindow.
	Window time.Duration
	Keep   time.Duration // for how long transitions are kept; 0: DefaultKeep
	Sole   bool          // no other process uses the store

	Registerer prometheus.Registerer // nil: metrics are kept and not shown
}

// Tracker gathers what this process sees of devices, and what others do. All
// its methods may be called by any number of goroutines; none but History waits for the
// store. A device takes about 300 bytes.
type Tracker struct {
	o      Options
	holder string
	step   time.Duration // how old the stored time of a device without a session may be
	slack  time.Duration // by how much later others may have heard of a device
	drops  prometheus.Counter
	wake   chan struct{} // has room for one: there is a step

	mu       sync.Mutex
	began    time.Time
	devices  map[int64]*device
	sessions map[uint64]session // open here
	// Those whose client id is no device's, or was not yet.
	strangers map[string]map[uint64]bool
	// Devices whose last session here ended while another process had one, as far as
	// was known: it may have ended just as well.
	doubtful map[int64]End
	changed  map[int64]*device // to be stored
	steps    []Step            // to be stored
	lost     int               // steps that there was no room for
	online   int

	// Of Run alone.
	version int64 // that the store was read up to
	others  map[string]map[int64]int
	trimmed time.Time
}

// session is an open MQTT session.
type session struct {
	clientID string
	device   int64 // 0: of none that is known
}

// device is what is known of one.
type device struct {
	id        int64
	online    bool
	bySession bool
	mine      int // sessions here
	others    int // at other processes, as the store was read last
	steps     int // that wait to be stored
	told      int // sessions here as they were stored last
	since     time.Time
	seen      time.Time
	stored    time.Time // what of seen was stored
	source    Source
	ended     time.Time // when the last session here did
	due       time.Time // when it is gone if it does not come back; zero: it is not waited for
	dueReason string
	clockAt   time.Time
	clockOff  time.Duration
	drops     []time.Time // oldest first
}

// New returns a Tracker with what is stored. Run must run.
func New(ctx context.Context, o Options) (*Tracker, error) {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tracker{
		o: o, holder: strings.ToLower(rand.Text()), step: min(time.Minute, o.Window/4), wake: make(chan struct{}, 1), began: now(),
		devices: map[int64]*device{}, sessions: map[uint64]session{}, changed: map[int64]*device{}, strangers: map[string]map[uint64]bool{}, doubtful: map[int64]End{}, others: map[string]map[int64]int{},
		drops: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{
			Name: "iot_device_drops_total", Help: "Times that a device went away, as far as this process was the first to say so.",
		}),
	}
	if !o.Sole {
		t.slack = t.step + 2*flushEvery
	}
	if o.Registerer != nil {
		promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "iot_devices_online", Help: "Devices that have a session at the broker or were heard of within PRESENCE_WINDOW.",
		}, func() float64 { return float64(t.Online()) })
	}
	if err := t.load(ctx); err != nil {
		return nil, fmt.Errorf("read the presence of devices: %w", err)
	}
	return t, nil
}

// now is the time as it is stored.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// load reads what was known before. Who was online stays so, and is given time to
// come back: this process has not been there to hear of them.
func (t *Tracker) load(ctx context.Context) error {
	if t.o.Sole { // whoever had sessions is no more
		if err := t.o.Store.RemovePresence(ctx, t.began.Add(24*365*time.Hour), ""); err != nil {
			return err
		}
	}
	rows, err := t.o.Store.Presences(ctx, 0)
	if err != nil {
		return err
	}
	gone, err := t.o.Store.PresenceDrops(ctx, t.began.Add(-DropsWithin))
	if err != nil {
		return err
	}
	t.mu.Lock()
	for _, r := range rows {
		t.version = max(t.version, r.Version)
		d := t.ofLocked(r.Device)
		t.takeLocked(d, r)
		if d.online && d.bySession {
			d.expect(t.began, restarted)
		}
	}
	for _, s := range gone {
		t.ofLocked(s.Device).dropped(s.At)
	}
	t.mu.Unlock()
	if t.o.Sole {
		return nil
	}
	return t.readSessions(ctx, 0)
}

// What is said of devices that did not come back.
const (
	restarted = "did not come back after a restart of the server"
	moved     = "did not come back after its server process ended"
)

// expect has a device gone if it does not come back in time.
func (d *device) expect(at time.Time, reason string) {
	d.due, d.dueReason = at.Add(grace), reason
}

func (d *device) dropped(at time.Time) {
	for len(d.drops) > 0 && (len(d.drops) >= KeptTransitions || at.Sub(d.drops[0]) > DropsWithin) {
		d.drops = d.drops[1:]
	}
	for _, known := range d.drops {
		if known.Equal(at) {
			return
		}
	}
	d.drops = append(d.drops, at)
}

func (t *Tracker) ofLocked(id int64) *device {
	d := t.devices[id]
	if d == nil {
		d = &device{id: id}
		t.devices[id] = d
	}
	return d
}

// takeLocked makes what is stored of a device what is known of it.
func (t *Tracker) takeLocked(d *device, r Row) {
	if d.steps == 0 {
		t.setLocked(d, r.Online, r.Since)
	}
	if !r.SeenAt.Before(d.seen) {
		d.seen, d.source, d.stored = r.SeenAt, r.Source, r.SeenAt
		if d.mine == 0 {
			d.bySession = r.BySession
		}
	}
	if r.ClockAt.After(d.clockAt) {
		d.clockAt, d.clockOff = r.ClockAt, r.ClockOff
	}
}

func (t *Tracker) setLocked(d *device, online bool, since time.Time) {
	if d.online != online {
		if online {
			t.online++
		} else {
			t.online--
		}
	}
	d.online, d.since = online, since
}

// stepLocked has a device come or go.
func (t *Tracker) stepLocked(d *device, s Step) {
	if d.online == s.Online {
		return
	}
	d.due = time.Time{}
	t.setLocked(d, s.Online, s.At)
	if !s.Online {
		d.dropped(s.At)
	}
	s.Device = d.id
	if len(t.steps) >= maxPending {
		t.lost++
		return
	}
	d.steps++
	t.steps = append(t.steps, s)
	t.changed[d.id] = d // for the row to be there
	t.soon()
}

// soon has what is known stored.
func (t *Tracker) soon() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// heardLocked notes that a device was heard of. One that has no sessions is there
// then.
func (t *Tracker) heardLocked(d *device, at time.Time, from Source) {
	at = at.UTC().Truncate(time.Microsecond)
	if at.After(d.seen) {
		d.seen, d.source = at, from
	}
	old := t.step
	if d.mine > 0 {
		old = inSession
	}
	if d.seen.Sub(d.stored) >= old {
		t.changed[d.id] = d
	}
	switch {
	case d.mine > 0 || d.others > 0:
		return
	case d.bySession && from == FromToken: // it is about to connect, or cannot
		return
	case d.bySession && at.Sub(d.ended) < leftover: // what it said before its session ended
		return
	}
	if d.bySession { // it goes by another broker now: else it would have a session
		d.bySession, d.due = false, time.Time{}
		t.changed[d.id] = d
	}
	reason := "sent a line"
	if from == FromToken {
		reason = "got a token"
	}
	t.stepLocked(d, Step{Transition: Transition{At: at, Online: true, Reason: reason}})
}

// Line notes that a device sent lines, at a moment that is about now.
func (t *Tracker) Line(id int64, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heardLocked(t.ofLocked(id), at, FromLine)
}

// Token notes that a device got an access token or showed one.
func (t *Tracker) Token(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heardLocked(t.ofLocked(id), now(), FromToken)
}

// Minted notes that the device with the client id got an access token. said is what
// its clock says, by its signature; zero: nothing is known of that.
func (t *Tracker) Minted(clientID string, said time.Time) {
	ref, ok := t.o.Directory.ByClientID(clientID)
	if !ok {
		return
	}
	at := now()
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.ofLocked(ref.ID)
	if !said.IsZero() {
		d.clockAt, d.clockOff = at, said.Sub(at).Truncate(time.Microsecond)
		t.changed[d.id] = d
	}
	t.heardLocked(d, at, FromToken)
}

// Recall notes when a device last sent lines, as is known from before.
func (t *Tracker) Recall(id int64, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.ofLocked(id); at.After(d.seen) {
		d.seen, d.source = at.UTC().Truncate(time.Microsecond), FromLine
		t.changed[id] = d
	}
}

// Connected notes that an MQTT session began. The number is of this session alone.
func (t *Tracker) Connected(number uint64, clientID string) {
	ref, known := t.o.Directory.ByClientID(clientID)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, twice := t.sessions[number]; twice {
		return
	}
	t.sessions[number] = session{clientID, ref.ID}
	if known {
		t.openedLocked(ref.ID)
	} else {
		t.strangeLocked(number, clientID)
	}
}

func (t *Tracker) strangeLocked(number uint64, clientID string) {
	if t.strangers[clientID] == nil {
		t.strangers[clientID] = map[uint64]bool{}
	}
	t.strangers[clientID][number] = true
}

func (t *Tracker) openedLocked(id int64) {
	d, at := t.ofLocked(id), now()
	d.mine++
	d.bySession, d.seen, d.source, d.due = true, at, FromSession, time.Time{}
	t.changed[id] = d
	t.soon()
	t.stepLocked(d, Step{Transition: Transition{At: at, Online: true, Reason: "connected"}})
}

// Disconnected notes that a session ended, and how.
func (t *Tracker) Disconnected(number uint64, how End) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.sessions[number]
	delete(t.sessions, number)
	if strange := t.strangers[s.clientID]; strange[number] {
		if delete(strange, number); len(strange) == 0 {
			delete(t.strangers, s.clientID)
		}
	}
	d := t.devices[s.device]
	if !ok || d == nil || d.mine == 0 {
		return
	}
	at := now()
	d.mine--
	d.seen, d.source, d.ended = at, FromSession, at
	t.changed[d.id] = d
	t.soon()
	switch {
	case d.mine > 0:
	case d.others > 0:
		t.doubtful[d.id] = how
	default:
		t.endedLocked(d, how)
	}
}

// endedLocked has a device gone, or waited for, that has no session any more.
func (t *Tracker) endedLocked(d *device, how End) {
	if how.Excused {
		d.expect(d.ended, how.Reason+" and it did not come back")
		return
	}
	t.stepLocked(d, Step{Transition: Transition{At: d.ended, Reason: how.Reason}})
}

// Created finds the sessions of a device that connected before it was known.
func (t *Tracker) Created(ref fleet.DeviceRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.foundLocked(ref.ID, ref.ClientID)
}

func (t *Tracker) foundLocked(id int64, clientID string) {
	for number := range t.strangers[clientID] {
		t.sessions[number] = session{clientID, id}
		t.openedLocked(id)
	}
	delete(t.strangers, clientID)
}

// Forget drops what is known of a device that is deleted. What it has open is
// nobody's from then on.
func (t *Tracker) Forget(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.devices[id]
	if d == nil {
		return
	}
	if d.mine > 0 {
		for number, s := range t.sessions {
			if s.device == id {
				t.sessions[number] = session{clientID: s.clientID}
				t.strangeLocked(number, s.clientID)
			}
		}
	}
	t.setLocked(d, false, d.since)
	delete(t.devices, id)
	delete(t.changed, id)
	delete(t.doubtful, id)
}

// Online returns how many devices are.
func (t *Tracker) Online() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.online
}

// Of returns what is known of devices, in their order.
func (t *Tracker) Of(ids ...int64) []Status {
	at := now()
	all := make([]Status, len(ids))
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, id := range ids {
		all[n].Device = id
		if d := t.devices[id]; d != nil {
			all[n] = d.status(at)
		}
	}
	return all
}

func (d *device) status(at time.Time) Status {
	s := Status{
		Device: d.id, Online: d.online, Sessions: d.mine + d.others, LastSeen: d.seen, Source: d.source, Since: d.since,
		ClockOff: d.clockOff, ClockSaid: !d.clockAt.IsZero(),
	}
	if s.Sessions > 0 { // the broker would have closed it otherwise
		s.LastSeen, s.Source = at, FromSession
	}
	for n := len(d.drops) - 1; n >= 0 && at.Sub(d.drops[n]) <= DropsWithin; n-- {
		s.Drops++
	}
	return s
}

// History returns when a device came and went from a moment on, newest first and at
// most so many. What happened in the last second or two may be missing.
func (t *Tracker) History(ctx context.Context, id int64, from time.Time, limit int) ([]Transition, error) {
	return t.o.Store.PresenceHistory(ctx, id, from, limit)
}
