package e2e_test

import (
	"fmt"
	"slices"
	"testing"
)

// fleetAnswer is that of GET /api/fleet.
type fleetAnswer struct {
	Token    string
	Complete bool
	Filled   bool
	Devices  []said
}

type said struct {
	ID   int64 `json:"device_id"`
	Last *struct{ Message, Cursor string }

	Lines    int `json:"lines_hour"`
	Errors   int `json:"errors_hour"`
	Watchers int
}

func (s *server) fleet(query string) (a fleetAnswer) {
	s.t.Helper()
	s.want(200, "GET", "/api/fleet"+query, nil).into(s.t, &a)
	return a
}

// of returns what an answer says of a device, and whether it does.
func (a fleetAnswer) of(d device) (said, bool) {
	i := slices.IndexFunc(a.Devices, func(s said) bool { return s.ID == d.ID })
	if i < 0 {
		return said{}, false
	}
	return a.Devices[i], true
}

// What devices said of late is the same after a restart, wherever it is stored:
// still in the journal, or in the history when the journal has given it up.
func TestFleet(t *testing.T) {
	for name, settings := range map[string][]string{
		"history":    {"HISTORY_SEAL_AGE=1s"},
		"no history": {"LOGS_HISTORY=off"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, settings...)
			talks, silent := s.device("talks"), s.device("silent")
			b := s.board(talks)
			before := s.fleet("")
			if !before.Complete || len(before.Devices) != 2 {
				t.Fatalf("at first: %+v", before)
			}
			if a := s.fleet("?since=" + before.Token); a.Complete || len(a.Devices) != 0 {
				t.Errorf("nothing changed, but %+v", a)
			}

			b.say(3)
			b.send([]byte(`{"entity_id":"talks","message":"E (81234) wifi: beacon timeout"}`))
			// Once it is acknowledged it is known.
			a := s.fleet("?since=" + before.Token)
			got, ok := a.of(talks)
			if !ok || len(a.Devices) != 1 || got.Last == nil || got.Last.Message != "E (81234) wifi: beacon timeout" || got.Lines != 4 || got.Errors != 1 {
				t.Errorf("it said four lines, but %+v", a)
			}
			r := s.follow("watching", silent)
			if a := s.fleet("?since=" + a.Token); len(a.Devices) != 1 || a.Devices[0].ID != silent.ID || a.Devices[0].Watchers != 1 {
				t.Errorf("one watches the silent one, but %+v", a)
			}
			r.stop()

			if name == "history" {
				eventually(t, "all is in the history", func() bool { return s.metric("iot_history_lines_sealed_total") == 4 })
			}
			s.kill()
			s.launch()
			eventually(t, "what was stored is known", func() bool { return s.fleet("").Filled })
			a = s.fleet("?since=" + a.Token)
			again, _ := a.of(talks)
			if !a.Complete || again.Last == nil || *again.Last != *got.Last || again.Lines != 4 || again.Errors != 1 {
				t.Errorf("after the restart: %+v, before: %+v", again, got)
			}
			if other, ok := a.of(silent); !ok || other.Last != nil || other.Lines != 0 {
				t.Errorf("the silent one: %+v", other)
			}

			s.want(204, "DELETE", fmt.Sprintf("/api/devices/%d", talks.ID), nil)
			if _, ok := s.fleet("").of(talks); ok {
				t.Error("a deleted device is still there")
			}
		})
	}
}
