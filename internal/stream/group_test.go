package stream

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
)

func TestSets(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 6, func(o *Options) { o.MaxSubscriptions = 2 })
	for id := int64(1); id <= 6; id++ {
		d := device(id)
		d.ModelID = 1 + id%2
		if id == 6 {
			d.EntityID = ""
		}
		w.devices.set(d)
	}
	ann, bob := w.open("ann", "r1"), w.open("bob", "r2")
	keys := func(ids ...int64) (k []string) {
		for _, id := range ids {
			k = append(k, device(id).Key)
		}
		return k
	}
	follows := func(c *client, ids ...int64) {
		t.Helper()
		if diff := cmp.Diff(keys(ids...), c.reader.keys()); diff != "" {
			t.Errorf("%s follows (-want +got): %s", c.RequestID, diff)
		}
		w.check()
	}

	if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{Devices: []int64{1, 2}}, Want{Level: "warn"}); err != nil {
		t.Fatal(err)
	}
	follows(ann, 1, 2)
	_, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{Devices: []int64{3}}, Want{})
	w.want(err, fleet.TooMany, "A connection can follow at most 2 devices")
	_, err = w.registry.SubscribeSet(ctx, "ann", "r1", Set{Devices: []int64{1, 99}}, Want{})
	w.want(err, fleet.NotFound, "Device 99 was not found")
	_, err = w.registry.SubscribeSet(ctx, "ann", "r2", Set{All: true}, Want{})
	w.want(err, fleet.Forbidden, "Identity mismatch for SSE connection")

	// A model is one subscription, however many devices it has, and those that come.
	if got, err := w.registry.SubscribeSet(ctx, "bob", "r2", Set{ModelID: 1}, Want{Tag: "wifi", After: "e-1"}); err != nil || len(got) != 3 {
		t.Fatalf("%d devices, %v", len(got), err)
	}
	follows(bob, 2, 4, 6)
	late := device(7)
	late.ModelID = 1
	w.devices.set(late)
	w.registry.DeviceCreated(ctx, late)
	follows(bob, 2, 4, 6, 7)
	follows(ann, 1, 2)
	if got := bob.reader.wants[len(bob.reader.wants)-1]; got != (Want{Tag: "wifi", Made: true}) {
		t.Errorf("of the new device is wanted %+v", got)
	}
	other := device(8)
	other.ModelID = 2
	w.devices.set(other)
	w.registry.DeviceCreated(ctx, other)
	follows(bob, 2, 4, 6, 7)

	if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{}); err != nil {
		t.Fatal(err)
	}
	follows(ann, 1, 2, 3, 4, 5, 6, 7, 8)
	if got := ann.reader.wants[len(ann.reader.wants)-8:]; got[0] != (Want{}) {
		t.Errorf("a new filter did not replace the old one: %+v", got)
	}
	if n, err := w.registry.UnsubscribeSet(ctx, "ann", "r1", Set{Devices: []int64{1, 2}}); n != 2 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	follows(ann, 3, 4, 5, 6, 7, 8)
	if n, err := w.registry.UnsubscribeSet(ctx, "ann", "r1", Set{All: true}); n != 6 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	latest := device(9)
	w.devices.set(latest)
	w.registry.DeviceCreated(ctx, latest)
	follows(ann)
}

// A device that is made while a set is being subscribed is part of it, at
// whatever moment that is.
func TestMadeWhileASetIsSubscribed(t *testing.T) {
	ctx := context.Background()
	for moment := range 2 {
		w := newWorld(t, 3, nil)
		ann := w.open("ann", "r1")
		late := device(9)
		made := make(chan struct{})
		once := sync.OnceFunc(func() {
			w.devices.set(late)
			go func() {
				defer close(made)
				w.registry.DeviceCreated(ctx, late)
			}()
			if moment == 0 {
				<-made // nothing of the set is known yet
			}
		})
		if moment == 0 {
			w.devices.listed = once
		} else {
			w.feed.during = once
		}
		if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{}); err != nil {
			t.Fatal(err)
		}
		<-made
		if got := ann.reader.keys(); len(got) != 4 {
			t.Errorf("moment %d: follows %q", moment, got)
		}
		w.check()
	}
}

// A set that was refused leaves nothing behind, and a connection that cannot
// follow a device of its set is ended rather than left without it.
func TestSetFails(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 2, nil)
	ann := w.open("ann", "r1")
	broken := fleet.E(fleet.Unavailable, nil, "The log journal is not available")
	w.feed.fail = broken
	_, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{})
	w.want(err, fleet.Unavailable, broken.Msg)
	w.feed.fail = nil
	w.devices.set(device(3))
	w.registry.DeviceCreated(ctx, device(3))
	if got := ann.reader.keys(); len(got) != 0 {
		t.Errorf("follows %q after a refusal", got)
	}
	if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, Want{}); err != nil {
		t.Fatal(err)
	}
	w.feed.fail = broken
	w.devices.set(device(4))
	w.registry.DeviceCreated(ctx, device(4))
	if len(ann.ended()) != 1 {
		t.Error("the stream goes on without a device of its set")
	}
}

// What is wanted of one device by itself holds beside the sets that have it.
func TestOwnBesideSet(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 3, nil)
	ann := w.open("ann", "r1")
	wants := func(device int64, want Want) {
		t.Helper()
		if got := ann.follows[device].want; got != want {
			t.Errorf("of device %d is wanted %+v, not %+v", device, got, want)
		}
		w.check()
	}
	subscribe := func(want Want) {
		t.Helper()
		if _, err := w.registry.Subscribe(ctx, "ann", "r1", 1, want); err != nil {
			t.Fatal(err)
		}
	}
	all := Want{Level: "error", Bounded: true}
	subscribe(Want{})
	if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", Set{All: true}, all); err != nil {
		t.Fatal(err)
	}
	wants(1, Want{})
	wants(2, all)

	// Without its own it goes on as one of the set, and the other way round.
	if err := w.registry.Unsubscribe(ctx, "ann", "r1", 1); err != nil {
		t.Fatal(err)
	}
	wants(1, all)
	subscribe(all) // the same, but its own
	if n, err := w.registry.UnsubscribeSet(ctx, "ann", "r1", Set{All: true}); n != 2 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	wants(1, all)
	if got := ann.reader.keys(); len(got) != 1 {
		t.Errorf("follows %q", got)
	}
	if err := w.registry.Unsubscribe(ctx, "ann", "r1", 1); err != nil {
		t.Fatal(err)
	}
	if got := ann.reader.keys(); len(got) != 0 {
		t.Errorf("follows %q", got)
	}

	// Of two sets each goes by itself.
	for id := int64(1); id <= 3; id++ {
		d := device(id)
		d.ModelID = 7
		w.devices.set(d)
	}
	model := Want{Tag: "wifi", Bounded: true}
	for _, s := range []struct {
		set  Set
		want Want
	}{{Set{All: true}, all}, {Set{ModelID: 7}, model}} {
		if _, err := w.registry.SubscribeSet(ctx, "ann", "r1", s.set, s.want); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.registry.UnsubscribeSet(ctx, "ann", "r1", Set{All: true}); n != 0 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	wants(1, model)
}
