package rotation

import (
	"context"
	"time"

	"signalbox/internal/fleet"
)

// FleetStore keeps what is about many devices at once. Its errors are those of
// Store.
type FleetStore interface {
	// QueueRotations queues devices, all or none of them, and returns how many.
	QueueRotations(ctx context.Context, q Bulk) (Queued, error)
	// RotationStandings returns where the devices stand that were changed since
	// a change, in no order; -1 is all of them. What it returns is complete up to
	// the greatest change of it.
	RotationStandings(ctx context.Context, after int64) ([]Standing, error)
	// ForeignRotations returns a number that grows with each change of a device
	// or its rotation that another process commits, and sometimes with one of ours.
	ForeignRotations(ctx context.Context) (int64, error)
	// RotationLeader returns who has the lease at now; "" is nobody.
	RotationLeader(ctx context.Context, now time.Time) (holder string, err error)

	// RotationSchedule returns the schedule that was noted last, and the date up
	// to which it was carried out. "": none was.
	RotationSchedule(ctx context.Context) (schedule string, done time.Time, err error)
	// NoteSchedule makes schedule the one that is carried out, up to a date so
	// far. If it is already, nothing changes. "" is none.
	NoteSchedule(ctx context.Context, schedule string, done time.Time) error
	// RewindSchedule takes back to a date what of schedule was carried out for
	// a date after latest.
	RewindSchedule(ctx context.Context, schedule string, latest, done time.Time) error
}

// Bulk says which devices are to be queued: of those that are active, not
// revoked and in OK.
type Bulk struct {
	Only []int64 // of these; nil: of all
	Ask  Ask     // without a Campaign
	Now  time.Time

	// Schedule and Date are of a schedule: it is carried out if it is the one that
	// was noted, and was not for that date or a later one so far.
	Schedule string
	Date     time.Time
}

// Queued is what became of a Bulk.
type Queued struct {
	Devices int
	Held    []int64 // were left out because a process is at them
	Due     bool    // it was the time of the schedule
}

// Standing is where a device stands.
type Standing struct {
	Device    int64
	Change    int64 // grows with each
	Active    bool
	Revoked   bool
	Wire      fleet.RotationState
	Step      Step
	Failures  int
	Stuck     bool
	Trouble   string
	Campaign  int64
	CreatedAt time.Time // the device

	SecretAt, StartedAt, CompletedAt, Deadline, RetryAt time.Time // zero: none, or not known
}

// takesPart reports whether the device is rotated with all others.
func (s *Standing) takesPart() bool { return s.Active && !s.Revoked }
