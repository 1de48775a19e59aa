package rotation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// world is a provider, a device, and a server that is killed now and then. It
// keeps what each would keep, and nothing that they could not know.
type world struct {
	t      *rapid.T
	policy rotation.Policy
	names  bool // tokens name the secret

	clock    time.Time     // of the server
	wrong    time.Duration // of that, how much it is wrong
	ahead    time.Duration // of the provider's clock
	accepts  []int         // secrets that the provider accepts, by number
	device   int           // the secret that the device keeps
	token    *token        // that the device has
	answers  []int         // on their way to the device; the last may arrive first, or never
	own, new int           // what the server keeps: the device's secret, and the new one, 0 for none
	secrets  int           // made so far
	state    rotation.State
	notice   bool   // lies at the broker
	doing    []deed // committed, and not done yet
}

// deed is an effect, with the secret of the commit if it gives one.
type deed struct {
	effect rotation.Effect
	secret int
}

type token struct {
	secret int
	issued time.Time
}

func (w *world) commit(e rotation.Event) {
	s, effects := w.policy.Step(w.state, e, w.clock)
	w.state = s
	for _, f := range effects {
		switch f { // in the commit itself
		case rotation.Generate:
			w.secrets++
			w.new = w.secrets
		case rotation.Promote:
			w.own, w.new = w.new, 0
		case rotation.GiveNew:
			w.doing = append(w.doing, deed{f, w.new})
		case rotation.GiveOld:
			w.doing = append(w.doing, deed{f, w.own})
		default:
			w.doing = append(w.doing, deed{f, 0})
		}
	}
}

// perform does the first thing that is to be done. told reports whether the server learns that
// it was done; if not, it may do it again.
func (w *world) perform(told bool) {
	f := w.doing[0]
	w.doing = w.doing[1:]
	if f.effect != rotation.GiveNew && f.effect != rotation.GiveOld && !rotation.Apt(f.effect, w.state) {
		return
	}
	var then rotation.Event
	switch f.effect {
	case rotation.Create:
		if !slices.Contains(w.accepts, w.new) {
			w.accepts = append(w.accepts, w.new)
			w.accepts = w.accepts[max(0, len(w.accepts)-2):]
		}
		then = rotation.Created{}
	case rotation.Switch:
		to := w.own
		if w.state.Live == rotation.New {
			to = w.new
		}
		w.accepts = []int{to}
		then = rotation.Switched{To: w.state.Live, At: w.clock.Add(w.ahead)}
	case rotation.Destroy:
		w.accepts = []int{w.new}
		then = rotation.Destroyed{At: w.clock.Add(w.ahead)}
	case rotation.Tell:
		w.notice = true
	case rotation.Clear:
		w.notice = false
		then = rotation.Cleared{}
	case rotation.GiveNew, rotation.GiveOld:
		if f.secret > 0 {
			w.answers = append(w.answers, f.secret)
		}
	}
	switch {
	case !told: // it was killed in between
		w.crash()
	case then != nil:
		w.commit(then)
	}
}

// finish does everything that is to be done.
func (w *world) finish() {
	for len(w.doing) > 0 {
		w.perform(true)
	}
}

func (w *world) crash() {
	w.doing = nil
	for _, f := range w.policy.Unfinished(w.state) {
		w.doing = append(w.doing, deed{f, 0})
	}
}

// authenticate gets the device a token, if its secret is accepted.
func (w *world) authenticate() bool {
	if !slices.Contains(w.accepts, w.device) {
		return false
	}
	w.token = &token{w.device, w.clock.Add(w.ahead)}
	return true
}

// show is the device that asks the server for its config.
func (w *world) show() {
	if w.token == nil {
		return
	}
	if !w.names {
		w.commit(rotation.Token{IssuedAt: w.token.issued})
		return
	}
	switch w.token.secret {
	case w.new:
		w.commit(rotation.Used{Secret: rotation.New})
	case w.own:
		w.commit(rotation.Used{Secret: rotation.Old})
	}
}

func (w *world) fetch() {
	if w.token != nil {
		w.commit(rotation.Fetch{IssuedAt: w.token.issued})
	}
}

// provision has a person put into the device what it ought to have. What was on its
// way to it does not arrive, and its token is gone.
func (w *world) provision() {
	w.device, w.token, w.answers = w.own, nil, nil
	if w.policy.Package(w.state) == rotation.New {
		w.device = w.new
	}
	for n, f := range w.doing { // nor is it answered
		if f.effect == rotation.GiveNew || f.effect == rotation.GiveOld {
			w.doing[n].secret = 0
		}
	}
}

func (w *world) pass(d time.Duration) {
	w.clock = w.clock.Add(d)
	w.commit(rotation.Tick{})
}

// jump sets the clock of the server.
func (w *world) jump(d time.Duration) {
	w.clock, w.wrong = w.clock.Add(d), w.wrong+d
	if !w.policy.OwnClock {
		w.ahead -= d
	}
	w.state = w.policy.Bounded(w.state, w.clock)
	if w.token != nil && w.token.issued.After(w.clock.Add(w.ahead+w.policy.Skew)) {
		w.token = nil // it is not good yet
	}
	w.commit(rotation.Tick{})
}

// recovers reports whether the device gets a token when everybody does what they
// ought to from now on.
func (w *world) recovers() bool {
	c := *w
	c.accepts, c.doing, c.answers = slices.Clone(w.accepts), slices.Clone(w.doing), nil
	for range 8 {
		c.finish()
		if c.authenticate() {
			return true
		}
		c.pass(w.policy.Turn)
	}
	return false
}

// notices reports whether the notice lies at the broker if there is something to
// be fetched and the device did not ask for it by itself, and not if there is
// nothing, when everything was done.
func (w *world) notices() bool {
	c := *w
	c.accepts, c.doing, c.answers = slices.Clone(w.accepts), slices.Clone(w.doing), nil
	c.finish()
	waits := c.state.Wire == fleet.RotationPending && c.state.Step == rotation.Offered
	return c.notice == waits || waits && c.state.Asked
}

// succeeds reports whether a person who asks for a rotation gets one, when
// everybody does what they ought to.
func (w *world) succeeds() bool {
	c := *w
	c.accepts, c.doing, c.answers = slices.Clone(w.accepts), slices.Clone(w.doing), nil
	if !c.policy.OwnClock { // tokens cannot be told by their time while ours is not theirs
		c.jump(-c.wrong)
	}
	c.finish()
	for range 20 {
		c.commit(rotation.Queue{Person: true})
		c.commit(rotation.Start{})
		c.finish()
		if !c.authenticate() {
			c.pass(w.policy.Turn)
			c.finish()
			continue
		}
		c.pass(time.Second)
		c.fetch()
		c.finish()
		if n := len(c.answers); n > 0 {
			c.device = c.answers[n-1]
		}
		c.pass(2 * time.Second)
		c.finish()
		if !c.authenticate() {
			continue
		}
		c.show()
		c.finish()
		if c.state.Wire == fleet.RotationOK && (c.state.Step == rotation.Idle && c.device == c.own || c.state.Believed && c.device == c.new) {
			return true
		}
		c.pass(w.policy.Turn)
	}
	return false
}

func (w *world) String() string {
	return fmt.Sprintf("state %+v, accepted %v, device has %d, server keeps %d and %d, to do %v", w.state, w.accepts, w.device, w.own, w.new, w.doing)
}

// Whatever happens in whatever order, with crashes, answers that are lost or
// late, a device that comes when it likes and clocks that jump: the device can
// authenticate, or can again by itself.
func TestNobodyIsLockedOut(t *testing.T) {
	f := func(name string, dual, names bool) {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := &world{
					t: t, names: names,
					policy: rotation.Policy{Dual: dual, OwnClock: dual && names, Timeout: 5 * time.Minute, Turn: 10 * time.Minute, Skew: 30 * time.Second, RetryAfter: time.Minute, RetryMax: time.Hour, Tries: 3},
					clock:  time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ahead: time.Duration(rapid.IntRange(-20, 20).Draw(t, "ahead")) * time.Second,
					accepts: []int{1}, device: 1, own: 1, secrets: 1,
				}
				t.Repeat(map[string]func(*rapid.T){
					"queue": func(t *rapid.T) { w.commit(rotation.Queue{Person: rapid.Bool().Draw(t, "person")}) },
					"start": func(*rapid.T) { w.commit(rotation.Start{}) },
					"abort": func(*rapid.T) { w.commit(rotation.Abort{}) },
					"hold":  func(*rapid.T) { w.commit(rotation.Hold{}) },
					"reset": func(t *rapid.T) {
						if rapid.IntRange(0, 3).Draw(t, "rare") == 0 {
							w.commit(rotation.Reset{})
							w.provision()
						}
					},
					"provision": func(*rapid.T) { w.provision() },
					"pass":      func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(0, 1500).Draw(t, "seconds")) * time.Second) },
					"jump": func(t *rapid.T) {
						d := time.Duration(rapid.IntRange(-1200, 1200).Draw(t, "seconds")) * time.Second
						if rapid.Bool().Draw(t, "far") {
							d = time.Duration(rapid.IntRange(-400, 400).Draw(t, "days")) * 24 * time.Hour
						}
						w.jump(d)
					},
					"right":  func(*rapid.T) { w.jump(-w.wrong) },
					"finish": func(*rapid.T) { w.finish() },
					"perform": func(t *rapid.T) {
						if len(w.doing) > 0 {
							w.perform(rapid.Bool().Draw(t, "told"))
						}
					},
					"crash":        func(*rapid.T) { w.crash() },
					"authenticate": func(*rapid.T) { w.authenticate() },
					"show":         func(*rapid.T) { w.show() },
					"fetch":        func(*rapid.T) { w.fetch() },
					"postpone": func(*rapid.T) {
						if w.token != nil {
							w.commit(rotation.Postpone{IssuedAt: w.token.issued})
						}
					},
					"arrive": func(t *rapid.T) {
						if n := len(w.answers); n > 0 {
							i := rapid.IntRange(0, n-1).Draw(t, "answer")
							if w.answers[i] >= w.device { // a device keeps what is newer
								w.device = w.answers[i]
							}
							w.answers = slices.Delete(w.answers, i, i+1)
						}
					},
					"lose": func(*rapid.T) { w.answers = nil },
					"": func(t *rapid.T) {
						if w.state.Step == rotation.Idle && len(w.accepts) != 1 {
							t.Fatalf("another secret is good: %v", w)
						}
						if dual && names && !w.state.Resetting && !slices.Contains(w.accepts, w.device) {
							t.Fatalf("locked out: %v", w)
						}
						if !w.recovers() {
							t.Fatalf("locked out for good: %v", w)
						}
						if !w.notices() {
							t.Fatalf("the notice lies there: %v. %v", w.notice, w)
						}
						if !w.succeeds() {
							t.Fatalf("will never rotate: %v", w)
						}
					},
				})
			})
		})
	}
	f("built-in", true, true)
	f("two secrets", true, false)
	f("one secret", false, false)
	f("one secret, named", false, true)
}
