package access_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/sqlstore"
)

// A database that another process has locked delays a request by two seconds at
// most, and whoever is logged in not at all.
func TestDatabaseLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := sqlstore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := onDatabase(t, db, newClock())
	b.person("ann", access.RoleAdmin)
	secret, _ := b.signIn("ann")
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.BeginTx(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	b.Record(t.Context(), access.Event{Action: "x"})
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("recording took %v", d)
	}
	if n := collect(t, b.reg, "audit_failures_total", ""); n != 1 {
		t.Errorf("%v failures", n)
	}
	if _, err := b.Session(secret); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err = b.SignIn(ctx, "ann", password, here)
	wantKind(t, err, fleet.Unavailable)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	b.signIn("ann")

	// What the audit did not take then it has in the end.
	running, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(running) }()
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range b.Events(t.Context(), access.EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Action == "x" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the event is there %d times", n)
	}
}
