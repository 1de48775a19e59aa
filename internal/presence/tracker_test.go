package presence_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

// world is a database with devices, and processes that look at them. Its time is
// synctest's.
type world struct {
	t     *testing.T
	db    *sqlstore.DB
	fails atomic.Bool // the database is down
	stops []func()

	mu  sync.Mutex
	ids map[string]int64
}

// inWorld runs f in a world with two devices, "a" and "b".
func inWorld(t *testing.T, f func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, db: db, ids: map[string]int64{}}
		defer func() {
			for _, stop := range w.stops {
				stop()
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		w.create("a", "b")
		f(t, w)
	})
}

func (w *world) create(names ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.db.Tx(w.t.Context(), func(q registry.Queries) error {
		if len(w.ids) == 0 {
			if _, err := q.InsertModel(w.t.Context(), fleet.Model{Code: "relay", Name: "Relay", CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
				return err
			}
		}
		for _, name := range names {
			id, err := q.InsertDevice(w.t.Context(), fleet.Device{
				Key: "key0000" + name, Model: fleet.Model{ID: 1}, Active: true, Config: "{}", Rotation: fleet.RotationOK, CreatedAt: time.Now(), UpdatedAt: time.Now(),
			})
			if err != nil {
				return err
			}
			w.ids[name] = id
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// ByClientID is that a device's client id is its name here.
func (w *world) ByClientID(name string) (fleet.DeviceRef, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, ok := w.ids[name]
	return fleet.DeviceRef{ID: id, ClientID: name}, ok
}

// CommitPresence is the store's, which may be down.
func (w *world) CommitPresence(ctx context.Context, c presence.Change) (presence.Result, error) {
	if w.fails.Load() {
		return presence.Result{}, fleet.E(fleet.Unavailable, errors.New("down"), "down")
	}
	return w.db.CommitPresence(ctx, c)
}

type store struct {
	*sqlstore.DB
	w *world
}

func (s store) CommitPresence(ctx context.Context, c presence.Change) (presence.Result, error) {
	return s.w.CommitPresence(ctx, c)
}

// process is one that runs.
type process struct {
	*presence.Tracker
	w       *world
	metrics *prometheus.Registry
	stop    func()
	next    uint64
}

func (w *world) start(change func(*presence.Options)) *process {
	w.t.Helper()
	p := &process{w: w, metrics: prometheus.NewRegistry()}
	o := presence.Options{Store: store{w.db, w}, Directory: w, Registerer: p.metrics}
	if change != nil {
		change(&o)
	}
	var err error
	if p.Tracker, err = presence.New(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	p.stop = sync.OnceFunc(func() { cancel(); <-ended })
	w.stops = append(w.stops, p.stop)
	return p
}

func sole(o *presence.Options) { o.Sole = true }

// kill ends the process without a last word.
func (p *process) kill() {
	p.w.fails.Store(true)
	p.stop()
	p.w.fails.Store(false)
}

// connect opens a session of a device, and returns what ends it.
func (p *process) connect(name string) (end func(how presence.End)) {
	p.next++
	number := p.next
	p.Connected(number, name)
	return func(how presence.End) { p.Disconnected(number, how) }
}

func (p *process) of(name string) presence.Status { return p.Of(p.w.ids[name])[0] }

// is checks whether a device is online, with how many sessions and drops.
func (p *process) is(name string, online bool, sessions, drops int) {
	p.w.t.Helper()
	synctest.Wait()
	if s := p.of(name); s.Online != online || s.Sessions != sessions || s.Drops != drops {
		p.w.t.Errorf("%v: %s is online %v with %d sessions and %d drops, want %v, %d, %d", time.Now(), name, s.Online, s.Sessions, s.Drops, online, sessions, drops)
	}
}

// story checks the history of a device, oldest first, as "+reason" and "-reason".
func (p *process) story(name string, want ...string) {
	p.w.t.Helper()
	pass(2 * time.Second)
	list, err := p.History(p.w.t.Context(), p.w.ids[name], time.Time{}, 1000)
	if err != nil {
		p.w.t.Fatal(err)
	}
	got := []string{}
	for n := len(list) - 1; n >= 0; n-- {
		sign := "-"
		if list[n].Online {
			sign = "+"
		}
		got = append(got, sign+list[n].Reason)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.w.t.Error(diff)
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var closed = presence.End{Reason: "session closed"}

func TestSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		if s := p.of("a"); s != (presence.Status{Device: w.ids["a"]}) {
			t.Errorf("before anything: %+v", s)
		}
		began := time.Now()
		end := p.connect("a")
		p.is("a", true, 1, 0)
		pass(time.Hour) // it says nothing, but is there
		p.is("a", true, 1, 0)
		if s := p.of("a"); !s.Since.Equal(began) || !s.LastSeen.Equal(time.Now()) || s.Source != presence.FromSession {
			t.Errorf("%+v", s)
		}
		again := p.connect("a") // before the other one ends
		end(closed)
		p.is("a", true, 1, 0)
		again(closed)
		p.is("a", false, 0, 1)
		left := time.Now()
		pass(time.Minute)
		if s := p.of("a"); !s.Since.Equal(left) || !s.LastSeen.Equal(left) {
			t.Errorf("%+v", s)
		}
		p.story("a", "+connected", "-session closed")
		p.is("b", false, 0, 0)
		pass(23 * time.Hour)
		p.is("a", false, 0, 1)
		pass(time.Hour)
		p.is("a", false, 0, 0)
		p.connect("stranger")(closed)
	})
}

// Whose session is over is gone, though its last lines come a moment later, or
// it asks for tokens in vain.
func TestAfterASession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		p.connect("a")(closed)
		p.Line(w.ids["a"], time.Now())
		pass(5 * time.Second)
		p.Line(w.ids["a"], time.Now())
		p.is("a", false, 0, 1)
		pass(time.Minute)
		p.Minted("a", time.Time{})
		p.is("a", false, 0, 1)
		if s := p.of("a"); s.Source != presence.FromToken || !s.LastSeen.Equal(time.Now()) {
			t.Errorf("%+v", s)
		}
		p.Line(w.ids["a"], time.Now()) // by another broker
		p.is("a", true, 0, 1)
		p.story("a", "+connected", "-session closed", "+sent a line")
	})
}

func TestWindow(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		p.Line(w.ids["a"], time.Now())
		p.Token(w.ids["b"])
		for range 10 {
			pass(4 * time.Minute)
			p.is("a", true, 0, 0)
			p.Line(w.ids["a"], time.Now())
		}
		last := time.Now()
		p.is("b", false, 0, 1)
		pass(5*time.Minute - time.Second)
		p.is("a", true, 0, 0)
		pass(11 * time.Second)
		p.is("a", false, 0, 1)
		if s := p.of("a"); !s.Since.Equal(last.Add(5*time.Minute)) || !s.LastSeen.Equal(last) || s.Source != presence.FromLine {
			t.Errorf("%+v", s)
		}
		p.story("a", "+sent a line", "-nothing heard for 5m")
		p.story("b", "+got a token", "-nothing heard for 5m")
		if n := p.metric("iot_device_drops_total"); n != 2 {
			t.Errorf("%v drops were counted", n)
		}
	})
}

// metric returns one value of the process.
func (p *process) metric(name string) float64 {
	p.w.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetCounter().GetValue() + f.Metric[0].GetGauge().GetValue()
		}
	}
	p.w.t.Fatalf("there is no %s", name)
	return 0
}

// A session that the server ended is not the device's going, if it comes back.
func TestExcused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		expired := presence.End{Reason: "its token expired", Excused: true}
		p.connect("a")(expired)
		p.connect("b")(expired)
		pass(50 * time.Second)
		p.is("a", true, 0, 0)
		p.connect("a")
		pass(30 * time.Second)
		p.is("a", true, 1, 0)
		p.is("b", false, 0, 1)
		p.story("a", "+connected")
		p.story("b", "+connected", "-its token expired and it did not come back")
	})
}

func TestRestart(t *testing.T) {
	for name, end := range map[string]func(*process){"killed": (*process).kill, "ended": func(p *process) { p.stop() }} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.create("c", "d")
				p := w.start(sole)
				began := time.Now()
				p.connect("a")
				p.connect("b")
				p.Line(w.ids["c"], time.Now())
				p.connect("d")(closed)
				pass(20 * time.Second)
				end(p)
				pass(time.Hour) // until it is started again
				p = w.start(sole)
				p.is("a", true, 0, 0)
				p.is("d", false, 0, 1)
				pass(55 * time.Second)
				p.connect("a")
				p.is("b", true, 0, 0)
				pass(20 * time.Second)
				p.is("a", true, 1, 0)
				p.is("b", false, 0, 1)
				p.is("c", true, 0, 0) // nobody could hear it meanwhile
				if s := p.of("a"); !s.Since.Equal(began) {
					t.Errorf("%+v", s)
				}
				pass(5 * time.Minute)
				p.is("c", false, 0, 1)
				p.story("a", "+connected")
				p.story("b", "+connected", "-did not come back after a restart of the server")
				p.story("c", "+sent a line", "-nothing heard for 5m")
			})
		})
	}
}

func TestDatabaseDown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		w.fails.Store(true)
		end := p.connect("a")
		pass(time.Minute)
		end(closed)
		p.Line(w.ids["b"], time.Now())
		pass(time.Minute)
		p.is("a", false, 0, 1)
		p.is("b", true, 0, 0)
		w.fails.Store(false)
		pass(11 * time.Second)
		p.story("a", "+connected", "-session closed")
		p.story("b", "+sent a line")
	})
}

func TestProcesses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.start(nil), w.start(nil)
		endOne := one.connect("a")
		pass(21 * time.Second)
		two.is("a", true, 1, 0)
		endTwo := two.connect("a")
		pass(21 * time.Second)
		one.is("a", true, 2, 0)
		endOne(closed) // it is at the other one still
		pass(21 * time.Second)
		one.is("a", true, 1, 0)
		two.is("a", true, 1, 0)
		endTwo(closed)
		two.is("a", false, 0, 1)
		pass(21 * time.Second)
		one.is("a", false, 0, 1)
		one.story("a", "+connected", "-session closed")

		// One that is heard of at one process is not gone for the other.
		for range 30 {
			two.Line(w.ids["b"], time.Now())
			pass(time.Minute)
		}
		one.is("b", true, 0, 0)
		pass(8 * time.Minute)
		one.is("b", false, 0, 1)
		two.is("b", false, 0, 1)
		two.story("b", "+sent a line", "-nothing heard for 5m")
		if n := one.metric("iot_device_drops_total") + two.metric("iot_device_drops_total"); n != 2 {
			t.Errorf("%v drops were counted by both", n)
		}
	})
}

// What a process that is killed said of sessions ends with its lease.
func TestKilledProcess(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.start(nil), w.start(nil)
		one.connect("a")
		one.connect("b")
		pass(21 * time.Second)
		two.is("a", true, 1, 0)
		w.fails.Store(true)
		one.stop()
		w.fails.Store(false)
		pass(30 * time.Second)
		two.is("a", true, 1, 0)
		pass(40 * time.Second)
		two.is("a", true, 0, 0) // and has time to come back
		two.connect("a")
		pass(time.Minute)
		two.is("a", true, 1, 0)
		two.is("b", false, 0, 1)
		two.story("a", "+connected")
		two.story("b", "+connected", "-did not come back after its server process ended")
	})
}

// Two sessions end at two processes that do not know yet of each other's end.
func TestEndsThatCross(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.start(nil), w.start(nil)
		endOne, endTwo := one.connect("a"), two.connect("a")
		pass(21 * time.Second)
		one.is("a", true, 2, 0)
		two.is("a", true, 2, 0)
		endOne(closed)
		endTwo(closed)
		left := time.Now()
		pass(21 * time.Second)
		one.is("a", false, 0, 1)
		two.is("a", false, 0, 1)
		one.story("a", "+connected", "-session closed")
		if s := two.of("a"); !s.Since.Equal(left) {
			t.Errorf("%+v", s)
		}
	})
}

// A device that connects in the moment in which it is made is found a little later.
func TestMadeMeanwhile(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		end := p.connect("c")
		p.connect("d")(closed)
		synctest.Wait()
		w.create("c") // and Created was before
		pass(11 * time.Second)
		p.is("c", true, 1, 0)
		end(closed)
		p.is("c", false, 0, 1)
	})
}

// A process that could not renew its lease says again what it has.
func TestLeaseLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.start(nil), w.start(nil)
		one.connect("a")
		pass(21 * time.Second)
		if err := w.db.RemovePresence(t.Context(), time.Now().Add(time.Hour), ""); err != nil {
			t.Fatal(err)
		}
		pass(31 * time.Second)
		two.is("a", true, 1, 0)
		pass(5 * time.Minute)
		two.is("a", true, 1, 0)
		one.story("a", "+connected")
	})
}

func TestDevicesComeAndGo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		end := p.connect("c") // before it is known
		w.create("c")
		ref, _ := w.ByClientID("c")
		p.Created(ref)
		p.is("c", true, 1, 0)
		pass(time.Minute)
		if n := p.Online(); n != 1 {
			t.Errorf("%d are online", n)
		}
		if err := w.db.Tx(t.Context(), func(q registry.Queries) error { return q.DeleteDevice(t.Context(), ref.ID) }); err != nil {
			t.Fatal(err)
		}
		p.Forget(ref.ID)
		p.Line(ref.ID, time.Now()) // it was on its way
		end(closed)
		pass(time.Minute)
		if s := p.of("c"); s != (presence.Status{Device: ref.ID}) {
			t.Errorf("deleted: %+v", s)
		}
		if n := p.metric("iot_devices_online"); n != 0 {
			t.Errorf("%v are online", n)
		}
	})
}

func TestClock(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		p.Minted("a", time.Time{})
		if s := p.of("a"); s.ClockSaid {
			t.Errorf("%+v", s)
		}
		p.Minted("a", time.Now().Add(-90*time.Second))
		if s := p.of("a"); !s.ClockSaid || s.ClockOff != -90*time.Second {
			t.Errorf("%+v", s)
		}
		pass(20 * time.Second)
		p.stop()
		p = w.start(sole)
		if s := p.of("a"); !s.ClockSaid || s.ClockOff != -90*time.Second {
			t.Errorf("after a restart: %+v", s)
		}
		p.Minted("stranger", time.Now())
	})
}

func TestRecall(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		p := w.start(sole)
		before := time.Now().Add(-48 * time.Hour)
		p.Recall(w.ids["a"], before)
		p.Recall(w.ids["a"], before.Add(-time.Hour))
		p.is("a", false, 0, 0)
		if s := p.of("a"); !s.LastSeen.Equal(before) || s.Source != presence.FromLine {
			t.Errorf("%+v", s)
		}
		pass(15 * time.Second)
		p.stop()
		if s := w.start(sole).of("a"); !s.LastSeen.Equal(before) {
			t.Errorf("%+v", s)
		}
	})
}

// A fleet that comes all at once is stored in parts.
func TestManyAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		names := []string{}
		for n := range 2500 {
			name := fmt.Sprintf("%08x", n)
			names = append(names, name)
		}
		w.bulk(names)
		p := w.start(sole)
		for _, name := range names {
			p.connect(name)
		}
		pass(15 * time.Second)
		p.stop()
		rows, err := w.db.Presences(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != len(names) {
			t.Errorf("%d rows of %d devices", len(rows), len(names))
		}
		for _, r := range rows {
			if !r.Online || !r.BySession {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func (w *world) bulk(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.db.Tx(w.t.Context(), func(q registry.Queries) error {
		for _, name := range names {
			id, err := q.InsertDevice(w.t.Context(), fleet.Device{
				Key: strings.ToLower(name), Model: fleet.Model{ID: 1}, Active: true, Config: "{}", Rotation: fleet.RotationOK, CreatedAt: time.Now(), UpdatedAt: time.Now(),
			})
			if err != nil {
				return err
			}
			w.ids[name] = id
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// Nothing that a device does waits for more than a moment, whatever the fleet.
func BenchmarkLine(b *testing.B) {
	db, err := sqlstore.Open(b.Context(), filepath.Join(b.TempDir(), "test.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	p, err := presence.New(b.Context(), presence.Options{Store: db, Directory: &world{}, Sole: true})
	if err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	for id := range int64(100_000) {
		p.Line(id, at)
	}
	b.ReportAllocs()
	for n := int64(0); b.Loop(); n++ {
		p.Line(n%100_000, at)
	}
}
