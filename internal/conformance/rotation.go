package conformance

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// RotationStore is a store of rotations with the devices that they are of.
type RotationStore interface {
	registry.Store
	rotation.Store
}

// Rotation checks that the stores which open returns keep the promises of
// rotation.Store. Each call of open returns an empty store; open sees to its end.
func Rotation(t *testing.T, open func(*testing.T) RotationStore) {
	check := func(name string, f func(*testing.T, RotationStore)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("a device that is not there", rotationMissing)
	check("a device that was never rotated", rotationFirst)
	check("devices of another system", rotationAdopted)
	check("round trip", rotationRoundTrip)
	check("one of two commits", rotationConflict)
	check("lists", rotationLists)
	check("slots", rotationSlots)
	check("revoked devices", rotationRevoked)
	check("attempts", rotationAttempts)
	check("only so many attempts are kept", rotationTrim)
	check("a deleted device", rotationDeleted)
	check("lease", rotationLease)
}

func rotating(t *testing.T, s RotationStore, keys ...string) (ids []int64) {
	t.Helper()
	model := insertModel(t, s, newModel("relay"))
	for _, key := range keys {
		ids = append(ids, insertDevice(t, s, newDevice(model, key)))
	}
	return ids
}

func kept(t *testing.T, s RotationStore, device int64) rotation.Record {
	t.Helper()
	r, err := s.Rotation(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// keep commits a change of a device's record.
func keep(t *testing.T, s RotationStore, device int64, f func(*rotation.Change)) {
	t.Helper()
	c := rotation.Change{Record: kept(t, s, device)}
	f(&c)
	if version, err := s.CommitRotation(t.Context(), c); err != nil || version != c.Record.Version+1 {
		t.Fatalf("version %d after %d, %v", version, c.Record.Version, err)
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func rotationMissing(t *testing.T, s RotationStore) {
	_, err := s.Rotation(t.Context(), 7)
	wantMessage(t, err, fleet.NotFound, "Device 7 was not found")
	_, err = s.CommitRotation(t.Context(), rotation.Change{Record: rotation.Record{Device: 7}})
	wantMessage(t, err, fleet.NotFound, "Device 7 was not found")
	if list, err := s.RotationAttempts(t.Context(), 7, 10); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func rotationFirst(t *testing.T, s RotationStore) {
	model := insertModel(t, s, newModel("relay"))
	d := newDevice(model, "aaaaaaaa")
	d.Active, d.SecretCreatedAt, d.LastRotationAttemptAt, d.LastRotationCompletedAt = false, new(epoch), new(epoch.Add(1e9)), new(epoch.Add(2e9))
	f := func(key string, is, want fleet.RotationState) {
		t.Helper()
		d.Key, d.Rotation = key, is
		id := insertDevice(t, s, d)
		same(t, kept(t, s, id), rotation.Record{
			Device: id, ClientID: "iotdevice-relay-" + key, Key: key, SecretAt: epoch,
			State: rotation.State{Wire: want, StartedAt: epoch.Add(1e9), CompletedAt: epoch.Add(2e9)},
		})
	}
	f("aaaaaaaa", fleet.RotationOK, fleet.RotationOK)
	f("bbbbbbbb", fleet.RotationTimeout, fleet.RotationTimeout)
	f("cccccccc", fleet.RotationPending, fleet.RotationTimeout) // nobody can finish it
	f("dddddddd", fleet.RotationQueued, fleet.RotationQueued)
}

// What another system left in the middle of a rotation.
func rotationAdopted(t *testing.T, s RotationStore) {
	model := insertModel(t, s, newModel("relay"))
	ids := map[fleet.RotationState]int64{}
	for n, state := range []fleet.RotationState{fleet.RotationOK, fleet.RotationQueued, fleet.RotationPending, fleet.RotationTimeout} {
		d := newDevice(model, []string{"aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"}[n])
		d.Rotation, d.SecretCreatedAt = state, new(epoch)
		ids[state] = insertDevice(t, s, d)
	}
	for range 2 { // the second time there is nothing to do
		if err := s.AdoptRotations(t.Context()); err != nil {
			t.Fatal(err)
		}
		queued, err := s.QueuedRotations(t.Context(), 9)
		if err != nil {
			t.Fatal(err)
		}
		same(t, queued, []int64{ids[fleet.RotationQueued]})
		f := func(was, want fleet.RotationState, version int64) {
			t.Helper()
			r := kept(t, s, ids[was])
			d, err := s.Device(t.Context(), ids[was])
			if err != nil || d.Rotation != want || r.State.Wire != want || r.Version != version || !r.SecretAt.Equal(epoch) {
				t.Errorf("%s: %s, %+v, %v", was, d.Rotation, r, err)
			}
		}
		f(fleet.RotationOK, fleet.RotationOK, 0)
		f(fleet.RotationTimeout, fleet.RotationTimeout, 0)
		f(fleet.RotationQueued, fleet.RotationQueued, 1)
		f(fleet.RotationPending, fleet.RotationTimeout, 1)
	}
}

func rotationRoundTrip(t *testing.T, s RotationStore) {
	id := rotating(t, s, "aaaaaaaa", "bbbbbbbb")[0]
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Microsecond) }
	want := rotation.Record{
		Device: id, ClientID: "iotdevice-relay-aaaaaaaa", Key: "aaaaaaaa", Active: true,
		State: rotation.State{
			Wire: fleet.RotationPending, Step: rotation.Offered, Attempt: 3, StartedAt: at(1), Deadline: at(2), FetchedAt: at(3), FetchedBy: at(4), Asked: true, Postponed: true,
			Believed: true, Settling: true, Live: rotation.New, Switching: true, LiveSince: at(5), SwitchAt: at(6), CompletedAt: at(7), Failures: 2, RetryAt: at(8),
		},
		Old: "old", New: "new", OldName: "1", NewName: "2", SecretAt: at(9), NewAt: at(10), Actor: "Jörg '", Reason: "x\ny", Campaign: 4, Urgent: true,
		Holder: "me", HeldUntil: at(11), TodoAt: at(12), Tries: 5, Trouble: "none", Stuck: true, SlotUntil: at(13),
	}
	for range 2 { // as the first and as a later one
		keep(t, s, id, func(c *rotation.Change) {
			want.Version = c.Record.Version
			c.Record = want
		})
		want.Version++
		same(t, kept(t, s, id), want)
	}
	d, err := s.Device(t.Context(), id)
	if err != nil || d.Rotation != fleet.RotationPending || !d.SecretCreatedAt.Equal(at(9)) || !d.LastRotationAttemptAt.Equal(at(1)) || !d.LastRotationCompletedAt.Equal(at(7)) {
		t.Errorf("%+v, %v", d, err)
	}
	empty := rotation.Record{Device: id, ClientID: want.ClientID, Key: want.Key, Active: true, Version: 3}
	keep(t, s, id, func(c *rotation.Change) {
		c.Record = empty
		c.Record.Version = 2
	})
	empty.State.Wire = fleet.RotationOK
	same(t, kept(t, s, id), empty)
	if d, err = s.Device(t.Context(), id); err != nil || d.Rotation != fleet.RotationOK || d.SecretCreatedAt != nil || d.LastRotationAttemptAt != nil || d.LastRotationCompletedAt != nil {
		t.Errorf("%+v, %v", d, err)
	}
}

func rotationConflict(t *testing.T, s RotationStore) {
	id := rotating(t, s, "aaaaaaaa")[0]
	for range 3 { // the first commit, too
		r := kept(t, s, id)
		var won atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				c := rotation.Change{Record: r, Attempt: &rotation.Attempt{Number: 0}, Entries: []rotation.Entry{{At: epoch, What: "x"}}}
				_, err := s.CommitRotation(t.Context(), c)
				if err == nil {
					won.Add(1)
					return
				}
				wantKind(t, err, fleet.Exists)
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d commits of one version", won.Load())
		}
	}
	list, err := s.RotationAttempts(t.Context(), id, 10)
	if err != nil || len(list) != 1 || len(list[0].Steps) != 3 {
		t.Errorf("what was not committed left something: %+v, %v", list, err)
	}
}

func rotationLists(t *testing.T, s RotationStore) {
	ctx := t.Context()
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd", "eeeeeeee")
	a, b, c, d := ids[0], ids[1], ids[2], ids[3]
	put := func(id int64, wire fleet.RotationState, due int, f func(*rotation.Record)) {
		t.Helper()
		keep(t, s, id, func(c *rotation.Change) {
			c.Record.State.Wire = wire
			if due > 0 {
				c.Due = epoch.Add(time.Duration(due))
			}
			f(&c.Record)
		})
	}
	none := func(*rotation.Record) {}
	f := func(list []int64, err error, want ...int64) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if len(list)+len(want) > 0 {
			same(t, list, want)
		}
	}
	due := func(after int, limit int, want ...int64) {
		t.Helper()
		list, err := s.DueRotations(ctx, epoch.Add(time.Duration(after)), limit)
		f(list, err, want...)
	}
	due(1e9, 9)
	put(a, fleet.RotationPending, 3000, none)
	put(b, fleet.RotationPending, 2000, func(r *rotation.Record) { r.Stuck = true })
	put(c, fleet.RotationQueued, 0, func(r *rotation.Record) { r.SecretAt = epoch })
	put(d, fleet.RotationQueued, 4000, func(r *rotation.Record) { r.TodoAt = epoch })
	due(1000, 9)
	due(2000, 9, b)
	due(4000, 9, b, a, d)
	due(4000, 2, b, a)
	list, err := s.WaitingRotations(ctx)
	f(list, err, d, b, a)
	counts, err := s.RotationCounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, counts, map[fleet.RotationState]int{fleet.RotationOK: 1, fleet.RotationQueued: 2, fleet.RotationPending: 2, fleet.RotationTimeout: 0})

	queued := func(limit int, want ...int64) {
		t.Helper()
		list, err := s.QueuedRotations(ctx, limit)
		f(list, err, want...)
	}
	queued(9, d, c) // one whose time is not known first
	queued(1, d)
	put(d, fleet.RotationQueued, 0, func(r *rotation.Record) { r.SecretAt = epoch.Add(time.Hour) })
	queued(9, c, d)
	put(d, fleet.RotationQueued, 0, func(r *rotation.Record) { r.Urgent = true })
	queued(9, d, c)
}

// What is revoked waits, and nobody waits for it.
func rotationRevoked(t *testing.T, s RotationStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd")
	for n, id := range ids {
		keep(t, s, id, func(c *rotation.Change) {
			c.Record.State.Wire, c.Record.Campaign = fleet.RotationQueued, int64(n/2)
		})
	}
	revoke := func(id int64, at *time.Time) {
		t.Helper()
		tx(t, s, func(q registry.Queries) error { return q.SetRevoked(t.Context(), id, at) })
	}
	f := func(limit int, want, ofCampaigns []int64) {
		t.Helper()
		list, err := s.QueuedRotations(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		same(t, list, want)
		if list, err = s.QueuedByCampaigns(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		same(t, list, ofCampaigns)
	}
	f(9, ids[:2], ids[2:])
	revoke(ids[0], new(epoch))
	revoke(ids[2], new(epoch))
	f(1, ids[1:2], ids[3:])
	if r := kept(t, s, ids[0]); !r.Revoked || r.State.Wire != fleet.RotationQueued {
		t.Errorf("%+v", r)
	}
	revoke(ids[0], nil)
	revoke(ids[2], nil)
	f(9, ids[:2], ids[2:])
	if r := kept(t, s, ids[0]); r.Revoked {
		t.Errorf("%+v", r)
	}
}

// However many commits come at once: there are no more slots taken than there are.
func rotationSlots(t *testing.T, s RotationStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd", "eeeeeeee")
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	inFlight := func(now, want int) {
		t.Helper()
		if n, err := s.RotationsInFlight(t.Context(), at(now)); err != nil || n != want {
			t.Errorf("%d in flight at %d, want %d, %v", n, now, want, err)
		}
	}
	claim := func(id int64, now, until, slots int) error {
		c := rotation.Change{Record: kept(t, s, id), Slots: slots, Now: at(now)}
		c.Record.SlotUntil = at(until)
		_, err := s.CommitRotation(t.Context(), c)
		return err
	}
	inFlight(0, 0)
	var won atomic.Int32
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			err := claim(id, 0, 10, 2)
			if err == nil {
				won.Add(1)
				return
			}
			wantKind(t, err, fleet.TooMany)
			if r := kept(t, s, id); r.Version != 0 {
				t.Errorf("something was stored: %+v", r)
			}
		})
	}
	wg.Wait()
	if won.Load() != 2 {
		t.Errorf("%d have one of 2 slots", won.Load())
	}
	inFlight(9, 2)
	inFlight(10, 0)
	for _, id := range ids {
		if kept(t, s, id).Version == 1 { // it has one already, and counts once
			if err := claim(id, 9, 20, 2); err != nil {
				t.Error(err)
			}
		}
	}
	inFlight(19, 2)
	for _, id := range ids {
		keep(t, s, id, func(c *rotation.Change) { c.Record.SlotUntil = time.Time{} })
	}
	inFlight(0, 0)
}

func rotationAttempts(t *testing.T, s RotationStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb")
	first := rotation.Attempt{Number: 1, Actor: "a", Reason: "b", Campaign: 3, StartedAt: epoch}
	put := func(device int64, a *rotation.Attempt, number int64, entries ...rotation.Entry) {
		t.Helper()
		keep(t, s, device, func(c *rotation.Change) { c.Record.State.Attempt, c.Attempt, c.Entries = number, a, entries })
	}
	entry := func(n int, what string) rotation.Entry {
		return rotation.Entry{At: epoch.Add(time.Duration(n) * time.Second), What: what, Detail: "of " + what}
	}
	put(ids[0], &first, 1, entry(1, "started"))
	put(ids[1], &rotation.Attempt{Number: 1, StartedAt: epoch}, 1, entry(1, "other"))
	put(ids[0], nil, 1, entry(2, "offered"), entry(2, "fetched"))
	ended := first
	ended.EndedAt, ended.Outcome = epoch.Add(time.Minute), rotation.Done
	put(ids[0], &ended, 1, entry(3, "withdrawn"))
	second := rotation.Attempt{Number: 2, StartedAt: epoch.Add(time.Hour)}
	put(ids[0], &second, 2, entry(4, "started"))
	// One that ends another before it is over.
	second.EndedAt, second.Outcome = epoch.Add(2*time.Hour), rotation.Aborted
	third := rotation.Attempt{Number: 3, StartedAt: epoch.Add(2 * time.Hour)}
	keep(t, s, ids[0], func(c *rotation.Change) {
		c.Record.State.Attempt, c.Attempt, c.Entries = 3, &third, []rotation.Entry{entry(5, "reset")}
		c.Ended = &rotation.Attempt{Number: 2, StartedAt: second.StartedAt, EndedAt: second.EndedAt, Outcome: second.Outcome}
	})

	ended.Steps = []rotation.Entry{entry(1, "started"), entry(2, "offered"), entry(2, "fetched"), entry(3, "withdrawn")}
	second.Steps = []rotation.Entry{entry(4, "started")}
	third.Steps = []rotation.Entry{entry(5, "reset")}
	f := func(limit int, want ...rotation.Attempt) {
		t.Helper()
		list, err := s.RotationAttempts(t.Context(), ids[0], limit)
		if err != nil {
			t.Fatal(err)
		}
		same(t, list, want)
	}
	f(9, third, second, ended)
	f(1, third)
}

func rotationTrim(t *testing.T, s RotationStore) {
	id := rotating(t, s, "aaaaaaaa")[0]
	for n := range int64(rotation.KeptAttempts + 3) {
		keep(t, s, id, func(c *rotation.Change) {
			c.Record.State.Attempt = n + 1
			c.Attempt = &rotation.Attempt{Number: n + 1, StartedAt: epoch}
			c.Entries = []rotation.Entry{{At: epoch, What: "started"}}
		})
	}
	list, err := s.RotationAttempts(t.Context(), id, 1000)
	if err != nil || len(list) != rotation.KeptAttempts || list[len(list)-1].Number != 4 || len(list[len(list)-1].Steps) != 1 {
		t.Errorf("%d attempts, %v", len(list), err)
	}
}

func rotationDeleted(t *testing.T, s RotationStore) {
	id := rotating(t, s, "aaaaaaaa")[0]
	keep(t, s, id, func(c *rotation.Change) {
		c.Record.State.Attempt, c.Record.State.Wire, c.Due = 1, fleet.RotationQueued, epoch
		c.Attempt, c.Entries = &rotation.Attempt{Number: 1}, []rotation.Entry{{At: epoch, What: "x"}}
	})
	r := kept(t, s, id)
	tx(t, s, func(q registry.Queries) error { return q.DeleteDevice(t.Context(), id) })
	_, err := s.Rotation(t.Context(), id)
	wantKind(t, err, fleet.NotFound)
	_, err = s.CommitRotation(t.Context(), rotation.Change{Record: r})
	wantKind(t, err, fleet.NotFound)
	due, err := s.DueRotations(t.Context(), epoch, 9)
	queued, err2 := s.QueuedRotations(t.Context(), 9)
	list, err3 := s.RotationAttempts(t.Context(), id, 9)
	if len(due)+len(queued)+len(list) > 0 || err != nil || err2 != nil || err3 != nil {
		t.Errorf("left: %v, %v, %v; %v, %v, %v", due, queued, list, err, err2, err3)
	}
}

func rotationLease(t *testing.T, s RotationStore) {
	f := func(holder string, now int, want bool) {
		t.Helper()
		at := epoch.Add(time.Duration(now) * time.Second)
		if got, err := s.RotationLease(t.Context(), holder, at, at.Add(10*time.Second)); err != nil || got != want {
			t.Errorf("%s at %d: %v, %v", holder, now, got, err)
		}
	}
	f("a", 0, true)
	f("b", 1, false)
	f("a", 5, true)
	f("b", 14, false)
	f("b", 15, true)
	f("a", 16, false)
	if err := s.ReleaseRotationLease(t.Context(), "a"); err != nil { // who has it not cannot end it
		t.Fatal(err)
	}
	f("a", 17, false)
	if err := s.ReleaseRotationLease(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	f("a", 18, true)
	f("b", -72, false) // its clock may be that much behind
	f("a", 1e6, true)  // the clock is wrong
	f("b", 19, true)   // and was set right
	f("a", 20, false)
}
