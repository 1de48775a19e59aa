package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signalbox/internal/sqlstore"
)

// fleetOf makes a database with so many devices, of which some wait for a rotation.
func fleetOf(t testing.TB, devices, queued int) (*sqlstore.DB, *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	d, err := sqlstore.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close(); _ = d.Close() })
	count := fmt.Sprintf("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) ", devices)
	for _, query := range []string{
		`INSERT INTO device_models (id, code, name, created_at, updated_at) VALUES (1, 'relay', 'Relay', 0, 0)`,
		`INSERT INTO devices (id, key, device_model_id, active, config, rotation_state, created_at, updated_at, tags) ` + count +
			`SELECT i, printf('%08d', i), 1, TRUE, '{}', 'OK', 0, 0, '' FROM n`,
		`INSERT INTO rotations (device_id, version, wire, state, old_sealed, new_sealed, old_name, new_name, secret_at, new_at,
			actor, reason, campaign, urgent, holder, held_until, todo_at, tries, trouble, stuck, due_at) ` + count +
			fmt.Sprintf(`SELECT i, 1, CASE WHEN i <= %d THEN 'QUEUED' ELSE 'OK' END, '{}', '', '', '', '', i * 7919 %% 10007, 0, '', '', 0, FALSE, '', 0, 0, 0, '', FALSE, 0 FROM n`, queued),
		`ANALYZE`,
	} {
		if _, err := raw.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	return d, raw
}

// tick asks what the runner asks a few times a second.
func tick(t testing.TB, d *sqlstore.DB) {
	ctx, now := context.Background(), time.Now()
	_, err := d.DueRotations(ctx, now, 32)
	if err == nil {
		_, err = d.QueuedByCampaigns(ctx, 32)
	}
	if err == nil {
		_, err = d.QueuedRotations(ctx, 33)
	}
	if err == nil {
		_, err = d.RotationsInFlight(ctx, now)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a tick of the runner costs must not depend on the size of the fleet.
func BenchmarkRotationTick(b *testing.B) {
	for _, size := range []struct{ devices, queued int }{{100, 0}, {10_000, 0}, {100, 100}, {10_000, 100}, {10_000, 10_000}} {
		b.Run(fmt.Sprintf("%d devices, %d queued", size.devices, size.queued), func(b *testing.B) {
			d, _ := fleetOf(b, size.devices, size.queued)
			for b.Loop() {
				tick(b, d)
			}
		})
	}
}

// The plans of a tick's queries: an index for each, and nothing is sorted.
func TestRotationPlans(t *testing.T) {
	_, raw := fleetOf(t, 2000, 500)
	f := func(index, query string) {
		t.Helper()
		rows, err := raw.Query("EXPLAIN QUERY PLAN " + query)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		text := strings.Join(plan, "; ")
		if err := rows.Err(); err != nil || !strings.Contains(text, index) || strings.Contains(text, "SCAN d") || strings.Contains(text, "TEMP B-TREE") {
			t.Errorf("%s: %s, %v", index, text, err)
		}
	}
	f("rotations_by_due", `SELECT device_id FROM rotations WHERE due_at > 0 AND due_at <= 5 ORDER BY due_at LIMIT 9`)
	f("rotations_slots", `SELECT count(*) FROM rotations WHERE slot_until > 0 AND slot_until > 5 AND device_id <> 0`)
	const queued = `SELECT r.device_id FROM rotations r JOIN devices d ON d.id = r.device_id WHERE r.wire = 'QUEUED' AND r.campaign %s 0 AND d.revoked_at IS NULL ORDER BY %s r.urgent DESC, r.secret_at, r.device_id LIMIT 9`
	f("rotations_queued", fmt.Sprintf(queued, "=", ""))
	f("rotations_queued", fmt.Sprintf(queued, ">", "r.campaign,"))
}
