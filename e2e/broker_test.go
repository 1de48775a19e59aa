package e2e_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"signalbox/internal/mosquittotest"
)

// mustToken gets a device's access token.
func (s *server) mustToken(c credentials) string {
	s.t.Helper()
	token, err := s.token(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// visitor is a connection to the broker.
type visitor struct {
	mqtt.Client
	t    *testing.T
	lost chan error  // gets an error when the broker closes it
	got  chan string // topics of what it received
}

// visit connects to the embedded broker.
func (s *server) visit(username, password, clientID string, change ...func(*mqtt.ClientOptions)) (*visitor, error) {
	s.t.Helper()
	v := &visitor{t: s.t, lost: make(chan error, 1), got: make(chan string, 100)}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + s.mqtt).SetClientID(clientID).SetUsername(username).SetPassword(password).
		SetProtocolVersion(4).SetCleanSession(false).SetAutoReconnect(false).SetConnectTimeout(patience).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { v.lost <- err }).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { v.got <- m.Topic() })
	for _, f := range change {
		f(o)
	}
	v.Client = mqtt.NewClient(o)
	token := v.Connect()
	if !token.WaitTimeout(patience) {
		s.t.Fatal("no CONNACK")
	}
	if token.Error() == nil {
		s.t.Cleanup(func() { v.Disconnect(0) })
	}
	return v, token.Error()
}

// guest connects a device that must get in.
func (s *server) guest(d device, password string, change ...func(*mqtt.ClientOptions)) *visitor {
	s.t.Helper()
	v, err := s.visit(d.ClientID, password, d.ClientID, change...)
	if err != nil {
		s.t.Fatalf("%s: %v", d.ClientID, err)
	}
	return v
}

// publish publishes and waits for the acknowledgement, which comes for what is
// dropped as well.
func (v *visitor) publish(topic string, retained bool, text []byte) {
	v.t.Helper()
	if token := v.Publish(topic, 1, retained, text); !token.WaitTimeout(patience) || token.Error() != nil {
		v.t.Fatalf("%s: %v", topic, token.Error())
	}
}

// subscribe returns what was granted; 0x80 is nothing.
func (v *visitor) subscribe(filter string) byte {
	v.t.Helper()
	token := v.Subscribe(filter, 1, nil)
	if !token.WaitTimeout(patience) {
		v.t.Fatalf("no SUBACK for %s", filter)
	}
	return token.(*mqtt.SubscribeToken).Result()[filter]
}

func (v *visitor) closed(within time.Duration) {
	v.t.Helper()
	start := time.Now()
	select {
	case <-v.lost:
		if took := time.Since(start); took > within {
			v.t.Errorf("it was closed after %s", took)
		}
	case <-time.After(patience):
		v.t.Fatal("it is still connected")
	}
}

// Who may do what on the embedded broker.
func TestBrokerRights(t *testing.T) {
	s := start(t, "MQTT_AUTH=token")
	a, b := s.device("a"), s.device("b")
	keysA, keysB := s.credentials(a.ID), s.credentials(b.ID)
	if want := "mqtt://" + s.mqtt; keysA.MQTTURL != want {
		t.Errorf("mqtt_url %q, want %q", keysA.MQTTURL, want)
	}
	tokenA := s.mustToken(keysA)

	// Nobody comes in without credentials of their own.
	f := func(username, password, clientID, reason string) {
		t.Helper()
		series := fmt.Sprintf("iot_mqtt_connections_refused_total{reason=%q}", reason)
		before := s.metric(series)
		if _, err := s.visit(username, password, clientID); !errors.Is(err, packets.ErrorRefusedNotAuthorised) {
			t.Errorf("%q as %q: %v", username, clientID, err)
		}
		if got := s.metric(series); got != before+1 {
			t.Errorf("%q as %q: %s went from %v to %v", username, clientID, series, before, got)
		}
	}
	f("", "", a.ClientID, "missing")
	f(a.ClientID, "", a.ClientID, "missing")
	f(a.ClientID, keysA.ClientSecret, a.ClientID, "malformed") // MQTT_AUTH=token
	f(b.ClientID, tokenA, b.ClientID, "foreign")
	f(a.ClientID, tokenA, b.ClientID, "client_id")
	f("admin", "admin", "admin", "malformed")

	va, vb := s.guest(a, tokenA), s.guest(b, s.mustToken(keysB))
	for _, filter := range []string{"#", "iotsupport/#", "iotsupport/logsink", "iotsupport/logsink/+", "iotsupport/logsink/" + b.ClientID, "iotsupport/telemetry/#", "iotsupport/" + b.ClientID + "/rotation", "iotsupport/updates/#", "$SYS/#"} {
		if q := va.subscribe(filter); q != 0x80 {
			t.Errorf("a subscribed to %s: %#x", filter, q)
		}
	}
	for _, filter := range []string{"iotsupport/updates/+", "iotsupport/updates/config", "iotsupport/" + a.ClientID + "/rotation"} {
		if q := va.subscribe(filter); q != 1 {
			t.Errorf("a could not subscribe to %s: %#x", filter, q)
		}
	}

	// A device writes its own log, whatever its lines claim, and no other.
	for _, topic := range []string{sharedTopic, sharedTopic + "/" + b.ClientID, "iotsupport/telemetry/" + b.ClientID + "/x", "iotsupport/updates/config", "iotsupport/" + b.ClientID + "/rotation"} {
		va.publish(topic, true, payload(b, 666, 666, ""))
	}
	va.publish(sharedTopic+"/"+a.ClientID, false, payload(b, 1, 3, "")) // "entity_id": "b"
	vb.publish(sharedTopic+"/"+b.ClientID, false, payload(b, 11, 12, ""))
	vb.publish("iotsupport/telemetry/"+b.ClientID+"/room", true, []byte("21"))
	if got := s.history(a); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("a's log: %v", got)
	}
	if got := s.history(b); !slices.Equal(got, []int{11, 12}) {
		t.Errorf("b's log: %v", got)
	}
	select {
	case topic := <-va.got:
		t.Errorf("a received a message of %s", topic)
	case err := <-vb.lost:
		t.Errorf("b lost its connection: %v", err)
	case <-time.After(200 * time.Millisecond):
	}

	// The right ends within a second of its withdrawal: revoked, restored, deleted.
	s.want(200, "POST", fmt.Sprintf("/api/devices/%d/revoke", a.ID), nil)
	va.closed(5 * time.Second)
	f(a.ClientID, tokenA, a.ClientID, "revoked")
	s.want(200, "POST", fmt.Sprintf("/api/devices/%d/restore", a.ID), nil)
	var again *visitor
	eventually(t, "a comes in again", func() bool {
		v, err := s.visit(a.ClientID, s.mustToken(keysA), a.ClientID)
		again = v
		return err == nil
	})
	again.publish(sharedTopic+"/"+a.ClientID, false, payload(a, 4, 4, ""))
	s.want(204, "DELETE", fmt.Sprintf("/api/devices/%d", a.ID), nil)
	again.closed(5 * time.Second)
	select {
	case err := <-vb.lost:
		t.Errorf("b lost its connection: %v", err)
	default:
	}

	// A restart, and b is known still, by its kept session and its token.
	tokenB := s.mustToken(keysB)
	s.kill()
	s.launch()
	back := s.guest(b, tokenB)
	back.publish(sharedTopic+"/"+b.ClientID, false, payload(b, 13, 13, ""))
	if got := s.history(b); !slices.Equal(got, []int{11, 12, 13}) {
		t.Errorf("b's log: %v", got)
	}
}

// With MQTT_AUTH=secret a device needs no token, with MQTT_SHARED_LOG_TOPIC=on
// it may log on the topic of all, and over TLS nobody sees either.
func TestBrokerWithSecrets(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := mosquittotest.Certificates(t)
	for name, text := range map[string]string{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, "MQTT_AUTH=secret", "MQTT_SHARED_LOG_TOPIC=on", "MQTT_TLS_CERT="+filepath.Join(dir, "cert.pem"), "MQTT_TLS_KEY="+filepath.Join(dir, "key.pem"))
	d := s.device("a")
	k := s.credentials(d.ID)
	if want := "mqtts://" + s.mqtt; k.MQTTURL != want {
		t.Errorf("mqtt_url %q, want %q", k.MQTTURL, want)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	secure := func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker("mqtts://" + s.mqtt).SetTLSConfig(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	}
	if _, err := s.visit(d.ClientID, k.ClientSecret, d.ClientID); err == nil {
		t.Error("the broker takes connections without TLS")
	}
	if _, err := s.visit(d.ClientID, k.ClientSecret+"x", d.ClientID, secure); !errors.Is(err, packets.ErrorRefusedNotAuthorised) {
		t.Errorf("a wrong secret: %v", err)
	}
	v := s.guest(d, k.ClientSecret, secure)
	v.publish(sharedTopic, false, payload(d, 1, 2, ""))
	s.guest(d, s.mustToken(k), secure)
	if got := s.history(d); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("its log: %v", got)
	}
}

// The simulated fleet proves who it is.
func TestSimLogsIn(t *testing.T) {
	s := start(t, "MQTT_AUTH=secret")
	for _, login := range []string{"token", "secret"} {
		before := s.metric(`iot_logsink_messages_received_total{status="success"}`)
		sim, _, stderr := s.client("sim", "--devices", "5", "--rate", "20", "--duration", "3s", "--login", login)
		if err := sim.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := s.metric(`iot_logsink_messages_received_total{status="success"}`); got < before+50 {
			t.Errorf("--login %s: %v lines arrived: %s", login, got-before, tailOf(stderr))
		}
	}
	if n := s.metric(`iot_logsink_lines_irregular_total{reason="unknown_client"}`); n != 0 {
		t.Errorf("%v lines of unknown devices", n)
	}
	sim, _, _ := s.client("sim", "--devices", "5", "--duration", "2s") // without a login
	if err := sim.Wait(); err != nil {
		t.Fatal(err)
	}
	if s.metric(`iot_mqtt_connections_refused_total{reason="missing"}`) == 0 {
		t.Error("devices without credentials were not refused")
	}
}
