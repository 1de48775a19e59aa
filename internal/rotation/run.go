package rotation

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

// Run looks after timers, what was left unfinished, and the queue, until ctx ends.
// Of several processes one does at a time. What it costs does not grow with the
// fleet.
func (r *Runner) Run(ctx context.Context) error {
	run := &running{Runner: r, at: map[int64]bool{}}
	defer run.end(ctx)
	rounds(ctx, run.round, r.opts.Poll, r.wake, r.opts.Log, "rotations")
	return nil
}

// rounds calls round at once, every poll and on each wake, until ctx ends. what
// fails is logged when it begins to, and when it does not any more.
func rounds(ctx context.Context, round func(context.Context) error, poll time.Duration, wake <-chan struct{}, log *slog.Logger, what string) {
	every := time.NewTicker(poll)
	defer every.Stop()
	failing := false
	for {
		err := round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			log.WarnContext(ctx, what+" do not get on", "err", err)
		case err == nil && failing:
			log.InfoContext(ctx, what+" get on again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		case <-wake:
		}
	}
}

// giveUp ends a lease, so that the next one need not wait for its end, also when
// ctx has ended.
func giveUp(ctx context.Context, release func(context.Context, string) error, holder string, log *slog.Logger, whose string) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := release(last, holder); err != nil {
		log.WarnContext(last, "the lease of the "+whose+" is kept to its end", "err", err)
	}
}

// end waits for what was started, and gives the lease up.
func (r *running) end(ctx context.Context) {
	r.wait.Wait()
	giveUp(ctx, r.opts.Store.ReleaseRotationLease, r.holder, r.opts.Log, "rotation")
}

// running is the state of Run.
type running struct {
	*Runner
	wait sync.WaitGroup

	mu sync.Mutex
	at map[int64]bool // devices that are looked after now

	until   time.Time // the lease
	last    time.Time // the round before
	backlog []int64   // that wait for something since before the lease began, or the clock was set back
	counted time.Time
}

// leaseEnds returns a time at which a lease that another one holds now is over.
// Where there is no other process it is that of one that was killed.
func (r *Runner) leaseEnds(now time.Time) time.Time {
	if r.opts.Sole {
		return now.AddDate(100, 0, 0)
	}
	return now
}

// round does what is to be done now, and starts what takes long.
func (r *running) round(ctx context.Context) error {
	now := r.now()
	back := now.Before(r.last)
	r.last = now
	// One that is longer than it can be is of before the clock was set back.
	if led, left := now.Before(r.until), r.until.Sub(now); !led || left < r.opts.Lease*2/3 || left > r.opts.Lease {
		until := now.Add(r.opts.Lease)
		got, err := r.opts.Store.RotationLease(ctx, r.holder, r.leaseEnds(now), until)
		if err != nil || !got {
			if !got && err == nil || !led {
				r.until = time.Time{}
			}
			return err
		}
		r.until = until
		if !led {
			if err := r.opts.Store.AdoptRotations(ctx); err != nil {
				r.until = time.Time{}
				return err
			}
			back = true // perhaps, since the last process that had it
		}
	}
	if back {
		waiting, err := r.opts.Store.WaitingRotations(ctx)
		if err != nil {
			r.until, r.last = time.Time{}, time.Time{} // and all of this again
			return err
		}
		r.backlog, r.counted = waiting, time.Time{}
	}
	for len(r.backlog) > 0 && r.spawn(ctx, r.backlog[0], true) {
		r.backlog = r.backlog[1:]
	}
	r.mu.Lock()
	most := workers + len(r.at)
	r.mu.Unlock()
	ids, err := r.opts.Store.DueRotations(ctx, now, most)
	if err != nil {
		return err
	}
	for _, id := range ids {
		r.spawn(ctx, id, false)
	}
	if err := r.advance(ctx); err != nil {
		return err
	}
	if now.Sub(r.counted) >= countEvery {
		counts, err := r.opts.Store.RotationCounts(ctx)
		if err != nil {
			return err
		}
		for state, n := range counts {
			r.devices.WithLabelValues(string(state)).Set(float64(n))
		}
		r.counted = now
	}
	return nil
}

// spawn looks after a device on the side, and reports whether there was room.
func (r *running) spawn(ctx context.Context, device int64, force bool) bool {
	return r.aside(ctx, device, func() error { return r.tend(ctx, device, force) })
}

func (r *running) aside(ctx context.Context, device int64, f func() error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.at[device]:
		return true
	case len(r.at) >= workers:
		return false
	}
	r.at[device] = true
	r.wait.Go(func() {
		err := f()
		r.mu.Lock()
		delete(r.at, device)
		r.mu.Unlock()
		if err != nil && ctx.Err() == nil && fleet.KindOf(err) != fleet.Exists {
			r.opts.Log.WarnContext(ctx, "a rotation does not get on", "device", device, "err", err)
		}
	})
	return true
}

// advance starts attempts: of what campaigns queued all, and of the rest while
// there is room in flight.
func (r *running) advance(ctx context.Context) error {
	ids, err := r.opts.Store.QueuedByCampaigns(ctx, workers)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !r.now().Before(r.until) {
			return nil
		}
		if _, err := r.begin(ctx, id); err != nil {
			return err
		}
	}
	ids, err = r.opts.Store.QueuedRotations(ctx, r.opts.InFlight+workers)
	if err != nil || len(ids) == 0 {
		return err
	}
	n, err := r.opts.Store.RotationsInFlight(ctx, r.now())
	if err != nil {
		return err
	}
	for _, id := range ids {
		if n >= r.opts.InFlight || !r.now().Before(r.until) {
			return nil
		}
		started, err := r.begin(ctx, id)
		if err != nil && fleet.KindOf(err) == fleet.TooMany {
			return nil
		}
		if err != nil {
			return err
		}
		if started {
			n++
		}
	}
	return nil
}

// begin commits the start of an attempt and does the rest of it on the side. One
// device that cannot be started now does not keep the others from it.
// fleet.TooMany: there is no slot.
func (r *running) begin(ctx context.Context, device int64) (started bool, err error) {
	unlock, ok := r.turns.Try(device)
	if !ok {
		return false, nil
	}
	rec, err := r.opts.Store.Rotation(ctx, device)
	if err != nil || r.busy(&rec) || rec.State.Wire != fleet.RotationQueued || rec.Revoked {
		unlock()
		if fleet.KindOf(err) == fleet.NotFound {
			err = nil
		}
		return false, err
	}
	todo, _, err := r.commit(ctx, &rec, Start{}, nil, 0)
	if err != nil {
		unlock()
		if fleet.KindOf(err) == fleet.Exists || fleet.KindOf(err) == fleet.NotFound {
			err = nil
		}
		return false, err
	}
	if len(todo) == 0 {
		unlock()
		return true, nil
	}
	r.wait.Go(func() {
		defer unlock()
		if err := r.perform(ctx, &rec, todo); err != nil && ctx.Err() == nil {
			r.opts.Log.WarnContext(ctx, "a rotation does not get on", "client_id", rec.ClientID, "err", err)
		}
	})
	return true, nil
}
