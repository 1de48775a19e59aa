package app

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"signalbox/internal/access"
	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/sqlstore"
)

// OpenAccess opens the people, tokens and audit of the settings' database, beside
// a server that runs on it or without. A file of SQLite is made only if create is
// set: fleet.Invalid. Close the closer after the last use of the service.
func OpenAccess(ctx context.Context, cfg config.Config, create bool, log *slog.Logger) (*access.Service, io.Closer, error) {
	if cfg.DatabaseURL == "" && !create {
		if _, err := os.Stat(cfg.SQLitePath()); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fleet.E(fleet.Invalid, nil, "There is no %s: is DATA_DIR right?", cfg.SQLitePath())
		}
	}
	db, err := sqlstore.Open(ctx, cfg.Database())
	if err != nil {
		return nil, nil, err
	}
	service, err := access.New(ctx, access.Options{Store: db, Log: log})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return service, db, nil
}
