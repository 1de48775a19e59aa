package nats_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func startServer(t *testing.T, dir, listen string) *nats.Server {
	t.Helper()
	s, err := nats.StartServer(nats.ServerOptions{Dir: dir, MQTTListen: listen, Sync: time.Minute, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openJournal(t *testing.T, s *nats.Server, o nats.JournalOptions) *nats.Journal {
	t.Helper()
	o.Log = quiet()
	j, err := nats.OpenJournal(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJournal(t *testing.T) {
	conformance.Journal(t, func(t *testing.T) logs.Journal {
		s := startServer(t, t.TempDir(), "")
		t.Cleanup(s.Close)
		j := openJournal(t, s, nats.JournalOptions{})
		t.Cleanup(j.Close)
		return j
	})
}

// batch is a batch of one line.
func batch(device, text string) logs.Batch {
	return logs.Batch{Device: device, Body: logs.EncodeBody(time.Now(), []logs.Entry{{Doc: []byte(strconv.Quote(text))}})}
}

// texts returns the lines of a body that batch made.
func texts(t *testing.T, b logs.Body) []string {
	t.Helper()
	var body struct{ Logs []string }
	if err := json.Unmarshal(b, &body); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return body.Logs
}

// put appends n lines, named by their number from first on, and waits for the
// last answer. It returns the last sequence.
func put(t *testing.T, j *nats.Journal, device string, first, n int) uint64 {
	t.Helper()
	answers := make(chan error, n)
	last := uint64(0) // the answers come from one goroutine
	for i := range n {
		j.Append(batch(device, strconv.Itoa(first+i)), func(seq uint64, err error) {
			last = seq
			answers <- err
		})
	}
	for range n {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// replay returns the lines of the device after a place.
func replay(t *testing.T, j *nats.Journal, device string, after uint64) (lines []string) {
	t.Helper()
	if _, err := j.Replay(t.Context(), []string{device}, after, func(p logs.Page) error {
		for _, r := range p.Records {
			lines = append(lines, texts(t, r.Body)...)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return lines
}

func numbers(from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func bounds(t *testing.T, j *nats.Journal) (oldest, newest uint64) {
	t.Helper()
	oldest, newest, err := j.Bounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if known, err := j.Newest(t.Context()); err != nil || known != newest {
		t.Errorf("Newest() = %d, %v; the journal has up to %d", known, err, newest)
	}
	return oldest, newest
}

// A restart keeps the records, the epoch and the count; new data begins a new
// epoch.
func TestJournalRestart(t *testing.T) {
	dir := t.TempDir()
	var epoch string
	for round := range 3 {
		s := startServer(t, dir, "")
		j := openJournal(t, s, nats.JournalOptions{MaxAge: time.Hour * time.Duration(1+round)}) // limits may change
		if round == 0 {
			epoch = j.Epoch()
		}
		if j.Epoch() != epoch {
			t.Errorf("round %d: epoch %q, was %q", round, j.Epoch(), epoch)
		}
		if _, newest := bounds(t, j); newest != uint64(10*round) {
			t.Errorf("round %d: newest is %d", round, newest)
		}
		if got := put(t, j, "dev00001", 10*round, 10); got != uint64(10*round+10) {
			t.Errorf("round %d: sequence %d", round, got)
		}
		if diff := cmp.Diff(numbers(0, 10*round+9), replay(t, j, "dev00001", 0)); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
		j.Close()
		s.Close()
	}
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	defer j.Close()
	if j.Epoch() == epoch || len(epoch) != 8 {
		t.Errorf("epoch %q of other data, was %q", j.Epoch(), epoch)
	}
	if _, err := logs.ParseCursor(logs.Cursor{Epoch: j.Epoch(), Seq: 1}.String()); err != nil {
		t.Errorf("epoch %q makes no cursor: %v", j.Epoch(), err)
	}
}

// Over its limit the journal forgets the oldest, and says so.
func TestJournalLimit(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	const limit = 64 << 10
	j := openJournal(t, s, nats.JournalOptions{MaxBytes: limit})
	defer j.Close()
	put(t, j, "dev00001", 1, 10)
	if oldest, newest := bounds(t, j); oldest != 1 || newest != 10 {
		t.Errorf("within the limit: %d to %d", oldest, newest)
	}
	put(t, j, "dev00001", 11, 5000)
	oldest, newest := bounds(t, j)
	if oldest < 2 || newest != 5010 || newest-oldest < 100 {
		t.Errorf("over the limit: %d to %d", oldest, newest)
	}
	if size, first, err := j.Size(t.Context()); err != nil || size > limit || size < limit/2 || time.Since(first) > time.Minute {
		t.Errorf("%d bytes since %s, %v", size, first, err)
	}
	told := uint64(0)
	var got []string
	if _, err := j.Replay(t.Context(), []string{"dev00001"}, 0, func(p logs.Page) error {
		told = max(told, p.Oldest)
		for _, r := range p.Records {
			got = append(got, texts(t, r.Body)...)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(numbers(int(oldest), int(newest)), got); diff != "" || told != oldest {
		t.Errorf("the pages said %d is the oldest, want %d\n%s", told, oldest, diff)
	}
}

func TestJournalAge(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{MaxAge: time.Second})
	defer j.Close()
	put(t, j, "dev00001", 1, 3)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		oldest, newest := bounds(t, j)
		if oldest == newest+1 && newest == 3 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d to %d", oldest, newest)
		}
	}
}

// After Close every append is answered, with an error, and so was every one
// that was under way.
func TestJournalClose(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	const n = 3000
	var answered, failed atomic.Int32
	stored := make(chan struct{}, n)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				j.Append(batch("dev00001", "x"), func(seq uint64, err error) {
					answered.Add(1)
					if err == nil {
						stored <- struct{}{}
						return
					}
					failed.Add(1)
					if fleet.KindOf(err) != fleet.Unavailable || seq != 0 {
						t.Errorf("%d, %v", seq, err)
					}
				})
			}
		})
	}
	<-stored
	j.Close()
	wg.Wait()
	if answered.Load() != n || j.Pending() != 0 {
		t.Errorf("%d of %d appends answered, %d pending", answered.Load(), n, j.Pending())
	}
	before := failed.Load()
	j.Append(batch("dev00001", "late"), func(_ uint64, err error) {
		if err != nil {
			failed.Add(1)
		}
	})
	if failed.Load() != before+1 {
		t.Error("an append after Close was not refused at once")
	}
	if _, _, err := j.Bounds(t.Context()); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("Bounds after Close: %v", err)
	}
	if _, err := j.Newest(t.Context()); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("Newest after Close: %v", err)
	}
	if err := j.Watch(t.Context(), "dev00001"); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("Watch after Close: %v", err)
	}
	if _, err := j.Replay(t.Context(), []string{"dev00001"}, 0, func(logs.Page) error { return nil }); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("Replay after Close: %v", err)
	}
}

// flood is more than waits for a reader of Live.
const flood = 1<<16 + 5000

// A reader of Live that cannot keep up is told that something is lost before
// the first record that does not follow.
func TestLiveOverrun(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	defer j.Close()
	if err := j.Watch(t.Context(), "dev00001"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, release := make(chan struct{}), make(chan struct{})
	delivered := make(chan uint64, flood+1000)
	last, losses, told := uint64(0), 0, false
	ended := make(chan error, 1)
	go func() {
		ended <- j.Live(ctx, func(r logs.Record) {
			if r.Seq <= last || r.Prev != last && !told {
				t.Errorf("record %d follows %d, after %d", r.Seq, r.Prev, last)
			}
			if last == 0 {
				close(first)
				<-release
			}
			last, told = r.Seq, false
			delivered <- last
		}, func() { losses++; told = true })
	}()
	put(t, j, "dev00001", 0, 1)
	<-first
	put(t, j, "dev00001", 1, flood)
	close(release)
	for tries, heard := 0, false; !heard; tries++ { // and then it goes on
		want := put(t, j, "dev00001", 0, 1)
		timeout := time.After(time.Second)
		for waiting := true; waiting && !heard; {
			select {
			case seq := <-delivered:
				heard = seq == want
			case <-timeout: // this one may be among the lost
				waiting = false
			}
		}
		if tries == 20 {
			t.Fatal("nothing comes any more")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if losses == 0 {
		t.Error("nobody said that something is lost")
	}
}

// A hub that is overrun sends its readers to the journal: they have it all.
func TestHubOverrun(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	defer j.Close()
	metrics := prometheus.NewRegistry()
	hub := logs.NewHub(j, j, 0, logs.NewLedger(0), logs.NewMetrics(metrics), quiet())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	awake := make(chan struct{}, 1)
	var hold atomic.Bool
	flooded := make(chan struct{})
	out := sse.NewOutbox(256<<10, func() {
		if hold.Load() {
			<-flooded // holds up the hub, as nothing should
		}
		select {
		case awake <- struct{}{}:
		default:
		}
	})
	r := hub.NewReader(out, nil, nil)
	defer r.Close()
	if err := r.Follow(t.Context(), []fleet.DeviceRef{{ID: 1, Key: "dev00001", EntityID: "e"}}, logs.Want{}); err != nil {
		t.Fatal(err)
	}
	for len(out.Take(nil, 1<<20)) > 0 {
	}
	hold.Store(true)
	put(t, j, "dev00001", 0, flood)
	close(flooded)

	deadline := time.After(time.Minute)
	for next, idle := 0, false; next < flood; {
		if idle {
			select {
			case <-awake:
			case <-deadline:
				t.Fatalf("%d of %d lines came", next, flood)
			}
		}
		frames := out.Take(nil, 64<<10)
		idle = len(frames) == 0
		for _, f := range frames {
			if f.Name == "log-gap" {
				t.Fatalf("a gap was told: %s", f.Payload())
			}
			if f.Name != "device-logs" {
				continue
			}
			for _, text := range texts(t, logs.Body(f.Payload())) {
				if text != strconv.Itoa(next) {
					t.Fatalf("got line %s, want %d", text, next)
				}
				next++
			}
		}
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sse_log_lines_replayed_total" && f.GetMetric()[0].GetCounter().GetValue() == 0 {
			t.Error("the hub was not overrun")
		}
	}
}

// The client drops what does not fit into its buffer. A reader that takes its
// time with some pages gets every record all the same.
func TestReplayOverrun(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	defer j.Close()
	const n = 40_000
	put(t, j, "aaaaaaaa", 0, n)
	for round := range 2 {
		next, pages := uint64(1), 0
		upTo, err := j.Replay(t.Context(), []string{"aaaaaaaa"}, 0, func(p logs.Page) error {
			if pages++; pages > 50 { // from where on pages end shortly after more was asked for
				time.Sleep(3 * time.Millisecond) // the server sends all it may
			}
			for _, rec := range p.Records {
				if rec.Seq != next {
					t.Errorf("round %d: record %d instead of %d", round, rec.Seq, next)
				}
				next = rec.Seq + 1
			}
			return nil
		})
		if err != nil || upTo != n || next != n+1 {
			t.Errorf("round %d: up to %d, %d, %v", round, upTo, next-1, err)
		}
	}
}
