package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A reader that loses its connection a thousand times, at any moment of
// connecting, subscribing, catching up and reading, misses and repeats nothing.
func TestThousandReconnects(t *testing.T) {
	s := start(t)
	var all []device
	for i := range 3 {
		all = append(all, s.device(fmt.Sprintf("reconnect-%d", i)))
	}
	r := s.newReader("restless", all...)
	// Only who has an id can come back: the first connection lasts until each
	// device was heard.
	r.start()
	r.wait("the devices are followed", func() bool { return r.live })
	var talkers []*talker
	for _, d := range all {
		talkers = append(talkers, s.talk(d, 5*time.Millisecond, 1, false))
	}
	for _, d := range all {
		r.waitFor(d, 1)
	}
	r.stop()

	const reconnects = 1000
	for range reconnects {
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(16*time.Millisecond))
		r.session(ctx)
		cancel()
	}
	for _, k := range talkers {
		k.stop()
	}
	r.start()
	for _, k := range talkers {
		k.checkHeard(r)
	}
	r.check()
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d of %d streams became ready", r.opened, reconnects)
	if r.opened < reconnects/4 {
		t.Errorf("only %d of %d streams became ready: not much of a test", r.opened, reconnects)
	}
}
