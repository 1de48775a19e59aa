package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// office is a broker that keeps what it gets.
type office struct {
	mu   sync.Mutex
	down bool          // it waits until the publisher gives up
	took time.Duration // for each message
	got  []string
}

func (o *office) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	o.mu.Lock()
	down, took := o.down, o.took
	o.mu.Unlock()
	if down {
		<-ctx.Done()
		return fleet.E(fleet.Unavailable, ctx.Err(), "the MQTT broker cannot be reached")
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return ctx.Err()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got = append(o.got, strings.TrimSpace(fmt.Sprintf("%s %d %v %s", topic, qos, retain, payload)))
	return nil
}

func (o *office) set(down bool) { o.mu.Lock(); defer o.mu.Unlock(); o.down = down }

// take returns what came since it was last asked.
func (o *office) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	got := o.got
	o.got = nil
	return got
}

func (o *office) want(t *testing.T, want ...string) {
	t.Helper()
	if got := o.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

const (
	forAll  = `iotsupport/updates/provisioning 1 false {"client_id":"dev"}`
	forDev  = `iotsupport/dev/rotation 1 true {"client_id":"dev","state":"pending","attempt":%d,"url":"https://box/api/iot/provisioning"}`
	nothing = `iotsupport/dev/rotation 1 true`
)

// A broker that is away keeps nobody waiting who is at the other one, and what is
// done again is done for the one that did not have it.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := new(office), new(office)
		there := true
		n := newNotices([]broker{{near, "near"}, {far, "far"}}, "https://box", func(string) bool { return there })
		ctx := t.Context()
		tell := func(attempt int64, ok bool) {
			t.Helper()
			err := n.Tell(ctx, 1, "dev", attempt)
			if (err == nil) != ok || err != nil && fleet.KindOf(err) != fleet.Unavailable {
				t.Errorf("telling: %v", err)
			}
		}
		tell(1, true)
		near.want(t, fmt.Sprintf(forDev, 1), forAll)
		far.want(t, fmt.Sprintf(forDev, 1), forAll)

		far.set(true)
		start := time.Now()
		go func() { tell(2, false) }()
		time.Sleep(time.Millisecond)
		near.want(t, fmt.Sprintf(forDev, 2), forAll) // at once
		time.Sleep(noticeTimeout)
		if time.Since(start) > noticeTimeout+time.Second {
			t.Error("it takes too long")
		}
		tell(2, false)
		near.want(t)
		tell(3, false)
		near.want(t, fmt.Sprintf(forDev, 3), forAll)
		far.set(false)
		tell(3, true)
		near.want(t)
		far.want(t, fmt.Sprintf(forDev, 3), forAll)
		tell(3, true) // the program was started anew meanwhile, for all that is known
		near.want(t, fmt.Sprintf(forDev, 3), forAll)
		far.take()

		if err := n.Remind(ctx, 1, "dev", 3); err != nil {
			t.Error(err)
		}
		near.want(t, fmt.Sprintf(forDev, 3), forAll)
		far.take()
		far.set(true)
		if err := n.Clear(ctx, 1, "dev"); fleet.KindOf(err) != fleet.Unavailable {
			t.Error(err)
		}
		near.want(t, nothing)
		far.set(false)
		if err := n.Clear(ctx, 1, "dev"); err != nil {
			t.Error(err)
		}
		far.want(t, nothing)
		near.take()

		there = false // it was deleted in between
		tell(4, true)
		near.want(t, fmt.Sprintf(forDev, 4), nothing)
	})
}

func TestMail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := new(office), new(office)
		m := newMail([]broker{{near, "near"}, {far, "far"}}, prometheus.NewRegistry(), quiet())
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		config := func(id string) string { return fmt.Sprintf(`iotsupport/updates/config 1 false {"client_id":"%s"}`, id) }
		drops := func() (n float64) {
			var out = make(chan prometheus.Metric, 10)
			m.dropped.Collect(out)
			close(out)
			for c := range out {
				n += valueOf(t, c)
			}
			return n
		}

		m.configChanged("a")
		synctest.Wait()
		near.want(t, config("a"))
		far.want(t, config("a"))

		// One that is away keeps nobody waiting, and what is of no use later is given up.
		far.set(true)
		m.configChanged("b")
		m.observe(ctx, registry.Change{Kind: registry.Deleted, Before: fleet.DeviceRef{ClientID: "dev"}})
		m.observe(ctx, registry.Change{Kind: registry.Updated})
		synctest.Wait()
		near.want(t, config("b"), nothing)
		time.Sleep(5 * time.Minute)
		if n := drops(); n != 1 {
			t.Errorf("%v were given up", n)
		}
		far.set(false)
		time.Sleep(mailAgain + mailTimeout)
		far.want(t, nothing)

		// What waits already does not wait twice; nor without bound.
		near.mu.Lock()
		near.took = time.Second
		near.mu.Unlock()
		for range 3 {
			m.configChanged("first")
			m.configChanged("c")
		}
		time.Sleep(500 * time.Millisecond)
		m.configChanged("first") // what is being sent may be of before
		time.Sleep(10 * time.Second)
		near.want(t, config("first"), config("c"), config("first"))
		before := drops()
		for n := range maxMail + 10 {
			m.configChanged(fmt.Sprint(n))
		}
		if n := drops() - before; n < 9 || n > 20 {
			t.Errorf("%v were given up of %d", n, maxMail+10)
		}
		near.mu.Lock()
		near.took = 0
		near.mu.Unlock()
		time.Sleep(time.Minute)
		near.take()
		far.take()

		// At the end what waits is sent, and soon.
		near.mu.Lock()
		near.took = time.Second
		near.mu.Unlock()
		far.set(true)
		m.configChanged("x")
		m.configChanged("y")
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-ended; err != nil || time.Since(start) > mailFlush {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		near.want(t, config("x"), config("y"))
		before = drops()
		m.configChanged("z")
		if drops() != before+2 {
			t.Error("what comes after the end is not counted as given up")
		}
	})
}

// Who comes back is reminded, when it listens, and not without end; who is heard of
// is as well; and of the others nothing is wanted.
func TestReminders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReminders(quiet())
		var mu sync.Mutex
		var reminded []int64
		listening, there := map[uint64]bool{}, map[uint64]bool{}
		pending := []fleet.Device{{ID: 7, Key: "aaaaaaaa", Model: fleet.Model{Code: "relay"}}}
		looks := 0
		r.remind = func(_ context.Context, device int64) error {
			mu.Lock()
			defer mu.Unlock()
			reminded = append(reminded, device)
			return errors.New("it is written to the log")
		}
		r.listens = func(at uint64, topic string) (bool, bool) {
			mu.Lock()
			defer mu.Unlock()
			looks++
			return listening[at], there[at]
		}
		r.list = func(context.Context) ([]fleet.Device, error) {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(pending), nil
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		synctest.Wait()
		set := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
		want := func(what string, ids ...int64) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(reminded, ids) {
				t.Errorf("%s: reminded %v, want %v", what, reminded, ids)
			}
			reminded = nil
		}
		const old = "iotdevice-relay-aaaaaaaa"

		r.arrived("somebody", 1)
		r.heard("somebody")
		time.Sleep(time.Minute)
		want("strangers")

		// One that was there when the program began.
		set(func() { there[2] = true })
		r.arrived(old, 2)
		time.Sleep(5 * time.Second)
		want("it does not listen yet")
		set(func() { listening[2] = true })
		time.Sleep(time.Second)
		want("it listens", 7)
		time.Sleep(time.Minute)
		want("once is enough")
		for range 100 {
			r.arrived(old, 2)
			time.Sleep(100 * time.Millisecond)
		}
		want("it comes again and again", 7)
		time.Sleep(remindPause)
		want("the last time counts", 7)

		// One that goes, or never listens, is given up.
		set(func() { listening[2] = false })
		r.arrived(old, 2)
		time.Sleep(time.Minute)
		set(func() { listening[2], looks = true, 0 })
		time.Sleep(time.Minute)
		want("it listens too late")
		if looks != 0 {
			t.Error("it is looked after without need")
		}
		r.arrived(old, 3)
		time.Sleep(time.Minute)
		want("it is gone")

		// One that is only heard of.
		r.observe(rotation.News{Device: 8, ClientID: "b", To: fleet.RotationPending})
		set(func() {
			pending = append(pending, fleet.Device{ID: 8, Key: "bbbbbbbb", Model: fleet.Model{Code: "relay"}})
		})
		r.heard("b")
		time.Sleep(time.Second)
		want("it was told a moment ago")
		time.Sleep(time.Minute)
		for range 50 {
			r.heard("b")
			time.Sleep(time.Second)
		}
		want("it says lines", 8)
		time.Sleep(time.Minute)
		r.heard("b")
		time.Sleep(time.Second)
		want("it says lines still", 8)
		r.observe(rotation.News{Device: 8, ClientID: "b", From: fleet.RotationPending, To: fleet.RotationOK})
		time.Sleep(time.Minute)
		set(func() { pending = nil })
		r.heard("b")
		time.Sleep(time.Minute)
		want("it is done")
		r.arrived(old, 2)
		time.Sleep(time.Second)
		want("another process saw to it")
		if r.some.Load() {
			t.Error("somebody is waited for still")
		}
	})
}

func valueOf(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue()
}

// What lies at the embedded broker for devices that were deleted, and was not
// taken back as the program was killed, is taken back when it starts.
func TestSweepOfNotices(t *testing.T) {
	w := newTown(t, time.Hour, nil)
	server := w.guard.server
	model, err := w.devices.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.devices.CreateDevice(t.Context(), model.ID, "{}")
	if err != nil {
		t.Fatal(err)
	}
	mine := fmt.Sprintf(rotationTopic, d.ClientID())
	for _, topic := range []string{mine, fmt.Sprintf(rotationTopic, "iotdevice-relay-gggggggg")} {
		if err := server.Publish(t.Context(), topic, 1, true, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	m := newMail([]broker{{server, "embedded MQTT broker"}}, prometheus.NewRegistry(), quiet())
	m.sweep(t.Context(), server, deviceThere(w.devices))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, err := server.Retained(t.Context(), fmt.Sprintf(rotationTopic, "+"))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(got, []string{mine}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("there lies %q", got)
		}
	}
}

// A device that was deleted while it had a secret to fetch does not keep the one
// that was made in its place from being reminded.
func TestRemindersOfADeviceMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReminders(quiet())
		var mu sync.Mutex
		var reminded []int64
		r.remind = func(_ context.Context, device int64) error {
			mu.Lock()
			defer mu.Unlock()
			reminded = append(reminded, device)
			return nil
		}
		r.listens = func(uint64, string) (bool, bool) { return true, true }
		again := []fleet.Device{{ID: 8, Key: "aaaaaaaa", Model: fleet.Model{Code: "relay"}}}
		r.list = func(context.Context) ([]fleet.Device, error) { return again, nil }
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		const name = "iotdevice-relay-aaaaaaaa"
		r.observe(rotation.News{Device: 7, ClientID: name, To: fleet.RotationPending}) // nobody says that it was deleted
		r.observe(rotation.News{Device: 8, ClientID: name, To: fleet.RotationPending})
		go func() { ended <- r.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		time.Sleep(2 * remindSync)
		synctest.Wait()
		r.arrived(name, 1)
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(reminded, []int64{8}) {
			t.Errorf("reminded %v", reminded)
		}
	})
}
