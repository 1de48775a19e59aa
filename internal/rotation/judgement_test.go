package rotation_test

import (
	"slices"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// Times that a state keeps.
func TestJudgeTimes(t *testing.T) {
	p := policy(true)
	s, _, now := script(p, rotation.Queue{}, rotation.Start{}, 2*time.Minute, rotation.Created{})
	if !s.Deadline.Equal(now.Add(p.Timeout)) {
		t.Errorf("the provider's time is the device's: %v", s.Deadline)
	}
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Hour) }
	s, _ = p.Step(s, rotation.Fetch{IssuedAt: at(2)}, at(1))
	s, _ = p.Step(s, rotation.Fetch{IssuedAt: at(3)}, at(4))
	s, _ = p.Step(s, rotation.Fetch{IssuedAt: at(1)}, at(5))
	if !s.FetchedAt.Equal(at(1)) || !s.FetchedBy.Equal(at(3)) {
		t.Errorf("first handed out at %v, last for a token of %v", s.FetchedAt, s.FetchedBy)
	}
}

// A token that asked for the secret, and one of long before, say nothing.
func TestJudgeTokens(t *testing.T) {
	p := policy(true)
	now := epoch.Add(time.Hour)
	s, _, _ := script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{})
	s, _ = p.Step(s, rotation.Fetch{IssuedAt: now.Add(-time.Minute)}, now)
	f := func(issued time.Time, want bool) {
		t.Helper()
		if after, _ := p.Step(s, rotation.Token{IssuedAt: issued}, now.Add(time.Minute)); after.Believed != want {
			t.Errorf("believed: %v for %v", after.Believed, issued.Sub(now))
		}
	}
	f(now.Add(-time.Minute), false)
	f(now.Add(-p.Skew), false)
	f(now.Add(-p.Skew+1), true)
	s, _ = p.Step(s, rotation.Fetch{IssuedAt: now.Add(10 * time.Second)}, now)
	f(now.Add(10*time.Second), false)
	f(now.Add(11*time.Second), true)

	// While it is switched, and in the second of it, a token is of either.
	p = policy(false)
	s, _, now = script(p, rotation.Queue{}, rotation.Start{}, rotation.Fetch{IssuedAt: epoch}, rotation.Switched{To: rotation.New})
	g := func(issued time.Time, want rotation.Step) {
		t.Helper()
		if after, _ := p.Step(s, rotation.Token{IssuedAt: issued}, now); after.Step != want {
			t.Errorf("step %d", after.Step)
		}
	}
	g(s.LiveSince, rotation.Offered)
	g(s.LiveSince.Add(1), rotation.Proven)
	s.Switching = true
	g(s.LiveSince.Add(1), rotation.Offered)
}

// Who uses the secret that it has prolongs its turn.
func TestJudgeTurns(t *testing.T) {
	p := policy(false)
	s, _, now := script(p, rotation.Queue{}, rotation.Start{}, rotation.Fetch{IssuedAt: epoch}, rotation.Switched{To: rotation.New}, 11*time.Minute, rotation.Switched{To: rotation.Old})
	if now = now.Add(time.Minute); s.Live != rotation.Old {
		t.Fatalf("%+v", s)
	}
	s, _ = p.Step(s, rotation.Used{Secret: rotation.Old}, now)
	if !s.SwitchAt.Equal(now.Add(p.Turn)) || s.Step != rotation.Offered {
		t.Errorf("%+v", s)
	}
	if wake := p.Wake(s); !wake.Equal(s.SwitchAt) {
		t.Errorf("wakes at %v", wake)
	}
}

// A reset gives no secret to who has a token of before, and what comes from it
// stays so over later rotations.
func TestJudgeReset(t *testing.T) {
	p := policy(true)
	s, effects := p.Step(rotation.State{Wire: fleet.RotationTimeout, Step: rotation.Offered, Attempt: 6, FetchedAt: epoch, Failures: 3}, rotation.Reset{}, epoch)
	if !slices.Equal(effects, does(rotation.Generate, rotation.Destroy, rotation.Announce)) || s.Attempt != 7 || s.Wire != fleet.RotationPending || p.Package(s) != rotation.New {
		t.Fatalf("%v, %+v", effects, s)
	}
	for name, e := range map[string]rotation.Event{
		"fetch": rotation.Fetch{IssuedAt: epoch.Add(time.Hour)}, "postpone": rotation.Postpone{IssuedAt: epoch.Add(time.Hour)},
	} {
		if after, effects := p.Step(s, e, epoch); after != s || !slices.Equal(effects, does(rotation.Refuse)) {
			t.Errorf("%s: %v, %+v", name, effects, after)
		}
	}
	for name, e := range map[string]rotation.Event{
		"abort": rotation.Abort{}, "hold": rotation.Hold{}, "queue": rotation.Queue{Person: true}, "start": rotation.Start{}, "tick": rotation.Tick{}, "used": rotation.Used{Secret: rotation.Old},
	} {
		if after, effects := p.Step(s, e, epoch.Add(time.Hour)); after != s || len(effects) > 0 {
			t.Errorf("%s: %v, %+v", name, effects, after)
		}
	}
	if e := p.Unfinished(s); !slices.Equal(e, does(rotation.Destroy)) {
		t.Errorf("to do: %v", e)
	}
	at := epoch.Add(time.Minute)
	s, _ = p.Step(s, rotation.Destroyed{At: at}, epoch)
	if s.Wire != fleet.RotationOK || s.Step != rotation.Idle || s.Resetting || s.Failures != 0 || !s.NotBefore.Equal(at) {
		t.Errorf("%+v", s)
	}
	f := func(issued time.Time, want rotation.Effect) {
		t.Helper()
		if _, effects := p.Step(s, rotation.Fetch{IssuedAt: issued}, at); !slices.Equal(effects, does(want)) {
			t.Errorf("%v", effects)
		}
	}
	f(at, rotation.Refuse)
	f(at.Add(1), rotation.GiveOld)
	for _, e := range []rotation.Event{rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{IssuedAt: at.Add(1)}, rotation.Used{Secret: rotation.New}, rotation.Destroyed{At: at.Add(time.Hour)}} {
		s, _ = p.Step(s, e, at)
	}
	if s.Step != rotation.Idle || !s.NotBefore.Equal(at) {
		t.Errorf("%+v", s)
	}
}

func TestJudgeHold(t *testing.T) {
	p := policy(true)
	s, _, now := script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{IssuedAt: epoch}, rotation.Hold{})
	if s.Wire != fleet.RotationQueued || !s.Postponed || !s.Deadline.IsZero() {
		t.Errorf("%+v", s)
	}
	if s, _ = p.Step(s, rotation.Start{}, now); s.Attempt != 1 || s.Wire != fleet.RotationPending {
		t.Errorf("%+v", s)
	}
	s, _, now = script(p, rotation.Queue{}, rotation.Start{}, rotation.Created{}, rotation.Fetch{IssuedAt: epoch}, rotation.Used{Secret: rotation.New})
	if after, _ := p.Step(s, rotation.Hold{}, now); after != s {
		t.Errorf("what is proven is finished: %+v", after)
	}
}

func TestJudgePackage(t *testing.T) {
	f := func(want rotation.Which, events ...any) {
		t.Helper()
		for _, dual := range []bool{true, false} {
			s, _, _ := script(policy(dual), events...)
			if got := policy(dual).Package(s); got != want {
				t.Errorf("%v: %d, want %d", events, got, want)
			}
		}
	}
	fetch := rotation.Fetch{IssuedAt: epoch}
	f(rotation.Old)
	f(rotation.Old, rotation.Queue{}, rotation.Start{}, rotation.Created{})
	f(rotation.New, rotation.Queue{}, rotation.Start{}, rotation.Created{}, fetch)
	f(rotation.New, rotation.Queue{}, rotation.Start{}, rotation.Created{}, fetch, rotation.Abort{})
	f(rotation.New, rotation.Queue{}, rotation.Start{}, rotation.Created{}, fetch, rotation.Used{Secret: rotation.New})
}

func does(e ...rotation.Effect) []rotation.Effect { return e }

// What was stopped in the middle is done again.
func TestJudgeUnfinished(t *testing.T) {
	f := func(dual bool, want []rotation.Effect, events ...any) {
		t.Helper()
		s, _, _ := script(policy(dual), events...)
		if e := policy(dual).Unfinished(s); !slices.Equal(e, want) {
			t.Errorf("%+v: to do %v, want %v", s, e, want)
		}
	}
	fetch := rotation.Fetch{IssuedAt: epoch}
	f(true, does(rotation.Create), rotation.Queue{}, rotation.Start{})
	f(true, nil, rotation.Queue{}, rotation.Start{}, rotation.Abort{})
	f(false, does(rotation.Tell), rotation.Queue{}, rotation.Start{})
	f(false, does(rotation.Switch), rotation.Queue{}, rotation.Start{}, fetch)
	f(false, nil, rotation.Queue{}, rotation.Start{}, fetch, rotation.Switched{To: rotation.New})
	f(true, does(rotation.Switch, rotation.Tell), rotation.Queue{}, rotation.Start{}, rotation.Created{}, fetch, rotation.Token{}, rotation.Queue{}, rotation.Start{})

	// A wait is never longer than the longest.
	p := policy(true)
	p.RetryAfter = 2 * p.RetryMax
	s, _, now := script(p, rotation.Queue{}, rotation.Start{}, p.Timeout)
	if !s.RetryAt.Equal(now.Add(p.RetryMax)) {
		t.Errorf("again in %v", s.RetryAt.Sub(now))
	}
}
