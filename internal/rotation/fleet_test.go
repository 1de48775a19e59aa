package rotation_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
)

// quiet is an issuer that is never asked.
type quiet struct{ rotation.Issuer }

func (quiet) Dual() bool { return true }

// bureau is one process that rotates a fleet, but for the attempts themselves.
type bureau struct {
	t         *testing.T
	db        *sqlstore.DB
	fleet     *rotation.Fleet
	runner    *rotation.Runner
	now       func() time.Time
	metrics   *prometheus.Registry
	announced atomic.Int32
	echoes    atomic.Int32
}

func parse(t *testing.T, cron, zone string) rotation.Schedule {
	t.Helper()
	z, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	s, err := rotation.ParseSchedule(cron, z)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newBureau opens one on the database at path, which others may have open.
func newBureau(t *testing.T, path, cron string, now func() time.Time) *bureau {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	o := &bureau{t: t, db: db, now: now, metrics: prometheus.NewRegistry()}
	o.runner = rotation.NewRunner(rotation.Options{Store: db, Issuer: quiet{}, Now: now})
	o.fleet = rotation.NewFleet(rotation.FleetOptions{
		Store: db, Runner: o.runner, Schedule: parse(t, cron, "Europe/Berlin"), Registerer: o.metrics,
		Announce: func() { o.announced.Add(1) }, Echo: func() { o.echoes.Add(1) },
	})
	return o
}

// add makes devices, the first of them inactive.
func (o *bureau) add(n int) (ids []int64) {
	o.t.Helper()
	ctx, at := context.Background(), time.Now()
	err := o.db.Tx(ctx, func(q registry.Queries) error {
		model, err := q.InsertModel(ctx, fleet.Model{Code: "relay", Name: "Relay", CreatedAt: at, UpdatedAt: at})
		for i := range n {
			if err != nil {
				return err
			}
			var id int64
			id, err = q.InsertDevice(ctx, fleet.Device{Key: fleet.NewKey(), Model: fleet.Model{ID: model}, Active: i > 0, Config: "{}", Rotation: fleet.RotationOK,
				SecretCreatedAt: new(at.Add(-time.Duration(i) * 8 * 24 * time.Hour)), CreatedAt: at, UpdatedAt: at})
			ids = append(ids, id)
		}
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return ids
}

// put makes the state of a device another one.
func (o *bureau) put(id int64, change func(*rotation.Record)) {
	o.t.Helper()
	rec, err := o.db.Rotation(context.Background(), id)
	if err != nil {
		o.t.Fatal(err)
	}
	change(&rec)
	if _, err := o.db.CommitRotation(context.Background(), rotation.Change{Record: rec}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *bureau) states() map[fleet.RotationState]int {
	o.t.Helper()
	all, err := o.fleet.Standings(context.Background())
	if err != nil {
		o.t.Fatal(err)
	}
	counts := map[fleet.RotationState]int{}
	for _, s := range all {
		counts[s.Wire]++
	}
	return counts
}

// settle makes all queued devices OK again, as if they had been rotated.
func (o *bureau) settle() (queued int) {
	o.t.Helper()
	all, err := o.fleet.Standings(context.Background())
	if err != nil {
		o.t.Fatal(err)
	}
	for _, s := range all {
		if s.Wire == fleet.RotationQueued {
			o.put(s.Device, func(r *rotation.Record) { r.State.Wire = fleet.RotationOK })
			queued++
		}
	}
	return queued
}

func (o *bureau) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := o.fleet.Run(ctx); err != nil {
			o.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

// D45: what timed out is left to its own retries and to people when all are
// queued. Pages are told in any case, also when nothing was queued.
func TestD45TriggerLeavesTimeouts(t *testing.T) {
	o := newBureau(t, filepath.Join(t.TempDir(), "test.db"), "", nil)
	ids := o.add(5)
	o.put(ids[1], func(r *rotation.Record) { r.State.Wire, r.State.Failures = fleet.RotationTimeout, 3 })
	for n, want := range []int{3, 0} {
		if queued, err := o.fleet.Trigger(t.Context(), nil, rotation.Ask{Actor: "anna", Reason: "x", Campaign: 9}); err != nil || queued != want {
			t.Errorf("%d queued, %v; want %d", queued, err, want)
		}
		if got := o.announced.Load(); got != int32(n+1) {
			t.Errorf("told %d times", got)
		}
	}
	if diff := cmp.Diff(map[fleet.RotationState]int{fleet.RotationOK: 1, fleet.RotationQueued: 3, fleet.RotationTimeout: 1}, o.states()); diff != "" {
		t.Error(diff)
	}
	rec, attempts, err := o.fleet.Story(t.Context(), ids[2], 10)
	if err != nil || rec.Actor != "anna" || rec.Campaign != 0 || len(attempts) != 0 {
		t.Errorf("%+v, %v, %v", rec, attempts, err)
	}
	list, err := o.db.QueuedRotations(t.Context(), 10)
	if diff := cmp.Diff([]int64{ids[4], ids[3], ids[2]}, list); err != nil || diff != "" { // the oldest secret first
		t.Error(err, diff)
	}
}

// What a process is at just now is queued all the same, when that is noted.
func TestTriggerHeld(t *testing.T) {
	o := newBureau(t, filepath.Join(t.TempDir(), "test.db"), "", nil)
	ids := o.add(3)
	o.put(ids[1], func(r *rotation.Record) { r.Holder, r.HeldUntil = "another", time.Now().Add(300*time.Millisecond) })
	if queued, err := o.fleet.Trigger(t.Context(), nil, rotation.Ask{}); err != nil || queued != 2 {
		t.Errorf("%d queued, %v", queued, err)
	}
	if got := o.states()[fleet.RotationQueued]; got != 2 {
		t.Errorf("%d are queued", got)
	}
}

// D48: that there is a schedule does not rotate the fleet at once; each date does
// so once, the last of those that were missed as well, whatever becomes of the
// clock and however many processes there are. LAST_SCHEDULED_AT is the date, not
// when it was carried out.
func TestD48Schedule(t *testing.T) {
	lengthy(t)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "test.db")
		var skew atomic.Int64 // of the clock
		now := func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		set := func(at string) {
			when, err := time.Parse(time.RFC3339, at)
			if err != nil {
				t.Fatal(err)
			}
			skew.Store(int64(time.Until(when)))
		}
		const daily = "0 8 * * *" // 7:00 UTC, as it is winter
		set("2026-01-10T12:00:00Z")
		var offices []*bureau
		var stops []func()
		start := func(cron string, n int) {
			offices, stops = nil, nil
			for range n {
				o := newBureau(t, path, cron, now)
				offices = append(offices, o)
				stops = append(stops, o.run())
			}
			synctest.Wait()
		}
		stop := func() {
			for _, f := range stops {
				f()
			}
		}
		want := func(what string, queued int, last string) {
			t.Helper()
			synctest.Wait()
			if got := offices[0].settle(); got != queued {
				t.Errorf("%s: %d are queued, want %d", what, got, queued)
			}
			_, at, err := offices[0].fleet.Schedule(t.Context())
			if got := at.Format(time.RFC3339); err != nil || got != last {
				t.Errorf("%s: last scheduled at %s, %v, want %s", what, got, err, last)
			}
		}
		start(daily, 2)
		offices[0].add(4)
		want("first start", 0, "2026-01-10T07:00:00Z")
		time.Sleep(19 * time.Hour)
		want("the next date", 3, "2026-01-11T07:00:00Z")
		if got := offices[0].announced.Load() + offices[1].announced.Load(); got != 1 {
			t.Errorf("%d carried it out", got)
		}
		time.Sleep(23 * time.Hour)
		want("a day later, not yet", 0, "2026-01-11T07:00:00Z")
		time.Sleep(time.Hour)
		want("a day later", 3, "2026-01-12T07:00:00Z")

		set("2026-01-12T06:59:00Z")
		time.Sleep(5 * time.Minute)
		want("the clock went back", 0, "2026-01-12T07:00:00Z")

		stop()
		set("2026-01-15T09:30:00Z")
		start(daily, 2)
		want("after three dates were missed", 3, "2026-01-15T07:00:00Z")
		time.Sleep(time.Hour)
		want("and an hour later", 0, "2026-01-15T07:00:00Z")
		stop()
		start(daily, 1)
		want("a start with nothing missed", 0, "2026-01-15T07:00:00Z")
		stop()

		start("30 10 * * *", 2) // 9:30 UTC: it would have been this morning
		want("another schedule", 0, "2026-01-15T09:30:00Z")
		set("2027-05-01T00:00:00Z")
		time.Sleep(time.Minute)
		want("the clock is wrong by far", 3, "2027-04-30T08:30:00Z")
		set("2026-01-15T11:00:00Z")
		time.Sleep(time.Minute)
		want("and right again", 0, "2026-01-15T09:30:00Z")
		time.Sleep(23 * time.Hour)
		want("then the next date counts", 3, "2026-01-16T09:30:00Z")
		stop()

		start("", 1)
		want("without a schedule", 0, "0001-01-01T00:00:00Z")
		stop()
		set("2026-01-20T12:00:00Z")
		start("30 10 * * *", 1)
		want("with one again", 0, "2026-01-20T09:30:00Z")
		stop()
	})
}

func TestScheduleLast(t *testing.T) {
	f := func(cron, zone, at, want string) {
		t.Helper()
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := parse(t, cron, zone).Last(when).Format(time.RFC3339); got != want {
			t.Errorf("%s before %s: %s, want %s", cron, at, got, want)
		}
	}
	f("0 8 * * 6#1", "UTC", "2026-07-10T00:00:00Z", "2026-07-04T08:00:00Z")
	f("0 8 * * 6#1", "UTC", "2026-07-04T08:00:00Z", "2026-07-04T08:00:00Z")
	f("0 8 * * 6#1", "UTC", "2026-07-04T07:59:59Z", "2026-06-06T08:00:00Z")
	f("* * * * *", "UTC", "2026-07-04T07:59:59.9Z", "2026-07-04T07:59:00Z")
	f("0 0 29 2 *", "UTC", "2027-01-01T00:00:00Z", "2024-02-29T00:00:00Z")
	f("0 8 * * *", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29T06:00:00Z")
	f("0 8 * * *", "Europe/Berlin", "2026-03-29T05:59:00Z", "2026-03-28T07:00:00Z")
	f("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", "2026-10-25T00:30:00Z") // it comes twice, and counts once
	f("30 2 * * *", "Europe/Berlin", "2026-10-25T01:45:00Z", "2026-10-25T00:30:00Z")
	f("", "UTC", "2026-07-10T00:00:00Z", "0001-01-01T00:00:00Z")
}

// What another process commits reaches the pages of this one, and what this one
// commits is not told twice.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "test.db")
		here, there := newBureau(t, path, "", nil), newBureau(t, path, "", nil)
		ids := here.add(3)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := here.fleet.Watch(ctx); err != nil {
				t.Error(err)
			}
		}()
		defer func() { stop(); <-done }()
		f := func(what string, want int32) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if got := here.echoes.Swap(0); got != want {
				t.Errorf("%s: told %d times, want %d", what, got, want)
			}
		}
		f("at first", 0)
		if _, err := here.fleet.Trigger(ctx, ids[:2], rotation.Ask{}); err != nil {
			t.Error(err)
		}
		f("our own", 0)
		if _, err := there.fleet.Trigger(ctx, ids[2:], rotation.Ask{}); err != nil {
			t.Error(err)
		}
		f("another's", 1)
		there.put(ids[1], func(r *rotation.Record) { r.State.Wire = fleet.RotationPending })
		f("one device", 1)
		if got := here.states(); got[fleet.RotationPending] != 1 || got[fleet.RotationQueued] != 1 {
			t.Errorf("%v", got)
		}
	})
}

func TestAbortAndRetry(t *testing.T) {
	o := newBureau(t, filepath.Join(t.TempDir(), "test.db"), "", nil)
	id := o.add(2)[1]
	f := func(what string, does func(context.Context, int64) (bool, error), want bool) {
		t.Helper()
		if got, err := does(t.Context(), id); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, want)
		}
	}
	f("abort of nothing", o.fleet.Abort, false)
	f("retry of nothing", o.fleet.Retry, false)
	if _, err := o.fleet.Trigger(t.Context(), nil, rotation.Ask{}); err != nil {
		t.Fatal(err)
	}
	f("abort of what is queued", o.fleet.Abort, true)
	if got := o.states(); got[fleet.RotationOK] != 2 {
		t.Errorf("%v", got)
	}
	o.put(id, func(r *rotation.Record) {
		r.State.Wire, r.State.Step, r.State.FetchedAt = fleet.RotationPending, rotation.Proven, time.Now()
	})
	f("abort of what is proven", o.fleet.Abort, false)
	if _, err := o.fleet.Abort(t.Context(), 999); fleet.KindOf(err) != fleet.NotFound {
		t.Errorf("%v", err)
	}
}

// The figures of the fleet are those of the process that runs the timers, and
// nobody else has any.
func TestFleetMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newBureau(t, filepath.Join(t.TempDir(), "test.db"), "", nil)
		ids := o.add(6) // five take part, with secrets of 8, 16, 24, 32 and 40 days
		o.put(ids[1], func(r *rotation.Record) { r.Stuck, r.SecretAt = true, time.Now().Add(-400*24*time.Hour) })
		o.put(ids[2], func(r *rotation.Record) { r.SecretAt = time.Now() })
		if _, err := o.fleet.Trigger(t.Context(), ids[2:4], rotation.Ask{}); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids[2:4] { // so that they stay in the queue
			o.put(id, func(r *rotation.Record) { r.Holder, r.HeldUntil = "another", time.Now().Add(5*time.Minute) })
		}
		stop := o.run()
		defer stop()
		time.Sleep(time.Minute)
		figures := func() map[string]float64 {
			families, err := o.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, f := range families {
				if f.GetName() == "iot_rotation_job_runs_total" {
					continue
				}
				for _, m := range f.GetMetric() {
					name := f.GetName()
					for _, l := range m.GetLabel() {
						name += " " + l.GetValue()
					}
					got[name] = m.GetGauge().GetValue()
				}
			}
			return got
		}
		if got := figures(); len(got) > 0 {
			t.Errorf("figures of one that does not run the timers: %v", got)
		}
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = o.runner.Run(ctx) }()
		defer func() { end(); <-done }()
		time.Sleep(time.Minute)
		got := figures()
		if age := time.Duration(got["iot_rotation_secret_age_seconds"] * 1e9).Round(time.Hour); age != 400*24*time.Hour {
			t.Errorf("the oldest secret is %s old", age)
		}
		delete(got, "iot_rotation_secret_age_seconds")
		if diff := cmp.Diff(map[string]float64{
			"iot_rotation_queue": 2, "iot_rotation_stuck": 1, "iot_rotation_secret_age_devices <7d": 1, "iot_rotation_secret_age_devices <30d": 1,
			"iot_rotation_secret_age_devices <90d": 2, "iot_rotation_secret_age_devices <365d": 0, "iot_rotation_secret_age_devices >=365d": 1,
		}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// D42: the device that somebody asks for is the next one, whatever waits, and
// that it was asked for is told at once.
func TestD42AskedForIsNext(t *testing.T) {
	bubble(t, 3, nil, func(t *testing.T, r *rig, all []*sim) {
		f := rotation.NewFleet(rotation.FleetOptions{Store: r.db, Runner: r.runner})
		if _, err := f.Trigger(t.Context(), []int64{all[0].id, all[1].id}, rotation.Ask{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if ok, err := r.runner.Queue(t.Context(), all[2].id, true, true, rotation.Ask{}); err != nil || !ok {
			t.Fatal(ok, err)
		}
		r.mu.Lock()
		last := r.news[len(r.news)-1]
		r.mu.Unlock()
		if last.Device != all[2].id || last.To != fleet.RotationQueued {
			t.Errorf("told %+v", last)
		}
		until(t, all[:1], func() bool { return all[0].record().State.CompletedAt != time.Time{} || all[0].record().State.Believed })
		time.Sleep(time.Second)
		all[2].is(fleet.RotationPending, rotation.Offered)
		all[1].is(fleet.RotationQueued, rotation.Idle)
	})
}

// D44: no job is needed. A device that never comes does not keep the others from
// being rotated.
func TestD44NoJob(t *testing.T) {
	lengthy(t)
	bubble(t, 3, nil, func(t *testing.T, r *rig, all []*sim) {
		if _, err := rotation.NewFleet(rotation.FleetOptions{Store: r.db, Runner: r.runner}).Trigger(t.Context(), nil, rotation.Ask{}); err != nil {
			t.Fatal(err)
		}
		until(t, all[1:], func() bool {
			return all[1].record().State.Step == rotation.Idle && all[2].record().State.Step == rotation.Idle && all[0].record().State.Wire == fleet.RotationTimeout
		})
		all[1].is(fleet.RotationOK, rotation.Idle)
		all[2].is(fleet.RotationOK, rotation.Idle)
	})
}

// A cycle leaves the attempts to the process that runs the timers.
func TestCycleRespectsLease(t *testing.T) {
	o := newBureau(t, filepath.Join(t.TempDir(), "test.db"), "", nil)
	o.add(2)
	if _, err := o.fleet.Trigger(t.Context(), nil, rotation.Ask{}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if got, err := o.db.RotationLease(t.Context(), "another", now, now.Add(10*time.Second)); err != nil || !got {
		t.Fatal(got, err)
	}
	if led, err := o.runner.Cycle(t.Context()); err != nil || led {
		t.Errorf("%v, %v", led, err)
	}
	if got := o.states()[fleet.RotationQueued]; got != 1 {
		t.Errorf("%d are queued", got)
	}
}
