package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// fleetOf is a directory that never changes.
type fleetOf []fleet.DeviceRef

func (f fleetOf) ByEntity(entityID string) (found []fleet.DeviceRef) {
	for _, d := range f {
		if d.EntityID == entityID && entityID != "" {
			found = append(found, d)
		}
	}
	return found
}

func (f fleetOf) ByClientID(clientID string) (fleet.DeviceRef, bool) {
	for _, d := range f {
		if d.ClientID == clientID {
			return d, true
		}
	}
	return fleet.DeviceRef{}, false
}

// changing is a directory that devices leave.
type changing struct{ atomic.Pointer[fleetOf] }

func (c *changing) ByEntity(entityID string) []fleet.DeviceRef { return c.Load().ByEntity(entityID) }
func (c *changing) ByClientID(clientID string) (fleet.DeviceRef, bool) {
	return c.Load().ByClientID(clientID)
}

func (c *changing) without(key string) {
	rest := slices.DeleteFunc(slices.Clone(*c.Load()), func(d fleet.DeviceRef) bool { return d.Key == key })
	c.Store(&rest)
}

// held is a journal that answers when told to.
type held struct {
	*memory
	mu      sync.Mutex
	batches []logs.Batch
	answers []func(error)
}

func (h *held) Append(b logs.Batch, done func(uint64, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches = append(h.batches, b)
	h.answers = append(h.answers, func(err error) {
		if err != nil {
			done(0, err)
			return
		}
		h.memory.Append(b, done)
	})
}

// waiting returns how many appends have no answer yet.
func (h *held) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.answers)
}

// answer answers the oldest append that has no answer yet.
func (h *held) answer(err error) {
	h.mu.Lock()
	a := h.answers[0]
	h.answers = h.answers[1:]
	h.mu.Unlock()
	a(err)
}

// stored says what was appended: "device or reason: message, message ...".
func (h *held) stored(t *testing.T) (all []string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.batches {
		var body struct {
			Received string
			Lines    int
			Logs     []struct{ Message string }
		}
		if err := json.Unmarshal(b.Body, &body); err != nil {
			t.Fatalf("%v: %s", err, b.Body)
		}
		if body.Lines != len(body.Logs) || body.Received != noon.Format(logs.TimeLayout) {
			t.Errorf("%d lines counted, received %s: %s", body.Lines, body.Received, b.Body)
		}
		if (b.Device == "") == (b.Unmatched == "") {
			t.Errorf("device %q, unmatched %q", b.Device, b.Unmatched)
		}
		var messages []string
		for _, l := range body.Logs {
			messages = append(messages, l.Message)
		}
		all = append(all, b.Device+string(b.Unmatched)+": "+strings.Join(messages, ", "))
	}
	h.batches = nil
	return all
}

// script is a source that hands over what it is given.
type script chan logs.Message

func (s script) Run(ctx context.Context, handle func(logs.Message)) error {
	for {
		select {
		case <-ctx.Done():
			return errScript
		case m := <-s:
			handle(m)
		}
	}
}

func (s script) Close() error { return nil }

// errScript is what Run of a script returns.
var errScript = errors.New("the script ended")

// intake is an Ingest with all around it.
type intake struct {
	t         *testing.T
	directory changing
	journal   *held
	ledger    *logs.Ledger
	metrics   *prometheus.Registry
	log       *bytes.Buffer
	source    script
	stop      context.CancelFunc
	ended     chan error
}

// The devices of the tests. Two share an entity id.
var boards = fleetOf{
	{ID: 1, Key: "aaaaaaaa", ClientID: "iotdevice-m-aaaaaaaa", EntityID: "a"},
	{ID: 2, Key: "bbbbbbbb", ClientID: "iotdevice-m-bbbbbbbb", EntityID: "b"},
	{ID: 3, Key: "cccccccc", ClientID: "iotdevice-m-cccccccc", EntityID: "twin"},
	{ID: 4, Key: "dddddddd", ClientID: "iotdevice-m-dddddddd", EntityID: "twin"},
	{ID: 5, Key: "eeeeeeee", ClientID: "iotdevice-m-eeeeeeee"},
}

// newIntake starts an Ingest. To be called in a synctest bubble; stop and
// await ended, or call finish.
func newIntake(t *testing.T, rate, burst int64) *intake {
	in := &intake{
		t: t, journal: &held{memory: newMemory()}, ledger: logs.NewLedger(0), metrics: prometheus.NewRegistry(), log: new(bytes.Buffer),
		source: make(script), ended: make(chan error, 1),
	}
	in.directory.Store(&boards)
	ingest := logs.NewIngest(logs.IngestOptions{
		EntityField: "entity_id", Directory: &in.directory, Journal: in.journal, Ledger: in.ledger, Quota: logs.NewQuota(logs.Limits{LinesPerSecond: rate, Burst: burst}, nil),
		Metrics: logs.NewMetrics(in.metrics), Log: slog.New(slog.NewTextHandler(in.log, nil)),
	})
	ctx, stop := context.WithCancel(context.Background())
	in.stop = stop
	go func() { in.ended <- ingest.Run(ctx, in.source) }()
	return in
}

// send hands over a message of lines and returns what Done was called with.
func (in *intake) send(clientID string, lines ...string) (done chan error) {
	done = make(chan error, 10)
	in.source <- logs.Message{ClientID: clientID, Payload: []byte(strings.Join(lines, "\n")), Received: noon, Done: func(err error) { done <- err }}
	synctest.Wait()
	return done
}

// answerAll lets the journal take everything.
func (in *intake) answerAll() {
	for in.journal.waiting() > 0 {
		in.journal.answer(nil)
	}
}

// finish stops the Ingest and waits for it.
func (in *intake) finish() {
	in.t.Helper()
	in.answerAll()
	in.stop()
	if err := <-in.ended; !errors.Is(err, errScript) {
		in.t.Errorf("Run: %v, want the source's error", err)
	}
}

// counter returns the value of a counter with one label value.
func (in *intake) counter(name, label string) int {
	in.t.Helper()
	families, err := in.metrics.Gather()
	if err != nil {
		in.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label) {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

// gauge returns the value of a gauge without labels.
func (in *intake) gauge(name string) float64 {
	in.t.Helper()
	families, err := in.metrics.Gather()
	if err != nil {
		in.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

func line(entity, message string) string {
	return fmt.Sprintf(`{"entity_id":%q,"message":%q}`, entity, message)
}

func (in *intake) want(batches ...string) {
	in.t.Helper()
	if diff := cmp.Diff(batches, in.journal.stored(in.t)); diff != "" {
		in.t.Errorf("appended (-want +got):\n%s", diff)
	}
}

// wantDone checks that Done was called once, with err.
func (in *intake) wantDone(done chan error, err error) {
	in.t.Helper()
	synctest.Wait()
	if len(done) != 1 {
		in.t.Fatalf("Done was called %d times", len(done))
	}
	if got := <-done; !errors.Is(got, err) {
		in.t.Errorf("Done(%v), want %v", got, err)
	}
}

func TestIngestAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 0, 0)
		f := func(clientID string, lines []string, batches ...string) {
			t.Helper()
			done := in.send(clientID, lines...)
			in.want(batches...)
			in.answerAll()
			in.wantDone(done, nil)
		}
		// By what the lines say.
		f("", []string{line("a", "1")}, "aaaaaaaa: 1")
		f("", []string{line("b", "1"), line("a", "2"), line("b", "3"), line("a", "4")}, "bbbbbbbb: 1, 3", "aaaaaaaa: 2, 4")
		f("", []string{line("twin", "1"), line("a", "2"), line("twin", "3")}, "cccccccc: 1, 3", "dddddddd: 1, 3", "aaaaaaaa: 2")
		f("", []string{`{"message":"1"}`, line("a", "2"), line("", "3"), `{"entity_id":7,"message":"4"}`}, "no_entity: 1, 3, 4", "aaaaaaaa: 2")
		f("", []string{line("x", "1"), line("y", "2"), line("x", "3")}, "unknown_entity: 1, 3", "unknown_entity: 2")
		f("", []string{"not json", line("a", "2"), "[1]", "", line("a", "5")}, "aaaaaaaa: 2, 5")
		// By the topic, whatever they say.
		f("iotdevice-m-aaaaaaaa", []string{line("a", "1"), line("b", "2"), `{"message":"3"}`, line("x", "4")}, "aaaaaaaa: 1, 2, 3, 4")
		f("iotdevice-m-eeeeeeee", []string{line("a", "1")}, "eeeeeeee: 1")
		f("iotdevice-m-cccccccc", []string{line("twin", "1")}, "cccccccc: 1")
		f("iotdevice-m-xxxxxxxx", []string{line("a", "1"), line("b", "2")}, "unknown_client: 1, 2")
		// Nothing in them.
		f("", nil)
		f("", []string{"", "  ", ""})
		f("", []string{"not json"})
		f("iotdevice-m-aaaaaaaa", nil)
		f("iotdevice-m-xxxxxxxx", nil)
		in.finish()

		for reason, n := range map[logs.Reason]int{
			logs.ReasonNoEntity: 3, logs.ReasonUnknownEntity: 3, logs.ReasonUnknownClient: 2, logs.ReasonNotJSON: 2, logs.ReasonNotObject: 1,
		} {
			if got := in.counter("iot_logsink_lines_irregular_total", string(reason)); got != n {
				t.Errorf("%d lines %s, want %d", got, reason, n)
			}
		}
		f2 := func(name, label string, n int) {
			t.Helper()
			if got := in.counter(name, label); got != n {
				t.Errorf("%s %s is %d, want %d", name, label, got, n)
			}
		}
		f2("iot_logsink_mqtt_messages_total", "", 15)
		f2("iot_logsink_lines_shared_total", "", 2)
		f2("iot_logsink_messages_received_total", "parse_error", 2)
		f2("iot_logsink_messages_received_total", "processing_error", 1)
		f2("iot_logsink_messages_received_total", "success", 1+4+3+4+3+2+4+1+1+2)
	})
}

// What the journal took, the ledger knows, by its sequence.
func TestIngestFillsLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 0, 0)
		in.send("", line("a", "1"), line("b", "2"), line("a", "3"))
		in.send("", line("a", "4"))
		in.journal.answer(nil)              // a: 1, 3 is sequence 1
		in.journal.answer(errors.New("no")) // b: 2 is lost
		in.journal.answer(nil)              // a: 4 is sequence 2
		for device, want := range map[string][]int{"aaaaaaaa": {3, 1}, "bbbbbbbb": {0, 0}} {
			for after, n := range want {
				if got, known := in.ledger.Lines(device, uint64(after), 9); !known || got != n {
					t.Errorf("%s after %d: %d lines, %v; want %d", device, after, got, known, n)
				}
			}
		}
		in.finish()
	})
}

func TestIngestDone(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	f := func(want error, answers ...error) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			in := newIntake(t, 0, 0)
			done := in.send("", line("a", "1"), line("b", "2"), line("x", "3"))
			for _, err := range answers {
				synctest.Wait()
				if len(done) > 0 {
					t.Fatalf("Done(%v) before the last answer", <-done)
				}
				in.journal.answer(err)
			}
			in.wantDone(done, want)
			in.finish()
			if n := in.counter("iot_logsink_journal_appends_total", "success") + in.counter("iot_logsink_journal_appends_total", "error"); n != 3 {
				t.Errorf("%d appends counted", n)
			}
			if logged := strings.Contains(in.log.String(), "will not be acknowledged"); logged != (want != nil) {
				t.Errorf("log: %s", in.log)
			}
		})
	}
	f(nil, nil, nil, nil)
	f(first, first, nil, nil)
	f(first, nil, nil, first)
	f(first, first, second, nil)
	f(second, nil, second, first)
}

// Messages are handed over while earlier ones wait for the journal, and Run
// ends when the last has its answer.
func TestIngestRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 0, 0)
		one, two := in.send("", line("a", "1")), in.send("", line("b", "2"))
		in.stop()
		synctest.Wait()
		in.journal.answer(nil)
		in.wantDone(one, nil)
		if len(in.ended) > 0 {
			t.Fatal("Run ended with an answer outstanding")
		}
		in.journal.answer(nil)
		in.wantDone(two, nil)
		in.finish()
	})
}

// A message of several batches is not done between two of them, though the
// journal answers each at once.
func TestIngestDoneOnce(t *testing.T) {
	j := newMemory()
	ingest := logs.NewIngest(logs.IngestOptions{
		EntityField: "entity_id", Directory: boards, Journal: j, Ledger: logs.NewLedger(0), Quota: logs.NewQuota(logs.Limits{}, nil),
		Metrics: logs.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	source := make(script)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = ingest.Run(ctx, source) }()
	calls := 0
	for range 100 {
		source <- logs.Message{Payload: []byte(line("a", "1") + "\n" + line("b", "2") + "\n" + line("x", "3")), Received: noon, Done: func(error) {
			calls++
			if _, newest, _ := j.Bounds(ctx); newest != uint64(3*calls) {
				t.Errorf("message %d was done with %d batches stored", calls, newest)
			}
		}}
	}
	cancel()
	<-ended
	if calls != 100 {
		t.Errorf("%d calls of Done", calls)
	}
}

// What comes on a device's own topic is its own, whatever the lines claim.
func TestIngestOwnTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 0, 0)
		done := in.send("iotdevice-m-aaaaaaaa", line("b", "1"), line("a", "2"), line("", "3"), `{"entity_id":"b","device":"bbbbbbbb","client_id":"iotdevice-m-bbbbbbbb","message":"4"}`)
		in.want("aaaaaaaa: 1, 2, 3, 4")
		in.answerAll()
		in.wantDone(done, nil)
		in.finish()
	})
}

func TestIngestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 1, 3)
		const cut = "signalbox: log quota of 1 lines/s exceeded; lines are being dropped"
		done := in.send("", line("a", "1"), line("b", "2"), line("a", "3"), line("a", "4"), line("a", "5"), line("a", "6"))
		in.want("aaaaaaaa: 1, 3, 4, "+cut, "bbbbbbbb: 2")
		in.answerAll()
		in.wantDone(done, nil)
		// All of it is over: nothing to store, and the message is done.
		done = in.send("iotdevice-m-aaaaaaaa", line("a", "7"), line("a", "8"))
		in.want()
		in.wantDone(done, nil)
		if n := in.counter("iot_logsink_lines_irregular_total", string(logs.ReasonOverRate)); n != 4 {
			t.Errorf("%d lines over the rate", n)
		}
		// Twins have a quota each.
		done = in.send("", line("twin", "1"), line("twin", "2"), line("twin", "3"))
		in.want("cccccccc: 1, 2, 3", "dddddddd: 1, 2, 3")
		in.answerAll()
		in.wantDone(done, nil)
		// A notice and no line.
		done = in.send("iotdevice-m-cccccccc", line("", "4"))
		in.want("cccccccc: " + cut)
		in.answerAll()
		in.wantDone(done, nil)
		in.finish()
	})
}

// A cut that lasts is told once a minute, and one of a device that falls
// silent ends in its log all the same, unless the
// device is gone by then.
func TestIngestQuotaOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 1, 3)
		said := func() (texts []string) {
			t.Helper()
			in.journal.mu.Lock()
			defer in.journal.mu.Unlock()
			for _, b := range in.journal.batches {
				var body struct{ Logs []struct{ Message string } }
				if err := json.Unmarshal(b.Body, &body); err != nil {
					t.Fatal(err)
				}
				for _, l := range body.Logs {
					if strings.HasPrefix(l.Message, "signalbox: ") {
						texts = append(texts, b.Device+" "+strings.TrimPrefix(l.Message, "signalbox: "))
					}
				}
			}
			in.journal.batches = nil
			return texts
		}
		send := func(client string, n int) {
			in.source <- logs.Message{ClientID: client, Payload: []byte(strings.Repeat("{}\n", n)), Received: time.Now(), Done: func(error) {}}
			synctest.Wait()
			in.answerAll()
		}
		want := func(cut float64, texts ...string) {
			t.Helper()
			if diff := cmp.Diff(texts, said()); diff != "" {
				t.Error(diff)
			}
			if n := in.gauge("iot_logsink_devices_cut"); n != cut {
				t.Errorf("%v devices are cut, want %v", n, cut)
			}
		}
		send("iotdevice-m-bbbbbbbb", 4)
		for range 90 {
			send("iotdevice-m-aaaaaaaa", 3)
			time.Sleep(time.Second)
		}
		const doc = len(`{"@timestamp":"2000-01-01T00:00:00.000000Z","message":""}`)
		// The sweep found b after 20 s; of a, 2 of 3 lines a second are over.
		over := 61 * 2
		want(1, "bbbbbbbb log quota of 1 lines/s exceeded; lines are being dropped",
			"aaaaaaaa log quota of 1 lines/s exceeded; lines are being dropped",
			fmt.Sprintf("bbbbbbbb within the log quota again; 1 lines (%d bytes) were dropped", doc),
			fmt.Sprintf("aaaaaaaa log quota of 1 lines/s still exceeded; %d lines (%d bytes) dropped so far", over, over*doc))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		in.answerAll()
		over = 89 * 2
		want(0, fmt.Sprintf("aaaaaaaa within the log quota again; %d lines (%d bytes) were dropped", over, over*doc))

		send("iotdevice-m-bbbbbbbb", 4)
		in.directory.without("bbbbbbbb")
		time.Sleep(time.Minute)
		want(0, "bbbbbbbb log quota of 1 lines/s exceeded; lines are being dropped")
		in.finish()
	})
}

// The first ten irregular lines of a reason are logged, each with a sample,
// and then ever fewer.
func TestIngestSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIntake(t, 0, 0)
		in.log.Reset()
		f := func(total, logged int) {
			t.Helper()
			if n := strings.Count(in.log.String(), "irregular log line"); n != logged {
				t.Errorf("%d of %d lines logged, want %d", n, total, logged)
			}
		}
		sent := 0
		send := func(n int) {
			for range n {
				in.send("", line("stranger", fmt.Sprintf("m%d ", sent)+strings.Repeat("z", 300)))
				in.answerAll()
				sent++
			}
		}
		send(10)
		f(10, 10)
		if text := in.log.String(); !strings.Contains(text, "m9") || !strings.Contains(text, "who=stranger") || !strings.Contains(text, "reason=unknown_entity") {
			t.Errorf("log: %s", text)
		} else if strings.Contains(text, strings.Repeat("z", 201)) {
			t.Error("a sample is too long")
		}
		send(90)
		at100 := strings.Count(in.log.String(), "irregular")
		send(900)
		at1000 := strings.Count(in.log.String(), "irregular")
		if at100 > 40 || at1000-at100 > 30 || at1000-at100 < 10 {
			t.Errorf("of 100 lines %d were logged, of 1000 %d", at100, at1000)
		}
		// Another reason begins anew.
		in.log.Reset()
		in.send("", `{"message":"x"}`)
		f(1, 1)
		in.finish()
		if n := in.counter("iot_logsink_lines_irregular_total", "unknown_entity"); n != 1000 {
			t.Errorf("%d counted", n)
		}
	})
}
