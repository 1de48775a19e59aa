package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
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
	begin := func(t *testing.T, prefix string, autoDelete bool, keys string) *world {
		t.Helper()
		w := run(t, func(o *gateway.Options) {
			queues, err := gateway.NewQueues(gateway.QueueOptions{URL: broker.URL(), Prefix: prefix, AutoDelete: autoDelete, TTL: time.Minute,
				Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
			if err != nil {
				t.Fatal(err)
			}
			o.Queues, o.Buffer, o.Heartbeat = queues, 1<<20, time.Hour
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

	t.Run("delivery", func(t *testing.T) {
		w := begin(t, "", false, `["broadcast","connection.r1"]`)
		c, token := w.open("/r1")
		publish(t, "sse.events", "broadcast", `{"event":"version","data":"{\"version\":1}"}`)
		c.want("data: {\"type\":\"version\",\"payload\":{\"version\":1}}\n\n")
		for _, bad := range []string{``, `{`, `[]`, `{"event":"x"}`, `{"data":1}`, `{"event":1,"data":"1"}`, `{"event":"x","data":"{"}`, `{"event":"rejected","data":""}`, `{"id":""}`, `{"id":1}`, `{"id":"a\nb"}`, `{"id":"1","event":"x"}`} {
			publish(t, "sse.events", "broadcast", bad)
		}
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
			if n, err := c.body.Read(b); n > 0 || err == nil {
				t.Error("the stream goes on")
			}
		}
		publish(t, "sse.events", "broadcast", `{"data":"x"}`)
		good.want("data: x\n\n")
		again, _ := w.open("/r5")
		again.conn.Close()
	})

	t.Run("a queue that is deleted", func(t *testing.T) {
		w := begin(t, "", false, `["broadcast"]`)
		w.open("/r6")
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
	})

	t.Run("a stopped reader leaves messages in the queue", func(t *testing.T) {
		w := begin(t, "", false, `["connection.r7"]`)
		c, _ := w.open("/r7")
		body := `{"data":"` + strings.Repeat("x", 1<<20) + `"}`
		for range 20 {
			publish(t, "sse.events", "connection.r7", body)
		}
		eventually(t, "messages that wait", func() bool { return queued(t, "sse.conn.r7") > 0 })
		c.want(strings.Repeat("data: "+strings.Repeat("x", 1<<20)+"\n\n", 20))
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

func TestQueuesURL(t *testing.T) {
	_, err := gateway.NewQueues(gateway.QueueOptions{URL: "http://user:geheim@host", Log: slog.Default(), Registerer: prometheus.NewRegistry()})
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}
