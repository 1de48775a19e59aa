package e2e_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signalbox/internal/mosquittotest"
)

// firmware is a device with the firmware of the field: it is told by a message
// for all, asks for its secret, and shows a token of it.
type firmware struct {
	*server
	device
	keys   credentials
	token  string
	broker string // host:port
	mqtt.Client
	got chan mqtt.Message
}

// firmware makes a device that is not connected to anything.
func (s *server) firmware(name, broker string) *firmware {
	s.t.Helper()
	f := &firmware{server: s, device: s.device(name), broker: broker, got: make(chan mqtt.Message, 100)}
	f.keys = s.credentials(f.ID)
	f.login()
	return f
}

// login gets a token with the secret that the device has.
func (f *firmware) login() {
	f.t.Helper()
	f.token = f.mustToken(f.keys)
}

// connect connects to the broker and subscribes.
func (f *firmware) connect(clean bool, topics ...string) {
	f.t.Helper()
	f.Client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + f.broker).SetClientID(f.ClientID).
		SetUsername(f.ClientID).SetPassword(f.token).SetProtocolVersion(4).SetCleanSession(clean).SetAutoReconnect(false).
		SetConnectTimeout(patience).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { f.got <- m }))
	token := f.Client.Connect()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		f.t.Fatalf("no CONNACK: %v", token.Error())
	}
	client := f.Client
	f.t.Cleanup(func() { client.Disconnect(0) })
	for _, topic := range topics {
		if token := f.Subscribe(topic, 1, nil); !token.WaitTimeout(patience) || token.Error() != nil {
			f.t.Fatalf("no SUBACK: %v", token.Error())
		}
	}
}

// told waits for a message of its topic that is meant for the device.
func (f *firmware) told(topic string) (payload map[string]any) {
	f.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case m := <-f.got:
			if m.Topic() != topic || len(m.Payload()) == 0 {
				continue
			}
			payload = nil
			if err := json.Unmarshal(m.Payload(), &payload); err != nil {
				f.t.Fatalf("%s: %v in %q", topic, err, m.Payload())
			}
			if payload["client_id"] == f.ClientID {
				return payload
			}
		case <-limit:
			f.t.Fatalf("nothing came on %s", topic)
		}
	}
}

// ask makes a request as the device.
func (f *firmware) ask(method, path string) reply {
	f.t.Helper()
	q, err := http.NewRequestWithContext(f.t.Context(), method, f.url(path), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer "+f.token)
	r, err := f.do(q)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

// provision asks for the secret.
func (f *firmware) provision() (c credentials) {
	f.t.Helper()
	r := f.ask("GET", "/api/iot/provisioning")
	if r.status != 200 || r.header.Get("Cache-Control") != "no-cache, no-store, must-revalidate" {
		f.t.Fatalf("provisioning: %d %s %v", r.status, r.body, r.header)
	}
	r.into(f.t, &c)
	return c
}

func (f *firmware) rotate() {
	f.t.Helper()
	f.want(200, "POST", fmt.Sprintf("/api/devices/%d/rotate", f.ID), nil)
}

func (f *firmware) await(state string) {
	f.t.Helper()
	eventually(f.t, "the device is "+state, func() bool {
		var d struct {
			State string `json:"rotation_state"`
		}
		f.want(200, "GET", fmt.Sprintf("/api/devices/%d", f.ID), nil).into(f.t, &d)
		return d.State == state
	})
}

// noNotice waits until nothing lies at the broker for the device.
func (f *firmware) noNotice() {
	f.t.Helper()
	topic := "iotsupport/" + f.ClientID + "/rotation"
	eventually(f.t, "the notice is taken back", func() bool {
		for len(f.got) > 0 {
			<-f.got
		}
		f.connect(true, topic)
		defer f.Disconnect(100)
		select {
		case m := <-f.got:
			return len(m.Payload()) == 0
		case <-time.After(300 * time.Millisecond):
			return true
		}
	})
}

const provisioningTopic = "iotsupport/updates/provisioning"

// brokers runs a test with the embedded broker and with Mosquitto.
func brokers(t *testing.T, f func(t *testing.T, start func(settings ...string) (*server, string))) {
	t.Run("embedded", func(t *testing.T) {
		f(t, func(settings ...string) (*server, string) {
			s := start(t, append(settings, "MQTT_AUTH=token")...)
			return s, s.mqtt
		})
	})
	t.Run("mosquitto", func(t *testing.T) {
		f(t, func(settings ...string) (*server, string) {
			b := mosquittotest.Start(t, mosquittotest.Options{})
			return start(t, append(settings, "MQTT_LISTEN=", "MQTT_URL="+b.URL())...), b.Addr
		})
	})
}

// The protocol of the firmware in the field, step by step, with an answer that is
// lost.
func TestOldFirmwareRotates(t *testing.T) {
	brokers(t, func(t *testing.T, start func(...string) (*server, string)) {
		s, broker := start()
		f := s.firmware("kitchen", broker)
		first := f.keys
		f.connect(true, "iotsupport/updates/+")
		f.rotate()
		if payload := f.told(provisioningTopic); len(payload) != 1 {
			t.Errorf("told %v", payload)
		}
		lost := f.provision()
		if lost.ClientSecret == first.ClientSecret || lost.ClientID != first.ClientID || lost.TokenURL != first.TokenURL {
			t.Fatalf("%+v became %+v", first, lost)
		}
		// It asks again, with what it has, and gets the same.
		f.login()
		if again := f.provision(); again != lost {
			t.Fatalf("%+v became %+v", lost, again)
		}
		if r := f.ask("GET", "/api/iot/config"); r.status != 200 {
			t.Fatalf("config: %d %s", r.status, r.body)
		}
		f.await("PENDING")
		f.keys = lost
		f.login()
		if r := f.ask("GET", "/api/iot/config"); r.status != 200 || string(r.body) != f.Config {
			t.Fatalf("config: %d %s", r.status, r.body)
		}
		f.await("OK")
		if _, err := s.token(first); err == nil {
			t.Error("the old secret is good still")
		}
		f.Disconnect(100)
		f.noNotice()

		// It asks while there is nothing, and gets what it has.
		if now := f.provision(); now != lost {
			t.Errorf("%+v became %+v", lost, now)
		}
	})
}

// A device that was off learns of it: from what lies there for it, or, with a
// session that was kept, from the message for all.
func TestDeviceThatWasOffLearnsOfItsRotation(t *testing.T) {
	brokers(t, func(t *testing.T, start func(...string) (*server, string)) {
		s, broker := start()
		kept, fresh := s.firmware("kept", broker), s.firmware("fresh", broker)
		kept.connect(false, "iotsupport/updates/+")
		kept.Disconnect(100)
		kept.rotate()
		kept.await("PENDING")
		kept.connect(false)
		kept.told(provisioningTopic)
		kept.keys = kept.provision()
		kept.login()
		kept.ask("GET", "/api/iot/config")
		kept.await("OK")

		fresh.rotate()
		fresh.await("PENDING")
		own := "iotsupport/" + fresh.ClientID + "/rotation"
		var told map[string]any
		eventually(t, "the notice lies there", func() bool { // it is PENDING a moment before
			fresh.connect(true, own)
			select {
			case m := <-fresh.got:
				return json.Unmarshal(m.Payload(), &told) == nil
			case <-time.After(300 * time.Millisecond):
				fresh.Disconnect(100)
				return false
			}
		})
		if want := map[string]any{"client_id": fresh.ClientID, "state": "pending", "attempt": 1.0, "url": s.url("/api/iot/provisioning")}; fmt.Sprint(told) != fmt.Sprint(want) {
			t.Errorf("told %v, want %v", told, want)
		}
		fresh.keys = fresh.provision()

		// New firmware proves it without a token of it.
		var n struct{ Nonce string }
		fresh.ask("POST", "/api/iot/rotation/nonce").into(t, &n)
		h := hmac.New(sha256.New, []byte(fresh.keys.ClientSecret))
		h.Write([]byte(n.Nonce))
		q, err := http.NewRequestWithContext(t.Context(), "POST", s.url("/api/iot/rotation/proof"), jsonBody(map[string]string{"nonce": n.Nonce, "hmac": hex.EncodeToString(h.Sum(nil))}))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Authorization", "Bearer "+fresh.token)
		q.Header.Set("Content-Type", "application/json")
		if r, err := s.do(q); err != nil || r.status != 200 {
			t.Fatalf("proof: %v %d %s", err, r.status, r.body)
		}
		fresh.await("OK")
		fresh.Disconnect(100)
		fresh.login()
		fresh.noNotice()
	})
}

// Old firmware with a session that is not kept is told when it is back.
func TestDeviceIsRemindedWhenItComesBack(t *testing.T) {
	s := start(t, "MQTT_AUTH=token")
	f := s.firmware("kitchen", s.mqtt)
	f.rotate()
	f.await("PENDING")
	for range 2 { // the second time as well, when the first was for nothing
		f.connect(true, "iotsupport/updates/+")
		f.told(provisioningTopic)
		f.Disconnect(100)
	}
}

// A device that does not ask in time keeps what it has, and nothing lies there for it
// any more; nor does it for one that is deleted.
func TestSilentDeviceTimesOut(t *testing.T) {
	brokers(t, func(t *testing.T, start func(...string) (*server, string)) {
		s, broker := start("ROTATION_TIMEOUT_SECONDS=5")
		f := s.firmware("kitchen", broker)
		f.connect(true, "iotsupport/updates/+")
		f.rotate()
		f.told(provisioningTopic)
		f.Disconnect(100)
		f.await("TIMEOUT")
		f.login()
		f.noNotice()
		if now := f.provision(); now != f.keys {
			t.Errorf("%+v became %+v", f.keys, now)
		}

		if broker == s.mqtt { // there nobody but the device may look
			return
		}
		g := s.firmware("cellar", broker)
		watcher := s.firmware("watcher", broker)
		own := "iotsupport/" + g.ClientID + "/rotation"
		g.connect(true, own)
		g.rotate()
		g.told(own)
		s.want(204, "DELETE", fmt.Sprintf("/api/devices/%d", g.ID), nil)
		eventually(t, "the notice of the deleted device is taken back", func() bool {
			watcher.connect(true, own)
			defer watcher.Disconnect(100)
			select {
			case m := <-watcher.got:
				return len(m.Payload()) == 0
			case <-time.After(300 * time.Millisecond):
				return true
			}
		})
	})
}

// A config that was replaced is announced, after it is there.
func TestConfigIsAnnounced(t *testing.T) {
	brokers(t, func(t *testing.T, start func(...string) (*server, string)) {
		s, broker := start()
		f := s.firmware("kitchen", broker)
		f.connect(true, "iotsupport/updates/+")
		s.rename(f.device, "cellar")
		if payload := f.told("iotsupport/updates/config"); len(payload) != 1 {
			t.Errorf("told %v", payload)
		}
		if r := f.ask("GET", "/api/iot/config"); string(r.body) != configOf("cellar") {
			t.Errorf("config %s", r.body)
		}
		// What is announced while the program ends is announced.
		s.rename(f.device, "attic")
		s.terminate()
		f.told("iotsupport/updates/config")
		if code := s.awaitExit(patience); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}

func jsonBody(v any) *bytes.Reader {
	text, _ := json.Marshal(v) // strings always marshal
	return bytes.NewReader(text)
}
