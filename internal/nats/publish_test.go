package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signalbox/internal/fleet"
	"signalbox/internal/nats"
	"signalbox/internal/porttest"
)

// sayTo publishes as the program itself does.
func (b *broker) sayTo(topic string, retain bool, payload string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.server.Publish(ctx, topic, 1, retain, []byte(payload)); err != nil {
		b.t.Fatalf("%s: %v", topic, err)
	}
}

func kept(read chan<- string) func(*mqtt.ClientOptions) {
	return func(o *mqtt.ClientOptions) {
		o.SetCleanSession(false)
		o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { read <- m.Topic() + " " + string(m.Payload()) })
	}
}

func testPublish(t *testing.T, b *broker) {
	read := make(chan string, 10)
	c := b.device("dev-a", kept(read))
	for _, filter := range []string{"iot/updates/+", "iot/dev-a/rotation"} {
		if q := b.subscribe(c, filter, 1, read); q != 1 {
			t.Fatalf("granted %#x", q)
		}
	}
	b.sayTo("iot/updates/config", false, "while here")
	b.receive(read, "iot/updates/config while here")

	// A session that is away gets it when it is back.
	c.Disconnect(100)
	// What is sent while it is still there is sent again after half a minute only.
	b.await("dev-a to be gone", func() bool { return !b.server.Connected("dev-a") })
	b.sayTo("iot/updates/config", false, "while away")
	b.device("dev-a", kept(read))
	b.receive(read, "iot/updates/config while away")

	// One that comes for the first time gets what is retained, until that is taken back.
	b.sayTo("iot/dev-b/rotation", true, "one")
	b.sayTo("iot/dev-b/rotation", true, "two")
	late := func() (got chan string) {
		got = make(chan string, 10)
		d := b.device("dev-b", nil)
		defer d.Disconnect(100)
		if q := b.subscribe(d, "iot/dev-b/rotation", 1, got); q != 1 {
			t.Fatalf("granted %#x", q)
		}
		select {
		case m := <-got:
			got <- m
		case <-time.After(moment):
		}
		return got
	}
	b.await("the retained message", func() bool {
		select {
		case m := <-late():
			return m == "iot/dev-b/rotation two"
		default:
			return false
		}
	})
	retained := func(want ...string) {
		t.Helper()
		got, err := b.server.Retained(t.Context(), "iot/+/rotation")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("retained: %q, %v; want %q", got, err, want)
		}
	}
	retained("iot/dev-b/rotation")
	b.sayTo("iot/dev-b/rotation", true, "")
	b.await("the retained message to be gone", func() bool { return len(late()) == 0 })
	retained()
	b.nothing(read, "of dev-b, read by dev-a")
}

func TestPublish(t *testing.T) {
	b := newBroker(t)
	b.run(nats.ServerOptions{Dir: t.TempDir(), Log: quiet()})
	testPublish(t, b)
}

func TestPublishPastTheGate(t *testing.T) {
	b := startBroker(t)
	testPublish(t, b)
	// Its name alone opens nothing.
	for _, password := range []string{"", "secret of signalbox x", "signalbox"} {
		if c, err := b.try("signalbox", password, "signalbox", nil); err == nil {
			c.Disconnect(0)
			t.Errorf("%q was let in", password)
		}
	}
}

func TestPublishWithTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, DNSNames: []string{"broker.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	b := newBroker(t)
	b.secure = func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker("mqtts://" + b.addr).SetTLSConfig(&tls.Config{RootCAs: pool, ServerName: "broker.example.com"})
	}
	b.run(nats.ServerOptions{Dir: t.TempDir(), Log: quiet(), Authenticate: b.authenticate,
		MQTTTLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}})
	testPublish(t, b)
}

func TestPublishErrors(t *testing.T) {
	b := startBroker(t)
	f := func(kind fleet.Kind, topic string, qos byte) {
		t.Helper()
		if err := b.server.Publish(t.Context(), topic, qos, false, []byte("x")); err == nil || fleet.KindOf(err) != kind {
			t.Errorf("%q with QoS %d: %v", topic, qos, err)
		}
	}
	f(fleet.Invalid, "", 1)
	f(fleet.Invalid, "iot/+", 1)
	f(fleet.Invalid, "iot/#", 0)
	f(fleet.Invalid, "iot/\xff", 0)
	f(fleet.Invalid, "iot/x", 2)

	// No listener, no broker.
	none := startServer(t, t.TempDir(), "")
	defer none.Close()
	if topics, err := none.Retained(t.Context(), "iot/+/rotation"); err != nil || len(topics) > 0 {
		t.Errorf("%q, %v", topics, err)
	}
	if err := none.Publish(t.Context(), "iot/x", 1, false, nil); fleet.KindOf(err) != fleet.Unavailable {
		t.Error(err)
	}
}

// A connection that breaks is made anew, and who waits while the broker is not
// open yet, or closes, is not kept for longer than they like.
func TestPublishOverBreaks(t *testing.T) {
	addr := porttest.Free(t)
	server := startServer(t, t.TempDir(), addr)
	soon, cancel := context.WithTimeout(t.Context(), moment)
	defer cancel()
	if err := server.Publish(soon, "iot/updates/config", 1, false, nil); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("before there is a source: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Publish(context.Background(), "iot/updates/config", 1, false, nil) }()
	time.Sleep(moment)
	server.Close()
	select {
	case err := <-ended:
		if fleet.KindOf(err) != fleet.Unavailable {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("publishing goes on after the server has closed")
	}

	b := startBroker(t)
	read := make(chan string, 1000)
	b.subscribe(b.device("dev-a", nil), "iot/updates/+", 1, read)
	// A message whose acknowledgement was lost is sent again, so that it can come
	// twice, but none is missing when its Publish has returned.
	missing := map[string]bool{}
	received := func() {
		t.Helper()
		for len(missing) > 0 {
			select {
			case m := <-read:
				delete(missing, m)
			case <-time.After(patience):
				t.Fatalf("%d messages were lost", len(missing))
			}
		}
	}
	for n := range 3 {
		missing[fmt.Sprintf("iot/updates/config %d", n)] = true
		b.sayTo("iot/updates/config", false, fmt.Sprint(n))
		received()
		b.server.CutOutlet()
	}
	for round := range 5 {
		var all sync.WaitGroup
		for n := range 50 {
			text := fmt.Sprint(round, " ", n)
			missing["iot/updates/config "+text] = true
			all.Go(func() { b.sayTo("iot/updates/config", false, text) })
		}
		b.server.CutOutlet()
		all.Wait()
		received()
	}
}

// The program learns who comes, and when they listen to what they are told.
func TestListens(t *testing.T) {
	f := func(name string, b *broker, authenticate bool) {
		t.Run(name, func(t *testing.T) {
			b.t = t
			came := make(chan uint64, 10)
			o := nats.ServerOptions{Dir: t.TempDir(), Log: quiet(), Sessions: func(s nats.Session) {
				if s.Open && s.ClientID == "dev-a" {
					came <- s.Number
				}
			}}
			if authenticate {
				o.Authenticate = b.authenticate
			}
			b.run(o)
			arrive := func() (at uint64) {
				select {
				case at = <-came:
				case <-time.After(patience):
					t.Fatal("nobody said that dev-a came")
				}
				return at
			}
			read := make(chan string, 10)
			c := b.device("dev-a", kept(read))
			at := arrive()
			if listens, there := b.server.Listens(at, "iot/updates/provisioning"); listens || !there {
				t.Errorf("before it subscribed: %v, %v", listens, there)
			}
			for qos := range byte(3) {
				b.subscribe(c, "iot/updates/+", qos, read)
				if listens, there := b.server.Listens(at, "iot/updates/provisioning"); !listens || !there {
					t.Errorf("subscribed with QoS %d: %v, %v", qos, listens, there)
				}
				if listens, _ := b.server.Listens(at, "iot/dev-a/rotation"); listens {
					t.Error("it listens to what it did not subscribe to")
				}
			}
			// A session that was kept has its subscriptions.
			c.Disconnect(100)
			b.await("dev-a to be gone", func() bool { _, there := b.server.Listens(at, "iot/x"); return !there })
			b.device("dev-a", kept(read))
			at = arrive()
			b.await("its subscription", func() bool { listens, _ := b.server.Listens(at, "iot/updates/provisioning"); return listens })
		})
	}
	f("open", newBroker(t), false)
	f("gate", newBroker(t), true)
}
