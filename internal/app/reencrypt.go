package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// ReencryptOptions say how what is encrypted is encrypted anew.
type ReencryptOptions struct {
	OldKey   string // "": that of DATA_DIR/secret.key
	Generate bool   // make a key for DATA_DIR/secret.key, rather than take SECRET_KEY
	DryRun   bool   // nothing is stored
}

// ReencryptReport says how many were encrypted anew, and how many were under the
// new key already.
type ReencryptReport struct {
	Secrets, Keys, Rotations int
	Already                  int
	Generated                bool // the key is in DATA_DIR/secret.key
}

// leaseOfReencrypt is for how long no server begins to rotate; more than it takes.
const leaseOfReencrypt = 10 * time.Minute

// Reencrypt encrypts everything in the database of the settings under SECRET_KEY
// that is under another key so far, in one transaction. It may be repeated. No
// server may run. Its errors are fleet.Invalid for a mistake of the caller's.
func Reencrypt(ctx context.Context, cfg config.Config, o ReencryptOptions) (report ReencryptReport, err error) {
	fail := func(format string, args ...any) (ReencryptReport, error) {
		return ReencryptReport{}, fleet.E(fleet.Invalid, nil, format, args...)
	}
	if cfg.DatabaseURL == "" {
		if _, err := os.Stat(cfg.SQLitePath()); errors.Is(err, fs.ErrNotExist) {
			return fail("There is no %s: is DATA_DIR right?", cfg.SQLitePath())
		}
	}
	kept, next := filepath.Join(cfg.DataDir, "secret.key"), filepath.Join(cfg.DataDir, "secret.key.new")
	newKey := cfg.SecretKey.Reveal()
	switch {
	case newKey != "" && o.Generate:
		return fail("SECRET_KEY is set: without it, a key can be made")
	case newKey == "" && !o.Generate:
		return fail("SECRET_KEY is not set: set it to the new key, or have one made for %s", kept)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return report, fmt.Errorf("DATA_DIR: %w", err)
	}
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return report, fmt.Errorf("DATA_DIR: %w; stop the server first", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()

	oldKey := o.OldKey
	if oldKey == "" {
		if oldKey, err = readKey(kept); errors.Is(err, fs.ErrNotExist) {
			return fail("The old key is missing: there is no %s", kept)
		}
		if err != nil {
			return report, err
		}
	}
	if len(oldKey) < config.LeastSecretKey {
		return fail("The old key has less than %d characters", config.LeastSecretKey)
	}
	if o.Generate {
		// The key is on the disk before anything is encrypted with it. One that is
		// there already is of a run that was interrupted.
		if newKey, err = readKey(next); errors.Is(err, fs.ErrNotExist) {
			newKey, err = secret.NewText(), nil
			if !o.DryRun {
				err = keepFile(next, newKey+"\n")
			}
		}
		if err != nil {
			return report, err
		}
	}
	if newKey == oldKey {
		return fail("The old key and the new one are the same")
	}

	db, err := sqlstore.Open(ctx, cfg.Database())
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// A server somewhere else, on the same database.
	holder, now := rand.Text(), time.Now()
	got, err := db.RotationLease(ctx, holder, now, now.Add(leaseOfReencrypt))
	if err != nil {
		return report, err
	}
	if !got {
		return report, fleet.E(fleet.InvalidOperation, nil, "A server runs on the database, or did a few seconds ago: stop every one, and wait for ten seconds")
	}
	defer func() { err = errors.Join(err, db.ReleaseRotationLease(context.WithoutCancel(ctx), holder)) }()
	if report, err = reencrypt(ctx, db, oldKey, newKey, o.DryRun); err != nil || o.DryRun || !o.Generate {
		return report, err
	}
	report.Generated = true
	return report, os.Rename(next, kept)
}

func readKey(path string) (string, error) {
	content, err := os.ReadFile(path)
	return strings.TrimSpace(string(content)), err
}

func reencrypt(ctx context.Context, db *sqlstore.DB, oldKey, newKey string, dry bool) (report ReencryptReport, err error) {
	type boxes struct{ from, to *secret.Box }
	open := func(purpose string) (b boxes) {
		var err1, err2 error
		b.from, err1 = secret.NewBox(oldKey, purpose)
		b.to, err2 = secret.NewBox(newKey, purpose)
		err = errors.Join(err, err1, err2)
		return b
	}
	credentials, rotations := open("device credentials"), open("rotation")
	if err != nil {
		return report, err
	}
	anew := func(b boxes, sealed, about string, count *int) (string, error) {
		if _, err := b.to.Open(sealed, about); err == nil {
			report.Already++
			return sealed, nil
		}
		text, err := b.from.Open(sealed, about)
		if err != nil {
			return "", fleet.E(fleet.InvalidOperation, err, "The %s cannot be read with the old key, nor with the new one; nothing was changed", about)
		}
		*count++
		return b.to.Seal(text, about), nil
	}
	err = db.Reseal(ctx, dry, sqlstore.Resealing{
		Secret: func(clientID string, id int64, sealed string) (string, error) {
			return anew(credentials, sealed, local.AboutSecret(clientID, id), &report.Secrets)
		},
		Key: func(id, sealed string) (string, error) {
			return anew(credentials, sealed, local.AboutKey(id), &report.Keys)
		},
		Rotation: func(device int64, sealed string) (string, error) {
			return anew(rotations, sealed, rotation.About(device), &report.Rotations)
		},
	})
	if err != nil {
		return ReencryptReport{}, err
	}
	return report, nil
}
