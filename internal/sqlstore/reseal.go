package sqlstore

import (
	"context"
	"database/sql"
	"errors"

	"signalbox/internal/sqlstore/db"
)

// Resealing returns, for a sealed text, what is to be kept in its place. One for
// each kind of what is sealed in the database.
type Resealing struct {
	Secret   func(clientID string, id int64, sealed string) (string, error) // of a client of the built-in issuer
	Key      func(id, sealed string) (string, error)                        // that tokens are signed with
	Rotation func(device int64, sealed string) (string, error)
}

var errDry = errors.New("nothing is stored")

// Reseal replaces everything in the database that is sealed, in one transaction:
// when anything fails, nothing was. dry: nor is it when nothing fails.
func (d *DB) Reseal(ctx context.Context, dry bool, r Resealing) error {
	err := d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		if err := reseal(ctx, q, r); err != nil {
			return err
		}
		if dry {
			return errDry
		}
		// Processes that have the old ones in memory read them again.
		_, err := q.NextID(ctx, credentialsVersion)
		return classify(err)
	})
	if errors.Is(err, errDry) {
		return nil
	}
	return err
}

func reseal(ctx context.Context, q *db.Queries, r Resealing) error {
	secrets, err := q.ListSealedSecrets(ctx)
	if err != nil {
		return classify(err)
	}
	for _, s := range secrets {
		sealed, err := r.Secret(s.ClientID, s.ID, s.Sealed)
		if err != nil {
			return err
		}
		if err := q.SetSealedSecret(ctx, db.SetSealedSecretParams{ID: s.ID, Sealed: sealed}); err != nil {
			return classify(err)
		}
	}
	keys, err := q.ListSealedKeys(ctx)
	if err != nil {
		return classify(err)
	}
	for _, k := range keys {
		sealed, err := r.Key(k.ID, k.Sealed)
		if err != nil {
			return err
		}
		if err := q.SetSealedKey(ctx, db.SetSealedKeyParams{ID: k.ID, Sealed: sealed}); err != nil {
			return classify(err)
		}
	}
	rotations, err := q.ListSealedRotations(ctx)
	if err != nil {
		return classify(err)
	}
	for _, s := range rotations {
		p := db.SetSealedRotationParams{DeviceID: s.DeviceID, OldSealed: s.OldSealed, NewSealed: s.NewSealed}
		for _, sealed := range []*string{&p.OldSealed, &p.NewSealed} {
			if *sealed == "" {
				continue
			}
			if *sealed, err = r.Rotation(s.DeviceID, *sealed); err != nil {
				return err
			}
		}
		if err := q.SetSealedRotation(ctx, p); err != nil {
			return classify(err)
		}
	}
	return nil
}
