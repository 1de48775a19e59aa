package rotation_test

import (
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

// What the reference system does wrong in a rotation, by its number in the
// description of its wire, and is right here.

func TestD36CompletionNeedsProof(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, _ *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(2 * time.Second)
		for range 3 { // fresh tokens, got with the old secret
			if !d.login() || d.show() != nil {
				t.Fatal("not answered")
			}
			time.Sleep(2 * time.Second)
		}
		d.is(fleet.RotationPending, rotation.Offered)
		if rec := d.record(); !rec.State.CompletedAt.IsZero() || rec.New == "" {
			t.Errorf("%+v", rec)
		}
	})
}

func TestD38SecondFetchGivesTheSameSecret(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		first := d.secret
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(false) != nil {
			t.Fatal("not answered")
		}
		before := d.record()
		if err := d.fetch(false); err != nil {
			t.Fatal(err)
		}
		after := d.record()
		if after.Old != before.Old || after.New != before.New {
			t.Error("another secret is kept")
		}
		if old, err := r.box.Open(after.Old, rotation.About(d.id)); err != nil || old != first {
			t.Errorf("not the secret that the device has, %v", err)
		}
	})
}

func TestD39FetchWhileOKChangesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, _ *rig, all []*sim) {
		d := all[0]
		first := d.secret
		if !d.login() || d.fetch(true) != nil || d.secret != first || d.record().Version != 0 {
			t.Errorf("%+v", d.record())
		}
		// Nor does the time-out of the next rotation bring anything stale back.
		d.queue()
		time.Sleep(6 * time.Minute)
		if !d.login() {
			t.Error("locked out")
		}
	})
}

func TestD40OldSecretStaysGood(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, _ *rig, all []*sim) {
		d := all[0]
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(false) != nil { // the answer is lost
			t.Fatal("not answered")
		}
		for n := 0; !d.login(); n++ { // at once, or at Keycloak when it is its turn
			if n > 121 {
				t.Fatal("locked out")
			}
			time.Sleep(time.Second)
		}
	})
}

func TestD41ToldAfterTheCommit(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		// The rig compares each notice, and each News, with what is committed.
		all[0].queue()
		until(t, all, func() bool { return all[0].idle() })
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.news) < 4 {
			t.Errorf("%+v", r.news)
		}
	})
}

func TestD43OneAtATime(t *testing.T) {
	t.Parallel()
	bubble(t, 5, func(o *rotation.Options) { o.Sole = false }, func(t *testing.T, r *rig, all []*sim) {
		_, stop := r.runner, r.stop
		r.begin(-1, false) // a second process
		defer stop()
		for _, d := range all {
			d.queue()
		}
		time.Sleep(5 * time.Second)
		if n, err := r.db.RotationsInFlight(t.Context(), time.Now()); err != nil || n != 1 {
			t.Errorf("%d in flight, %v", n, err)
		}
	})
}

func TestD44TimeOutsNeedNoJob(t *testing.T) {
	t.Parallel()
	bubble(t, 2, nil, func(t *testing.T, _ *rig, all []*sim) {
		all[0].queue()
		time.Sleep(2 * time.Second)
		all[1].queue() // is not kept from it by a silent one
		until(t, all[1:], func() bool { return all[1].idle() && all[1].record().State.Attempt == 1 })
		time.Sleep(5 * time.Minute)
		all[0].is(fleet.RotationTimeout, rotation.Offered)
	})
}

func TestD45RetriesEnd(t *testing.T) {
	t.Parallel()
	change := func(o *rotation.Options) {
		o.Policy.Timeout, o.Policy.RetryAfter, o.Policy.RetryMax = 20*time.Second, 10*time.Second, 10*time.Second
	}
	bubble(t, 1, change, func(t *testing.T, _ *rig, all []*sim) {
		all[0].queue()
		time.Sleep(5 * time.Minute)
		all[0].is(fleet.RotationTimeout, rotation.Offered)
		if s := all[0].record().State; s.Attempt != 3 || !s.RetryAt.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestD49TimeOutKeepsTheAgeOfTheSecret(t *testing.T) {
	t.Parallel()
	bubble(t, 1, nil, func(t *testing.T, r *rig, all []*sim) {
		d := all[0]
		made := d.record().SecretAt
		d.queue()
		time.Sleep(2 * time.Second)
		if !d.login() || d.fetch(false) != nil {
			t.Fatal("not answered")
		}
		time.Sleep(5 * time.Minute)
		d.is(fleet.RotationTimeout, rotation.Offered)
		of, err := r.db.Device(t.Context(), d.id)
		if err != nil || of.SecretCreatedAt == nil || !of.SecretCreatedAt.Equal(made) || of.LastRotationCompletedAt != nil {
			t.Errorf("%+v, %v", of, err)
		}
	})
}
