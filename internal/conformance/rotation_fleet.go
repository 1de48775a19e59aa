package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// RotationFleetStore is a store of what is about many devices at once.
type RotationFleetStore interface {
	RotationStore
	rotation.FleetStore
}

// RotationFleet checks that the stores which open returns keep the promises of
// rotation.FleetStore. Each call of open returns an empty store. Another one on
// the same database is another process.
func RotationFleet(t *testing.T, open func(*testing.T) (one, another RotationFleetStore)) {
	check := func(name string, f func(t *testing.T, one, another RotationFleetStore)) {
		t.Run(name, func(t *testing.T) {
			one, another := open(t)
			f(t, one, another)
		})
	}
	check("who is queued", fleetQueue)
	check("only some are queued", fleetQueueSome)
	check("many at once", fleetMany)
	check("each date of a schedule once", fleetSchedule)
	check("standings", fleetStandings)
	check("changes by others", fleetForeign)
	check("what another system left", fleetAdopted)
	check("leader", fleetLeader)
}

// stand returns where every device stands, by its id.
func stand(t *testing.T, s RotationFleetStore) map[int64]rotation.Standing {
	t.Helper()
	list, err := s.RotationStandings(t.Context(), -1)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[int64]rotation.Standing, len(list))
	for _, st := range list {
		all[st.Device] = st
	}
	return all
}

func queueAll(t *testing.T, s RotationFleetStore, b rotation.Bulk) rotation.Queued {
	t.Helper()
	out, err := s.QueueRotations(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fleetQueue(t *testing.T, s, _ RotationFleetStore) {
	ctx := t.Context()
	model := insertModel(t, s, newModel("relay"))
	want := map[int64]fleet.RotationState{}
	var queued, held []int64
	add := func(key string, change func(*fleet.Device, *rotation.Record), gets bool) int64 {
		t.Helper()
		d := newDevice(model, key)
		d.Active, d.Rotation, d.SecretCreatedAt = true, fleet.RotationOK, new(epoch)
		rec := rotation.Record{State: rotation.State{Wire: "-"}}
		change(&d, &rec)
		id := insertDevice(t, s, d)
		want[id] = d.Rotation
		if rec.State.Wire != "-" {
			keep(t, s, id, func(c *rotation.Change) {
				version := c.Record.Version
				c.Record.State, c.Record.Holder, c.Record.HeldUntil, c.Record.New = rec.State, rec.Holder, rec.HeldUntil, rec.New
				c.Record.Campaign, c.Record.Urgent, c.Record.SecretAt, c.Record.Version = 4, true, epoch, version
			})
			want[id] = cmp.Or(rec.State.Wire, fleet.RotationOK)
		}
		if gets {
			want[id] = fleet.RotationQueued
			queued = append(queued, id)
		}
		return id
	}
	add("aaaaaaaa", func(*fleet.Device, *rotation.Record) {}, true)
	add("bbbbbbbb", func(d *fleet.Device, _ *rotation.Record) { d.Active = false }, false)
	revoked := add("cccccccc", func(*fleet.Device, *rotation.Record) {}, false)
	tx(t, s, func(q registry.Queries) error { return q.SetRevoked(ctx, revoked, &epoch) })
	add("dddddddd", func(d *fleet.Device, _ *rotation.Record) { d.Rotation = fleet.RotationTimeout }, false)
	add("eeeeeeee", func(d *fleet.Device, _ *rotation.Record) { d.Rotation = fleet.RotationPending }, true) // nobody could finish it
	add("ffffffff", func(_ *fleet.Device, r *rotation.Record) { r.State = rotation.State{Attempt: 3, Failures: 1} }, true)
	believed := add("gggggggg", func(_ *fleet.Device, r *rotation.Record) {
		r.State = rotation.State{Wire: fleet.RotationOK, Step: rotation.Offered, Believed: true, CompletedAt: epoch, FetchedAt: epoch}
		r.New = "new"
	}, true)
	add("hhhhhhhh", func(_ *fleet.Device, r *rotation.Record) {
		r.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Creating}
	}, false)
	add("iiiiiiii", func(_ *fleet.Device, r *rotation.Record) {
		r.State = rotation.State{Wire: fleet.RotationTimeout, Failures: 2}
	}, false)
	held = append(held, add("jjjjjjjj", func(_ *fleet.Device, r *rotation.Record) {
		r.Holder, r.HeldUntil, r.State = "another", epoch.Add(time.Hour), rotation.State{Wire: fleet.RotationOK}
	}, false))
	add("kkkkkkkk", func(_ *fleet.Device, r *rotation.Record) {
		r.Holder, r.HeldUntil, r.State = "dead", epoch, rotation.State{Wire: fleet.RotationOK}
	}, true)

	out := queueAll(t, s, rotation.Bulk{Ask: rotation.Ask{Actor: "Jörg '", Reason: "x\ny"}, Now: epoch.Add(time.Minute)})
	same(t, out, rotation.Queued{Devices: len(queued), Held: held, Due: true})
	for id, st := range stand(t, s) {
		if st.Wire != want[id] {
			t.Errorf("device %d is in %s, want %s", id, st.Wire, want[id])
		}
		d, err := s.Device(ctx, id)
		if err != nil || d.Rotation != want[id] {
			t.Errorf("device %d says %s, %v, want %s", id, d.Rotation, err, want[id])
		}
		rec := kept(t, s, id)
		if !slices.Contains(queued, id) {
			if rec.State.Wire == fleet.RotationQueued || rec.Actor != "" {
				t.Errorf("device %d was queued: %+v", id, rec)
			}
			continue
		}
		if rec.State.Wire != fleet.RotationQueued || rec.Actor != "Jörg '" || rec.Reason != "x\ny" || rec.Campaign != 0 || rec.Urgent || rec.SecretAt != epoch || rec.Version == 0 {
			t.Errorf("device %d is %+v", id, rec)
		}
	}
	if rec := kept(t, s, believed); !rec.State.Believed || rec.New != "new" || rec.State.CompletedAt != epoch || rec.State.Step != rotation.Offered {
		t.Errorf("what was known of the device is lost: %+v", rec)
	}
	list, err := s.QueuedRotations(ctx, 100)
	if err != nil {
		t.Error(err)
	}
	slices.Sort(list)
	same(t, list, queued)
	same(t, queueAll(t, s, rotation.Bulk{Now: epoch.Add(time.Minute)}), rotation.Queued{Held: held, Due: true})
}

func fleetQueueSome(t *testing.T, s, _ RotationFleetStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc")
	same(t, queueAll(t, s, rotation.Bulk{Only: []int64{}, Now: epoch}), rotation.Queued{Due: true})
	same(t, queueAll(t, s, rotation.Bulk{Only: []int64{ids[2], 999, ids[0]}, Now: epoch}), rotation.Queued{Devices: 2, Due: true})
	var got []fleet.RotationState
	all := stand(t, s)
	for _, id := range ids {
		got = append(got, all[id].Wire)
	}
	same(t, got, []fleet.RotationState{fleet.RotationQueued, fleet.RotationOK, fleet.RotationQueued})
}

// fleetMany has more devices than one statement names.
func fleetMany(t *testing.T, s, _ RotationFleetStore) {
	model := insertModel(t, s, newModel("relay"))
	var ids []int64
	tx(t, s, func(q registry.Queries) error {
		for n := range 2500 {
			d := newDevice(model, fmt.Sprintf("dev%05d", n))
			d.Active, d.Rotation = true, fleet.RotationOK
			id, err := q.InsertDevice(t.Context(), d)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	same(t, queueAll(t, s, rotation.Bulk{Only: ids[:2400], Now: epoch}), rotation.Queued{Devices: 2400, Due: true})
	same(t, queueAll(t, s, rotation.Bulk{Now: epoch}), rotation.Queued{Devices: 100, Due: true})
}

func fleetSchedule(t *testing.T, s, another RotationFleetStore) {
	ctx := t.Context()
	rotating(t, s, "aaaaaaaa")
	noted := func(schedule string, done time.Time) {
		t.Helper()
		got, at, err := s.RotationSchedule(ctx)
		if err != nil || got != schedule || !at.Equal(done) {
			t.Errorf("%q, %v, %v; want %q, %v", got, at, err, schedule, done)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	day := func(n int) time.Time { return epoch.AddDate(0, 0, n) }
	noted("", time.Time{})
	same(t, queueAll(t, s, rotation.Bulk{Schedule: "daily", Date: day(1), Now: epoch}), rotation.Queued{}) // it is not known
	must(s.NoteSchedule(ctx, "daily", day(1)))
	must(another.NoteSchedule(ctx, "daily", day(0)))
	noted("daily", day(1))
	same(t, queueAll(t, s, rotation.Bulk{Schedule: "daily", Date: day(1), Now: epoch}), rotation.Queued{})

	var won atomic.Int32
	var wg sync.WaitGroup
	for n := range 6 {
		of := []RotationFleetStore{s, another}[n%2]
		wg.Go(func() {
			out, err := of.QueueRotations(ctx, rotation.Bulk{Schedule: "daily", Date: day(2), Now: epoch})
			if err != nil {
				t.Error(err)
			}
			if out.Due {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d carried the date out", won.Load())
	}
	noted("daily", day(2))
	must(s.RewindSchedule(ctx, "daily", day(2), day(0)))
	must(s.RewindSchedule(ctx, "weekly", day(1), day(0)))
	noted("daily", day(2))
	must(s.RewindSchedule(ctx, "daily", day(1), day(0)))
	noted("daily", day(0))
	must(s.NoteSchedule(ctx, "weekly", day(3)))
	noted("weekly", day(3))
	same(t, queueAll(t, s, rotation.Bulk{Schedule: "daily", Date: day(9), Now: epoch}), rotation.Queued{})
	must(s.NoteSchedule(ctx, "", time.Time{}))
	noted("", time.Time{})
}

func fleetStandings(t *testing.T, s, another RotationFleetStore) {
	ctx := t.Context()
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb")
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Microsecond) }
	change := int64(-1)
	changed := func(want ...int64) {
		t.Helper()
		list, err := another.RotationStandings(ctx, change)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, st := range list {
			got = append(got, st.Device)
			change = max(change, st.Change)
		}
		slices.Sort(got)
		same(t, got, want)
	}
	changed(ids...)
	changed()
	keep(t, s, ids[0], func(c *rotation.Change) {
		c.Record.State = rotation.State{Wire: fleet.RotationTimeout, Step: rotation.Offered, Attempt: 2, StartedAt: at(1), Deadline: at(2), CompletedAt: at(3), Failures: 4, RetryAt: at(5)}
		c.Record.SecretAt, c.Record.Stuck, c.Record.Trouble, c.Record.Campaign = at(6), true, "none", 7
	})
	changed(ids[0])
	got := stand(t, s)[ids[0]]
	got.Change = 0
	same(t, got, rotation.Standing{
		Device: ids[0], Active: true, Wire: fleet.RotationTimeout, Step: rotation.Offered, Failures: 4, Stuck: true, Trouble: "none", Campaign: 7, CreatedAt: epoch,
		SecretAt: at(6), StartedAt: at(1), CompletedAt: at(3), Deadline: at(2), RetryAt: at(5),
	})
	queueAll(t, s, rotation.Bulk{Now: epoch})
	changed(ids[1])
	tx(t, s, func(q registry.Queries) error { return q.SetRevoked(ctx, ids[1], &epoch) })
	changed(ids[1])
	if !stand(t, s)[ids[1]].Revoked {
		t.Error("it is not revoked")
	}
	d, err := s.Device(ctx, ids[0])
	if err != nil {
		t.Fatal(err)
	}
	d.Active = false
	tx(t, s, func(q registry.Queries) error { return q.UpdateDevice(ctx, d) })
	changed(ids[0])
	if stand(t, s)[ids[0]].Active {
		t.Error("it is active")
	}
	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(ctx, ids[0]) })
	changed()
	if n := len(stand(t, s)); n != 1 {
		t.Errorf("%d devices are left", n)
	}
}

func fleetForeign(t *testing.T, s, another RotationFleetStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb")
	count := func(of RotationFleetStore) int64 {
		t.Helper()
		n, err := of.ForeignRotations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	own, foreign := count(s), count(another)
	keep(t, s, ids[0], func(c *rotation.Change) { c.Record.State.Wire = fleet.RotationTimeout })
	queueAll(t, s, rotation.Bulk{Now: epoch})
	if got := count(s); got != own {
		t.Errorf("its own changes count: %d after %d", got, own)
	}
	if got := count(another); got != foreign+2 {
		t.Errorf("%d after %d", got, foreign)
	}
	queueAll(t, s, rotation.Bulk{Now: epoch}) // there is nothing to be queued
	if got := count(another); got != foreign+2 {
		t.Errorf("no change counts: %d after %d", got, foreign)
	}
}

func fleetLeader(t *testing.T, s, another RotationFleetStore) {
	f := func(now time.Time, want string) {
		t.Helper()
		if got, err := another.RotationLeader(t.Context(), now); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	f(epoch, "")
	if got, err := s.RotationLease(t.Context(), "me", epoch, epoch.Add(time.Minute)); err != nil || !got {
		t.Fatal(got, err)
	}
	f(epoch, "me")
	f(epoch.Add(time.Minute), "")
}

// Whoever knows where the devices stood learns that one that another system left
// in the middle of a rotation timed out.
func fleetAdopted(t *testing.T, one, _ RotationFleetStore) {
	d := newDevice(insertModel(t, one, newModel("relay")), "aaaaaaaa")
	d.Rotation = fleet.RotationPending
	id := insertDevice(t, one, d)
	seen := stand(t, one)[id].Change
	for _, want := range []int{1, 0} { // the second time there is nothing to do
		if err := one.AdoptRotations(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := one.RotationStandings(t.Context(), seen)
		if err != nil || len(list) != want || want == 1 && list[0].Wire != fleet.RotationTimeout {
			t.Fatalf("%+v, %v", list, err)
		}
		seen = stand(t, one)[id].Change
	}
}
