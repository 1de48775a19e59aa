package stream

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// Standing is how the one who opened a connection stands now.
type Standing struct {
	Expires time.Time // when the right to the stream ends; zero: it does not by itself
	Session string    // what ends with a logout, see Extend and LogOut; "" is none
	// May reports whether a device may be followed. It must be quick and always
	// say the same of the same DeviceRef. Nil: every device may be.
	May func(fleet.DeviceRef) bool
}

// ErrExpired is the error of a Check whose time is over. After any other error
// the right to the stream counts as revoked.
var ErrExpired = errors.New("stream: expired")

// Why a stream was ended, as its client and the metrics are told.
const (
	reasonExpired = "expired"
	reasonRevoked = "revoked"
	reasonLogout  = "logout"
)

const (
	warnAhead    = 60 * time.Second       // before the end, or a quarter of what is left
	runPause     = 20 * time.Millisecond  // between two looks at all connections
	longestSleep = time.Minute            // the clock may be set
	busyRetry    = 100 * time.Millisecond // for a connection that is subscribing just now
)

// eventTime is ISO 8601 in UTC, to the microsecond.
const eventTime = "2006-01-02T15:04:05.000000Z07:00"

func event(name string, payload any) *sse.Frame {
	b, _ := json.Marshal(payload) // always marshals
	return sse.Event(name, "", b)
}

func sessionEnded(reason string) *sse.Frame {
	return event("session-ended", map[string]string{"reason": reason})
}

// sees reports whether the one behind c may see the device. Registry.mu is held.
func (c *Connection) sees(d fleet.DeviceRef) bool {
	return c.standing.May == nil || c.standing.May(d)
}

// settle enters how the one behind c stands. Registry.mu is held, or nobody else
// knows c yet.
func (c *Connection) settle(s Standing) {
	if !s.Expires.Equal(c.standing.Expires) {
		c.warnAt = time.Time{}
		if !s.Expires.IsZero() {
			c.warnAt = s.Expires.Add(-min(warnAhead, time.Until(s.Expires)/4))
		}
	}
	c.standing = s
}

// due returns when something is to be done about the end of c, zero for never.
// Registry.mu is held.
func (c *Connection) due() time.Time {
	if !c.warnAt.IsZero() {
		return c.warnAt
	}
	return c.standing.Expires
}

// ask returns how the one behind c stands.
func (r *Registry) ask(c *Connection) (Standing, error) {
	for {
		r.mu.Lock()
		extended := c.extended
		r.mu.Unlock()
		s, err := c.check(extended)
		r.mu.Lock()
		same := c.extended.Equal(extended)
		r.mu.Unlock()
		if same {
			return s, err
		}
	}
}

// review asks how the one behind c stands, and carries that out: it ends c, or
// takes from it the devices that may not be seen any more.
func (r *Registry) review(c *Connection) {
	s, err := r.ask(c)
	if err != nil {
		r.expel(c, reasonOf(err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.closed {
		return
	}
	limited := c.standing.May != nil || s.May != nil
	c.settle(s)
	if !limited {
		return
	}
	for id := range c.follows {
		if d, ok := r.opts.Devices.ByID(id); ok && !c.sees(d) {
			r.forbid(c, d)
		}
	}
	if len(c.groups) > 0 {
		c.partial = true
		signal(r.joins)
	}
}

func reasonOf(err error) string {
	if errors.Is(err, ErrExpired) {
		return reasonExpired
	}
	return reasonRevoked
}

// forbid ends that c follows a device which it may not see any more, and tells
// the stream. r.mu is held.
func (r *Registry) forbid(c *Connection, d fleet.DeviceRef) {
	r.unlink(c, d.ID)
	c.reader.Unfollow(d.Key)
	if !c.Send(event("subscription-ended", map[string]any{"device_id": d.ID, "device_entity_id": d.EntityID, "reason": "forbidden"})) {
		c.end(nil) // who comes back finds out
	}
}

// expel ends c at once and says why.
func (r *Registry) expel(c *Connection, reason string) {
	r.mu.Lock()
	over := c.closed
	r.remove(c)
	r.mu.Unlock()
	if over {
		return
	}
	r.metrics.ended.WithLabelValues(reason).Inc()
	c.cut(sessionEnded(reason))
}

// Recheck asks for every connection how the one behind it stands now. Those
// whose right is over are ended; the others stop following what they may not
// see any more, and sets get, while Run runs, what they may see by now.
func (r *Registry) Recheck() {
	for _, c := range r.connections() {
		r.review(c)
	}
}

// RecheckSoon has Run do a Recheck. It does not wait, and many calls may
// become one Recheck.
func (r *Registry) RecheckSoon() { signal(r.rechecks) }

// signal wakes who listens to c, now or the next time it does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Extend moves the end of the streams of a session ahead, for one that was
// renewed: they go on without a reconnection. A time that is not later than the
// end they have changes nothing.
func (r *Registry) Extend(session string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.byRequest {
		s := c.standing
		if session == "" || s.Session != session || s.Expires.IsZero() || !until.After(s.Expires) {
			continue
		}
		s.Expires, c.extended = until, until
		c.settle(s)
	}
}

// LogOut ends the streams of a session that was logged out.
func (r *Registry) LogOut(session string) {
	for _, c := range r.connections() {
		r.mu.Lock()
		same := session != "" && c.standing.Session == session
		r.mu.Unlock()
		if same {
			r.expel(c, reasonLogout)
		}
	}
}

// DeviceUpdated ends the subscriptions of those who may not see a device any
// more, and has Run add it to the sets of those who may see it by now. Devices
// must show the change already.
func (r *Registry) DeviceUpdated(before, after fleet.DeviceRef) {
	if before.Tags == after.Tags && before.ModelID == after.ModelID && before.ModelCode == after.ModelCode {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.followers[after.ID] {
		if !c.sees(after) {
			r.forbid(c, after)
		}
	}
	joins := false
	for _, c := range r.byRequest {
		if len(c.groups) == 0 || c.standing.May == nil {
			continue
		}
		if _, follows := c.follows[after.ID]; !follows && c.group(after) != nil {
			c.partial, joins = true, true
		}
	}
	if joins {
		signal(r.joins)
	}
}

// Run ends streams whose time is over, after it has told them that it will be,
// and does what RecheckSoon asks for, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	var joining sync.WaitGroup
	defer joining.Wait()
	joining.Go(func() { r.join(ctx) })
	for {
		wait := longestSleep
		if next := r.expire(); !next.IsZero() {
			wait = min(max(time.Until(next), 0), longestSleep)
		}
		due := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			due.Stop()
			return nil
		case <-due.C:
		case <-r.opened:
		case <-r.rechecks:
			r.Recheck()
		}
		due.Stop()
		select { // so that many events are few looks
		case <-ctx.Done():
			return nil
		case <-time.After(runPause):
		}
	}
}

// expire does what is due about the ends of connections, and returns when
// something is due next, zero for never.
func (r *Registry) expire() (next time.Time) {
	var due []*Connection
	now := time.Now()
	later := func(c *Connection) {
		if at := c.due(); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	r.mu.Lock()
	for _, c := range r.byRequest {
		if at := c.due(); !at.IsZero() && !at.After(now) {
			due = append(due, c)
		} else {
			later(c)
		}
	}
	r.mu.Unlock()
	for _, c := range due {
		r.review(c) // its end may have moved where nobody told us
		r.mu.Lock()
		expires := c.standing.Expires
		over := !expires.IsZero() && !expires.After(now)
		if !over && !c.closed && !c.warnAt.IsZero() && !c.warnAt.After(now) {
			c.warnAt = time.Time{}
			c.Send(event("session-expiring", map[string]string{"expires_at": expires.UTC().Format(eventTime)}))
		}
		if !over && !c.closed {
			later(c)
		}
		r.mu.Unlock()
		if over {
			r.expel(c, reasonExpired)
		}
	}
	return next
}

// join makes connections follow what came to be visible of their sets. The
// journal is asked for that, so that it has a goroutine to itself: nobody whose
// right is over stays because a journal is slow.
func (r *Registry) join(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.joins:
		}
		var all []fleet.DeviceRef
		busy := false
		for _, c := range r.connections() {
			r.mu.Lock()
			partial := c.partial && !c.closed
			r.mu.Unlock()
			if !partial {
				continue
			}
			if !c.busy.TryLock() {
				busy = true
				continue
			}
			r.mu.Lock()
			c.partial = false // what changes from here on is another change
			r.mu.Unlock()
			if all == nil {
				all = r.opts.Devices.All()
			}
			err := r.complete(ctx, c, all)
			c.busy.Unlock()
			if err != nil && fleet.KindOf(err) != fleet.Forbidden && ctx.Err() == nil { // Forbidden: the connection has gone
				r.opts.Log.Warn("a stream could not follow what its set has by now and was ended", "request_id", c.RequestID, "err", err)
				c.end(nil)
			}
		}
		if busy {
			signal(r.joins)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(busyRetry):
		}
	}
}

// complete makes c follow those of the devices that its groups have and it does
// not follow. c.busy is held.
func (r *Registry) complete(ctx context.Context, c *Connection, all []fleet.DeviceRef) error {
	wanted := map[Want][]fleet.DeviceRef{}
	r.mu.Lock()
	for _, d := range all {
		if _, follows := c.follows[d.ID]; follows {
			continue
		}
		if g := c.group(d); g != nil {
			wanted[g.want] = append(wanted[g.want], d)
		}
	}
	r.mu.Unlock()
	for want, devices := range wanted {
		if err := r.follow(ctx, c, devices, want, false, 0); err != nil {
			return err
		}
	}
	return nil
}
