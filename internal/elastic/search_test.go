package elastic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/elastic"
	"signalbox/internal/elastictest"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// old is a document as the reference system wrote it.
func old(id, stamp, entity, message string) elastictest.Item {
	doc, _ := json.Marshal(map[string]any{"@timestamp": stamp, "entity_id": entity, "message": message}) // strings always marshal
	return elastictest.Item{Index: "logstash-http-2026.07.04", ID: id, Doc: doc}
}

// read reads every page of the query and returns the messages.
func read(t *testing.T, c *elastic.Client, q elastic.SearchQuery) (messages []string) {
	t.Helper()
	for range 10_000 {
		page, err := c.Search(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page.Hits {
			messages = append(messages, h.Message)
		}
		if !page.More {
			return messages
		}
		q.After = page.Next
	}
	t.Fatal("no end")
	return nil
}

func TestSearch(t *testing.T) {
	server := &elastictest.Server{}
	server.Start(t)
	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	if got := read(t, c, elastic.SearchQuery{Size: 10}); got != nil {
		t.Errorf("an empty server has %q", got)
	}

	// Ours, over two days, two lines of one batch within a microsecond.
	at := time.Date(2026, 7, 4, 23, 59, 59, 123_456_000, time.UTC)
	var lines []logs.SinkLine
	for i, l := range []struct {
		device, entity, message string
		after                   time.Duration
	}{
		{"dev00001", "kitchen", "Wifi up", 0}, {"dev00001", "kitchen", "wifi down", 0}, {"dev00002", "hall", "hello", time.Microsecond},
		{"dev00001", "kitchen", "100% (done)?", 2 * time.Microsecond}, {"", "cellar", "who am I", time.Second},
	} {
		lines = append(lines, logs.SinkLine{
			ID: fmt.Sprintf("e-%d.0", i+1), Seq: uint64(i + 1), Device: l.device, Received: at.Add(l.after),
			Doc: fmt.Appendf(nil, `{"@timestamp":%q,"entity_id":%q,"message":%q}`, at.Add(l.after).Format(logs.TimeLayout), l.entity, l.message),
		})
	}
	lines[1].ID, lines[1].Seq, lines[1].N, lines[1].Meta = "e-1.1", 1, 1, []byte(`{"level":"warn","tag":"wifi","uptime_ms":1500}`)
	if refused, err := c.Write(t.Context(), lines); err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	// The reference's, of the same entity and of another.
	server.Store(old("x1", "2026-07-04T10:00:00.000001+00:00", "kitchen", "old"), old("x2", "2026-07-04T11:00:00.000001+00:00", "attic", "older"))

	f := func(q elastic.SearchQuery, want ...string) {
		t.Helper()
		for _, size := range []int{1, 2, 3, 100} {
			q.Size = size
			if diff := cmp.Diff(want, read(t, c, q)); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", q, diff)
			}
		}
	}
	f(elastic.SearchQuery{}, "old", "older", "Wifi up", "wifi down", "hello", "100% (done)?", "who am I")
	f(elastic.SearchQuery{Descending: true}, "who am I", "100% (done)?", "hello", "wifi down", "Wifi up", "older", "old")
	f(elastic.SearchQuery{Device: "dev00001"}, "Wifi up", "wifi down", "100% (done)?")
	f(elastic.SearchQuery{Entity: "kitchen"}, "old", "Wifi up", "wifi down", "100% (done)?")
	f(elastic.SearchQuery{Device: "dev00001", Entity: "attic"}, "older", "Wifi up", "wifi down", "100% (done)?")
	f(elastic.SearchQuery{Device: "dev00001", Entity: "hall"}, "Wifi up", "wifi down", "100% (done)?") // ours know their device
	f(elastic.SearchQuery{Match: "wifi*"}, "Wifi up", "wifi down")
	f(elastic.SearchQuery{Match: "*d?wn"}, "wifi down")
	f(elastic.SearchQuery{Match: "wifi"})
	f(elastic.SearchQuery{From: at, To: at}, "Wifi up", "wifi down") // although the server knows milliseconds
	f(elastic.SearchQuery{From: at.Add(time.Microsecond), To: at.Add(time.Second), Descending: true}, "who am I", "100% (done)?", "hello")
	f(elastic.SearchQuery{To: at.Add(-time.Hour)}, "old", "older")

	page, err := c.Search(t.Context(), elastic.SearchQuery{Device: "dev00001", Size: 2, Count: true})
	if err != nil || page.Total != 3 || !page.More {
		t.Errorf("total %d, more %v, %v", page.Total, page.More, err)
	}
	uptime := 1500 * time.Millisecond
	want := elastic.Line{Time: at, Message: "wifi down", Entity: "kitchen", Device: "dev00001", Cursor: "e-1.1", Seq: 1, N: 1, Level: "warn", Tag: "wifi", Uptime: &uptime}
	if diff := cmp.Diff(want, page.Hits[1].Line); diff != "" {
		t.Error(diff)
	}
	if h := page.Hits[1]; h.ID != "e-1.1" || h.Index != "logstash-http-2026.07.04" || !strings.Contains(string(h.Source), `"wifi down"`) {
		t.Errorf("%+v", h)
	}
	for _, size := range []int{0, -1, elastic.MaxPage + 1} {
		if _, err := c.Search(t.Context(), elastic.SearchQuery{Size: size}); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("size %d: %v", size, err)
		}
	}
}

// Any number of old lines within one millisecond neither get lost between two
// pages nor come twice.
func TestSearchTies(t *testing.T) {
	server := &elastictest.Server{}
	server.Start(t)
	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	var want []string
	for i := range 250 {
		ms := i / (1 + rand.IntN(60)) // mostly in long runs
		message := fmt.Sprintf("%04d %03d", ms, i)
		server.Store(old(fmt.Sprintf("id%03d", i), noon.Add(time.Duration(ms)*time.Millisecond).Format(logs.TimeLayout), "kitchen", message))
		want = append(want, message)
	}
	slices.Sort(want)
	for _, size := range []int{3, 10, 50, 1000} {
		if diff := cmp.Diff(want, read(t, c, elastic.SearchQuery{Size: size})); diff != "" {
			t.Errorf("pages of %d:\n%s", size, diff)
		}
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, read(t, c, elastic.SearchQuery{Size: 7, Descending: true})); diff != "" {
		t.Error(diff)
	}
}

// More lines of one moment than a server gives out cannot be read in pages,
// which is said.
func TestSearchTooManyTies(t *testing.T) {
	server := &elastictest.Server{}
	server.Start(t)
	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	stamp := noon.Format(logs.TimeLayout)
	for i := range 10_000 {
		server.Store(old(fmt.Sprint(i), stamp, "kitchen", "m"))
	}
	if _, err := c.Search(t.Context(), elastic.SearchQuery{Size: 100}); fleet.KindOf(err) != fleet.External {
		t.Errorf("error %v", err)
	}
}

func TestSearchErrors(t *testing.T) {
	f := func(name, answer string, status int, kind fleet.Kind) {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, answer)
			}))
			defer server.Close()
			c, reg := newClient(t, elastic.Options{URL: server.URL})
			page, err := c.Search(t.Context(), elastic.SearchQuery{Size: 1})
			if fleet.KindOf(err) != kind {
				t.Errorf("%+v, %v; want an error of kind %v", page, err, kind)
			}
			if counted(t, reg, "iot_elasticsearch_operations_total", "query_logs", "error") != 1 {
				t.Error("not counted")
			}
		})
	}
	f("HTML", "<html>", 200, fleet.External)
	f("nothing", "", 200, fleet.External)
	f("no hits", "{}", 200, fleet.External)
	f("503", "{}", 503, fleet.External)
	f("400", `{"error":{}}`, 400, fleet.External)
	f("redirect", "", 302, fleet.External)
	f("timed out", `{"timed_out":true,"_shards":{"failed":0},"hits":{"hits":[]}}`, 200, fleet.External)
	f("a part failed", `{"timed_out":false,"_shards":{"failed":1},"hits":{"hits":[]}}`, 200, fleet.External)

	server := &elastictest.Server{}
	server.Start(t)
	server.Down()
	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	_, err := c.Search(t.Context(), elastic.SearchQuery{Size: 1})
	if kind, text := fleet.Public(err); kind != fleet.Unavailable || text != "Connection failed" {
		t.Errorf("%v: %q", kind, text)
	}
}

// Answers of servers that say things in their own way.
func TestSearchDialects(t *testing.T) {
	f := func(answer string, total int64, at time.Time) {
		t.Helper()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		defer server.Close()
		c, _ := newClient(t, elastic.Options{URL: server.URL})
		page, err := c.Search(t.Context(), elastic.SearchQuery{Size: 5, Count: true})
		if err != nil || page.Total != total || len(page.Hits) != 1 || !page.Hits[0].Time.Equal(at) {
			t.Errorf("%s: %+v, %v", answer, page, err)
		}
	}
	f(`{"hits":{"total":3,"hits":[{"_id":"a","_source":{"@timestamp":"2026-07-04T12:00:00Z"},"sort":[1]}]}}`, 3, noon)
	f(`{"hits":{"total":{"value":3},"hits":[{"_id":"a","_source":{"@timestamp":"2026-07-04T14:00:00.000+02:00"}}]}}`, 3, noon)
	f(`{"hits":{"hits":[{"_id":"a","_source":{"@timestamp":"2026-07-04T12:00:00.000000","signalbox":"theirs","message":7},"sort":[1]}]}}`, 0, noon)
	f(`{"hits":{"hits":[{"_id":"a","_source":{"@timestamp":"2026-07-04T12:00:00.000000088Z"}}]}}`, 0, noon)
	f(`{"hits":{"hits":[{"_id":"a","_source":{"@timestamp":1783166400000},"sort":[1783166400000,null,null]}]}}`, 0, noon)
}

func TestExport(t *testing.T) {
	server := &elastictest.Server{}
	server.Start(t)
	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	var want []string
	for i := range 500 {
		message := fmt.Sprintf("%03d", i)
		server.Store(old("id"+message, noon.Add(time.Duration(i/7)*time.Millisecond).Format(logs.TimeLayout), "kitchen", message))
		want = append(want, message)
	}
	query := elastic.SearchQuery{Size: 20, Entity: "kitchen"}
	x, err := c.Export(query)
	if err != nil {
		t.Fatal(err)
	}
	crash := errors.New("crash")
	var got []string
	var kept []byte // the mark
	var last elastic.Mark
	// Each life takes three pages and dies during the fourth.
	lives := 0
	for err := crash; err != nil; lives++ {
		var mark elastic.Mark
		if kept != nil {
			if err := json.Unmarshal(kept, &mark); err != nil {
				t.Fatal(err)
			}
		}
		pages := 0
		err = x.Run(t.Context(), mark, func(p elastic.Page, m elastic.Mark) error {
			if pages++; pages > 3 {
				return crash
			}
			for _, h := range p.Hits {
				got = append(got, h.Message)
			}
			if last = m; m.Done != int64(len(got)) || m.Total != 500 {
				t.Fatalf("mark %+v with %d documents", m, len(got))
			}
			kept, _ = json.Marshal(m) // always marshals
			return nil
		})
		if err != nil && !errors.Is(err, crash) {
			t.Fatal(err)
		}
		if lives > 50 {
			t.Fatal("no end")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if lives < 5 || last.Done != 500 {
		t.Errorf("%d lives, %+v", lives, last)
	}

	// When it is complete, it goes on with what is new.
	server.Store(old("id500", noon.Add(time.Hour).Format(logs.TimeLayout), "kitchen", "new"))
	got = nil
	if err := x.Run(t.Context(), last, func(p elastic.Page, _ elastic.Mark) error {
		for _, h := range p.Hits {
			got = append(got, h.Message)
		}
		return nil
	}); err != nil || !slices.Equal(got, []string{"new"}) {
		t.Errorf("%q, %v", got, err)
	}

	// A mark of another export is refused.
	query.Entity = "hall"
	other, err := c.Export(query)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context(), last, func(elastic.Page, elastic.Mark) error { return nil }); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("another query: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := x.Run(ctx, elastic.Mark{}, func(elastic.Page, elastic.Mark) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
