package logs_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

func TestSplitEvent(t *testing.T) {
	type event struct {
		Entity  string            `json:"device_entity_id"`
		Cursor  string            `json:"cursor"`
		Lines   int               `json:"lines"`
		Indices []int             `json:"indices,omitempty"`
		Logs    []json.RawMessage `json:"logs"`
		Meta    []json.RawMessage `json:"meta,omitempty"`
	}
	f := func(lines, most int, indices, meta bool) {
		t.Helper()
		whole := event{Entity: "boiler <1>", Cursor: "e-7", Lines: lines}
		for n := range lines {
			whole.Logs = append(whole.Logs, fmt.Appendf(nil, `{"message":"%0100d"}`, n))
			if meta {
				whole.Meta = append(whole.Meta, fmt.Appendf(nil, `{"uptime_ms":%d}`, n))
			}
			if indices {
				whole.Indices = append(whole.Indices, 3*n+1)
			}
		}
		payload, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		parts, err := logs.SplitEvent(payload, func(part []byte) bool { return len(part) <= most })
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for _, part := range parts {
			var e event
			if err := json.Unmarshal(part, &e); err != nil {
				t.Fatal(err)
			}
			if e.Lines != len(e.Logs) || e.Entity != whole.Entity || e.Cursor != whole.Cursor || len(e.Indices) != e.Lines || meta && len(e.Meta) != e.Lines || len(part) > most && e.Lines > 1 {
				t.Fatalf("%d bytes: %.300s", len(part), part)
			}
			for n, line := range e.Logs {
				place := next
				if indices {
					place = whole.Indices[next]
				}
				if string(line) != string(whole.Logs[next]) || meta && string(e.Meta[n]) != string(whole.Meta[next]) || e.Indices[n] != place {
					t.Fatalf("line %d is %s at %d", next, line, e.Indices[n])
				}
				next++
			}
		}
		if next != lines {
			t.Errorf("%d of %d lines in %d parts", next, lines, len(parts))
		}
	}
	f(1, 10, false, false) // one line is not split
	f(2, 10, false, true)
	f(1000, 5000, false, false)
	f(1000, 5000, true, true)
	f(7, 1<<20, true, true)
	long := `{"logs":[{"message":"a"},{"@timestamp":"t","x":"` + strings.Repeat("x", 1000) + `","message":"b` + strings.Repeat("€", 1000) + `"}],"lines":2}`
	parts, err := logs.SplitEvent([]byte(long), func(part []byte) bool { return len(part) <= 500 })
	if err != nil || len(parts) != 2 || len(parts[1]) > 500 || len(parts[1]) < 300 || !strings.Contains(string(parts[1]), `{"@timestamp":"t","message":"b€€€`) || !strings.Contains(string(parts[1]), `€","truncated":true}`) {
		t.Errorf("%v %q", err, parts)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"logs":[]}`, `{"logs":{}}`, `{"logs":[1],"meta":[]}`, `{"logs":[1],"indices":[1,2]}`, `{"logs":[1],"indices":"x"}`} {
		if _, err := logs.SplitEvent([]byte(bad), func([]byte) bool { return false }); fleet.KindOf(err) != fleet.Invalid || err == nil {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
