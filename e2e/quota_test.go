package e2e_test

import (
	"net/http"
	"strings"
	"testing"
)

// deviceOf creates a device of a model, which is made with it.
func (s *server) deviceOf(model, entity string) device {
	s.t.Helper()
	var m struct{ ID int64 }
	s.want(http.StatusCreated, "POST", "/api/device-models", map[string]any{"code": model, "name": model}).into(s.t, &m)
	var d device
	s.want(http.StatusCreated, "POST", "/api/devices", map[string]any{"device_model_id": m.ID, "config": configOf(entity)}).into(s.t, &d)
	return d
}

// told returns what Signalbox itself said in the log of the device.
func (r *reader) told(d device) (texts []string) {
	for _, l := range r.lines[d.ID] {
		if text, ok := strings.CutPrefix(l.Message, "signalbox: "); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// A device of a model with a quota is cut at it, and a reader sees that; a
// device of another model, which says as much, loses nothing.
func TestQuotaOfModel(t *testing.T) {
	s := start(t, `DEVICE_LOG_QUOTAS={"chatty":{"lines_per_day":240}}`)
	small, free := s.deviceOf("chatty", "small"), s.deviceOf("calm", "free")
	r := s.follow("r", small, free)
	a, b := s.board(small), s.board(free)
	a.say(230)
	b.say(230)
	a.say(30)
	b.say(30)
	r.waitFor(free, 260)
	r.wait("the cut is told", func() bool { return len(r.told(small)) > 0 })
	a.say(5) // some may trickle through, but not five
	b.say(1)
	r.waitFor(free, 261)

	r.mu.Lock()
	own := len(r.lines[small.ID]) - len(r.told(small))
	told := r.told(small)
	others := r.told(free)
	r.mu.Unlock()
	if own < 240 || own > 242 {
		t.Errorf("%d lines of the device over its quota arrived, want 240", own)
	}
	if want := "log quota of 240 lines/day exceeded; lines are being dropped"; len(told) != 1 || told[0] != want {
		t.Errorf("told %q, want %q", told, want)
	}
	if len(others) != 0 {
		t.Errorf("told the device without a quota %q", others)
	}
	if n := s.metric(`iot_logsink_lines_irregular_total{reason="over_day"}`); n != float64(265-own) {
		t.Errorf("%v lines counted, %d dropped", n, 265-own)
	}
	if n := s.metric("iot_logsink_devices_cut"); n != 1 {
		t.Errorf("%v devices are being cut", n)
	}
}
