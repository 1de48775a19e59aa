package rotation

import (
	"context"
	"time"

	"signalbox/internal/fleet"
)

// Record is what is kept of the rotation of one device.
type Record struct {
	Device   int64
	ClientID string // read only, as are the next three
	Key      string
	Active   bool
	Revoked  bool  // the device cannot do anything until it is restored
	Version  int64 // 0: nothing was kept so far

	State    State
	Old, New string // sealed; "" if there is none, or it is not known here
	OldName  string // what tokens got with it name it; "" if they do not
	NewName  string
	SecretAt time.Time // when the device's secret was made; zero: not known
	NewAt    time.Time // when the new one was

	// Of the attempt that was asked for last.
	Actor, Reason string
	Campaign      int64 // 0: none
	Urgent        bool  // a person asked for this device, or it waits for its second turn

	// SlotUntil is until when the device holds one of the slots of which there are
	// so many (Options.InFlight); zero: it holds none.
	SlotUntil time.Time

	// What is to be done outside, by Policy.Unfinished.
	Holder    string    // the process that is at it; "" if none is
	HeldUntil time.Time // then it is taken to be dead
	TodoAt    time.Time // when it is to be done, again perhaps; zero: there is nothing
	Tries     int       // that failed in a row
	Trouble   string    // why the last one did; safe to be shown
	Stuck     bool      // it failed too often, and a person ought to look at it
}

// Due returns when the record must be looked at; zero: never.
func (r *Record) Due(p Policy) time.Time {
	at := earlier(p.Wake(r.State), r.TodoAt)
	if r.State.Wire == fleet.RotationTimeout {
		at = earlier(at, r.State.RetryAt)
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Outcome is what became of an attempt.
type Outcome string

// The outcomes.
const (
	Running  Outcome = ""         // it goes on
	Done     Outcome = "done"     // the device used its new secret, and has no other
	Believed Outcome = "believed" // the device seems to have its new secret; the old one stays good
	TimedOut Outcome = "timeout"
	Aborted  Outcome = "aborted"
)

// Attempt is one of a device's.
type Attempt struct {
	Number        int64
	Actor, Reason string
	Campaign      int64
	StartedAt     time.Time
	EndedAt       time.Time // zero: it goes on
	Outcome       Outcome
	Steps         []Entry
}

// Entry is a line of the history of an attempt.
type Entry struct {
	At     time.Time
	What   string // a word of those of the runner, such as "fetched"
	Detail string // for people; "" if there is nothing to add
}

// Change is what is committed at once.
type Change struct {
	Record  Record   // Version is that of the record as it was read
	Attempt *Attempt // stored or updated, without its Steps; nil: it is as it was
	Entries []Entry  // of the attempt of the record's state
	Ended   *Attempt // the one before, if the change ends it
	Due     time.Time

	// Slots, if not 0, is how many devices may hold a slot at Now once this is
	// committed.
	Slots int
	Now   time.Time
}

// Store keeps records. A device that is not there is fleet.NotFound, and a
// database that cannot be reached fleet.Unavailable.
type Store interface {
	// Rotation returns the record of a device. One that was never kept has
	// Version 0, and of its State what the device says.
	Rotation(ctx context.Context, device int64) (Record, error)
	// CommitRotation stores the change, and what the device says of its
	// rotation, in one transaction, and returns the new version. fleet.Exists:
	// another was committed since the record was read, and nothing was stored.
	// fleet.TooMany: it would take a slot more than there are, and nothing was stored.
	CommitRotation(ctx context.Context, c Change) (version int64, err error)
	// AdoptRotations makes records for devices that say they are in a rotation and
	// have none, as they come from another system. What was queued there is queued.
	// What was pending is taken to have timed out: the device may have either of two
	// secrets, of which one is not known here, so a person has to say what to do.
	AdoptRotations(ctx context.Context) error
	// DueRotations returns devices whose change was due at that time, the
	// longest ago first.
	DueRotations(ctx context.Context, now time.Time, limit int) ([]int64, error)
	// WaitingRotations returns the devices that wait for a time, first those for
	// which there is something to do outside.
	WaitingRotations(ctx context.Context) ([]int64, error)
	// QueuedRotations returns devices that wait for an attempt in the order in
	// which they shall have one: urgent ones, then those whose secret is oldest.
	// Those of campaigns are not among them, nor are devices that are revoked.
	QueuedRotations(ctx context.Context, limit int) ([]int64, error)
	// QueuedByCampaigns returns the devices that campaigns queued, without revoked
	// ones: it is for the campaign to know how many it wants in flight.
	QueuedByCampaigns(ctx context.Context, limit int) ([]int64, error)
	// RotationsInFlight returns how many devices hold a slot at that time. What it
	// costs does not grow with those that hold none.
	RotationsInFlight(ctx context.Context, now time.Time) (int, error)
	// RotationCounts returns how many devices there are in each state.
	RotationCounts(ctx context.Context) (map[fleet.RotationState]int, error)
	// RotationAttempts returns a device's last attempts with their steps, the
	// last first.
	RotationAttempts(ctx context.Context, device int64, limit int) ([]Attempt, error)
	// RotationLease gives the lease to holder until then, if holder has it or
	// nobody had it at now, and reports whether it did. A lease that ends ten times as
	// late as this one is of a wrong clock, and is nobody's.
	RotationLease(ctx context.Context, holder string, now, until time.Time) (bool, error)
	// ReleaseRotationLease ends the holder's lease.
	ReleaseRotationLease(ctx context.Context, holder string) error
}

// KeptAttempts is how many attempts of a device are remembered.
const KeptAttempts = 100

// Issuer gives devices their tokens. Every method may be repeated: what it asks
// for is then there already. Errors are those of registry.Issuer.
type Issuer interface {
	// Dual reports whether a client can have two secrets for as long as we like.
	Dual() bool
	// Secret returns the current secret, the only one unless Both was called.
	Secret(ctx context.Context, clientID string) (string, error)
	// Both makes old and new the secrets of the client, and returns what its
	// tokens name them; "" if they do not. An issuer that is not Dual never has
	// to.
	Both(ctx context.Context, clientID, old, new string) (oldName, newName string, err error)
	// Only makes secret the only one of the client. It returns a time of the
	// issuer's clock at which this was so: no token that tells a later time was
	// got with another secret.
	Only(ctx context.Context, clientID, secret string) (at time.Time, err error)
}

// Notifier tells devices that there is a secret to be fetched.
type Notifier interface {
	// Tell returns nil when every broker has the notice, which lies there for a
	// device that is away. It may be repeated until then.
	Tell(ctx context.Context, device int64, clientID string, attempt int64) error
	// Remind sends the notice once more, as the device came back.
	Remind(ctx context.Context, device int64, clientID string, attempt int64) error
	// Clear takes back the notice that lies there. It returns nil when there is
	// none at any broker, and may be repeated.
	Clear(ctx context.Context, device int64, clientID string) error
}

// News is a change of a device's rotation that was committed.
type News struct {
	Device   int64
	ClientID string
	From, To fleet.RotationState
	Step     Step
	Attempt  int64
	Stuck    bool
}
