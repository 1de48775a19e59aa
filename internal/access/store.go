package access

import (
	"context"
	"time"
)

// Store keeps what the service has. Text that it is given is valid UTF-8 without
// NUL. A database that cannot be reached is fleet.Unavailable.
type Store interface {
	// AccessVersion returns the number that every ChangeAccess moves ahead by one.
	AccessVersion(ctx context.Context) (int64, error)
	// LoadAccess returns everything, as it was at one moment.
	LoadAccess(ctx context.Context) (Stored, error)
	// ChangeAccess runs f in one transaction, which moves the version ahead, and
	// commits when f returns nil. Transactions run one after the other, whichever
	// process they come from. version is the new one: with the state of version-1
	// in memory, f need not load anything. After an error nothing is left, except
	// that a commit whose answer was lost may have happened.
	ChangeAccess(ctx context.Context, f func(w Writer, version int64) error) error
	// NoteUses stores when something was used, unless a later time is stored. The
	// version stays.
	NoteUses(ctx context.Context, uses []Use) error

	// InsertEvent adds an event under an id greater than all before; e.ID is ignored.
	InsertEvent(ctx context.Context, e Event) error
	// EventPage returns up to limit events that pass, the newest first.
	EventPage(ctx context.Context, f EventFilter, limit int) ([]Event, error)
	// DeleteEvents deletes up to limit events from before then, the oldest first,
	// and returns how many.
	DeleteEvents(ctx context.Context, before time.Time, limit int) (int, error)
}

// Writer is what a transaction of a Store can do.
type Writer interface {
	// LoadAccess returns everything, with what this transaction did so far.
	LoadAccess(ctx context.Context) (Stored, error)
	// InsertPerson stores somebody under an id never used before, which it
	// returns. If p.Subject is "", it becomes "local:" and the id.
	InsertPerson(ctx context.Context, p StoredPerson) (int64, error)
	// UpdatePerson stores the name, email, password, roles and limit of p, and
	// whether it is disabled.
	UpdatePerson(ctx context.Context, p StoredPerson) error
	// DeletePerson removes somebody with their sessions and tokens.
	DeletePerson(ctx context.Context, id int64) error
	InsertSession(ctx context.Context, s StoredSession) error
	// ExtendSession stores when a session was seen and when it ends.
	ExtendSession(ctx context.Context, id string, seen, expires time.Time) error
	DeleteSession(ctx context.Context, id string) error
	// InsertToken stores a token under an id never used before, which it returns.
	InsertToken(ctx context.Context, t StoredToken) (int64, error)
	DeleteToken(ctx context.Context, id int64) error
	// PutRevocation stores r in place of one of the same subject and session.
	PutRevocation(ctx context.Context, r StoredRevocation) error
	DeleteRevocation(ctx context.Context, subject, session string) error
}

// Stored is all that a Store has, but the audit.
type Stored struct {
	Version     int64
	People      []StoredPerson
	Sessions    []StoredSession
	Tokens      []StoredToken
	Revocations []StoredRevocation
}

// LocalSubject begins the subjects of people whose password Signalbox knows. The
// id of the account follows.
const LocalSubject = "local:"

// StoredPerson is an account as it is kept. Account.Sessions and Account.Tokens
// are not.
type StoredPerson struct {
	Account
	Password string // hash, as a PHC string; "" for an external account
}

// StoredSession is a session as it is kept: one of Signalbox's own, or one of an
// external provider that somebody logged in with.
type StoredSession struct {
	ID        string // of an external one: the provider's sid
	Person    int64
	Hash      string // SHA-256 of the secret in hexadecimal digits; "" for an external one
	Client    Client
	CreatedAt time.Time
	SeenAt    time.Time
	ExpiresAt time.Time // unless it is used before
	EndsAt    time.Time // in any case
}

// StoredToken is an API token as it is kept. Its Subject is not: it is the person's.
type StoredToken struct {
	TokenInfo
	Person int64
	Hash   string // SHA-256 of the secret in hexadecimal digits
}

// StoredRevocation is a revocation as it is kept.
type StoredRevocation struct {
	Revocation
	At   time.Time // what was given out before is withdrawn
	Keep string    // but for the session of the provider's that has this sid; "": all
}

// Use says that somebody or something was used. One of the first three is set.
type Use struct {
	Person  int64
	Token   int64
	Session string
	At      time.Time
	Expires time.Time // of a session: its end, which moves ahead only; zero: it stays
}
