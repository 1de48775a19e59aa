package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"

	"signalbox/internal/presence"
	"signalbox/internal/sqlstore/db"
)

var _ presence.Store = (*DB)(nil)

// CommitPresence implements presence.Store.
func (d *DB) CommitPresence(ctx context.Context, c presence.Change) (r presence.Result, err error) {
	err = d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		version, err := q.NextID(ctx, "presence")
		if err != nil {
			return classify(err)
		}
		r = presence.Result{}
		n, err := q.RenewPresence(ctx, db.RenewPresenceParams{Until: micros(c.Until), Holder: c.Holder})
		if r.Fresh = err == nil && n == 0; r.Fresh {
			err = q.InsertPresenceProcess(ctx, db.InsertPresenceProcessParams{Holder: c.Holder, Until: micros(c.Until)})
		}
		if err != nil {
			return classify(err)
		}
		for _, row := range c.Rows {
			err := q.PutPresence(ctx, db.PutPresenceParams{
				Version: version, SeenAt: micros(row.SeenAt), Source: string(row.Source), BySession: row.BySession,
				ClockAt: micros(row.ClockAt), ClockOff: row.ClockOff.Microseconds(), DeviceID: row.Device,
			})
			if err != nil {
				return classify(err)
			}
		}
		for _, s := range c.Sessions {
			err := q.PutPresenceSessions(ctx, db.PutPresenceSessionsParams{Holder: c.Holder, Sessions: int64(s.Count), Version: version, DeviceID: s.Device})
			if err != nil {
				return classify(err)
			}
		}
		for _, s := range c.Steps {
			o, err := stepPresence(ctx, q, c, s, version)
			if err != nil {
				return classify(err)
			}
			r.Outcomes = append(r.Outcomes, o)
		}
		return nil
	})
	if err != nil {
		return presence.Result{}, err
	}
	return r, nil
}

func stepPresence(ctx context.Context, q *db.Queries, c presence.Change, s presence.Step, version int64) (presence.Outcome, error) {
	var number int64
	var err error
	if s.Online {
		number, err = q.ComePresence(ctx, db.ComePresenceParams{Version: version, Since: micros(s.At), DeviceID: s.Device})
	} else {
		unheard := int64(math.MaxInt64)
		if !s.Unheard.IsZero() {
			unheard = micros(s.Unheard)
		}
		number, err = q.GoPresence(ctx, db.GoPresenceParams{
			Version: version, Since: micros(s.At), DeviceID: s.Device, Unheard: unheard, Holder: c.Holder, Now: micros(c.Now),
		})
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		is, err := q.GetPresence(ctx, s.Device)
		if errors.Is(err, sql.ErrNoRows) {
			return presence.Outcome{}, nil
		}
		return presence.Outcome{Known: true, Online: is.Online, Since: timeOf(is.Since)}, err
	case err != nil:
		return presence.Outcome{}, err
	}
	err = q.InsertPresenceHistory(ctx, db.InsertPresenceHistoryParams{DeviceID: s.Device, Number: number, At: micros(s.At), Online: s.Online, Reason: s.Reason})
	if err == nil {
		err = q.DeletePresenceHistory(ctx, db.DeletePresenceHistoryParams{DeviceID: s.Device, Number: number - presence.KeptTransitions})
	}
	return presence.Outcome{Taken: true, Known: true, Online: s.Online, Since: s.At}, err
}

// Presences implements presence.Store.
func (d *DB) Presences(ctx context.Context, after int64) ([]presence.Row, error) {
	rows, err := d.q.ListPresence(ctx, after)
	if err != nil {
		return nil, classify(err)
	}
	all := make([]presence.Row, len(rows))
	for n, r := range rows {
		all[n] = presence.Row{
			Device: r.DeviceID, Version: r.Version, Online: r.Online, Since: timeOf(r.Since), SeenAt: timeOf(r.SeenAt), Source: presence.Source(r.Source),
			BySession: r.BySession, ClockAt: timeOf(r.ClockAt), ClockOff: time.Duration(r.ClockOff) * time.Microsecond,
		}
	}
	return all, nil
}

// PresenceSessions implements presence.Store.
func (d *DB) PresenceSessions(ctx context.Context, after int64) ([]presence.Sessions, error) {
	rows, err := d.q.ListPresenceSessions(ctx, after)
	if err != nil {
		return nil, classify(err)
	}
	all := make([]presence.Sessions, len(rows))
	for n, r := range rows {
		all[n] = presence.Sessions{Device: r.DeviceID, Holder: r.Holder, Count: int(r.Sessions), Version: r.Version}
	}
	return all, nil
}

// PresenceProcesses implements presence.Store.
func (d *DB) PresenceProcesses(ctx context.Context) (map[string]time.Time, error) {
	rows, err := d.q.ListPresenceProcesses(ctx)
	if err != nil {
		return nil, classify(err)
	}
	all := make(map[string]time.Time, len(rows))
	for _, r := range rows {
		all[r.Holder] = timeOf(r.Until)
	}
	return all, nil
}

// RemovePresence implements presence.Store. Mostly there is nothing to be
// removed, and others are not kept waiting for that.
func (d *DB) RemovePresence(ctx context.Context, ended time.Time, holder string) error {
	n, err := d.q.CountPresenceProcesses(ctx, db.CountPresenceProcessesParams{Until: micros(ended), Holder: holder})
	if err != nil || n == 0 {
		return classify(err)
	}
	return d.tx(ctx, func(tx *sql.Tx) error {
		return classify(db.New(tx).DeletePresenceProcesses(ctx, db.DeletePresenceProcessesParams{Until: micros(ended), Holder: holder}))
	})
}

// PresenceDrops implements presence.Store.
func (d *DB) PresenceDrops(ctx context.Context, after time.Time) ([]presence.Transition, error) {
	rows, err := d.q.ListPresenceDrops(ctx, micros(after))
	if err != nil {
		return nil, classify(err)
	}
	all := make([]presence.Transition, len(rows))
	for n, r := range rows {
		all[n] = presence.Transition{Device: r.DeviceID, At: timeOf(r.At), Reason: r.Reason}
	}
	return all, nil
}

// PresenceHistory implements presence.Store.
func (d *DB) PresenceHistory(ctx context.Context, device int64, from time.Time, limit int) ([]presence.Transition, error) {
	rows, err := d.q.ListPresenceHistory(ctx, db.ListPresenceHistoryParams{DeviceID: device, At: micros(from), Most: int32(limit)})
	if err != nil {
		return nil, classify(err)
	}
	all := make([]presence.Transition, len(rows))
	for n, r := range rows {
		all[n] = presence.Transition{Device: device, At: timeOf(r.At), Online: r.Online, Reason: r.Reason}
	}
	return all, nil
}

// TrimPresence implements presence.Store.
func (d *DB) TrimPresence(ctx context.Context, before time.Time) error {
	return d.tx(ctx, func(tx *sql.Tx) error { return classify(db.New(tx).TrimPresenceHistory(ctx, micros(before))) })
}
