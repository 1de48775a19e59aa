package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"signalbox/internal/elastictest"
)

// document is what a line becomes.
type document struct {
	Time      string `json:"@timestamp"`
	Entity    string `json:"entity_id"`
	Message   string
	N         int
	Signalbox struct {
		Device string
		Cursor string
		Seq    uint64
		Level  string
	}
}

// copied returns the documents of the device, by number. A line that is there
// twice fails the test.
func copied(t *testing.T, es *elastictest.Server, d device) map[int]document {
	t.Helper()
	found := map[int]document{}
	for id, item := range es.Docs() {
		var doc document
		if err := json.Unmarshal(item.Doc, &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Entity != d.Entity {
			continue
		}
		if _, twice := found[doc.N]; twice {
			t.Errorf("line %d of %s is there twice", doc.N, d.Entity)
		}
		if doc.Signalbox.Device != d.Key || doc.Signalbox.Cursor != id {
			t.Errorf("%s is %s", id, item.Doc)
		}
		found[doc.N] = doc
	}
	return found
}

// awaitCopies waits until every line that was acknowledged is there.
func (k *talker) awaitCopies(t *testing.T, es *elastictest.Server) {
	t.Helper()
	missing := func() (n int) {
		have := copied(t, es, k.device)
		k.mu.Lock()
		defer k.mu.Unlock()
		for line := range k.acked {
			if _, ok := have[line]; !ok {
				n++
			}
		}
		return n
	}
	eventually(t, "all lines of "+k.device.Entity+" are copied", func() bool { return missing() == 0 })
}

// Each line becomes a document, also one that belongs to no device.
func TestElasticsearch(t *testing.T) {
	es := &elastictest.Server{Username: "writer", Password: "hush-hush"}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL(), "ELASTICSEARCH_USERNAME=writer", "ELASTICSEARCH_PASSWORD=hush-hush", "ELASTICSEARCH_INDEX_PREFIX=fleet-")
	d := s.device("kitchen")
	b := s.board(d)
	b.send([]byte(`{"entity_id":"kitchen","message":"W (81234) wifi: beacon timeout","n":1}` + "\n" + `{"entity_id":"nobody","message":"hello"}`))
	eventually(t, "two documents", func() bool { return es.Len() == 2 })
	got := copied(t, es, d)[1]
	at, err := time.Parse("2006-01-02T15:04:05.000000Z", got.Time)
	if err != nil || got.Message != "W (81234) wifi: beacon timeout" || got.Signalbox.Level != "warn" || got.Signalbox.Seq == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for id, item := range es.Docs() {
		if want := "fleet-" + at.Format("2006.01.02"); item.Index != want {
			t.Errorf("%s is in %s, want %s", id, item.Index, want)
		}
	}
	eventually(t, "the metrics say so", func() bool {
		return s.metric(`iot_logsink_sink_lines_total{sink="elasticsearch"}`) == 2 && s.metric("iot_logsink_queue_depth") == 0
	})
	if text := tailOf(s.log); text == "" || strings.Contains(text, "hush-hush") {
		t.Error("the log is empty or has the password")
	}
}

// The server is down before the start and for a while in between, and the
// program is killed meanwhile: everything arrives once, and readers notice
// nothing.
func TestElasticsearchDown(t *testing.T) {
	es := &elastictest.Server{}
	es.Start(t)
	es.Down()
	s := start(t, "ELASTICSEARCH_URL="+es.URL())
	first, second := s.device("first"), s.device("second")
	r := s.follow("r", first, second)
	talkers := []*talker{s.talk(first, 2*time.Millisecond, 1, false), s.talk(second, 3*time.Millisecond, 3, true)}

	r.waitFor(first, 50) // lives without it
	s.kill()
	s.launch()
	es.Up(t)
	eventually(t, "documents arrive", func() bool { return es.Len() > 100 })
	for range 3 {
		s.kill() // amid the writing
		s.launch()
		time.Sleep(300 * time.Millisecond) // a moment as good as any
	}
	es.Down()
	time.Sleep(time.Second)
	s.kill()
	s.launch()
	es.Up(t)
	for _, k := range talkers {
		time.Sleep(200 * time.Millisecond)
		k.stop()
	}
	for _, k := range talkers {
		k.checkHeard(r)
		k.awaitCopies(t, es)
		acked, _, sent := k.state()
		t.Logf("%s: %d lines sent, %d acknowledged, %d copied", k.device.Entity, sent, acked, len(copied(t, es, k.device)))
	}
	r.check()
	// A stop in order while it is down takes no longer, and loses nothing.
	es.Down()
	b := s.board(first)
	b.send([]byte(fmt.Sprintf(`{"entity_id":%q,"message":"the last one","n":1000000}`, first.Entity)))
	s.terminate()
	if code := s.awaitExit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	es.Up(t)
	s.launch()
	eventually(t, "the last line arrives", func() bool { return copied(t, es, first)[1_000_000].Message == "the last one" })
}

// The journal keeps what was not copied yet beyond its own limits, with and
// without a history.
func TestElasticsearchHoldsTheJournal(t *testing.T) {
	for _, history := range []string{"sql", "off"} {
		t.Run(history, func(t *testing.T) {
			t.Parallel()
			es := &elastictest.Server{}
			es.Start(t)
			es.Down()
			s := start(t, "ELASTICSEARCH_URL="+es.URL(), "LOGS_HISTORY="+history, "JOURNAL_MAX_AGE=1s", "HISTORY_SEAL_AGE=1s")
			d := s.device("held")
			b := s.board(d)
			b.say(100)
			time.Sleep(4 * time.Second) // well beyond the age, and a look at it each second
			s.kill()
			s.launch()
			es.Up(t)
			eventually(t, "all lines are copied", func() bool { return len(copied(t, es, d)) == 100 })
			eventually(t, "the journal lets them go", func() bool {
				return s.metric("iot_logsink_journal_age_seconds") == 0 && s.metric("iot_logsink_journal_bytes") == 0
			})
			if lost := s.metric(`iot_logsink_sink_lost_total{sink="elasticsearch"}`); lost != 0 {
				t.Errorf("%v batches lost", lost)
			}
		})
	}
}

// A server that takes requests and never answers delays nobody.
func TestElasticsearchHangs(t *testing.T) {
	es := &elastictest.Server{Bulk: func(_ http.ResponseWriter, r *http.Request, _ []elastictest.Item) bool {
		<-r.Context().Done()
		return true
	}}
	es.Start(t)
	s := start(t, "ELASTICSEARCH_URL="+es.URL())
	d := s.device("patient")
	r := s.follow("r", d)
	b := s.board(d)
	for n := 1; n <= 200; n++ {
		b.say(10)
	}
	r.waitFor(d, 2000)
	r.check()
	eventually(t, "the metrics say that records wait", func() bool {
		return s.metric("iot_logsink_queue_depth") == 200 && s.metric(`iot_logsink_sink_lag_seconds{sink="elasticsearch"}`) > 0
	})
	begin := time.Now()
	s.terminate()
	if code := s.awaitExit(20 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the shutdown took %v", took)
	}
}
