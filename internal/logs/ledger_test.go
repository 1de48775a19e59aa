package logs_test

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"signalbox/internal/logs"
)

func TestLedgerModel(t *testing.T) {
	type batch struct {
		seq    uint64
		device string
		lines  int
	}
	rapid.Check(t, func(t *rapid.T) {
		since := rapid.Uint64Range(0, 5).Draw(t, "since")
		l := logs.NewLedger(since)
		var all []batch
		newest := since
		device := rapid.SampledFrom([]string{"", "a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				newest += rapid.Uint64Range(1, 3).Draw(t, "step")
				b := batch{newest, device.Draw(t, "device"), rapid.IntRange(0, 5).Draw(t, "lines")}
				all = append(all, b)
				l.Add(b.seq, b.device, b.lines)
			},
			"lines": func(t *rapid.T) {
				d := device.Draw(t, "device")
				after, upTo := rapid.Uint64Range(0, newest+2).Draw(t, "after"), rapid.Uint64Range(0, newest+2).Draw(t, "up to")
				want := 0
				for _, b := range all {
					if b.device == d && b.seq > after && b.seq <= upTo {
						want += b.lines
					}
				}
				n, known := l.Lines(d, after, upTo)
				if known != (after >= since) || known && n != want {
					t.Fatalf("Lines(%q, %d, %d) = %d, %v; want %d", d, after, upTo, n, known, want)
				}
			},
		})
	})
}

// A full ledger forgets the oldest batches, and knows that it has.
func TestLedgerFull(t *testing.T) {
	const (
		size  = 1 << 20
		block = 1 << 14 // forgotten at once
	)
	l := logs.NewLedger(0)
	add := func(from, to uint64) {
		for seq := from; seq <= to; seq++ {
			l.Add(seq, fmt.Sprintf("d%d", seq%2), 3)
		}
	}
	want := func(after, upTo uint64, n int, known bool) {
		t.Helper()
		if got, ok := l.Lines("d0", after, upTo); ok != known || got != n {
			t.Errorf("Lines(d0, %d, %d) = %d, %v; want %d, %v", after, upTo, got, ok, n, known)
		}
	}
	add(1, size)
	want(0, size, 3*size/2, true)
	add(size+1, size+1)
	want(0, size, 0, false)
	want(block-1, size, 0, false)
	want(block, size, 3*(size-block)/2, true)
	add(size+2, 2*size+5)
	want(2*size-2, 2*size+5, 3*3, true)
	want(size+5, 2*size+5, 0, false)
	want(2*size+5, 2*size+5, 0, true)
}

func TestLedgerConcurrent(t *testing.T) {
	l := logs.NewLedger(0)
	var wg sync.WaitGroup
	const n = 5000
	wg.Go(func() {
		for seq := range uint64(n) {
			l.Add(seq+1, "a", 1)
		}
	})
	for range 2 {
		wg.Go(func() {
			for last := 0; last < n; {
				got, known := l.Lines("a", 0, n)
				if !known || got < last {
					t.Errorf("%d lines after %d, known %v", got, last, known)
					return
				}
				last = got
			}
		})
	}
	wg.Wait()
}
