package elastic_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"signalbox/internal/elastic"
	"signalbox/internal/elastictest"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, o elastic.Options) (*elastic.Client, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	o.IndexPrefix, o.IndexPattern, o.EntityField, o.Metrics = "logstash-http-", "logstash-http-*", "entity_id", elastic.NewMetrics(reg)
	c, err := elastic.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, reg
}

// counted returns the value of a counter, by its labels' values.
func counted(t *testing.T, reg *prometheus.Registry, name string, values ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && strings.Join(got, " ") == strings.Join(values, " ") {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

var noon = time.Date(2026, 7, 4, 12, 0, 0, 0, time.UTC)

func line(n int, message string) logs.SinkLine {
	return logs.SinkLine{
		ID: fmt.Sprintf("e-%d.0", n), Seq: uint64(n), Device: "dev00001", Received: noon,
		Doc: fmt.Appendf(nil, `{"@timestamp":"2026-07-04T12:00:00.000000Z","message":%q,"entity_id":"kitchen"}`, message),
	}
}

func TestWrite(t *testing.T) {
	server := &elastictest.Server{Username: "writer", Password: "pass word"}
	server.Start(t)
	c, reg := newClient(t, elastic.Options{URL: server.URL(), Username: "writer", Password: "pass word"})
	lines := []logs.SinkLine{line(1, "one"), line(2, "two"), {ID: "e-3.0", Received: noon, Doc: []byte("rubbish")}, line(4, "four")}
	for range 2 { // again changes nothing
		refused, err := c.Write(t.Context(), lines)
		if err != nil || len(refused) != 1 || refused[0].Index != 2 || refused[0].Kind != fleet.Invalid {
			t.Fatalf("Write() = %v, %v", refused, err)
		}
		if server.Len() != 3 {
			t.Errorf("%d documents", server.Len())
		}
	}
	got := server.Docs()["e-2.0"]
	want := `{"@timestamp":"2026-07-04T12:00:00.000000Z","message":"two","entity_id":"kitchen","signalbox":{"device":"dev00001","cursor":"e-2.0","epoch":"e","seq":2,"line":0}}`
	if got.Index != "logstash-http-2026.07.04" || string(got.Doc) != want {
		t.Errorf("got %s in %s", got.Doc, got.Index)
	}
	if n := counted(t, reg, "iot_logsink_es_writes_total", "none", "success"); n != 2 {
		t.Errorf("%v writes counted", n)
	}
	// The index of a refusal is that in the lines.
	server.Judge = func(i elastictest.Item) (int, string) {
		if i.ID == "e-4.0" {
			return 400, "mapper_parsing_exception"
		}
		return 201, ""
	}
	refused, err := c.Write(t.Context(), lines)
	if err != nil || len(refused) != 2 || refused[1].Index != 3 {
		t.Errorf("Write() = %v, %v", refused, err)
	}
	u, _ := newClient(t, elastic.Options{URL: strings.Replace(server.URL(), "http://", "http://writer:pass%20word@", 1)})
	if _, err := u.Write(t.Context(), lines[:1]); err != nil {
		t.Errorf("with the password in the URL: %v", err)
	}
}

func TestWriteErrors(t *testing.T) {
	f := func(name string, bulk func(http.ResponseWriter), kind fleet.Kind, how string) {
		t.Run(name, func(t *testing.T) {
			server := &elastictest.Server{Bulk: func(w http.ResponseWriter, _ *http.Request, _ []elastictest.Item) bool { bulk(w); return true }}
			server.Start(t)
			c, reg := newClient(t, elastic.Options{URL: strings.Replace(server.URL(), "http://", "http://writer:hush@", 1) + "?token=hush"})
			refused, err := c.Write(t.Context(), []logs.SinkLine{line(1, "one")})
			if fleet.KindOf(err) != kind || refused != nil {
				t.Fatalf("Write() = %v, %v; want an error of kind %v", refused, err, kind)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if counted(t, reg, "iot_logsink_es_writes_total", how, "error") != 1 {
				t.Errorf("not counted as %s", how)
			}
		})
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { http.Error(w, strings.Repeat("no ", 100_000), code) }
	}
	f("413", status(413), fleet.TooLarge, "http_error")
	f("400", status(400), fleet.Invalid, "http_error")
	for _, code := range []int{401, 403, 404, 429, 500, 502, 503} {
		f(fmt.Sprint(code), status(code), fleet.External, "http_error")
	}
	f("redirect", func(w http.ResponseWriter) {
		w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}, fleet.External, "http_error")
	f("no JSON", func(w http.ResponseWriter) { fmt.Fprint(w, "<html>hello") }, fleet.External, "unknown")
	f("huge", func(w http.ResponseWriter) {
		part := bytes.Repeat([]byte(" "), 1<<20)
		for range 80 {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}, fleet.External, "unknown")
	f("half an answer", func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, `{"errors":false,"items":[{"index":{"sta`)
	}, fleet.Unavailable, "connection")
	f("hang up", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, fleet.Unavailable, "connection")

	t.Run("down", func(t *testing.T) {
		server := &elastictest.Server{}
		server.Start(t)
		server.Down()
		c, reg := newClient(t, elastic.Options{URL: server.URL()})
		if _, err := c.Write(t.Context(), []logs.SinkLine{line(1, "one")}); fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("error %v", err)
		}
		if counted(t, reg, "iot_logsink_es_writes_total", "connection", "error") != 1 {
			t.Error("not counted")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server := &elastictest.Server{Bulk: func(_ http.ResponseWriter, r *http.Request, _ []elastictest.Item) bool {
			cancel()
			<-r.Context().Done()
			return true
		}}
		server.Start(t)
		c, _ := newClient(t, elastic.Options{URL: server.URL()})
		if _, err := c.Write(ctx, []logs.SinkLine{line(1, "one")}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestNew(t *testing.T) {
	for _, bad := range []string{"", "host:9200", "ftp://host", "http://", "http://user:hush@:%"} {
		if _, err := elastic.New(elastic.Options{URL: bad}); fleet.KindOf(err) != fleet.Invalid || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Whatever the server does, each line is there once in the end, or is a dead
// letter because the server will never take it.
func TestHostileServer(t *testing.T) {
	var mu sync.Mutex // of random and hostile
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	hostile := true
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		if !hostile {
			return n - 1
		}
		return random.IntN(n)
	}
	poison := func(i elastictest.Item) bool { return bytes.Contains(i.Doc, []byte("poison")) }
	// Some lines another server in between will not let through.
	banned := func(i elastictest.Item) bool { return bytes.Contains(i.Doc, []byte("<script>")) }

	server := &elastictest.Server{MaxBody: 60_000}
	server.Judge = func(i elastictest.Item) (int, string) {
		switch {
		case poison(i):
			return 400, "document_parsing_exception"
		case dice(10) == 0:
			return 429, "es_rejected_execution_exception"
		case dice(20) == 0:
			return 503, "unavailable_shards_exception"
		}
		return 201, ""
	}
	server.Bulk = func(w http.ResponseWriter, r *http.Request, items []elastictest.Item) bool {
		for _, i := range items {
			if banned(i) {
				http.Error(w, "blocked", http.StatusBadRequest)
				return true
			}
		}
		switch dice(12) {
		case 0:
			http.Error(w, "overloaded", http.StatusTooManyRequests)
		case 1:
			http.Error(w, "restarting", http.StatusServiceUnavailable)
		case 2: // all is stored, and half of the answer arrives
			answer := server.Answer(items)
			w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
			w.Write(answer[:len(answer)/2])
			panic(http.ErrAbortHandler)
		case 3:
			fmt.Fprint(w, `{"errors":false,"items":[{"ind`)
		case 4: // a part is stored, and nobody hears of it
			server.Answer(items[:len(items)/2])
			panic(http.ErrAbortHandler)
		case 5:
			server.Answer(items)
			fmt.Fprint(w, `{"took":3,"errors":true,"items":[]}`) // about none of them
		case 6:
			time.Sleep(20 * time.Millisecond) // slow
			return false
		case 7:
			w.Write(bytes.Repeat([]byte(" "), 1<<20))
			fmt.Fprint(w, "?")
		default:
			return false
		}
		return true
	}
	server.Start(t)

	c, _ := newClient(t, elastic.Options{URL: server.URL()})
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	ns, err := nats.StartServer(nats.ServerOptions{Dir: dir, Sync: time.Minute, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	journal, err := nats.OpenJournal(t.Context(), ns, nats.JournalOptions{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	positions, err := nats.OpenPositions(t.Context(), journal)
	if err != nil {
		t.Fatal(err)
	}
	letters, err := nats.OpenDeadLetters(t.Context(), journal)
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*logs.SinkRunner, func()) {
		r, err := logs.OpenSink(t.Context(), logs.SinkOptions{
			Sink: c, Journal: journal, Positions: positions, DeadLetters: letters, Metrics: logs.NewSinkMetrics(prometheus.NewRegistry()), Log: log,
			MinDelay: time.Millisecond, MaxDelay: 20 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		return r, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	// put appends a batch and returns its sequence.
	put := func(messages ...string) uint64 {
		var entries []logs.Entry
		for _, m := range messages {
			entries = append(entries, logs.Entry{Doc: fmt.Appendf(nil, `{"@timestamp":"2026-07-04T12:00:00.000000Z","message":%q}`, m), Level: logs.Info})
		}
		type result struct {
			seq uint64
			err error
		}
		done := make(chan result, 1)
		journal.Append(logs.Batch{Device: "dev00001", Body: logs.EncodeBody(noon, entries)}, func(seq uint64, err error) { done <- result{seq, err} })
		got := <-done
		if got.err != nil {
			t.Fatal(got.err)
		}
		return got.seq
	}
	dead := map[string]bool{} // expected, by id
	all := map[string]bool{}
	var runner *logs.SinkRunner
	stop := func() {}
	for i := range 1500 {
		if i%400 == 0 {
			stop()
			runner, stop = start()
		}
		var messages []string
		for range 1 + i%4 {
			messages = append(messages, fmt.Sprintf("line %d", i))
		}
		switch {
		case i%50 == 7:
			messages[len(messages)-1] = "poison"
		case i%97 == 8:
			messages[0] = "<script>"
		case i%211 == 9:
			messages[0] = strings.Repeat("long", 20_000)
		}
		seq := put(messages...)
		for n, m := range messages {
			id := fmt.Sprintf("%s-%d.%d", journal.Epoch(), seq, n)
			all[id] = true
			if m == "poison" || m == "<script>" || len(m) > 60_000 {
				dead[id] = true
			}
		}
	}
	mu.Lock()
	hostile = false
	mu.Unlock()
	last := put("the last one") // decides about lines that were refused alone
	all[fmt.Sprintf("%s-%d.0", journal.Epoch(), last)] = true
	for deadline := time.Now().Add(60 * time.Second); runner.Settled() < last && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if runner.Settled() != last {
		t.Errorf("settled up to %d of %d", runner.Settled(), last)
	}
	stop()

	letter := map[string]int{}
	kept, more, err := letters.List(t.Context(), logs.DeadQuery{Sink: "elasticsearch", Limit: 10_000})
	if err != nil || more {
		t.Fatal(more, err)
	}
	for _, l := range kept {
		letter[l.Line.ID]++
	}
	docs := server.Docs()
	for id := range all {
		if _, stored := docs[id]; stored == dead[id] {
			t.Errorf("line %s: stored %v, to be refused %v", id, stored, dead[id])
		}
		if want := map[bool]int{true: 1}[dead[id]]; letter[id] != want {
			t.Errorf("line %s: %d dead letters; want %d", id, letter[id], want)
		}
	}
	if len(docs)+len(letter) != len(all) {
		t.Errorf("%d documents and %d dead letters of %d lines", len(docs), len(letter), len(all))
	}
	requests, writes := server.Counts()
	t.Logf("%d lines, %d dead letters, %d requests, %d documents written", len(all), len(letter), requests, writes)
	for _, d := range docs {
		if !json.Valid(d.Doc) {
			t.Fatalf("%s", d.Doc)
		}
	}
}
