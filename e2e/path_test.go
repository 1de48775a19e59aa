package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"testing"

	"signalbox/internal/mosquittotest"
	"signalbox/internal/sse"
)

func split(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err) // only addresses that were listened on come here
	}
	return host, port
}

// curl opens a stream with curl -N, which ends with the test, and returns its
// decoder. What it takes on the stream is what a person at a terminal sees.
func (s *server) curl(requestID string) *sse.Decoder {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, tool(s.t, "curl"), "-sN", s.url("/api/sse/stream?request_id="+requestID))
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it is killed
	})
	return sse.NewDecoder(bufio.NewReader(out), "")
}

// subscribe makes a stream follow a device.
func (s *server) subscribe(requestID string, d device) {
	s.t.Helper()
	s.want(200, "POST", "/api/device-logs/subscribe", map[string]any{"request_id": requestID, "device_id": d.ID})
}

// A line that mosquitto_pub publishes, with any quality of service, on the
// embedded broker or on a real Mosquitto, reaches curl with an id, and belongs
// to the device that the topic names whatever the line claims.
func TestFromPublishToStream(t *testing.T) {
	broker := mosquittotest.Start(t, mosquittotest.Options{})
	s := start(t, "MQTT_URL="+broker.URL())
	kitchen, cellar := s.device("kitchen"), s.device("cellar")
	stream := s.curl("curl")
	next(t, stream, "ready")
	s.subscribe("curl", kitchen)
	s.subscribe("curl", cellar)
	eventually(t, "the external broker is connected", func() bool { return s.metric("iot_mqtt_connection_state") == 1 })

	ids := map[string]bool{}
	n := 0
	f := func(addr, topic, claim string, qos int, want device) {
		t.Helper()
		n++
		text := fmt.Sprintf("I (%d) main: number %d", 100*n, n)
		doc, _ := json.Marshal(map[string]any{"entity_id": claim, "message": text, "extra": n})
		publish(t, addr, topic, qos, string(doc))
		var got struct {
			DeviceID int64            `json:"device_id"`
			Entity   string           `json:"device_entity_id"`
			Logs     []map[string]any `json:"logs"`
			Meta     []map[string]any `json:"meta"`
		}
		if err := json.Unmarshal(next(t, stream, "device-logs"), &got); err != nil {
			t.Fatal(err)
		}
		if got.DeviceID != want.ID || got.Entity != want.Entity || len(got.Logs) != 1 {
			t.Fatalf("qos %d on %s: %+v, want one line of %s", qos, topic, got, want.Entity)
		}
		l := got.Logs[0]
		if l["message"] != text || l["extra"] != float64(n) || l["entity_id"] != claim || l["@timestamp"] == nil {
			t.Errorf("qos %d on %s: the line arrived as %v", qos, topic, l)
		}
		if m := got.Meta[0]; m["level"] != "info" || m["tag"] != "main" || m["uptime_ms"] != float64(100*n) {
			t.Errorf("qos %d on %s: recognised %v", qos, topic, m)
		}
		if id := stream.LastID(); id == "" || ids[id] {
			t.Errorf("qos %d on %s: id %q is empty or was there before", qos, topic, id)
		} else {
			ids[id] = true
		}
	}
	for _, addr := range []string{s.mqtt, broker.Addr} {
		for qos := range 3 {
			f(addr, sharedTopic, "kitchen", qos, kitchen)
			f(addr, sharedTopic, "cellar", qos, cellar)
			f(addr, sharedTopic+"/"+cellar.ClientID, "kitchen", qos, cellar)
		}
	}
}

// What no device owns is counted, and nobody receives it.
func TestUnmatchedLines(t *testing.T) {
	s := start(t)
	d := s.device("known")
	r := s.follow("r", d)
	publish(t, s.mqtt, sharedTopic, 1, `{"message":"from nobody"}`)
	publish(t, s.mqtt, sharedTopic, 1, `{"message":"from a stranger","entity_id":"stranger"}`)
	publish(t, s.mqtt, sharedTopic+"/iotdevice-board-aaaaaaaa", 1, `{"message":"from a stranger","entity_id":"known"}`)
	publish(t, s.mqtt, sharedTopic, 1, "{\"entity_id\":\"known\",\"message\":\"one\",\"n\":1}\nno JSON\n\n{\"entity_id\":\"known\",\"message\":\"two\",\"n\":2}\n")
	r.waitFor(d, 2)
	r.check()
	if got := r.numbers(d); len(got) != 2 {
		t.Errorf("lines %v arrived, want 1 and 2", got)
	}
	for _, reason := range []string{"no_entity", "unknown_entity", "unknown_client", "not_json"} {
		if got := s.metric(`iot_logsink_lines_irregular_total{reason="` + reason + `"}`); got != 1 {
			t.Errorf("%v lines counted as %s, want 1", got, reason)
		}
	}
}
