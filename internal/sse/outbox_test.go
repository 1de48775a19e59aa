package sse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"signalbox/internal/sse"
)

// sized is a frame that counts for about n bytes.
func sized(n int) *sse.Frame { return sse.Control("x", strings.Repeat("y", n)) }

// controlRoom is what OfferControl may use beyond the limit.
const controlRoom = 64 << 10

// model is what an Outbox should be.
type model struct {
	limit  int
	queue  []*sse.Frame
	bytes  int
	busy   bool
	ended  bool
	closed bool
	wakes  int
}

func (m *model) offer(f *sse.Frame, limit int) bool {
	if m.closed || m.ended {
		return true
	}
	if 2*m.bytes > m.limit && m.bytes+f.Size() > limit {
		return false
	}
	m.queue = append(m.queue, f)
	m.bytes += f.Size()
	m.ended = f.Last
	if !m.busy {
		m.wakes++
	}
	m.busy = true
	return true
}

func (m *model) take(max int) (taken []*sse.Frame) {
	size := 0
	for len(m.queue) > 0 && (len(taken) == 0 || size+m.queue[0].Size() <= max) {
		size += m.queue[0].Size()
		taken, m.queue = append(taken, m.queue[0]), m.queue[1:]
	}
	m.bytes -= size
	if len(taken) == 0 {
		m.busy = false
	}
	return taken
}

func TestOutboxModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{limit: 2 * rapid.IntRange(50, 5000).Draw(t, "half the limit")}
		wakes := 0
		o := sse.NewOutbox(m.limit, func() { wakes++ })
		frame := func() *sse.Frame {
			if rapid.IntRange(0, 200).Draw(t, "end") == 0 {
				return sse.End()
			}
			return sized(rapid.IntRange(0, 2*m.limit).Draw(t, "size"))
		}
		buffer := make([]*sse.Frame, 0, 4)
		t.Repeat(map[string]func(*rapid.T){
			"offer": func(t *rapid.T) {
				f := frame()
				if got, want := o.Offer(f), m.offer(f, m.limit); got != want {
					t.Fatalf("Offer of %d bytes to %d of %d: %v", f.Size(), m.bytes, m.limit, got)
				}
			},
			"control": func(t *rapid.T) {
				f := frame()
				if got, want := o.OfferControl(f), m.offer(f, m.limit+controlRoom); got != want {
					t.Fatalf("OfferControl of %d bytes to %d of %d: %v", f.Size(), m.bytes, m.limit, got)
				}
			},
			"take": func(t *rapid.T) {
				max := rapid.IntRange(0, 2*m.limit).Draw(t, "max")
				first := sized(0)
				got := o.Take(append(buffer[:0], first), max)
				if want := m.take(max); got[0] != first || !slices.Equal(got[1:], want) {
					t.Fatalf("Take(%d) gave %d frames, want %d", max, len(got)-1, len(want))
				}
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 50).Draw(t, "close") == 0 {
					o.Close()
					m.closed, m.queue, m.bytes = true, nil, 0
				}
			},
			"": func(t *rapid.T) {
				if o.Bytes() != m.bytes || wakes != m.wakes {
					t.Fatalf("%d bytes, %d wakes; want %d, %d", o.Bytes(), wakes, m.bytes, m.wakes)
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := o.Room(ctx); !errors.Is(err, context.Canceled) {
					t.Fatalf("Room with an ended context: %v", err)
				}
			},
		})
	})
}

// The end of a stream is its last frame, whatever others still offer.
func TestOutboxEndIsLast(t *testing.T) {
	o := sse.NewOutbox(1000, func() {})
	end := sse.End()
	for _, f := range []*sse.Frame{sized(10), end, sized(20), sse.End()} {
		if !o.OfferControl(f) {
			t.Error("refused")
		}
	}
	got := o.Take(nil, 1<<20)
	if len(got) != 2 || got[1] != end {
		t.Errorf("took %d frames, the last one ends: %v", len(got), got[len(got)-1].Last)
	}
	if got := o.Take(nil, 1<<20); len(got) != 0 {
		t.Errorf("%d frames behind the end", len(got))
	}
}

func TestOutboxRoom(t *testing.T) {
	f := func(name string, free func(*sse.Outbox, context.CancelFunc), want error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := sse.NewOutbox(4000, func() {})
				frame := sized(950)
				for o.Offer(frame) {
				}
				if n := o.Bytes() / frame.Size(); n != 4 {
					t.Fatalf("%d frames fit", n)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				const waiters = 3
				ended := make(chan error, waiters)
				for range waiters {
					go func() { ended <- o.Room(ctx) }()
				}
				synctest.Wait()
				o.Take(nil, 0) // three quarters are still too much
				synctest.Wait()
				if len(ended) > 0 {
					t.Fatalf("Room returned %v with %d bytes waiting", <-ended, o.Bytes())
				}
				free(o, cancel)
				synctest.Wait()
				for range waiters {
					if err := <-ended; !errors.Is(err, want) {
						t.Errorf("Room: %v, want %v", err, want)
					}
				}
			})
		})
	}
	f("half full", func(o *sse.Outbox, _ context.CancelFunc) { o.Take(nil, 0); o.Take(nil, 0) }, nil)
	f("empty", func(o *sse.Outbox, _ context.CancelFunc) { o.Take(nil, 1<<20) }, nil)
	f("closed", func(o *sse.Outbox, _ context.CancelFunc) { o.Close() }, nil)
	f("given up", func(_ *sse.Outbox, cancel context.CancelFunc) { cancel() }, context.Canceled)
}

// Many producers, one writer that is started by wake and ends when there is
// nothing to take: everything comes out once, each producer's in order.
func TestOutboxConcurrent(t *testing.T) {
	const producers, frames = 8, 500
	var (
		o       *sse.Outbox
		writers sync.WaitGroup
		got     bytes.Buffer // without a lock: the race detector sees two writers at once
	)
	o = sse.NewOutbox(2000, func() {
		writers.Go(func() {
			for batch := o.Take(nil, 300); len(batch) > 0; batch = o.Take(batch[:0], 300) {
				for _, f := range batch {
					got.Write(f.Block())
				}
			}
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for n := range frames {
				for f := sse.Control(fmt.Sprint(p), fmt.Sprint(n)); !o.Offer(f); {
					if err := o.Room(ctx); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	writers.Wait()
	next := map[string]int{}
	d := sse.NewDecoder(&got, "")
	for m, err := d.Next(); err == nil; m, err = d.Next() {
		if string(m.Data) != fmt.Sprint(next[m.Name]) {
			t.Fatalf("producer %s: got %s, want %d", m.Name, m.Data, next[m.Name])
		}
		next[m.Name]++
	}
	if len(next) != producers {
		t.Errorf("%d producers were heard", len(next))
	}
	for p, n := range next {
		if n != frames {
			t.Errorf("producer %s: %d of %d frames", p, n, frames)
		}
	}
}
