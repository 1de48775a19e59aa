package stream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
)

func TestNudger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, nil)
		n := NewNudger(w.registry, w.metrics)
		a, b := w.open("ann", "r1"), w.open("bob", "r2")
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		f := func(what string, broadcasts int) {
			t.Helper()
			synctest.Wait()
			for _, c := range []*client{a, b} {
				frames := c.out.Take(nil, 1<<20)
				if len(frames) != broadcasts {
					t.Errorf("%s: %s had %d broadcasts, want %d", what, c.RequestID, len(frames), broadcasts)
				}
				for _, f := range frames {
					if got := string(f.Block()); got != "data: {\"type\":\"rotation-updated\",\"payload\":{}}\n\n" {
						t.Errorf("%q", got)
					}
				}
			}
		}
		nudge := func(source string) {
			t.Helper()
			if err := n.Nudge(source); err != nil {
				t.Error(err)
			}
		}
		f("before all", 0)
		nudge("web")
		f("the first comes at once", 1)
		for range 100 {
			nudge("cronjob")
		}
		f("within the pause", 0)
		time.Sleep(time.Second)
		f("after it, once for all", 1)
		for range 100 { // a burst after a quiet time
			nudge("cronjob")
			synctest.Wait()
		}
		f("a burst", 1)
		time.Sleep(time.Second)
		f("and what came after the first of it", 1)
		for range 10 { // never more often than the pause allows
			nudge("web")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if got := len(a.names()); got < 3 || got > 5 {
			t.Errorf("%d broadcasts in a second", got)
		}
		b.names()
		time.Sleep(time.Second)
		a.names()
		b.names()

		nudge("web")
		synctest.Wait()
		nudge("web") // is on its way when it all ends
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.want(n.Nudge("web"), fleet.Unavailable, "The server is shutting down")
		if diff := cmp.Diff([]int{13, 200}, []int{w.value("sse_rotation_nudge_broadcast_total", "web"), w.value("sse_rotation_nudge_broadcast_total", "cronjob")}); diff != "" {
			t.Error(diff)
		}
	})
}
