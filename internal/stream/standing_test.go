package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// running has the registry's Run run until the test ends.
func (w *world) running(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.registry.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// openAs connects as somebody, which must succeed.
func (w *world) openAs(who *holder, subject, id string) *client {
	w.t.Helper()
	c, err := w.connectAs(who, subject, id, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// gone wants the connection to have been cut with that payload, and takes it
// out as its carrier does.
func (w *world) gone(c *client, reason string) {
	w.t.Helper()
	want := []string{`session-ended {"reason":"` + reason + `"}`}
	if diff := cmp.Diff(want, c.cutWith()); diff != "" {
		w.t.Errorf("%s: %s", c.RequestID, diff)
	}
	_, err := w.registry.Subscribe(context.Background(), c.Subject, c.RequestID, 1, Want{})
	w.want(err, fleet.Forbidden, "No identity binding for this SSE connection")
	w.registry.Disconnect(c.Connection)
}

func (w *world) goesOn(c *client) {
	w.t.Helper()
	if len(c.cutWith()) > 0 || len(c.ended()) > 0 {
		w.t.Errorf("%s was ended: %q, %v", c.RequestID, c.cutWith(), c.ended())
	}
}

// told returns the payloads of the events that wait, with their names.
func (c *client) told() (events []string) {
	for _, f := range c.out.Take(nil, 1<<30) {
		events = append(events, f.Name+" "+string(f.Payload()))
	}
	return events
}

func (w *world) tell(c *client, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, c.told()); diff != "" {
		w.t.Errorf("%s was told (-want +got): %s", c.RequestID, diff)
	}
}

// A stream is told of its end a minute before, once, and ends with it.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, nil)
		w.running(t)
		start := time.Now()
		until := start.Add(10 * time.Minute)
		ann := w.openAs(&holder{standing: Standing{Expires: until}}, "ann", "r1")
		short := w.openAs(&holder{standing: Standing{Expires: start.Add(40 * time.Second)}}, "ann", "r2")
		ever := w.openAs(&holder{}, "bob", "r3")
		w.subscribe(ann, 1)
		sleepTo := func(d time.Duration) {
			time.Sleep(time.Until(start.Add(d)))
			synctest.Wait()
		}
		expiring := func(at time.Time) string {
			return `session-expiring {"expires_at":"` + at.UTC().Format("2006-01-02T15:04:05.000000Z") + `"}`
		}

		sleepTo(30*time.Second - time.Millisecond)
		w.tell(short)
		sleepTo(30*time.Second + 50*time.Millisecond) // a quarter of forty seconds ahead
		w.tell(short, expiring(start.Add(40*time.Second)))
		sleepTo(40*time.Second - time.Millisecond)
		w.tell(short)
		w.goesOn(short)
		sleepTo(40*time.Second + 50*time.Millisecond)
		w.gone(short, "expired")

		sleepTo(9*time.Minute - time.Millisecond)
		w.tell(ann)
		sleepTo(9*time.Minute + 50*time.Millisecond)
		w.tell(ann, expiring(until))
		w.registry.Recheck() // the same end is not told twice
		sleepTo(10*time.Minute - time.Millisecond)
		w.tell(ann)
		w.goesOn(ann)
		sleepTo(10*time.Minute + 50*time.Millisecond)
		w.gone(ann, "expired")
		time.Sleep(24 * time.Hour)
		w.goesOn(ever)
		w.tell(ever)
		w.check()
		for reason, n := range map[string]int{"expired": 2, "revoked": 0, "logout": 0} {
			if got := w.value("sse_streams_ended_total", reason); got != n {
				t.Errorf("%d streams ended as %s, want %d", got, reason, n)
			}
		}
	})
}

// A session that is renewed keeps its streams, and only those.
func TestExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, nil)
		w.running(t)
		start := time.Now()
		until := start.Add(5 * time.Minute)
		ours := w.openAs(&holder{standing: Standing{Expires: until, Session: "s1"}}, "ann", "r1")
		other := w.openAs(&holder{standing: Standing{Expires: until, Session: "s2"}}, "ann", "r2")
		none := w.openAs(&holder{standing: Standing{Expires: until}}, "ann", "r3")
		moved := &holder{standing: Standing{Expires: until, Session: "s4"}}
		elsewhere := w.openAs(moved, "ann", "r4")
		ever := w.openAs(&holder{standing: Standing{Session: "s1"}}, "ann", "r5")

		w.registry.Extend("s1", until.Add(-time.Minute)) // not back
		w.registry.Extend("", until.Add(time.Hour))
		time.Sleep(4*time.Minute + 30*time.Second)
		synctest.Wait()
		for _, c := range []*client{ours, other, none, elsewhere} {
			if got := c.names(); len(got) != 1 || got[0] != "session-expiring" {
				t.Errorf("%s was told %q", c.RequestID, got)
			}
		}
		// A moment before the end.
		w.registry.Extend("s1", until.Add(5*time.Minute))
		moved.set(func(h *holder) { h.standing.Expires = until.Add(time.Hour) }) // nobody says so
		time.Sleep(time.Minute)
		synctest.Wait()
		w.gone(other, "expired")
		w.gone(none, "expired")
		w.goesOn(ours)
		w.goesOn(elsewhere)
		w.registry.Recheck()
		w.goesOn(ours) // what it was extended to is known to its Check
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if got := ours.names(); len(got) != 1 || got[0] != "session-expiring" {
			t.Errorf("told %q of the new end", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		w.gone(ours, "expired")
		w.goesOn(elsewhere)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		w.gone(elsewhere, "expired")
		w.goesOn(ever)
		w.check()
	})
}

// Whose right is over is out within a moment after anybody said that something
// changed, even while a journal does not answer.
func TestRevocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, nil)
		for id := range int64(4) {
			d := device(id + 1)
			d.Tags = "lab"
			w.devices.set(d)
		}
		w.running(t)
		ann, bob := &holder{standing: Standing{Session: "s1"}}, &holder{standing: Standing{Session: "s2"}}
		first, second := w.openAs(ann, "ann", "r1"), w.openAs(ann, "ann", "r2")
		third := w.openAs(bob, "bob", "r3")
		limited := w.openAs(&holder{standing: Standing{May: only("lab")}}, "cid", "r4")
		w.subscribe(first, 1, 2)
		w.subscribe(third, 1)
		if _, err := w.registry.SubscribeSet(t.Context(), "cid", "r4", Set{All: true}, Want{}); err != nil {
			t.Fatal(err)
		}

		// The journal hangs, and with it who is to follow a new device.
		hang := make(chan struct{})
		w.feed.during = func() { <-hang }
		late := device(9)
		w.devices.set(late)
		before := late
		late.Tags = "lab"
		w.devices.set(late)
		w.registry.DeviceUpdated(before, late)
		synctest.Wait()

		asked := 0
		ann.set(func(h *holder) { h.err = errors.New("revoked"); h.asked = func() { asked++ } })
		for range 1000 {
			w.registry.RecheckSoon()
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		w.gone(first, "revoked")
		w.gone(second, "revoked")
		w.goesOn(third)
		if asked > 6 {
			t.Errorf("asked %d times for two streams", asked)
		}
		_, err := w.connectAs(ann, "ann", "r1", "")
		if err == nil || w.value("sse_identity_binding_total", "failed") != 1 {
			t.Errorf("came back: %v", err)
		}

		w.registry.LogOut("")
		w.registry.LogOut("s2")
		w.gone(third, "logout")
		w.goesOn(limited)
		if n := w.value("sse_streams_ended_total", "revoked"); n != 2 {
			t.Errorf("%d streams counted", n)
		}
		close(hang)
		synctest.Wait()
		if got := limited.reader.keys(); len(got) != 5 {
			t.Errorf("follows %q", got)
		}
		w.check()
	})
}

// Whoever is revoked while the connection opens does not get one that nobody
// looks at again.
func TestRevokedWhileConnecting(t *testing.T) {
	w := newWorld(t, 1, nil)
	who := &holder{}
	n := 0
	who.asked = func() { // the lock is held
		if n++; n == 2 {
			who.err = errors.New("revoked")
		}
	}
	c, err := w.connectAs(who, "ann", "r1", "")
	if err == nil || c != nil {
		t.Errorf("connected: %v", err)
	}
	w.check()
	if w.value("sse_identity_binding_total", "success") != 0 || w.value("sse_gateway_active_connections", "") != 0 {
		t.Error("it counts as one")
	}
}

// tagged has devices 1 to n, those with even ids tagged lab and the others yard.
func tagged(t testing.TB, n int64) *world {
	w := newWorld(t, n, nil)
	for id := range n {
		w.devices.set(retag(device(id+1), []string{"lab", "yard"}[(id+1)%2]))
	}
	return w
}

func retag(d fleet.DeviceRef, tags ...string) fleet.DeviceRef {
	d.ModelID, d.Tags = 1+d.ID%2, fleet.NewTags(tags...)
	return d
}

func (w *world) follows(c *client, ids ...int64) {
	w.t.Helper()
	var keys []string
	for _, id := range ids {
		keys = append(keys, device(id).Key)
	}
	if diff := cmp.Diff(keys, c.reader.keys()); diff != "" {
		w.t.Errorf("%s follows (-want +got): %s", c.RequestID, diff)
	}
	w.check()
}

// change sets a device's tags as the registry of devices does.
func (w *world) change(id int64, tags ...string) {
	before, _ := w.devices.ByID(id)
	after := retag(before, tags...)
	w.devices.set(after)
	w.registry.DeviceUpdated(before, after)
}

// What somebody may not see is as if it were not there.
func TestMay(t *testing.T) {
	ctx := t.Context()
	w := tagged(t, 6)
	lab := w.openAs(&holder{standing: Standing{May: only("lab")}}, "ann", "r1")
	_, err := w.registry.Subscribe(ctx, "ann", "r1", 1, Want{})
	w.want(err, fleet.NotFound, "Device 1 was not found")
	_, err = w.registry.SubscribeSet(ctx, "ann", "r1", Set{Devices: []int64{2, 1}}, Want{})
	w.want(err, fleet.NotFound, "Device 1 was not found")
	w.follows(lab)
	w.subscribe(lab, 2)
	w.follows(lab, 2)
	got, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{})
	if err != nil || len(got) != 3 {
		t.Errorf("all are %v, %v", got, err)
	}
	w.follows(lab, 2, 4, 6)
	got, err = w.registry.SubscribeSet(ctx, "ann", "r1", Set{ModelID: 2}, Want{})
	if err != nil || len(got) != 0 {
		t.Errorf("of the other model are %v, %v", got, err)
	}
	for id, tags := range map[int64]string{7: "yard", 8: "lab"} {
		w.devices.set(retag(device(id), tags))
		w.registry.DeviceCreated(ctx, retag(device(id), tags))
	}
	w.follows(lab, 2, 4, 6, 8)

	// Nor while the journal is asked.
	w.devices.set(retag(device(10), "lab"))
	w.feed.during = func() { w.devices.set(retag(device(10), "yard")) }
	_, err = w.registry.Subscribe(ctx, "ann", "r1", 10, Want{})
	w.want(err, fleet.NotFound, "Device 10 was not found")
	w.follows(lab, 2, 4, 6, 8)
}

// A device whose tags change leaves those who may not see it any more, and comes
// to the sets of those who may by now.
func TestTagsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := tagged(t, 4)
		w.running(t)
		lab := w.openAs(&holder{standing: Standing{May: only("lab")}}, "ann", "r1")
		own := w.openAs(&holder{standing: Standing{May: only("lab")}}, "ann", "r2")
		all := w.openAs(&holder{}, "bob", "r3")
		for _, c := range []*client{lab, all} {
			if _, err := w.registry.SubscribeSet(ctx, c.Subject, c.RequestID, Set{All: true}, Want{Tag: "wifi"}); err != nil {
				t.Fatal(err)
			}
		}
		w.subscribe(own, 2)
		const ended = `subscription-ended {"device_entity_id":"e2","device_id":2,"reason":"forbidden"}`

		w.change(2, "yard")
		w.follows(lab, 4) // at once
		w.follows(own)
		w.follows(all, 1, 2, 3, 4)
		w.tell(lab, ended)
		w.tell(own, ended)
		w.tell(all)
		w.change(2, "yard", "x") // as before, for them
		w.tell(lab)

		w.change(1, "lab", "yard")
		w.change(2, "lab")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		w.follows(lab, 1, 2, 4)
		w.follows(own) // it was told that this has ended
		if got := lab.reader.wants[len(lab.reader.wants)-1]; got != (Want{Tag: "wifi"}) {
			t.Errorf("of a device that joined is wanted %+v", got)
		}

		// What was unsubscribed by itself does not come back.
		if err := w.registry.Unsubscribe(ctx, "ann", "r1", 4); err != nil {
			t.Fatal(err)
		}
		w.change(4, "yard")
		w.change(4, "lab")
		w.registry.Recheck()
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		w.follows(lab, 1, 2)
		if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{Tag: "wifi"}); err != nil {
			t.Fatal(err)
		}
		w.follows(lab, 1, 2, 4) // but when it is asked for again
		w.goesOn(lab)
	})
}

// A limit that changes takes away and gives.
func TestLimitChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := tagged(t, 4)
		w.running(t)
		who := &holder{}
		c := w.openAs(who, "ann", "r1")
		w.subscribe(c, 1, 2)
		if _, err := w.registry.SubscribeSet(t.Context(), "ann", "r1", Set{All: true}, Want{}); err != nil {
			t.Fatal(err)
		}
		limit := func(may func(fleet.DeviceRef) bool) {
			who.set(func(h *holder) { h.standing.May = may })
			w.registry.RecheckSoon()
			time.Sleep(300 * time.Millisecond)
			synctest.Wait()
		}
		limit(only("lab"))
		w.follows(c, 2, 4)
		if got := c.names(); len(got) != 2 || got[0] != "subscription-ended" {
			t.Errorf("told %q", got)
		}
		limit(only("yard"))
		w.follows(c, 1, 3)
		limit(only())
		w.follows(c)
		limit(nil)
		w.follows(c, 1, 2, 3, 4)
		w.goesOn(c)
	})
}

// A stream that is too full to be told what it lost is ended.
func TestForbiddenAndFull(t *testing.T) {
	w := tagged(t, 2)
	c := w.openAs(&holder{standing: Standing{May: only("lab")}}, "ann", "r1")
	w.subscribe(c, 2)
	for c.Send(sse.Control("full", strings.Repeat("z", 10_000))) {
	}
	for c.Send(sse.Control("full", "")) {
	}
	w.change(2, "yard")
	w.follows(c)
	if len(c.ended()) != 1 {
		t.Error("it goes on and does not know")
	}
}

// A client that comes back is not reminded of what it may not see.
func TestMemoryIsLimited(t *testing.T) {
	w := tagged(t, 4)
	c := w.openAs(&holder{}, "ann", "r1")
	w.subscribe(c, 1, 2, 4)
	w.registry.Disconnect(c.Connection)
	if _, err := w.connectAs(&holder{standing: Standing{May: only("lab")}}, "ann", "r1", "e-7"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{device(2).Key, device(4).Key}, w.feed.last().before); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkRecheck asks ten thousand streams that follow a device each.
func BenchmarkRecheck(b *testing.B) {
	w := tagged(b, 10_000)
	for id := range int64(10_000) {
		who := &holder{standing: Standing{Expires: time.Now().Add(time.Hour), May: only("lab", "yard")}}
		w.subscribe(w.openAs(who, "ann", fmt.Sprint(id)), id+1)
	}
	for b.Loop() {
		w.registry.Recheck()
		w.registry.expire()
	}
}
