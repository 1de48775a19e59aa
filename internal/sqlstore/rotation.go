package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore/db"
)

var _ rotation.Store = (*DB)(nil)

// Rotation implements rotation.Store.
func (d *DB) Rotation(ctx context.Context, device int64) (rotation.Record, error) {
	// The device first: if it changes before the record is read, the record does,
	// too, and is what counts.
	of, err := d.q.GetRotatingDevice(ctx, device)
	if err != nil {
		return rotation.Record{}, missing(err, "Device", device)
	}
	r := rotation.Record{Device: device, ClientID: fleet.ClientID(of.Code, of.Key), Key: of.Key, Active: of.Active, Revoked: of.Revoked}
	row, err := d.q.GetRotation(ctx, device)
	if errors.Is(err, sql.ErrNoRows) {
		r.State.Wire = fleet.RotationState(of.RotationState)
		if r.State.Wire == fleet.RotationPending { // of another system, and only that can finish it
			r.State.Wire = fleet.RotationTimeout
		}
		r.State.StartedAt, r.State.CompletedAt = timeOf(of.LastRotationAttemptAt.Int64), timeOf(of.LastRotationCompletedAt.Int64)
		r.SecretAt = timeOf(of.SecretCreatedAt.Int64)
		return r, nil
	}
	if err != nil {
		return rotation.Record{}, classify(err)
	}
	if err := json.Unmarshal([]byte(row.State), &r.State); err != nil {
		return rotation.Record{}, fmt.Errorf("the state of device %d cannot be read: %w", device, err)
	}
	// What queues many devices at once writes the column only, and inserts the
	// records that are missing with a state that says nothing.
	r.State.Wire = fleet.RotationState(row.Wire)
	r.State.StartedAt = timeOr(r.State.StartedAt, of.LastRotationAttemptAt)
	r.State.CompletedAt = timeOr(r.State.CompletedAt, of.LastRotationCompletedAt)
	r.Version, r.Old, r.New, r.OldName, r.NewName = row.Version, row.OldSealed, row.NewSealed, row.OldName, row.NewName
	r.SecretAt, r.NewAt = timeOr(timeOf(row.SecretAt), of.SecretCreatedAt), timeOf(row.NewAt)
	r.Actor, r.Reason, r.Campaign, r.Urgent = row.Actor, row.Reason, row.Campaign, row.Urgent
	r.SlotUntil = timeOf(row.SlotUntil)
	r.Holder, r.HeldUntil, r.TodoAt = row.Holder, timeOf(row.HeldUntil), timeOf(row.TodoAt)
	r.Tries, r.Trouble, r.Stuck = int(row.Tries), row.Trouble, row.Stuck
	return r, nil
}

// timeOr returns t, or the other time if t is none.
func timeOr(t time.Time, or sql.NullInt64) time.Time {
	if t.IsZero() {
		return timeOf(or.Int64)
	}
	return t
}

// CommitRotation implements rotation.Store.
func (d *DB) CommitRotation(ctx context.Context, c rotation.Change) (version int64, err error) {
	r := c.Record
	state, err := json.Marshal(r.State)
	if err != nil {
		return 0, err
	}
	p := db.UpdateRotationParams{
		Wire: string(wire(r.State)), State: string(state), OldSealed: r.Old, NewSealed: r.New, OldName: r.OldName, NewName: r.NewName,
		SecretAt: micros(r.SecretAt), NewAt: micros(r.NewAt), Actor: r.Actor, Reason: r.Reason, Campaign: r.Campaign, Urgent: r.Urgent,
		Holder: r.Holder, HeldUntil: micros(r.HeldUntil), TodoAt: micros(r.TodoAt), Tries: int64(r.Tries), Trouble: r.Trouble, Stuck: r.Stuck,
		DueAt: micros(c.Due), SlotUntil: micros(r.SlotUntil), DeviceID: r.Device, Version: r.Version,
	}
	err = d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		var n int64
		// The device first: without one there is nothing to be kept.
		n, err := q.SetDeviceRotation(ctx, db.SetDeviceRotationParams{
			RotationState: p.Wire, SecretCreatedAt: nullMicros(r.SecretAt), LastRotationAttemptAt: nullMicros(r.State.StartedAt),
			LastRotationCompletedAt: nullMicros(r.State.CompletedAt), ID: r.Device,
		})
		if err := one(n, err, "Device", r.Device); err != nil {
			return err
		}
		if c.Slots > 0 {
			// Transactions are serial: nobody takes one meanwhile.
			others, err := q.CountRotationsInFlight(ctx, db.CountRotationsInFlightParams{Now: micros(c.Now), But: r.Device})
			if err != nil {
				return classify(err)
			}
			if others >= int64(c.Slots) {
				return fleet.E(fleet.TooMany, nil, "Too many devices are being rotated")
			}
		}
		if r.Version == 0 {
			n, err = q.InsertRotation(ctx, db.InsertRotationParams{
				DeviceID: p.DeviceID, Wire: p.Wire, State: p.State, OldSealed: p.OldSealed, NewSealed: p.NewSealed, OldName: p.OldName, NewName: p.NewName,
				SecretAt: p.SecretAt, NewAt: p.NewAt, Actor: p.Actor, Reason: p.Reason, Campaign: p.Campaign, Urgent: p.Urgent, Holder: p.Holder,
				HeldUntil: p.HeldUntil, TodoAt: p.TodoAt, Tries: p.Tries, Trouble: p.Trouble, Stuck: p.Stuck, DueAt: p.DueAt, SlotUntil: p.SlotUntil,
			})
		} else {
			n, err = q.UpdateRotation(ctx, p)
		}
		switch {
		case err != nil:
			return classify(err)
		case n == 0:
			return fleet.ErrExists("Rotation", r.Device)
		}
		if err := mark(ctx, q, r.Device); err != nil {
			return err
		}
		return history(ctx, q, c)
	})
	if err != nil {
		return 0, err
	}
	d.ownRotations.Add(1)
	return r.Version + 1, nil
}

// history stores what a change adds to it.
func history(ctx context.Context, q *db.Queries, c rotation.Change) error {
	device := c.Record.Device
	for _, a := range []*rotation.Attempt{c.Ended, c.Attempt} {
		if a == nil {
			continue
		}
		err := q.PutRotationAttempt(ctx, db.PutRotationAttemptParams{
			DeviceID: device, Attempt: a.Number, Actor: a.Actor, Reason: a.Reason, Campaign: a.Campaign,
			StartedAt: micros(a.StartedAt), EndedAt: micros(a.EndedAt), Outcome: string(a.Outcome),
		})
		if err != nil {
			return classify(err)
		}
		last := a.Number - rotation.KeptAttempts
		if last > 0 {
			if err := q.DeleteRotationAttempts(ctx, db.DeleteRotationAttemptsParams{DeviceID: device, Attempt: last}); err != nil {
				return classify(err)
			}
			if err := q.DeleteRotationSteps(ctx, db.DeleteRotationStepsParams{DeviceID: device, Attempt: last}); err != nil {
				return classify(err)
			}
		}
	}
	for _, e := range c.Entries {
		id, err := q.NextID(ctx, "rotation_steps")
		if err != nil {
			return classify(err)
		}
		err = q.InsertRotationStep(ctx, db.InsertRotationStepParams{
			ID: id, DeviceID: device, Attempt: c.Record.State.Attempt, At: micros(e.At), What: e.What, Detail: e.Detail,
		})
		if err != nil {
			return classify(err)
		}
	}
	return nil
}

// wire is the state as the device has it.
func wire(s rotation.State) fleet.RotationState {
	if s.Wire == "" {
		return fleet.RotationOK
	}
	return s.Wire
}

func nullMicros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: micros(t), Valid: !t.IsZero()}
}

// AdoptRotations implements rotation.Store.
func (d *DB) AdoptRotations(ctx context.Context) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		if n, err := q.AdoptRotations(ctx); err != nil || n == 0 {
			return classify(err)
		}
		change, err := q.NextID(ctx, rotationChanges) // by nobody here, so that every page looks again
		if err != nil {
			return classify(err)
		}
		return classify(q.AdoptPending(ctx, change))
	})
}

// DueRotations implements rotation.Store.
func (d *DB) DueRotations(ctx context.Context, now time.Time, limit int) ([]int64, error) {
	ids, err := d.q.ListDueRotations(ctx, db.ListDueRotationsParams{Now: micros(now), Most: int32(limit)})
	return ids, classify(err)
}

// WaitingRotations implements rotation.Store.
func (d *DB) WaitingRotations(ctx context.Context) ([]int64, error) {
	ids, err := d.q.ListWaitingRotations(ctx)
	return ids, classify(err)
}

// QueuedRotations implements rotation.Store.
func (d *DB) QueuedRotations(ctx context.Context, limit int) ([]int64, error) {
	ids, err := d.q.ListQueuedRotations(ctx, int32(limit))
	return ids, classify(err)
}

// QueuedByCampaigns implements rotation.Store.
func (d *DB) QueuedByCampaigns(ctx context.Context, limit int) ([]int64, error) {
	ids, err := d.q.ListQueuedByCampaigns(ctx, int32(limit))
	return ids, classify(err)
}

// RotationsInFlight implements rotation.Store.
func (d *DB) RotationsInFlight(ctx context.Context, now time.Time) (int, error) {
	n, err := d.q.CountRotationsInFlight(ctx, db.CountRotationsInFlightParams{Now: micros(now)})
	return int(n), classify(err)
}

// RotationCounts implements rotation.Store.
func (d *DB) RotationCounts(ctx context.Context) (map[fleet.RotationState]int, error) {
	rows, err := d.q.CountRotations(ctx)
	if err != nil {
		return nil, classify(err)
	}
	counts := map[fleet.RotationState]int{fleet.RotationOK: 0, fleet.RotationQueued: 0, fleet.RotationPending: 0, fleet.RotationTimeout: 0}
	for _, r := range rows {
		counts[fleet.RotationState(r.RotationState)] = int(r.Devices)
	}
	return counts, nil
}

// RotationAttempts implements rotation.Store.
func (d *DB) RotationAttempts(ctx context.Context, device int64, limit int) ([]rotation.Attempt, error) {
	rows, err := d.q.ListRotationAttempts(ctx, db.ListRotationAttemptsParams{DeviceID: device, Most: int32(limit)})
	if err != nil || len(rows) == 0 {
		return []rotation.Attempt{}, classify(err)
	}
	list := make([]rotation.Attempt, 0, len(rows))
	at := make(map[int64]int, len(rows))
	for n, r := range rows {
		at[r.Attempt] = n
		list = append(list, rotation.Attempt{
			Number: r.Attempt, Actor: r.Actor, Reason: r.Reason, Campaign: r.Campaign,
			StartedAt: timeOf(r.StartedAt), EndedAt: timeOf(r.EndedAt), Outcome: rotation.Outcome(r.Outcome),
		})
	}
	steps, err := d.q.ListRotationSteps(ctx, db.ListRotationStepsParams{DeviceID: device, Attempt: rows[len(rows)-1].Attempt})
	if err != nil {
		return nil, classify(err)
	}
	for _, s := range steps {
		if n, ok := at[s.Attempt]; ok {
			list[n].Steps = append(list[n].Steps, rotation.Entry{At: timeOf(s.At), What: s.What, Detail: s.Detail})
		}
	}
	return list, nil
}

// farLease returns until when a lease may be that is taken at now for until. One
// that is longer was taken by a process whose clock was wrong, and that may have
// been killed: nobody else would get it before it is that time.
func farLease(now, until time.Time) time.Time { return until.Add(9 * until.Sub(now)) }

// RotationLease implements rotation.Store.
func (d *DB) RotationLease(ctx context.Context, holder string, now, until time.Time) (got bool, err error) {
	return d.takeLease(ctx, "runner", holder, now, until)
}

// ReleaseRotationLease implements rotation.Store.
func (d *DB) ReleaseRotationLease(ctx context.Context, holder string) error {
	return d.dropLease(ctx, "runner", holder)
}

// takeLease gives the lease of a name to holder, if holder has it or nobody has.
func (d *DB) takeLease(ctx context.Context, name, holder string, now, until time.Time) (got bool, err error) {
	err = d.tx(ctx, func(tx *sql.Tx) error {
		n, err := db.New(tx).TakeLease(ctx, db.TakeLeaseParams{
			Name: name, Holder: holder, Until: micros(until), Mine: holder, Now: micros(now), Far: micros(farLease(now, until)),
		})
		got = n > 0
		return classify(err)
	})
	return got && err == nil, err
}

// dropLease ends the holder's lease of a name.
func (d *DB) dropLease(ctx context.Context, name, holder string) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		return classify(db.New(tx).DropLease(ctx, db.DropLeaseParams{Name: name, Holder: holder}))
	})
}
