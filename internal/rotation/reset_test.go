package rotation_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// revoke says that a device is revoked, or is not, as the registry does.
func (d *sim) revoke(revoked bool) {
	d.r.t.Helper()
	var at *time.Time
	if revoked {
		at = new(time.Now())
	}
	if err := d.r.db.Tx(context.Background(), func(q registry.Queries) error { return q.SetRevoked(context.Background(), d.id, at) }); err != nil {
		d.r.t.Fatal(err)
	}
}

// words returns the history of a device's last attempt, and how it ended.
func (d *sim) words() (all []string, outcome rotation.Outcome) {
	d.r.t.Helper()
	list, err := d.r.db.RotationAttempts(context.Background(), d.id, 1)
	if err != nil || len(list) == 0 {
		d.r.t.Fatalf("%v, %v", list, err)
	}
	for _, e := range list[0].Steps {
		all = append(all, e.What)
	}
	return all, list[0].Outcome
}

// situations are what a device can be in when a person does something.
var situations = map[string]func(*testing.T, *rig, *sim){
	"never rotated": func(*testing.T, *rig, *sim) {},
	"queued":        func(_ *testing.T, r *rig, d *sim) { r.stop(); d.queue() },
	"told":          func(_ *testing.T, _ *rig, d *sim) { d.queue(); time.Sleep(2 * time.Second) },
	"answer lost": func(t *testing.T, _ *rig, d *sim) {
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(false) != nil {
			t.Fatal("not answered")
		}
	},
	"has its new secret": func(t *testing.T, _ *rig, d *sim) {
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(true) != nil {
			t.Fatal("not answered")
		}
	},
	"timed out": func(t *testing.T, _ *rig, d *sim) {
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(false) != nil {
			t.Fatal("not answered")
		}
		time.Sleep(time.Minute)
		d.is(fleet.RotationTimeout, rotation.Offered)
	},
	"done": func(t *testing.T, _ *rig, d *sim) {
		d.queue()
		until(t, []*sim{d}, func() bool { return d.idle() && d.record().State.Attempt == 1 })
	},
}

// idle reports whether nothing is going on, nor is to.
func (d *sim) idle() bool {
	s := d.record().State
	return s.Step == rotation.Idle && s.Wire == fleet.RotationOK
}

func everywhere(t *testing.T, f func(*testing.T, *rig, *sim)) {
	change := func(o *rotation.Options) {
		o.Policy.Timeout, o.Policy.RetryAfter, o.Policy.Turn = time.Minute, 30*time.Second, 20*time.Second
	}
	for name, situation := range situations {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, change, func(t *testing.T, r *rig, all []*sim) {
				situation(t, r, all[0])
				f(t, r, all[0])
			})
		})
	}
}

// A package that is put into the device at any moment is good, at once or when it
// is its turn, and stays so.
func TestPackage(t *testing.T) {
	lengthy(t)
	t.Parallel()
	everywhere(t, func(t *testing.T, r *rig, d *sim) {
		before := d.record()
		text, err := r.runner.Package(t.Context(), d.id)
		if err != nil {
			t.Fatal(err)
		}
		if now := d.record(); now != before {
			t.Errorf("looking at it changed it: %+v", now)
		}
		d.secret = text
		for n := 0; !d.login(); n++ {
			if n > 30 { // one turn is 20 s
				t.Fatalf("locked out in %+v", d.record())
			}
			time.Sleep(time.Second)
		}
		// And the attempt comes to its end with it.
		r.stop()
		r.begin(-1, false)
		d.queue()
		until(t, []*sim{d}, func() bool { return d.idle() })
		d.is(fleet.RotationOK, rotation.Idle)
		if !d.login() {
			t.Error("locked out")
		}
	})
}

// After a reset there is one secret that is good, and nobody gets it for a token
// of before.
func TestReset(t *testing.T) {
	lengthy(t)
	t.Parallel()
	everywhere(t, func(t *testing.T, r *rig, d *sim) {
		known := []string{d.secret} // also to others
		rec := d.record()
		if rec.New != "" {
			text, err := r.box.Open(rec.New, fmt.Sprintf("rotation of device %d", d.id))
			if err != nil {
				t.Fatal(err)
			}
			known = append(known, text)
		}
		d.login()
		time.Sleep(2 * time.Second)
		if err := r.runner.Reset(t.Context(), d.id, rotation.Ask{Actor: "anna", Reason: "stolen"}); err != nil {
			t.Fatal(err)
		}
		d.is(fleet.RotationOK, rotation.Idle)
		for _, text := range known {
			if _, ok := r.provider.token(d.client, text); ok {
				t.Error("a secret of before is good still")
			}
		}
		if err := d.fetch(true); err == nil {
			t.Error("who has a token of before got the new secret")
		}
		text, err := r.runner.Package(t.Context(), d.id)
		if err != nil || slices.Contains(known, text) {
			t.Fatalf("not a new one, %v", err)
		}
		d.secret = text
		time.Sleep(2 * time.Second)
		if !d.login() {
			t.Fatal("the new secret is not good")
		}
		if err := d.fetch(true); err != nil || d.secret != text {
			t.Errorf("it is told another one, %v", err)
		}
		said, outcome := d.words()
		if !slices.Equal(said, []string{"reset", "withdrawn"}) || outcome != rotation.Done {
			t.Errorf("history: %v, %s", said, outcome)
		}
		list, err := r.db.RotationAttempts(t.Context(), d.id, 9)
		if err != nil || list[0].Actor != "anna" || list[0].Reason != "stolen" {
			t.Errorf("%+v, %v", list, err)
		}
		for _, a := range list {
			if a.Outcome == rotation.Running || a.EndedAt.IsZero() {
				t.Errorf("it goes on: %+v", a)
			}
		}
		now := d.record()
		if now.New != "" || now.Holder != "" || !now.TodoAt.IsZero() || now.State.CompletedAt.IsZero() || time.Since(now.SecretAt) > time.Minute {
			t.Errorf("%+v", now)
		}
		// It can be rotated as any other.
		d.queue()
		r.stop()
		r.begin(-1, false)
		until(t, []*sim{d}, func() bool { return d.idle() && d.record().State.Attempt == now.State.Attempt+1 })
		if !d.login() || d.secret == text {
			t.Error("not rotated")
		}
	})
}

// Whatever a process was killed at during a reset, the next one finishes it.
func TestResetKilled(t *testing.T) {
	t.Parallel()
	for name, with := range map[string]func(*rig) provider{"built-in": builtIn, "keycloak": realm} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for things := range 4 { // the commit, the issuer, the commit
				for _, effect := range []bool{false, true} {
					synctest.Test(t, func(t *testing.T) {
						r := newRig(t, with)
						d := r.devices(1)[0]
						first := d.secret
						r.begin(things, effect)
						defer func() { r.stop() }()
						err := r.runner.Reset(context.Background(), d.id, rotation.Ask{})
						if killed := r.kill.killed(); killed != (things < 3) || killed != (err != nil) {
							t.Errorf("after %d: killed %v, %v", things, killed, err)
						}
						r.stop()
						r.begin(-1, false)
						time.Sleep(15 * time.Second) // the lease of the dead is one of 10 s
						rec := d.record()
						_, old := r.provider.token(d.client, first)
						switch {
						case rec.Version == 0:
							if things > 0 || effect || !old {
								t.Errorf("after %d: it never began, and its secret is good: %v", things, old)
							}
						case old || rec.State.Step != rotation.Idle || rec.State.Wire != fleet.RotationOK:
							t.Errorf("after %d: its old secret is good: %v; %+v", things, old, rec.State)
						}
						if d.secret, err = r.runner.Package(context.Background(), d.id); err != nil || !d.login() {
							t.Errorf("after %d: the package is of no use, %v", things, err)
						}
					})
				}
			}
		})
	}
}

// A device that is revoked takes no part, keeps what it has, and goes on when it
// is restored. The others do not wait for it.
func TestRevoked(t *testing.T) {
	lengthy(t)
	t.Parallel()
	everywhere(t, func(t *testing.T, r *rig, d *sim) {
		r.stop()
		r.begin(-1, false)
		time.Sleep(time.Second)
		before := d.record()
		d.revoke(true)
		if err := r.runner.Hold(t.Context(), d.id); err != nil {
			t.Fatal(err)
		}
		told := r.toldOf(d.id)
		if queued, err := r.runner.Queue(t.Context(), d.id, true, true, rotation.Ask{}); queued || err == nil || fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("queued: %v, %v", queued, err)
		}
		if n, err := r.db.RotationsInFlight(t.Context(), time.Now()); err != nil || n != 0 {
			t.Errorf("%d in flight, %v", n, err)
		}
		time.Sleep(2 * time.Minute)
		now := d.record()
		if now.State.Wire == fleet.RotationPending || now.Old != before.Old || now.New != before.New || now.State.Step != before.State.Step {
			t.Errorf("%+v, was %+v", now, before)
		}
		if now.State.Attempt != before.State.Attempt {
			t.Error("an attempt was started")
		}
		r.mu.Lock()
		if r.told[d.id] != told {
			t.Error("it was told")
		}
		r.mu.Unlock()
		d.revoke(false)
		if before.State.Wire == fleet.RotationPending {
			time.Sleep(2 * time.Second)
			d.is(fleet.RotationPending, before.State.Step)
			if d.record().State.Attempt != before.State.Attempt {
				t.Error("another attempt")
			}
		} else {
			d.queue()
		}
		until(t, []*sim{d}, func() bool { return d.idle() })
		d.is(fleet.RotationOK, rotation.Idle)
		if !d.login() {
			t.Error("locked out")
		}
	})
}

// Nobody needs to call Hold: a process may be killed before it does.
func TestRevokedUnnoticed(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		r.mu.Lock()
		r.broke = fleet.E(fleet.Unavailable, nil, "The broker cannot be reached")
		r.mu.Unlock()
		d.queue()
		time.Sleep(2 * time.Second)
		d.revoke(true)
		r.mu.Lock()
		r.broke = nil
		r.mu.Unlock()
		time.Sleep(time.Minute)
		if d.is(fleet.RotationQueued, rotation.Offered); r.toldOf(d.id) > 0 {
			t.Error("it was told")
		}
		d.revoke(false)
		time.Sleep(2 * time.Second)
		d.is(fleet.RotationPending, rotation.Offered)
		d.revoke(true)
		time.Sleep(5 * time.Minute)
		d.is(fleet.RotationQueued, rotation.Offered) // and not timed out
		if s := d.record().State; s.Failures != 0 || s.Attempt != 1 {
			t.Errorf("%+v", s)
		}
	})
}
