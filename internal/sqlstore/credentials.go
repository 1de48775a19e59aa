package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore/db"
)

var _ registry.ClientStore = (*DB)(nil)

// credentialsVersion is the counter that grows with each change of a credential.
const credentialsVersion = "credentials_version"

// CredentialsVersion implements registry.ClientStore.
func (d *DB) CredentialsVersion(ctx context.Context) (int64, error) {
	version, err := d.q.CredentialsVersion(ctx)
	return version, classify(err)
}

// Credentials implements registry.ClientStore.
func (d *DB) Credentials(ctx context.Context) (c registry.Credentials, err error) {
	var options *sql.TxOptions // a transaction of SQLite sees one moment as it is
	if d.begin != "" {
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := d.read.BeginTx(ctx, options)
	if err != nil {
		return c, classify(err)
	}
	defer func() { _ = tx.Rollback() }()
	q := credentials{db.New(tx)}
	if c.Version, err = q.q.CredentialsVersion(ctx); err != nil {
		return c, classify(err)
	}
	rows, err := q.q.ListClients(ctx)
	if err != nil {
		return c, classify(err)
	}
	secrets, err := q.q.ListSecrets(ctx)
	if err != nil {
		return c, classify(err)
	}
	byClient := make(map[string][]registry.SecretRecord, len(rows))
	for _, s := range secrets {
		byClient[s.ClientID] = append(byClient[s.ClientID], secretRecord(db.ListSecretsOfClientRow(s)))
	}
	c.Clients = make([]registry.ClientRecord, 0, len(rows))
	for _, r := range rows {
		c.Clients = append(c.Clients, clientRecord(r, byClient[r.ClientID]))
	}
	c.Keys, err = q.SigningKeys(ctx)
	return c, err
}

// CredentialsTx implements registry.ClientStore.
func (d *DB) CredentialsTx(ctx context.Context, f func(registry.CredentialQueries) (bool, error)) (version int64, err error) {
	err = d.tx(ctx, func(tx *sql.Tx) error {
		q := credentials{db.New(tx)}
		changed, err := f(q)
		if err != nil {
			return err
		}
		if changed {
			version, err = q.q.NextID(ctx, credentialsVersion)
		} else {
			version, err = q.q.CredentialsVersion(ctx)
		}
		return classify(err)
	})
	return version, err
}

// UseAssertion implements registry.ClientStore.
func (d *DB) UseAssertion(ctx context.Context, a registry.Assertion, now time.Time, most int) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		if err := q.DeleteExpiredAssertions(ctx, now.UnixMicro()); err != nil {
			return classify(err)
		}
		n, err := q.CountAssertions(ctx, a.ClientID)
		if err != nil {
			return classify(err)
		}
		if n >= int64(most) {
			return fleet.E(fleet.TooMany, nil, "More than %d assertions at once", most)
		}
		err = q.InsertAssertion(ctx, db.InsertAssertionParams{ClientID: a.ClientID, Jti: a.JTI, ExpiresAt: a.Expires.UnixMicro()})
		switch violated(err) {
		case unique:
			return fleet.ErrExists("Assertion", a.ClientID)
		case foreignKey:
			return fleet.ErrNotFound("Client", a.ClientID)
		}
		return classify(err)
	})
}

// credentials implements registry.CredentialQueries over the generated queries.
type credentials struct{ q *db.Queries }

// ClientRecord implements registry.CredentialQueries.
func (s credentials) ClientRecord(ctx context.Context, id string) (registry.ClientRecord, error) {
	row, err := s.q.GetClient(ctx, id)
	if errors.Is(err, sql.ErrNoRows) {
		return registry.ClientRecord{}, fleet.ErrNotFound("Client", id)
	}
	if err != nil {
		return registry.ClientRecord{}, classify(err)
	}
	rows, err := s.q.ListSecretsOfClient(ctx, id)
	if err != nil {
		return registry.ClientRecord{}, classify(err)
	}
	var secrets []registry.SecretRecord
	for _, r := range rows {
		secrets = append(secrets, secretRecord(r))
	}
	return clientRecord(row, secrets), nil
}

// PutClient implements registry.CredentialQueries.
func (s credentials) PutClient(ctx context.Context, c registry.ClientRecord) error {
	return classify(s.q.PutClient(ctx, db.PutClientParams{
		ClientID: c.ID, Name: c.Name, Description: c.Description, Enabled: c.Enabled,
		PublicKey: sql.NullString{String: c.PublicKey, Valid: c.PublicKey != ""},
		NotBefore: micros(c.NotBefore), CreatedAt: micros(c.CreatedAt), UpdatedAt: micros(c.UpdatedAt),
	}))
}

// DeleteClient implements registry.CredentialQueries.
func (s credentials) DeleteClient(ctx context.Context, id string) (bool, error) {
	n, err := s.q.DeleteClient(ctx, id)
	return n > 0, classify(err)
}

// NextSecretID implements registry.CredentialQueries.
func (s credentials) NextSecretID(ctx context.Context) (int64, error) {
	id, err := s.q.NextID(ctx, "device_secrets")
	return id, classify(err)
}

// InsertSecret implements registry.CredentialQueries.
func (s credentials) InsertSecret(ctx context.Context, clientID string, r registry.SecretRecord) error {
	err := s.q.InsertSecret(ctx, db.InsertSecretParams{ID: r.ID, ClientID: clientID, Sealed: r.Sealed, CreatedAt: micros(r.CreatedAt)})
	switch violated(err) {
	case unique:
		return fleet.ErrExists("Secret", r.ID)
	case foreignKey:
		return fleet.ErrNotFound("Client", clientID)
	}
	return classify(err)
}

// RevokeSecret implements registry.CredentialQueries.
func (s credentials) RevokeSecret(ctx context.Context, id int64, at time.Time) error {
	n, err := s.q.RevokeSecret(ctx, db.RevokeSecretParams{RevokedAt: nullTime(&at), ID: id})
	return one(n, err, "Secret", id)
}

// SigningKeys implements registry.CredentialQueries.
func (s credentials) SigningKeys(ctx context.Context) ([]registry.KeyRecord, error) {
	rows, err := s.q.ListSigningKeys(ctx)
	if err != nil {
		return nil, classify(err)
	}
	keys := make([]registry.KeyRecord, 0, len(rows))
	for _, r := range rows {
		keys = append(keys, registry.KeyRecord{
			ID: r.ID, Algorithm: r.Algorithm, Sealed: r.Sealed, ActiveFrom: timeOf(r.ActiveFrom),
			Lifetime: time.Duration(r.Lifetime) * time.Microsecond, CreatedAt: timeOf(r.CreatedAt),
		})
	}
	slices.SortFunc(keys, func(a, b registry.KeyRecord) int {
		return cmp.Or(a.ActiveFrom.Compare(b.ActiveFrom), cmp.Compare(a.ID, b.ID))
	})
	return keys, nil
}

// InsertSigningKey implements registry.CredentialQueries.
func (s credentials) InsertSigningKey(ctx context.Context, k registry.KeyRecord) error {
	err := s.q.InsertSigningKey(ctx, db.InsertSigningKeyParams{
		ID: k.ID, Algorithm: k.Algorithm, Sealed: k.Sealed, ActiveFrom: micros(k.ActiveFrom),
		Lifetime: k.Lifetime.Microseconds(), CreatedAt: micros(k.CreatedAt),
	})
	if violated(err) == unique {
		return fleet.ErrExists("SigningKey", k.ID)
	}
	return classify(err)
}

// SetSigningKeyLifetime implements registry.CredentialQueries.
func (s credentials) SetSigningKeyLifetime(ctx context.Context, id string, lifetime time.Duration) error {
	n, err := s.q.SetSigningKeyLifetime(ctx, db.SetSigningKeyLifetimeParams{Lifetime: lifetime.Microseconds(), ID: id})
	if err == nil && n == 0 {
		return fleet.ErrNotFound("SigningKey", id)
	}
	return classify(err)
}

// DeleteSigningKey implements registry.CredentialQueries.
func (s credentials) DeleteSigningKey(ctx context.Context, id string) error {
	_, err := s.q.DeleteSigningKey(ctx, id)
	return classify(err)
}

func clientRecord(r db.DeviceClient, secrets []registry.SecretRecord) registry.ClientRecord {
	slices.SortFunc(secrets, func(a, b registry.SecretRecord) int { return cmp.Compare(a.ID, b.ID) })
	return registry.ClientRecord{
		Client:    registry.Client{ID: r.ClientID, Name: r.Name, Description: r.Description, Enabled: r.Enabled},
		PublicKey: r.PublicKey.String, NotBefore: timeOf(r.NotBefore), Secrets: secrets,
		CreatedAt: timeOf(r.CreatedAt), UpdatedAt: timeOf(r.UpdatedAt),
	}
}

func secretRecord(r db.ListSecretsOfClientRow) registry.SecretRecord {
	return registry.SecretRecord{ID: r.ID, Sealed: r.Sealed, CreatedAt: timeOf(r.CreatedAt)}
}

// micros and timeOf store the zero time as 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
