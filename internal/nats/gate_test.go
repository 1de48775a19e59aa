package nats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/porttest"
)

// patience bounds the wait for what must happen, moment the wait for what must not.
const (
	patience = 20 * time.Second
	moment   = 300 * time.Millisecond
)

// broker is an embedded broker whose devices have "secret of <client id>" as
// their password.
type broker struct {
	t       *testing.T
	addr    string
	server  *nats.Server
	metrics *prometheus.Registry
	got     chan logs.Message

	mu      sync.Mutex
	revoked map[string]bool
	asked   func(nats.Login) // called before a login is looked at
	until   time.Time
	secure  func(*mqtt.ClientOptions) // nil: there is no TLS
}

func (b *broker) authenticate(_ context.Context, l nats.Login) (nats.Grant, error) {
	b.mu.Lock()
	asked, until, revoked := b.asked, b.until, b.revoked[l.Username]
	b.mu.Unlock()
	if asked != nil {
		defer asked(l)
	}
	if l.Password != "secret of "+l.Username {
		return nats.Grant{}, access.Deny(access.Signature, nil)
	}
	if revoked {
		return nats.Grant{}, access.Deny(access.Revoked, nil)
	}
	if l.Username == "operator" {
		return nats.Grant{Name: "operator", Publish: []string{"iot/updates/+", "iot/+/rotation"}}, nil
	}
	return nats.Grant{
		Name:      l.Username,
		Publish:   []string{"iot/log/" + l.Username, "iot/telemetry/" + l.Username + "/#"},
		Subscribe: []string{"iot/updates/+", "iot/" + l.Username + "/rotation"},
		Until:     until,
	}, nil
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	b := newBroker(t)
	b.run(nats.ServerOptions{Dir: t.TempDir(), Log: quiet(), Authenticate: b.authenticate})
	return b
}

func newBroker(t *testing.T) *broker {
	return &broker{t: t, addr: porttest.Free(t), metrics: prometheus.NewRegistry(), got: make(chan logs.Message, 100), revoked: map[string]bool{}}
}

// run starts the broker, until close is called or the test ends.
func (b *broker) run(o nats.ServerOptions) (close func()) {
	t := b.t
	t.Helper()
	o.MQTTListen, o.Sync, o.Registerer = b.addr, time.Minute, b.metrics
	var err error
	b.server, err = nats.StartServer(o)
	if err != nil {
		t.Fatal(err)
	}
	source, err := nats.NewSource(t.Context(), b.server, nats.SourceOptions{Topic: "iot/log", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- source.Run(ctx, func(m logs.Message) {
			m.Done(nil)
			b.got <- m
		})
	}()
	server := b.server
	close = sync.OnceFunc(func() {
		cancel()
		<-ended
		_ = source.Close()
		server.Close()
	})
	t.Cleanup(close)
	b.await("the broker to open", b.server.Admits)
	return close
}

func (b *broker) await(what string, f func() bool) {
	b.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !f(); <-tick.C {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// try connects.
func (b *broker) try(username, password, clientID string, with func(*mqtt.ClientOptions)) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + b.addr).SetClientID(clientID).SetProtocolVersion(4).SetAutoReconnect(false).SetConnectTimeout(patience)
	if username != "" {
		o.SetUsername(username).SetPassword(password)
	}
	if b.secure != nil {
		b.secure(o)
	}
	if with != nil {
		with(o)
	}
	c := mqtt.NewClient(o)
	tok := c.Connect()
	if !tok.WaitTimeout(patience) {
		return nil, errors.New("no CONNACK")
	}
	return c, tok.Error()
}

// device connects a device until the test ends.
func (b *broker) device(clientID string, with func(*mqtt.ClientOptions)) mqtt.Client {
	b.t.Helper()
	c, err := b.try(clientID, "secret of "+clientID, clientID, with)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Disconnect(100) })
	return c
}

func (b *broker) publish(c mqtt.Client, topic string, qos byte, retained bool, payload string) {
	b.t.Helper()
	if tok := c.Publish(topic, qos, retained, payload); !tok.WaitTimeout(patience) || tok.Error() != nil {
		b.t.Fatalf("publishing to %s: %v", topic, tok.Error())
	}
}

// subscribe returns what the broker granted: 0, 1, 2, or 0x80 for nothing.
func (b *broker) subscribe(c mqtt.Client, filter string, qos byte, got chan<- string) byte {
	b.t.Helper()
	var handler mqtt.MessageHandler
	if got != nil {
		handler = func(_ mqtt.Client, m mqtt.Message) { got <- m.Topic() + " " + string(m.Payload()) }
	}
	tok := c.Subscribe(filter, qos, handler)
	if !tok.WaitTimeout(patience) {
		b.t.Fatalf("no SUBACK for %s", filter)
	}
	if rest, shared := strings.CutPrefix(filter, "$share/x/"); shared {
		filter = rest // as the client keeps it
	}
	granted, ok := tok.(*mqtt.SubscribeToken).Result()[filter]
	if !ok {
		b.t.Fatalf("no answer for %s: %v", filter, tok.Error())
	}
	return granted
}

func (b *broker) nothing(got <-chan string, what string) {
	b.t.Helper()
	select {
	case m := <-got:
		b.t.Errorf("%s: got %s", what, m)
	case <-time.After(moment):
	}
}

func (b *broker) receive(got <-chan string, want string) {
	b.t.Helper()
	select {
	case m := <-got:
		if m != want {
			b.t.Errorf("got %q, want %q", m, want)
		}
	case <-time.After(patience):
		b.t.Fatalf("%q did not arrive", want)
	}
}

// line waits for a log message.
func (b *broker) line(clientID, payload string) {
	b.t.Helper()
	select {
	case m := <-b.got:
		if m.ClientID != clientID || string(m.Payload) != payload {
			b.t.Errorf("got %q of %q, want %q of %q", m.Payload, m.ClientID, payload, clientID)
		}
	case <-time.After(patience):
		b.t.Fatalf("%q of %q did not arrive", payload, clientID)
	}
}

// tell publishes what a device may be told, as somebody who may.
func (b *broker) tell(topic, payload string, qos byte) {
	b.t.Helper()
	c := b.device("operator", nil)
	b.publish(c, topic, qos, false, payload)
	c.Disconnect(100)
}

// gone waits until the device is not connected any more.
func (b *broker) gone(clientID string) {
	b.t.Helper()
	b.await(clientID+" to be gone", func() bool { return !slices.Contains(b.server.Clients(), clientID) })
}

func TestLogin(t *testing.T) {
	b := startBroker(t)
	f := func(username, password, clientID, reason string) {
		t.Helper()
		before := b.refused(reason)
		c, err := b.try(username, password, clientID, nil)
		if err == nil {
			c.Disconnect(0)
		}
		if reason == "" {
			if err != nil {
				t.Errorf("%s as %s: %v", username, clientID, err)
			}
			return
		}
		// 5 is "not authorized" (MQTT 3.1.1, section 3.2.2.3).
		if !errors.Is(err, packets.ErrorRefusedNotAuthorised) {
			t.Errorf("%s as %s: got %v, want to be refused", username, clientID, err)
		}
		if got := b.refused(reason); got != before+1 {
			t.Errorf("%s as %s: refusals because of %s went from %v to %v", username, clientID, reason, before, got)
		}
	}
	f("dev-a", "secret of dev-a", "dev-a", "")
	f("dev-a", "secret of dev-b", "dev-a", "signature")
	f("dev-a", "", "dev-a", "signature")
	f("", "", "dev-a", "missing")
	// Its own credentials do not let it take over another's session.
	f("dev-a", "secret of dev-a", "dev-b", "client_id")
	f("dev-a", "secret of dev-a", "dev-a2", "client_id")
	b.revoked["dev-c"] = true
	f("dev-c", "secret of dev-c", "dev-c", "revoked")
}

func (b *broker) refused(reason string) float64 {
	b.t.Helper()
	return b.metric("iot_mqtt_connections_refused_total", reason)
}

// metric returns the value of a counter, of its label if it has one.
func (b *broker) metric(name, label string) float64 {
	b.t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == name && (label == "" || m.Label[0].GetValue() == label) {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}

func TestTakeOver(t *testing.T) {
	b := startBroker(t)
	lost := make(chan error, 1)
	b.device("dev-a", func(o *mqtt.ClientOptions) {
		o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	})
	if _, err := b.try("dev-b", "secret of dev-b", "dev-a", nil); err == nil {
		t.Error("dev-b connected as dev-a")
	}
	select {
	case err := <-lost:
		t.Errorf("dev-a lost its connection to dev-b: %v", err)
	case <-time.After(moment):
	}
}

func TestPublishRights(t *testing.T) {
	b := startBroker(t)
	a, victim := b.device("dev-a", nil), b.device("dev-b", nil)
	read := make(chan string, 10)
	for _, filter := range []string{"iot/updates/+", "iot/dev-b/rotation"} {
		if q := b.subscribe(victim, filter, 1, read); q != 1 {
			t.Fatalf("%s: granted %#x", filter, q)
		}
	}
	for qos := range byte(3) {
		for _, topic := range []string{
			"iot/log", "iot/log/dev-b", "iot/log/dev-b/x", "iot/log/dev-a/x", "iot/telemetry/dev-b", "iot/telemetry/dev-b/x", "iot/telemetry",
			"iot/updates/config", "iot/dev-b/rotation", "iot/dev-a/rotation", "dev-b", "iot//log/dev-b", "iot.log.dev-b", "iot/log.dev-b",
			"logs/dev-b", "live/dev-b", "$SYS/x", "$JS/API/STREAM/DELETE/LOGS", "$MQTT/msgs/iot/log/dev-b", "$MQTT/sub/x", "mqttrelay/iot/log/dev-b", "_INBOX/x",
		} {
			b.publish(a, topic, qos, true, "forged")
			// That the next one comes first says that the forged one does not.
			b.publish(a, "iot/log/dev-a", qos, false, topic)
			b.line("dev-a", topic)
		}
		b.publish(a, "iot/telemetry/dev-a", qos, false, "mine")
		b.publish(a, "iot/telemetry/dev-a/room/temperature", qos, true, "mine")
	}
	b.nothing(read, "published by dev-a, read by dev-b")

	// Nor is anything of it retained for whom it was meant.
	again := b.device("dev-c", nil)
	if q := b.subscribe(again, "iot/updates/+", 1, read); q != 1 {
		t.Fatalf("granted %#x", q)
	}
	b.nothing(read, "retained by dev-a, read by dev-c")
}

func TestWillRights(t *testing.T) {
	b := startBroker(t)
	read := make(chan string, 10)
	reader := b.device("dev-b", nil)
	b.subscribe(reader, "iot/updates/+", 1, read)
	// A will is published by the broker itself, when a connection breaks off.
	f := func(topic string, qos byte, retained bool) {
		t.Helper()
		conn := make(chan net.Conn, 1)
		b.device("dev-a", func(o *mqtt.ClientOptions) {
			o.SetBinaryWill(topic, []byte("will"), qos, retained)
			o.SetCustomOpenConnectionFn(func(u *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
				c, err := net.Dial("tcp", u.Host)
				conn <- c
				return c, err
			})
		})
		_ = (<-conn).Close()
	}
	for qos := range byte(3) {
		for _, retained := range []bool{false, true} {
			f("iot/updates/config", qos, retained)
			f("iot/log/dev-b", qos, retained)
			f("iot/log/dev-a", qos, retained)
			b.line("dev-a", "will")
		}
	}
	b.nothing(read, "the will of dev-a")
	select {
	case m := <-b.got:
		t.Errorf("got %q of %s", m.Payload, m.ClientID)
	default:
	}
}

func TestSubscribeRights(t *testing.T) {
	b := startBroker(t)
	victim := b.device("dev-b", nil)
	spy := b.device("dev-a", nil)
	read := make(chan string, 100)
	for qos := range byte(3) {
		for _, filter := range []string{
			"#", "+/#", "iot/#", "iot/+", "iot/+/+", "+/+/+", "iot/updates/#", "iot/updates", "iot/updates/+/x", "iot/+/config", "iot/+/rotation", "iot/dev-b/rotation",
			"iot/dev-b/+", "iot/dev-a/+", "iot/dev-a/#", "iot/log", "iot/log/#", "iot/log/+", "iot/log/dev-a", "iot/log/dev-b", "iot/telemetry/#", "iot/telemetry/dev-b/#", "iot/telemetry/dev-a/#",
			"$SYS/#", "$SYS/+", "$MQTT/#", "$MQTT/msgs/#", "$MQTT/sub/#", "$JS/#", "logs/#", "live/#", "live/+", "mqttrelay/#", "_INBOX/#", "$share/x/iot/log/dev-b", "$share/x/#",
		} {
			if q := b.subscribe(spy, filter, qos, read); q != 0x80 {
				t.Errorf("dev-a subscribed to %s with QoS %d: granted %#x", filter, qos, q)
			}
		}
		for _, filter := range []string{"iot/updates/+", "iot/updates/config", "iot/dev-a/rotation"} {
			if q := b.subscribe(spy, filter, qos, read); q != qos {
				t.Errorf("%s with QoS %d: granted %#x", filter, qos, q)
			}
		}
		b.publish(victim, "iot/log/dev-b", qos, false, "private")
		b.line("dev-b", "private")
		b.publish(victim, "iot/telemetry/dev-b/x", qos, true, "private")
	}
	b.nothing(read, "of dev-b, read by dev-a")
	b.tell("iot/dev-a/rotation", "hello", 1)
	b.receive(read, "iot/dev-a/rotation hello")
}

// A session that is kept while its device is away works as one that is not.
func TestPersistentSession(t *testing.T) {
	b := startBroker(t)
	read := make(chan string, 10)
	kept := func(o *mqtt.ClientOptions) {
		o.SetCleanSession(false)
		o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { read <- m.Topic() + " " + string(m.Payload()) })
	}
	for _, qos := range []byte{1, 2} {
		c := b.device("dev-a", kept)
		if q := b.subscribe(c, "iot/updates/+", qos, read); q != qos {
			t.Fatalf("granted %#x", q)
		}
		if q := b.subscribe(c, "iot/#", qos, read); q != 0x80 {
			t.Fatalf("granted %#x", q)
		}
		c.Disconnect(100)
		b.gone("dev-a")
		b.tell("iot/updates/config", fmt.Sprintf("while away %d", qos), qos)
		c = b.device("dev-a", kept)
		b.receive(read, fmt.Sprintf("iot/updates/config while away %d", qos))
		b.tell("iot/updates/firmware", "while here", qos)
		b.receive(read, "iot/updates/firmware while here")
		b.publish(c, "iot/log/dev-a", qos, false, "mine")
		b.line("dev-a", "mine")
		c.Disconnect(100)
		b.gone("dev-a")
	}
}

// What a session of a time without authentication has subscribed to, and what
// waits for it, it does not get when there is one.
func TestSessionFromBefore(t *testing.T) {
	b := newBroker(t)
	dir := t.TempDir()
	end := b.run(nats.ServerOptions{Dir: dir, Log: quiet()})
	read := make(chan string, 10)
	kept := func(o *mqtt.ClientOptions) {
		o.SetCleanSession(false)
		o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { read <- m.Topic() + " " + string(m.Payload()) })
	}
	c := b.device("dev-a", kept)
	for _, filter := range []string{"iot/#", "iot/telemetry/dev-b/x", "iot/updates/+"} {
		if q := b.subscribe(c, filter, 2, nil); q != 2 {
			t.Fatalf("granted %#x", q)
		}
	}
	c.Disconnect(100)
	other := b.device("dev-b", nil)
	b.publish(other, "iot/telemetry/dev-b/x", 1, true, "private, while dev-a was away")
	b.publish(other, "iot/telemetry/dev-b/y", 2, true, "private, while dev-a was away")
	other.Disconnect(100)
	end()

	b.metrics = prometheus.NewRegistry()
	b.run(nats.ServerOptions{Dir: dir, Log: quiet(), Authenticate: b.authenticate})
	c = b.device("dev-a", kept)
	other = b.device("dev-b", nil)
	for qos := range byte(3) {
		b.publish(other, "iot/telemetry/dev-b/x", qos, true, "private")
	}
	b.nothing(read, "of dev-b, read by dev-a")
	b.tell("iot/updates/config", "for all", 1)
	b.receive(read, "iot/updates/config for all")
	b.publish(c, "iot/log/dev-a", 1, false, "mine")
	b.line("dev-a", "mine")
}

// Whoever publishes where they may not cannot fill the log.
func TestLogIsLimited(t *testing.T) {
	b := newBroker(t)
	var out syncBuffer
	b.run(nats.ServerOptions{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&out, nil)), Authenticate: b.authenticate})
	c := b.device("dev-a", nil)
	for range 500 {
		c.Publish("iot/log/dev-b", 0, false, "forged")
	}
	b.publish(c, "iot/log/dev-a", 1, false, "mine")
	b.line("dev-a", "mine")
	if n := out.lines(); n < 10 || n > 100 {
		t.Errorf("the log has %d lines", n)
	}
}

type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) lines() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.text.Bytes(), []byte("\n"))
}

func TestCloseClient(t *testing.T) {
	b := startBroker(t)
	lost := make(chan error, 1)
	b.device("dev-a", func(o *mqtt.ClientOptions) {
		o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	})
	stays := b.device("dev-b", nil)
	b.revoked["dev-a"] = true
	start := time.Now()
	b.server.CloseClient("dev-a")
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("dev-a is still connected")
	}
	if took := time.Since(start); took > 5*time.Second { // it is meant to be one, on a machine that does nothing else
		t.Errorf("it took %s", took)
	}
	if _, err := b.try("dev-a", "secret of dev-a", "dev-a", nil); err == nil {
		t.Error("dev-a came back")
	}
	b.publish(stays, "iot/log/dev-b", 1, false, "here")
	b.line("dev-b", "here")
	if n := b.metric("iot_mqtt_connections_closed_total", ""); n != 1 {
		t.Errorf("%v closed connections were counted", n)
	}
	b.server.CloseClient("dev-a") // again, and nobody there
	b.server.CloseClient("nobody")
}

// A device whose right ends while it is being let in does not get in.
func TestCloseClientInTheMoment(t *testing.T) {
	b := startBroker(t)
	b.mu.Lock()
	b.asked = func(l nats.Login) { b.server.CloseClient(l.ClientID) } // after the answer was made
	b.mu.Unlock()
	if _, err := b.try("dev-a", "secret of dev-a", "dev-a", nil); err == nil {
		t.Error("dev-a was let in")
	}
	if left := b.server.Clients(); len(left) > 0 {
		t.Errorf("remembered: %q", left)
	}
}

func TestUntil(t *testing.T) {
	b := startBroker(t)
	b.mu.Lock()
	b.until = time.Now().Add(4 * time.Second) // enough to connect in, on a machine that is busy
	b.mu.Unlock()
	lost := make(chan error, 1)
	b.device("dev-a", func(o *mqtt.ClientOptions) {
		o.SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err })
	})
	select {
	case <-lost:
	case <-time.After(patience):
		t.Fatal("dev-a is still connected")
	}
}

// Those who fail wait for their answer, and nobody else does.
func TestRefusalsAreSlowed(t *testing.T) {
	b := startBroker(t)
	const guessers = 14
	var refused atomic.Int32
	var all sync.WaitGroup
	start := time.Now()
	for n := range guessers {
		all.Go(func() {
			id := fmt.Sprintf("guesser-%d", n)
			if _, err := b.try(id, "x", id, nil); errors.Is(err, packets.ErrorRefusedNotAuthorised) {
				refused.Add(1)
			}
		})
	}
	b.await("the guesses to be looked at", func() bool { return b.refused("signature") == guessers })
	c := b.device("dev-a", nil)
	b.publish(c, "iot/log/dev-a", 1, false, "x")
	b.line("dev-a", "x")
	if refused.Load() == guessers {
		t.Error("dev-a had to wait for those who guess")
	}
	all.Wait()
	if n := refused.Load(); n != guessers {
		t.Errorf("%d refused", n)
	}
	// The last of them waited longest: 250 ms, doubled for each beyond the tenth.
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("the guesses took %s", took)
	}
}

// When the server closes, nobody is kept waiting.
func TestCloseWhileRefusing(t *testing.T) {
	b := startBroker(t)
	for n := range 6 {
		go func() { _, _ = b.try("dev-a", "x", "dev-a", nil) }()
		b.await("the refusal", func() bool { return b.refused("signature") > float64(min(n, 3)) })
	}
	b.await("the throttle", func() bool { return b.refused("throttled") > 0 })
}

func TestAuthenticatedSource(t *testing.T) {
	conformance.Source(t, func(t *testing.T) conformance.SourceHarness {
		addr := porttest.Free(t)
		server, err := nats.StartServer(nats.ServerOptions{
			Dir: t.TempDir(), MQTTListen: addr, Sync: time.Minute, Log: quiet(),
			Authenticate: func(_ context.Context, l nats.Login) (nats.Grant, error) {
				if l.Password != "secret" {
					return nats.Grant{}, fleet.E(fleet.Unauthenticated, nil, "no")
				}
				return nats.Grant{Name: l.Username, Publish: []string{"iot/log", "iot/log/" + l.Username}}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		source, err := nats.NewSource(t.Context(), server, nats.SourceOptions{Topic: "iot/log", Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		// The broker's own goroutines begin with its first client, and stay.
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- source.Run(ctx, func(m logs.Message) { m.Done(nil) }) }()
		b := &broker{t: t, addr: addr}
		b.await("the broker to open", func() bool {
			c, err := b.try("opener", "secret", "opener", nil)
			if err == nil {
				c.Disconnect(100)
			}
			return err == nil
		})
		cancel()
		<-ended
		return conformance.SourceHarness{
			Source: source, Addr: addr, Topic: "iot/log", AckIsEndToEnd: true,
			Credentials: func(clientID string) (string, string) { return clientID, "secret" },
		}
	})
}
