package rotation_test

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// bubble runs f with a server and devices, at both providers.
func bubble(t *testing.T, n int, change func(*rotation.Options), f func(*testing.T, *rig, []*sim)) {
	for name, with := range map[string]func(*rig) provider{"built-in": builtIn, "keycloak": realm} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, with)
				if change != nil {
					r.change = change
				}
				all := r.devices(n)
				r.begin(-1, false)
				defer func() { r.stop() }()
				f(t, r, all)
			})
		})
	}
}

func (d *sim) queue() bool {
	d.r.t.Helper()
	queued, err := d.r.runner.Queue(context.Background(), d.id, true, false, rotation.Ask{Actor: "anna", Reason: "a test"})
	if err != nil {
		d.r.t.Fatal(err)
	}
	return queued
}

func (d *sim) is(wire fleet.RotationState, step rotation.Step) {
	d.r.t.Helper()
	rec := d.record()
	if rec.State.Wire != wire || rec.State.Step != step {
		d.r.t.Errorf("%+v, want %s, step %d", rec.State, wire, step)
	}
}

// until lets the devices live until f is so.
func until(t *testing.T, all []*sim, f func() bool) {
	t.Helper()
	for range 3600 {
		for _, d := range all {
			d.live()
		}
		if f() {
			return
		}
		time.Sleep(time.Second)
	}
	t.Fatal("it never came")
}

// Nobody runs a job: a time-out is noticed within a second of being due, and a
// retry begins by itself, until there were too many.
func TestTimers(t *testing.T) {
	t.Parallel()
	change := func(o *rotation.Options) {
		o.Policy.Timeout, o.Policy.RetryAfter = 20*time.Second, 10*time.Second
		o.Poll = 0 // as it is by default
	}
	bubble(t, 1, change, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		d.queue()
		f := func(after time.Duration, wire fleet.RotationState) {
			t.Helper()
			time.Sleep(after - time.Second)
			before := d.record().State.Wire
			time.Sleep(2 * time.Second)
			if now := d.record().State.Wire; before == wire || now != wire {
				t.Errorf("a second before %s, a second after %s, want %s", before, now, wire)
			}
		}
		time.Sleep(time.Second)
		d.is(fleet.RotationPending, rotation.Offered)
		f(19*time.Second, fleet.RotationTimeout)
		f(9*time.Second, fleet.RotationPending)
		f(19*time.Second, fleet.RotationTimeout)
		f(19*time.Second, fleet.RotationPending)
		f(19*time.Second, fleet.RotationTimeout)
		time.Sleep(time.Minute)
		d.is(fleet.RotationTimeout, rotation.Offered) // a person must say so
		if rec := d.record(); rec.State.Attempt != 3 {
			t.Errorf("%d attempts", rec.State.Attempt)
		}
		if !d.login() {
			t.Error("locked out")
		}
		if !d.queue() {
			t.Error("a person is refused")
		}
		until(t, all, func() bool { return d.record().State.Step == rotation.Idle })
		d.is(fleet.RotationOK, rotation.Idle)
		if !d.login() {
			t.Error("locked out")
		}
		list, err := r.db.RotationAttempts(t.Context(), d.id, 9)
		if err != nil {
			t.Fatal(err)
		}
		var outcomes []rotation.Outcome
		for _, a := range list {
			outcomes = append(outcomes, a.Outcome)
		}
		if !slices.Equal(outcomes, []rotation.Outcome{rotation.Done, rotation.TimedOut, rotation.TimedOut, rotation.TimedOut}) {
			t.Errorf("outcomes %v", outcomes)
		}
		time.Sleep(20 * time.Second)
		f2 := func(name, label string, want float64) {
			t.Helper()
			if got := metric(t, r, name, label); got != want {
				t.Errorf("%s of %s is %v, want %v", name, label, got, want)
			}
		}
		f2("iot_rotation_attempts_total", "aborted", 0)
		f2("iot_rotation_attempts_total", "believed", 0)
		f2("iot_rotation_attempts_total", "done", 1)
		f2("iot_rotation_attempts_total", "timeout", 3)
		f2("iot_rotation_devices", "OK", 1)
		f2("iot_rotation_devices", "PENDING", 0)
		f2("iot_rotation_devices", "QUEUED", 0)
		f2("iot_rotation_devices", "TIMEOUT", 0)
		f2("iot_rotation_proof_seconds", "", 1)
	})
}

// metric returns the value of a metric with a label of that value, -1 if there is
// none; of a histogram how much was observed.
func metric(t *testing.T, r *rig, name, label string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			switch {
			case m.GetHistogram() != nil:
				return float64(m.GetHistogram().GetSampleCount())
			case len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label:
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// One after the other, the oldest secret first, unless somebody is in a hurry.
func TestChain(t *testing.T) {
	t.Parallel()
	bubble(t, 6, nil, func(t *testing.T, r *rig, all []*sim) {
		r.stop() // none begins before all are queued
		for _, d := range slices.Backward(all[:5]) {
			d.queue()
		}
		if _, err := r.runner.Queue(t.Context(), all[5].id, true, true, rotation.Ask{}); err != nil {
			t.Fatal(err)
		}
		r.begin(-1, false)
		// The others are silent: who is being talked to is passed over.
		until(t, nil, func() bool {
			var now []*sim
			for _, d := range all {
				if d.record().State.Wire == fleet.RotationPending {
					now = append(now, d)
				}
			}
			if len(now) > 1 {
				t.Fatalf("%d in flight", len(now))
			}
			for _, d := range now {
				d.live()
			}
			return !slices.ContainsFunc(all, func(d *sim) bool { return d.record().State.CompletedAt.IsZero() })
		})
		order := slices.SortedFunc(slices.Values(all), func(a, b *sim) int {
			return a.record().State.StartedAt.Compare(b.record().State.StartedAt)
		})
		if want := []*sim{all[5], all[0], all[1], all[2], all[3], all[4]}; !slices.Equal(order, want) {
			t.Errorf("in another order: %v", slices.Collect(func(yield func(int64) bool) {
				for _, d := range order {
					yield(d.id)
				}
			}))
		}
	})
}

// An answer that is lost is given again, and it is the same one.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, _ *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(2 * time.Second)
		d.login()
		if err := d.fetch(false); err != nil {
			t.Fatal(err)
		}
		first := d.record().New
		if err := d.fetch(false); err != nil {
			t.Fatal(err)
		}
		if rec := d.record(); rec.New != first {
			t.Error("another secret")
		}
		for n := 0; !d.login(); n++ { // until it is its turn
			if n > 600 {
				t.Fatal("locked out")
			}
			time.Sleep(time.Second)
		}
		if err := d.fetch(true); err != nil {
			t.Fatal(err)
		}
		if err := d.show(); err != nil { // with the token of before
			t.Fatal(err)
		}
		d.is(fleet.RotationPending, rotation.Offered)
		time.Sleep(2 * time.Second)
		if !d.login() || d.show() != nil {
			t.Error("the new secret is of no use")
		}
		time.Sleep(time.Second)
		d.is(fleet.RotationOK, rotation.Idle)
	})
}

// A device that never asked has not rotated, whatever it shows (D36), and one
// that asks while nothing is going on gets what it has (D39).
func TestNeverAsked(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, _ *rig, all []*sim) {
		d := all[0]
		first := d.secret
		d.login()
		if err := d.fetch(true); err != nil || d.secret != first || d.record().Version != 0 {
			t.Errorf("another secret, %v, %+v", err, d.record())
		}
		d.queue()
		for range 10 {
			time.Sleep(2 * time.Second)
			d.login()
			if err := d.show(); err != nil {
				t.Fatal(err)
			}
		}
		d.is(fleet.RotationPending, rotation.Offered)
	})
}

func TestProof(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		prove := func(text string) error {
			h := hmac.New(sha256.New, []byte(text))
			h.Write([]byte("nonce"))
			return r.runner.Prove(t.Context(), d.id, []byte("nonce"), h.Sum(nil))
		}
		old := d.secret
		d.queue()
		time.Sleep(2 * time.Second)
		d.login()
		if err := d.fetch(true); err != nil || d.secret == old {
			t.Fatal(err)
		}
		if err := prove(old + "x"); err == nil || fleet.KindOf(err) != fleet.Forbidden {
			t.Error(err)
		}
		if err := prove(old); err != nil {
			t.Error(err)
		}
		d.is(fleet.RotationPending, rotation.Offered)
		if err := prove(d.secret); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		d.is(fleet.RotationOK, rotation.Idle)
		if _, ok := r.provider.token(d.client, old); ok || !d.login() {
			t.Error("not the new one alone")
		}
	})
}

// What cannot be done is done again, later and later; then a person sees it, and
// the others go on meanwhile.
func TestStuck(t *testing.T) {
	t.Parallel()
	bubble(t, 2, func(o *rotation.Options) { o.Tries = 3 }, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		r.mu.Lock()
		r.broke = fleet.E(fleet.Unavailable, errors.New("inside"), "The broker cannot be reached")
		r.mu.Unlock()
		d.queue()
		time.Sleep(500 * time.Millisecond)
		rec := d.record()
		if rec.Tries != 1 || rec.Trouble != "The broker cannot be reached" || rec.Stuck || rec.Holder != "" {
			t.Errorf("%+v", rec)
		}
		time.Sleep(time.Minute)
		if rec = d.record(); !rec.Stuck || rec.Tries > 8 {
			t.Errorf("%+v", rec)
		}
		all[1].queue()
		time.Sleep(time.Second)
		all[1].is(fleet.RotationPending, rotation.Offered)
		list, err := r.db.RotationAttempts(t.Context(), d.id, 9)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, e := range list[0].Steps {
			said = append(said, strings.TrimSpace(e.What+" "+e.Detail))
		}
		if n := slices.IndexFunc(said, func(s string) bool { return s == "stuck tell: The broker cannot be reached" }); n < 0 || !slices.Contains(said, "failed tell: The broker cannot be reached") {
			t.Errorf("history: %q", said)
		}
		r.mu.Lock()
		stuck := slices.ContainsFunc(r.news, func(n rotation.News) bool { return n.Device == d.id && n.Stuck })
		r.broke = nil
		r.mu.Unlock()
		if !stuck {
			t.Error("nobody was told")
		}
		if err := r.runner.Retry(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		if rec = d.record(); rec.Stuck || rec.Tries != 0 || !rec.TodoAt.IsZero() || r.toldOf(d.id) != 1 {
			t.Errorf("%+v, told %d times", rec, r.toldOf(d.id))
		}
		if err := r.runner.Remind(t.Context(), d.id); err != nil || r.toldOf(d.id) != 2 { // it came back to the broker
			t.Errorf("%v, told %d times", err, r.toldOf(d.id))
		}
	})
}

// A broker that is away gets the notice taken back when it returns. Nobody has to
// look at that, and nothing waits for it.
func TestClear(t *testing.T) {
	lengthy(t)
	bubble(t, 2, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(time.Second)
		d.is(fleet.RotationPending, rotation.Offered)
		breaks := func(err error) { r.mu.Lock(); defer r.mu.Unlock(); r.broke = err }
		lies := func() int64 { r.mu.Lock(); defer r.mu.Unlock(); return r.lies[d.id] }
		if lies() != 1 {
			t.Fatal("there is no notice")
		}
		breaks(fleet.E(fleet.Unavailable, nil, "The broker cannot be reached"))
		if err := r.runner.Abort(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		d.is(fleet.RotationOK, rotation.Offered)
		time.Sleep(time.Hour)
		if rec := d.record(); rec.Stuck || rec.TodoAt.IsZero() || rec.Trouble == "" || lies() != 1 {
			t.Errorf("%+v", rec)
		}
		d.queue()
		time.Sleep(time.Second)
		if rec := d.record(); rec.State.Wire != fleet.RotationPending || rec.State.Attempt != 2 {
			t.Errorf("%+v", rec)
		}
		if err := r.runner.Abort(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		breaks(nil)
		time.Sleep(11 * time.Minute)
		if rec := d.record(); !rec.TodoAt.IsZero() || rec.State.Noticed || lies() != 0 {
			t.Errorf("%+v, notice of %d", rec, lies())
		}
	})
}

func TestAbort(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		first := d.secret
		d.queue()
		time.Sleep(2 * time.Second)
		if err := r.runner.Abort(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		d.is(fleet.RotationOK, rotation.Offered)
		d.login()
		if err := d.fetch(true); err != nil || d.secret != first {
			t.Errorf("it got another secret: %v", err)
		}
		d.queue()
		until(t, all, func() bool { return d.record().State.Step == rotation.Idle })
		if !d.login() || d.secret == first {
			t.Error("not rotated")
		}
	})
}

// Of two processes one runs the timers; requests come to both. When one ends, the
// other takes over.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	bubble(t, 4, func(o *rotation.Options) { o.Sole = false }, func(t *testing.T, r *rig, all []*sim) {
		first, stop := r.runner, r.stop
		r.begin(-1, false)
		second, stopSecond := r.runner, r.stop
		for _, d := range all {
			d.queue()
		}
		n := 0
		until(t, all, func() bool {
			if n++; n%2 == 0 {
				r.runner = first
			} else {
				r.runner = second
			}
			pending := 0
			for _, d := range all {
				if d.record().State.Wire == fleet.RotationPending {
					pending++
				}
			}
			if pending > 1 {
				t.Fatalf("%d in flight", pending)
			}
			if !all[0].record().State.CompletedAt.IsZero() && stop != nil {
				stop()
				stop = nil
				first = second
			}
			return !slices.ContainsFunc(all, func(d *sim) bool { return d.record().State.CompletedAt.IsZero() })
		})
		r.stop = stopSecond
		for _, d := range all {
			if !d.login() || d.record().State.Attempt != 1 {
				t.Errorf("%+v", d.record())
			}
		}
	})
}

// A process that died holds a device no longer than it could have been at it.
func TestHeldByTheDead(t *testing.T) {
	t.Parallel()
	bubble(t, 1, func(o *rotation.Options) { o.Sole = false }, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		r.stop()
		r.begin(3, false) // queued, started, and something; the next is never committed
		d.queue()
		time.Sleep(time.Second)
		if !r.kill.killed() || d.record().Holder == "" {
			t.Fatalf("not killed in the middle: %+v", d.record())
		}
		r.stop()
		r.begin(-1, false)
		if err := r.runner.Abort(t.Context(), d.id); err == nil || fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("it is another's: %v", err)
		}
		time.Sleep(time.Minute)
		d.is(fleet.RotationPending, rotation.Offered)
		if d.record().Holder != "" {
			t.Error("it is held still")
		}
		until(t, all, func() bool { return d.record().State.Step == rotation.Idle })
	})
}

// Many requests for one device at once are one after the other.
func TestTogether(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(2 * time.Second)
		d.login()
		claims, err := r.provider.verify(d.token)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]string, 8)
		var wg sync.WaitGroup
		for n := range got {
			wg.Go(func() {
				var err error
				if got[n], err = r.runner.Fetch(t.Context(), d.id, claims); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if slices.Sort(got); cmp.Compare(got[0], got[7]) != 0 || got[0] == d.secret || got[0] == "" {
			t.Error("several secrets, or the old one")
		}
	})
}

func TestMissingDevice(t *testing.T) {
	t.Parallel()
	bubble(t, 0, nil, func(t *testing.T, r *rig, _ []*sim) {
		_, err := r.runner.Queue(t.Context(), 7, true, false, rotation.Ask{})
		if err == nil || fleet.KindOf(err) != fleet.NotFound {
			t.Error(err)
		}
	})
}

// Who is silent has a slot for a while only, and the others go on. Never more have
// a secret to prove than there are slots, not even when the silent ones come.
func TestSilent(t *testing.T) {
	lengthy(t)
	t.Parallel()
	bubble(t, 10, func(o *rotation.Options) { o.SilentAfter = 20 * time.Second }, func(t *testing.T, r *rig, all []*sim) {
		silent := func(n int) bool { return n%2 == 0 }
		r.stop() // none begins before all are queued
		for _, d := range all {
			d.queue()
		}
		r.begin(-1, false)
		start := time.Now()
		check := func() {
			t.Helper()
			unproven := 0
			for _, d := range all {
				if s := d.record().State; s.Wire == fleet.RotationPending && s.Step == rotation.Offered && !s.FetchedAt.IsZero() {
					unproven++
				}
			}
			if n, err := r.db.RotationsInFlight(t.Context(), time.Now()); err != nil || n > 1 || unproven > 1 {
				t.Errorf("%d in flight, %d have a secret to prove, %v", n, unproven, err)
			}
		}
		until(t, nil, func() bool {
			done := true
			for n, d := range all {
				if !silent(n) {
					d.live()
					done = done && !d.record().State.CompletedAt.IsZero()
				}
				check()
			}
			return done
		})
		if took := time.Since(start); took > 6*20*time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(20 * time.Second) // the last of them is told as well
		for n, d := range all {
			if silent(n) {
				d.is(fleet.RotationPending, rotation.Offered)
			}
		}

		// Now all of them come at once: one has its secret, and the rest wait.
		var one *sim
		for n, d := range all {
			if !silent(n) {
				continue
			}
			before := d.secret
			if !d.login() {
				t.Fatal("locked out")
			}
			if err := d.fetch(true); err != nil {
				t.Fatal(err)
			}
			check()
			switch {
			case one == nil:
				if one = d; d.secret == before {
					t.Error("the first has no new secret")
				}
			case d.secret != before:
				t.Error("another one has a new secret")
			default:
				d.is(fleet.RotationQueued, rotation.Offered)
			}
		}
		until(t, nil, func() bool {
			done := true
			for n, d := range all {
				if silent(n) && d.record().State.Wire != fleet.RotationQueued {
					d.live()
				}
				done = done && d.record().State.Step == rotation.Idle
				check()
			}
			return done
		})
		for _, d := range all {
			list, err := r.db.RotationAttempts(t.Context(), d.id, 9)
			if err != nil || len(list) != 1 || list[0].Outcome != rotation.Done || !d.login() {
				t.Errorf("%+v, %v", list, err)
			}
		}
	})
}

// One that was postponed can be taken out of the queue, and its attempt is over.
func TestAbortPostponed(t *testing.T) {
	t.Parallel()
	bubble(t, 2, func(o *rotation.Options) { o.SilentAfter = time.Second }, func(t *testing.T, r *rig, all []*sim) {
		a, b := all[0], all[1]
		a.queue()
		time.Sleep(3 * time.Second)
		b.queue()
		time.Sleep(500 * time.Millisecond)
		if b.login(); b.fetch(true) != nil {
			t.Fatal("not answered")
		}
		first := a.secret
		if a.login(); a.fetch(true) != nil || a.secret != first {
			t.Error("it got another one")
		}
		a.is(fleet.RotationQueued, rotation.Offered)
		if err := r.runner.Abort(t.Context(), a.id); err != nil {
			t.Fatal(err)
		}
		a.is(fleet.RotationOK, rotation.Offered)
		list, err := r.db.RotationAttempts(t.Context(), a.id, 9)
		if err != nil || len(list) != 1 || list[0].Outcome != rotation.Aborted || list[0].EndedAt.IsZero() {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Devices that another system left in the middle of a rotation keep the secret
// that they have: one that was queued is rotated, and of one that was pending a
// person decides.
func TestAdopted(t *testing.T) {
	t.Parallel()
	bubble(t, 2, nil, func(t *testing.T, r *rig, all []*sim) {
		r.stop()
		for n, state := range []fleet.RotationState{fleet.RotationQueued, fleet.RotationPending} {
			if err := r.db.Tx(t.Context(), func(q registry.Queries) error {
				d, err := q.Device(t.Context(), all[n].id)
				if err != nil {
					return err
				}
				d.Rotation = state
				return q.UpdateDevice(t.Context(), d)
			}); err != nil {
				t.Fatal(err)
			}
		}
		r.begin(-1, false)
		until(t, all, func() bool { return !all[0].record().State.CompletedAt.IsZero() })
		time.Sleep(2 * time.Minute)
		first := all[1].secret
		all[1].is(fleet.RotationTimeout, rotation.Idle)
		if text, err := r.runner.Package(t.Context(), all[1].id); err != nil || text != first || !all[1].login() {
			t.Errorf("not the secret that it has, %v", err)
		}
		if !all[1].queue() {
			t.Error("a person is refused")
		}
		until(t, all, func() bool { return !all[1].record().State.CompletedAt.IsZero() })
		for _, d := range all {
			if !d.login() {
				t.Error("locked out")
			}
		}
	})
}

// slow is a notifier whose reminder reaches the broker after something else happened.
type slow struct {
	rotation.Notifier
	r        *rig
	meantime func()
}

func (s slow) Remind(_ context.Context, device int64, _ string, attempt int64) error {
	s.meantime()
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.lies[device] = attempt
	return nil
}

// A reminder that another process is at while the attempt ends does not leave a
// notice of it behind.
func TestRemindWhileTheAttemptEnds(t *testing.T) {
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(time.Second)
		d.is(fleet.RotationPending, rotation.Offered)
		m := mortal{r.db, r.provider.Issuer, r, r.kill}
		another := rotation.NewRunner(rotation.Options{Store: m, Issuer: m, Box: r.box, Policy: policy(false), Notifier: slow{m, r, func() {
			if err := r.runner.Abort(t.Context(), d.id); err != nil {
				t.Error(err)
			}
		}}})
		if err := another.Remind(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		d.is(fleet.RotationOK, rotation.Offered)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.lies[d.id] != 0 {
			t.Error("a notice of the attempt lies at the broker")
		}
	})
}

// A process whose clock was far ahead, and that was killed, does not keep the next
// one from going on, nor does what it was at.
func TestKilledWithAWrongClock(t *testing.T) {
	var ahead atomic.Int64
	ahead.Store(int64(365 * 24 * time.Hour))
	change := func(o *rotation.Options) {
		wrong := time.Duration(ahead.Swap(0)) // of the first process
		o.Sole, o.Now = false, func() time.Time { return time.Now().Add(wrong) }
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, builtIn)
		r.change = change
		all := r.devices(2)
		r.begin(2, true) // the lease, the queue, the start
		_, _ = r.runner.Queue(t.Context(), all[0].id, true, false, rotation.Ask{})
		time.Sleep(time.Second)
		if rec := all[0].record(); !r.kill.killed() || rec.Holder == "" {
			t.Fatalf("%+v", rec)
		}
		r.stop()
		r.begin(-1, false)
		defer func() { r.stop() }()
		time.Sleep(10 * time.Second)
		all[0].is(fleet.RotationPending, rotation.Offered)
	})
}

// A clock that was a year ahead when an attempt began, and is set right: under the
// same process or between two, nobody waits for a year. The attempt times out as
// any does, and a device whose answer was lost is let in again in time.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	f := func(name string, with func(*rig) provider, restart bool) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ahead atomic.Int64
				ahead.Store(int64(365 * 24 * time.Hour))
				r := newRig(t, with)
				r.change = func(o *rotation.Options) {
					o.Policy.Timeout, o.Policy.Tries, o.InFlight = 5*time.Minute, 1, 1
					o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				}
				all := r.devices(2)
				d, next := all[0], all[1]
				r.begin(-1, false)
				defer func() { r.stop() }()
				d.queue()
				time.Sleep(time.Second)
				d.is(fleet.RotationPending, rotation.Offered)
				if !d.login() {
					t.Fatal("it cannot log in")
				}
				if err := d.fetch(false); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				next.queue()
				if restart {
					r.stop()
				}
				ahead.Store(0)
				if restart {
					r.begin(-1, false)
				}
				time.Sleep(5*time.Minute - 2*time.Second)
				d.is(fleet.RotationPending, rotation.Offered)
				next.is(fleet.RotationQueued, rotation.Idle)
				in := false
				for range 3 { // turns of a provider that holds one secret
					in = in || d.login()
					time.Sleep(2 * time.Minute)
				}
				if !in {
					t.Error("locked out")
				}
				d.is(fleet.RotationTimeout, rotation.Offered)
				if s := next.record().State.Wire; s == fleet.RotationQueued {
					t.Error("it keeps the others from it")
				}
			})
		})
	}
	f("built-in", builtIn, false)
	f("built-in, restarted", builtIn, true)
	f("one secret", realm, false)
	f("one secret, restarted", realm, true)
}
