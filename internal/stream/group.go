package stream

import (
	"context"
	"slices"

	"signalbox/internal/fleet"
)

// Set names several devices: those listed, those of a model, or all. Of the
// last two, devices that are made later are part.
type Set struct {
	Devices []int64
	ModelID int64
	All     bool
}

// has reports whether a device that is made now belongs to the set.
func (s Set) has(d fleet.DeviceRef) bool { return s.All || s.ModelID != 0 && d.ModelID == s.ModelID }

// group is a set that a connection follows.
type group struct {
	set    Set
	want   Want
	except map[int64]struct{} // its devices that were unsubscribed one by one
}

// has reports whether a device is part of the group.
func (g *group) has(d fleet.DeviceRef) bool {
	_, left := g.except[d.ID]
	return !left && g.set.has(d)
}

// group returns the group of c that has the device, nil if there is none or the
// device may not be seen. Registry.mu is held.
func (c *Connection) group(d fleet.DeviceRef) *group {
	for i := range c.groups {
		if g := &c.groups[i]; g.has(d) && c.sees(d) {
			return g
		}
	}
	return nil
}

// leaveOut takes the device out of what c follows of sets.
func (r *Registry) leaveOut(c *Connection, d fleet.DeviceRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range c.groups {
		if g := &c.groups[i]; g.set.has(d) {
			if g.except == nil {
				g.except = map[int64]struct{}{}
			}
			g.except[d.ID] = struct{}{}
		}
	}
}

// members returns the devices of the set that c may see; nil may see all.
// Errors: NotFound for a device of a list.
func (r *Registry) members(c *Connection, s Set) ([]fleet.DeviceRef, error) {
	may := func(fleet.DeviceRef) bool { return true }
	if c != nil {
		r.mu.Lock()
		if c.standing.May != nil {
			may = c.standing.May
		}
		r.mu.Unlock()
	}
	if !s.All && s.ModelID == 0 {
		var members []fleet.DeviceRef
		for _, id := range s.Devices {
			d, ok := r.opts.Devices.ByID(id)
			if !ok || !may(d) {
				return nil, fleet.ErrNotFound("Device", id)
			}
			members = append(members, d)
		}
		return members, nil
	}
	return slices.DeleteFunc(r.opts.Devices.All(), func(d fleet.DeviceRef) bool { return !s.has(d) || !may(d) }), nil
}

// SubscribeSet makes the subject's connection follow every device of the set,
// that may be seen, whether or not it has an entity id, and returns them. A model, and all, are
// not subject to the limit of devices. Errors are those of Subscribe; after one,
// what was followed before still is and nothing else.
func (r *Registry) SubscribeSet(ctx context.Context, subject, requestID string, set Set, want Want) ([]fleet.DeviceRef, error) {
	if _, err := r.members(nil, set); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c, err := r.caller(subject, requestID)
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	most := r.opts.MaxSubscriptions
	before := func() {}
	if set.All || set.ModelID != 0 {
		most = 0
		// First the set, then its members: a device that is made in between is
		// one of them, and one that is made later finds the set.
		before = r.enter(c, group{set: set, want: want})
	}
	members, err := r.members(c, set)
	if err == nil {
		err = r.follow(ctx, c, r.others(c, members), want, false, most)
	}
	if err != nil {
		before()
		return nil, err
	}
	return members, nil
}

// others returns the devices without those that c follows by subscriptions to
// them alone.
func (r *Registry) others(c *Connection, devices []fleet.DeviceRef) (others []fleet.DeviceRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range devices {
		if !c.follows[d.ID].own {
			others = append(others, d)
		}
	}
	return others
}

// enter adds a group to those of c, in the place of one of the same set, and
// returns what undoes that. c.busy is held.
func (r *Registry) enter(c *Connection, g group) (undo func()) {
	g.want.After = "" // that is of the devices there are
	r.mu.Lock()
	defer r.mu.Unlock()
	before := c.groups
	c.groups = append(slices.DeleteFunc(slices.Clone(before), func(o group) bool {
		return g.set.All == o.set.All && g.set.ModelID == o.set.ModelID
	}), g)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		c.groups = before
	}
}

// UnsubscribeSet ends that and returns how many subscriptions ended: devices
// that the connection follows by themselves, or for another set, stay. Errors:
// NotFound for a device of a list, Forbidden if the connection is not the
// subject's.
func (r *Registry) UnsubscribeSet(ctx context.Context, subject, requestID string, set Set) (ended int, err error) {
	members, err := r.members(nil, set)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	c, err := r.caller(subject, requestID)
	r.mu.Unlock()
	if err != nil {
		return 0, err
	}
	c.busy.Lock()
	defer c.busy.Unlock()
	r.mu.Lock()
	c.groups = slices.DeleteFunc(slices.Clone(c.groups), func(g group) bool { return g.set.All == set.All && g.set.ModelID == set.ModelID })
	r.mu.Unlock()
	for _, d := range r.others(c, members) {
		r.mu.Lock()
		_, follows := c.follows[d.ID]
		r.mu.Unlock()
		if !follows {
			continue
		}
		var want Want
		if len(set.Devices) == 0 && r.belongs(c, d, &want) {
			if err := r.follow(ctx, c, []fleet.DeviceRef{d}, want, false, 0); err != nil {
				return ended, err
			}
			continue
		}
		if len(set.Devices) > 0 {
			r.leaveOut(c, d)
		}
		r.unfollow(c, d)
		ended++
	}
	return ended, nil
}

// DeviceCreated makes the connections that follow a set which the device
// belongs to follow it too. Devices must show the device already, but no line of
// it may be stored before DeviceCreated has returned: so no id of a stream can
// be beyond one that the stream does not know to be its own. A connection that
// cannot follow the device is ended, for its client to come back from where it is.
func (r *Registry) DeviceCreated(ctx context.Context, d fleet.DeviceRef) {
	for _, c := range r.connections() {
		if !r.belongs(c, d, nil) {
			continue
		}
		c.busy.Lock()
		var want Want
		var err error
		if r.belongs(c, d, &want) {
			want.Made = true
			err = r.follow(ctx, c, []fleet.DeviceRef{d}, want, false, 0)
		}
		c.busy.Unlock()
		if err != nil && fleet.KindOf(err) != fleet.Forbidden { // the connection has gone
			r.opts.Log.Warn("a stream could not follow a new device of its set and was ended", "device", d.Key, "request_id", c.RequestID, "err", err)
			c.end(nil)
		}
	}
}

// belongs reports whether c follows a set that d is in, and puts what it wants
// of that into want, if that is not nil.
func (r *Registry) belongs(c *Connection, d fleet.DeviceRef, want *Want) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := c.group(d)
	if g != nil && want != nil {
		*want = g.want
	}
	return g != nil
}
