package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore/db"
)

var _ rotation.FleetStore = (*DB)(nil)

// rotationChanges counts the changes of devices and of their rotations.
const rotationChanges = "rotation_changes"

// mark gives a device the next number of a change.
func mark(ctx context.Context, q *db.Queries, device int64) error {
	change, err := q.NextID(ctx, rotationChanges)
	if err != nil {
		return classify(err)
	}
	return classify(q.MarkDevice(ctx, db.MarkDeviceParams{Changed: change, ID: device}))
}

// marked is one for a statement that changed a device.
func (s queries) marked(ctx context.Context, n int64, err error, device int64) error {
	if err = one(n, err, "Device", device); err != nil {
		return err
	}
	return mark(ctx, s.q, device)
}

// The statements of QueueRotations, with what says which devices are meant. A
// device without a record waited for nothing, as in Rotation.
const (
	whoTakesPart = `d.active AND d.revoked_at IS NULL AND %s`

	selectHeld = `SELECT device_id FROM rotations WHERE wire = 'OK' AND holder <> '' AND held_until > $1
		AND device_id IN (SELECT d.id FROM devices d WHERE ` + whoTakesPart + `)`

	queueKnown = `UPDATE rotations SET version = version + 1, wire = 'QUEUED', actor = $1, reason = $2, campaign = 0, urgent = FALSE
		WHERE wire = 'OK' AND (holder = '' OR held_until <= $3)
		AND device_id IN (SELECT d.id FROM devices d WHERE ` + whoTakesPart + `)`

	queueNew = `INSERT INTO rotations (device_id, version, wire, state, old_sealed, new_sealed, old_name, new_name, secret_at, new_at,
			actor, reason, campaign, urgent, holder, held_until, todo_at, tries, trouble, stuck, due_at)
		SELECT d.id, 1, 'QUEUED', '{}', '', '', '', '', COALESCE(d.secret_created_at, 0), 0,
			CAST($1 AS TEXT), CAST($2 AS TEXT), 0, FALSE, '', 0, 0, 0, '', FALSE, 0
		FROM devices d WHERE d.rotation_state <> 'TIMEOUT' AND NOT EXISTS (SELECT 1 FROM rotations r WHERE r.device_id = d.id)
		AND ` + whoTakesPart

	showQueued = `UPDATE devices SET rotation_state = 'QUEUED', changed = $1 WHERE rotation_state <> 'QUEUED'
		AND id IN (SELECT r.device_id FROM rotations r WHERE r.wire = 'QUEUED')`
)

// idsAtOnce is how many devices one statement names.
const idsAtOnce = 2000

// QueueRotations implements rotation.FleetStore.
func (d *DB) QueueRotations(ctx context.Context, b rotation.Bulk) (out rotation.Queued, err error) {
	err = d.tx(ctx, func(tx *sql.Tx) error {
		out = rotation.Queued{Due: true}
		q := db.New(tx)
		if b.Schedule != "" {
			n, err := q.AdvanceRotationSchedule(ctx, db.AdvanceRotationScheduleParams{Done: micros(b.Date), Schedule: b.Schedule, Before: micros(b.Date)})
			if err != nil || n == 0 {
				out.Due = false
				return classify(err)
			}
		}
		for _, which := range named(b.Only) {
			if err := queue(ctx, tx, which, b, &out); err != nil {
				return classify(err)
			}
		}
		if out.Devices == 0 {
			return nil
		}
		change, err := q.NextID(ctx, rotationChanges)
		if err != nil {
			return classify(err)
		}
		_, err = tx.ExecContext(ctx, showQueued, change)
		return classify(err)
	})
	if err != nil {
		return rotation.Queued{}, err
	}
	if out.Devices > 0 {
		d.ownRotations.Add(1)
	}
	return out, nil
}

// named returns conditions on devices d which together name them; nil is all.
func named(ids []int64) (conditions []string) {
	if ids == nil {
		return []string{"TRUE"}
	}
	for part := range slices.Chunk(ids, idsAtOnce) {
		list := make([]byte, 0, 10*len(part))
		for _, id := range part {
			list = append(strconv.AppendInt(list, id, 10), ',')
		}
		conditions = append(conditions, "d.id IN ("+strings.TrimSuffix(string(list), ",")+")")
	}
	return conditions
}

func queue(ctx context.Context, tx *sql.Tx, which string, b rotation.Bulk, out *rotation.Queued) error {
	rows, err := tx.QueryContext(ctx, fmt.Sprintf(selectHeld, which), micros(b.Now))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // after Err it does nothing
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		out.Held = append(out.Held, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, statement := range []struct {
		text string
		args []any
	}{{queueKnown, []any{b.Ask.Actor, b.Ask.Reason, micros(b.Now)}}, {queueNew, []any{b.Ask.Actor, b.Ask.Reason}}} {
		done, err := tx.ExecContext(ctx, fmt.Sprintf(statement.text, which), statement.args...)
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		if err != nil {
			return err
		}
		out.Devices += int(n)
	}
	return nil
}

// RotationStandings implements rotation.FleetStore.
func (d *DB) RotationStandings(ctx context.Context, after int64) ([]rotation.Standing, error) {
	rows, err := d.q.ListRotationStandings(ctx, after)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Standing, len(rows))
	var p fastjson.Parser
	for i := range rows {
		r, s := &rows[i], &list[i]
		*s = rotation.Standing{
			Device: r.ID, Change: r.Changed, Active: r.Active, Revoked: r.RevokedAt.Valid, Wire: fleet.RotationState(r.RotationState), Stuck: r.Stuck, Trouble: r.Trouble, Campaign: r.Campaign,
			CreatedAt: timeOf(r.CreatedAt), SecretAt: timeOf(r.SecretCreatedAt.Int64), StartedAt: timeOf(r.LastRotationAttemptAt.Int64),
			CompletedAt: timeOf(r.LastRotationCompletedAt.Int64),
		}
		if r.State == "" || r.State == "{}" {
			continue
		}
		// As encoding/json reads it, and an order of magnitude faster.
		v, err := p.Parse(r.State)
		if err == nil {
			s.Step, s.Failures = rotation.Step(v.GetUint("Step")), v.GetInt("Failures")
			s.Deadline, err = jsonTime(v, "Deadline")
		}
		if err == nil {
			s.RetryAt, err = jsonTime(v, "RetryAt")
		}
		if err != nil {
			return nil, fmt.Errorf("the state of device %d cannot be read: %w", r.ID, err)
		}
	}
	return list, nil
}

// jsonTime returns a time of an object; one that it does not have is zero.
func jsonTime(v *fastjson.Value, name string) (time.Time, error) {
	text := v.GetStringBytes(name)
	if len(text) == 0 || string(text) == "0001-01-01T00:00:00Z" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, string(text))
}

// ForeignRotations implements rotation.FleetStore.
func (d *DB) ForeignRotations(ctx context.Context) (int64, error) {
	own := d.ownRotations.Load() // before: what is committed meanwhile counts as foreign, not as none
	all, err := d.q.RotationChanges(ctx)
	return all - own, classify(err)
}

// RotationLeader implements rotation.FleetStore.
func (d *DB) RotationLeader(ctx context.Context, now time.Time) (string, error) {
	r, err := d.q.GetRotationLease(ctx)
	if err != nil || r.Until <= micros(now) {
		return "", classify(err)
	}
	return r.Holder, nil
}

// RotationSchedule implements rotation.FleetStore.
func (d *DB) RotationSchedule(ctx context.Context) (schedule string, done time.Time, err error) {
	r, err := d.q.GetRotationSchedule(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, nil
	}
	return r.Schedule, timeOf(r.Done), classify(err)
}

// NoteSchedule implements rotation.FleetStore.
func (d *DB) NoteSchedule(ctx context.Context, schedule string, done time.Time) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		if schedule == "" {
			return classify(db.New(tx).DeleteRotationSchedule(ctx))
		}
		return classify(db.New(tx).PutRotationSchedule(ctx, db.PutRotationScheduleParams{Schedule: schedule, Done: micros(done)}))
	})
}

// RewindSchedule implements rotation.FleetStore.
func (d *DB) RewindSchedule(ctx context.Context, schedule string, latest, done time.Time) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		return classify(db.New(tx).RewindRotationSchedule(ctx, db.RewindRotationScheduleParams{Done: micros(done), Schedule: schedule, Latest: micros(latest)}))
	})
}
