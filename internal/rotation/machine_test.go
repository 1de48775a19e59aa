package rotation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func policy(dual bool) rotation.Policy {
	return rotation.Policy{Dual: dual, Timeout: 5 * time.Minute, Turn: 10 * time.Minute, Skew: 30 * time.Second, RetryAfter: time.Minute, RetryMax: 5 * time.Minute, Tries: 4}
}

// script runs events from the zero state, each a second after the one before
// unless a Duration says otherwise, and returns the end and the last effects.
func script(p rotation.Policy, events ...any) (s rotation.State, effects []rotation.Effect, now time.Time) {
	now = epoch
	for _, e := range events {
		if d, ok := e.(time.Duration); ok {
			now = now.Add(d)
			s, effects = p.Step(s, rotation.Tick{}, now)
			continue
		}
		now = now.Add(time.Second)
		if t, ok := e.(rotation.Token); ok && t.IssuedAt.IsZero() {
			e = rotation.Token{IssuedAt: now}
		}
		if w, ok := e.(rotation.Switched); ok {
			e = rotation.Switched{To: w.To, At: now}
		}
		s, effects = p.Step(s, e.(rotation.Event), now)
	}
	return s, effects, now
}

func TestStep(t *testing.T) {
	const (
		ok      = fleet.RotationOK
		queued  = fleet.RotationQueued
		pending = fleet.RotationPending
		timeout = fleet.RotationTimeout
	)
	var (
		queue, start, created, fetch = rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{IssuedAt: epoch}
		usedNew, usedOld             = rotation.Used{Secret: rotation.New}, rotation.Used{Secret: rotation.Old}
		switchedNew, switchedOld     = rotation.Switched{To: rotation.New}, rotation.Switched{To: rotation.Old}
		postpone                     = rotation.Postpone{IssuedAt: epoch}
		token, destroyed, abort      = rotation.Token{}, rotation.Destroyed{}, rotation.Abort{}
		late                         = 6 * time.Minute
	)
	f := func(dual bool, wire fleet.RotationState, step rotation.Step, want []rotation.Effect, events ...any) {
		t.Helper()
		s, effects, _ := script(policy(dual), events...)
		if s.Wire != wire || s.Step != step || !slices.Equal(effects, want) {
			t.Errorf("%s: got %s, step %d, effects %v; want %s, step %d, effects %v", fmt.Sprintf("%T", events), s.Wire, s.Step, effects, wire, step, want)
		}
	}

	// A provider with two secrets whose tokens name them.
	f(true, queued, rotation.Idle, does(rotation.Announce), queue)
	f(true, queued, rotation.Idle, nil, queue, queue)
	f(true, "", rotation.Idle, nil, start)
	f(true, pending, rotation.Creating, does(rotation.Generate, rotation.Create, rotation.Announce), queue, start)
	f(true, pending, rotation.Creating, nil, queue, start, start)
	f(true, pending, rotation.Creating, nil, queue, start, queue)
	f(true, pending, rotation.Creating, does(rotation.GiveOld), queue, start, fetch)
	f(true, pending, rotation.Offered, does(rotation.Tell), queue, start, created)
	f(true, pending, rotation.Offered, nil, queue, start, created, created)
	f(true, pending, rotation.Offered, nil, queue, start, created, usedNew) // nobody has it
	f(true, pending, rotation.Offered, nil, queue, start, created, token)   // it never asked
	f(true, pending, rotation.Offered, does(rotation.GiveNew), queue, start, created, fetch)
	f(true, pending, rotation.Offered, does(rotation.GiveNew), queue, start, created, fetch, fetch)
	f(true, pending, rotation.Offered, nil, queue, start, created, fetch, usedOld)
	f(true, pending, rotation.Proven, does(rotation.Destroy), queue, start, created, fetch, usedNew)
	f(true, pending, rotation.Proven, nil, queue, start, created, fetch, usedNew, usedNew)
	f(true, pending, rotation.Proven, does(rotation.GiveNew), queue, start, created, fetch, usedNew, fetch)
	f(true, pending, rotation.Proven, nil, queue, start, created, fetch, usedNew, late) // only the provider is late
	f(true, pending, rotation.Proven, nil, queue, start, created, fetch, usedNew, abort)
	f(true, ok, rotation.Idle, does(rotation.Promote, rotation.Announce, rotation.Clear), queue, start, created, fetch, usedNew, destroyed)
	f(true, ok, rotation.Idle, nil, queue, start, created, fetch, usedNew, destroyed, destroyed)
	f(true, ok, rotation.Idle, does(rotation.GiveOld), queue, start, created, fetch, usedNew, destroyed, fetch)
	f(true, "", rotation.Idle, does(rotation.GiveOld), fetch)

	// Too late, and later still.
	f(true, timeout, rotation.Offered, does(rotation.Announce, rotation.Clear), queue, start, created, fetch, late)
	f(true, timeout, rotation.Offered, nil, queue, start, created, fetch, late, queue) // not yet
	f(true, queued, rotation.Offered, does(rotation.Announce), queue, start, created, fetch, late, rotation.Queue{Person: true})
	f(true, queued, rotation.Offered, does(rotation.Announce), queue, start, created, fetch, late, 2*time.Minute, queue)
	f(true, pending, rotation.Offered, does(rotation.Tell, rotation.Announce), queue, start, created, fetch, late, 2*time.Minute, queue, start) // the same secret
	f(true, timeout, rotation.Offered, does(rotation.GiveNew), queue, start, created, fetch, late, fetch)
	f(true, timeout, rotation.Offered, does(rotation.GiveOld), queue, start, created, late, fetch) // it was not told in time
	f(true, pending, rotation.Proven, does(rotation.Destroy), queue, start, created, fetch, late, usedNew)
	f(true, timeout, rotation.Creating, does(rotation.Announce), queue, start, late)
	f(true, timeout, rotation.Offered, nil, queue, start, late, created)
	f(true, pending, rotation.Creating, does(rotation.Create, rotation.Announce), queue, start, late, rotation.Queue{Person: true}, start)

	// It came when there was no room, and waits for another turn.
	f(true, queued, rotation.Offered, does(rotation.GiveOld, rotation.Announce, rotation.Clear), queue, start, created, postpone)
	f(true, queued, rotation.Offered, does(rotation.GiveOld), queue, start, created, postpone, fetch)
	f(true, queued, rotation.Offered, nil, queue, start, created, postpone, late)
	f(true, pending, rotation.Offered, does(rotation.Tell, rotation.Announce), queue, start, created, postpone, start)
	f(true, pending, rotation.Offered, does(rotation.GiveNew), queue, start, created, postpone, start, fetch)
	f(true, pending, rotation.Offered, does(rotation.GiveNew), queue, start, created, fetch, postpone) // it may have it
	f(true, pending, rotation.Creating, does(rotation.GiveOld), queue, start, postpone)
	f(true, pending, rotation.Proven, does(rotation.GiveNew), queue, start, created, fetch, usedNew, postpone)
	f(true, "", rotation.Idle, does(rotation.GiveOld), postpone)
	f(true, ok, rotation.Offered, does(rotation.Announce), queue, start, created, postpone, abort)
	f(false, queued, rotation.Offered, does(rotation.GiveOld, rotation.Announce, rotation.Clear), queue, start, postpone)
	f(false, pending, rotation.Offered, does(rotation.Switch, rotation.GiveNew), queue, start, postpone, start, fetch)

	// Withdrawn.
	f(true, ok, rotation.Idle, does(rotation.Announce), queue, abort)
	f(true, ok, rotation.Offered, does(rotation.Announce, rotation.Clear), queue, start, created, abort)
	f(true, ok, rotation.Offered, does(rotation.GiveOld), queue, start, created, abort, fetch)
	f(true, timeout, rotation.Offered, does(rotation.Announce, rotation.Clear), queue, start, created, fetch, abort)
	f(true, pending, rotation.Proven, does(rotation.Destroy), queue, start, created, fetch, abort, usedNew)
	f(true, "", rotation.Idle, nil, abort)

	// Tokens that name nothing are believed, and nothing is destroyed.
	f(true, ok, rotation.Offered, does(rotation.Announce, rotation.Clear), queue, start, created, fetch, token)
	f(true, ok, rotation.Offered, nil, queue, start, created, fetch, token, token)
	f(true, ok, rotation.Offered, does(rotation.GiveNew), queue, start, created, fetch, token, fetch)
	f(true, ok, rotation.Proven, does(rotation.Destroy), queue, start, created, fetch, token, usedNew)
	f(true, ok, rotation.Idle, does(rotation.Promote), queue, start, created, fetch, token, usedNew, destroyed)
	f(true, pending, rotation.Offered, nil, queue, start, created, fetch, rotation.Token{IssuedAt: epoch.Add(-time.Hour)})
	// The next attempt makes sure first.
	f(true, pending, rotation.Offered, does(rotation.Switch, rotation.Tell, rotation.Announce), queue, start, created, fetch, token, queue, start)
	f(true, pending, rotation.Proven, does(rotation.Destroy), queue, start, created, fetch, token, queue, start, switchedNew, token)
	f(true, pending, rotation.Creating, does(rotation.Promote, rotation.Generate, rotation.Create), queue, start, created, fetch, token, queue, start, switchedNew, token, destroyed)

	// A provider with one secret.
	f(false, pending, rotation.Offered, does(rotation.Generate, rotation.Tell, rotation.Announce), queue, start)
	f(false, pending, rotation.Offered, does(rotation.Switch, rotation.GiveNew), queue, start, fetch)
	f(false, pending, rotation.Offered, does(rotation.Switch, rotation.GiveNew), queue, start, fetch, fetch) // it may not be there yet
	f(false, pending, rotation.Offered, does(rotation.GiveNew), queue, start, fetch, switchedNew, fetch)
	f(false, pending, rotation.Offered, nil, queue, start, fetch, token) // it may still be the old one's
	f(false, pending, rotation.Offered, nil, queue, start, fetch, switchedNew, rotation.Token{IssuedAt: epoch})
	f(false, pending, rotation.Proven, does(rotation.Destroy), queue, start, fetch, switchedNew, token)
	f(false, ok, rotation.Idle, does(rotation.Promote, rotation.Announce, rotation.Clear), queue, start, fetch, switchedNew, token, destroyed)
	f(false, timeout, rotation.Offered, does(rotation.Announce, rotation.Switch, rotation.Clear), queue, start, fetch, switchedNew, 11*time.Minute) // the turn of the old one
	f(false, timeout, rotation.Offered, nil, queue, start, fetch, switchedNew, 11*time.Minute, switchedOld, token)                                  // it has the old one
	f(false, timeout, rotation.Offered, does(rotation.Switch, rotation.GiveNew), queue, start, fetch, switchedNew, 11*time.Minute, switchedOld, token, fetch)
	f(false, pending, rotation.Proven, does(rotation.Destroy), queue, start, fetch, switchedNew, 11*time.Minute, switchedOld, 11*time.Minute, switchedNew, token)
}

// A notice that lies at a broker is taken back when the attempt is over, and
// not before, whatever happened to the program in between.
func TestNotice(t *testing.T) {
	var (
		queue, start, created, fetch = rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{IssuedAt: epoch}
		usedNew, destroyed, cleared  = rotation.Used{Secret: rotation.New}, rotation.Destroyed{}, rotation.Cleared{}
		late, person                 = 6 * time.Minute, rotation.Queue{Person: true}
	)
	f := func(dual, noticed bool, unfinished []rotation.Effect, events ...any) {
		t.Helper()
		p := policy(dual)
		s, _, _ := script(p, events...)
		if got := p.Unfinished(s); s.Noticed != noticed || !slices.Equal(got, unfinished) {
			t.Errorf("%T: noticed %v, unfinished %v; want %v, %v", events, s.Noticed, got, noticed, unfinished)
		}
	}
	does := func(e ...rotation.Effect) []rotation.Effect { return e }
	f(true, false, nil, queue)
	f(true, false, does(rotation.Create), queue, start)
	f(true, true, does(rotation.Tell), queue, start, created)
	f(false, true, does(rotation.Tell), queue, start)
	f(true, true, does(rotation.Tell), queue, start, created, cleared) // nobody asked for that
	f(true, true, does(rotation.Destroy), queue, start, created, fetch, usedNew)
	f(true, true, does(rotation.Clear), queue, start, created, fetch, usedNew, destroyed)
	f(true, false, nil, queue, start, created, fetch, usedNew, destroyed, cleared)
	f(true, true, does(rotation.Clear), queue, start, created, late)
	f(true, false, nil, queue, start, created, late, cleared)
	f(true, false, nil, queue, start, late) // nobody was told
	f(true, true, does(rotation.Clear), queue, start, created, rotation.Abort{})
	f(true, true, does(rotation.Clear), queue, start, created, fetch, rotation.Token{})
	f(true, true, does(rotation.Destroy, rotation.Clear), queue, start, created, fetch, rotation.Token{}, usedNew)
	f(false, true, does(rotation.Switch, rotation.Clear), queue, start, fetch, rotation.Switched{To: rotation.New}, 11*time.Minute)
	// The next attempt begins before the notice of this one was taken back.
	f(true, true, does(rotation.Clear), queue, start, created, late, person)
	f(true, true, does(rotation.Tell), queue, start, created, late, person, start)
	f(true, true, does(rotation.Tell), queue, start, created, late, person, start, cleared)
}

func TestRetry(t *testing.T) {
	p := policy(true)
	var s rotation.State
	now := epoch
	do := func(e rotation.Event) { s, _ = p.Step(s, e, now) }
	f := func(want time.Duration) {
		t.Helper()
		do(rotation.Queue{})
		do(rotation.Start{})
		if s.Wire != fleet.RotationPending {
			t.Fatalf("state %s", s.Wire)
		}
		if at := p.Wake(s); !at.Equal(now.Add(p.Timeout)) {
			t.Errorf("wakes at %v", at)
		}
		now = now.Add(p.Timeout - 1)
		if do(rotation.Tick{}); s.Wire != fleet.RotationPending {
			t.Error("timed out too early")
		}
		now = now.Add(1)
		if do(rotation.Tick{}); s.Wire != fleet.RotationTimeout {
			t.Error("not timed out")
		}
		if want == 0 {
			if !s.RetryAt.IsZero() {
				t.Error("tried again without a person")
			}
			return
		}
		now = now.Add(want - 1)
		if do(rotation.Queue{}); s.Wire != fleet.RotationTimeout {
			t.Errorf("tried again within %v", want)
		}
		now = now.Add(1)
	}
	f(time.Minute)
	f(2 * time.Minute)
	f(4 * time.Minute)
	f(0)
	now = now.Add(1000 * time.Hour)
	if do(rotation.Queue{}); s.Wire != fleet.RotationTimeout {
		t.Error("tried again without a person")
	}
	if do(rotation.Queue{Person: true}); s.Wire != fleet.RotationQueued {
		t.Error("a person is refused")
	}
}

// Whoever waits for another turn is in the same attempt, with its whole time.
func TestPostponed(t *testing.T) {
	p := policy(true)
	s, _, now := script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Postpone{})
	if !s.Deadline.IsZero() || !p.Wake(s).IsZero() {
		t.Errorf("its time runs: %+v", s)
	}
	started := s.StartedAt
	now = now.Add(time.Hour)
	if s, _ = p.Step(s, rotation.Start{}, now); s.Attempt != 1 || !s.StartedAt.Equal(started) || !s.Deadline.Equal(now.Add(p.Timeout)) || s.Postponed {
		t.Errorf("%+v", s)
	}
	// An attempt after that is another one.
	s, _, _ = script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Postpone{}, rotation.Abort{}, rotation.Queue{}, rotation.Start{})
	if s.Attempt != 2 || !s.StartedAt.After(started) {
		t.Errorf("%+v", s)
	}
	// Who asked is not told any more, in this attempt.
	s, _, _ = script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{})
	if e := p.Unfinished(s); !slices.Equal(e, []rotation.Effect{rotation.Tell}) {
		t.Errorf("to do: %v", e)
	}
	s, _, now = script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{})
	if e := p.Unfinished(s); len(e) > 0 {
		t.Errorf("to do: %v", e)
	}
	for _, e := range []rotation.Event{rotation.Abort{}, rotation.Queue{Person: true}, rotation.Start{}} {
		s, _ = p.Step(s, e, now)
	}
	if e := p.Unfinished(s); !slices.Equal(e, []rotation.Effect{rotation.Tell}) {
		t.Errorf("to do: %v", e)
	}
}
