package logs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// bench is everything a sink needs, and what arrives.
type bench struct {
	t       *testing.T
	journal *memory
	reg     *prometheus.Registry
	runner  *logs.SinkRunner
	stop    func()

	mu       sync.Mutex
	write    func(lines []logs.SinkLine) ([]logs.Refusal, error) // decides; nil takes all
	calls    []time.Time
	stored   map[string]logs.SinkLine
	dead     map[string]string // reasons
	deadErr  error
	progress logs.Progress
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, journal: newMemory(), stored: map[string]logs.SinkLine{}, dead: map[string]string{}}
	t.Cleanup(func() {
		if b.stop != nil {
			b.stop()
		}
	})
	return b
}

func (b *bench) Name() string { return "bench" }

func (b *bench) Write(ctx context.Context, lines []logs.SinkLine) ([]logs.Refusal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, time.Now())
	var refused []logs.Refusal
	var err error
	if b.write != nil {
		refused, err = b.write(lines)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err == nil {
		for i, l := range lines {
			if !slices.ContainsFunc(refused, func(r logs.Refusal) bool { return r.Index == i }) {
				b.stored[l.ID] = l
			}
		}
	}
	return refused, err
}

func (b *bench) Position(context.Context, string) (logs.Progress, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.progress, nil
}

func (b *bench) SetPosition(_ context.Context, _ string, p logs.Progress) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress = p
	return nil
}

func (b *bench) Refuse(_ context.Context, _ string, l logs.SinkLine, reason string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.deadErr == nil {
		b.dead[l.ID] = reason
	}
	return b.deadErr
}

func (b *bench) List(context.Context, logs.DeadQuery) ([]logs.DeadLetter, bool, error) {
	return nil, false, errors.New("not used here")
}

func (b *bench) Remove(context.Context, uint64) error { return errors.New("not used here") }

func (b *bench) Purge(context.Context, string, uint64) (int, error) {
	return 0, errors.New("not used here")
}

// start starts a runner, as a new process would.
func (b *bench) start() {
	b.t.Helper()
	b.reg = prometheus.NewRegistry()
	r, err := logs.OpenSink(b.t.Context(), logs.SinkOptions{
		Sink: b, Journal: b.journal, Positions: b, DeadLetters: b, Metrics: logs.NewSinkMetrics(b.reg), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	b.runner = r
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
}

// behave sets what the sink does.
func (b *bench) behave(f func(lines []logs.SinkLine) ([]logs.Refusal, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write = f
}

func (b *bench) counts() (stored, dead, calls int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.stored), len(b.dead), len(b.calls)
}

// put appends a record with these messages.
func (b *bench) put(device string, messages ...string) uint64 {
	var entries []logs.Entry
	for _, m := range messages {
		entries = append(entries, logs.Entry{Doc: fmt.Appendf(nil, `{"@timestamp":"x","message":%q}`, m)})
	}
	var seq uint64
	b.journal.Append(logs.Batch{Device: device, Body: logs.EncodeBody(time.Now(), entries)}, func(s uint64, _ error) { seq = s })
	return seq
}

func (b *bench) want(stored, dead int) {
	b.t.Helper()
	if s, d, _ := b.counts(); s != stored || d != dead {
		b.t.Errorf("%d lines stored and %d dead letters; want %d and %d", s, d, stored, dead)
	}
}

var errDown = fleet.E(fleet.Unavailable, nil, "down")

func down([]logs.SinkLine) ([]logs.Refusal, error) { return nil, errDown }

func TestSinkGetsEveryLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.put("dev1", "one", "two")
		b.put("", "nobody's")
		b.start()
		time.Sleep(2 * time.Second)
		b.put("dev2", "late")
		time.Sleep(2 * time.Second)
		b.want(4, 0)
		got := b.stored["mem-1.1"]
		if got.Device != "dev1" || got.Seq != 1 || got.N != 1 || string(got.Doc) != `{"@timestamp":"x","message":"two"}` || got.Meta != nil || !got.Received.Equal(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("got %+v", got)
		}
		if b.stored["mem-2.0"].Device != "" {
			t.Error("a line that matched no device has one")
		}
		if b.runner.Held() != 3 || b.progress.Seq != 3 || b.progress.Epoch != "mem" {
			t.Errorf("held %d, stored %s-%d; want 3", b.runner.Held(), b.progress.Epoch, b.progress.Seq)
		}
		b.stop()
		b.start()
		b.put("dev1", "after a restart")
		time.Sleep(2 * time.Second)
		b.want(5, 0)
		if _, _, calls := b.counts(); calls > 4 {
			t.Errorf("%d requests for four batches: something was written again", calls)
		}
	})
}

func TestSinkDownForHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.behave(down)
		b.start()
		for range 200 {
			b.put("dev", "a", "b", "c")
		}
		time.Sleep(3 * time.Hour)
		b.want(0, 0)
		if b.runner.Held() != 0 {
			t.Errorf("held %d while nothing is settled", b.runner.Held())
		}
		var gaps []time.Duration
		for i := 1; i < len(b.calls); i++ {
			gaps = append(gaps, b.calls[i].Sub(b.calls[i-1]))
		}
		for i, most := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			if most *= time.Second; gaps[i] > most || gaps[i] < most*3/4 {
				t.Errorf("wait %d is %v; want up to %v", i+1, gaps[i], most)
			}
		}
		if last := gaps[len(gaps)-1]; last > time.Minute || last < 45*time.Second {
			t.Errorf("after hours the wait is %v", last)
		}
		for name, want := range map[string]float64{"iot_logsink_queue_depth": 200, "iot_logsink_retry_delay_seconds": 60} {
			if got := b.gauge(name); got != want {
				t.Errorf("%s = %v; want %v", name, got, want)
			}
		}
		if lag := b.gauge("iot_logsink_sink_lag_seconds"); lag < 3*3600-2 || lag > 3*3600 {
			t.Errorf("lag %v s; want three hours", lag)
		}
		b.behave(nil)
		time.Sleep(time.Minute + 2*time.Second)
		b.want(600, 0)
		for _, name := range []string{"iot_logsink_queue_depth", "iot_logsink_retry_delay_seconds", "iot_logsink_sink_lag_seconds"} {
			if got := b.gauge(name); got != 0 {
				t.Errorf("%s = %v afterwards", name, got)
			}
		}
	})
}

// gauge returns the value of the family, summed over its labels.
func (b *bench) gauge(name string) (sum float64) {
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestSinkRefusals(t *testing.T) {
	refuse := func(kind fleet.Kind) func(lines []logs.SinkLine) ([]logs.Refusal, error) {
		return func(lines []logs.SinkLine) (refused []logs.Refusal, err error) {
			for i, l := range lines {
				if strings.Contains(string(l.Doc), "poison") {
					refused = append(refused, logs.Refusal{Index: i, Kind: kind, Reason: "no"})
				}
			}
			return refused, nil
		}
	}
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.behave(refuse(fleet.Invalid))
			b.start()
			b.put("dev", "a", "poison", "b")
			b.put("dev", "c")
			time.Sleep(1500 * time.Millisecond)
			b.want(3, 1)
			if b.dead["mem-1.1"] != "no" || b.runner.Held() != 2 {
				t.Errorf("dead letters %v, held %d", b.dead, b.runner.Held())
			}
			if got := b.gauge("iot_logsink_sink_refused_total"); got != 1 {
				t.Errorf("%v refusals counted", got)
			}
		})
	})
	t.Run("for now", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.behave(refuse(fleet.TooMany))
			b.start()
			b.put("dev", "a", "poison", "b")
			time.Sleep(10 * time.Second)
			b.want(2, 0)
			if b.runner.Held() != 0 {
				t.Errorf("held %d", b.runner.Held())
			}
			b.behave(nil)
			time.Sleep(30 * time.Second)
			b.want(3, 0)
		})
	})
	t.Run("no dead letters can be stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.behave(refuse(fleet.Invalid))
			b.deadErr = errDown
			b.start()
			b.put("dev", "a", "poison")
			time.Sleep(10 * time.Second)
			b.want(1, 0)
			if b.runner.Held() != 0 {
				t.Errorf("held %d", b.runner.Held())
			}
			b.mu.Lock()
			b.deadErr = nil
			b.mu.Unlock()
			time.Sleep(time.Minute)
			b.want(1, 1)
		})
	})
	t.Run("no batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.behave(func(lines []logs.SinkLine) ([]logs.Refusal, error) {
				if string(lines[0].Doc) == "rubbish" {
					return []logs.Refusal{{Kind: fleet.Invalid, Reason: "no object"}}, nil
				}
				return nil, nil
			})
			b.start()
			b.journal.Append(logs.Batch{Device: "dev", Body: logs.Body("rubbish")}, func(uint64, error) {})
			b.put("dev", "a")
			time.Sleep(time.Second)
			b.want(1, 1)
		})
	})
}

// A request that is refused as a whole is halved down to the line it is about.
func TestSinkHalves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		const most = 100 << 10
		size := func(lines []logs.SinkLine) (n int) {
			for _, l := range lines {
				n += len(l.Doc)
			}
			return n
		}
		b.behave(func(lines []logs.SinkLine) ([]logs.Refusal, error) {
			if size(lines) > most {
				return nil, fleet.E(fleet.TooLarge, nil, "HTTP 413")
			}
			if slices.ContainsFunc(lines, func(l logs.SinkLine) bool { return strings.Contains(string(l.Doc), "poison") }) {
				return nil, fleet.E(fleet.Invalid, nil, "HTTP 400")
			}
			return nil, nil
		})
		b.start()
		for i := range 300 {
			text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 2000))
			switch i {
			case 100:
				text = strings.Repeat("y", most)
			case 200:
				text = "poison"
			}
			b.put("dev", text)
		}
		time.Sleep(10 * time.Second)
		b.want(298, 2)
		if b.dead["mem-101.0"] != "HTTP 413" || b.dead["mem-201.0"] != "HTTP 400" {
			t.Errorf("dead letters: %v", b.dead)
		}
		// A smaller size has been learned.
		_, _, before := b.counts()
		for range 40 {
			b.put("dev", strings.Repeat("x", 2000))
		}
		time.Sleep(5 * time.Second)
		if _, _, after := b.counts(); after-before > 20 {
			t.Errorf("%d requests for 80 KB", after-before)
		}
		b.want(338, 2)
	})
}

// A sink that refuses everything has no opinion about the lines.
func TestSinkThatRefusesEverything(t *testing.T) {
	for _, kind := range []fleet.Kind{fleet.Invalid, fleet.TooLarge} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.behave(func([]logs.SinkLine) ([]logs.Refusal, error) { return nil, fleet.E(kind, nil, "no") })
			b.start()
			for range 10 {
				b.put("dev", "a", "b")
				time.Sleep(20 * time.Second)
			}
			b.want(0, 0)
			if _, _, calls := b.counts(); calls > 100 {
				t.Errorf("%d requests", calls)
			}
			b.behave(nil)
			b.put("dev", "c")
			time.Sleep(2 * time.Minute)
			b.want(21, 0)
		})
	}
}

// One line that is refused alone waits for another one, and holds up none.
func TestSinkDoubtfulLineHoldsUpNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.behave(func(lines []logs.SinkLine) ([]logs.Refusal, error) {
			if slices.ContainsFunc(lines, func(l logs.SinkLine) bool { return strings.Contains(string(l.Doc), "poison") }) {
				return nil, fleet.E(fleet.Invalid, nil, "HTTP 400")
			}
			return nil, nil
		})
		b.start()
		b.put("dev", "poison")
		time.Sleep(time.Minute)
		b.want(0, 0)
		b.put("dev", "good")
		time.Sleep(100 * time.Millisecond)
		b.want(1, 1)
		time.Sleep(2 * time.Second)
		if b.runner.Held() != 2 {
			t.Errorf("held %d", b.runner.Held())
		}
	})
}

func TestSinkTimeoutMakesRequestsSmaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.behave(func(lines []logs.SinkLine) ([]logs.Refusal, error) {
			if len(lines) > 200 {
				return nil, fleet.E(fleet.Unavailable, context.DeadlineExceeded, "Request timed out")
			}
			return nil, nil
		})
		for range 1000 {
			b.put("dev", strings.Repeat("x", 200))
		}
		b.journal.page = 1000
		b.start()
		time.Sleep(10 * time.Second)
		b.want(1000, 0)
	})
}

func TestSinkWhereToStart(t *testing.T) {
	f := func(name, epoch string, seq uint64, stored int, lost float64) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.progress.Epoch, b.progress.Seq = epoch, seq
				for range 20 {
					b.put("dev", "a")
				}
				b.journal.forget(11)
				b.start()
				time.Sleep(3 * time.Second)
				b.put("dev", "new")
				time.Sleep(3 * time.Second)
				b.want(stored, 0)
				if got := b.gauge("iot_logsink_sink_lost_total"); got != lost {
					t.Errorf("%v records lost; want %v", got, lost)
				}
				var gaps []logs.Lost
				if lost > 0 {
					gaps = []logs.Lost{{Epoch: "mem", From: seq, To: 10, Reason: logs.LostJournal}}
				}
				if diff := cmp.Diff(gaps, b.progress.Lost); diff != "" {
					t.Errorf("what is stored as lost: %s", diff)
				}
				last := uint64(21)
				if epoch == "mem" && seq > 20 {
					last = seq + 1 // no number is given twice
				}
				if b.runner.Held() != last || b.progress.Epoch != "mem" || b.progress.Seq != last {
					t.Errorf("held %d, stored %s-%d; want %d", b.runner.Held(), b.progress.Epoch, b.progress.Seq, last)
				}
			})
		})
	}
	f("for the first time", "", 0, 11, 0)
	f("where it was", "mem", 15, 6, 0)
	f("at the end", "mem", 20, 1, 0)
	f("after a loss", "mem", 5, 11, 5)
	f("in another epoch", "old", 15, 11, 0)
	f("before its place", "mem", 1000, 1, 0)
}

// When the place is ahead of the journal, that goes on behind it: no new record
// takes a number that the sink has had.
func TestSinkAheadOfJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.progress.Epoch, b.progress.Seq = "mem", 30
		for range 20 {
			b.put("dev", "a")
		}
		b.behave(down)
		b.start()
		for range 20 {
			b.put("dev", "new")
		}
		time.Sleep(10 * time.Second)
		b.stop()
		b.behave(nil)
		b.start()
		time.Sleep(10 * time.Second)
		b.want(20, 0)
	})
}

// Whatever the sink does and whenever the process ends, each line is in the
// end in the sink or, if it is one that the sink never takes, a dead letter.
func TestSinkHostile(t *testing.T) {
	for range 100 {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			random, sinks := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
			b.journal.page = 1 + random.IntN(50)
			poison := func(l logs.SinkLine) bool { return strings.Contains(string(l.Doc), "poison") }
			hostile := func(lines []logs.SinkLine) (refused []logs.Refusal, err error) {
				for i, l := range lines {
					if poison(l) {
						if sinks.IntN(2) == 0 {
							return nil, fleet.E(fleet.Invalid, nil, "HTTP 400")
						}
						refused = append(refused, logs.Refusal{Index: i, Kind: fleet.Invalid, Reason: "poison"})
					} else if sinks.IntN(10) == 0 {
						refused = append(refused, logs.Refusal{Index: i, Kind: fleet.Unavailable, Reason: "later"})
					}
				}
				switch sinks.IntN(6) {
				case 0:
					return nil, errDown
				case 1: // stored, and the answer lost
					for _, l := range lines {
						if !poison(l) {
							b.stored[l.ID] = l
						}
					}
					return nil, errDown
				case 2:
					return refused, errDown
				case 3:
					if len(lines) > 5 {
						return nil, fleet.E(fleet.TooLarge, nil, "HTTP 413")
					}
				}
				return refused, nil
			}
			b.behave(hostile)
			want, bad := map[string]bool{}, map[string]bool{}
			for range 1 + random.IntN(5) {
				b.start()
				for range random.IntN(30) {
					var messages []string
					for range 1 + random.IntN(8) {
						messages = append(messages, []string{"good", "good", "good", "poison"}[random.IntN(4)])
					}
					seq := b.put([]string{"dev", ""}[random.IntN(2)], messages...)
					for n, m := range messages {
						id := fmt.Sprintf("mem-%d.%d", seq, n)
						want[id] = true
						if m == "poison" {
							bad[id] = true
						}
					}
					time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
				}
				time.Sleep(time.Duration(random.IntN(10_000)) * time.Millisecond)
				b.stop()
			}
			b.start()
			b.behave(func(lines []logs.SinkLine) (refused []logs.Refusal, err error) {
				for i, l := range lines {
					if poison(l) {
						refused = append(refused, logs.Refusal{Index: i, Kind: fleet.Invalid, Reason: "poison"})
					}
				}
				return refused, nil
			})
			for range 1000 { // ten minutes
				if _, newest, _ := b.journal.Bounds(t.Context()); b.runner.Held() == newest {
					break
				}
				time.Sleep(600 * time.Millisecond)
			}
			if _, newest, _ := b.journal.Bounds(t.Context()); b.runner.Held() != newest {
				t.Errorf("seed %d: held %d of %d", seed, b.runner.Held(), newest)
			}
			b.stop()
			for id := range want {
				if _, dead := b.dead[id]; dead != bad[id] {
					t.Errorf("seed %d: line %s: poison %v, dead letter %v", seed, id, bad[id], dead)
				}
				if _, stored := b.stored[id]; stored == bad[id] {
					t.Errorf("seed %d: line %s: poison %v, stored %v", seed, id, bad[id], stored)
				}
			}
			if len(b.stored)+len(b.dead) != len(want) {
				t.Errorf("seed %d: %d lines stored and %d dead of %d", seed, len(b.stored), len(b.dead), len(want))
			}
		})
	}
}

// A journal that fails is read again.
func TestSinkJournalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		failing := &failingJournal{memory: b.journal, fails: 5}
		r, err := logs.OpenSink(t.Context(), logs.SinkOptions{
			Sink: b, Journal: failing, Positions: b, DeadLetters: b, Metrics: logs.NewSinkMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		b.put("dev", "a")
		time.Sleep(10 * time.Second)
		b.want(1, 0)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

type failingJournal struct {
	*memory
	fails int
}

func (f *failingJournal) Consume(ctx context.Context, after uint64, hurry <-chan struct{}, emit func([]logs.Record) error) error {
	if f.fails--; f.fails >= 0 {
		return errors.New("failed")
	}
	return f.memory.Consume(ctx, after, hurry, emit)
}

func TestSinkMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		body := logs.EncodeBody(time.Now(), []logs.Entry{
			{Doc: []byte(`{"message":"]}\",[{"}`), Level: logs.Warn, Tag: `a]"b`, Uptime: 5 * time.Second, HasUptime: true},
			{Doc: []byte(`{"message":"","a":[1,{"b":[]}]}`)},
		})
		b.journal.Append(logs.Batch{Body: body}, func(uint64, error) {})
		b.start()
		time.Sleep(time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		got := []string{string(b.stored["mem-1.0"].Doc), string(b.stored["mem-1.0"].Meta), string(b.stored["mem-1.1"].Doc), string(b.stored["mem-1.1"].Meta)}
		want := []string{`{"message":"]}\",[{"}`, `{"level":"warn","tag":"a]\"b","uptime_ms":5000}`, `{"message":"","a":[1,{"b":[]}]}`, ""}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
