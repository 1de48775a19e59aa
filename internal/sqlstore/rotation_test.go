package sqlstore_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

func TestRotationSQLite(t *testing.T) {
	conformance.Rotation(t, func(t *testing.T) conformance.RotationStore { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}

func TestRotationFleetSQLite(t *testing.T) {
	conformance.RotationFleet(t, func(t *testing.T) (one, another conformance.RotationFleetStore) {
		path := filepath.Join(t.TempDir(), "test.db")
		return open(t, path), open(t, path)
	})
}

func TestRotationColumnsSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	testRotationColumns(t, path, func() *sql.DB {
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
}

// testRotationColumns checks that what is written to columns only, for many
// devices at once, is what a record says, and that nothing else of it is lost.
func testRotationColumns(t *testing.T, dsn string, raw func() *sql.DB) {
	ctx, db, other := t.Context(), open(t, dsn), raw()
	defer other.Close()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var ids []int64
	err := db.Tx(ctx, func(q registry.Queries) error {
		model, err := q.InsertModel(ctx, fleet.Model{Code: "relay", Name: "Relay", CreatedAt: at, UpdatedAt: at})
		for _, key := range []string{"aaaaaaaa", "bbbbbbbb", "cccccccc"} {
			if err != nil {
				return err
			}
			var id int64
			id, err = q.InsertDevice(ctx, fleet.Device{Key: key, Model: fleet.Model{ID: model}, Active: true, Config: "{}", Rotation: fleet.RotationOK,
				SecretCreatedAt: new(at), LastRotationAttemptAt: new(at.Add(time.Hour)), LastRotationCompletedAt: new(at.Add(2 * time.Hour)), CreatedAt: at, UpdatedAt: at})
			ids = append(ids, id)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	get := func(id int64) rotation.Record {
		t.Helper()
		r, err := db.Rotation(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	put := func(r rotation.Record) {
		t.Helper()
		if _, err := db.CommitRotation(ctx, rotation.Change{Record: r}); err != nil {
			t.Fatal(err)
		}
	}
	// One whose new secret is somewhere already, and one in an attempt.
	believed, pending := get(ids[0]), get(ids[1])
	believed.State = rotation.State{Wire: fleet.RotationOK, Step: rotation.Offered, Attempt: 4, StartedAt: at.Add(5 * time.Hour), FetchedAt: at, Believed: true, CompletedAt: at.Add(6 * time.Hour)}
	believed.Old, believed.New, believed.Campaign, believed.Urgent = "old", "new", 7, true
	put(believed)
	pending.State.Wire, pending.State.Step, pending.State.Attempt = fleet.RotationPending, rotation.Creating, 1
	put(pending)
	pending = get(ids[1])

	for _, query := range []string{
		`UPDATE rotations SET wire = 'QUEUED', version = version + 1, actor = 'anna', reason = 'all', campaign = 0, urgent = FALSE WHERE wire IN ('OK')`,
		`INSERT INTO rotations (device_id, version, wire, state, old_sealed, new_sealed, old_name, new_name, secret_at, new_at,
			actor, reason, campaign, urgent, holder, held_until, todo_at, tries, trouble, stuck, due_at)
		 SELECT id, 1, 'QUEUED', '{}', '', '', '', '', 0, 0, 'anna', 'all', 0, FALSE, '', 0, 0, 0, '', FALSE, 0 FROM devices
		 WHERE id NOT IN (SELECT device_id FROM rotations)`,
	} {
		if _, err := other.ExecContext(ctx, query); err != nil {
			t.Fatal(err)
		}
	}
	f := func(id int64, want rotation.Record) {
		t.Helper()
		if diff := cmp.Diff(want, get(id)); diff != "" {
			t.Error(diff)
		}
	}
	believed.Version, believed.State.Wire, believed.Actor, believed.Reason, believed.Campaign, believed.Urgent = 2, fleet.RotationQueued, "anna", "all", 0, false
	f(ids[0], believed)
	f(ids[1], pending)
	first := rotation.Record{
		Device: ids[2], ClientID: "iotdevice-relay-cccccccc", Key: "cccccccc", Active: true, Version: 1, SecretAt: at, Actor: "anna", Reason: "all",
		State: rotation.State{Wire: fleet.RotationQueued, StartedAt: at.Add(time.Hour), CompletedAt: at.Add(2 * time.Hour)},
	}
	f(ids[2], first)

	// And the next commit keeps it.
	first.State.Wire, first.State.Step = fleet.RotationPending, rotation.Creating
	put(first)
	first.Version = 2
	f(ids[2], first)
	d, err := db.Device(ctx, ids[2])
	if err != nil || d.Rotation != fleet.RotationPending || !d.SecretCreatedAt.Equal(at) || !d.LastRotationAttemptAt.Equal(at.Add(time.Hour)) || !d.LastRotationCompletedAt.Equal(at.Add(2*time.Hour)) {
		t.Errorf("%+v, %v", d, err)
	}
}
