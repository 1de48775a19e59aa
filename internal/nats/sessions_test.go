package nats_test

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/nats"
)

// visits is what a broker told of its sessions.
type visits struct {
	b *broker

	mu  sync.Mutex
	all []nats.Session
}

func (v *visits) note(s nats.Session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, s)
}

func (v *visits) of(clientID string) (all []nats.Session) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.all {
		if s.ClientID == clientID {
			all = append(all, s)
		}
	}
	return all
}

// want waits until a client came and went like that; 0 is that it came.
func (v *visits) want(clientID string, ends ...nats.End) (all []nats.Session) {
	v.b.t.Helper()
	v.b.await("the session of "+clientID, func() bool { all = v.of(clientID); return len(all) >= len(ends) })
	for n, end := range ends {
		if all[n].End != end || all[n].Open != (end == 0) {
			v.b.t.Errorf("%s: %d: %+v, want %d", clientID, n, all[n], end)
		}
	}
	return all
}

func watched(t *testing.T, change func(*nats.ServerOptions)) (*broker, *visits) {
	t.Helper()
	b := newBroker(t)
	v := &visits{b: b}
	o := nats.ServerOptions{Dir: t.TempDir(), Log: quiet(), Authenticate: b.authenticate, Sessions: v.note}
	change(&o)
	b.run(o)
	return b, v
}

func TestSessions(t *testing.T) {
	b, v := watched(t, func(*nats.ServerOptions) {})

	c := b.device("dev-a", nil)
	v.want("dev-a", 0)
	c.Disconnect(100)
	all := v.want("dev-a", 0, nats.Closed)
	if all[0].Number != all[1].Number || all[0].Number == 0 {
		t.Errorf("%+v", all)
	}

	if _, err := b.try("dev-b", "wrong", "dev-b", nil); err == nil {
		t.Fatal("dev-b was let in")
	}
	b.device("dev-b", nil)
	v.want("dev-b", 0)
	b.device("dev-b", nil) // the other one is closed
	all = v.want("dev-b", 0, 0, nats.Replaced)
	if all[2].Number != all[0].Number {
		t.Errorf("%+v", all)
	}
	b.server.CloseClient("dev-b")
	all = v.want("dev-b", 0, 0, nats.Replaced, nats.Cut)
	if all[3].Number != all[1].Number {
		t.Errorf("%+v", all)
	}

	b.mu.Lock()
	b.until = time.Now().Add(4 * time.Second)
	b.mu.Unlock()
	b.device("dev-c", nil)
	v.want("dev-c", 0, nats.Expired)
}

// Whoever says nothing any more is noticed by the keep alive, and whoever
// breaks the protocol is not taken for somebody who left.
func TestSessionsThatBreak(t *testing.T) {
	b, v := watched(t, func(o *nats.ServerOptions) { o.Authenticate = nil })
	dial := func(clientID string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
		hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession = "MQTT", 4, true
		hello.ClientIdentifier, hello.Keepalive = clientID, 1
		if err := hello.Write(conn); err != nil {
			t.Fatal(err)
		}
		if _, err := packets.ReadPacket(conn); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	dial("silent") // and nothing more, though its socket stays open
	gone := dial("gone")
	reset := dial("reset")
	noise := dial("noise")
	_ = gone.Close()
	if err := reset.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = reset.Close()
	if _, err := noise.Write([]byte{0xf0, 0}); err != nil { // MQTT 3.1.1, section 2.2.1: 15 is reserved
		t.Fatal(err)
	}
	v.want("silent", 0, nats.Lost)
	v.want("gone", 0, nats.Closed)
	v.want("reset", 0, nats.Lost)
	v.want("noise", 0, nats.Faulty)
}

// A server that ends says nothing of its clients, which are not gone, and one
// that begins knows those that come back.
func TestSessionsOverARestart(t *testing.T) {
	b := newBroker(t)
	v := &visits{b: b}
	o := nats.ServerOptions{Dir: t.TempDir(), Log: quiet(), Sessions: v.note}
	stop := b.run(o)
	b.device("stays", func(o *mqtt.ClientOptions) {
		o.SetAutoReconnect(true).SetMaxReconnectInterval(100 * time.Millisecond)
	})
	v.want("stays", 0)
	stop()
	if all := v.of("stays"); len(all) != 1 {
		t.Errorf("when it ended it told %+v", all)
	}
	b.metrics = prometheus.NewRegistry()
	b.run(o)
	v.want("stays", 0, 0)
}

// No device may listen where the server tells of others.
func TestSessionsAreSecret(t *testing.T) {
	b, v := watched(t, func(o *nats.ServerOptions) { o.Authenticate = nil })
	got := make(chan string, 100)
	c := b.device("spy", nil)
	for _, filter := range []string{"#", "$SYS/#", "$SYS/ACCOUNT/+/CONNECT"} {
		b.subscribe(c, filter, 0, got)
	}
	b.device("other", nil)
	v.want("other", 0)
	// Nor can somebody be the one that the server tells it.
	if _, err := b.try("signalbox-watcher", "guess", "watcher", nil); err != nil {
		t.Fatal(err)
	}
	b.nothing(got, "what the server tells of its clients")
	if names := v.of("watcher"); !slices.ContainsFunc(names, func(s nats.Session) bool { return s.Open }) {
		t.Errorf("%+v", names)
	}
}
