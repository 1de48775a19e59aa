package gateway_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/internal/gateway"
	"signalbox/internal/sse"
)

// young has streams asked about at once.
func young(o *gateway.CarrierOptions) { o.Young = time.Nanosecond }

func (m *moody) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// A client that leaves while its callback is under way is told of by no gateway:
// its stream is asked about, and ended, though nothing is sent to it.
func TestCarrierAsksNewcomersD17(t *testing.T) {
	a := newMoody(t)
	c, _, _ := carry(t, young, a.url)
	var known []*owner
	for n := range 5 {
		_, own := begin(t, c, fmt.Sprint("token-", n), 1)
		known = append(known, own)
	}
	eventually(t, "all are asked about", func() bool {
		for n := range 5 {
			if !a.got(fmt.Sprintf(`{"token":"token-%d"}`, n)) {
				return false
			}
		}
		return true
	})
	if n := len(c.Outboxes()); n != 5 {
		t.Errorf("%d streams are left", n)
	}
	a.set(func() { a.unknown = true })
	_, own := begin(t, c, "never-opened", 1)
	for _, own := range append(known, own) {
		if err := own.end(t); !errors.Is(err, gateway.ErrGone) {
			t.Error(err)
		}
	}
}

// A stream whose gateway did not say its name is looked for, and over when no
// gateway has it, though nothing is sent to it.
func TestCarrierLooksForStream(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	a.unknown = true
	c, _, _ := carry(t, young, a.url, b.url)
	_, own := begin(t, c, "token-1", 0)
	eventually(t, "the asking", func() bool { return b.got("token-1") })
	if n := len(c.Outboxes()); n != 1 {
		t.Fatalf("%d streams are open", n)
	}
	b.set(func() { b.unknown = true })
	_, nowhere := begin(t, c, "token-2", 0)
	for _, own := range []*owner{own, nowhere} {
		if err := own.end(t); !errors.Is(err, gateway.ErrGone) {
			t.Error(err)
		}
	}
}

// A gateway that takes no more events, and then nothing at all, is given up: what
// waits for it does not keep it from being looked at.
func TestCarrierLooksOnD17(t *testing.T) {
	a := newMoody(t)
	c, _, _ := carry(t, func(o *gateway.CarrierOptions) { young(o); o.Timeout = 300 * time.Millisecond }, a.url)
	eventually(t, "the gateway", c.Up)
	a.set(func() { a.stuck = "token" })
	var owners []*owner
	for n := range 60 {
		_, own := begin(t, c, fmt.Sprint("token-", n), 1)
		owners = append(owners, own)
	}
	c.Disconnected("token-0")
	time.Sleep(time.Second) // probes fail meanwhile
	if !c.Up() || len(c.Outboxes()) != 59 {
		t.Errorf("up %v, %d streams, though it answers", c.Up(), len(c.Outboxes()))
	}
	a.set(func() { a.all = true })
	for n, own := range owners {
		if err := own.end(t); n > 0 && !errors.Is(err, gateway.ErrLost) {
			t.Error(n, err)
		}
	}
}

// A callback that comes twice leaves one stream, and the first owner is told.
func TestCarrierTwice(t *testing.T) {
	a := newMoody(t)
	c, _, _ := carry(t, nil, a.url)
	first, own := begin(t, c, "token", 1)
	second, _ := begin(t, c, "token", 1)
	if err := own.end(t); err != nil {
		t.Error(err)
	}
	first.Out().Offer(event(1))
	second.Out().Offer(event(2))
	eventually(t, "the event", func() bool { return a.got(`"data":"2"`) })
	if a.got(`"data":"1"`) || a.got("close") || len(c.Outboxes()) != 1 {
		t.Errorf("%q", a.bodies)
	}
}

// Of what was taken from the queue before the right was over nothing more is sent;
// the reason is. A stream that is stuck then is closed all the same.
func TestCarrierExpelInBatch(t *testing.T) {
	for _, freed := range []bool{true, false} {
		a := newMoody(t)
		a.stuck = `"data":"0"`
		c, _, _ := carry(t, nil, a.url)
		own := newOwner()
		s := c.New("token", "r", 1, nil)
		for n := range 50 {
			s.Out().Offer(event(n))
		}
		if err := s.Begin(own); err != nil {
			t.Fatal(err)
		}
		eventually(t, "they are taken", func() bool { return s.Out().Bytes() == 0 })
		s.Expel(event(99))
		if freed {
			a.free()
		}
		if err := own.end(t); err != nil {
			t.Error(err)
		}
		eventually(t, "the closing", func() bool { return a.got(`{"token":"token","close":true}`) })
		if a.got(`"data":"1"`) || a.got(`"data":"99"`) != freed {
			t.Errorf("freed %v: %q", freed, a.bodies)
		}
	}
}

// A file that is damaged keeps nobody from starting, and gives what can be read.
func TestCarrierMemoryDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "streams")
	if err := os.WriteFile(file, []byte("+ one 1\nnonsense\n+ two x\n- three\n+ four 9\n"+strings.Repeat("\x00", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newMoody(t)
	carry(t, func(o *gateway.CarrierOptions) { o.Memory = file }, a.url)
	eventually(t, "the closing", func() bool {
		return a.got(`{"token":"one","close":true}`) && a.got(`{"token":"four","close":true}`)
	})
}

// Of what was taken from the queue nothing more is sent also when the right ends
// between two events.
func TestCarrierExpelBetween(t *testing.T) {
	a := newMoody(t)
	var s *gateway.Carried
	c, _, _ := carry(t, func(o *gateway.CarrierOptions) {
		o.Wrote = func([]*sse.Frame, time.Time, error) { s.Expel(event(99)) }
	}, a.url)
	s = c.New("token", "r", 1, nil)
	for n := range 5 {
		s.Out().Offer(event(n))
	}
	own := newOwner()
	if err := s.Begin(own); err != nil {
		t.Fatal(err)
	}
	if err := own.end(t); err != nil {
		t.Error(err)
	}
	if a.got(`"data":"1"`) || !a.got(`"data":"99"`) {
		t.Errorf("%q", a.bodies)
	}
}

// A gateway that is stuck, and one that is given up, harms no stream of another
// gateway, though it is not known which one has it.
func TestCarrierStuckWhileLooking(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	a.all = true
	c, _, _ := carry(t, func(o *gateway.CarrierOptions) { o.Timeout = time.Hour }, a.url, b.url)
	s, _ := begin(t, c, "token-1", 0)
	idle, _ := begin(t, c, "token-2", 0)
	_, lost := begin(t, c, "token-3", 1)
	s.Out().Offer(event(1))
	eventually(t, "the event", func() bool { return b.got(`"data":"1"`) })
	if err := lost.end(t); !errors.Is(err, gateway.ErrLost) {
		t.Error(err)
	}
	idle.Out().Offer(event(2))
	eventually(t, "the event of the other", func() bool { return b.got(`"data":"2"`) })
}

// A stream that no gateway has which answers is over, though another does not.
func TestCarrierNowhereThatAnswers(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	a.all, b.unknown = true, true
	c, _, _ := carry(t, young, a.url, b.url)
	_, lost := begin(t, c, "token-1", 1)
	if err := lost.end(t); !errors.Is(err, gateway.ErrLost) {
		t.Error(err)
	}
	_, own := begin(t, c, "token-2", 0)
	if err := own.end(t); !errors.Is(err, gateway.ErrGone) {
		t.Error(err)
	}
	a.free()
	eventually(t, "the closing", func() bool { return a.got(`{"token":"token-2","close":true}`) })
}

// A line that no body has room for is cut. Its reader would come back for it for
// ever, and never get past it.
func TestCarrierCutsLine(t *testing.T) {
	e := join(t, run(t, func(o *gateway.Options) { o.MaxBody = 100_000 }), nil)
	c, s, _ := e.stream("r")
	message := strings.Repeat(`"`, 32_000) // a line may have so many: 64 kB, and twice that in a body
	payload, err := json.Marshal(map[string]any{"device_entity_id": "boiler", "logs": []any{map[string]string{"message": message}}})
	if err != nil {
		t.Fatal(err)
	}
	f := sse.Event("device-logs", "e-7", payload)
	f.Lines = 1
	s.Out().Offer(f)
	s.Out().Offer(event(8))
	got := c.until(text(8))
	if !strings.Contains(got, "id: e-7\n") || !strings.Contains(got, strings.Repeat(`\"`, 10_000)) || !strings.Contains(got, `"truncated":true`) {
		t.Errorf("%.200s", got)
	}
}

// A callback that comes twice does not end the stream: its request id has been
// taken over by the second before that begins.
func TestCarrierTwiceTakenOver(t *testing.T) {
	a := newMoody(t)
	c, _, _ := carry(t, nil, a.url)
	first, own := begin(t, c, "token", 1)
	second := c.New("token", "r", 1, nil)
	first.End(nil) // as the registry does
	if err := own.end(t); err != nil {
		t.Error(err)
	}
	if err := second.Begin(newOwner()); err != nil {
		t.Fatal(err)
	}
	second.Out().Offer(event(2))
	eventually(t, "the event", func() bool { return a.got(`"data":"2"`) })
	if a.got("close") || len(c.Outboxes()) != 1 {
		t.Errorf("%q", a.bodies)
	}
}
