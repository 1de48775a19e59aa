package e2e_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"signalbox/internal/elastictest"
)

// With Elasticsearch as the history, which finds documents only some time after
// it took them, every acknowledged line can be read at once, and once, while the
// program is killed and the server is gone for a while.
func TestElasticsearchHistory(t *testing.T) {
	es := &elastictest.Server{Late: true}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL(), "LOGS_HISTORY=elasticsearch", "JOURNAL_MAX_AGE=2s")
	first, second := s.device("first"), s.device("second")
	check := func(k *talker) {
		t.Helper()
		k.mu.Lock()
		var acked []int
		for n := range k.acked {
			acked = append(acked, n)
		}
		k.mu.Unlock()
		got := s.history(k.device)
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("%s: lines are doubled or out of order", k.device.Entity)
		}
		has, missing := map[int]bool{}, 0
		for _, n := range got {
			has[n] = true
		}
		for _, n := range acked {
			if !has[n] {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("%s: of %d acknowledged lines %d are not in the history", k.device.Entity, len(acked), missing)
		}
	}
	talkers := []*talker{s.talk(first, 15*time.Millisecond, 1, false), s.talk(second, 20*time.Millisecond, 3, true)}
	for i := range 6 {
		time.Sleep(300*time.Millisecond + rand.N(900*time.Millisecond))
		for _, k := range talkers {
			check(k)
		}
		if i%2 == 1 {
			s.kill()
			s.launch()
		}
	}
	es.Down()
	time.Sleep(time.Second)
	r := s.call("GET", fmt.Sprintf("/api/devices/%d/logs?start=2000-01-01", first.ID), nil)
	if r.status != 503 || !strings.Contains(string(r.body), "Elasticsearch is currently unavailable") {
		t.Errorf("while the server is down: %d %s", r.status, r.body)
	}
	es.Up(t)
	for _, k := range talkers {
		k.stop()
		k.awaitCopies(t, es)
		check(k)
	}
	// The journal lets go of what is found, and nothing is missing.
	eventually(t, "the journal is empty", func() bool { return s.metric("iot_logsink_journal_bytes") == 0 })
	for _, k := range talkers {
		check(k)
	}
}

// The lines of the reference system, and pages back from the newest line to
// the oldest of them.
func TestElasticsearchHistoryOfReference(t *testing.T) {
	es := &elastictest.Server{}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL(), "LOGS_HISTORY=elasticsearch")
	d := s.device("kitchen")
	day := time.Date(2026, 7, 4, 12, 0, 0, 0, time.UTC)
	for i := range 500 {
		doc, err := json.Marshal(map[string]any{"@timestamp": day.Add(time.Duration(i/9) * time.Millisecond).Format("2006-01-02T15:04:05.000000+00:00"), "entity_id": "kitchen", "message": "old", "n": i + 1})
		if err != nil {
			t.Fatal(err)
		}
		es.Store(elastictest.Item{Index: "logstash-http-2026.07.04", ID: fmt.Sprintf("id-%d", i), Doc: doc})
	}
	b := s.board(d)
	b.say(100)
	seen, pages, before := map[string]bool{}, 0, ""
	for {
		var page struct {
			Logs []struct {
				Message string
				Cursor  string
			}
			HasMore     bool   `json:"has_more"`
			FirstCursor string `json:"first_cursor"`
		}
		path := fmt.Sprintf("/api/devices/%d/logs?limit=64&end=2100-01-01", d.ID)
		if before != "" {
			path = fmt.Sprintf("/api/devices/%d/logs?limit=64&before=%s", d.ID, before)
		}
		s.want(200, "GET", path, nil).into(t, &page)
		for _, l := range page.Logs {
			if seen[l.Cursor] {
				t.Fatalf("%s is there twice", l.Cursor)
			}
			seen[l.Cursor] = true
		}
		if pages++; !page.HasMore {
			break
		}
		before = page.FirstCursor
	}
	if len(seen) != 600 || pages != 10 {
		t.Errorf("%d lines on %d pages", len(seen), pages)
	}
	s.want(400, "GET", fmt.Sprintf("/api/devices/%d/logs?before=zzz-1", d.ID), nil)
}
