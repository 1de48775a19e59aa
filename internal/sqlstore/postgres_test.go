package sqlstore_test

import (
	"database/sql"
	"testing"

	"signalbox/internal/postgrestest"
)

// postgres is a PostgreSQL server of the test's own.
type postgres struct{ *postgrestest.Server }

func startPostgres(t *testing.T) postgres {
	t.Helper()
	return postgres{postgrestest.Start(t)}
}

// newDatabase creates an empty database and returns its DSN.
func (p postgres) newDatabase() string { return p.New() }

func (p postgres) connect(database string) *sql.DB { return p.Connect(database) }
