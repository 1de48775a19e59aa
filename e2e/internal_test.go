package e2e_test

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// The internal listener has what operators use; the main one does not.
func TestListeners(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/metrics", "/internal/rotation-nudge", "/internal/"} {
		for _, method := range []string{"GET", "POST"} {
			r := s.call(method, path, nil)
			var p problem
			r.into(t, &p)
			if r.status != 404 || p.Error != "Resource not found" {
				t.Errorf("%s %s on the main listener: %d %s", method, path, r.status, r.body)
			}
		}
	}
	if r := s.inside("GET", "/api/devices"); r.status != 404 {
		t.Errorf("the API on the internal listener: %d", r.status)
	}
	for _, path := range []string{"/health/healthz", "/health/readyz"} {
		if a, b := s.call("GET", path, nil), s.inside("GET", path); a.status != 200 || b.status != 200 {
			t.Errorf("%s: %d on the main listener and %d on the internal one", path, a.status, b.status)
		}
	}
	if r := s.inside("GET", "/internal/rotation-nudge"); r.status != 405 {
		t.Errorf("GET of the nudge: %d", r.status)
	}
}

// A burst of nudges reaches every stream, as few events, and each is counted.
func TestNudge(t *testing.T) {
	s := start(t, "SSE_HEARTBEAT_INTERVAL=1s")
	readers := []*reader{s.newReader("one"), s.newReader("two")}
	for _, r := range readers {
		r.start()
		r.wait("the stream is open", func() bool { return r.opened == 1 })
	}
	const burst = 100
	begun := time.Now()
	var asking sync.WaitGroup
	for range burst {
		asking.Go(func() {
			if r := s.inside("POST", "/internal/rotation-nudge"); r.status != 200 || strings.TrimSpace(string(r.body)) != `{"status":"ok"}` {
				t.Errorf("nudge: %d %s", r.status, r.body)
			}
		})
	}
	asking.Wait()
	took := time.Since(begun)
	// One at once, one for what came in the pause after it; more only if the
	// machine was so busy that the burst was none.
	most := 2 + int(took/(250*time.Millisecond))
	time.Sleep(time.Second) // for more than there may be
	for _, r := range readers {
		r.wait("a nudge arrives", func() bool { return r.counts["rotation-updated"] > 0 })
		r.mu.Lock()
		if got := r.counts["rotation-updated"]; got > most {
			t.Errorf("a burst of %d nudges in %v became %d events, want at most %d", burst, took, got, most)
		}
		r.mu.Unlock()
	}
	if got := s.metric(`sse_rotation_nudge_broadcast_total{source="cronjob"}`); got != burst {
		t.Errorf("%v nudges are counted, want %d", got, burst)
	}
}

// Every metric that dashboards may be built on is there.
func TestMetricNames(t *testing.T) {
	s := start(t, "MQTT_URL=mqtt://127.0.0.1:1") // where nobody is
	d := s.device("d")
	r := s.follow("r", d)
	publish(t, s.mqtt, sharedTopic, 1, `{"entity_id":"d","message":"x","n":1}`+"\nrubbish")
	r.waitFor(d, 1)
	// A write is counted after it: the reader may be faster.
	eventually(t, "the write is counted", func() bool { return s.metric(`sse_device_log_events_sent_total{status="success"}`) == 1 })
	text := "\n" + string(s.inside("GET", "/metrics").body)
	for _, series := range []string{
		"sse_device_log_subscriptions_active 1",
		`sse_device_log_events_sent_total{status="success"} 1`,
		`sse_rotation_nudge_broadcast_total{source="cronjob"} 0`,
		`sse_rotation_nudge_broadcast_total{source="web"} 0`,
		`sse_identity_binding_total{status="success"} 1`,
		`sse_gateway_connections_total{action="connect"} 1`,
		"sse_gateway_active_connections 1",
		`sse_gateway_events_sent_total{service="device-logs",status="success"} 1`,
		`sse_gateway_events_sent_total{service="version",status="success"} 1`,
		`sse_gateway_send_duration_seconds_count{service="device-logs"} `,
		"sse_device_log_latency_seconds_count 1", // end to end
		"sse_log_readers_behind 0",
		"sse_log_gap_lines_total 0",
		`iot_logsink_messages_received_total{status="success"} 1`,
		`iot_logsink_messages_received_total{status="parse_error"} 1`,
		`iot_logsink_messages_received_total{status="processing_error"} 0`,
		`iot_logsink_lines_irregular_total{reason="not_json"} 1`,
		"iot_logsink_enabled 1",
		"iot_logsink_batch_size_count 1",
		"iot_logsink_journal_bytes ",
		"iot_logsink_journal_limit_bytes 1.7179869184e+10", // four times JOURNAL_MAX_BYTES
		"iot_logsink_journal_pending 0",
		"iot_logsink_live_lag 0",
		"iot_mqtt_connection_state 0",
		"iot_mqtt_enabled 1",
		"iot_mqtt_subscriptions_total ",
		`iot_config_operations_total{operation="create_device",status="success"} 1`,
		`iot_config_operation_duration_seconds_count{operation="create_device"} 1`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, "\n"+series) {
			t.Errorf("/metrics lacks %q", series)
		}
	}
	if ct := s.inside("GET", "/metrics").header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain; version=0.0.4") {
		t.Errorf("/metrics is %s", ct)
	}
}
