package presence

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Run stores what is seen, and says who is gone, until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), finalFlush)
			defer cancel()
			err := t.flush(last)
			if err == nil {
				err = t.o.Store.RemovePresence(last, time.Time{}, t.holder)
			}
			if err != nil {
				t.o.Log.Warn("what was last seen of devices was not stored", "err", err)
			}
			return nil
		case <-tick.C:
		case <-t.wake:
			select { // others come and go with it
			case <-ctx.Done():
				continue
			case <-time.After(flushSoon):
			}
			if err := t.flush(ctx); err != nil && ctx.Err() == nil {
				failing = t.failed(failing, err)
			}
			continue
		}
		t.sweep(now())
		err := t.flush(ctx)
		if err == nil && !t.o.Sole {
			err = t.merge(ctx)
		}
		if err == nil && time.Since(t.trimmed) >= trimEvery {
			t.trimmed = time.Now()
			err = t.o.Store.TrimPresence(ctx, now().Add(-t.o.Keep))
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			failing = t.failed(failing, err)
		case failing:
			failing = false
			t.o.Log.Info("the presence of devices is stored again")
		}
	}
}

func (t *Tracker) failed(already bool, err error) bool {
	if !already {
		t.o.Log.Warn("the presence of devices is not stored", "err", err)
	}
	return true
}

// sweep says of the devices that were heard of too long ago that they are gone.
func (t *Tracker) sweep(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for clientID := range t.strangers { // one may have connected in the moment in which it was made
		if ref, ok := t.o.Directory.ByClientID(clientID); ok {
			t.foundLocked(ref.ID, clientID)
		}
	}
	for _, d := range t.devices {
		if !d.online || d.mine > 0 || d.others > 0 {
			continue
		}
		switch {
		case !d.due.IsZero():
			if !at.Before(d.due) {
				t.stepLocked(d, Step{Transition: Transition{At: at, Reason: d.dueReason}})
			}
		case d.bySession: // its session was another process's
			d.expect(at, moved)
		default:
			heard := d.seen
			if heard.Before(t.began) { // nobody listened meanwhile
				heard = t.began
			}
			if end := heard.Add(t.o.Window); !at.Before(end.Add(t.slack)) {
				t.stepLocked(d, Step{Transition{At: end, Reason: fmt.Sprintf("nothing heard for %s", short(t.o.Window))}, d.seen})
			}
		}
	}
}

// short is 5m and not 5m0s.
func short(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}

// flush stores what changed, a part at a time. What a store that fails did not
// take is tried again.
func (t *Tracker) flush(ctx context.Context) error {
	for first := true; ; first = false {
		c, of, more := t.take()
		if first && t.o.Sole && len(c.Rows)+len(c.Steps) == 0 {
			return nil // there is nobody who would want to know that this process lives
		}
		r, err := t.o.Store.CommitPresence(ctx, c)
		t.settle(c, of, r, err)
		if err != nil || !more {
			return err
		}
	}
}

// take returns what is to be stored, and whose it is. Steps come with the rows that they are of.
func (t *Tracker) take() (c Change, of []*device, more bool) {
	at := now()
	c = Change{Holder: t.holder, Now: at, Until: at.Add(lease)}
	t.mu.Lock()
	defer t.mu.Unlock()
	add := func(d *device) {
		delete(t.changed, d.id)
		of = append(of, d)
		c.Rows = append(c.Rows, Row{Device: d.id, SeenAt: d.seen, Source: d.source, BySession: d.bySession, ClockAt: d.clockAt, ClockOff: d.clockOff})
		if !t.o.Sole && d.told != d.mine {
			c.Sessions = append(c.Sessions, Sessions{Device: d.id, Count: d.mine})
		}
	}
	n := min(len(t.steps), oneCommit)
	c.Steps = slices.Clone(t.steps[:n])
	t.steps = slices.Delete(t.steps, 0, n)
	for _, s := range c.Steps {
		if d := t.changed[s.Device]; d != nil {
			add(d)
		}
	}
	for _, d := range t.changed {
		if len(c.Rows) >= oneCommit {
			break
		}
		add(d)
	}
	if t.lost > 0 {
		t.o.Log.Warn("comings and goings of devices were not stored, as the database was away for too long", "count", t.lost)
		t.lost = 0
	}
	return c, of, len(t.steps)+len(t.changed) > 0
}

// settle notes what became of what was to be stored.
func (t *Tracker) settle(c Change, of []*device, r Result, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.steps = append(c.Steps, t.steps...)
		for _, d := range of {
			if t.devices[d.id] == d {
				t.changed[d.id] = d
			}
		}
		return
	}
	if r.Fresh {
		for _, d := range t.devices {
			if d.told > 0 {
				d.told = 0
				t.changed[d.id] = d
			}
		}
	}
	for n, d := range of {
		d.stored = c.Rows[n].SeenAt
	}
	for _, s := range c.Sessions {
		if d := t.devices[s.Device]; d != nil {
			d.told = s.Count
		}
	}
	for n, s := range c.Steps {
		o := r.Outcomes[n]
		if o.Taken && !s.Online {
			t.drops.Inc()
		}
		d := t.devices[s.Device]
		if d == nil {
			continue
		}
		d.steps--
		switch {
		case o.Taken:
		case !o.Known: // it was deleted, and this came after
			if d.mine == 0 {
				t.setLocked(d, false, d.since)
				delete(t.devices, d.id)
			}
		default: // others knew better
			if !s.Online {
				d.drops = slices.DeleteFunc(d.drops, func(at time.Time) bool { return at.Equal(s.At) })
			}
			if d.steps == 0 {
				t.setLocked(d, o.Online, o.Since)
			}
		}
	}
}

// merge reads what other processes stored.
func (t *Tracker) merge(ctx context.Context) error {
	if err := t.o.Store.RemovePresence(ctx, now(), ""); err != nil {
		return err
	}
	after := t.version
	rows, err := t.o.Store.Presences(ctx, after)
	if err != nil {
		return err
	}
	var gone []Transition
	if len(rows) > 0 {
		if gone, err = t.o.Store.PresenceDrops(ctx, now().Add(-lateCommits)); err != nil {
			return err
		}
	}
	t.mu.Lock()
	for _, r := range rows {
		t.version = max(t.version, r.Version)
		t.takeLocked(t.ofLocked(r.Device), r)
	}
	for _, s := range gone {
		t.ofLocked(s.Device).dropped(s.At)
	}
	t.mu.Unlock()
	return t.readSessions(ctx, after)
}

// readSessions learns of the sessions at other processes, and of those that
// ended with their process: the devices are given time to come back.
func (t *Tracker) readSessions(ctx context.Context, after int64) error {
	changed, err := t.o.Store.PresenceSessions(ctx, after)
	if err != nil {
		return err
	}
	alive, err := t.o.Store.PresenceProcesses(ctx)
	if err != nil {
		return err
	}
	at := now()
	t.mu.Lock()
	defer t.mu.Unlock()
	set := func(holder string, id int64, n int) *device {
		d := t.ofLocked(id)
		d.others += n - t.others[holder][id]
		if n > 0 {
			t.others[holder][id] = n
			d.due = time.Time{}
		} else {
			delete(t.others[holder], id)
		}
		return d
	}
	for _, s := range changed {
		if s.Holder == t.holder {
			continue
		}
		if t.others[s.Holder] == nil {
			t.others[s.Holder] = map[int64]int{}
		}
		set(s.Holder, s.Device, s.Count)
	}
	for holder, sessions := range t.others {
		if until, ok := alive[holder]; ok && at.Before(until) {
			continue
		}
		for id := range sessions {
			if d := set(holder, id, 0); d.online && d.mine+d.others == 0 {
				d.expect(at, moved)
			}
		}
		delete(t.others, holder)
	}
	for id, how := range t.doubtful {
		if d := t.devices[id]; d != nil && d.online && d.mine+d.others == 0 {
			t.endedLocked(d, how)
		}
	}
	clear(t.doubtful) // who has sessions now sees to their end
	return nil
}
