package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/rabbitmqtest"
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
				ctx, cancel := context.WithTimeout(t.Context(), unroutedPause/2)
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
		for n := range 400 {
			c := connectionOf(server, fmt.Sprint("leaver-", n))
			c.mu.Lock()
			var both sync.WaitGroup
			both.Go(func() { _ = q.bind(c, fmt.Sprint("leaver-", n), []string{"k"}) })
			both.Go(func() { c.end() })
			time.Sleep(50 * time.Microsecond)
			c.mu.Unlock()
			both.Wait()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(q.bound) > 0 {
			t.Errorf("%d queues are still bound", len(q.bound))
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
