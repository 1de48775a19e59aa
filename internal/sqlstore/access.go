package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/sqlstore/db"
)

var _ access.Store = (*DB)(nil)

// AccessVersion implements access.Store.
func (d *DB) AccessVersion(ctx context.Context) (int64, error) {
	version, err := d.q.AccessVersion(ctx)
	return version, classify(err)
}

// LoadAccess implements access.Store.
func (d *DB) LoadAccess(ctx context.Context) (access.Stored, error) {
	var options *sql.TxOptions
	if d.begin != "" { // SQLite's transactions see one moment anyway
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	tx, err := d.read.BeginTx(ctx, options)
	if err != nil {
		return access.Stored{}, classify(err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return writer{db.New(tx)}.LoadAccess(ctx)
}

// ChangeAccess implements access.Store.
func (d *DB) ChangeAccess(ctx context.Context, f func(access.Writer, int64) error) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		version, err := q.NextID(ctx, "access")
		if err != nil {
			return classify(err)
		}
		return f(writer{q}, version)
	})
}

// NoteUses implements access.Store.
func (d *DB) NoteUses(ctx context.Context, uses []access.Use) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		for _, u := range uses {
			at := u.At.UnixMicro()
			var err error
			switch {
			case u.Person != 0:
				err = q.NotePerson(ctx, db.NotePersonParams{SeenAt: at, ID: u.Person})
			case u.Token != 0:
				err = q.NoteToken(ctx, db.NoteTokenParams{UsedAt: at, ID: u.Token})
			default:
				err = q.NoteSession(ctx, db.NoteSessionParams{SeenAt: at, ID: u.Session})
				if err == nil && !u.Expires.IsZero() {
					err = q.NoteSessionEnd(ctx, db.NoteSessionEndParams{ExpiresAt: u.Expires.UnixMicro(), ID: u.Session})
				}
			}
			if err != nil {
				return classify(err)
			}
		}
		return nil
	})
}

// InsertEvent implements access.Store. It does not wait for the transactions of
// others: the row of the counter keeps the ids in the order of the commits.
func (d *DB) InsertEvent(ctx context.Context, e access.Event) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	q := db.New(tx)
	id, err := q.NextID(ctx, "audit_events")
	if err != nil {
		return classify(err)
	}
	if err := q.InsertEvent(ctx, db.InsertEventParams{
		ID: id, At: e.At.UnixMicro(), Actor: e.Actor, Name: e.Name, Kind: string(e.Kind), Action: e.Action, Target: e.Target,
		Label: e.Label, Outcome: e.Outcome, Address: e.Address, Detail: e.Detail,
	}); err != nil {
		return classify(err)
	}
	return classify(tx.Commit())
}

// EventPage implements access.Store.
func (d *DB) EventPage(ctx context.Context, f access.EventFilter, limit int) ([]access.Event, error) {
	p := db.ListEventsParams{Actor: filled(f.Actor), Most: int32(min(limit, 1<<30))}
	p.Action, p.ActionPrefix = exactOrPrefix(f.Action)
	p.Target, p.TargetPrefix = exactOrPrefix(f.Target)
	if !f.Since.IsZero() {
		p.Since = sql.NullInt64{Int64: f.Since.UnixMicro(), Valid: true}
	}
	if !f.Until.IsZero() {
		p.Until = sql.NullInt64{Int64: f.Until.UnixMicro(), Valid: true}
	}
	if f.Before != 0 {
		p.BeforeID = sql.NullInt64{Int64: f.Before, Valid: true}
	}
	rows, err := d.q.ListEvents(ctx, p)
	if err != nil {
		return nil, classify(err)
	}
	events := make([]access.Event, 0, len(rows))
	for _, r := range rows {
		events = append(events, access.Event{
			ID: r.ID, At: time.UnixMicro(r.At).UTC(), Actor: r.Actor, Name: r.Name, Kind: access.Kind(r.Kind), Action: r.Action,
			Target: r.Target, Label: r.Label, Outcome: r.Outcome, Address: r.Address, Detail: r.Detail,
		})
	}
	return events, nil
}

// DeleteEvents implements access.Store.
func (d *DB) DeleteEvents(ctx context.Context, before time.Time, limit int) (int, error) {
	n, err := db.New(d.write).DeleteEvents(ctx, db.DeleteEventsParams{Before: before.UnixMicro(), Most: int32(min(limit, 1<<30))})
	return int(n), classify(err)
}

// writer implements access.Writer over the generated queries.
type writer struct{ q *db.Queries }

// LoadAccess implements access.Writer.
func (w writer) LoadAccess(ctx context.Context) (s access.Stored, err error) {
	if s.Version, err = w.q.AccessVersion(ctx); err != nil {
		return s, classify(err)
	}
	people, err := w.q.ListPeople(ctx)
	if err != nil {
		return s, classify(err)
	}
	for _, r := range people {
		p := access.StoredPerson{
			Account: access.Account{
				ID: r.ID, Subject: r.Subject, External: r.External, Username: r.Username.String, Name: r.Name, Email: r.Email,
				Disabled: r.Disabled, CreatedAt: time.UnixMicro(r.CreatedAt).UTC(), SeenAt: timePtr(r.SeenAt),
			},
			Password: r.Password,
		}
		if p.Roles, p.Limit, err = rights(r.Roles, r.LimitModels, r.LimitTags); err != nil {
			return s, err
		}
		s.People = append(s.People, p)
	}
	sessions, err := w.q.ListSessions(ctx)
	if err != nil {
		return s, classify(err)
	}
	for _, r := range sessions {
		s.Sessions = append(s.Sessions, access.StoredSession{
			ID: r.ID, Person: r.PersonID, Hash: r.SecretHash.String, Client: access.Client{Address: r.Address, Agent: r.Agent},
			CreatedAt: time.UnixMicro(r.CreatedAt).UTC(), SeenAt: time.UnixMicro(r.SeenAt).UTC(),
			ExpiresAt: time.UnixMicro(r.ExpiresAt).UTC(), EndsAt: time.UnixMicro(r.EndsAt).UTC(),
		})
	}
	tokens, err := w.q.ListTokens(ctx)
	if err != nil {
		return s, classify(err)
	}
	for _, r := range tokens {
		t := access.StoredToken{
			TokenInfo: access.TokenInfo{
				ID: r.ID, Name: r.Name, Hint: r.Hint, CreatedAt: time.UnixMicro(r.CreatedAt).UTC(),
				ExpiresAt: time.UnixMicro(r.ExpiresAt).UTC(), UsedAt: timePtr(r.UsedAt),
			},
			Person: r.PersonID, Hash: r.SecretHash,
		}
		if t.Roles, t.Limit, err = rights(r.Roles, r.LimitModels, r.LimitTags); err != nil {
			return s, err
		}
		s.Tokens = append(s.Tokens, t)
	}
	revocations, err := w.q.ListRevocations(ctx)
	if err != nil {
		return s, classify(err)
	}
	for _, r := range revocations {
		s.Revocations = append(s.Revocations, access.StoredRevocation{
			Revocation: access.Revocation{Subject: r.Subject, Session: r.Session, Until: time.UnixMicro(r.Until).UTC()},
			At:         time.UnixMicro(r.RevokedAt).UTC(),
			Keep:       r.Kept,
		})
	}
	return s, nil
}

// InsertPerson implements access.Writer.
func (w writer) InsertPerson(ctx context.Context, p access.StoredPerson) (int64, error) {
	id, err := w.q.NextID(ctx, "people")
	if err != nil {
		return 0, classify(err)
	}
	if p.Subject == "" {
		p.Subject = access.LocalSubject + strconv.FormatInt(id, 10)
	}
	err = w.q.InsertPerson(ctx, db.InsertPersonParams{
		ID: id, Subject: p.Subject, External: p.External, Username: filled(p.Username), Name: p.Name, Email: p.Email, Password: p.Password,
		Roles: list(p.Roles), LimitModels: list(p.Limit.Models), LimitTags: list(p.Limit.Tags), Disabled: p.Disabled,
		CreatedAt: p.CreatedAt.UnixMicro(), SeenAt: nullTime(p.SeenAt),
	})
	if violated(err) == unique {
		name := p.Username
		if name == "" {
			name = p.Subject
		}
		e := fleet.ErrExists("Account", name)
		e.Cause = err
		return 0, e
	}
	return id, classify(err)
}

// UpdatePerson implements access.Writer.
func (w writer) UpdatePerson(ctx context.Context, p access.StoredPerson) error {
	n, err := w.q.UpdatePerson(ctx, db.UpdatePersonParams{
		Name: p.Name, Email: p.Email, Password: p.Password, Roles: list(p.Roles), LimitModels: list(p.Limit.Models),
		LimitTags: list(p.Limit.Tags), Disabled: p.Disabled, ID: p.ID,
	})
	return one(n, err, "Account", p.ID)
}

// DeletePerson implements access.Writer.
func (w writer) DeletePerson(ctx context.Context, id int64) error {
	n, err := w.q.DeletePerson(ctx, id)
	return one(n, err, "Account", id)
}

// InsertSession implements access.Writer.
func (w writer) InsertSession(ctx context.Context, s access.StoredSession) error {
	err := w.q.InsertSession(ctx, db.InsertSessionParams{
		ID: s.ID, PersonID: s.Person, SecretHash: filled(s.Hash), Address: s.Client.Address, Agent: s.Client.Agent,
		CreatedAt: s.CreatedAt.UnixMicro(), SeenAt: s.SeenAt.UnixMicro(), ExpiresAt: s.ExpiresAt.UnixMicro(), EndsAt: s.EndsAt.UnixMicro(),
	})
	switch violated(err) {
	case unique:
		e := fleet.ErrExists("Session", s.ID)
		e.Cause = err
		return e
	case foreignKey:
		e := fleet.ErrNotFound("Account", s.Person)
		e.Cause = err
		return e
	}
	return classify(err)
}

// ExtendSession implements access.Writer.
func (w writer) ExtendSession(ctx context.Context, id string, seen, expires time.Time) error {
	n, err := w.q.ExtendSession(ctx, db.ExtendSessionParams{SeenAt: seen.UnixMicro(), ExpiresAt: expires.UnixMicro(), ID: id})
	if err == nil && n == 0 {
		return fleet.ErrNotFound("Session", id)
	}
	return classify(err)
}

// DeleteSession implements access.Writer.
func (w writer) DeleteSession(ctx context.Context, id string) error {
	return classify(w.q.DeleteSession(ctx, id))
}

// InsertToken implements access.Writer.
func (w writer) InsertToken(ctx context.Context, t access.StoredToken) (int64, error) {
	id, err := w.q.NextID(ctx, "api_tokens")
	if err != nil {
		return 0, classify(err)
	}
	err = w.q.InsertToken(ctx, db.InsertTokenParams{
		ID: id, PersonID: t.Person, Name: t.Name, Hint: t.Hint, SecretHash: t.Hash, Roles: list(t.Roles),
		LimitModels: list(t.Limit.Models), LimitTags: list(t.Limit.Tags),
		CreatedAt: t.CreatedAt.UnixMicro(), ExpiresAt: t.ExpiresAt.UnixMicro(), UsedAt: nullTime(t.UsedAt),
	})
	if violated(err) == foreignKey {
		e := fleet.ErrNotFound("Account", t.Person)
		e.Cause = err
		return 0, e
	}
	return id, classify(err)
}

// DeleteToken implements access.Writer.
func (w writer) DeleteToken(ctx context.Context, id int64) error {
	return classify(w.q.DeleteToken(ctx, id))
}

// PutRevocation implements access.Writer.
func (w writer) PutRevocation(ctx context.Context, r access.StoredRevocation) error {
	return classify(w.q.PutRevocation(ctx, db.PutRevocationParams{
		Subject: r.Subject, Session: r.Session, Kept: r.Keep, RevokedAt: r.At.UnixMicro(), Until: r.Until.UnixMicro(),
	}))
}

// DeleteRevocation implements access.Writer.
func (w writer) DeleteRevocation(ctx context.Context, subject, session string) error {
	return classify(w.q.DeleteRevocation(ctx, db.DeleteRevocationParams{Subject: subject, Session: session}))
}

// list returns the JSON array of words.
func list(words []string) string {
	if len(words) == 0 {
		return "[]"
	}
	text, _ := json.Marshal(words) // text can always be written
	return string(text)
}

// rights reads the lists of a person or token. Damaged ones are an error: to be
// taken for no limit they must not.
func rights(roles, models, tags string) (r []string, l access.Limit, err error) {
	for _, part := range []struct {
		text string
		into *[]string
	}{{roles, &r}, {models, &l.Models}, {tags, &l.Tags}} {
		if part.text == "[]" {
			continue
		}
		err = errors.Join(err, json.Unmarshal([]byte(part.text), part.into))
	}
	return r, l, err
}

// filled is NULL for "".
func filled(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// exactOrPrefix splits a filter: one that ends with * is a prefix.
func exactOrPrefix(s string) (exact, prefix sql.NullString) {
	if p, ok := strings.CutSuffix(s, "*"); ok {
		return exact, filled(p)
	}
	return filled(s), prefix
}
