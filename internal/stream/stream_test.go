package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

func TestConnect(t *testing.T) {
	w := newWorld(t, 0, nil)
	a, b := w.open("ann", "r1"), w.open("ann", "r2")
	if a.Token == "" || a.Token == b.Token || a.Subject != "ann" || a.RequestID != "r1" || time.Since(a.Opened) > time.Minute {
		t.Errorf("%+v and %+v", a.Connection, b.Connection)
	}
	w.check()
	w.registry.Disconnect(a.Connection)
	w.registry.Disconnect(a.Connection) // more does no harm
	if len(a.ended()) != 0 {
		t.Error("a connection that ended by itself was ended")
	}
	w.check()
	w.registry.Disconnect(b.Connection)
	w.check()
	if n := w.value("sse_identity_binding_total", "success"); n != 2 {
		t.Errorf("%d identities bound", n)
	}
	w.registry.BindingFailed()
	if n := w.value("sse_identity_binding_total", "failed"); n != 1 {
		t.Errorf("%d bindings failed", n)
	}
}

func TestRequestID(t *testing.T) {
	w := newWorld(t, 0, nil)
	for _, id := range []string{"a", strings.Repeat("x", 128), "~!@#$%^&*()", "0b8f7d2e-1c1e-4a9b-8a53-7f9c2f4b1f10"} {
		if _, err := w.connect("ann", id, ""); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	_, err := w.connect("ann", "", "")
	w.want(err, fleet.Invalid, "Missing request_id in URL")
	for _, id := range []string{strings.Repeat("x", 129), "a:b", "a b", " a", "a\n", "a\x00", "\x7f", "é", "\u2028", "\xff"} {
		_, err := w.connect("ann", id, "")
		w.want(err, fleet.Invalid, "Invalid request_id format")
	}
	w.check()
	if n := w.value("sse_identity_binding_total", "failed"); n != 11 {
		t.Errorf("%d bindings failed", n)
	}
}

// The same subject's new connection takes the place of the old one, and
// inherits nothing of it.
func TestReplacement(t *testing.T) {
	w := newWorld(t, 3, nil)
	old := w.open("ann", "r1")
	w.subscribe(old, 1, 2)
	fresh := w.open("ann", "r1")
	if ends := old.ended(); len(ends) != 1 || ends[0] != nil {
		t.Errorf("the old connection was ended with %v", ends)
	}
	if len(fresh.ended()) != 0 || fresh.Token == old.Token || len(fresh.reader.keys()) != 0 || !old.reader.closed {
		t.Errorf("%+v", fresh.Connection)
	}
	w.want(w.registry.Unsubscribe(context.Background(), "ann", "r1", 1), fleet.NotFound, "Subscription e1 was not found")
	w.subscribe(fresh, 2, 3)
	w.registry.Disconnect(old.Connection) // its carrier notices late, and takes nothing away
	w.check()
	if diff := cmp.Diff([]string{device(2).Key, device(3).Key}, fresh.reader.keys()); diff != "" {
		t.Error(diff)
	}
	if n := w.value("sse_device_log_subscriptions_active", ""); n != 2 {
		t.Errorf("%d subscriptions", n)
	}
}

func TestNobodyTakesOver(t *testing.T) {
	w := newWorld(t, 1, nil)
	anns := w.open("ann", "r1")
	w.subscribe(anns, 1)
	_, err := w.connect("bob", "r1", "e-7")
	w.want(err, fleet.Forbidden, "This request_id belongs to another connection")
	_, err = w.registry.Subscribe(t.Context(), "bob", "r1", 1, Want{})
	w.want(err, fleet.Forbidden, "Identity mismatch for SSE connection")
	w.want(w.registry.Unsubscribe(context.Background(), "bob", "r1", 1), fleet.Forbidden, "Identity mismatch for SSE connection")
	if len(anns.ended()) != 0 || len(anns.reader.keys()) != 1 {
		t.Error("somebody else touched the connection")
	}
	w.check()
	if n := w.value("sse_identity_binding_total", "failed"); n != 1 {
		t.Errorf("%d bindings failed", n)
	}
	// When it is gone the id is free, and nothing of it is passed on.
	w.registry.Disconnect(anns.Connection)
	if _, err := w.connect("bob", "r1", "e-7"); err != nil {
		t.Fatal(err)
	}
	if o := w.feed.last(); o.known || o.resume != "e-7" {
		t.Errorf("bob's connection began with %+v", o)
	}
	w.check()
}

func TestConnectLimits(t *testing.T) {
	w := newWorld(t, 0, func(o *Options) { o.MaxConnections, o.MaxPerSubject = 3, 2 })
	first := w.open("ann", "r1")
	w.open("ann", "r2")
	_, err := w.connect("ann", "r3", "")
	w.want(err, fleet.TooMany, "You have reached the limit of 2 event streams")
	w.open("bob", "r3")
	_, err = w.connect("cid", "r4", "")
	w.want(err, fleet.TooMany, "The server has reached its limit of 3 event streams")
	w.open("ann", "r1") // replacing one adds none
	w.check()
	w.registry.Disconnect(first.Connection) // that one is gone already
	_, err = w.connect("cid", "r4", "")
	w.want(err, fleet.TooMany, "The server has reached its limit of 3 event streams")
	w.registry.Disconnect(w.open("bob", "r3").Connection)
	w.open("cid", "r4")
	w.check()
}

func TestSubscribe(t *testing.T) {
	w := newWorld(t, 4, func(o *Options) { o.MaxSubscriptions = 2 })
	c := w.open("ann", "r1")
	f := func(subject, id string, device int64, kind fleet.Kind, text string) {
		t.Helper()
		entity, err := w.registry.Subscribe(t.Context(), subject, id, device, Want{})
		if text == "" {
			if err != nil || entity != fmt.Sprintf("e%d", device) {
				t.Errorf("device %d: %q, %v", device, entity, err)
			}
			return
		}
		w.want(err, kind, text)
		if entity != "" {
			t.Errorf("an error with %q", entity)
		}
	}
	nameless := device(4)
	nameless.EntityID = ""
	w.devices.set(nameless)

	f("ann", "r1", 9, fleet.NotFound, "Device 9 was not found")
	f("ann", "r1", 4, fleet.NotFound, "Device entity ID 4 was not found")
	f("bob", "r9", 4, fleet.NotFound, "Device entity ID 4 was not found")
	f("ann", "r9", 1, fleet.Forbidden, "No identity binding for this SSE connection")
	f("bob", "r1", 1, fleet.Forbidden, "Identity mismatch for SSE connection")
	f("ann", "r1", 1, 0, "")
	f("ann", "r1", 1, 0, "") // twice is once
	f("ann", "r1", 2, 0, "")
	f("ann", "r1", 3, fleet.TooMany, "A connection can follow at most 2 devices")
	f("ann", "r1", 1, 0, "") // at the limit too
	w.check()
	if n := w.value("sse_device_log_subscriptions_active", ""); n != 2 {
		t.Errorf("%d subscriptions", n)
	}

	// The journal refuses: nothing is left behind.
	if err := w.registry.Unsubscribe(context.Background(), "ann", "r1", 2); err != nil {
		t.Fatal(err)
	}
	w.feed.fail = fleet.E(fleet.Unavailable, errors.New("down"), "The log journal is not available")
	f("ann", "r1", 3, fleet.Unavailable, "The log journal is not available")
	w.feed.fail = nil
	w.check()
	f("ann", "r1", 3, 0, "")
	w.registry.Disconnect(c.Connection)
	f("ann", "r1", 1, fleet.Forbidden, "No identity binding for this SSE connection")
	w.check()
}

// What happens to the connection or the device while the journal is asked.
// Whoever counts who follows a device hears of every change of that.
func TestWatchers(t *testing.T) {
	told := map[int64]int{}
	w := newWorld(t, 3, func(o *Options) { o.Watched = func(d fleet.DeviceRef) { told[d.ID]++ } })
	f := func(watchers map[int64]int, changes map[int64]int) {
		t.Helper()
		if diff := cmp.Diff(watchers, w.registry.Watchers()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(changes, told); diff != "" {
			t.Error(diff)
		}
		clear(told)
	}
	f(map[int64]int{}, map[int64]int{})
	ann, bob := w.open("ann", "r1"), w.open("bob", "r2")
	w.subscribe(ann, 1, 2)
	w.subscribe(bob, 1, 1)
	f(map[int64]int{1: 2, 2: 1}, map[int64]int{1: 2, 2: 1})
	if err := w.registry.Unsubscribe(context.Background(), "ann", "r1", 2); err != nil {
		t.Fatal(err)
	}
	f(map[int64]int{1: 2}, map[int64]int{2: 1})
	w.registry.Disconnect(bob.Connection)
	f(map[int64]int{1: 1}, map[int64]int{1: 1})
	if d, ok := w.devices.drop(1); ok {
		w.registry.DeviceDeleted(d)
	}
	f(map[int64]int{}, map[int64]int{1: 1})
}

func TestSubscribeMeanwhile(t *testing.T) {
	f := func(name string, meanwhile func(*world, *client), kind fleet.Kind, text string) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, nil)
			c := w.open("ann", "r1")
			w.feed.during = func() {
				w.feed.mu.Lock()
				w.feed.during = nil
				w.feed.mu.Unlock()
				meanwhile(w, c)
			}
			_, err := w.registry.Subscribe(t.Context(), "ann", "r1", 1, Want{})
			if text == "" {
				if err != nil {
					t.Error(err)
				}
			} else {
				w.want(err, kind, text)
			}
			w.check()
		})
	}
	const unbound = "No identity binding for this SSE connection"
	f("disconnected", func(w *world, c *client) { w.registry.Disconnect(c.Connection) }, fleet.Forbidden, unbound)
	f("replaced", func(w *world, _ *client) { w.open("ann", "r1") }, fleet.Forbidden, unbound)
	f("deleted", func(w *world, _ *client) {
		d, _ := w.devices.drop(1)
		w.registry.DeviceDeleted(d)
	}, fleet.NotFound, "Device 1 was not found")
	f("renamed", func(w *world, _ *client) {
		d := device(1)
		d.EntityID = "new"
		w.devices.set(d)
	}, 0, "")
}

func TestUnsubscribe(t *testing.T) {
	w := newWorld(t, 4, nil)
	c := w.open("ann", "r1")
	w.subscribe(c, 1, 2, 3)
	f := func(subject, id string, device int64, kind fleet.Kind, text string) {
		t.Helper()
		err := w.registry.Unsubscribe(context.Background(), subject, id, device)
		if text != "" {
			w.want(err, kind, text)
		} else if err != nil {
			t.Errorf("device %d: %v", device, err)
		}
		w.check()
	}
	cleared := func(id int64) {
		d := device(id)
		d.EntityID = ""
		w.devices.set(d)
	}
	f("ann", "r1", 9, fleet.NotFound, "Device 9 was not found")
	f("ann", "r9", 1, fleet.Forbidden, "No identity binding for this SSE connection")
	f("bob", "r1", 1, fleet.Forbidden, "Identity mismatch for SSE connection")
	f("ann", "r1", 4, fleet.NotFound, "Subscription e4 was not found")
	f("ann", "r1", 1, 0, "")
	f("ann", "r1", 1, fleet.NotFound, "Subscription e1 was not found")
	// Whatever became of its entity id.
	renamed := device(2)
	renamed.EntityID = "new"
	w.devices.set(renamed)
	f("ann", "r1", 2, 0, "")
	f("ann", "r1", 2, fleet.NotFound, "Subscription new was not found")
	cleared(3)
	f("ann", "r1", 3, 0, "")
	f("ann", "r1", 3, fleet.NotFound, "Device entity ID 3 was not found")
	f("ann", "r9", 3, fleet.NotFound, "Device entity ID 3 was not found")
	f("bob", "r1", 3, fleet.NotFound, "Device entity ID 3 was not found")
}

func TestDeviceDeleted(t *testing.T) {
	w := newWorld(t, 3, nil)
	a, b := w.open("ann", "r1"), w.open("bob", "r2")
	w.subscribe(a, 1, 2)
	w.subscribe(b, 1)
	gone, _ := w.devices.drop(1)
	w.registry.DeviceDeleted(gone)
	w.registry.DeviceDeleted(device(3)) // whom nobody follows
	w.check()
	if diff := cmp.Diff([]string{device(2).Key}, a.reader.keys()); diff != "" {
		t.Error(diff)
	}
	w.want(w.registry.Unsubscribe(context.Background(), "ann", "r1", 1), fleet.NotFound, "Device 1 was not found")
	if n := w.value("sse_device_log_subscriptions_active", ""); n != 1 {
		t.Errorf("%d subscriptions", n)
	}
}

func TestSubscriptions(t *testing.T) {
	w := newWorld(t, 3, nil)
	a, b := w.open("ann", "r2"), w.open("bob", "r1")
	w.subscribe(a, 3, 1)
	w.subscribe(b, 1)
	renamed := device(1)
	renamed.EntityID = "new"
	w.devices.set(renamed)
	f := func(only *int64, want ...Subscription) {
		t.Helper()
		if diff := cmp.Diff(want, w.registry.Subscriptions(only)); diff != "" {
			t.Error(diff)
		}
	}
	s1, s2 := Subscription{renamed, "r1", "bob", b.Opened}, Subscription{renamed, "r2", "ann", a.Opened}
	s3 := Subscription{device(3), "r2", "ann", a.Opened}
	f(nil, s1, s2, s3)
	for id, want := range map[int64][]Subscription{1: {s1, s2}, 2: nil, 3: {s3}, 9: nil} {
		f(&id, want...)
	}
}

// The client's next connection learns what the one before followed, and how
// far it had come.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, nil)
		f := func(subject, id, resume string, known bool, before ...int64) *client {
			t.Helper()
			c, err := w.connect(subject, id, resume)
			if err != nil {
				t.Fatal(err)
			}
			var keys []string
			for _, id := range before {
				keys = append(keys, device(id).Key)
			}
			o := w.feed.last()
			if diff := cmp.Diff(keys, o.before); diff != "" || o.known != known || o.resume != resume {
				t.Errorf("opened with %+v; known %v\n%s", o, known, diff)
			}
			return c
		}
		c := f("ann", "r1", "", false)
		w.subscribe(c, 1, 2, 3)
		if err := w.registry.Unsubscribe(context.Background(), "ann", "r1", 2); err != nil {
			t.Fatal(err)
		}
		w.registry.Disconnect(c.Connection)
		c = f("ann", "r1", "e-7", true, 1, 3)
		w.subscribe(c, 4)
		c = f("ann", "r1", "e-8", true, 1, 3, 4) // replaced: what was not followed again yet is passed on
		time.Sleep(2 * time.Minute)
		w.registry.Disconnect(c.Connection)
		c = f("ann", "r1", "e-8", true) // but not for ever
		w.subscribe(c, 5)
		w.registry.Disconnect(c.Connection)
		f("bob", "r1", "e-8", false) // not to somebody else
		f("ann", "r2", "e-8", false) // not to another client
		c = f("ann", "r3", "", false)
		w.subscribe(c, 6)
		w.registry.Disconnect(c.Connection)
		time.Sleep(11 * time.Minute)
		f("ann", "r3", "e-8", false) // not after a long time
		// One that followed nothing is known to have followed nothing.
		w.registry.Disconnect(f("ann", "r4", "", false).Connection)
		f("ann", "r4", "", true)
	})
}

// Memories are bounded.
func TestMemoryBound(t *testing.T) {
	w := newWorld(t, 1, nil)
	for i := range memories + 10 {
		w.registry.Disconnect(w.open("ann", fmt.Sprint(i)).Connection)
	}
	if n := len(w.registry.gone); n > memories {
		t.Errorf("%d memories, want at most %d", n, memories)
	}
	// The latest is among them.
	w.open("ann", fmt.Sprint(memories+9))
	if !w.feed.last().known {
		t.Error("the latest connection was forgotten")
	}
}

func TestObservers(t *testing.T) {
	w := newWorld(t, 0, nil)
	var heard []string
	w.registry.Observe(func(c *Connection) { heard = append(heard, "first "+c.RequestID) })
	w.registry.Observe(func(*Connection) { panic("observer") })
	w.registry.Observe(func(c *Connection) {
		heard = append(heard, "last "+c.RequestID)
		c.Send(sse.Control("hello", ""))
		w.registry.Subscriptions(nil) // it may ask: nothing is locked
	})
	c := w.open("ann", "r1")
	if diff := cmp.Diff([]string{"first r1", "last r1"}, heard); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"hello"}, c.names()); diff != "" {
		t.Error(diff)
	}
	if log := w.log.String(); !strings.Contains(log, "observer") || !strings.Contains(log, "stack") {
		t.Errorf("log: %s", log)
	}
	if _, err := w.connect("bob", "r1", ""); err == nil || len(heard) != 2 {
		t.Errorf("a refused connection was announced: %v, %v", err, heard)
	}
	w.check()
}

func TestBroadcast(t *testing.T) {
	w := newWorld(t, 0, nil)
	if n := w.registry.Broadcast(sse.Control("x", "")); n != 0 {
		t.Errorf("%d took it", n)
	}
	a, b := w.open("ann", "r1"), w.open("bob", "r2")
	for a.Send(sse.Control("full", strings.Repeat("z", 10_000))) {
	}
	if n := w.registry.Broadcast(sse.Control("x", strings.Repeat("z", 10_000))); n != 1 {
		t.Errorf("%d took it, want the one that has room", n)
	}
	if diff := cmp.Diff([]string{"x"}, b.names()); diff != "" {
		t.Error(diff)
	}
	a.Advance()
	if a.reader.advanced != 1 || b.reader.advanced != 0 {
		t.Error("Advance went astray")
	}
}

func TestClose(t *testing.T) {
	w := newWorld(t, 1, nil)
	a, b := w.open("ann", "r1"), w.open("bob", "r2")
	w.subscribe(a, 1)
	n := 0
	w.registry.Close(func() *sse.Frame { n++; return sse.Retry(time.Duration(n) * time.Second) })
	for _, c := range []*client{a, b} {
		if ends := c.ended(); len(ends) != 1 || ends[0] == nil || ends[0].Name != "retry" {
			t.Errorf("%s was ended with %v", c.RequestID, ends)
		}
	}
	if n != 2 {
		t.Errorf("%d goodbyes for two connections", n)
	}
	_, err := w.connect("ann", "r1", "")
	w.want(err, fleet.Unavailable, "The server is shutting down")
	_, err = w.connect("ann", "r3", "")
	w.want(err, fleet.Unavailable, "The server is shutting down")
	w.registry.Disconnect(a.Connection)
	w.registry.Disconnect(b.Connection)
	w.check()
}

// Close while everything else goes on: every connection is either refused or
// ended with a goodbye.
func TestCloseDuringEverything(t *testing.T) {
	w := newWorld(t, 5, nil)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   = map[*Connection]*client{}
		begun = make(chan struct{}, 1000)
	)
	for g := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				c, err := w.connect("ann", fmt.Sprintf("r%d-%d", g, i%3), "")
				if err != nil {
					w.want(err, fleet.Unavailable, "The server is shutting down")
					return
				}
				mu.Lock()
				all[c.Connection] = c
				mu.Unlock()
				select {
				case begun <- struct{}{}:
				default:
				}
				_, _ = w.registry.Subscribe(context.Background(), "ann", c.RequestID, int64(1+i%5), Want{})
				w.registry.Broadcast(sse.Heartbeat())
				if i%2 == 0 {
					w.registry.Disconnect(c.Connection)
				}
			}
		})
	}
	for range 50 {
		<-begun
	}
	w.registry.Close(func() *sse.Frame { return sse.Retry(time.Second) })
	wg.Wait()
	w.check()
	w.registry.mu.Lock()
	var left []*Connection
	for _, c := range w.registry.byRequest {
		left = append(left, c)
	}
	w.registry.mu.Unlock()
	for _, c := range left {
		if ends := all[c].ended(); len(ends) != 1 || ends[0] == nil {
			t.Errorf("%s is open and was ended with %v", c.RequestID, ends)
		}
		w.registry.Disconnect(c)
	}
	w.check()
}
