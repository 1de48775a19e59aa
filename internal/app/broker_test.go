package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/logs"
	"signalbox/internal/mosquittotest"
	"signalbox/internal/nats"
	"signalbox/internal/porttest"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

const (
	patience = 20 * time.Second
	sweep    = 500 * time.Millisecond // instead of brokerSweep
)

// town is the built-in issuer, a registry and the embedded broker, as app puts
// them together.
type town struct {
	t       *testing.T
	path    string // of the database
	devices *registry.Service
	issuer  *local.Issuer
	url     string // of the issuer
	addr    string // of the broker
	ca      *x509.CertPool
	metrics *prometheus.Registry
	guard   *brokerGuard
	lines   chan logs.Message
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newTown starts one whose broker lets devices in as rights say, with TLS.
func newTown(t *testing.T, life time.Duration, change func(*town, *brokerRights)) *town {
	t.Helper()
	w := &town{t: t, metrics: prometheus.NewRegistry(), lines: make(chan logs.Message, 100), path: filepath.Join(t.TempDir(), "signalbox.db")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlstore.Open(t.Context(), w.path)
	must(err)
	t.Cleanup(func() { _ = db.Close() })
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.issuer.Handler().ServeHTTP(rw, r) }))
	t.Cleanup(web.Close)
	w.url = web.URL
	box, err := secret.NewBox("a key of sixteen bytes and more", "device credentials")
	must(err)
	w.issuer, err = local.New(t.Context(), local.Options{Store: db, Box: box, Log: quiet(), URL: w.url, Audience: "signalbox", Lifetime: life, Skew: time.Nanosecond})
	must(err)
	w.devices, err = registry.New(t.Context(), db, quiet(), registry.WithIssuer(w.issuer))
	must(err)

	dir := t.TempDir()
	ca, cert, key := mosquittotest.Certificates(t)
	cfg := config.Config{MQTTTLSCert: filepath.Join(dir, "cert.pem"), MQTTTLSKey: filepath.Join(dir, "key.pem")}
	must(os.WriteFile(cfg.MQTTTLSCert, []byte(cert), 0o600))
	must(os.WriteFile(cfg.MQTTTLSKey, []byte(key), 0o600))
	w.ca = x509.NewCertPool()
	w.ca.AppendCertsFromPEM([]byte(ca))
	tlsConfig, err := brokerTLS(&cfg)
	must(err)

	w.addr = porttest.Free(t)
	rights := brokerRights{verify: w.issuer.Verify, identify: w.devices.Identify, topic: "iotsupport/logsink"}
	if change != nil {
		change(w, &rights)
	}
	server, err := nats.StartServer(nats.ServerOptions{
		Dir: t.TempDir(), MQTTListen: w.addr, MQTTTLS: tlsConfig, Sync: time.Minute, Log: quiet(), Registerer: w.metrics, Authenticate: brokerAuthenticate(rights),
	})
	must(err)
	t.Cleanup(server.Close)
	source, err := nats.NewSource(t.Context(), server, nats.SourceOptions{Topic: "iotsupport/logsink", Log: quiet()})
	must(err)
	t.Cleanup(func() { _ = source.Close() })
	guard := newBrokerGuard(server, w.devices, quiet())
	guard.every = sweep
	w.guard = guard
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- guard.Run(ctx) }()
	go func() { ended <- w.issuer.Run(ctx) }()
	go func() {
		ended <- source.Run(ctx, func(m logs.Message) {
			m.Done(nil)
			w.lines <- m
		})
	}()
	t.Cleanup(func() {
		cancel()
		for range 3 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// device makes a device and returns it with its secret.
func (w *town) device() (fleet.Device, string) {
	w.t.Helper()
	models, err := w.devices.Models(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(models) == 0 {
		m, err := w.devices.CreateModel(w.t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
		if err != nil {
			w.t.Fatal(err)
		}
		models = append(models, m)
	}
	d, err := w.devices.CreateDevice(w.t.Context(), models[0].ID, `{}`)
	if err != nil {
		w.t.Fatal(err)
	}
	_, text, err := w.devices.Secret(w.t.Context(), d.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return d, text
}

func (w *town) token(d fleet.Device, text string) string {
	w.t.Helper()
	token, err := (&clientcredentials.Config{ClientID: d.ClientID(), ClientSecret: text, TokenURL: w.url + local.TokenPath}).Token(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return token.AccessToken
}

func (w *town) connect(username, password, clientID string) (c mqtt.Client, lost chan error, err error) {
	lost = make(chan error, 1)
	c = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("mqtts://" + w.addr).SetTLSConfig(&tls.Config{RootCAs: w.ca, MinVersion: tls.VersionTLS12}).
		SetProtocolVersion(4).SetAutoReconnect(false).SetClientID(clientID).SetUsername(username).SetPassword(password).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { lost <- err }))
	tok := c.Connect()
	if !tok.WaitTimeout(patience) {
		return nil, nil, errors.New("no CONNACK")
	}
	if tok.Error() == nil {
		w.t.Cleanup(func() { c.Disconnect(50) })
	}
	return c, lost, tok.Error()
}

// in connects a device that must get in; the broker may just be opening.
func (w *town) in(d fleet.Device, password string) (mqtt.Client, chan error) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, lost, err := w.connect(d.ClientID(), password, d.ClientID())
		if err == nil {
			return c, lost
		}
		if time.Now().After(deadline) || w.refused("not_ready") == 0 {
			w.t.Fatal(err)
		}
	}
}

func (w *town) refused(reason string) float64 {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "iot_mqtt_connections_refused_total" && m.Label[0].GetValue() == reason {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}

func (w *town) out(username, password, clientID, reason string) {
	w.t.Helper()
	before := w.refused(reason)
	if _, _, err := w.connect(username, password, clientID); err == nil {
		w.t.Errorf("%s got in as %s; want it refused because of %s", username, clientID, reason)
	} else if got := w.refused(reason); got != before+1 {
		w.t.Errorf("%s as %s: not refused because of %s", username, clientID, reason)
	}
}

// busySecond is what is meant to be a second, on a machine that does other things as well.
const busySecond = 5 * time.Second

func (w *town) isLost(lost chan error, within time.Duration) {
	w.t.Helper()
	start := time.Now()
	select {
	case <-lost:
		if took := time.Since(start); took > within {
			w.t.Errorf("it took %s to be closed", took)
		}
	case <-time.After(patience):
		w.t.Fatal("still connected")
	}
}

func TestBrokerToken(t *testing.T) {
	w := newTown(t, time.Hour, nil)
	a, secretA := w.device()
	b, secretB := w.device()
	tokenA, tokenB := w.token(a, secretA), w.token(b, secretB)
	c, lost := w.in(a, tokenA)
	if tok := c.Publish("iotsupport/logsink/"+a.ClientID(), 1, false, "x"); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Error(tok.Error())
	}
	if m := <-w.lines; m.ClientID != a.ClientID() {
		t.Errorf("a line of %q", m.ClientID)
	}

	w.out(a.ClientID(), tokenB, a.ClientID(), "foreign")
	w.out(b.ClientID(), tokenB, a.ClientID(), "client_id")
	w.out(b.ClientID(), secretB, b.ClientID(), "malformed") // only tokens are taken
	w.out(b.ClientID(), "", b.ClientID(), "missing")
	w.out("signalbox", tokenB, "signalbox", "malformed")
	w.out(b.ClientID(), tokenB[:len(tokenB)-8]+"AAAAAAAA", b.ClientID(), "signature")

	// A device that is revoked is out within a second, and stays out.
	if _, err := w.devices.Revoke(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	w.isLost(lost, busySecond)
	for _, want := range []int{1, 0} { // who asks how many were closed hears of those that the guard was quicker with, once
		if n, err := w.guard.CloseSessions(t.Context(), fleet.DeviceRef{ClientID: a.ClientID()}); err != nil || n != want {
			t.Errorf("%d sessions closed, %v; want %d", n, err, want)
		}
	}
	w.out(a.ClientID(), tokenA, a.ClientID(), "revoked")

	// And one that is deleted.
	_, lost = w.in(b, tokenB)
	if err := w.devices.DeleteDevice(t.Context(), b.ID); err != nil {
		t.Fatal(err)
	}
	w.isLost(lost, busySecond)
	w.out(b.ClientID(), tokenB, b.ClientID(), "revoked")
}

func TestBrokerSecret(t *testing.T) {
	w := newTown(t, time.Hour, func(w *town, r *brokerRights) { r.secret = w.issuer.VerifySecret })
	a, secretA := w.device()
	b, _ := w.device()
	_, lost := w.in(a, secretA)
	w.in(a, w.token(a, secretA)) // which takes over the session
	w.isLost(lost, patience)
	w.out(b.ClientID(), secretA, b.ClientID(), "refused")
	w.out(a.ClientID(), secretA+"x", a.ClientID(), "refused")
	w.out(a.ClientID(), secretA, b.ClientID(), "client_id")
	w.out("iotdevice-relay-zzzzzzzz", secretA, "iotdevice-relay-zzzzzzzz", "refused")
}

func TestBrokerExpiry(t *testing.T) {
	const life = 6 * time.Second // enough to connect in, on a machine that is busy
	w := newTown(t, life, func(_ *town, r *brokerRights) { r.expiring = true })
	a, secretA := w.device()
	token := w.token(a, secretA)
	_, lost := w.in(a, token)
	w.isLost(lost, life+busySecond)
	w.out(a.ClientID(), token, a.ClientID(), "expired")
	w.in(a, w.token(a, secretA))
}

// A session outlives its token, unless MQTT_DISCONNECT_ON_EXPIRY is set.
func TestBrokerSessionOutlivesToken(t *testing.T) {
	const life = 4 * time.Second // enough to connect in, on a machine that is busy
	w := newTown(t, life, nil)
	a, secretA := w.device()
	_, lost := w.in(a, w.token(a, secretA))
	select {
	case err := <-lost:
		t.Errorf("closed: %v", err)
	case <-time.After(life + time.Second):
	}
}

// What another process does to a device is noticed as well.
func TestBrokerSweep(t *testing.T) {
	w := newTown(t, time.Hour, nil)
	a, secretA := w.device()
	_, lost := w.in(a, w.token(a, secretA))
	db, err := sqlstore.Open(t.Context(), w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other, err := registry.New(t.Context(), db, quiet(), registry.WithIssuer(w.issuer))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Revoke(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	w.isLost(lost, sweep+busySecond)
}

func TestBrokerAuth(t *testing.T) {
	f := func(set, listen string, open bool, want string, shared bool) {
		t.Helper()
		cfg := config.Config{MQTTAuth: set, MQTTListen: listen, MQTTSharedLogTopic: "auto"}
		got := brokerAuth(&cfg, open)
		if got != want || sharedLogTopic(&cfg, got) != shared {
			t.Errorf("MQTT_AUTH=%s MQTT_LISTEN=%s, people need no login: %v: %s, shared topic: %v", set, listen, open, got, sharedLogTopic(&cfg, got))
		}
	}
	f("auto", "127.0.0.1:1883", true, "off", true)
	f("auto", "[::1]:1883", true, "off", true)
	f("auto", "127.0.0.1:1883", false, "token", false)
	f("auto", "0.0.0.0:1883", true, "token", false)
	f("auto", ":1883", true, "token", false)
	f("auto", "", true, "token", false) // and nobody listens
	f("off", "0.0.0.0:1883", false, "off", true)
	f("secret", "127.0.0.1:1883", true, "secret", false)
	f("token", "127.0.0.1:1883", true, "token", false)
	if !sharedLogTopic(&config.Config{MQTTSharedLogTopic: "on"}, "token") || sharedLogTopic(&config.Config{MQTTSharedLogTopic: "off"}, "off") {
		t.Error("MQTT_SHARED_LOG_TOPIC does not decide")
	}
}
