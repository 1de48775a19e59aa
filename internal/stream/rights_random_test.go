package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"signalbox/internal/fleet"
)

// Whatever happens at the same time to devices, limits and sessions: in the end
// nobody follows what they may not see, whoever follows a set follows all of it
// that they may see, and nobody whose right is over is connected.
func TestRandomRights(t *testing.T) {
	const devices, people, rounds, steps = 40, 12, 8, 60
	ctx, cancel := context.WithCancel(t.Context())
	w := tagged(t, devices)
	ran := make(chan error, 1)
	go func() { ran <- w.registry.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	tags := []string{"lab", "yard", "roof"}

	var (
		changing sync.Mutex // of devices: the registry makes one change after the other
		next     = int64(devices)
		mu       sync.Mutex
		opened   []*client
	)
	change := func(f func()) {
		changing.Lock()
		defer changing.Unlock()
		f()
	}
	step := func(rnd *rand.Rand, who *holder, name string) {
		id := fmt.Sprintf("%s-%d", name, rnd.IntN(3))
		draw := func() (words []string) {
			for _, tag := range tags {
				if rnd.IntN(2) == 0 {
					words = append(words, tag)
				}
			}
			return words
		}
		set := Set{All: true}
		if rnd.IntN(2) == 0 {
			set = Set{ModelID: 1 + rnd.Int64N(2)}
		}
		var err error
		switch p := rnd.IntN(100); {
		case p < 15:
			var c *client
			if c, err = w.connectAs(who, name, id, ""); err == nil {
				mu.Lock()
				opened = append(opened, c)
				mu.Unlock()
			}
		case p < 35:
			_, err = w.registry.SubscribeSet(ctx, name, id, set, Want{})
		case p < 40:
			_, err = w.registry.UnsubscribeSet(ctx, name, id, set)
		case p < 55:
			_, err = w.registry.Subscribe(ctx, name, id, 1+rnd.Int64N(devices), Want{})
		case p < 62:
			err = w.registry.Unsubscribe(ctx, name, id, 1+rnd.Int64N(devices))
		case p < 78:
			change(func() {
				if id := 1 + rnd.Int64N(devices); true {
					if _, ok := w.devices.ByID(id); ok {
						w.change(id, draw()...)
					}
				}
			})
		case p < 82:
			change(func() {
				if d, ok := w.devices.drop(1 + rnd.Int64N(next)); ok {
					w.registry.DeviceDeleted(d)
				}
				next++
				d := retag(device(next), draw()...)
				w.devices.set(d)
				w.registry.DeviceCreated(ctx, d)
			})
		case p < 92:
			words := draw()
			who.set(func(h *holder) {
				if h.standing.May = only(words...); len(words) == len(tags) {
					h.standing.May = nil
				}
			})
			w.registry.RecheckSoon()
		case p < 94:
			who.set(func(h *holder) { h.err = errors.New("revoked") })
			w.registry.RecheckSoon()
		case p < 98:
			who.set(func(h *holder) { h.err = nil })
		case p < 99:
			w.registry.LogOut(name)
		default:
			w.registry.Recheck()
		}
		if kind := fleet.KindOf(err); err != nil && kind != fleet.NotFound && kind != fleet.Forbidden && who.good() {
			t.Errorf("%s: %v", id, err)
		}
	}
	holders := make([]*holder, people)
	for i := range holders {
		holders[i] = &holder{standing: Standing{Session: fmt.Sprintf("p%d", i)}}
	}
	for round := range rounds {
		var wg sync.WaitGroup
		for i, who := range holders {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(round*people+i)))
				for range steps {
					step(rnd, who, fmt.Sprintf("p%d", i))
				}
			})
		}
		wg.Wait()
		w.settled()
		for _, c := range opened { // as their carriers do
			if len(c.cutWith())+len(c.ended()) > 0 {
				w.registry.Disconnect(c.Connection)
			}
		}
		w.check()
		for _, c := range w.registry.connections() {
			who := holders[0]
			for i := range holders {
				if c.Subject == fmt.Sprintf("p%d", i) {
					who = holders[i]
				}
			}
			if !who.good() {
				t.Errorf("%s is open and revoked", c.RequestID)
			}
			for _, d := range w.devices.All() {
				_, follows := c.follows[d.ID]
				if g := c.group(d); g != nil && !follows {
					t.Errorf("%s does not follow %d of its set", c.RequestID, d.ID)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
	if w.value("sse_streams_ended_total", "revoked") == 0 || w.value("sse_streams_ended_total", "logout") == 0 {
		t.Error("nobody was ended")
	}
	for _, c := range opened {
		w.registry.Disconnect(c.Connection)
	}
	w.check()
}

func (h *holder) good() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err == nil
}

// settled waits until Run has nothing to do.
func (w *world) settled() {
	w.t.Helper()
	w.registry.Recheck()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r := w.registry
		r.mu.Lock()
		partial := len(r.joins) + len(r.rechecks)
		for _, c := range r.byRequest {
			if c.partial || !c.busy.TryLock() {
				partial++
			} else {
				c.busy.Unlock()
			}
		}
		r.mu.Unlock()
		if partial == 0 {
			return
		}
		if time.Now().After(until) {
			w.t.Fatal("it does not come to rest")
		}
	}
}
