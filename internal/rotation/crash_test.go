package rotation_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// Whatever a process was killed at, with or without an effect: the next one
// finishes the attempt, and the device has a credential that is good.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	f := func(name string, with func(*rig) provider, always bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, effect := range []bool{false, true} {
				n := 0
				for ; ; n++ {
					done := false
					if !t.Run(fmt.Sprintf("%d %v", n, effect), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { done = !killed(t, with, n, effect, always) })
					}) {
						return
					}
					if done {
						break
					}
				}
				if n < 8 {
					t.Errorf("an attempt has %d steps only", n)
				}
			}
		})
	}
	f("built-in", builtIn, true)
	f("keycloak", realm, false)
}

// D37: the process dies after the provider took the new secret and before that is
// committed. Both secrets were committed before, so that the next one goes on.
func TestD37DeathAfterTheProviderTookIt(t *testing.T) {
	for name, with := range map[string]func(*rig) provider{"built-in": builtIn, "keycloak": realm} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, with)
				d := r.devices(1)[0]
				r.begin(-1, false)
				defer func() { r.stop() }()
				r.kill.mu.Lock()
				r.kill.change = true
				r.kill.mu.Unlock()
				d.queue()
				until(t, []*sim{d}, r.kill.killed)
				r.stop()
				r.begin(-1, false)
				until(t, []*sim{d}, func() bool {
					rec := d.record()
					return rec.State.Step == rotation.Idle && !rec.State.CompletedAt.IsZero()
				})
				if !d.login() {
					t.Errorf("locked out in %+v", d.record())
				}
			})
		})
	}
}

// killed reports whether the process was killed before the attempt was over.
func killed(t *testing.T, with func(*rig) provider, things int, effect, always bool) (was bool) {
	r := newRig(t, with)
	const turn = 20 // seconds
	r.change = func(o *rotation.Options) { o.Policy.Turn = turn * time.Second }
	d := r.devices(1)[0]
	first := d.secret
	r.begin(things, effect)
	defer func() { r.stop() }()
	out := 0
	for range 1200 {
		rec := d.record()
		if rec.State.Wire == fleet.RotationOK && rec.State.Attempt == 0 {
			_, _ = r.runner.Queue(context.Background(), d.id, true, true, rotation.Ask{Actor: "anna", Reason: "a test"})
		}
		d.live()
		if r.kill.killed() {
			r.stop()
			was = true
			r.begin(-1, false)
		}
		if _, ok := r.provider.token(d.client, d.secret); !ok {
			if out++; always || out > 3*turn {
				t.Fatalf("locked out in %+v", d.record())
			}
		} else {
			out = 0
		}
		time.Sleep(time.Second)
		if rec := d.record(); rec.State.Wire == fleet.RotationOK && rec.State.Attempt > 0 && rec.State.Step == rotation.Idle && rec.TodoAt.IsZero() {
			break
		}
	}
	rec := d.record()
	if rec.State.Wire != fleet.RotationOK || rec.State.Step != rotation.Idle || rec.State.Attempt == 0 {
		t.Fatalf("it ended in %+v", rec)
	}
	if rec.Holder != "" || !rec.TodoAt.IsZero() || rec.New != "" {
		t.Errorf("left: %+v", rec)
	}
	r.mu.Lock()
	if at, lies := r.lies[d.id]; lies || rec.State.Noticed {
		t.Errorf("the notice of attempt %d lies at the broker still: %v, noticed %v", at, lies, rec.State.Noticed)
	}
	r.mu.Unlock()
	if d.secret == first || !d.login() {
		t.Errorf("the device has its first secret: %v; it can log in: %v", d.secret == first, d.login())
	}
	if _, ok := r.provider.token(d.client, first); ok {
		t.Error("its first secret is good still")
	}
	list, err := r.db.RotationAttempts(context.Background(), d.id, 9)
	if err != nil || len(list) != int(rec.State.Attempt) || list[0].Outcome != rotation.Done || list[0].EndedAt.IsZero() || list[0].Actor != "anna" || list[0].Reason != "a test" {
		t.Errorf("history: %+v, %v", list, err)
	}
	return was
}
