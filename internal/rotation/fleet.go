package rotation

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// FleetOptions is what a Fleet is made of.
type FleetOptions struct {
	Store    FleetStore
	Runner   *Runner // of the same store
	Schedule Schedule

	// Announce tells all pages that rotation moved on. It is called after each
	// commit of the Fleet, also after one that changed nothing, as the reference
	// system does. Nil: nobody is told.
	Announce func()
	// Echo tells the pages of this process what another one changed. Nil: nobody.
	Echo func()

	Poll       time.Duration // how often Watch looks for changes by others; 0 is 250 ms
	Registerer prometheus.Registerer
	Log        *slog.Logger // nil: nowhere
}

// Fleet is rotation as far as it is about many devices: all of them at once, on
// a schedule or when somebody asks; what is to be shown of it; and what people
// do to single attempts. All its methods may be called by any number of
// goroutines.
type Fleet struct {
	opts  FleetOptions
	jobs  *prometheus.CounterVec
	board board
	ages  ages
}

const (
	scheduleLook  = 30 * time.Second // at most until the clock is looked at again: it may have been set
	scheduleAgain = 5 * time.Second  // after a failure
)

// NewFleet returns a Fleet. For the schedule and the metrics some process must
// call Run, and each Watch if there are several.
func NewFleet(o FleetOptions) *Fleet {
	o.Poll = cmp.Or(o.Poll, 250*time.Millisecond)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Announce == nil {
		o.Announce = func() {}
	}
	if o.Echo == nil {
		o.Echo = func() {}
	}
	f := &Fleet{opts: o, jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "iot_rotation_job_runs_total", Help: "Runs of signalbox rotation-job that told this process how they ended."}, []string{"result"})}
	for _, result := range JobResults {
		f.jobs.WithLabelValues(result)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(f.jobs, &f.ages)
	}
	return f
}

// JobResults are the words for how a run of the job ended.
var JobResults = [...]string{"success", "error"}

// CountJob counts a run of the job; result is one of JobResults.
func (f *Fleet) CountJob(result string) { f.jobs.WithLabelValues(result).Inc() }

// Trigger queues all devices, or those of only, that are active, not revoked and
// in OK, and returns how many those were. Devices whose rotation timed out are
// left to their own retries and to people.
func (f *Fleet) Trigger(ctx context.Context, only []int64, by Ask) (queued int, err error) {
	queued, _, err = f.queue(ctx, Bulk{Only: only, Ask: by})
	return queued, err
}

func (f *Fleet) queue(ctx context.Context, b Bulk) (queued int, due bool, err error) {
	b.Ask.Campaign, b.Now = 0, f.opts.Runner.now()
	out, err := f.opts.Store.QueueRotations(ctx, b)
	if err != nil || !out.Due {
		return 0, false, err
	}
	// Something is being done for these right now, and is to be noted first.
	for _, device := range out.Held {
		ok, err := f.opts.Runner.Queue(ctx, device, false, false, b.Ask)
		switch {
		case ok:
			out.Devices++
		case err != nil && ctx.Err() == nil:
			f.opts.Log.WarnContext(ctx, "a device was left out when all were queued for rotation", "device", device, "err", err)
		}
	}
	f.opts.Runner.hurry()
	f.opts.Announce()
	return out.Devices, true, nil
}

// Story returns the record of a device, with its secrets sealed, and its last
// attempts, the last first.
func (f *Fleet) Story(ctx context.Context, device int64, limit int) (Record, []Attempt, error) {
	store := f.opts.Runner.opts.Store
	rec, err := store.Rotation(ctx, device)
	if err != nil {
		return Record{}, nil, err
	}
	attempts, err := store.RotationAttempts(ctx, device, limit)
	return rec, attempts, err
}

// Abort ends the attempt of a device, or takes it from the queue, and reports
// whether there was something to end. An attempt whose new secret is proven is
// finished all the same.
func (f *Fleet) Abort(ctx context.Context, device int64) (aborted bool, err error) {
	r := f.opts.Runner
	_, err = r.handle(ctx, device, func(rec *Record) Event {
		s, _ := r.opts.Policy.Step(rec.State, Abort{}, r.now())
		if aborted = s.Wire != rec.State.Wire; !aborted {
			return nil
		}
		return Abort{}
	})
	return aborted && err == nil, err
}

// Retry does at once what failed before, of a person who looked at it, and
// reports whether there was anything. Its error is that of doing it.
func (f *Fleet) Retry(ctx context.Context, device int64) (retried bool, err error) {
	rec, err := f.opts.Runner.opts.Store.Rotation(ctx, device)
	if err != nil || rec.TodoAt.IsZero() {
		return false, err
	}
	return true, f.opts.Runner.Retry(ctx, device)
}

// Schedule returns when the whole fleet is rotated, and the last date that it
// was; zero: it never was by this schedule.
func (f *Fleet) Schedule(ctx context.Context) (Schedule, time.Time, error) {
	name := f.opts.Schedule.String()
	if name == "" {
		return Schedule{}, time.Time{}, nil
	}
	schedule, done, err := f.opts.Store.RotationSchedule(ctx)
	if schedule != name {
		done = time.Time{}
	}
	return f.opts.Schedule, done, err
}

// Due carries the schedule out if a date has passed for which it was not, for
// the last such date alone, and reports whether it did. A schedule that is seen
// for the first time is taken to be carried out so far: nobody wants the whole
// fleet rotated for having set it. Of several processes one carries out each date.
func (f *Fleet) Due(ctx context.Context) (triggered bool, queued int, err error) {
	s, name, now := f.opts.Schedule, f.opts.Schedule.String(), f.opts.Runner.now()
	if s.Never() {
		return false, 0, nil
	}
	noted, done, err := f.opts.Store.RotationSchedule(ctx)
	if err != nil {
		return false, 0, err
	}
	last := s.Last(now)
	switch {
	case noted != name:
		return false, 0, nil // another process came with another schedule, which is the newer one
	case !last.After(done):
		if ahead := s.Next(s.Next(now)); done.After(ahead) {
			// The clock was wrong by far: else nothing would happen until it is that time.
			f.opts.Log.WarnContext(ctx, "the schedule of the rotation was carried out for a date far ahead: was the clock wrong?", "date", done)
			err = f.opts.Store.RewindSchedule(ctx, name, ahead, last)
		}
		return false, 0, err
	}
	queued, due, err := f.queue(ctx, Bulk{Ask: Ask{Reason: "by schedule"}, Schedule: name, Date: last})
	if due {
		f.opts.Log.InfoContext(ctx, "the whole fleet is rotated by schedule", "date", last, "devices", queued)
	}
	return due, queued, err
}

// Note makes the schedule known, so that Due knows what was missed from now on.
func (f *Fleet) Note(ctx context.Context) error {
	s := f.opts.Schedule
	return f.opts.Store.NoteSchedule(ctx, s.String(), s.Last(f.opts.Runner.now()))
}

// Run carries the schedule out and counts the fleet, until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	noted, failing := false, false
	look := time.NewTimer(0)
	defer look.Stop()
	count := time.NewTimer(0)
	defer count.Stop()
	reload := time.NewTicker(reloadEvery)
	defer reload.Stop()
	// So that nobody who looks at it has to wait for that.
	if err := f.board.reload(ctx, f.opts.Store); err != nil && ctx.Err() == nil {
		f.opts.Log.WarnContext(ctx, "the devices could not be read", "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-count.C:
			if f.ages.refresh(ctx, f) {
				count.Reset(countEvery)
			} else { // it may become ours
				count.Reset(scheduleAgain)
			}
			continue
		case <-reload.C:
			if err := f.board.reload(ctx, f.opts.Store); err != nil && ctx.Err() == nil {
				f.opts.Log.WarnContext(ctx, "the devices could not be read anew", "err", err)
			}
			continue
		case <-look.C:
		}
		var err error
		if !noted {
			err = f.Note(ctx)
			noted = err == nil
		}
		if noted {
			_, _, err = f.Due(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			f.opts.Log.WarnContext(ctx, "the schedule of the rotation cannot be carried out", "err", err)
		case err == nil && failing:
			f.opts.Log.InfoContext(ctx, "the schedule of the rotation is carried out again")
		}
		failing = err != nil
		look.Reset(f.wait(failing))
	}
}

// wait returns how long until the schedule is to be looked at.
func (f *Fleet) wait(failing bool) time.Duration {
	if failing {
		return scheduleAgain
	}
	now := f.opts.Runner.now()
	next := f.opts.Schedule.Next(now)
	if next.IsZero() {
		return scheduleLook
	}
	return min(next.Sub(now), scheduleLook)
}

// Watch tells the pages of this process what other processes change, until ctx
// ends.
func (f *Fleet) Watch(ctx context.Context) error {
	poll := time.NewTicker(f.opts.Poll)
	defer poll.Stop()
	seen, known, silent := int64(0), false, false
	for {
		n, err := f.opts.Store.ForeignRotations(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !silent:
			f.opts.Log.WarnContext(ctx, "changes of rotations by other processes cannot be seen", "err", err)
		case err == nil && silent:
			f.opts.Log.InfoContext(ctx, "changes of rotations by other processes are seen again")
		}
		if silent = err != nil; !silent {
			if known && n > seen {
				f.opts.Echo()
			}
			seen, known = max(n, seen), true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
}
