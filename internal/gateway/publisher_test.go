package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"signalbox/internal/rabbitmqtest"
	"signalbox/internal/sse"
)

// soon is how long these tests wait for what should take milliseconds.
const soon = 30 * time.Second

func publisherAt(t *testing.T, url, prefix string) (*Publisher, func()) {
	t.Helper()
	p, err := NewPublisher(PublisherOptions{URL: url, Prefix: prefix, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return p, stop
}

// nobody is an owner that does not mind.
type nobody struct{}

func (nobody) Beat()        {}
func (nobody) Closed(error) {}

func connected(t *testing.T, p *Publisher, want bool) {
	t.Helper()
	for end := time.Now().Add(2 * soon); p.Connected() != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("connected is not %v", want)
		}
	}
}

// One broker for all, since RabbitMQ takes its time to start.
func TestPublisher(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	// queue makes the queue of a request id as a gateway does, and reads it.
	queue := func(t *testing.T, exchange, name, key string) (*amqp.Channel, <-chan amqp.Delivery) {
		t.Helper()
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare(name, true, false, false, false, amqp.Table{"x-expires": int64(60_000)}); err != nil {
			t.Fatal(err)
		}
		if err := ch.QueueBind(name, key, exchange, false, nil); err != nil {
			t.Fatal(err)
		}
		all, err := ch.Consume(name, "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return ch, all
	}
	next := func(t *testing.T, all <-chan amqp.Delivery) string {
		t.Helper()
		select {
		case d := <-all:
			if d.DeliveryMode != amqp.Persistent || d.ContentType != "application/json" {
				t.Errorf("delivery mode %d, %s", d.DeliveryMode, d.ContentType)
			}
			return string(d.Body)
		case <-time.After(soon):
			t.Fatal("no message came")
			return ""
		}
	}
	event := func(n int) sentEvent { return sentEvent{Name: "n", Data: fmt.Sprint(n), ID: fmt.Sprint("e-", n)} }
	text := func(n int) string { return fmt.Sprintf(`{"event":"n","data":"%d","id":"e-%d"}`, n, n) }

	t.Run("order, and no more than its own", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		_, a := queue(t, "sse.events", "sse.conn.a", keyOf("a"))
		_, b := queue(t, "sse.events", "sse.conn.b", keyOf("b"))
		for n := range 100 {
			for _, id := range []string{"a", "b"} {
				if err := p.publish(t.Context(), nil, id, event(n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for n := range 100 {
			if x, y := next(t, a), next(t, b); x != text(n) || y != text(n) {
				t.Fatalf("%d: %s, %s", n, x, y)
			}
		}
	})

	t.Run("before the queue is there", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "dev")
		connected(t, p, true)
		sent := make(chan error, 1)
		go func() { sent <- p.publish(t.Context(), nil, "late", event(1)) }()
		select {
		case err := <-sent:
			t.Fatal("it was sent to nobody: ", err)
		case <-time.After(3 * unroutedPause):
		}
		_, all := queue(t, "dev.sse.events", "dev.sse.conn.late", "connection.late")
		if got := next(t, all); got != text(1) {
			t.Error(got)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*unroutedPause)
		defer cancel()
		if err := p.publish(ctx, nil, "never", event(1)); err == nil {
			t.Error("it was sent to nobody")
		}
		if n := len(p.now.returned); n != 0 {
			t.Errorf("%d messages are still waited for", n)
		}
	})

	// D2: what the old stream of an id still had is not sent to the one that follows it.
	t.Run("a stream that was replaced", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		c, err := NewCarrier(CarrierOptions{URLs: []string{"http://127.0.0.1:1"}, Publisher: p, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		old := c.New("old", "r", 1, nil)
		for n := range 5 {
			old.Out().Offer(sse.Event("n", fmt.Sprint("e-", n), fmt.Append(nil, n)))
		}
		if err := old.Begin(nobody{}); err != nil { // there is no queue yet: it tries again and again
			t.Fatal(err)
		}
		for old.Out().Bytes() > 0 {
			time.Sleep(time.Millisecond)
		}
		if err := c.Silence(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		_, all := queue(t, "sse.events", "sse.conn.r", "connection.r")
		next7 := c.New("new", "r", 1, nil)
		next7.Out().Offer(sse.Event("n", "e-7", []byte("7")))
		if err := next7.Begin(nobody{}); err != nil {
			t.Fatal(err)
		}
		if got := next(t, all); got != text(7) {
			t.Errorf("the first event is %s", got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Run(ended, 0); err != nil {
			t.Error(err)
		}
	})

	t.Run("forgetting", func(t *testing.T) {
		p, _ := publisherAt(t, broker.URL(), "old")
		connected(t, p, true)
		for _, name := range []string{"old.sse.conn.f", "sse.conn.f"} {
			ch, err := broker.Dial().Channel()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
			if err := p.Forget(t.Context(), "f"); err != nil {
				t.Fatal(err)
			}
			if _, err := ch.QueueDeclarePassive(name, true, false, false, false, nil); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
		for range 2 * removalsAtOnce { // each costs a channel
			if err := p.Forget(t.Context(), "never-there"); err != nil {
				t.Error(err)
			}
		}

		// There is one name without a prefix, and its queue will be wanted: it stays,
		// without what was in it, unless it is read.
		p, _ = publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		ch, all := queue(t, "sse.events", "sse.conn.g", "connection.g")
		if err := p.Forget(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		if d, ok := <-all; ok {
			t.Errorf("it is read still: %s", d.Body)
		}
		if _, err := ch.QueueDeclarePassive("sse.conn.g", true, false, false, false, nil); err == nil {
			t.Error("the queue that was read is still there")
		}
		ch, _ = queue(t, "sse.events", "sse.conn.g", "connection.g")
		if err := ch.Close(); err != nil {
			t.Fatal(err)
		}
		if err := p.publish(t.Context(), nil, "g", event(1)); err != nil {
			t.Fatal(err)
		}
		if err := p.Forget(t.Context(), "g"); err != nil {
			t.Fatal(err)
		}
		if err := p.publish(t.Context(), nil, "g", event(2)); err != nil {
			t.Fatal(err)
		}
		_, all = queue(t, "sse.events", "sse.conn.g", "connection.g")
		if got := next(t, all); got != text(2) {
			t.Errorf("the first is %s", got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Forget(ended, "f"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})

	t.Run("a RabbitMQ that reads no more", func(t *testing.T) {
		dam := newDam(t, broker.Addr)
		p, _ := publisherAt(t, "amqp://guest:guest@"+dam.addr+"/", "")
		connected(t, p, true)
		queue(t, "sse.events", "sse.conn.d", "connection.d")
		dam.shut.Store(true)
		start := time.Now()
		big := sentEvent{Name: "n", Data: strings.Repeat("x", 32<<20)} // more than sockets hold
		if err := p.publish(t.Context(), nil, "d", big); err == nil {
			t.Error("it was published")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = p.Forget(ctx, "d") // whatever it says, it says it soon
		if took := time.Since(start); took > 2*soon {
			t.Errorf("that took %v", took)
		}
	})

	t.Run("a kill", func(t *testing.T) {
		p, stop := publisherAt(t, broker.URL(), "")
		connected(t, p, true)
		_, all := queue(t, "sse.events", "sse.conn.k", "connection.k")
		if err := p.publish(t.Context(), nil, "k", event(1)); err != nil {
			t.Fatal(err)
		}
		next(t, all)
		broker.Kill()
		connected(t, p, false)
		if err := p.Forget(t.Context(), "k"); err == nil {
			t.Error("it forgot without a connection")
		}
		sent := make(chan error, 1)
		go func() { sent <- p.publish(t.Context(), nil, "k", event(2)) }() // waits
		down := time.Now()
		broker.Restart()
		connected(t, p, true)
		if err := <-sent; err != nil && time.Since(down) < patienceForBroker {
			t.Error(err)
		} else if err == nil {
			_, all = queue(t, "sse.events", "sse.conn.k", "connection.k")
			if got := next(t, all); got != text(2) {
				t.Error(got)
			}
		}
		stop()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := p.publish(ctx, nil, "k", event(3)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// dam is in front of a server, and lets nothing more through when it is shut.
type dam struct {
	addr string
	shut atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

// cut ends the connections that there are.
func (d *dam) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

func newDam(t *testing.T, to string) *dam {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dam{addr: l.Addr().String()}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(done)
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			d.mu.Lock()
			d.conns = append(d.conns, in, out)
			d.mu.Unlock()
			go func() { _, _ = io.Copy(in, out) }()
			go func() {
				b := make([]byte, 4096)
				for {
					n, err := in.Read(b)
					if err != nil {
						out.Close()
						return
					}
					if d.shut.Load() {
						<-ended
						return
					}
					if _, err := out.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	t.Cleanup(func() {
		close(ended)
		l.Close()
		<-done
		d.cut()
	})
	return d
}

// A URL that is none says nothing of the password that it holds.
func TestPublisherURL(t *testing.T) {
	_, err := NewPublisher(PublisherOptions{URL: "http://user:geheim@host", Log: slog.Default()})
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}
