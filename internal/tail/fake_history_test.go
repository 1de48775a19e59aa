package tail

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"signalbox/internal/logs"
)

// isOf reports whether the device is of the model; "" is any.
func (s *server) isOf(device int64, model string) bool {
	of := int64(1)
	if m, ok := s.modelOf[device]; ok {
		of = m
	}
	return model == "" || model == strconv.FormatInt(of, 10)
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(map[string]any{"device_models": []model{{1, "sensor"}, {2, "relay"}}})
}

// history answers GET /api/logs from the journal.
func (s *server) history(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	s.queries = append(s.queries, q)
	if s.onPage != nil && s.onPage(len(s.queries), w, q) {
		return
	}
	f := logs.Filter{Tag: q.Get("tag"), Pattern: q.Get("query"), Regex: q.Get("regex")}
	f.Level, _ = logs.ParseLevel(q.Get("level"))
	match, err := f.Matcher()
	if err != nil {
		problem(w, http.StatusBadRequest, "The regex is not valid (RE2 syntax)")
		return
	}
	var p page
	for i := range s.journal {
		s.journal[i].past(&p, uint64(i+1), s.fleet, func(l *pastLine) bool {
			level, _ := logs.ParseLevel(text(l.Level))
			if q.Get("documents") != "true" {
				l.Document = nil
			}
			return s.wanted(l.DeviceID, q) && l.Timestamp >= q.Get("start") && l.Timestamp <= q.Get("end") &&
				behind(l.Cursor, q.Get("after")) && ahead(l.Cursor, q.Get("before")) && match.Match(level, text(l.Tag), []byte(l.Message))
		})
	}
	p.CompleteTo = fmt.Sprintf("e-%d", len(s.journal))
	if limit, _ := strconv.Atoi(q.Get("limit")); len(p.Logs) > limit {
		p.HasMore = true
		if q.Has("before") {
			p.Logs = p.Logs[len(p.Logs)-limit:]
		} else {
			p.Logs = p.Logs[:limit]
			p.CompleteTo = p.Logs[limit-1].Cursor
		}
	}
	if n := len(p.Logs); n > 0 {
		p.FirstCursor, p.LastCursor = p.Logs[0].Cursor, p.Logs[n-1].Cursor
	}
	from, to := q.Get("after"), q.Get("before") // what was searched
	if p.HasMore && q.Has("before") {
		from = p.FirstCursor
	} else if p.HasMore {
		to = p.LastCursor
	}
	p.Gaps = slices.DeleteFunc(p.Gaps, func(g pastGap) bool {
		first, last := places(g.From, g.To)
		first.Seq, first.Line, last.Line = first.Seq+1, 0, logs.MaxLines
		return !behind(last.String(), from) || !ahead(first.String(), to) || !s.wanted(g.DeviceID, q)
	})
	json.NewEncoder(w).Encode(p)
}

// wanted reports whether a query is about the device.
func (s *server) wanted(device int64, q url.Values) bool {
	return s.isOf(device, q.Get("model_id")) && (!q.Has("device_ids") || slices.Contains(strings.Split(q.Get("device_ids"), ","), fmt.Sprint(device)))
}

// behind reports whether a line lies after the cursor, ahead whether it lies
// before it; both are so without a cursor.
func behind(line, cursor string) bool {
	l, c := places(line, cursor)
	return cursor == "" || l.Seq > c.Seq || l.Seq == c.Seq && c.Line != logs.WholeBatch && l.Line > c.Line
}

func ahead(line, cursor string) bool {
	l, c := places(line, cursor)
	return cursor == "" || l.Seq < c.Seq || l.Seq == c.Seq && c.Line != logs.WholeBatch && l.Line < c.Line
}

func places(a, b string) (logs.LineCursor, logs.LineCursor) {
	x, _ := logs.ParseLineCursor(a)
	y, _ := logs.ParseLineCursor(b)
	return x, y
}

// past adds what the record holds to a page.
func (rec *record) past(p *page, seq uint64, fleet []device, wanted func(*pastLine) bool) {
	var d device
	if i := slices.IndexFunc(fleet, func(d device) bool { return d.ID == rec.device }); i >= 0 {
		d = fleet[i]
	}
	if rec.gap {
		g := pastGap{}
		json.Unmarshal([]byte("{"+rec.body+"}"), &g)
		g.DeviceID, g.DeviceKey, g.EntityID = rec.device, d.Key, text(d.EntityID)
		p.Gaps = append(p.Gaps, g)
		return
	}
	var b logsPayload
	if err := json.Unmarshal([]byte("{"+rec.body+"}"), &b); err != nil {
		panic(err)
	}
	for i, doc := range b.Logs {
		e := entry{doc: doc}
		e.read(b.Received)
		l := pastLine{DeviceID: d.ID, DeviceKey: d.Key, EntityID: text(d.EntityID), Timestamp: b.Received, Message: e.message, Document: doc}
		l.Cursor = logs.LineCursor{Cursor: logs.Cursor{Epoch: "e", Seq: seq}, Line: i}.String()
		if i < len(b.Meta) {
			l.lineMeta = b.Meta[i]
		}
		if wanted(&l) {
			p.Logs = append(p.Logs, l)
		}
	}
}

// sayAt makes a device log a batch at a time of 2026-02-01.
func (s *server) sayAt(clock string, device int64, level string, messages ...string) {
	s.append(record{device: device, body: strings.ReplaceAll(batch(level, messages...), stamp, "2026-02-01T"+clock+".000000Z")})
}

// look starts History.
func look(t *testing.T, s *server, cfg HistoryConfig) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{out: newSink(), err: newSink(), cancel: cancel, done: make(chan error, 1)}
	cfg.Config = r.connect(s, cfg.Config)
	go func() { r.done <- History(ctx, cfg) }()
	t.Cleanup(cancel)
	return r
}

// printed returns what a whole History prints.
func printed(t *testing.T, s *server, cfg HistoryConfig) string {
	t.Helper()
	r := look(t, s, cfg)
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if got := r.err.String(); got != "" {
		t.Errorf("Err has %q", got)
	}
	return r.out.String()
}

// messages returns the messages of what was printed.
func messages(printed string) (all []string) {
	for line := range strings.Lines(printed) {
		_, m, _ := strings.Cut(line, "| ")
		all = append(all, strings.TrimSpace(m))
	}
	return all
}

// midnight is when the tests' day begins.
var midnight = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
