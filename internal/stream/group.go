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
	set  Set
	want Want
}

// members returns the devices of the set.
func (r *Registry) members(s Set) ([]fleet.DeviceRef, error) {
	if !s.All && s.ModelID == 0 {
		var members []fleet.DeviceRef
		for _, id := range s.Devices {
			d, ok := r.opts.Devices.ByID(id)
			if !ok {
				return nil, fleet.ErrNotFound("Device", id)
			}
			members = append(members, d)
		}
		return members, nil
	}
	return slices.DeleteFunc(r.opts.Devices.All(), func(d fleet.DeviceRef) bool { return !s.has(d) }), nil
}

// SubscribeSet makes the subject's connection follow every device of the set,
// whether or not it has an entity id, and returns them. A model, and all, are
// not subject to the limit of devices. Errors are those of Subscribe; after one,
// some of the devices may be followed.
func (r *Registry) SubscribeSet(ctx context.Context, subject, requestID string, set Set, want Want) ([]fleet.DeviceRef, error) {
	members, err := r.members(set)
	if err != nil {
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
	if set.All || set.ModelID != 0 {
		most = 0
		later := want
		later.After = "" // what is made later has nothing before it
		r.mu.Lock()
		c.groups = slices.DeleteFunc(c.groups, func(g group) bool { return g.set.All == set.All && g.set.ModelID == set.ModelID })
		c.groups = append(c.groups, group{set, later})
		r.mu.Unlock()
	}
	for _, d := range members {
		if err := r.follow(ctx, c, d, want, most); err != nil && fleet.KindOf(err) != fleet.NotFound { // deleted meanwhile
			return nil, err
		}
	}
	return members, nil
}

// UnsubscribeSet ends that and returns how many subscriptions ended. Errors:
// NotFound for a device of a list, Forbidden if the connection is not the
// subject's.
func (r *Registry) UnsubscribeSet(subject, requestID string, set Set) (ended int, err error) {
	members, err := r.members(set)
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
	defer r.mu.Unlock()
	c.groups = slices.DeleteFunc(c.groups, func(g group) bool { return set.All || set.ModelID != 0 && g.set.ModelID == set.ModelID })
	for _, d := range members {
		if _, follows := c.follows[d.ID]; follows {
			r.unlink(c, d.ID)
			c.reader.Unfollow(d.Key)
			ended++
		}
	}
	return ended, nil
}

// DeviceCreated makes the connections that follow a set which the device
// belongs to follow it too.
func (r *Registry) DeviceCreated(ctx context.Context, d fleet.DeviceRef) {
	for _, c := range r.connections() {
		r.mu.Lock()
		i := slices.IndexFunc(c.groups, func(g group) bool { return g.set.has(d) })
		var want Want
		if i >= 0 {
			want = c.groups[i].want
		}
		r.mu.Unlock()
		if i < 0 {
			continue
		}
		c.busy.Lock()
		err := r.follow(ctx, c, d, want, 0)
		c.busy.Unlock()
		if err != nil && fleet.KindOf(err) != fleet.Forbidden { // the connection has gone
			r.opts.Log.Warn("a stream does not follow a new device of its set", "device", d.Key, "request_id", c.RequestID, "err", err)
		}
	}
}
