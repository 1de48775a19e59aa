package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/gateway"
	"signalbox/internal/sse"
)

// owner waits for the end of a stream.
type owner struct {
	ended chan error
	beats atomic.Int64
}

func newOwner() *owner { return &owner{ended: make(chan error, 2)} }

func (o *owner) Beat()            { o.beats.Add(1) }
func (o *owner) Closed(err error) { o.ended <- err }

func (o *owner) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-o.ended:
		select {
		case <-o.ended:
			t.Error("the owner was told twice")
		case <-time.After(10 * time.Millisecond):
		}
		return err
	case <-time.After(patience):
		t.Fatal("the stream did not end")
		return nil
	}
}

// ends is both ends of the protocol: a gateway, and a backend with a Carrier.
type ends struct {
	*world
	carrier *gateway.Carrier
	reg     *prometheus.Registry
	stop    func()

	mu      sync.Mutex
	streams map[string]*gateway.Carried // by request id
	owners  map[string]*owner
	begin   func(s *gateway.Carried) // what the backend does before it answers
}

// join has the backend of a gateway carry its streams.
func join(t *testing.T, w *world, change func(*gateway.CarrierOptions)) *ends {
	t.Helper()
	e := &ends{world: w, reg: prometheus.NewRegistry(), streams: map[string]*gateway.Carried{}, owners: map[string]*owner{}}
	o := gateway.CarrierOptions{URLs: []string{"http://" + w.addr}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: e.reg, Probe: 50 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	c, err := gateway.NewCarrier(o)
	if err != nil {
		t.Fatal(err)
	}
	e.carrier = c
	w.backend.does(func(rw http.ResponseWriter, told callback) {
		if told.Action == "disconnect" {
			c.Disconnected(told.Token)
			_, _ = io.WriteString(rw, "{}")
			return
		}
		_, id, _ := strings.Cut(told.Request.URL, "request_id=")
		s, own := c.New(told.Token, id, c.Gateway(""), told.header), newOwner()
		if e.begin != nil {
			e.begin(s)
		}
		if err := s.Begin(own); err != nil {
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		e.mu.Lock()
		e.streams[id], e.owners[id] = s, own
		e.mu.Unlock()
		_, _ = io.WriteString(rw, "{}")
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx, 5*time.Second); err != nil {
			t.Error(err)
		}
	}()
	e.stop = func() { cancel(); <-done }
	t.Cleanup(func() { e.stop() })
	return e
}

// stream opens one and returns both ends of it.
func (e *ends) stream(id string) (*client, *gateway.Carried, *owner) {
	e.t.Helper()
	c, _ := e.open("/x?request_id=" + id)
	e.mu.Lock()
	defer e.mu.Unlock()
	return c, e.streams[id], e.owners[id]
}

func event(n int) *sse.Frame { return sse.Event("n", fmt.Sprint(n), fmt.Append(nil, n)) }

func text(n int) string {
	return fmt.Sprintf("id: %d\ndata: {\"type\":\"n\",\"payload\":%d}\n\n", n, n)
}

// Events come in their order, also what was queued before the stream was open.
func TestCarrierOrder(t *testing.T) {
	e := join(t, run(t, nil), nil)
	e.begin = func(s *gateway.Carried) { s.Out().Offer(event(0)) }
	clients := map[string]*client{}
	for n := range 20 {
		id := fmt.Sprintf("r%d", n)
		c := e.dial("/x?request_id=" + id).answered()
		clients[id] = c
	}
	eventually(t, "twenty streams", func() bool { e.mu.Lock(); defer e.mu.Unlock(); return len(e.streams) == 20 })
	for n := range 200 {
		e.mu.Lock()
		for _, s := range e.streams {
			s.Out().Offer(event(n + 1))
		}
		e.mu.Unlock()
	}
	var want strings.Builder
	for n := range 201 {
		want.WriteString(text(n))
	}
	for id, c := range clients {
		all := c.until(text(200))
		before, after, ready := strings.Cut(all, "event: ready\ndata:\n\n")
		if !ready || before+after != want.String() {
			t.Fatalf("%s got %.1000q", id, all)
		}
	}
}

// until reads until a text has come.
func (c *client) until(text string) string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	var all []byte
	b := make([]byte, 64<<10)
	for !bytes.HasSuffix(all, []byte(text)) {
		n, err := c.body.Read(b)
		if all = append(all, b[:n]...); err != nil {
			c.t.Fatalf("%v after %.1000q", err, all)
		}
	}
	return string(all)
}

// A stream has a place to go on from before its first event, and while there is
// nothing to say; a gateway of the reference system, which knows no such thing, is
// not asked for it.
func TestCarrierMarks(t *testing.T) {
	e := join(t, run(t, nil), func(o *gateway.CarrierOptions) { o.Beat = 100 * time.Millisecond })
	c, s, own := e.stream("r")
	s.Out().OfferControl(sse.Mark("5"))
	c.want("id: 5\n\n")
	eventually(t, "the owner is asked for its place", func() bool { return own.beats.Load() > 1 })

	f := func(accepts, want string) {
		t.Helper()
		a := newMoody(t)
		c, _, _ := carry(t, nil, a.url)
		s := c.New("token", "r", 1, http.Header{"Sse-Gateway-Accepts": {accepts}})
		for _, frame := range []*sse.Frame{sse.Mark("1"), event(2), sse.Mark("3"), sse.Mark("4"), sse.Control("ready", "")} {
			s.Out().OfferControl(frame)
		}
		if err := s.Begin(newOwner()); err != nil {
			t.Fatal(err)
		}
		s.End(nil)
		eventually(t, "the closing", func() bool { return a.got(`{"token":"token","close":true}`) })
		a.mu.Lock()
		defer a.mu.Unlock()
		if got := strings.Join(a.bodies, " "); got != want {
			t.Errorf("one that accepts %q: %s, want %s", accepts, got, want)
		}
	}
	const two, last = `{"token":"token","event":{"name":"n","data":"2","id":"2"}}`, `{"token":"token","close":true}`
	f("id", two+` {"token":"token","id":"4"} `+last)
	f("", two+" "+last)
}

// However a stream ends, both ends learn of it, once.
func TestCarrierEnds(t *testing.T) {
	e := join(t, run(t, nil), nil)
	f := func(what string, do func(c *client, s *gateway.Carried), want string) {
		t.Helper()
		c, s, own := e.stream(strings.ReplaceAll(what, " ", "-"))
		do(c, s)
		if err := own.end(t); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if want != "gone" {
			if got := c.rest(); got != want {
				t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		eventually(t, "no stream", func() bool { return e.metric("gateway_streams") == 0 && len(e.carrier.Outboxes()) == 0 })
	}
	f("ended by us", func(_ *client, s *gateway.Carried) { s.Out().Offer(event(1)); s.End(event(2)) }, text(1)+text(2))
	f("expelled", func(_ *client, s *gateway.Carried) { s.Expel(event(3)) }, text(3))
	f("left by the client", func(c *client, _ *gateway.Carried) { c.conn.Close() }, "gone")
}

// A stream whose gateway does not know it any more is over; the others go on.
func TestCarrierUnknownToken(t *testing.T) {
	e := join(t, run(t, nil), nil)
	c, good, _ := e.stream("good")
	own := newOwner()
	lost := e.carrier.New("no-such-token", "lost", 1, nil)
	if err := lost.Begin(own); err != nil {
		t.Fatal(err)
	}
	lost.Out().Offer(event(1))
	if err := own.end(t); !errors.Is(err, gateway.ErrGone) {
		t.Error(err)
	}
	good.Out().Offer(event(2))
	c.want(text(2))
}

// A batch of lines that is too long for one request comes in pieces, whole and
// in its order, with the id behind its last line.
func TestCarrierSplitsD27(t *testing.T) {
	e := join(t, run(t, func(o *gateway.Options) { o.MaxBody = 100_000 }), nil)
	c, s, _ := e.stream("r")
	type line struct{ Message string }
	lines := make([]line, 1000)
	for n := range lines {
		lines[n].Message = strings.Repeat(`"\`, 100) + fmt.Sprint(n)
	}
	payload, err := json.Marshal(map[string]any{"device_entity_id": "boiler", "logs": lines})
	if err != nil {
		t.Fatal(err)
	}
	f := sse.Event("device-logs", "e-7", payload)
	f.Lines = len(lines)
	s.Out().Offer(f)
	s.Out().Offer(event(8))
	all := c.until(text(8))
	seen, ids := 0, 0
	for block := range strings.SplitSeq(strings.TrimSuffix(all, text(8)), "\n\n") {
		id, data, ok := strings.Cut(block, "data: ")
		if !ok {
			continue
		}
		if id != "" {
			ids++
		}
		var got struct {
			Type    string
			Payload struct {
				Entity string `json:"device_entity_id"`
				Logs   []line
			}
		}
		if err := json.Unmarshal([]byte(data), &got); err != nil || got.Payload.Entity != "boiler" || got.Type != "device-logs" || len(data) > 100_000 {
			t.Fatalf("%v: %.200q", err, data)
		}
		for _, l := range got.Payload.Logs {
			if l != lines[seen] {
				t.Fatalf("line %d is %q", seen, l.Message)
			}
			seen++
		}
		if id != "" && seen != len(lines) {
			t.Errorf("the id comes behind line %d", seen)
		}
	}
	if seen != len(lines) || ids != 1 {
		t.Errorf("%d lines, %d ids", seen, ids)
	}
}

// moody is a gateway that answers or does not, as it is told.
type moody struct {
	url string
	mu  sync.Mutex
	// stuck says which requests wait: all, or those with this text in their body.
	stuck   string
	all     bool
	release chan struct{}
	bodies  []string
	unknown bool

	instance string // that it says it is
}

func newMoody(t *testing.T) *moody {
	m := &moody{release: make(chan struct{})}
	l := listen(t)
	m.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: m, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { m.free(); server.Close(); <-done })
	return m
}

func (m *moody) free() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all, m.stuck = false, ""
	select {
	case <-m.release:
	default:
		close(m.release)
	}
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m.mu.Lock()
	wait := m.all || m.stuck != "" && strings.Contains(string(body), m.stuck)
	unknown, release := m.unknown, m.release
	if m.instance != "" {
		w.Header().Set("Sse-Gateway-Instance", m.instance)
	}
	m.mu.Unlock()
	if wait {
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
	}
	m.mu.Lock()
	if len(body) > 0 {
		m.bodies = append(m.bodies, string(body))
	}
	m.mu.Unlock()
	if unknown && len(body) > 0 {
		w.WriteHeader(http.StatusNotFound)
	}
}

func (m *moody) got(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.bodies {
		if strings.Contains(b, text) {
			return true
		}
	}
	return false
}

// carry returns a carrier over gateways.
func carry(t *testing.T, change func(*gateway.CarrierOptions), urls ...string) (*gateway.Carrier, *prometheus.Registry, func()) {
	t.Helper()
	reg := prometheus.NewRegistry()
	o := gateway.CarrierOptions{URLs: urls, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: reg, Probe: 200 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	c, err := gateway.NewCarrier(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx, time.Second); err != nil {
			t.Error(err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return c, reg, stop
}

func begin(t *testing.T, c *gateway.Carrier, token string, number int) (*gateway.Carried, *owner) {
	t.Helper()
	own := newOwner()
	s := c.New(token, token, number, nil)
	if err := s.Begin(own); err != nil {
		t.Fatal(err)
	}
	return s, own
}

// One stream that is stuck delays no other, and one gateway that is stuck delays
// no other. What is not taken in time ends that stream alone.
func TestCarrierStuckD18(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	a.stuck = "token-1"
	c, _, _ := carry(t, func(o *gateway.CarrierOptions) { o.Timeout = 2 * time.Second }, a.url, b.url)
	one, oneOwner := begin(t, c, "token-1", 1)
	two, _ := begin(t, c, "token-2", 1)
	three, _ := begin(t, c, "token-3", 2)
	one.Out().Offer(event(1))
	for n := range 50 {
		two.Out().Offer(event(1000 + n))
	}
	eventually(t, "the other's events", func() bool { return a.got(`"data":"1049"`) })
	if err := oneOwner.end(t); err == nil {
		t.Error("the stuck stream ended as if nothing were wrong")
	}
	a.mu.Lock()
	a.all = true
	a.mu.Unlock()
	two.Out().Offer(event(2))
	for n := range 50 {
		three.Out().Offer(event(2000 + n))
	}
	eventually(t, "the other gateway's events", func() bool { return b.got(`"data":"2049"`) })
}

// A gateway that does not answer for a while loses its streams here; when it is
// back it is told to close them.
func TestCarrierLostGateway(t *testing.T) {
	a := newMoody(t)
	c, reg, _ := carry(t, nil, a.url)
	eventually(t, "the gateway", c.Up)
	_, first := begin(t, c, "token-1", 1)
	_, second := begin(t, c, "token-2", 1)
	a.mu.Lock()
	a.all = true
	a.mu.Unlock()
	for _, own := range []*owner{first, second} {
		if err := own.end(t); !errors.Is(err, gateway.ErrLost) {
			t.Error(err)
		}
	}
	if c.Up() {
		t.Error("it counts as up")
	}
	a.free()
	eventually(t, "the closing", func() bool {
		return a.got(`{"token":"token-1","close":true}`) && a.got(`{"token":"token-2","close":true}`)
	})
	eventually(t, "the gateway", c.Up)
	third, _ := begin(t, c, "token-3", 1)
	third.Out().Offer(event(3))
	eventually(t, "an event", func() bool { return a.got(`"data":"3"`) })
	if got := sum(t, reg, "sse_gateway_streams_lost_total"); got != 2 {
		t.Errorf("%v streams were lost", got)
	}
}

func sum(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	return (&world{t: t, metrics: reg}).metric(name)
}

// Which gateway has a stream is found out, if no callback says it.
func TestCarrierFindsGateway(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	a.unknown = true
	c, _, _ := carry(t, nil, a.url, b.url)
	for name, want := range map[string]int{"1": 1, "2": 2, a.url + "/": 1, b.url: 2, "": 0, "3": 0, "x": 0} {
		if got := c.Gateway(name); got != want {
			t.Errorf("gateway %q is number %d, want %d", name, got, want)
		}
	}
	s, _ := begin(t, c, "token-1", 0)
	s.Out().Offer(event(1))
	s.Out().Offer(event(2))
	eventually(t, "the events", func() bool { return b.got(`"data":"1"`) && b.got(`"data":"2"`) })
	if a.got(`"data":"2"`) {
		t.Error("the second event went to the wrong one, too")
	}
}

// A gateway that was started anew has none of the streams that it had, however young
// they are and however it answers; and whose a stream is can be told by the instance.
func TestCarrierNewInstanceD17(t *testing.T) {
	a, b := newMoody(t), newMoody(t)
	is := func(m *moody, instance string) { m.mu.Lock(); m.instance = instance; m.mu.Unlock() }
	is(a, "first")
	is(b, "other")
	c, _, _ := carry(t, nil, a.url, b.url)
	of := func(token string, number int, instance string) *owner {
		own := newOwner()
		if err := c.New(token, token, number, http.Header{"Sse-Gateway-Instance": {instance}}).Begin(own); err != nil {
			t.Fatal(err)
		}
		return own
	}
	first, other, found, silent, second := of("1", 1, "first"), of("3", 2, "other"), of("4", 0, "first"), of("5", 1, ""), of("2", 1, "second")
	// It is not there, as far as can be seen; should it be, it is told.
	if err := second.end(t); !errors.Is(err, gateway.ErrGone) {
		t.Error(err)
	}
	eventually(t, "the closing", func() bool { return a.got(`{"token":"2","close":true}`) })
	is(a, "second")
	for _, own := range []*owner{first, found} {
		if err := own.end(t); !errors.Is(err, gateway.ErrGone) {
			t.Error(err)
		}
	}
	if len(other.ended)+len(silent.ended) > 0 || len(c.Outboxes()) != 2 {
		t.Error("streams of another gateway, or of one that says nothing, ended")
	}
}

// What a killed process left open the next one closes; what ended it does not.
func TestCarrierMemory(t *testing.T) {
	a := newMoody(t)
	file := filepath.Join(t.TempDir(), "streams")
	with := func(o *gateway.CarrierOptions) { o.Memory = file }
	killed, err := gateway.NewCarrier(gateway.CarrierOptions{URLs: []string{a.url}, Memory: file, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	begin(t, killed, "left", 1)
	_, own := begin(t, killed, "ended", 1)
	killed.Disconnected("ended")
	if err := own.end(t); err != nil {
		t.Error(err)
	}
	_, _, stop := carry(t, with, a.url)
	eventually(t, "the closing", func() bool { return a.got(`{"token":"left","close":true}`) })
	stop()
	if a.got("ended") {
		t.Error("a stream that had ended was closed again")
	}
	b := newMoody(t)
	_, _, stop = carry(t, with, b.url)
	time.Sleep(50 * time.Millisecond)
	stop()
	if b.got("left") {
		t.Error("it was closed again")
	}
}

// When the backend ends, its streams are closed at the gateway.
func TestCarrierShutdown(t *testing.T) {
	e := join(t, run(t, nil), nil)
	c, s, own := e.stream("r")
	go func() { s.End(sse.Retry(time.Second)) }() // as the registry does
	e.stop()
	if err := own.end(t); err != nil {
		t.Error(err)
	}
	if got := c.rest(); got != "" {
		t.Errorf("%q", got)
	}
	if err := e.carrier.New("t", "t", 1, nil).Begin(newOwner()); !errors.Is(err, sse.ErrClosed) {
		t.Error(err)
	}
}
