package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/logs"
)

// Journal checks that what open returns is a logs.Journal. Each call of open
// gives an empty one, which ends with the test.
func Journal(t *testing.T, open func(*testing.T) logs.Journal) {
	check := func(name string, f func(*testing.T, *journal)) {
		t.Run("a cut is told once, in its place, and its sequences are not given", func(t *testing.T) {
			j := open(t)
			ctx := t.Context()
			put := func() uint64 {
				return Write(t, j, said{device: device(1), at: day, messages: []string{"x"}}.batch())[0]
			}
			for range 3 {
				put()
			}
			must(t, j.Advance(ctx, 2)) // is so
			must(t, j.Advance(ctx, 40))
			must(t, j.Advance(ctx, 40))
			if oldest, newest, err := j.Bounds(ctx); err != nil || oldest != 1 || newest != 40 {
				t.Errorf("the journal holds %d to %d, %v", oldest, newest, err)
			}
			if seq := put(); seq != 41 {
				t.Errorf("the next sequence is %d", seq)
			}
			for after, want := range map[uint64]string{0: "1 2 3 3-40 41 ", 3: "3-40 41 ", 20: "3-40 41 ", 40: "41 "} {
				got := ""
				upTo, err := j.Replay(ctx, []string{device(1)}, after, func(p logs.Page) error {
					for _, l := range p.Lost {
						if l.Reason != logs.LostReset || l.Device != "" || l.Epoch != j.Epoch() {
							t.Errorf("a cut says %+v", l)
						}
						got += fmt.Sprintf("%d-%d ", l.From, l.To)
					}
					for _, r := range p.Records {
						got += fmt.Sprintf("%d ", r.Seq)
					}
					return nil
				})
				if err != nil || upTo != 41 || got != want {
					t.Errorf("after %d: %q up to %d, %v; want %q", after, got, upTo, err, want)
				}
			}
			next := uint64(1)
			enough := errors.New("enough")
			err := j.Consume(ctx, 0, nil, func(page []logs.Record) error {
				for _, r := range page {
					if r.Seq != next || (r.Device == "" && len(r.Body) == 0) != (r.Seq > 3 && r.Seq <= 40) {
						t.Errorf("%d came as %+v", next, r)
					}
					next++
				}
				if next > 41 {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				t.Error(err)
			}
		})
		t.Run(name, func(t *testing.T) { f(t, &journal{Journal: open(t), t: t}) })
	}
	check("an empty journal has no bounds", func(t *testing.T, j *journal) {
		oldest, newest, err := j.Bounds(t.Context())
		if err != nil || oldest != newest+1 {
			t.Fatalf("Bounds() = %d, %d, %v; want oldest = newest+1", oldest, newest, err)
		}
		j.replay(0, "aaaaaaaa")
		if !strings.ContainsFunc(j.Epoch(), func(r rune) bool { return r != '-' && r != '~' }) {
			t.Errorf("Epoch() = %q", j.Epoch())
		}
	})
	check("appends are answered in order with rising sequences", func(t *testing.T, j *journal) {
		const n = 2000
		seqs := make(chan uint64, n)
		for i := range n {
			j.Append(batch(device(i%7), fmt.Sprint(i)), func(seq uint64, err error) {
				if err != nil {
					t.Error(err)
				}
				seqs <- seq
			})
		}
		last := uint64(0)
		for range n {
			seq := <-seqs
			if seq <= last {
				t.Fatalf("sequence %d after %d", seq, last)
			}
			if newest, err := j.Newest(t.Context()); err != nil || newest < seq {
				t.Errorf("Newest() = %d, %v when %d was acknowledged", newest, err, seq)
			}
			last = seq
		}
		if _, newest, err := j.Bounds(t.Context()); err != nil || newest != last {
			t.Errorf("newest = %d, %v; want %d", newest, err, last)
		}
		if newest, err := j.Newest(t.Context()); err != nil || newest != last {
			t.Errorf("Newest() = %d, %v; want %d", newest, err, last)
		}
	})
	check("replay gives each device's records after a place, in order", func(t *testing.T, j *journal) {
		var seqs []uint64
		for i := range 1000 {
			seqs = append(seqs, j.put(device(i%3), fmt.Sprint(i)))
		}
		want := func(from int, devices ...int) (w []string) {
			for i := from; i < 1000; i++ {
				for _, d := range devices {
					if i%3 == d {
						w = append(w, fmt.Sprint(i))
					}
				}
			}
			return w
		}
		j.replay(0, device(0), want(0, 0)...)
		j.replay(seqs[499], device(1), want(500, 1)...)
		j.replay(seqs[990], device(0)+" "+device(2), want(991, 0, 2)...)
		j.replay(seqs[999], device(0))
		j.replay(0, "zzzzzzzz")
	})
	check("unmatched batches belong to no device", func(t *testing.T, j *journal) {
		j.put("", "lost")
		j.put(device(1), "found")
		j.replay(0, device(1), "found")
		var all []string
		_, err := j.Replay(t.Context(), nil, 0, func(p logs.Page) error {
			for _, r := range p.Records {
				all = append(all, r.Device+" "+text(r.Body))
			}
			return nil
		})
		must(t, err)
		if diff := cmp.Diff([]string{device(1) + " found"}, all); diff != "" {
			t.Error(diff)
		}
	})
	check("replay sees what was acknowledged before it", func(t *testing.T, j *journal) {
		for i := range 50 {
			seq := j.put(device(0), fmt.Sprint(i))
			j.replay(seq-1, device(0), fmt.Sprint(i))
		}
	})
	check("replay stops with the error of emit and with its context", func(t *testing.T, j *journal) {
		for i := range 3000 {
			j.Append(batch(device(0), fmt.Sprint(i)), func(uint64, error) {})
		}
		j.put(device(0), "last")
		stop := errors.New("stop")
		if _, err := j.Replay(t.Context(), []string{device(0)}, 0, func(logs.Page) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("err = %v; want emit's", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := j.Replay(ctx, []string{device(0)}, 0, func(logs.Page) error { cancel(); return ctx.Err() }); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v; want Canceled", err)
		}
	})
	check("consume gives everything in order and goes on", func(t *testing.T, j *journal) {
		for i := range 600 {
			j.put([]string{device(0), "", device(1)}[i%3], fmt.Sprint(i))
		}
		must(t, j.Trim(t.Context(), 101))
		got := make(chan logs.Record, 2000)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- j.Consume(ctx, 50, nil, func(page []logs.Record) error {
				for _, r := range page {
					got <- r
				}
				return nil
			})
		}()
		for i := 600; i < 900; i++ {
			j.put([]string{device(0), "", device(1)}[i%3], fmt.Sprint(i))
		}
		for i := 100; i < 900; i++ {
			select {
			case r := <-got:
				if want := []string{device(0), "", device(1)}[i%3]; r.Seq != uint64(i+1) || r.Device != want || text(r.Body) != fmt.Sprint(i) {
					t.Fatalf("record %d of %q: %s; want %d of %q", r.Seq, r.Device, r.Body, i+1, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("record %d did not come", i+1)
			}
		}
		cancel()
		must(t, <-ended)
		stop := errors.New("stop")
		if err := j.Consume(t.Context(), 0, nil, func([]logs.Record) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("err = %v; want emit's", err)
		}
	})
	check("trim gives up what is below, and nothing else", func(t *testing.T, j *journal) {
		for i := range 20 {
			j.put(device(0), fmt.Sprint(i))
		}
		must(t, j.Trim(t.Context(), 11))
		must(t, j.Trim(t.Context(), 5))
		if oldest, newest, err := j.Bounds(t.Context()); err != nil || oldest != 11 || newest != 20 {
			t.Errorf("Bounds() = %d, %d, %v; want 11, 20", oldest, newest, err)
		}
		must(t, j.Trim(t.Context(), 21))
		if seq := j.put(device(0), "after"); seq != 21 {
			t.Errorf("the next sequence is %d; want 21", seq)
		}
		j.replay(0, device(0), "after")
	})
	check("origins of the newest records are kept", func(t *testing.T, j *journal) {
		for i := range 10 {
			b := batch(device(0), fmt.Sprint(i))
			if i%2 == 0 {
				b.Origin = fmt.Sprint("origin/", i)
			}
			done := make(chan error, 1)
			j.Append(b, func(_ uint64, err error) { done <- err })
			must(t, <-done)
		}
		got, err := j.Origins(t.Context(), 5)
		must(t, err)
		if diff := cmp.Diff([]string{"origin/6", "origin/8"}, got); diff != "" {
			t.Error(diff)
		}
		got, err = j.Origins(t.Context(), 1000)
		must(t, err)
		if len(got) != 5 {
			t.Errorf("%d origins of all; want 5", len(got))
		}
	})
	check("large and small bodies come back as they went", func(t *testing.T, j *journal) {
		for _, size := range []int{1, 1000, 100_000, 2 << 20} {
			text := strings.Repeat("x", size)
			seq := j.put(device(0), text)
			j.replay(seq-1, device(0), text)
		}
	})
	check("live delivers everything stored after watch, with the chain", func(t *testing.T, j *journal) {
		j.put(device(0), "before")
		live := j.live()
		must(t, j.Watch(t.Context(), device(0)))
		must(t, j.Watch(t.Context(), device(1)))
		var want []logs.Record
		prev := map[string]uint64{device(0): 1}
		for i := range 500 {
			d := device(i % 3)
			seq := j.put(d, fmt.Sprint(i))
			if i%3 < 2 {
				want = append(want, logs.Record{Seq: seq, Prev: prev[d], Device: d, Body: batch(d, fmt.Sprint(i)).Body})
			}
			prev[d] = seq
		}
		for _, w := range want {
			if diff := cmp.Diff(w, live.next(t)); diff != "" {
				t.Fatal(diff)
			}
		}
		j.Unwatch(device(0))
		j.put(device(0), "unheard")
		j.put(device(1), "heard")
		if got := live.next(t); text(got.Body) != "heard" {
			t.Errorf("got %s after Unwatch", got.Body)
		}
	})
	check("watching again begins anew", func(t *testing.T, j *journal) {
		live := j.live()
		for i := range 20 {
			must(t, j.Watch(t.Context(), device(0)))
			j.put(device(0), fmt.Sprint(i))
			if got := live.next(t); text(got.Body) != fmt.Sprint(i) {
				t.Fatalf("round %d: got %s", i, got.Body)
			}
			j.Unwatch(device(0))
		}
	})
}

// Write appends batches and returns their sequences when all are stored.
func Write(t *testing.T, j logs.Journal, batches ...logs.Batch) []uint64 {
	t.Helper()
	seqs := make([]uint64, len(batches))
	done := make(chan error, len(batches))
	for i, b := range batches {
		j.Append(b, func(seq uint64, err error) {
			seqs[i] = seq
			done <- err
		})
	}
	for range batches {
		must(t, <-done)
	}
	return seqs
}

// journal is a logs.Journal with what the checks need.
type journal struct {
	logs.Journal
	t *testing.T
}

func device(i int) string { return fmt.Sprintf("dev0000%d", i) }

func batch(device, message string) logs.Batch {
	at := time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)
	b := logs.Batch{Device: device, Body: logs.EncodeBody(at, []logs.Entry{{Doc: []byte(`"` + message + `"`)}})}
	if device == "" {
		b.Unmatched = logs.ReasonNoEntity
	}
	return b
}

// text is the message of a body that batch made.
func text(b logs.Body) string {
	_, rest, _ := strings.Cut(string(b), `"logs":["`)
	s, _, _ := strings.Cut(rest, `"]`)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put appends and waits for the answer.
func (j *journal) put(device, message string) uint64 {
	j.t.Helper()
	return Write(j.t, j.Journal, batch(device, message))[0]
}

// replay checks what Replay gives for the devices, separated by spaces.
func (j *journal) replay(after uint64, devices string, want ...string) {
	j.t.Helper()
	var got []string
	last := after
	pages := 0
	upTo, err := j.Replay(j.t.Context(), strings.Fields(devices), after, func(p logs.Page) error {
		pages++
		for _, r := range p.Records {
			if r.Seq <= last {
				j.t.Errorf("sequence %d after %d", r.Seq, last)
			}
			last = r.Seq
			got = append(got, text(r.Body))
		}
		return nil
	})
	must(j.t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		j.t.Errorf("replay of %s after %d (-want +got):\n%s", devices, after, diff)
	}
	if upTo < last || pages == 0 {
		j.t.Errorf("upTo = %d with last record %d, in %d pages", upTo, last, pages)
	}
}

type live chan logs.Record

func (j *journal) live() live {
	l := make(live, 10_000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- j.Live(ctx, func(r logs.Record) { l <- r }, func() { j.t.Error("lost") })
	}()
	j.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			j.t.Error(err)
		}
	})
	return l
}

func (l live) next(t *testing.T) logs.Record {
	t.Helper()
	select {
	case r := <-l:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}
