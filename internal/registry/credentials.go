package registry

import (
	"context"
	"time"
)

// ClientStore keeps what the built-in issuer has: the clients of devices, their
// secrets and the keys that tokens are signed with. Secrets and private keys
// come to it sealed. Its errors are those of Store.
type ClientStore interface {
	// CredentialsVersion returns a number that grows with each change of a
	// client, a secret or a signing key, by whichever process.
	CredentialsVersion(ctx context.Context) (int64, error)
	// Credentials returns all of them, as they are at one moment.
	Credentials(ctx context.Context) (Credentials, error)
	// CredentialsTx runs f in one transaction, as Store.Tx does, and returns the
	// version that it made. changed says whether f made a change at all.
	CredentialsTx(ctx context.Context, f func(CredentialQueries) (changed bool, err error)) (version int64, err error)
	// UseAssertion notes that a client used an assertion. One that was used before
	// is fleet.Exists, too many that have not expired at now are fleet.TooMany, and a
	// client that is not there is fleet.NotFound.
	UseAssertion(ctx context.Context, a Assertion, now time.Time, most int) error
}

// CredentialQueries is what can be asked and changed in a transaction.
type CredentialQueries interface {
	// ClientRecord returns a client with its secrets that are not revoked, or fleet.NotFound.
	ClientRecord(ctx context.Context, clientID string) (ClientRecord, error)
	// PutClient stores a client without its secrets, whether or not it is there.
	PutClient(ctx context.Context, c ClientRecord) error
	// DeleteClient removes a client and what it has; deleted says whether it was there.
	DeleteClient(ctx context.Context, clientID string) (deleted bool, err error)
	// NextSecretID returns an id for a secret that was never used before.
	NextSecretID(ctx context.Context) (int64, error)
	// InsertSecret adds a secret to a client.
	InsertSecret(ctx context.Context, clientID string, s SecretRecord) error
	// RevokeSecret ends a secret, or is fleet.NotFound if it is over or was never there.
	RevokeSecret(ctx context.Context, id int64, at time.Time) error

	// SigningKeys returns all signing keys, the one that is active first in time first.
	SigningKeys(ctx context.Context) ([]KeyRecord, error)
	// InsertSigningKey adds one.
	InsertSigningKey(ctx context.Context, k KeyRecord) error
	// SetSigningKeyLifetime stores a key's Lifetime.
	SetSigningKeyLifetime(ctx context.Context, id string, lifetime time.Duration) error
	// DeleteSigningKey removes one.
	DeleteSigningKey(ctx context.Context, id string) error
}

// Credentials is everything that a ClientStore has, at a version.
type Credentials struct {
	Version int64
	Clients []ClientRecord
	Keys    []KeyRecord // the one that is active first in time first
}

// ClientRecord is a client as it is stored.
type ClientRecord struct {
	Client
	PublicKey string         // JWK (RFC 7517); "" if it has none
	NotBefore time.Time      // tokens that were issued before are refused
	Secrets   []SecretRecord // not revoked, the oldest first
	CreatedAt time.Time
	UpdatedAt time.Time
}

// SecretRecord is a secret as it is stored.
type SecretRecord struct {
	ID        int64 // never used twice
	Sealed    string
	CreatedAt time.Time
}

// KeyRecord is a signing key as it is stored.
type KeyRecord struct {
	ID         string
	Algorithm  string // as in RFC 7518
	Sealed     string // the private key
	ActiveFrom time.Time
	Lifetime   time.Duration // of the longest-lived token that it may have signed
	CreatedAt  time.Time
}

// Assertion is a JWT that a client authenticated with (RFC 7523).
type Assertion struct {
	ClientID string
	JTI      string
	Expires  time.Time
}
