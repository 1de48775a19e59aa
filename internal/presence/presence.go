// Package presence knows which devices are there: from their sessions at the
// broker, the tokens they get and the lines they send, and since when. Nothing
// in it is guessed: what nobody saw is not known.
package presence

import (
	"context"
	"time"

	"signalbox/internal/fleet"
)

// Source is the way in which a device was last heard of.
type Source string

// The sources.
const (
	FromSession Source = "session" // its MQTT session began, ended, or is open
	FromToken   Source = "token"   // it got an access token, or showed one
	FromLine    Source = "line"    // it sent log lines
)

// Bounds of what is kept, and how often it is.
const (
	KeptTransitions = 1000           // of each device
	DropsWithin     = 24 * time.Hour // in which Status.Drops are counted

	DefaultWindow = 5 * time.Minute
	DefaultKeep   = 30 * 24 * time.Hour
)

// Status is what is known of one device.
type Status struct {
	Device   int64
	Online   bool
	Sessions int       // at the embedded brokers of all processes
	LastSeen time.Time // zero: never; the moment that is asked about, while it has a session
	Source   Source    // of LastSeen; "": never
	Since    time.Time // of Online; zero: it was never online
	Drops    int       // times that it went away in the last 24 hours

	ClockOff  time.Duration // by how much its clock is ahead of ours; negative: behind
	ClockSaid bool          // it signed what its clock says, in the assertion it got a token with
}

// Transition is that a device came or went.
type Transition struct {
	Device int64
	At     time.Time
	Online bool
	Reason string // in plain words, for people; may be ""
}

// Row is what the store has of one device.
type Row struct {
	Device    int64
	Version   int64 // of the commit that changed it last
	Online    bool
	Since     time.Time // zero: it was never online
	SeenAt    time.Time
	Source    Source
	BySession bool          // it was last seen through a session, not by lines alone
	ClockAt   time.Time     // when ClockOff was learnt; zero: never
	ClockOff  time.Duration // whole microseconds
}

// Sessions is how many sessions a process has of a device.
type Sessions struct {
	Device  int64
	Holder  string // the process
	Count   int
	Version int64 // of the commit that changed it last
}

// Step is a transition that a process wants to be true. One that is true
// already changes nothing. A device goes away only if no other process whose lease
// runs has a session of it, and nobody has heard of it after Unheard.
type Step struct {
	Transition
	Unheard time.Time // zero: whenever it was heard of
}

// Change is what one process saw.
type Change struct {
	Holder     string
	Now, Until time.Time // its lease is renewed
	Rows       []Row     // Online, Since and Version are not looked at; a SeenAt or ClockAt from before what is there changes nothing
	Sessions   []Sessions
	Steps      []Step // in the order in which they were seen, after Rows
}

// Result says what became of a change.
type Result struct {
	// Fresh says that the process was not there: what it said of sessions before is
	// gone, because its lease had ended.
	Fresh    bool
	Outcomes []Outcome // of the steps, in their order
}

// Outcome says what became of a step.
type Outcome struct {
	Taken  bool
	Online bool      // as it is now
	Since  time.Time // of that
	Known  bool      // the device is there
}

// Store keeps presence. Devices that are not there are passed over, and what is
// of a device goes with it. Times have whole microseconds. Versions rise with
// every commit, in the order of the commits. Errors are fleet.Unavailable or of
// the context.
type Store interface {
	// CommitPresence keeps a change in one transaction.
	CommitPresence(ctx context.Context, c Change) (Result, error)

	// Presences returns the rows that changed after a version.
	Presences(ctx context.Context, after int64) ([]Row, error)

	// PresenceSessions returns the sessions that changed after a version, those
	// that fell to none among them, of all processes that were not removed.
	PresenceSessions(ctx context.Context, after int64) ([]Sessions, error)

	// PresenceProcesses returns until when the lease of each process runs.
	PresenceProcesses(ctx context.Context) (map[string]time.Time, error)

	// RemovePresence removes processes with their sessions: those whose lease ended
	// before, and the one that is named, if any.
	RemovePresence(ctx context.Context, ended time.Time, holder string) error

	// PresenceDrops returns when devices went away after a moment, oldest first.
	PresenceDrops(ctx context.Context, after time.Time) ([]Transition, error)

	// PresenceHistory returns transitions of a device from a moment on, newest first.
	PresenceHistory(ctx context.Context, device int64, from time.Time, limit int) ([]Transition, error)

	// TrimPresence removes transitions from before.
	TrimPresence(ctx context.Context, before time.Time) error
}

// Directory finds the device that connects under a client id.
type Directory interface {
	ByClientID(clientID string) (fleet.DeviceRef, bool)
}

// End says how a session ended.
type End struct {
	Reason string // in plain words
	// Excused says that it was not the device that went: it is expected back, and
	// only gone if it does not come.
	Excused bool
}
