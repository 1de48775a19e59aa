// Package sqlstore keeps the registry, people and the audit, and the history of log
// lines in SQLite or PostgreSQL: one schema, one set of queries, one behaviour.
package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"signalbox/internal/registry"
	"signalbox/internal/sqlstore/db"
)

//go:generate go tool -modfile=../../tools/go.mod sqlc generate

//go:embed migrations/*.sql history/*.sql
var schemas embed.FS

// schema is one of the two that the program has. Both may stand in one database.
type schema struct {
	dir     string   // of its migrations, in schemas
	table   string   // which of them were applied
	layout  []string // pragmas with which a SQLite file is made
	pragmas []string // of each SQLite connection
}

const (
	maxReaders  = 8  // connections that only read, SQLite
	maxConns    = 20 // connections in all, PostgreSQL
	busyTimeout = 5 * time.Second
)

// database is the connections to one schema.
type database struct {
	write      *sql.DB // SQLite: the one writing connection
	read       *sql.DB // SQLite: connections that cannot write; PostgreSQL: the same as write
	migrations *goose.Provider

	// begin is run first in every transaction; it makes them serial. Empty for
	// SQLite, whose transactions are.
	begin string
}

// DB is an open database of devices, device models, people and the audit. It
// implements registry.Store and access.Store.
type DB struct {
	*database
	queries // outside a transaction, on the reading connections

	ownRotations atomic.Int64 // changes of rotations that were committed here
}

var _ registry.Store = (*DB)(nil)

// lockTransactions makes transactions wait for each other, across all
// processes, until their end. The number only has to be ours.
const lockTransactions = "SELECT pg_advisory_xact_lock(7306087460411)"

// Open opens the database that dsn names, brings its schema up to date, and
// checks that it answers. A dsn is a URL postgres://, postgresql:// or
// postgresql+psycopg://, or else SQLite: a path, sqlite:path, or a file: URI with
// SQLite's own parameters. A SQLite file is created if it is missing, readable
// by its owner only. A schema newer than this program knows is refused.
func Open(ctx context.Context, dsn string) (*DB, error) {
	d, err := open(ctx, dsn, schema{dir: "migrations", table: goose.DefaultTablename})
	if err != nil {
		return nil, err
	}
	return &DB{database: d, queries: queries{db.New(d.read)}}, nil
}

func open(ctx context.Context, dsn string, s schema) (*database, error) {
	d, err := connect(dsn, s)
	if err != nil {
		return nil, err
	}
	if err := d.migrate(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func connect(dsn string, s schema) (*database, error) {
	scheme, rest, _ := strings.Cut(dsn, ":")
	switch scheme {
	case "postgres", "postgresql", "postgresql+psycopg":
		return connectPostgres("postgresql:"+rest, s)
	case "sqlite":
		// sqlite:///path is how others write an absolute path.
		if after, ok := strings.CutPrefix(rest, "//"); ok {
			rest = after
		}
		return connectSQLite(rest, "", s)
	case "file":
		path, params, _ := strings.Cut(rest, "?")
		path, err := url.PathUnescape(strings.TrimPrefix(path, "//"))
		if err != nil {
			return nil, fmt.Errorf("database: file URI: %w", err)
		}
		return connectSQLite(path, params, s)
	}
	if strings.Contains(dsn, "://") {
		return nil, fmt.Errorf("database: %s:// is not known; use postgresql:// or a path for SQLite", scheme)
	}
	return connectSQLite(dsn, "", s)
}

func connectPostgres(dsn string, s schema) (*database, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err) // pgx leaves the password out
	}
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database: %w", err), pool.Close())
	}
	d := &database{write: pool, read: pool, begin: lockTransactions}
	return d.withMigrations(s, goose.DialectPostgres, goose.WithSessionLocker(locker))
}

func connectSQLite(path, params string, s schema) (*database, error) {
	if path == "" || strings.Contains(path, ":memory:") || strings.Contains(params, "mode=memory") {
		return nil, errors.New("database: SQLite needs a file")
	}
	if err := createPrivate(path); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	uri := func(q []string) string {
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + strings.Join(q, "&")
	}
	if err := layOut(path, uri(s.layout), s.layout); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	open := func(extra ...string) (*sql.DB, error) {
		q := append(slices.Clone(s.pragmas),
			fmt.Sprintf("_pragma=busy_timeout(%d)", busyTimeout.Milliseconds()),
			"_pragma=journal_mode(WAL)",
			"_pragma=synchronous(FULL)", // what is announced survives a power cut
			"_pragma=foreign_keys(1)",
		)
		if params != "" {
			q = append(q, params)
		}
		return sql.Open("sqlite", uri(append(q, extra...)))
	}
	write, err := open("_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	write.SetMaxOpenConns(1)
	read, err := open("_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database: %w", err), write.Close())
	}
	read.SetMaxOpenConns(maxReaders)
	read.SetMaxIdleConns(maxReaders)
	d := &database{write: write, read: read}
	return d.withMigrations(s, goose.DialectSQLite3)
}

// createPrivate creates the file before SQLite does, for its owner only.
func createPrivate(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// layOut writes the header of an empty file, in which the layout is fixed.
func layOut(path, uri string, layout []string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() > 0 || len(layout) == 0 {
		return err
	}
	db, err := sql.Open("sqlite", uri)
	if err != nil {
		return err
	}
	_, err = db.Exec("VACUUM")
	return errors.Join(err, db.Close())
}

func (d *database) withMigrations(s schema, dialect goose.Dialect, options ...goose.ProviderOption) (*database, error) {
	files, err := fs.Sub(schemas, s.dir)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.migrations, err = goose.NewProvider(dialect, d.write, files, append(options, goose.WithTableName(s.table))...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database migrations: %w", err), d.Close())
	}
	return d, nil
}

func (d *database) migrate(ctx context.Context) error {
	current, target, err := d.migrations.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if current > target {
		return fmt.Errorf("database: its schema has version %d and this program knows %d at most: "+
			"it was used by a newer Signalbox; run that one, or restore a backup from before", current, target)
	}
	if _, err := d.migrations.Up(ctx); err != nil {
		return fmt.Errorf("database migration: %w", err)
	}
	return nil
}

// PendingMigrations returns how many migrations of this program the database
// lacks: 0 since Open, unless somebody else changed it.
func (d *database) PendingMigrations(ctx context.Context) (int, error) {
	status, err := d.migrations.Status(ctx)
	if err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	pending := 0
	for _, s := range status {
		if s.State == goose.StatePending {
			pending++
		}
	}
	return pending, nil
}

// Ping reports whether the database answers.
func (d *database) Ping(ctx context.Context) error {
	var one int
	return classify(d.read.QueryRowContext(ctx, "SELECT 1").Scan(&one))
}

// Close closes the connections. Transactions must have ended.
func (d *database) Close() error {
	if d.read == d.write {
		return d.write.Close()
	}
	return errors.Join(d.read.Close(), d.write.Close())
}
