// Package rotation replaces the credential of each device without ever locking
// one out. This file is the whole of its judgement: it does no I/O and knows no clock.
package rotation

import (
	"slices"
	"time"

	"signalbox/internal/fleet"
)

// State is where the rotation of one device stands. It is what is stored; the
// zero State is that of a device that was never rotated.
//
// Two rules hold in every state, and keep a device from being locked out:
//
//   - A secret that the device may hold is not destroyed before the device has
//     used the other one. It may hold the new secret from the moment that it was
//     first handed out, whether or not that answer arrived.
//   - A new secret that was handed out stays the new secret until it is proven,
//     over as many attempts as it takes: who asks again gets the same one.
type State struct {
	Wire fleet.RotationState // "" is OK
	Step Step                // what is done of the new secret

	Attempt   int64     // counts the attempts of the device from 1; 0: there was none
	StartedAt time.Time // the attempt
	Deadline  time.Time // when the attempt times out; zero: it does not
	FetchedAt time.Time // when the new secret was first handed out; zero: nobody can have it
	FetchedBy time.Time // when the token was issued that it was last handed out for
	Asked     bool      // the device asked for its secret in this attempt, and so it knows
	Postponed bool      // the attempt is queued again, and goes on when it is its turn

	// Noticed says that a notice for the device may lie at a broker, where it stays
	// until it is taken back.
	Noticed bool

	// Believed says that the device seems to have the new secret, which stays
	// beside the old one. The next attempt makes sure first: then it is Settling.
	Believed, Settling bool

	// Of a provider that holds one secret at a time, and while settling.
	Live      Which     // the one that it holds, or is about to
	Switching bool      // it may still hold the other one
	LiveSince time.Time // when it had taken it, by its own clock
	SwitchAt  time.Time // when it is to hold the other one; zero: not at all

	// Resetting says that the new secret is to be the only one without anybody's
	// proof, as what the device had is lost or in the wrong hands. It is Proven then.
	Resetting bool
	NotBefore time.Time // of the last reset, by the provider's clock: tokens of before get no secret

	CompletedAt time.Time // when a rotation was last completed
	Failures    int       // attempts that timed out since then
	RetryAt     time.Time // when a device in TIMEOUT may be tried again; zero: when a person says so
}

// Step is how far the new secret has come.
type Step uint8

// The steps, in their order.
const (
	Idle     Step = iota // there is none
	Creating             // it is stored here, and may be at the provider
	Offered              // the device can have it for the asking
	Proven               // the device used it; the old one may be at the provider still
)

// Which is one of the two secrets.
type Which uint8

// The secrets.
const (
	Old Which = iota
	New
)

// Policy is what is the same for all devices.
type Policy struct {
	// Dual says that the provider accepts the old and the new secret at the same
	// time. One that does not is given the new one when the device asks for it.
	// From then on, until the device has used the new one, it is given the old and
	// the new one in turn, so that the time of either comes; whoever uses the one
	// that it has prolongs its turn.
	Dual bool

	OwnClock   bool          // the provider's clock is ours
	Timeout    time.Duration // of an attempt
	Turn       time.Duration // that a provider holds the same secret while nothing is proven
	Skew       time.Duration // between our clock and the provider's
	RetryAfter time.Duration // a first time-out; twice as long after each more
	RetryMax   time.Duration // the longest of that
	Tries      int           // attempts that may time out in a row; then a person must say so
}

// Event is something that happened to a device.
type Event interface{ event() }

// The events.
type (
	// Queue asks for a rotation. What a person asks for is not refused to a
	// device that timed out too often or a moment ago.
	Queue struct{ Person bool }
	// Start begins an attempt, if one is queued.
	Start struct{}
	// Created says that the provider accepts the new secret beside the old.
	Created struct{}
	// Fetch is a device that asks for its secret, with a token of that time.
	Fetch struct{ IssuedAt time.Time }
	// Postpone is a Fetch that comes when no device more may be given a new secret.
	// One that nobody has so far waits until it is its turn again.
	Postpone struct{ IssuedAt time.Time }
	// Hold has an attempt wait, as the device cannot take part: it was revoked.
	Hold struct{}
	// Reset replaces whatever secrets there are by a fresh one, at once. A device
	// that is not given that one by a person is locked out.
	Reset struct{}
	// Switched says that the provider accepts the secret that is Live, alone,
	// since At, by the provider's clock.
	Switched struct {
		To Which
		At time.Time
	}
	// Used says that the device authenticated with a secret that is certain: its
	// token names the secret, or the device computed an HMAC with it.
	Used struct{ Secret Which }
	// Token is a valid token that does not name the secret, of a device that asks
	// for anything but its secret.
	Token struct{ IssuedAt time.Time }
	// Destroyed says that the provider accepts the new secret alone, for good, since
	// At, by the provider's clock.
	Destroyed struct{ At time.Time }
	// Cleared says that no notice lies at a broker any more.
	Cleared struct{}
	// Tick says that time has passed.
	Tick struct{}
	// Abort ends the attempt. A new secret that nobody can have is not given out
	// any more, and serves the next attempt; one that somebody may have stays good.
	Abort struct{}
)

func (Queue) event()     {}
func (Start) event()     {}
func (Created) event()   {}
func (Fetch) event()     {}
func (Postpone) event()  {}
func (Hold) event()      {}
func (Reset) event()     {}
func (Switched) event()  {}
func (Used) event()      {}
func (Token) event()     {}
func (Destroyed) event() {}
func (Cleared) event()   {}
func (Tick) event()      {}
func (Abort) event()     {}

// Effect is something to be done once the state is committed, in the order in
// which effects are given.
type Effect uint8

// The effects. Generate and Promote are done in the commit itself. After a crash
// those of Unfinished are done again; that does no harm.
const (
	Generate Effect = iota + 1 // keep a fresh new secret beside the old one
	Promote                    // the new secret becomes the old one, and there is no new one any more
	Create                     // have the provider accept both: leads to Created
	Switch                     // have the provider accept the Live one: leads to Switched
	Destroy                    // have the provider accept the new one alone: leads to Destroyed
	Tell                       // tell the device that there is a secret to be fetched
	Clear                      // take the notice back: leads to Cleared
	GiveNew                    // answer the device with the new secret
	GiveOld                    // answer the device with the one that it has
	Refuse                     // answer the device that its token is too old
	Announce                   // tell the pages
)

// Step returns what an event at a time makes of a state, and what is to be done
// about it. An event that means nothing in the state changes nothing.
func (p Policy) Step(s State, e Event, now time.Time) (State, []Effect) {
	pending := s.Wire == fleet.RotationPending
	s, effects := p.step(s, e, now)
	switch {
	case slices.Contains(effects, Tell): // even if that fails, for all that is known of it here
		s.Noticed = true
	case pending && unread(s): // last, as nothing of weight is to wait for a broker
		effects = append(effects, Clear)
	}
	return s, effects
}

// unread reports whether a notice is to be taken back.
func unread(s State) bool { return s.Noticed && s.Wire != fleet.RotationPending }

func (p Policy) step(s State, e Event, now time.Time) (State, []Effect) {
	switch e := e.(type) {
	case Queue:
		return p.queue(s, e, now)
	case Start:
		return p.start(s, now)
	case Created:
		return p.created(s, now)
	case Fetch:
		return p.fetch(s, e, now)
	case Postpone:
		return p.postpone(s, e, now)
	case Hold:
		return p.hold(s)
	case Reset:
		return p.reset(s, now)
	case Switched:
		if s.Switching && e.To == s.Live {
			s.Switching, s.LiveSince = false, e.At
		}
		return s, nil
	case Used:
		return p.used(s, e.Secret, now)
	case Token:
		return p.token(s, e, now)
	case Destroyed:
		return p.destroyed(s, e, now)
	case Cleared:
		if unread(s) { // else another attempt began meanwhile, with a notice of its own
			s.Noticed = false
		}
		return s, nil
	case Tick:
		return p.tick(s, now)
	case Abort:
		return p.abort(s)
	}
	return s, nil
}

// Unfinished returns what must be done, perhaps again, to get on from a state in
// which the program was stopped.
func (p Policy) Unfinished(s State) []Effect {
	var effects []Effect
	switch {
	case s.Step == Creating && s.Wire == fleet.RotationPending:
		return []Effect{Create}
	case s.Step == Proven:
		effects = append(effects, Destroy)
	case s.Switching:
		effects = append(effects, Switch)
	}
	switch {
	case s.Step == Offered && s.Wire == fleet.RotationPending && !s.Asked: // whether it was told is not known
		effects = append(effects, Tell)
	case unread(s):
		effects = append(effects, Clear)
	}
	return effects
}

// Wake returns when the state needs a Tick; zero: never.
func (p Policy) Wake(s State) time.Time {
	at := s.Deadline
	if !s.SwitchAt.IsZero() && (at.IsZero() || s.SwitchAt.Before(at)) {
		at = s.SwitchAt
	}
	return at
}

// Bounded returns the state without what a clock has left in it that was ahead
// and was set back since: times that are further off than any is ever set. Nobody
// would come before them to do what is due, and a provider of one secret could
// keep the device out for as long.
func (p Policy) Bounded(s State, now time.Time) State {
	bound := func(at *time.Time, most time.Duration) {
		if latest := now.Add(most); at.After(latest) {
			*at = latest
		}
	}
	bound(&s.Deadline, p.Timeout)
	bound(&s.SwitchAt, p.Turn)
	bound(&s.RetryAt, p.RetryMax)
	bound(&s.FetchedAt, 0)
	// Of the provider's clock what follows is known only if that is ours: a token would
	// be taken for one that was got later than it was.
	if p.OwnClock {
		bound(&s.NotBefore, 0)
	}
	return s
}

func (p Policy) queue(s State, q Queue, now time.Time) (State, []Effect) {
	switch s.Wire {
	case fleet.RotationQueued, fleet.RotationPending:
		return s, nil
	case fleet.RotationTimeout:
		if !q.Person && (s.RetryAt.IsZero() || now.Before(s.RetryAt)) {
			return s, nil
		}
	}
	s.Wire = fleet.RotationQueued
	return s, []Effect{Announce}
}

func (p Policy) start(s State, now time.Time) (State, []Effect) {
	if s.Wire != fleet.RotationQueued {
		return s, nil
	}
	s.Wire = fleet.RotationPending
	if !s.Postponed { // or else it goes on
		s.Attempt++
		s.StartedAt = now
	}
	s.Deadline, s.RetryAt = now.Add(p.Timeout), time.Time{}
	s.Asked, s.Postponed = false, false
	var effects []Effect
	if s.Step == Idle {
		s.Step = Creating
		effects = append(effects, Generate)
	}
	switch {
	case s.Step == Creating && p.Dual:
		return s, append(effects, Create, Announce)
	case s.Believed:
		s.Believed, s.Settling = false, true
		s.Live, s.Switching, s.SwitchAt = New, true, now.Add(p.Turn)
		effects = append(effects, Switch)
	}
	s.Step = Offered
	return s, append(effects, Tell, Announce)
}

// single reports whether the provider is to hold one secret.
func (p Policy) single(s State) bool { return !p.Dual || s.Settling }

func (p Policy) created(s State, now time.Time) (State, []Effect) {
	if s.Step != Creating {
		return s, nil
	}
	s.Step = Offered
	if s.Wire != fleet.RotationPending {
		return s, nil
	}
	s.Deadline = now.Add(p.Timeout) // the device has its whole time, however long the provider took
	return s, []Effect{Tell}
}

func (p Policy) fetch(s State, f Fetch, now time.Time) (State, []Effect) {
	switch {
	case s.Resetting, !s.NotBefore.IsZero() && !f.IssuedAt.After(s.NotBefore): // who knows who that is
		return s, []Effect{Refuse}
	case s.Step == Proven: // it is just this one
		return s, []Effect{GiveNew}
	case s.Step != Offered, s.FetchedAt.IsZero() && s.Wire != fleet.RotationPending: // there is none, or nobody is to have it
		return s, []Effect{GiveOld}
	}
	if s.FetchedAt.IsZero() {
		s.FetchedAt = now
	}
	if f.IssuedAt.After(s.FetchedBy) {
		s.FetchedBy = f.IssuedAt
	}
	s.Asked = s.Asked || s.Wire == fleet.RotationPending
	if !p.single(s) {
		return s, []Effect{GiveNew}
	}
	s.SwitchAt = now.Add(p.Turn)
	if s.Live == New && !s.Switching {
		return s, []Effect{GiveNew}
	}
	s.Live, s.Switching = New, true
	return s, []Effect{Switch, GiveNew}
}

func (p Policy) postpone(s State, f Postpone, now time.Time) (State, []Effect) {
	if s.Step != Offered || s.Wire != fleet.RotationPending || !s.FetchedAt.IsZero() {
		return p.fetch(s, Fetch(f), now)
	}
	s.Wire, s.Postponed, s.Deadline = fleet.RotationQueued, true, time.Time{}
	return s, []Effect{GiveOld, Announce}
}

func (p Policy) hold(s State) (State, []Effect) {
	if s.Wire != fleet.RotationPending || s.Step == Proven {
		return s, nil
	}
	s.Wire, s.Postponed, s.Deadline = fleet.RotationQueued, true, time.Time{}
	return s, []Effect{Announce}
}

func (p Policy) reset(s State, now time.Time) (State, []Effect) {
	return State{
		Wire: fleet.RotationPending, Step: Proven, Attempt: s.Attempt + 1, StartedAt: now, Resetting: true, Live: New,
		NotBefore: s.NotBefore, CompletedAt: s.CompletedAt, Noticed: s.Noticed,
	}, []Effect{Generate, Destroy, Announce}
}

// Package returns which secret to put into a device by hand: one that is good, or
// will be within a Turn, and that no other device of the same name can have
// destroyed by using its own. It is what Fetch would give, but nobody is taken to
// have got it, as a package that is made need not arrive.
//
//   - Nothing was handed out: the new secret, if there is one, may be withdrawn by an
//     Abort, and using it would prove nothing. The old one is good until the device
//     itself has fetched and used another.
//   - The new one was handed out: the device may have it, and once it uses it the old
//     one is destroyed. The new one is not, as it is never given up from then on. A
//     provider with two secrets accepts it. One with a single secret does when it is
//     its turn; it is not switched for this, as a device that has the old secret
//     still would be kept out each time that somebody looks.
//   - It is proven, or a reset is under way: there is no other.
func (p Policy) Package(s State) Which {
	if s.Step == Proven || s.Step == Offered && !s.FetchedAt.IsZero() {
		return New
	}
	return Old
}

// token judges by the time of a token which secret obtained it.
func (p Policy) token(s State, t Token, now time.Time) (State, []Effect) {
	switch {
	case s.Step != Offered, s.FetchedAt.IsZero():
		return s, nil
	case p.single(s):
		// The provider's clock against itself: in this turn it knew one secret only.
		if s.Switching || !t.IssuedAt.After(s.LiveSince) {
			return s, nil
		}
		return p.used(s, s.Live, now)
	case t.IssuedAt.After(s.FetchedBy) && t.IssuedAt.After(s.FetchedAt.Add(-p.Skew)):
		// It came for its secret, and then for a token. That is no proof, and so
		// nothing is destroyed.
		if s.Believed {
			return s, nil
		}
		s.Believed, s.Wire, s.CompletedAt, s.Failures = true, fleet.RotationOK, now, 0
		s.Deadline, s.RetryAt = time.Time{}, time.Time{}
		return s, []Effect{Announce}
	}
	return s, nil
}

func (p Policy) used(s State, which Which, now time.Time) (State, []Effect) {
	if s.Step != Offered || s.FetchedAt.IsZero() {
		return s, nil // nobody has the new secret: there is nothing to be learnt
	}
	if which == Old {
		if p.single(s) && s.Live == Old {
			s.SwitchAt = now.Add(p.Turn)
		}
		return s, nil
	}
	s.Step = Proven
	if !s.Believed {
		s.Wire = fleet.RotationPending
	}
	s.Deadline, s.RetryAt, s.SwitchAt = time.Time{}, time.Time{}, time.Time{}
	s.Live, s.Switching = New, false // as Destroy will have it
	return s, []Effect{Destroy}
}

func (p Policy) destroyed(s State, e Destroyed, now time.Time) (State, []Effect) {
	if s.Step != Proven {
		return s, nil
	}
	done := State{Wire: fleet.RotationOK, Attempt: s.Attempt, StartedAt: s.StartedAt, CompletedAt: now, NotBefore: s.NotBefore, Noticed: s.Noticed}
	switch {
	case s.Resetting:
		done.NotBefore = e.At
	case s.Believed: // and that was announced
		done.Wire, done.CompletedAt = s.Wire, s.CompletedAt
		return done, []Effect{Promote}
	case s.Settling: // now the device gets the secret that the attempt was for
		done.Wire, done.Step, done.CompletedAt = fleet.RotationPending, Creating, s.CompletedAt
		done.Deadline = now.Add(p.Timeout)
		return done, []Effect{Promote, Generate, Create}
	}
	return done, []Effect{Promote, Announce}
}

func (p Policy) tick(s State, now time.Time) (State, []Effect) {
	var effects []Effect
	if due(s.Deadline, now) {
		s.Deadline = time.Time{}
		s.Wire = fleet.RotationTimeout
		s.Failures++
		if s.Failures < p.Tries {
			s.RetryAt = now.Add(p.retry(s.Failures))
		}
		effects = append(effects, Announce)
	}
	if due(s.SwitchAt, now) {
		s.SwitchAt = now.Add(p.Turn)
		s.Live, s.Switching = 1-s.Live, true
		effects = append(effects, Switch)
	}
	return s, effects
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// retry returns how long to wait after so many failures, the first being 1.
func (p Policy) retry(failures int) time.Duration {
	wait := p.RetryAfter
	for range failures - 1 {
		if wait >= p.RetryMax/2 {
			return p.RetryMax
		}
		wait *= 2
	}
	return min(wait, p.RetryMax)
}

func (p Policy) abort(s State) (State, []Effect) {
	if s.Wire != fleet.RotationPending && s.Wire != fleet.RotationQueued || s.Step == Proven {
		return s, nil
	}
	s.Wire, s.Deadline, s.RetryAt, s.Postponed = fleet.RotationOK, time.Time{}, time.Time{}, false
	if s.Failures > 0 || !s.FetchedAt.IsZero() {
		s.Wire = fleet.RotationTimeout
	}
	return s, []Effect{Announce}
}
