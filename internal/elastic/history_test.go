package elastic_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/conformance"
	"signalbox/internal/elastic"
	"signalbox/internal/elastictest"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
)

// fleetOf is a registry of devices by entity id.
type fleetOf map[string][]string

func (f fleetOf) All() (all []fleet.DeviceRef) {
	for entity := range f {
		all = append(all, f.ByEntity(entity)...)
	}
	return all
}

func (f fleetOf) ByEntity(entity string) (found []fleet.DeviceRef) {
	for _, key := range f[entity] {
		found = append(found, fleet.DeviceRef{Key: key, EntityID: entity})
	}
	return found
}

func (f fleetOf) ByKey(key string) (fleet.DeviceRef, bool) {
	for _, d := range f.All() {
		if d.Key == key {
			return d, true
		}
	}
	return fleet.DeviceRef{}, false
}

// past is a journal, a sink that copies it, and the history of both.
type past struct {
	*elastic.History
	journal *nats.Journal
	sink    *logs.SinkRunner
	client  *elastic.Client
}

func openPast(t *testing.T, es *elastictest.Server, devices fleetOf) *past {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	server, err := nats.StartServer(nats.ServerOptions{Dir: t.TempDir(), Sync: time.Minute, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	journal, err := nats.OpenJournal(t.Context(), server, nats.JournalOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(journal.Close)
	positions, err := nats.OpenPositions(t.Context(), journal)
	if err != nil {
		t.Fatal(err)
	}
	letters, err := nats.OpenDeadLetters(t.Context(), journal)
	if err != nil {
		t.Fatal(err)
	}
	client, _ := newClient(t, elastic.Options{URL: es.URL()})
	sink, err := logs.OpenSink(t.Context(), logs.SinkOptions{
		Sink: client, Journal: journal, Positions: positions, DeadLetters: letters, Metrics: logs.NewSinkMetrics(prometheus.NewRegistry()), Log: quiet,
		MinDelay: 5 * time.Millisecond, MaxDelay: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sink.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	h := elastic.NewHistory(elastic.HistoryOptions{Client: client, Journal: journal, Settled: sink.Settled, Lost: sink.Lost, Devices: devices, Log: quiet})
	return &past{h, journal, sink, client}
}

func (p *past) write(t *testing.T, batches ...logs.Batch) []uint64 {
	t.Helper()
	return conformance.Write(t, p.journal, batches...)
}

// settle waits until the sink has everything, and lets the history find it.
func (p *past) settle(t *testing.T) {
	t.Helper()
	_, newest, err := p.journal.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); p.sink.Settled() < newest; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("settled up to %d of %d", p.sink.Settled(), newest)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for end := time.Now().Add(20 * time.Second); p.Held() < newest; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("found up to %d of %d", p.Held(), newest)
		}
	}
	cancel()
	<-ended
}

func testHistory(t *testing.T, es func() *elastictest.Server) {
	conformance.History(t, func(t *testing.T) conformance.HistoryUnderTest {
		server := es()
		server.Start(t)
		p := openPast(t, server, nil)
		return conformance.HistoryUnderTest{
			History: p, Epoch: p.journal.Epoch(),
			Write:  func(b ...logs.Batch) []uint64 { return p.write(t, b...) },
			Settle: func() { p.settle(t) },
		}
	})
}

// What was written is found only after a refresh.
func TestHistory(t *testing.T) {
	testHistory(t, func() *elastictest.Server { return &elastictest.Server{Late: true} })
}

// An index without a template, where text cannot be searched for as a whole.
func TestHistoryUnmapped(t *testing.T) {
	testHistory(t, func() *elastictest.Server {
		return &elastictest.Server{TextFields: []string{"message", "signalbox.tag", "signalbox.epoch", "signalbox.device", "signalbox.level"}}
	})
}

// say is a batch of one line.
func say(device, message string, at time.Time) logs.Batch {
	entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"entity_id":"kitchen","message":%q}`, message), at, func(logs.Reason) {})
	b := logs.Batch{Device: device, Body: logs.EncodeBody(at, entries)}
	if device == "" {
		b.Unmatched = logs.ReasonUnknownEntity
	}
	return b
}

// pages reads everything by cursors and returns the messages, oldest first.
func pages(t *testing.T, h logs.History, q logs.Query) (messages []string) {
	t.Helper()
	for range 10_000 {
		r, err := h.Read(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var page []string
		for _, l := range r.Lines {
			page = append(page, l.Device+" "+string(l.Message))
		}
		if q.Backward {
			messages = append(page, messages...)
			q.Before = r.Reached
		} else {
			messages = append(messages, page...)
			q.After = r.Reached
		}
		if !r.More {
			return messages
		}
	}
	t.Fatal("no end")
	return nil
}

// The documents of other programs come first, in order of time, those of former
// journals next, and those of the present one last; by whatever page.
func TestHistoryOfOthers(t *testing.T) {
	es := &elastictest.Server{Late: true}
	es.Start(t)
	p := openPast(t, es, fleetOf{"kitchen": {"dev00001", "dev00003"}, "hall": {"dev00002"}})
	var all, one []string
	for i := range 60 {
		at := noon.Add(time.Duration(i/20)*time.Millisecond + time.Duration(i/4)*time.Microsecond)
		entity, device := "kitchen", "dev00001"
		if i%3 == 0 {
			entity, device = "hall", "dev00002"
		}
		message := fmt.Sprintf("W (%d) wifi: old", i/4)
		es.Store(old(fmt.Sprintf("x%d", i), at.Format("2006-01-02T15:04:05.000000+00:00"), entity, message), old(fmt.Sprintf("y%d", i), at.Format(logs.TimeLayout), "nobody", "unknown"))
		all = append(all, device+" "+message)
		if device == "dev00001" {
			one = append(one, device+" "+message)
		}
	}
	// A former journal's, whose times go back.
	for i := range 30 {
		l := line(100+i, fmt.Sprintf("former %d", i))
		l.ID, l.Received = fmt.Sprintf("former-%d.0", 100+i), noon.Add(-time.Duration(i)*time.Second)
		l.Doc = fmt.Appendf(nil, `{"@timestamp":%q,"message":"former %d","entity_id":"kitchen"}`, l.Received.Format(logs.TimeLayout), i)
		if _, err := p.client.Write(t.Context(), []logs.SinkLine{l}); err != nil {
			t.Fatal(err)
		}
		all, one = append(all, fmt.Sprintf("dev00001 former %d", i)), append(one, fmt.Sprintf("dev00001 former %d", i))
	}
	for i := range 20 {
		p.write(t, say("dev00001", fmt.Sprintf("present %d", i), noon), say("", "nobody's", noon))
		all, one = append(all, fmt.Sprintf("dev00001 present %d", i)), append(one, fmt.Sprintf("dev00001 present %d", i))
		if i == 10 {
			p.settle(t)
		}
	}
	// Lines of one microsecond have no order of their own but that of the pages.
	for _, limit := range []int{1, 2, 3, 7, 50, 1000} {
		for _, backward := range []bool{false, true} {
			for _, want := range [][]string{all, one} {
				q := logs.Query{Limit: limit, Backward: backward}
				if len(want) == len(one) {
					q.Devices = []string{"dev00001"}
				}
				got := pages(t, p, q)
				if len(got) != len(want) {
					t.Fatalf("by %d, backward %v: %d lines, want %d", limit, backward, len(got), len(want))
				}
				for i := 0; i < 60 && i < len(got); i += 4 { // within four of one microsecond
					if len(want) == len(all) {
						slices.Sort(got[i : i+4])
						slices.Sort(want[i : i+4])
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("by %d, backward %v: %s", limit, backward, diff)
				}
			}
		}
	}
	f := func(q logs.Query, want int) {
		t.Helper()
		q.Limit = 1000
		r, err := p.Read(t.Context(), q)
		if err != nil || len(r.Lines) != want {
			t.Errorf("%+v: %d lines, want %d, %v", q, len(r.Lines), want, err)
		}
		n, err := p.Count(t.Context(), logs.Query{Devices: q.Devices, After: q.After, Start: q.Start, End: q.End})
		if err != nil || q.Filter == (logs.Filter{}) && n != int64(want) && q.Start.IsZero() {
			t.Errorf("%+v: counted %d, want %d, %v", q, n, want, err)
		}
	}
	f(logs.Query{}, 110)
	f(logs.Query{Devices: []string{"dev00002"}}, 20)
	f(logs.Query{Devices: []string{"dev00003"}}, 40) // shares the entity id
	f(logs.Query{Devices: []string{"dev00001", "dev00003"}}, 90)
	f(logs.Query{Devices: []string{"dev99999"}}, 0)
	f(logs.Query{Devices: []string{}}, 0)
	f(logs.Query{Devices: []string{"dev00001"}, Filter: logs.Filter{Tag: "WIFI", Level: logs.Warn}}, 90-50)
	f(logs.Query{Devices: []string{"dev00001"}, Start: noon.Add(time.Microsecond), End: noon.Add(2 * time.Microsecond)}, 6)
	f(logs.Query{After: logs.LineCursor{Cursor: logs.Cursor{Epoch: "former", Seq: 119}, Line: logs.WholeBatch}}, 30)
	if r, err := p.Read(t.Context(), logs.Query{Limit: 1}); err != nil || r.Lines[0].Level != logs.Warn || r.Lines[0].Tag != "wifi" || r.Lines[0].Cursor.Epoch != "elasticsearch" {
		t.Errorf("%+v, %v", r.Lines, err)
	}
}

// A server that may not be asked to refresh is waited for; lines come from the
// journal meanwhile. One that is down is needed only for what it has.
func TestHistoryTrouble(t *testing.T) {
	es := &elastictest.Server{Late: true, NoRefresh: true}
	var deaf atomic.Bool
	es.Bulk = func(w http.ResponseWriter, _ *http.Request, _ []elastictest.Item) bool {
		if deaf.Load() {
			http.Error(w, "", http.StatusServiceUnavailable)
		}
		return deaf.Load()
	}
	es.Start(t)
	p := openPast(t, es, nil)
	p.write(t, say("dev00001", "one", noon))
	for p.sink.Settled() < 1 {
		time.Sleep(time.Millisecond)
	}
	if got := pages(t, p, logs.Query{Limit: 5}); !slices.Equal(got, []string{"dev00001 one"}) || p.Held() != 0 {
		t.Errorf("%q, held %d", got, p.Held())
	}
	es.NoRefresh = false
	p.settle(t)
	deaf.Store(true)
	p.write(t, say("dev00001", "two", noon))
	if got := pages(t, p, logs.Query{Limit: 5}); !slices.Equal(got, []string{"dev00001 one", "dev00001 two"}) {
		t.Errorf("%q", got)
	}
	es.Down()
	r, err := p.Read(t.Context(), logs.Query{Devices: []string{"dev00001"}, Backward: true, Limit: 5})
	if kind, text := fleet.Public(err); kind != fleet.Unavailable || text != "Elasticsearch is currently unavailable: Connection failed" {
		t.Errorf("%+v, %v: %s", r, kind, text)
	}
	p.write(t, say("dev00001", "three", noon))
	r, err = p.Read(t.Context(), logs.Query{Devices: []string{"dev00001"}, Backward: true, Limit: 1})
	if err != nil || len(r.Lines) != 1 || string(r.Lines[0].Message) != "three" || !r.More {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = p.Read(t.Context(), logs.Query{After: logs.LineCursor{Cursor: logs.Cursor{Epoch: p.journal.Epoch(), Seq: 1}, Line: logs.WholeBatch}, Limit: 5})
	if err != nil || len(r.Lines) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	es.Up(t)
	es.Username = "somebody else"
	_, err = p.Count(t.Context(), logs.Query{})
	if kind, text := fleet.Public(err); kind != fleet.External || text != "Cannot query logs because external service failed: HTTP 401" {
		t.Errorf("%v: %s", kind, text)
	}
}
