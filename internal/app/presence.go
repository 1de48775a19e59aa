package app

import (
	"context"
	"slices"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
)

// openPresence returns who knows which devices are there.
func (a *app) openPresence(ctx context.Context, db *sqlstore.DB, devices *registry.Service) (*presence.Tracker, error) {
	tracker, err := presence.New(ctx, presence.Options{
		Store: db, Directory: devices.Directory(), Log: a.log, Registerer: a.metrics,
		Window: time.Duration(a.cfg.PresenceWindow), Keep: time.Duration(a.cfg.PresenceHistory), Sole: a.cfg.DatabaseURL == "",
	})
	if err != nil {
		return nil, err
	}
	devices.Observe(func(_ context.Context, ch registry.Change) {
		switch ch.Kind {
		case registry.Created:
			tracker.Created(ch.After)
		case registry.Deleted:
			tracker.Forget(ch.Before.ID)
		}
	})
	return tracker, nil
}

// ends is how the ends of sessions are told to people. A connection that the
// server closes when its token expires is not the device's going: it comes back
// with the next one.
var ends = map[nats.End]presence.End{
	nats.Closed:   {Reason: "session closed"},
	nats.Lost:     {Reason: "connection lost"},
	nats.Replaced: {Reason: "another connection took its place"},
	nats.Expired:  {Reason: "its token expired", Excused: true},
	nats.Cut:      {Reason: "disconnected, as its access was withdrawn"},
	nats.Faulty:   {Reason: "disconnected, as it broke the protocol"},
	nats.Unseen:   {Reason: "connection lost"},
}

// session hears of the sessions at the embedded broker.
func (a *app) session(s nats.Session) {
	if !s.Open {
		a.presence.Disconnected(s.Number, ends[s.End])
		return
	}
	a.presence.Connected(s.Number, s.ClientID)
	a.reminders.arrived(s.ClientID, s.Number)
}

// recallAtOnce is of how many devices the last line is looked up together.
const recallAtOnce = 500

// recall tells a tracker when devices last said something, as far as that was
// kept from before it knew of them.
func recall(tracker *presence.Tracker, all []fleet.DeviceRef, activity *logs.Activity) {
	for devices := range slices.Chunk(all, recallAtOnce) {
		keys := make([]string, len(devices))
		for n, d := range devices {
			keys[n] = d.Key
		}
		for n, said := range activity.Recent(keys, time.Now()) {
			if !said.Last.Received.IsZero() {
				tracker.Recall(devices[n].ID, said.Last.Received)
			}
		}
	}
}

// contacts is what a tracker knows, for the rotation of credentials.
func contacts(tracker *presence.Tracker) rotation.Presence {
	return func(device int64) rotation.Contact {
		s := tracker.Of(device)[0]
		return rotation.Contact{Online: s.Online, LastSeen: s.LastSeen, Drops: s.Drops, ClockOff: s.ClockOff, ClockSaid: s.ClockSaid}
	}
}
