package mqtt

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	packets3 "github.com/eclipse/paho.mqtt.golang/packets"

	"signalbox/internal/logs"
)

func TestFrames(t *testing.T) {
	// publish5 and publish3 write a message with a library, and read5 and
	// read3 read one back.
	publish5 := func(w io.Writer, payload, property string) {
		p := &packets.Publish{Topic: "a/b", QoS: 1, PacketID: 7, Payload: []byte(payload), Properties: &packets.Properties{ContentType: "text"}}
		for ; len(property) > 0; property = property[min(len(property), 60_000):] {
			p.Properties.User = append(p.Properties.User, packets.User{Key: "k", Value: property[:min(len(property), 60_000)]})
		}
		if _, err := p.WriteTo(w); err != nil {
			t.Fatal(err)
		}
	}
	f := func(payload, property, want string) {
		t.Helper()
		var in bytes.Buffer
		publish5(&in, payload, property)
		publish5(&in, "next", "")
		r := &frames{r: bufio.NewReader(&in), level: 5}
		for _, want := range []string{want, "next"} {
			p, err := packets.ReadPacket(r)
			if err != nil {
				t.Fatal(err)
			}
			m := p.Content.(*packets.Publish)
			if string(m.Payload) != want || m.Topic != "a/b" || m.PacketID != 7 || m.QoS != 1 {
				t.Errorf("payload of %d, properties of %d bytes: got %d bytes, want %d; topic %q, id %d", len(payload), len(property), len(m.Payload), len(want), m.Topic, m.PacketID)
			}
		}
		if _, err := packets.ReadPacket(r); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v, want io.EOF", err)
		}
	}
	x := func(n int) string { return strings.Repeat("x", n) }
	f("", "", "")
	f("hello", "", "hello")
	f(x(logs.MaxMessage), "", x(logs.MaxMessage))
	f(x(logs.MaxMessage+1), "", x(logs.MaxMessage+1))
	f(x(maxPacket-100), "", x(maxPacket-100))
	f(x(maxPacket), "", x(logs.MaxMessage+1))
	f(x(3*maxPacket), "", x(logs.MaxMessage+1))
	f("short", x(3*maxPacket), "short") // the properties are what is too long

	for _, qos := range []byte{0, 1} {
		p := packets3.NewControlPacket(packets3.Publish).(*packets3.PublishPacket)
		p.TopicName, p.Qos, p.MessageID, p.Payload = "a/b", qos, 7, []byte(x(maxPacket))
		var in bytes.Buffer
		if err := p.Write(&in); err != nil {
			t.Fatal(err)
		}
		got, err := packets3.ReadPacket(&frames{r: bufio.NewReader(iotest.HalfReader(&in)), level: 4})
		if err != nil {
			t.Fatal(err)
		}
		if g := got.(*packets3.PublishPacket); len(g.Payload) != logs.MaxMessage+1 || g.TopicName != "a/b" || qos == 1 && g.MessageID != 7 {
			t.Errorf("MQTT 3.1.1, QoS %d: got %d bytes for %q, id %d", qos, len(g.Payload), g.TopicName, g.MessageID)
		}
	}
}

// FuzzFrames checks that what is small passes unchanged, however it is split,
// and that nothing makes frames panic or invent bytes.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{2 << 4, 2, 0, 1})
	f.Add([]byte{3<<4 | 2, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a', 0, 1, 0})
	f.Add([]byte{3 << 4, 0x80, 0x80, 0x80, 0x01, 0xff, 0xff})
	f.Add([]byte{3 << 4, 0xff, 0xff, 0xff, 0x30, 0x30, 0x30}) // a topic of 12 KiB
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, level := range []byte{4, 5} {
			r := &frames{r: bufio.NewReader(iotest.OneByteReader(bytes.NewReader(in))), level: level}
			out, err := io.ReadAll(r)
			if len(out) > len(in) {
				t.Fatalf("%d bytes from %d", len(out), len(in))
			}
			if err == nil && !bytes.Equal(out, in) && len(in) < maxPacket {
				// Only a packet that claims to be over the bound is changed.
				if !bytes.ContainsFunc(in, func(r rune) bool { return r >= 0x80 }) {
					t.Fatalf("%x became %x", in, out)
				}
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	f := func(failures int, least, most time.Duration) {
		t.Helper()
		for range 100 {
			if d := backoff(time.Second, 30*time.Second, failures); d < least || d > most {
				t.Fatalf("after %d failures: %s, want %s to %s", failures, d, least, most)
			}
		}
	}
	f(1, 500*time.Millisecond, time.Second)
	f(2, time.Second, 2*time.Second)
	f(5, 8*time.Second, 16*time.Second)
	f(6, 15*time.Second, 30*time.Second)
	f(1000, 15*time.Second, 30*time.Second)
}
