package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signalbox/internal/access"
	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
)

func open(t *testing.T, dsn string) *sqlstore.DB {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestRegistrySQLite(t *testing.T) {
	conformance.Registry(t, func(t *testing.T) registry.Store { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}

func TestAccessSQLite(t *testing.T) {
	conformance.Access(t, func(t *testing.T) access.Store { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}

func TestPostgres(t *testing.T) {
	p := startPostgres(t)
	conformance.Registry(t, func(t *testing.T) registry.Store { return open(t, p.newDatabase()) })
	t.Run("access", func(t *testing.T) {
		conformance.Access(t, func(t *testing.T) access.Store { return open(t, p.newDatabase()) })
	})
	t.Run("history", func(t *testing.T) { testHistory(t, func(*testing.T) string { return p.newDatabase() }) })
	t.Run("retention", func(t *testing.T) { testRetention(t, p.newDatabase()) })
	t.Run("imports", func(t *testing.T) { testImports(t, p.newDatabase()) })
	t.Run("credentials", func(t *testing.T) { testCredentials(t, p.newDatabase) })
	t.Run("rotation", func(t *testing.T) {
		conformance.Rotation(t, func(t *testing.T) conformance.RotationStore { return open(t, p.newDatabase()) })
	})
	t.Run("rotation of the fleet", func(t *testing.T) {
		conformance.RotationFleet(t, func(t *testing.T) (one, another conformance.RotationFleetStore) {
			dsn := p.newDatabase()
			return open(t, dsn), open(t, dsn)
		})
	})
	t.Run("columns of rotations", func(t *testing.T) {
		dsn := p.newDatabase()
		testRotationColumns(t, dsn, func() *sql.DB {
			db, err := sql.Open("pgx", dsn)
			if err != nil {
				t.Fatal(err)
			}
			return db
		})
	})
	t.Run("campaigns", func(t *testing.T) {
		conformance.Campaigns(t, func(t *testing.T) conformance.CampaignStore { return open(t, p.newDatabase()) })
	})
	t.Run("presence", func(t *testing.T) {
		conformance.Presence(t, func(t *testing.T) conformance.PresenceStore { return open(t, p.newDatabase()) })
	})
	t.Run("links", func(t *testing.T) {
		conformance.Links(t, func(t *testing.T) conformance.LinkStore { return open(t, p.newDatabase()) })
	})
	t.Run("migrations", func(t *testing.T) {
		dsn := p.newDatabase()
		testMigrations(t, dsn, func() *sql.DB {
			db, err := sql.Open("pgx", dsn)
			if err != nil {
				t.Fatal(err)
			}
			return db
		})
	})
	t.Run("two processes start at once", func(t *testing.T) {
		dsn := p.newDatabase()
		errs := make(chan error)
		for range 2 {
			go func() {
				db, err := sqlstore.Open(t.Context(), dsn)
				if err == nil {
					err = db.Close()
				}
				errs <- err
			}()
		}
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Error(err)
		}
	})
	t.Run("scheme of SQLAlchemy", func(t *testing.T) {
		open(t, strings.Replace(p.newDatabase(), "postgres://", "postgresql+psycopg://", 1))
	})
	t.Run("connections cut", func(t *testing.T) {
		dsn := p.newDatabase()
		db := open(t, dsn)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		admin := p.connect("postgres")
		defer admin.Close()
		err = db.Tx(t.Context(), func(q registry.Queries) error {
			if _, err := admin.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", strings.TrimPrefix(u.Path, "/")); err != nil {
				t.Error(err)
			}
			_, err := q.Models(t.Context())
			return err
		})
		if fleet.KindOf(err) != fleet.Unavailable {
			t.Errorf("got %v", err)
		}
		if err := db.Ping(t.Context()); err != nil { // and it comes back
			t.Error(err)
		}
	})
}

func TestMigrationsSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	testMigrations(t, path, func() *sql.DB {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
}

// testMigrations checks what is not the same as in any other start: opening
// again, and opening what a newer program has left.
func testMigrations(t *testing.T, dsn string, raw func() *sql.DB) {
	ctx := t.Context()
	for range 2 {
		db, err := sqlstore.Open(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Ping(ctx); err != nil {
			t.Error(err)
		}
		if n, err := db.PendingMigrations(ctx); err != nil || n != 0 {
			t.Errorf("%d migrations pending, %v", n, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	newer := raw()
	_, err := newer.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)")
	if err := errors.Join(err, newer.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := sqlstore.Open(ctx, dsn)
	if err == nil {
		db.Close()
		t.Fatal("a newer schema was opened")
	}
	if !strings.Contains(err.Error(), "newer Signalbox") {
		t.Errorf("got %v", err)
	}
}

func TestOpenSQLite(t *testing.T) {
	f := func(prefix, name string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "new", name)
		open(t, prefix+path)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode is %v", info.Mode())
		}
	}
	f("", "a.db")
	f("", "with space, 100% & 'quotes'?.db")
	f("sqlite:", "a.db")
	f("sqlite://", "a.db")
	f("file:", "a.db")
	f("file://", "a.db")

	t.Chdir(t.TempDir())
	open(t, "relative.db")
	open(t, "file:params.db?_pragma=cache_size(1000)")
	if names, err := filepath.Glob("*.db"); err != nil || len(names) != 2 {
		t.Errorf("files: %v, %v", names, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f := func(dsn, want string) {
		t.Helper()
		db, err := sqlstore.Open(t.Context(), dsn)
		if err == nil {
			db.Close()
			t.Fatalf("%s was opened", dsn)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", dsn, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	f("", "needs a file")
	f(":memory:", "needs a file")
	f("file:x?mode=memory", "needs a file")
	f("mysql://user:hunter2@localhost/x", "mysql:// is not known")
	f("postgres://user:hunter2@127.0.0.1:1/x?sslmode=disable", "database")
	f("postgres://user:hunter2@127.0.0.1:1:1/x", "database")

	notADatabase := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(notADatabase, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	f(notADatabase, "not a database")
	if text, err := os.ReadFile(notADatabase); err != nil || !strings.HasPrefix(string(text), "not a database") {
		t.Error("the file was changed")
	}
}

func TestUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := open(t, "file:"+path+"?_pragma=busy_timeout(1)")
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	err = db.Tx(t.Context(), func(registry.Queries) error { t.Error("ran"); return nil })
	if fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("a locked database: %v", err)
	}
	if _, err := db.Models(t.Context()); err != nil {
		t.Errorf("readers wait for a writer: %v", err)
	}
}
