package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"signalbox/internal/gateway"
	"signalbox/internal/rabbitmqtest"
)

// One broker for all, since RabbitMQ takes its time to start.
func TestQueues(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	// begin runs a gateway whose backend gives everybody the queue that the
	// path names, bound to keys.
	begin := func(t *testing.T, prefix string, autoDelete bool, keys string, change ...func(*gateway.Options, *gateway.QueueOptions)) *world {
		t.Helper()
		w := run(t, func(o *gateway.Options) {
			o.Buffer, o.Heartbeat = 1<<20, time.Hour
			q := gateway.QueueOptions{URL: broker.URL(), Prefix: prefix, AutoDelete: autoDelete, TTL: time.Minute, Log: o.Log, Registerer: o.Registerer}
			for _, f := range change {
				f(o, &q)
			}
			queues, err := gateway.NewQueues(q)
			if err != nil {
				t.Fatal(err)
			}
			o.Queues = queues
		})
		w.backend.does(func(a http.ResponseWriter, c callback) {
			fmt.Fprintf(a, `{"request_id":%q,"bindings":%s}`, strings.TrimPrefix(c.Request.URL, "/"), keys)
		})
		eventually(t, "readiness", func() bool { return w.do("GET", "/readyz", "").status == 200 })
		if a := w.do("GET", "/readyz", ""); a.body != `{"status":"ready","configured":true,"rabbitmq":"connected"}` {
			t.Error(a.body)
		}
		return w
	}
	publish := func(t *testing.T, exchange, key, body string) {
		t.Helper()
		conn, err := amqp.Dial(broker.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		sent, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, key, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := sent.WaitContext(t.Context()); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	// queued returns how many messages wait in a queue, declared as it must be.
	queued := func(t *testing.T, queue string) int {
		t.Helper()
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		q, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-expires": int64(60_000)})
		if err != nil {
			t.Fatal(err)
		}
		return q.Messages
	}
	const deliveries = "gateway_rabbitmq_deliveries_total"

	t.Run("delivery", func(t *testing.T) {
		w := begin(t, "", false, `["broadcast","connection.r1"]`)
		c, token := w.open("/r1")
		publish(t, "sse.events", "broadcast", `{"event":"version","data":"{\"version\":1}"}`)
		c.want("data: {\"type\":\"version\",\"payload\":{\"version\":1}}\n\n")
		bad := []string{``, `{`, `[]`, `{"event":"x"}`, `{"data":1}`, `{"event":1,"data":"1"}`, `{"event":"x","data":"{"}`, `{"event":"rejected","data":""}`, `{"id":""}`, `{"id":1}`, `{"id":"a\nb"}`, `{"id":"1","event":"x"}`}
		for _, body := range bad {
			publish(t, "sse.events", "broadcast", body)
		}
		eventually(t, "each is looked at once", func() bool { return w.metric(deliveries, "invalid") == float64(len(bad)) })
		publish(t, "sse.events", "subject.other", `{"data":"not for us"}`)
		publish(t, "sse.events", "connection.r1", `{"data":"one\ntwo"}`)
		c.want("data: one\ndata: two\n\n")
		publish(t, "sse.events", "connection.r1", `{"event":"n","data":"1","id":"7"}`)
		c.want("id: 7\ndata: {\"type\":\"n\",\"payload\":1}\n\n")
		publish(t, "sse.events", "connection.r1", `{"id":"8"}`)
		c.want("id: 8\n\n")
		if got := w.send(`{"token":"` + token + `","event":{"data":"posted"}}`); got != `200 {"status":"ok"}` {
			t.Error(got)
		}
		c.want("data: posted\n\n")

		// What comes while nobody reads is there for the next of that id.
		c.conn.Close()
		if told := w.backend.next(); told.Reason != "client_closed" {
			t.Error(told.raw)
		}
		publish(t, "sse.events", "connection.r1", `{"data":"meanwhile"}`)
		c = w.dial("/r1").answered()
		both := make([]byte, len("event: ready\ndata:\n\ndata: meanwhile\n\n"))
		_ = c.conn.SetReadDeadline(time.Now().Add(patience))
		for n := 0; n < len(both); {
			m, err := c.body.Read(both[n:])
			if n += m; err != nil {
				t.Fatalf("%q %v", both[:n], err)
			}
		}
		if got := string(both); !strings.Contains(got, "data: meanwhile\n\n") || !strings.Contains(got, "event: ready\ndata:\n\n") {
			t.Errorf("%q", got)
		}
		eventually(t, "an empty queue", func() bool { return queued(t, "sse.conn.r1") == 0 })
		eventually(t, "each is taken once", func() bool { return w.metric(deliveries, "success") == 5 })
		if all := w.metric(deliveries); all != 5+float64(len(bad)) {
			t.Errorf("%v deliveries", all)
		}
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.ExchangeDeclare("sse.events", "topic", true, false, false, false, nil); err != nil {
			t.Error(err)
		}
	})

	t.Run("order of setting up", func(t *testing.T) {
		w := begin(t, "", false, `["broadcast"]`)
		answers := func(answer string) {
			w.backend.does(func(rw http.ResponseWriter, c callback) {
				if c.Action == "connect" {
					if got := w.send(`{"token":"` + c.Token + `","event":{"data":"before"}}`); got != `200 {"status":"buffered"}` {
						t.Error(got)
					}
				}
				_, _ = io.WriteString(rw, answer)
			})
		}
		answers(`{"request_id":"r20","bindings":["connection.r20"]}`)
		c := w.dial("/").answered()
		c.want("data: before\n\nevent: ready\ndata:\n\n")
		publish(t, "sse.events", "connection.r20", `{"data":"x"}`) // which fails if no queue takes it
		c.want("data: x\n\n")
		// Without both there is no queue, and nothing to wait for.
		for _, answer := range []string{"{}", `{"request_id":"r21"}`, `{"bindings":["broadcast"]}`, `{"request_id":"","bindings":["broadcast"]}`, `{"request_id":"r21","bindings":null}`, "["} {
			answers(answer)
			c := w.dial("/").answered()
			c.want("data: before\n\nevent: ready\ndata:\n\n")
			c.conn.Close()
		}
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclarePassive("sse.conn.r21", true, false, false, false, nil); err == nil {
			t.Error("there is a queue")
		}
	})

	t.Run("a failed write gives back what it had taken", func(t *testing.T) {
		w := begin(t, "", false, `["connection.r22"]`, func(o *gateway.Options, _ *gateway.QueueOptions) { o.Buffer, o.WriteTimeout = 64<<10, 2*time.Second })
		w.open("/r22") // and reads no more
		const all = 40
		line := func(n int) string { return fmt.Sprintf("%03d", n) + strings.Repeat("x", 1<<20) }
		for n := range all {
			publish(t, "sse.events", "connection.r22", `{"data":"`+line(n)+`"}`)
		}
		if told := w.backend.next(); told.Action != "disconnect" || told.Reason != "error" {
			t.Error(told.raw)
		}
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		taken := 0
		eventually(t, "the rest is in the queue, and nobody reads it", func() bool {
			q, err := ch.QueueDeclarePassive("sse.conn.r22", true, false, false, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			taken = int(w.metric(deliveries, "success"))
			return q.Consumers == 0 && q.Messages == all-taken
		})
		if taken == all {
			t.Fatal("all was taken")
		}
		c := w.dial("/r22").answered()
		got := strings.Replace(c.until("data: "+line(all-1)+"\n\n"), "event: ready\ndata:\n\n", "", 1)
		for n := taken; n < all; n++ {
			rest, ok := strings.CutPrefix(got, "data: "+line(n)+"\n\n")
			if !ok {
				t.Fatalf("of %d to %d, %d is not next", taken, all, n)
			}
			got = rest
		}
	})

	t.Run("a channel that is closed, and a queue that is not to be had again (D31)", func(t *testing.T) {
		door := newDoor(t, broker.Addr)
		w := begin(t, "", false, `["broadcast"]`, func(_ *gateway.Options, q *gateway.QueueOptions) { q.URL = "amqp://guest:guest@" + door.addr + "/" })
		good, _ := w.open("/r23")
		door.closeChannel()
		good.want("event: ready\ndata:\n\n")
		publish(t, "sse.events", "broadcast", `{"data":"x"}`)
		good.want("data: x\n\n")
		eventually(t, "the gateway closes the old connection", func() bool { return door.left.Load() == 1 })

		bad, token := w.open("/r24")
		door.shut(true)
		eventually(t, "unreadiness", func() bool { return w.do("GET", "/readyz", "").status == 503 })
		good.quiet()
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDelete("sse.conn.r24", false, false, false); err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("sse.conn.r24", true, false, false, false, nil); err != nil { // without x-expires
			t.Fatal(err)
		}
		door.shut(false)
		if told := w.backend.next(); told.Action != "disconnect" || told.Reason != "error" || told.Token != token {
			t.Error(told.raw)
		}
		if n, err := bad.body.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Error("the stream goes on")
		}
		good.want("event: ready\ndata:\n\n")
		publish(t, "sse.events", "broadcast", `{"data":"y"}`)
		good.want("data: y\n\n")
	})

	t.Run("a newer reader of the same queue gets all", func(t *testing.T) {
		w := begin(t, "", false, `["connection.r2"]`)
		old, _ := w.open("/r2")
		c, _ := w.open("/r2")
		eventually(t, "one consumer", func() bool {
			ch, err := broker.Dial().Channel()
			if err != nil {
				t.Fatal(err)
			}
			q, err := ch.QueueDeclarePassive("sse.conn.r2", true, false, false, false, amqp.Table{"x-expires": int64(60_000)})
			return err == nil && q.Consumers == 1
		})
		for range 20 {
			publish(t, "sse.events", "connection.r2", `{"data":"x"}`)
		}
		c.want(strings.Repeat("data: x\n\n", 20))
		_ = old.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, _ := old.body.Read(make([]byte, 1)); n > 0 {
			t.Error("the old reader got something")
		}
	})

	t.Run("prefix and auto-delete (D31)", func(t *testing.T) {
		w := begin(t, "dev", true, `["broadcast"]`)
		c, _ := w.open("/r3")
		publish(t, "dev.sse.events", "broadcast", `{"data":"x"}`)
		c.want("data: x\n\n")
		if n := queued(t, "dev.sse.conn.r3"); n != 0 {
			t.Error(n)
		}
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.ExchangeDeclare("dev.sse.events", "topic", false, true, false, false, nil); err != nil {
			t.Error(err)
		}
	})

	t.Run("a queue that cannot be had", func(t *testing.T) {
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDeclare("sse.conn.taken", true, false, false, false, nil); err != nil { // without x-expires
			t.Fatal(err)
		}
		w := begin(t, "", false, `["broadcast"]`)
		good, _ := w.open("/r4")
		c := w.dial("/taken").answered()
		connect, told := w.backend.next(), w.backend.next()
		if connect.Action != "connect" || told.Action != "disconnect" || told.Reason != "error" {
			t.Error(told.raw)
		}
		if b := make([]byte, 1); true {
			if n, err := c.body.Read(b); n > 0 || !errors.Is(err, io.EOF) { // its answer is whole
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		publish(t, "sse.events", "broadcast", `{"data":"x"}`)
		good.want("data: x\n\n")
		again, _ := w.open("/r5")
		again.conn.Close()
	})

	t.Run("a queue that is deleted", func(t *testing.T) {
		w := begin(t, "", false, `["broadcast"]`)
		c, _ := w.open("/r6")
		ch, err := broker.Dial().Channel()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ch.QueueDelete("sse.conn.r6", false, false, false); err != nil {
			t.Fatal(err)
		}
		if told := w.backend.next(); told.Reason != "error" {
			t.Error(told.raw)
		}
		if n, err := c.body.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Error("the stream goes on")
		}
	})

	t.Run("a stopped reader leaves messages in the queue", func(t *testing.T) {
		w := begin(t, "", false, `["connection.r7"]`, func(o *gateway.Options, _ *gateway.QueueOptions) { o.WriteTimeout = time.Minute })
		c, _ := w.open("/r7")
		body := `{"data":"` + strings.Repeat("x", 1<<20) + `"}`
		for range 40 {
			publish(t, "sse.events", "connection.r7", body)
		}
		eventually(t, "ten are under way, and the rest waits", func() bool {
			wait := queued(t, "sse.conn.r7")
			return wait > 0 && 40-wait-int(w.metric(deliveries, "success")) == 10
		})
		c.want(strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n\n", 40))
	})

	t.Run("restart of the broker (D31)", func(t *testing.T) {
		w := begin(t, "", false, `["connection.r8"]`)
		c, _ := w.open("/r8")
		broker.Kill()
		eventually(t, "unreadiness", func() bool { return w.do("GET", "/readyz", "").status == 503 })
		if a := w.do("GET", "/readyz", ""); a.body != `{"status":"not_ready","configured":true,"rabbitmq":"disconnected","reasons":["RabbitMQ not connected"]}` {
			t.Error(a.body)
		}
		if a := w.do("GET", "/x", ""); a.status != 503 || a.body != `{"error":{"message":"RabbitMQ unavailable","code":"RABBITMQ_UNAVAILABLE"}}` {
			t.Error(a.status, a.body)
		}
		broker.Restart()
		c.wantBy("event: ready\ndata:\n\n", time.Minute)
		publish(t, "sse.events", "connection.r8", `{"data":"x"}`)
		c.want("data: x\n\n")
	})
}

// door is in front of RabbitMQ: it can be shut, and speak in RabbitMQ's name.
type door struct {
	t    *testing.T
	addr string
	left atomic.Int32 // connections that the client closed

	mu     sync.Mutex
	closed bool
	ways   map[*way]struct{}
}

// way is one connection through a door.
type way struct {
	in, out net.Conn // to the client, to RabbitMQ
	deaf    bool     // RabbitMQ hears nothing more of the client
}

func newDoor(t *testing.T, to string) *door {
	l := listen(t)
	d := &door{t: t, addr: l.Addr().String(), ways: map[*way]struct{}{}}
	var all sync.WaitGroup
	all.Go(func() {
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
			w := &way{in: in, out: out}
			d.mu.Lock()
			d.ways[w] = struct{}{}
			shut := d.closed
			d.mu.Unlock()
			if shut {
				d.end(w)
				continue
			}
			all.Go(func() {
				d.pass(in, func(b []byte) {
					if !w.deaf {
						_, _ = out.Write(b) // who is gone shows when it is read from
					}
				})
				if d.end(w) {
					d.left.Add(1)
				}
			})
			all.Go(func() {
				d.pass(out, func(b []byte) { _, _ = in.Write(b) })
				d.end(w)
			})
		}
	})
	t.Cleanup(func() { d.shut(true); l.Close(); all.Wait() })
	return d
}

// pass reads until the connection ends.
func (d *door) pass(from net.Conn, write func([]byte)) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		d.mu.Lock()
		write(b[:n])
		d.mu.Unlock()
	}
}

// end ends a connection, and reports whether nobody did before.
func (d *door) end(w *way) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, first := d.ways[w]
	delete(d.ways, w)
	w.in.Close()
	w.out.Close()
	return first
}

// shut lets nobody in, and throws everybody out, until it is opened again.
func (d *door) shut(shut bool) {
	d.mu.Lock()
	d.closed = shut
	ways := slices.Collect(maps.Keys(d.ways))
	d.mu.Unlock()
	for _, w := range ways {
		if shut {
			d.end(w)
		}
	}
}

// closeChannel tells the client that RabbitMQ closes its first channel (AMQP 0-9-1,
// channel.close). RabbitMQ knows nothing of that, and leaves the connection open.
func (d *door) closeChannel() {
	d.t.Helper()
	payload := "\x00\x14\x00\x28" + "\x01\x96" + "\x04test" + "\x00\x00\x00\x00"
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.ways {
		w.deaf = true
		if _, err := io.WriteString(w.in, "\x01\x00\x01\x00\x00\x00"+string(rune(len(payload)))+payload+"\xce"); err != nil {
			d.t.Error(err)
		}
	}
}

// RabbitMQ is tried again after 1, 2 and 4 s.
func TestQueuesReconnect(t *testing.T) {
	t.Parallel()
	l := listen(t)
	defer l.Close()
	run(t, func(o *gateway.Options) {
		queues, err := gateway.NewQueues(gateway.QueueOptions{URL: "amqp://" + l.Addr().String() + "/", Log: o.Log, Registerer: o.Registerer})
		if err != nil {
			t.Fatal(err)
		}
		o.Queues = queues
	})
	var last time.Time
	for n, wait := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		now := time.Now()
		if took := now.Sub(last); n > 0 && (took < wait*9/10 || took > wait+patience) {
			t.Errorf("attempt %d came after %v", n, took)
		}
		last = now
	}
}

func TestQueuesURL(t *testing.T) {
	_, err := gateway.NewQueues(gateway.QueueOptions{URL: "http://user:geheim@host", Log: slog.Default(), Registerer: prometheus.NewRegistry()})
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}
