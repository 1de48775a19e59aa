package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/rabbitmqtest"
	"signalbox/internal/sse"
)

// queuesAt returns Queues that nobody runs, and a server that they belong to.
func queuesAt(t *testing.T, url string) (*Queues, *Server) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	q, err := NewQueues(QueueOptions{URL: url, TTL: time.Minute, Log: log, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{CallbackURL: "http://127.0.0.1:1", Queues: q, Log: log, Registerer: prometheus.NewRegistry()})
	t.Cleanup(func() { s.backend.close(); s.all.Wait() })
	return q, s
}

// One broker for all, since RabbitMQ takes its time to start.
func TestBrokerFaults(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	connectionOf := func(s *Server, token string) *connection {
		return &connection{server: s, token: token, request: []byte("{}"), stream: s.streams.New(), open: true}
	}

	// Several streams that are being set up when the connection is lost fail, each
	// by itself.
	t.Run("a connection that is lost while queues are set up", func(t *testing.T) {
		q, server := queuesAt(t, broker.URL())
		s, err := q.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		_ = s.conn.Close()
		for n := range 3 {
			b := &binding{queues: q, connection: connectionOf(server, fmt.Sprint("t", n)), queue: fmt.Sprint("sse.conn.lost", n)}
			if started, err := s.consume(b); started || err == nil {
				t.Error(started, err)
			}
		}
	})

	// Whose request id is a pattern of keys gets nobody else's events.
	t.Run("request ids that are patterns", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "pattern")
		connected(t, p, true)
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"#", "*", "#.#", "*.b", "a.#", "a*"} {
			keys, err := p.Bindings(id)
			if err != nil {
				if fleet.KindOf(err) != fleet.Invalid || keys != nil {
					t.Error(id, keys, err)
				}
				continue
			}
			queue, err := ch.QueueDeclare("", false, true, true, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				if err := ch.QueueBind(queue.Name, key, "pattern.sse.events", false, nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, other := range []string{"a", "a.b"} {
				ctx, cancel := context.WithTimeout(t.Context(), unroutedPause)
				if err := p.publish(ctx, nil, other, sentEvent{Name: "n", Data: "1"}); err == nil {
					t.Errorf("%s got an event of %s", id, other)
				}
				cancel()
			}
			if _, err := ch.QueueDelete(queue.Name, false, false, false); err != nil {
				t.Fatal(err)
			}
		}
	})

	// A connection that ends while its queue is being set up leaves nothing.
	t.Run("a client that leaves while its queue is set up", func(t *testing.T) {
		q, server := queuesAt(t, broker.URL())
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan struct{})
		go func() { defer close(done); q.run(ctx) }()
		defer func() { cancel(); <-done }()
		for end := time.Now().Add(soon); !q.connected(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no connection")
			}
		}
		for n := range 100 {
			c := connectionOf(server, fmt.Sprint("leaver-", n))
			q.mu.Lock()
			var bound sync.WaitGroup
			bound.Go(func() { _ = q.bind(c, fmt.Sprint("leaver-", n), []string{"k"}) })
			for has := false; !has; {
				c.mu.Lock()
				has = c.binding != nil
				c.mu.Unlock()
			}
			time.Sleep(100 * time.Microsecond) // it waits for q.mu now, which most often who runs gets before it
			q.mu.Unlock()
			c.end()
			bound.Wait()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(q.bound) > 0 {
			t.Errorf("%d queues are still bound", len(q.bound))
		}
	})

	// What a reader had not taken goes to the one that follows it, in order.
	t.Run("a slow reader that is replaced", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		g := newGatewayAt(t, broker.URL(), 100_000)
		old, _ := g.open("slow")
		if got := data(t, old); got != "ready" {
			t.Fatal(got)
		}
		const messages = 60
		for n := range messages {
			if err := p.publish(t.Context(), nil, "slow", sentEvent{Data: fmt.Sprint(n, " ", strings.Repeat("x", 300_000))}); err != nil {
				t.Fatal(err)
			}
		}
		next, _ := g.open("slow")
		last := -1
		for last < messages-1 {
			text := data(t, next)
			if text == "ready" {
				continue
			}
			var n int
			if _, err := fmt.Sscan(text, &n); err != nil {
				t.Fatal(err)
			}
			if last >= 0 && n != last+1 {
				t.Fatalf("%d follows %d", n, last)
			}
			last = n
		}
		if reason := <-g.reasons; reason != "error" {
			t.Error(reason)
		}
	})

	// What RabbitMQ delivers again because the ack of it was lost is written once.
	t.Run("acks that are lost", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		dam := newDam(t, broker.Addr)
		g := newGatewayAt(t, "amqp://guest:guest@"+dam.addr+"/", 1<<20)
		lines, _ := g.open("acks")
		if got := data(t, lines); got != "ready" {
			t.Fatal(got)
		}
		dam.shut.Store(true)
		for n := range 5 {
			if err := p.publish(t.Context(), nil, "acks", sentEvent{Data: fmt.Sprint(n)}); err != nil {
				t.Fatal(err)
			}
			if got := data(t, lines); got != fmt.Sprint(n) {
				t.Fatal(got)
			}
		}
		dam.shut.Store(false)
		dam.cut()
		if got := data(t, lines); got != "ready" {
			t.Fatalf("%s was written again", got)
		}
		if err := p.publish(t.Context(), nil, "acks", sentEvent{Data: "5"}); err != nil {
			t.Fatal(err)
		}
		if got := data(t, lines); got != "5" {
			t.Fatalf("%s was written again", got)
		}
	})

	// A RabbitMQ that hangs does not keep the backend from being told of a shutdown.
	t.Run("a shutdown before a RabbitMQ that hangs", func(t *testing.T) {
		dam := newDam(t, broker.Addr)
		g := newGatewayAt(t, "amqp://guest:guest@"+dam.addr+"/", 1<<20)
		lines, _ := g.open("hang")
		if got := data(t, lines); got != "ready" {
			t.Fatal(got)
		}
		dam.shut.Store(true)
		start := time.Now()
		g.stop()
		if took := time.Since(start); took > 4*brokerTimeout { // it writes heartbeats for longer than that
			t.Errorf("it took %v", took)
		}
		select {
		case reason := <-g.reasons:
			if reason != "server_closed" {
				t.Error(reason)
			}
		default:
			t.Error("the backend was not told")
		}
	})

	// The reason why a stream is over comes with its end, which would overtake it on
	// the way through a queue.
	t.Run("an expulsion", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		bodies := make(chan string, 100)
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if body, _ := io.ReadAll(r.Body); len(body) > 0 {
				bodies <- string(body)
			}
		}))
		defer server.Close()
		c, err := NewCarrier(CarrierOptions{URLs: []string{server.URL}, Publisher: p, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := contextOf(t)
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Run(ctx, time.Second) }()
		defer func() { cancel(); <-done }()
		var mu sync.Mutex
		own := locked{&mu, make(chan struct{})}
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("expelled", false, true, true, false, nil); err != nil {
			t.Fatal(err)
		}
		if err := ch.QueueBind("expelled", keyOf("expelled"), "sse.events", false, nil); err != nil {
			t.Fatal(err)
		}
		s := c.New("token", "expelled", 1, nil)
		if err := s.Begin(own); err != nil {
			t.Fatal(err)
		}
		s.Expel(sse.Event("session-ended", "", []byte(`{"reason":"expired"}`)))
		select {
		case <-own.ended:
		case <-time.After(soon):
			t.Fatal("it did not end")
		}
		if got := <-bodies; got != `{"token":"token","event":{"name":"session-ended","data":"{\"reason\":\"expired\"}"},"close":true}` {
			t.Error(got)
		}
	})

	// A thousand clients that come back at the same moment are all let in.
	t.Run("many at once", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		var all sync.WaitGroup
		errs := make(chan error, 3000)
		for n := range 3000 {
			all.Go(func() {
				if err := p.Forget(t.Context(), fmt.Sprint("many-", n)); err != nil {
					errs <- err
				}
			})
		}
		all.Wait()
		if len(errs) > 0 {
			t.Errorf("%d of 3000 failed: %v", len(errs), <-errs)
		}
	})
}

// gatewayAt runs a gateway behind which every stream has the queue of its path.
type gatewayAt struct {
	t       *testing.T
	url     string
	reasons chan string // of the disconnects
	stop    func()
}

func newGatewayAt(t *testing.T, broker string, buffer int) *gatewayAt {
	t.Helper()
	g := &gatewayAt{t: t, reasons: make(chan string, 100)}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c struct {
			Action, Reason string
			Request        struct{ URL string }
		}
		_ = json.NewDecoder(r.Body).Decode(&c) // of our own gateway
		if c.Action == "disconnect" {
			g.reasons <- c.Reason
		}
		id := strings.TrimPrefix(c.Request.URL, "/")
		_ = json.NewEncoder(w).Encode(map[string]any{"request_id": id, "bindings": []string{keyOf(id)}}) // the gateway may be gone
	}))
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	q, err := NewQueues(QueueOptions{URL: broker, TTL: time.Minute, Log: log, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{CallbackURL: backend.URL, Queues: q, Buffer: buffer, Heartbeat: time.Hour, WriteTimeout: 5 * time.Minute, Log: log, Registerer: prometheus.NewRegistry()})
	front := httptest.NewServer(s)
	g.url = front.URL
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	g.stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		g.stop()
		front.Close()
		backend.Close()
	})
	for end := time.Now().Add(soon); !q.connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no connection")
		}
	}
	return g
}

// open opens a stream and returns what is read of it, line by line.
func (g *gatewayAt) open(id string) (lines *bufio.Scanner, leave func()) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*soon)
	g.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+"/"+id, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	a, err := transport.RoundTrip(r)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { a.Body.Close() })
	lines = bufio.NewScanner(a.Body)
	lines.Buffer(nil, 1<<20)
	return lines, cancel
}

// data returns the next data line that is not empty, or the name of an event.
func data(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			return text
		}
		if text, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			return text
		}
	}
	t.Fatal("the stream ended: ", lines.Err())
	return ""
}
