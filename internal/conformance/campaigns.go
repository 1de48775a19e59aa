package conformance

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// CampaignStore is a store of campaigns with the devices and rotations that they
// are of.
type CampaignStore interface {
	RotationStore
	rotation.CampaignStore
}

// Campaigns checks that the stores which open returns keep the promises of
// rotation.CampaignStore. Each call of open returns an empty store; open sees to its end.
func Campaigns(t *testing.T, open func(*testing.T) CampaignStore) {
	check := func(name string, f func(*testing.T, CampaignStore)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("a campaign that is not there", campaignMissing)
	check("round trip", campaignRoundTrip)
	check("a device is in one campaign", campaignOverlap)
	check("one of two commits", campaignConflict)
	check("moves", campaignMoves)
	check("flights", campaignFlights)
	check("late devices", campaignLate)
	check("candidates", campaignCandidates)
	check("ten thousand devices", campaignLarge)
	check("lease", campaignLease)
}

func waitingIn(sizes ...int) (list []rotation.Counts) {
	for _, n := range sizes {
		list = append(list, rotation.Counts{Waiting: n})
	}
	return list
}

func member(position, device int64, wave int) rotation.Member {
	return rotation.Member{Position: position, Device: device, Key: fmt.Sprintf("key%d", device), Wave: wave, State: rotation.TurnWaiting}
}

func createCampaign(t *testing.T, s CampaignStore, members ...rotation.Member) rotation.Campaign {
	t.Helper()
	sizes := map[int]int{}
	for _, m := range members {
		sizes[m.Wave]++
	}
	var list []int
	for w := 1; w <= len(sizes); w++ {
		list = append(list, sizes[w])
	}
	id, err := s.CreateCampaign(t.Context(), rotation.Campaign{
		Name: "x", CreatedAt: epoch, Course: rotation.Course{State: rotation.CampaignRunning, Waves: waitingIn(list...)}, Options: json.RawMessage("{}"),
	}, members)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Campaign(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// push commits moves of a campaign's devices.
func push(t *testing.T, s CampaignStore, c *rotation.Campaign, moves ...rotation.Move) {
	t.Helper()
	for _, m := range moves {
		c.Course.Apply(&c.Rules, m)
	}
	if err := s.CommitCampaign(t.Context(), rotation.CampaignChange{Campaign: *c, Moves: moves, At: epoch}); err != nil {
		t.Fatal(err)
	}
	c.Version++
}

func campaignMissing(t *testing.T, s CampaignStore) {
	_, err := s.Campaign(t.Context(), 7)
	wantMessage(t, err, fleet.NotFound, "Campaign 7 was not found")
	err = s.CommitCampaign(t.Context(), rotation.CampaignChange{Campaign: rotation.Campaign{ID: 7}})
	wantMessage(t, err, fleet.NotFound, "Campaign 7 was not found")
	list, err := s.Campaigns(t.Context(), 0, 9)
	live, err2 := s.LiveCampaigns(t.Context())
	if len(list)+len(live) > 0 || err != nil || err2 != nil {
		t.Errorf("%v, %v, %v, %v", list, live, err, err2)
	}
}

func campaignRoundTrip(t *testing.T, s CampaignStore) {
	ctx := t.Context()
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Microsecond) }
	want := rotation.Campaign{
		Name: "Jörg's '", Reason: "x", Actor: "anna", CreatedAt: epoch, Version: 1,
		Rules: rotation.CampaignRules{
			InFlight: 3, Canary: true, WavePause: time.Minute, PauseRate: 0.25, PauseMin: 4, Defer: true, DeferFor: time.Hour, Inactive: true, EachDevice: time.Second,
			Windows: rotation.Windows{List: []rotation.Window{{Days: []int{1, 7}, From: 60, To: 30}}, Zone: "Europe/Berlin"},
		},
		Course: rotation.Course{
			State: rotation.CampaignPaused, Reason: "why", Wave: 1, Waves: waitingIn(1, 1), NotBefore: at(1), StartedAt: at(2), ResumedAt: at(3), Done: 1, Failed: 2, CanaryFailed: 1,
		},
		Options: json.RawMessage(`{"name":"<x>"}`),
	}
	id, err := s.CreateCampaign(ctx, want, []rotation.Member{member(1, 12, 1), member(2, 11, 2)})
	if err != nil {
		t.Fatal(err)
	}
	want.ID = id
	got, err := s.Campaign(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	other := createCampaign(t, s, member(1, 13, 1))
	list, err := s.Campaigns(ctx, 0, 9)
	if err != nil {
		t.Fatal(err)
	}
	same(t, list, []rotation.Campaign{other, want})
	if list, err = s.Campaigns(ctx, other.ID, 9); err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("%v, %v", list, err)
	}
	if list, err = s.Campaigns(ctx, 0, 1); err != nil || len(list) != 1 || list[0].ID != other.ID {
		t.Errorf("%v, %v", list, err)
	}
	live, err := s.LiveCampaigns(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bare, bareOther := want, other
	bare.Options, bareOther.Options = nil, nil
	same(t, live, []rotation.Campaign{bare, bareOther})

	members, err := s.Members(ctx, id, rotation.MemberFilter{Limit: 9})
	if err != nil {
		t.Fatal(err)
	}
	same(t, members, []rotation.Member{member(1, 12, 1), member(2, 11, 2)})
	if members, err = s.Members(ctx, id, rotation.MemberFilter{Limit: 1}); err != nil || len(members) != 1 {
		t.Errorf("%v, %v", members, err)
	}
	if members, err = s.Members(ctx, id, rotation.MemberFilter{Limit: 9, After: 1}); err != nil || len(members) != 1 || members[0].Device != 11 {
		t.Errorf("%v, %v", members, err)
	}
	if members, err = s.Members(ctx, id, rotation.MemberFilter{Limit: 9, State: rotation.TurnDone}); err != nil || len(members) != 0 {
		t.Errorf("%v, %v", members, err)
	}
	if members, err = s.Members(ctx, id, rotation.MemberFilter{Limit: 9, State: rotation.TurnWaiting, After: 1}); err != nil || len(members) != 1 {
		t.Errorf("%v, %v", members, err)
	}
	ids, err := s.MemberIDs(ctx, id)
	if err != nil || len(ids) != 2 {
		t.Errorf("%v, %v", ids, err)
	}

	want.Course.State, want.Course.EndedAt = rotation.CampaignDone, at(9)
	push(t, s, &want)
	if got, err = s.Campaign(ctx, id); err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	if live, err = s.LiveCampaigns(ctx); err != nil || len(live) != 1 {
		t.Errorf("%v, %v", live, err)
	}
	counts, err := s.CampaignCounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	same(t, counts, map[rotation.CampaignState]int{rotation.CampaignDone: 1, rotation.CampaignRunning: 1})
}

func campaignOverlap(t *testing.T, s CampaignStore) {
	c := createCampaign(t, s, member(1, 11, 1), member(2, 12, 1))
	_, err := s.CreateCampaign(t.Context(), rotation.Campaign{}, []rotation.Member{member(1, 13, 1), member(2, 12, 1)})
	wantKind(t, err, fleet.Exists)
	if list, err := s.Campaigns(t.Context(), 0, 9); err != nil || len(list) != 1 {
		t.Errorf("what was not stored left something: %v, %v", list, err)
	}
	// A turn that is over does not count.
	push(t, s, &c, rotation.Move{Device: 12, Wave: 1, From: rotation.TurnWaiting, To: rotation.TurnSkipped, At: epoch})
	createCampaign(t, s, member(1, 12, 1))
}

func campaignConflict(t *testing.T, s CampaignStore) {
	c := createCampaign(t, s, member(1, 11, 1), member(2, 12, 1))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			mine := c
			mine.Course.Waves = []rotation.Counts{c.Course.Waves[0]}
			m := rotation.Move{Device: 11 + int64(i%2), Wave: 1, From: rotation.TurnWaiting, To: rotation.TurnInFlight, At: epoch}
			mine.Course.Apply(&mine.Rules, m)
			if err := s.CommitCampaign(t.Context(), rotation.CampaignChange{Campaign: mine, Moves: []rotation.Move{m}}); err == nil {
				won.Add(1)
			} else {
				wantKind(t, err, fleet.Exists)
			}
		})
	}
	wg.Wait()
	flights, err := s.Flights(t.Context(), c.ID)
	if won.Load() != 1 || err != nil || len(flights) != 1 {
		t.Errorf("%d commits of one version; %v, %v", won.Load(), flights, err)
	}
	// A move from where the device is not is no commit, either.
	got, err := s.Campaign(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	err = s.CommitCampaign(t.Context(), rotation.CampaignChange{Campaign: got, Moves: []rotation.Move{{Device: flights[0].Device, Wave: 1, From: rotation.TurnDeferred, To: rotation.TurnDone}}})
	wantKind(t, err, fleet.Exists)
	if again, err := s.Campaign(t.Context(), c.ID); err != nil || again.Version != got.Version {
		t.Errorf("version %d after %d, %v", again.Version, got.Version, err)
	}
}

func campaignMoves(t *testing.T, s CampaignStore) {
	ctx := t.Context()
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd")
	c := createCampaign(t, s, member(1, ids[2], 1), member(2, ids[1], 1), member(3, ids[0], 2), member(4, ids[3], 2), member(5, 9999, 2))
	turns := func(state rotation.TurnState, wave, limit int, want ...rotation.Turn) {
		t.Helper()
		got, err := s.Turns(ctx, c.ID, state, wave, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(want) > 0 {
			same(t, got, want)
		}
	}
	turns(rotation.TurnWaiting, 1, 9, rotation.Turn{Device: ids[2], Wave: 1}, rotation.Turn{Device: ids[1], Wave: 1})
	turns(rotation.TurnWaiting, 1, 1, rotation.Turn{Device: ids[2], Wave: 1})
	turns(rotation.TurnDeferred, 0, 9)
	keep(t, s, ids[0], func(c *rotation.Change) { c.Record.State.Wire = fleet.RotationPending })
	tx(t, s, func(q registry.Queries) error {
		d, err := q.Device(ctx, ids[3])
		if err != nil {
			return err
		}
		d.Active = false
		if err := q.UpdateDevice(ctx, d); err != nil {
			return err
		}
		return q.SetRevoked(ctx, ids[3], new(epoch))
	})
	turns(rotation.TurnWaiting, 2, 9, rotation.Turn{Device: ids[0], Wave: 2, Busy: true}, rotation.Turn{Device: ids[3], Wave: 2, Revoked: true, Inactive: true},
		rotation.Turn{Device: 9999, Wave: 2, Gone: true, Inactive: true})

	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }
	move := func(device int64, wave int, from, to rotation.TurnState, reason string, second int) rotation.Move {
		return rotation.Move{Device: device, Wave: wave, From: from, To: to, Reason: reason, At: at(second)}
	}
	push(t, s, &c,
		move(ids[2], 1, rotation.TurnWaiting, rotation.TurnInFlight, "", 1),
		move(ids[1], 1, rotation.TurnWaiting, rotation.TurnDeferred, "offline", 1),
		move(ids[0], 2, rotation.TurnWaiting, rotation.TurnSkipped, "busy", 1))
	turns(rotation.TurnDeferred, 0, 9, rotation.Turn{Device: ids[1], Wave: 1, DeferredAt: at(1)})
	turns(rotation.TurnDeferred, 2, 9)
	done := move(ids[2], 1, rotation.TurnInFlight, rotation.TurnDone, "", 2)
	done.Attempt = 7
	push(t, s, &c, done, move(ids[1], 1, rotation.TurnDeferred, rotation.TurnInFlight, "", 2))
	f := func(want ...rotation.Member) {
		t.Helper()
		got, err := s.Members(ctx, c.ID, rotation.MemberFilter{Limit: 9})
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i].Key = ""
		}
		same(t, got, want)
	}
	first := rotation.Member{Position: 1, Device: ids[2], Wave: 1, State: rotation.TurnDone, StartedAt: at(1), EndedAt: at(2)}
	second := rotation.Member{Position: 2, Device: ids[1], Wave: 1, State: rotation.TurnInFlight, StartedAt: at(2)}
	third := rotation.Member{Position: 3, Device: ids[0], Wave: 2, State: rotation.TurnSkipped, Reason: "busy", EndedAt: at(1)}
	fourth := rotation.Member{Position: 4, Device: ids[3], Wave: 2, State: rotation.TurnWaiting}
	fifth := rotation.Member{Position: 5, Device: 9999, Wave: 2, State: rotation.TurnWaiting}
	f(first, second, third, fourth, fifth)

	push(t, s, &c, move(ids[3], 2, rotation.TurnWaiting, rotation.TurnDeferred, "offline", 3))
	if err := s.CommitCampaign(ctx, rotation.CampaignChange{Campaign: c, Deferred: at(9)}); err != nil {
		t.Fatal(err)
	}
	c.Version++
	turns(rotation.TurnDeferred, 0, 9, rotation.Turn{Device: ids[3], Wave: 2, DeferredAt: at(9), Revoked: true, Inactive: true})
	if err := s.CommitCampaign(ctx, rotation.CampaignChange{Campaign: c, SkipOpen: "over", At: at(10)}); err != nil {
		t.Fatal(err)
	}
	fourth.State, fourth.Reason, fourth.EndedAt = rotation.TurnSkipped, "over", at(10)
	fifth.State, fifth.Reason, fifth.EndedAt = rotation.TurnSkipped, "over", at(10)
	f(first, second, third, fourth, fifth)
}

func campaignFlights(t *testing.T, s CampaignStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc")
	c := createCampaign(t, s, member(1, ids[0], 1), member(2, ids[1], 1), member(3, ids[2], 1), member(4, 9999, 1))
	for _, id := range []int64{ids[0], ids[1], 9999} {
		push(t, s, &c, rotation.Move{Device: id, Wave: 1, From: rotation.TurnWaiting, To: rotation.TurnInFlight, At: epoch})
	}
	if err := s.MarkQueued(t.Context(), c.ID, []int64{ids[0], ids[2]}, epoch.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	f := func(want ...rotation.Flight) {
		t.Helper()
		got, err := s.Flights(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, want)
	}
	first := rotation.Flight{Device: ids[0], Wave: 1, QueuedAt: epoch.Add(time.Second)}
	gone := rotation.Flight{Device: 9999, Wave: 1, Gone: true}
	f(first, rotation.Flight{Device: ids[1], Wave: 1}, gone)
	put := func(number, campaign int64, outcome rotation.Outcome) {
		t.Helper()
		keep(t, s, ids[0], func(ch *rotation.Change) {
			ch.Record.Campaign, ch.Record.State.Attempt, ch.Record.State.Wire = campaign, number, fleet.RotationPending
			ch.Record.Stuck, ch.Record.Trouble = true, "none"
			ch.Attempt = &rotation.Attempt{Number: number, Campaign: campaign, StartedAt: epoch, Outcome: outcome}
			if outcome != rotation.Running {
				ch.Attempt.EndedAt = epoch.Add(time.Minute)
			}
		})
	}
	first.Wire, first.Stuck, first.Trouble = fleet.RotationPending, true, "none"
	put(1, 0, rotation.Done)
	f(first, rotation.Flight{Device: ids[1], Wave: 1}, gone)
	put(2, c.ID, rotation.TimedOut)
	put(3, c.ID, rotation.Running)
	first.Campaign, first.Attempt = c.ID, 3
	f(first, rotation.Flight{Device: ids[1], Wave: 1}, gone)
	put(3, c.ID, rotation.Done)
	put(4, 0, rotation.Running)
	first.Campaign, first.Outcome, first.EndedAt = 0, rotation.Done, epoch.Add(time.Minute)
	f(first, rotation.Flight{Device: ids[1], Wave: 1}, gone)
}

func campaignLate(t *testing.T, s CampaignStore) {
	ids := rotating(t, s, "aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd")
	c := createCampaign(t, s, member(1, ids[0], 1), member(2, ids[1], 2), member(3, ids[2], 2), member(4, ids[3], 2))
	put := func(device, number, campaign int64, actor string, outcome rotation.Outcome) {
		t.Helper()
		keep(t, s, device, func(ch *rotation.Change) {
			ch.Record.State.Attempt = number
			ch.Attempt = &rotation.Attempt{Number: number, Campaign: campaign, Actor: actor, StartedAt: epoch, EndedAt: epoch.Add(time.Minute), Outcome: outcome}
		})
	}
	for i, id := range ids {
		wave := min(i+1, 2)
		push(t, s, &c, rotation.Move{Device: id, Wave: wave, From: rotation.TurnWaiting, To: rotation.TurnInFlight, At: epoch})
		push(t, s, &c, rotation.Move{Device: id, Wave: wave, From: rotation.TurnInFlight, To: rotation.TurnFailed, At: epoch.Add(time.Second), Attempt: 2})
		put(id, 1, 0, "", rotation.Done) // that was before
		put(id, 2, c.ID, "anna", rotation.TimedOut)
	}
	f := func(since int, limit int, want ...rotation.Late) {
		t.Helper()
		got, err := s.LateDevices(t.Context(), epoch.Add(time.Duration(since)*time.Second), limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(want) > 0 {
			same(t, got, want)
		}
	}
	late := func(device int64, wave int, attempt int64) rotation.Late {
		return rotation.Late{Campaign: c.ID, Move: rotation.Move{
			Device: device, Wave: wave, From: rotation.TurnFailed, To: rotation.TurnDone, Reason: "late", At: epoch.Add(time.Minute), Attempt: attempt, Failed: epoch.Add(time.Second),
		}}
	}
	f(0, 9)
	put(ids[0], 2, c.ID, "anna", rotation.Done)
	put(ids[1], 3, 0, "", rotation.Believed)
	put(ids[1], 4, 0, "", rotation.Done)
	put(ids[2], 3, 0, "bert", rotation.Done) // somebody asked for that
	put(ids[3], 3, 77, "", rotation.Done)    // another campaign
	f(0, 9, late(ids[0], 1, 2), late(ids[1], 2, 3))
	f(0, 1, late(ids[0], 1, 2))
	f(1, 9)
	push(t, s, &c, late(ids[0], 1, 2).Move)
	f(0, 9, late(ids[1], 2, 3))
}

func campaignCandidates(t *testing.T, s CampaignStore) {
	model := insertModel(t, s, newModel("relay"))
	d := newDevice(model, "aaaaaaaa")
	d.SecretCreatedAt, d.Tags, d.Name = new(epoch), fleet.NewTags("north"), new("Lamp")
	a := insertDevice(t, s, d)
	b := insertDevice(t, s, newDevice(model, "bbbbbbbb"))
	legacy := newDevice(model, "cccccccc")
	legacy.Rotation, legacy.Active = fleet.RotationPending, false // nobody could finish it
	l := insertDevice(t, s, legacy)
	keep(t, s, b, func(c *rotation.Change) {
		c.Record.State.Wire, c.Record.State.Failures, c.Record.Stuck, c.Record.SecretAt = fleet.RotationTimeout, 3, true, epoch
	})
	c := createCampaign(t, s, member(1, b, 1))
	got, err := s.Candidates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	of := map[int64]rotation.Candidate{}
	for _, x := range got {
		of[x.Ref.ID] = x
	}
	if x := of[a]; x.Ref.Key != "aaaaaaaa" || x.Ref.Name != "Lamp" || x.Ref.Tags != fleet.NewTags("north") || x.Ref.ModelID != model || x.Ref.ModelCode != "relay" || x.Ref.Revoked ||
		!x.Active || x.State != fleet.RotationOK || !x.SecretAt.Equal(epoch) || x.Failures != 0 || x.Stuck || x.Campaign != 0 {
		t.Errorf("%+v", x)
	}
	if x := of[b]; x.State != fleet.RotationTimeout || x.Failures != 3 || !x.Stuck || x.Campaign != c.ID || !x.SecretAt.Equal(epoch) {
		t.Errorf("%+v", x)
	}
	if x := of[l]; x.State != fleet.RotationOK || x.Active {
		t.Errorf("%+v", x)
	}

	took := func(limit int, want ...rotation.Took) {
		t.Helper()
		got, err := s.TookLately(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(want) > 0 {
			same(t, got, want)
		}
	}
	took(9)
	for n, outcome := range []rotation.Outcome{rotation.Done, rotation.TimedOut, rotation.Done} {
		keep(t, s, a, func(c *rotation.Change) {
			c.Record.State.Attempt = int64(n + 1)
			c.Attempt = &rotation.Attempt{Number: int64(n + 1), StartedAt: epoch, EndedAt: epoch.Add(time.Duration(n+1) * time.Second), Outcome: outcome}
		})
	}
	took(9, rotation.Took{Device: a, Time: 3 * time.Second}, rotation.Took{Device: a, Time: time.Second})
	took(1, rotation.Took{Device: a, Time: 3 * time.Second})
}

func campaignLarge(t *testing.T, s CampaignStore) {
	var members []rotation.Member
	for i := range int64(10_000) {
		members = append(members, member(i+1, i+1, 1+int(min(i, 1))))
	}
	start := time.Now()
	c := createCampaign(t, s, members...)
	t.Logf("10 000 devices in %v", time.Since(start))
	ids, err := s.MemberIDs(t.Context(), c.ID)
	if err != nil || len(ids) != 10_000 {
		t.Errorf("%d, %v", len(ids), err)
	}
	last, err := s.Members(t.Context(), c.ID, rotation.MemberFilter{After: 9999, Limit: 9})
	if err != nil || len(last) != 1 || last[0].Device != 10_000 || last[0].Wave != 2 {
		t.Errorf("%v, %v", last, err)
	}
}

func campaignLease(t *testing.T, s CampaignStore) {
	f := func(holder string, now int, want bool) {
		t.Helper()
		at := epoch.Add(time.Duration(now) * time.Second)
		if got, err := s.CampaignLease(t.Context(), holder, at, at.Add(10*time.Second)); err != nil || got != want {
			t.Errorf("%s at %d: %v, %v", holder, now, got, err)
		}
	}
	// It is another one than that of the runner.
	if got, err := s.RotationLease(t.Context(), "r", epoch, epoch.Add(time.Hour)); err != nil || !got {
		t.Errorf("%v, %v", got, err)
	}
	f("a", 0, true)
	f("b", 1, false)
	f("a", 5, true)
	f("b", 15, true)
	if err := s.ReleaseCampaignLease(t.Context(), "a"); err != nil { // who has it not cannot end it
		t.Fatal(err)
	}
	f("a", 17, false)
	if err := s.ReleaseCampaignLease(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	f("a", 18, true)
	f("a", 1e6, true) // the clock is wrong
	f("b", 19, true)  // and was set right
	if got, err := s.RotationLease(t.Context(), "x", epoch.Add(time.Second), epoch.Add(time.Hour)); err != nil || got {
		t.Errorf("%v, %v", got, err)
	}
}
