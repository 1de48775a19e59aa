package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/mosquittotest"
	"signalbox/internal/mqtt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds the wait for what must happen.
const patience = 20 * time.Second

// eventually waits for ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("timed out: %s", what)
		}
	}
}

// run runs s until the test ends, and collects its messages once it has its
// subscriptions.
func run(t *testing.T, s *mqtt.Source, reg *prometheus.Registry) <-chan logs.Message {
	t.Helper()
	got := make(chan logs.Message, 10_000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx, func(m logs.Message) { got <- m }); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); _ = s.Close() })
	if reg != nil {
		eventually(t, "no subscriptions", func() bool { return value(t, reg, "iot_mqtt_subscriptions_total") == 2 })
	}
	return got
}

// value returns the sum of a metric's values.
func value(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func next(t *testing.T, got <-chan logs.Message) logs.Message {
	t.Helper()
	select {
	case m := <-got:
		return m
	case <-time.After(patience):
		t.Fatal("no message arrived")
		panic("unreachable")
	}
}

func quiet(t *testing.T, got <-chan logs.Message) {
	t.Helper()
	select {
	case m := <-got:
		t.Errorf("a message too many: %.40q, dup %v", m.Payload, m.Dup)
	case <-time.After(200 * time.Millisecond):
	}
}

// device connects a publisher that speaks MQTT 3.1.1 until the test ends.
func device(t *testing.T, addr string) paho.Client {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + addr).SetClientID("device").SetAutoReconnect(false))
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func wait(t *testing.T, tok paho.Token) {
	t.Helper()
	if !tok.WaitTimeout(patience) {
		t.Fatal("no answer from the broker")
	}
	if err := tok.Error(); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, c paho.Client, from, to int) {
	t.Helper()
	var last paho.Token
	for n := from; n < to; n++ {
		last = c.Publish(topic, 1, false, fmt.Sprint(n))
	}
	wait(t, last)
}

// versions runs f with a broker of each protocol version behind a proxy.
func versions(t *testing.T, o mosquittotest.Options, f func(t *testing.T, b *mosquittotest.Broker, x *proxy)) {
	for name, p := range map[string]policy{"MQTT 5": forward, "MQTT 3.1.1": refuse5} {
		t.Run(name, func(t *testing.T) {
			b := mosquittotest.Start(t, o)
			f(t, b, startProxy(t, b.Addr, p))
		})
	}
}

func TestKillRedeliversWhatWasNotAcknowledged(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		reg := prometheus.NewRegistry()
		killed := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg, ReceiveMaximum: 10})
		got := run(t, killed, reg)
		publish(t, device(t, b.Addr), 0, 20)
		for n := range 20 {
			m := next(t, got)
			if m.Dup {
				t.Errorf("message %d is marked as a duplicate", n)
			}
			if n < 10 || n == 15 { // 15 is safe too, but its turn has not come
				m.Done(nil)
			}
		}
		// An acknowledgement on its way when the connection breaks is lost.
		b.AwaitLog("Received PUBACK from signalbox-test (Mid: 10,")
		x.cut(true)

		reg = prometheus.NewRegistry()
		got = run(t, newSource(t, mqtt.Config{URL: b.URL(), Registry: reg}), reg)
		for n := 10; n < 20; n++ {
			m := next(t, got)
			if string(m.Payload) != fmt.Sprint(n) || !m.Dup {
				t.Errorf("got message %s, dup %v; want %d as a duplicate", m.Payload, m.Dup, n)
			}
			m.Done(nil)
		}
		quiet(t, got)
	})
}

func TestLostConnectionsRepeatNothing(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		const messages, cuts = 600, 6
		reg := prometheus.NewRegistry()
		got := run(t, newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg, ReceiveMaximum: 32}), reg)
		c := device(t, b.Addr)
		random := rand.New(rand.NewPCG(1, 2))
		var pending []logs.Message
		for n := range messages {
			if n%(messages/cuts) == 0 {
				x.cut(false)
				publish(t, c, n, n+messages/cuts)
			}
			m := next(t, got)
			if string(m.Payload) != fmt.Sprint(n) {
				t.Fatalf("got message %s, dup %v, want %d", m.Payload, m.Dup, n)
			}
			pending = append(pending, m)
			if len(pending) == 16 {
				random.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
				for _, m := range pending {
					m.Done(nil)
				}
				pending = nil
			}
		}
		for _, m := range pending {
			m.Done(nil)
		}
		quiet(t, got)
		if n := value(t, reg, "iot_mqtt_reconnects_total"); n < 1 {
			t.Errorf("%v reconnects, want some", n)
		}
	})
}

func TestRefusedMessageKeepsItsPlace(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var order []string
		failures := 3
		publish(t, device(t, b.Addr), 0, 0+1) // before the subscription: goes nowhere
		ready := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Run(ctx, func(m logs.Message) {
				if string(m.Payload) == "ready" {
					m.Done(nil)
					select {
					case <-ready:
					default:
						close(ready)
					}
					return
				}
				if string(m.Payload) == "4" && failures > 0 {
					failures--
					m.Done(errors.New("no room"))
					return
				}
				order = append(order, string(m.Payload))
				m.Done(nil)
				if string(m.Payload) == "9" {
					cancel()
				}
			})
		})
		c := device(t, b.Addr)
		eventually(t, "the source takes nothing", func() bool {
			c.Publish(topic, 0, false, "ready")
			select {
			case <-ready:
				return true
			default:
				return false
			}
		})
		publish(t, c, 0, 10)
		wg.Wait()
		if diff := cmp.Diff(strings.Split("0 1 2 3 4 5 6 7 8 9", " "), order); diff != "" || failures != 0 {
			t.Errorf("%d failures left; messages (-want +got):\n%s", failures, diff)
		}
	})
}

func TestBrokerRestart(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{Persistent: true})
	reg := prometheus.NewRegistry()
	s := newSource(t, mqtt.Config{URL: b.URL(), Registry: reg})
	got := run(t, s, reg)
	publish(t, device(t, b.Addr), 0, 10)
	var taken []logs.Message
	for range 10 {
		taken = append(taken, next(t, got))
	}
	b.Stop()
	eventually(t, "the loss goes unnoticed", func() bool { return !s.Connected() && value(t, reg, "iot_mqtt_connection_state") == 0 })
	for _, m := range taken[:5] {
		m.Done(nil) // there is nobody to tell
	}
	b.Restart()
	publish(t, device(t, b.Addr), 10, 20)
	for n := 10; n < 20; n++ {
		m := next(t, got)
		if string(m.Payload) != fmt.Sprint(n) {
			t.Errorf("got message %s, dup %v; want %d", m.Payload, m.Dup, n)
		}
		m.Done(nil)
	}
	for _, m := range taken[5:] {
		m.Done(nil)
	}
	quiet(t, got)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reg = prometheus.NewRegistry()
	quiet(t, run(t, newSource(t, mqtt.Config{URL: b.URL(), Registry: reg}), reg)) // everything was acknowledged in the end
}

func TestOversizeIsCutNotLost(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		reg := prometheus.NewRegistry()
		got := run(t, newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg}), reg)
		c := device(t, b.Addr)
		wait(t, c.Publish(topic+"/device", 1, false, bytes.Repeat([]byte("x"), 5*logs.MaxMessage)))
		publish(t, c, 1, 2)
		m := next(t, got)
		if len(m.Payload) != logs.MaxMessage+1 || m.ClientID != "device" {
			t.Errorf("got %d bytes of %q, want one byte over the bound", len(m.Payload), m.ClientID)
		}
		m.Done(nil)
		if m := next(t, got); string(m.Payload) != "1" {
			t.Errorf("the next message is %.20q", m.Payload)
		}
	})
}

func TestStalledConsumerKeepsTheConnection(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		reg := prometheus.NewRegistry()
		s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg, ReceiveMaximum: 32, KeepAlive: time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		stall, entered := make(chan struct{}), make(chan struct{})
		var once sync.Once
		got := make(chan logs.Message, 1000)
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Run(ctx, func(m logs.Message) {
				once.Do(func() { close(entered) })
				<-stall
				got <- m
			})
		})
		defer wg.Wait()
		defer cancel()
		eventually(t, "no subscriptions", func() bool { return value(t, reg, "iot_mqtt_subscriptions_total") == 2 })
		c := device(t, b.Addr)
		publish(t, c, 0, 200)
		<-entered
		<-time.After(3 * time.Second) // three times the keep-alive
		close(stall)
		for n := range 200 {
			m := next(t, got)
			if string(m.Payload) != fmt.Sprint(n) {
				t.Fatalf("got message %s, want %d", m.Payload, n)
			}
			m.Done(nil)
		}
		if n := value(t, reg, "iot_mqtt_reconnects_total"); n != 0 {
			t.Errorf("%v reconnects, want none", n)
		}
	})
}

func TestFallback(t *testing.T) {
	f := func(name string, p policy, refusals int32) {
		t.Run(name, func(t *testing.T) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			x := startProxy(t, b.Addr, p)
			reg := prometheus.NewRegistry()
			s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg})
			got := run(t, s, reg)
			publish(t, device(t, b.Addr), 0, 1)
			next(t, got).Done(nil)
			before := x.accepted.Load()
			x.cut(false)
			eventually(t, "it does not come back", func() bool { return x.accepted.Load() > before && s.Connected() })
			if n := x.refused.Load(); n != refusals {
				t.Errorf("MQTT 5 was tried %d times, want %d", n, refusals)
			}
		})
	}
	f("unacceptable protocol version", refuse5, 1)
	f("closed without an answer", hangup5, 2)
}

func TestTransports(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{TLS: true, WebSocket: true, Users: map[string]string{"u/1": "p@ss"}})
	_, tlsPort, _ := strings.Cut(b.TLS, ":")
	f := func(name string, cfg mqtt.Config) {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			cfg.Registry, cfg.ClientID = reg, name
			s := newSource(t, cfg)
			got := run(t, s, reg)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			payload := strings.Repeat("x", 100_000)
			if err := s.Publish(ctx, topic, 1, false, []byte(payload)); err != nil {
				t.Fatal(err)
			}
			m := next(t, got)
			if string(m.Payload) != payload {
				t.Errorf("got %d bytes, want %d", len(m.Payload), len(payload))
			}
			m.Done(nil)
		})
	}
	f("mqtt", mqtt.Config{URL: b.URL(), Username: "u/1", Password: "p@ss"})
	f("credentials in the URL", mqtt.Config{URL: "tcp://u%2F1:p%40ss@" + b.Addr})
	f("mqtts", mqtt.Config{URL: "mqtts://u%2F1:p%40ss@" + b.TLS, CAFile: b.CAFile})
	f("mqtts by name", mqtt.Config{URL: "ssl://u%2F1:p%40ss@localhost:" + tlsPort, CAFile: b.CAFile})
	f("ws", mqtt.Config{URL: "ws://u%2F1:p%40ss@" + b.WS})
}

func TestRefusedConnectionsBackOff(t *testing.T) {
	b := mosquittotest.Start(t, mosquittotest.Options{TLS: true, Users: map[string]string{"u": "p"}})
	otherCA := filepath.Join(t.TempDir(), "ca.pem")
	ca, _, _ := mosquittotest.Certificates(t)
	if err := os.WriteFile(otherCA, []byte(ca), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(name, scheme, target string, cfg mqtt.Config) {
		t.Run(name, func(t *testing.T) {
			x := startProxy(t, target, forward)
			reg := prometheus.NewRegistry()
			cfg.URL, cfg.Registry = scheme+"://"+x.addr, reg
			cfg.BackoffMin, cfg.BackoffMax = 20*time.Millisecond, 80*time.Millisecond
			s := newSource(t, cfg)
			begun := time.Now()
			run(t, s, nil)
			eventually(t, "it gave up", func() bool { return value(t, reg, "iot_mqtt_reconnects_total") >= 5 })
			// Half of a pause is certain: 10, 20, 40, 40, 40 ms.
			if took := time.Since(begun); took < 150*time.Millisecond {
				t.Errorf("five reconnects took %s", took)
			}
			if s.Connected() || value(t, reg, "iot_mqtt_connection_state") != 0 {
				t.Error("it is connected")
			}
		})
	}
	f("wrong password", "mqtt", b.Addr, mqtt.Config{Username: "u", Password: "wrong"})
	f("no password", "mqtt", b.Addr, mqtt.Config{})
	f("wrong CA", "mqtts", b.TLS, mqtt.Config{CAFile: otherCA, Username: "u", Password: "p"})
	f("system CAs", "mqtts", b.TLS, mqtt.Config{Username: "u", Password: "p"})
}

// D46: who publishes right after the start waits for CONNACK and PUBACK, and does
// not lose the message to a connection that is not there yet.
func TestD46PublishWaitsForTheBroker(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		c := device(t, b.Addr)
		got := make(chan string, 10)
		wait(t, c.Subscribe("iotsupport/updates/#", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
		x.cut(true) // the broker is not there yet
		s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr})
		sent := make(chan error, 1)
		go func() { sent <- s.Publish(t.Context(), "iotsupport/updates/provisioning", 1, false, []byte("told")) }()
		select {
		case err := <-sent:
			t.Fatalf("published to nobody: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		x.cut(false)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		// It was acknowledged; the process may end now.
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		select {
		case m := <-got:
			if m != "told" {
				t.Errorf("got %q", m)
			}
		case <-time.After(patience):
			t.Fatal("the device was not told")
		}
	})
}

func TestPublish(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		reg := prometheus.NewRegistry()
		s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, Registry: reg})
		c := device(t, b.Addr)
		got := make(chan string, 10)
		wait(t, c.Subscribe("iotsupport/updates/#", 1, func(_ paho.Client, m paho.Message) { got <- m.Topic() + " " + string(m.Payload()) }))

		f := func(topic string, qos byte, want fleet.Kind) {
			t.Helper()
			if err := s.Publish(t.Context(), topic, qos, false, nil); fleet.KindOf(err) != want || err == nil {
				t.Errorf("Publish to %q with QoS %d: %v, want kind %v", topic, qos, err, want)
			}
		}
		f("", 1, fleet.Invalid)
		f("a/+", 1, fleet.Invalid)
		f("a/#", 1, fleet.Invalid)
		f("a", 2, fleet.Invalid)

		// It needs no Run, and waits for the broker.
		x.cut(true)
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s.Publish(short, "iotsupport/updates/config", 1, false, []byte("never")); fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("without a broker: %v, want Unavailable", err)
		}
		sent := make(chan error, 1)
		go func() { sent <- s.Publish(t.Context(), "iotsupport/updates/config", 1, false, []byte("c")) }()
		x.cut(false)
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if err := s.Publish(t.Context(), "iotsupport/updates/device-7", 0, false, []byte("d")); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"iotsupport/updates/config c", "iotsupport/updates/device-7 d"} {
			select {
			case g := <-got:
				if g != want {
					t.Errorf("a subscriber got %q, want %q", g, want)
				}
			case <-time.After(patience):
				t.Fatalf("a subscriber did not get %q", want)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Publish(t.Context(), "a", 1, false, nil); fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("after Close: %v, want Unavailable", err)
		}
	})
}

// Connections break under those who publish: they find the next one at once, and
// no library holds them until a time-out of its own.
func TestPublishOverBreaks(t *testing.T) {
	versions(t, mosquittotest.Options{}, func(t *testing.T, b *mosquittotest.Broker, x *proxy) {
		s := newSource(t, mqtt.Config{URL: "mqtt://" + x.addr, ConnectTimeout: time.Minute})
		c := device(t, b.Addr)
		got := make(chan string, 10000)
		wait(t, c.Subscribe("iotsupport/updates/config", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
		for round := range 20 {
			missing := map[string]bool{}
			var all sync.WaitGroup
			for n := range 50 {
				text := fmt.Sprint(round, " ", n)
				missing[text] = true
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
					defer cancel()
					if err := s.Publish(ctx, "iotsupport/updates/config", 1, false, []byte(text)); err != nil {
						t.Error(text, err)
					}
				})
			}
			x.cut(false)
			all.Wait()
			for len(missing) > 0 {
				select {
				case m := <-got: // perhaps a second time
					delete(missing, m)
				case <-time.After(patience):
					t.Fatalf("%d messages were lost", len(missing))
				}
			}
		}
	})
}

func TestNewRefuses(t *testing.T) {
	f := func(cfg mqtt.Config, want string) {
		t.Helper()
		if cfg.Topic == "" {
			cfg.Topic = topic
		}
		_, err := mqtt.New(cfg)
		if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%q, topic %q: got %v, want Invalid with %q", cfg.URL, cfg.Topic, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(mqtt.Config{}, "scheme")
	f(mqtt.Config{URL: "broker:1883"}, "scheme")
	f(mqtt.Config{URL: "http://u:secret@h"}, "scheme")
	f(mqtt.Config{URL: "mqtt://u:secret@"}, "host")
	f(mqtt.Config{URL: "mqtt://u:secret%zz@h"}, "parsed")
	f(mqtt.Config{URL: "mqtt://u:secret@h:port"}, "parsed")
	f(mqtt.Config{URL: "mqtt://h:0"}, "port")
	f(mqtt.Config{URL: "mqtt://h:65536"}, "port")
	f(mqtt.Config{URL: "mqtt://h/path"}, "path")
	f(mqtt.Config{URL: "ws://h/path#x"}, "fragment")
	f(mqtt.Config{URL: "mqtt://h", CAFile: notPEM}, "TLS")
	f(mqtt.Config{URL: "mqtts://h", CAFile: notPEM}, "certificate")
	f(mqtt.Config{URL: "mqtts://h", CAFile: notPEM + "x"}, "read")
	f(mqtt.Config{URL: "mqtt://h", Password: "secret"}, "username")
	f(mqtt.Config{URL: "mqtt://h", Topic: "a/+"}, "topic")
	f(mqtt.Config{URL: "mqtt://h", Topic: "a/"}, "topic")
	f(mqtt.Config{URL: "mqtt://h", SessionExpiry: time.Millisecond}, "expiry")
	f(mqtt.Config{URL: "mqtt://h", KeepAlive: 100 * time.Hour}, "keep-alive")
	f(mqtt.Config{URL: "mqtt://h", BackoffMin: time.Hour, BackoffMax: time.Second}, "order")
}
