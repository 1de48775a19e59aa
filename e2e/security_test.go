package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// While nobody has to log in, nothing is offered to other machines.
func TestRefusesExposure(t *testing.T) {
	f := func(setting string, more ...string) {
		t.Helper()
		s := prepare(t, append(more, setting)...)
		s.spawn()
		if code := s.awaitExit(patience); code != 2 {
			t.Errorf("%s: exit code %d, want 2", setting, code)
		}
		name, _, _ := strings.Cut(setting, "=")
		if said := tailOf(s.log); !strings.Contains(said, name) || !strings.Contains(said, "ALLOW_INSECURE") {
			t.Errorf("%s: it said %q", setting, said)
		}
		if _, err := os.Stat(s.settings["DATA_DIR"]); err == nil {
			t.Errorf("%s: it left a DATA_DIR", setting)
		}
	}
	f("HOST=0.0.0.0")
	f("HOST=::")
	f("HOST=192.0.2.1")
	f("MQTT_LISTEN=0.0.0.0:18830", "MQTT_AUTH=off")
	f("MQTT_LISTEN=:18830", "MQTT_AUTH=off")
	f("INTERNAL_LISTEN=:31030")

	open := start(t, "HOST=0.0.0.0", "ALLOW_INSECURE=true")
	open.want(200, "GET", "/api/devices", nil)
}

// place takes an id of the plain kind apart.
func place(t *testing.T, id string) (epoch string, seq uint64) {
	t.Helper()
	epoch, num, _ := strings.Cut(id, "-")
	seq, err := strconv.ParseUint(num, 10, 64)
	if err != nil {
		t.Fatalf("id %q", id)
	}
	return epoch, seq
}

// A client of the embedded broker cannot reach what is behind it: it receives
// nothing of the journal's traffic, and nothing that it publishes gets into
// the journal or harms it, except as log lines.
func TestDevicesCannotReachInside(t *testing.T) {
	s := start(t)
	d := s.device("victim")
	r := s.follow("r", d)
	b := s.board(d)
	b.say(1)
	r.waitFor(d, 1)
	epoch, before := place(t, r.last())

	var mu sync.Mutex
	var received []string
	hear := func(_ mqtt.Client, m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		received = append(received, m.Topic())
	}
	for i, topic := range []string{"live/+", "live/#", "logs/#", "logs/" + d.Key, "unmatched/#", "mqttrelay/#", "$JS/#", "$JS/API/#", "$SYS/#", "$MQTT/#", "$MQTT/msgs/#", "$MQTT/JSA/#", "_INBOX/#", "deadletter/#", "$KV/#", "#", "+/+", "+/#", "/#"} {
		c, err := dial(s.mqtt, fmt.Sprintf("eavesdropper-%d", i))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Disconnect(0)
		c.Subscribe(topic, byte(i%2), hear).WaitTimeout(5 * time.Second)
	}
	forged := fmt.Sprintf(`{"received":"2026-01-01T00:00:00.000000Z","lines":1,"logs":[{"entity_id":%q,"message":"forged","n":1000}]}`, d.Entity)
	for i, topic := range []string{
		"logs/" + d.Key, "live/" + d.Key, "unmatched/no_entity", "deadletter/elasticsearch", "$KV/positions/elasticsearch", "mqttrelay/iotsupport/logsink",
		"$JS/API/STREAM/DELETE/LOGS", "$JS/API/STREAM/PURGE/LOGS", "$JS/API/STREAM/DELETE/$MQTT_msgs",
		"$MQTT/msgs/iotsupport/logsink", "$MQTT/JSA/x/y", "$MQTT/sess/x", "$SYS/REQ/SERVER/PING", "_INBOX/x",
	} {
		for qos := range 3 {
			c, err := dial(s.mqtt, fmt.Sprintf("intruder-%d-%d", i, qos))
			if err != nil {
				t.Fatal(err)
			}
			c.Publish(topic, byte(qos), qos == 2, forged).WaitTimeout(300 * time.Millisecond) // an answer is not needed
			c.Disconnect(20)
		}
	}
	b.say(1)
	r.waitFor(d, 2)
	if epochNow, after := place(t, r.last()); epochNow != epoch || after != before+1 {
		t.Errorf("the journal went from %s-%d to %s-%d, want one step", epoch, before, epochNow, after)
	}
	r.check()
	if got := r.numbers(d); len(got) != 2 {
		t.Errorf("the reader has lines %v, want 1 and 2", got)
	}
	s.kill()
	s.launch()
	b = s.board(d)
	b.said = 2
	b.say(1)
	r.waitFor(d, 3)
	r.check()
	mu.Lock()
	defer mu.Unlock()
	for _, topic := range received {
		if topic != sharedTopic {
			t.Errorf("a client received a message on %s", topic)
		}
	}
}

// A message over the bound is acknowledged, or its device would send it for
// ever, and counted. One beyond all measure costs its own connection.
func TestOversizeMessages(t *testing.T) {
	s := start(t)
	d := s.device("big")
	r := s.follow("r", d)
	b, calm := s.board(d), s.board(s.device("calm"))
	const bound = 1 << 20
	doc := func(size int) []byte {
		m := payload(b.device, b.said+1, b.said+1, "")
		if size < len(m) {
			t.Fatal(size)
		}
		return append(m, bytes.Repeat([]byte("\n"), size-len(m))...)
	}
	b.send(doc(bound))
	b.said++
	r.waitFor(d, 1)
	const counter = `iot_logsink_lines_irregular_total{reason="message_too_big"}`
	if got := s.metric(counter); got != 0 {
		t.Errorf("%v messages at the bound were refused", got)
	}
	b.send(doc(bound + 1))
	if got := s.metric(counter); got != 1 {
		t.Errorf("%v messages over the bound are counted, want 1", got)
	}
	b.say(1) // on the same connection
	r.waitFor(d, 2)

	huge, err := dial(s.mqtt, "huge")
	if err != nil {
		t.Fatal(err)
	}
	token := huge.Publish(sharedTopic, 1, false, bytes.Repeat([]byte("x"), 9<<20))
	if !token.WaitTimeout(patience) || token.Error() == nil {
		t.Errorf("a message of 9 MiB was acknowledged")
	}
	huge.Disconnect(0)
	b.say(1)
	calm.say(1)
	r.waitFor(d, 3)
	r.check()
	if r.opened != 1 || s.metric(counter) != 1 {
		t.Errorf("%d streams were needed, %v messages are counted", r.opened, s.metric(counter))
	}
}

// Rubbish on the MQTT port harms only who sends it.
func TestRubbishOnMQTTPort(t *testing.T) {
	s := start(t)
	d := s.device("d")
	r := s.follow("r", d)
	b := s.board(d)
	for _, rubbish := range []string{"GET / HTTP/1.1\r\n\r\n", "\x10\xff\xff\xff\xff", strings.Repeat("\x00", 1000), "\x30\x02"} {
		c, err := net.Dial("tcp", s.mqtt)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, rubbish)
		c.Close()
	}
	b.say(1)
	r.waitFor(d, 1)
	r.check()
}
