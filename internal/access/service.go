package access

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options is what a Service is made of.
type Options struct {
	Store      Store
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now

	SessionIdle  time.Duration // a session that is not used for so long ends
	SessionMax   time.Duration // a session ends after so long in any case
	AuditMaxAge  time.Duration // events that are older are deleted; 0: none are
	PollInterval time.Duration // how often changes by other processes are looked for; 0: 250 ms
}

// Service keeps people, sessions, API tokens, revocations and the audit. It
// holds all but the audit in memory as well, so that telling who somebody is
// asks no database; what another process changes it sees within PollInterval.
type Service struct{ opts Options }

// Store keeps what the service has.
type Store interface{}

// New returns a service and loads it.
func New(ctx context.Context, o Options) (*Service, error) { return nil, errors.ErrUnsupported }

// Run looks for changes of others, notes when sessions and tokens were used,
// and deletes what is over, until ctx ends.
func (s *Service) Run(ctx context.Context) error { return errors.ErrUnsupported }

// OnChange has f called after each change of what somebody may, wherever it was
// made: who holds something open for a principal asks Check again. f must be quick.
func (s *Service) OnChange(f func()) {}

// HasPeople reports whether there is anybody who could log in with a password.
func (s *Service) HasPeople() bool { return false }

// Client is where a request comes from, as far as it can be told.
type Client struct {
	Address string // IP address
	Agent   string // User-Agent, cut to 200 bytes
}

// SignIn checks a password and opens a session. The secret is what the browser
// keeps. Errors: Deny(Refused) for a wrong name or password or a disabled person, all
// alike and taking the same time; a *TooManyAttempts in fleet.TooMany.
func (s *Service) SignIn(ctx context.Context, username, password string, c Client) (secret string, p Principal, err error) {
	return "", Principal{}, errors.ErrUnsupported
}

// TooManyAttempts is the cause of the error for who guesses too fast.
type TooManyAttempts struct{ RetryAfter time.Duration }

func (t *TooManyAttempts) Error() string { return "too many attempts" }

// SessionPrefix and TokenPrefix begin the secrets of sessions and API tokens,
// by which they are told from the tokens of a provider.
const (
	SessionPrefix = "sbs_"
	TokenPrefix   = "sbt_"
)

// Session returns whose session a secret opens. It asks no database. Errors: Deny(Expired), Deny(Revoked).
func (s *Service) Session(secret string) (Principal, error) {
	return Principal{}, errors.ErrUnsupported
}

// Renew moves the end of a session ahead when a good part of its idle time is
// over. renewed: the cookie should be set anew, with p.Expires.
func (s *Service) Renew(ctx context.Context, secret string) (p Principal, renewed bool, err error) {
	return Principal{}, false, errors.ErrUnsupported
}

// APIToken returns the principal of an API token. It asks no database. Errors: Deny(Expired), Deny(Revoked).
func (s *Service) APIToken(secret string) (Principal, error) {
	return Principal{}, errors.ErrUnsupported
}

// Check returns the principal as it is now: with the roles and limit that its
// person has by now, where Signalbox keeps them. Errors: Deny(Expired) and
// Deny(Revoked), when it is over. It asks no database.
func (s *Service) Check(p Principal) (Principal, error) { return Principal{}, errors.ErrUnsupported }

// Entered notes that somebody logged in at the external provider, so that they
// are among the people, and may be disabled there.
func (s *Service) Entered(ctx context.Context, p Principal, c Client) error {
	return errors.ErrUnsupported
}

// Revocation withdraws what an external provider gave out before now.
type Revocation struct {
	Subject string    // whose; "" if only Session says it
	Session string    // the provider's sid; "" is every session of the subject
	Until   time.Time // when nothing of it can be valid any more
}

// Revoke withdraws it, here and in every other process.
func (s *Service) Revoke(ctx context.Context, r Revocation) error { return errors.ErrUnsupported }

// SignOut ends the principal's session: one of Signalbox's own is deleted, one
// of the provider's is revoked.
func (s *Service) SignOut(ctx context.Context, p Principal) error { return errors.ErrUnsupported }

// Account is somebody whom Signalbox knows.
type Account struct {
	ID        int64
	Subject   string // of the principal
	External  bool   // knows their password: the provider, not Signalbox
	Username  string // lower case; "" for an external account
	Name      string
	Email     string
	Roles     []string // of an external account: those of the last login
	Limit     Limit
	Disabled  bool
	CreatedAt time.Time
	SeenAt    *time.Time
	Sessions  int // open now
	Tokens    int // good now
}

// NewAccount is what a person is made of.
type NewAccount struct {
	Username string // 1..64 of [a-z0-9._@-], unique
	Name     string // up to 255 characters
	Email    string // up to 255 characters
	Password string // 10..1024 bytes, and not among the best known
	Roles    []string
	Limit    Limit
}

// AccountChange is what can change of an account; nil leaves it as it is. Of an
// external one only Disabled can.
type AccountChange struct {
	Name, Email *string
	Roles       *[]string
	Limit       *Limit
	Disabled    *bool
}

// Accounts returns all accounts, by name.
func (s *Service) Accounts(ctx context.Context) ([]Account, error) { return nil, errors.ErrUnsupported }

// Account returns one; fleet.NotFound.
func (s *Service) Account(ctx context.Context, id int64) (Account, error) {
	return Account{}, errors.ErrUnsupported
}

// CreateAccount adds a person. Errors: fleet.Invalid, fleet.Exists.
func (s *Service) CreateAccount(ctx context.Context, n NewAccount) (Account, error) {
	return Account{}, errors.ErrUnsupported
}

// ChangeAccount changes one. The last admin who is not disabled stays one:
// fleet.InvalidOperation. Other errors: fleet.Invalid, fleet.NotFound.
func (s *Service) ChangeAccount(ctx context.Context, id int64, c AccountChange) (Account, error) {
	return Account{}, errors.ErrUnsupported
}

// DeleteAccount removes one with its sessions and tokens; as ChangeAccount.
func (s *Service) DeleteAccount(ctx context.Context, id int64) error { return errors.ErrUnsupported }

// SetPassword replaces a person's password and ends their sessions, but for keep.
func (s *Service) SetPassword(ctx context.Context, id int64, password, keep string) error {
	return errors.ErrUnsupported
}

// ChangePassword is SetPassword by the person, who must know the old one; guesses are limited as at SignIn.
func (s *Service) ChangePassword(ctx context.Context, p Principal, old, password string, c Client) error {
	return errors.ErrUnsupported
}

// SetupSecret returns the secret of the one-time set-up link, "" when there are
// people already. It is good for as long as the process runs, and once.
func (s *Service) SetupSecret() string { return "" }

// Setup makes the first admin and opens a session, as SignIn does.
func (s *Service) Setup(ctx context.Context, setup string, n NewAccount, c Client) (secret string, p Principal, err error) {
	return "", Principal{}, errors.ErrUnsupported
}

// SessionInfo is an open session.
type SessionInfo struct {
	ID        string // names it; does not open it
	Subject   string
	Client    Client
	CreatedAt time.Time
	SeenAt    time.Time
	ExpiresAt time.Time
}

// Sessions returns the open sessions of a subject, the newest first.
func (s *Service) Sessions(subject string) []SessionInfo { return nil }

// EndSession ends one; fleet.NotFound if the subject has no such session.
func (s *Service) EndSession(ctx context.Context, subject, id string) error {
	return errors.ErrUnsupported
}

// EndSessions ends all sessions of a subject but keep, and withdraws what an
// external provider gave out to it before now.
func (s *Service) EndSessions(ctx context.Context, subject, keep string) error {
	return errors.ErrUnsupported
}

// TokenInfo is an API token without its secret.
type TokenInfo struct {
	ID        int64
	Subject   string // whose it is
	Name      string
	Hint      string // the first characters of the secret
	Roles     []string
	Limit     Limit
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    *time.Time
}

// NewToken is what an API token is made of.
type NewToken struct {
	Name     string // 1..100 characters, unique among the good ones of the owner
	Roles    []string
	Limit    Limit
	Lifetime time.Duration // up to 366 days
}

// CreateToken makes a token that may at most what its owner may, now and later.
// The secret is shown once. Errors: fleet.Invalid, fleet.Exists, fleet.Forbidden.
func (s *Service) CreateToken(ctx context.Context, owner Principal, n NewToken) (secret string, t TokenInfo, err error) {
	return "", TokenInfo{}, errors.ErrUnsupported
}

// Tokens returns the good tokens of a subject, or of all for "", the newest first.
func (s *Service) Tokens(subject string) []TokenInfo { return nil }

// RevokeToken ends one; fleet.NotFound if the subject ("": anybody) has no such token.
func (s *Service) RevokeToken(ctx context.Context, subject string, id int64) error {
	return errors.ErrUnsupported
}

// Event is one row of the audit.
type Event struct {
	ID      int64
	At      time.Time
	Actor   string // subject of the principal; "" for the program itself
	Name    string // of the actor, as it was known then
	Kind    Kind   // of the actor
	Action  string // such as device.update, login, logs.watch, secret.read
	Target  string // such as device/12; "" if it is about nothing in particular
	Label   string // what the target was called then
	Outcome string // "ok", or the kind or reason of the error
	Address string // of the client
	Detail  string // JSON object, at most 4 KiB, without secrets; "" for none
}

// EventFilter selects events; zero fields select all.
type EventFilter struct {
	Actor, Action, Target string // exact; an Action or Target that ends with * is a prefix
	Since, Until          time.Time
	Before                int64 // only events with a smaller id
}

// Record adds an event; ID and a zero At are filled in. When it cannot, it logs
// and counts that.
func (s *Service) Record(ctx context.Context, e Event) {}

// Events returns the events that pass, the newest first, as they are read from the store.
func (s *Service) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] { return nil }
