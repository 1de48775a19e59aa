package nats_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
)

func TestPositions(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 7, 4, 8, 0, 0, 123456000, time.UTC)
	lost := []logs.Lost{
		{Device: "dev00001", Epoch: "old", From: 5, To: 9, Least: at, Most: at.Add(time.Hour), Lines: 7, Reason: logs.LostRejected},
		{Epoch: "abc", From: 0, To: 1 << 60, Reason: logs.LostJournal},
	}
	f := func(p *nats.Positions, name, epoch string, seq uint64) {
		t.Helper()
		got, err := p.Position(t.Context(), name)
		want := logs.Progress{Epoch: epoch, Seq: seq}
		if epoch != "" {
			want.Lost = lost
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("position of %s: %v\n%s", name, err, diff)
		}
	}
	open := func() (*nats.Positions, func()) {
		s := startServer(t, dir, "")
		j := openJournal(t, s, nats.JournalOptions{})
		p, err := nats.OpenPositions(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return p, func() { j.Close(); s.Close() }
	}
	p, stop := open()
	f(p, "elasticsearch", "", 0)
	for _, seq := range []uint64{1, 7, 1 << 60} {
		if err := p.SetPosition(t.Context(), "elasticsearch", logs.Progress{Epoch: "abc", Seq: seq, Lost: lost}); err != nil {
			t.Fatal(err)
		}
		f(p, "elasticsearch", "abc", seq)
	}
	f(p, "other", "", 0)
	stop()
	p, stop = open()
	f(p, "elasticsearch", "abc", 1<<60)
	stop()
	if err := p.SetPosition(t.Context(), "elasticsearch", logs.Progress{Epoch: "abc", Seq: 5}); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("error %v of a closed server; want one of kind unavailable", err)
	}
}

func TestDeadLetters(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	defer s.Close()
	j := openJournal(t, s, nats.JournalOptions{})
	defer j.Close()
	d, err := nats.OpenDeadLetters(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)
	lines := []logs.SinkLine{
		{ID: "abc-1.0", Device: "dev00001", Received: at, Doc: []byte(`{"message":"<no>"}`), Meta: []byte(`{"level":"warn"}`)},
		{ID: "abc-2.3", Received: at, Doc: []byte("rub\xffbish")},
		{ID: "abc-1.0", Device: "dev00001", Received: at, Doc: []byte(`{"message":"<no>"}`), Meta: []byte(`{"level":"warn"}`)}, // again
	}
	for _, l := range lines {
		if err := d.Refuse(t.Context(), "elasticsearch", l, "mapping"); err != nil {
			t.Fatal(err)
		}
	}
	at = at.UTC()
	list := func(q logs.DeadQuery) (got []logs.DeadLetter, more bool) {
		t.Helper()
		got, more, err := d.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if since := time.Since(got[i].Refused); since < 0 || since > time.Minute {
				t.Errorf("refused at %v", got[i].Refused)
			}
			got[i].Refused = time.Time{}
		}
		return got, more
	}
	want := []logs.DeadLetter{
		{Number: 1, Sink: "elasticsearch", Reason: "mapping", Line: logs.SinkLine{ID: "abc-1.0", Seq: 1, Device: "dev00001", Received: at, Doc: []byte(`{"message":"<no>"}`), Meta: []byte(`{"level":"warn"}`)}},
		{Number: 2, Sink: "elasticsearch", Reason: "mapping", Line: logs.SinkLine{ID: "abc-2.3", Seq: 2, N: 3, Received: at, Doc: []byte(`"rub\ufffdbish"`)}},
	}
	got, more := list(logs.DeadQuery{Sink: "elasticsearch", Limit: 10})
	if diff := cmp.Diff(want, got); diff != "" || more {
		t.Errorf("more %v\n%s", more, diff)
	}

	// Pages in both directions, with holes.
	for i := range 200 {
		line := logs.SinkLine{ID: fmt.Sprintf("abc-%d.0", 10+i), Received: at, Doc: []byte(`{}`)}
		if err := d.Refuse(t.Context(), []string{"elasticsearch", "other"}[i%2], line, "mapping"); err != nil {
			t.Fatal(err)
		}
	}
	var all []uint64
	for n := uint64(1); n <= 202; n++ {
		if n > 30 && n < 190 {
			if err := d.Remove(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		} else if n <= 2 || n%2 == 1 {
			all = append(all, n)
		}
	}
	if err := d.Remove(t.Context(), 100); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	for _, newest := range []bool{false, true} {
		want := slices.Clone(all)
		if newest {
			slices.Reverse(want)
		}
		for _, limit := range []int{1, 4, len(all), 1000} {
			var numbers []uint64
			for q, more := (logs.DeadQuery{Sink: "elasticsearch", Newest: newest, Limit: limit}), true; more; {
				var page []logs.DeadLetter
				page, more = list(q)
				if len(page) == 0 || len(page) > limit {
					t.Fatalf("a page of %d, more %v", len(page), more)
				}
				for _, l := range page {
					numbers = append(numbers, l.Number)
				}
				q.After = numbers[len(numbers)-1]
			}
			if diff := cmp.Diff(want, numbers); diff != "" {
				t.Errorf("newest %v by %d: %s", newest, limit, diff)
			}
		}
	}
	if got, _ := list(logs.DeadQuery{Limit: 1000}); len(got) <= len(all) {
		t.Errorf("%d letters of all sinks", len(got))
	}
	if n, err := d.Purge(t.Context(), "elasticsearch", all[4]); n != 5 || err != nil {
		t.Errorf("%d were removed, %v", n, err)
	}
	if n, err := d.Purge(t.Context(), "elasticsearch", math.MaxUint64); n != len(all)-5 || err != nil {
		t.Errorf("%d were removed, %v", n, err)
	}
	if got, _ := list(logs.DeadQuery{Limit: 1000}); len(got) == 0 || got[0].Sink != "other" {
		t.Errorf("of the other sink: %+v", got)
	}
}

// store is a sink in memory.
type store struct {
	mu    sync.Mutex
	lines map[string]int // by id: how often it was written
	wrote chan struct{}  // one for each call
	fail  bool
}

func (s *store) Name() string { return "store" }

func (s *store) Write(_ context.Context, lines []logs.SinkLine) ([]logs.Refusal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.wrote <- struct{}{}:
		default:
		}
	}()
	if s.fail {
		return nil, fleet.E(fleet.Unavailable, nil, "down")
	}
	for _, l := range lines {
		s.lines[l.ID]++
	}
	return nil, nil
}

// The process that feeds a sink is stopped again and again while lines come
// in, and the server with it: each line arrives.
func TestSinkAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	sink := &store{lines: map[string]int{}, wrote: make(chan struct{}, 1)}
	const lives, records = 6, 400
	for life := range lives {
		s := startServer(t, dir, "")
		j := openJournal(t, s, nats.JournalOptions{})
		positions, err := nats.OpenPositions(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		dead, err := nats.OpenDeadLetters(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		r, err := logs.OpenSink(t.Context(), logs.SinkOptions{
			Sink: sink, Journal: j, Positions: positions, DeadLetters: dead, Metrics: logs.NewSinkMetrics(prometheus.NewRegistry()), Log: quiet(),
			MinDelay: 5 * time.Millisecond, MaxDelay: 20 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		sink.mu.Lock()
		sink.fail = life == 2 // a whole life long
		sink.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		last := put(t, j, fmt.Sprintf("dev%d", life), life*records, records)
		<-sink.wrote // it is at work: that is the moment
		if life == lives-1 {
			for deadline := time.Now().Add(20 * time.Second); r.Settled() < last && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if r.Held() != r.Settled() {
			t.Errorf("life %d: stored position %d, settled %d", life, r.Held(), r.Settled())
		}
		if life == lives-1 {
			for seq := uint64(1); seq <= last; seq++ {
				if id := j.Epoch() + "-" + strconv.FormatUint(seq, 10) + ".0"; sink.lines[id] == 0 {
					t.Errorf("line %s did not arrive", id)
				}
			}
			if len(sink.lines) != lives*records {
				t.Errorf("%d lines arrived; want %d", len(sink.lines), lives*records)
			}
		}
		j.Close()
		s.Close()
	}
}
