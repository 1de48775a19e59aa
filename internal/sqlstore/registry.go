package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore/db"
)

// Tx implements registry.Store.
func (d *DB) Tx(ctx context.Context, f func(registry.Queries) error) error {
	return d.tx(ctx, func(tx *sql.Tx) error { return f(queries{db.New(tx)}) })
}

// tx runs f in a transaction, which leaves nothing if f fails.
func (d *database) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if d.begin != "" {
		if _, err := tx.ExecContext(ctx, d.begin); err != nil {
			return classify(err)
		}
	}
	if err := f(tx); err != nil {
		return err
	}
	err = tx.Commit()
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil { // rolled back because ctx ended
		err = ctx.Err()
	}
	return classify(err)
}

// queries implements registry.Queries over the generated ones.
type queries struct{ q *db.Queries }

// Models implements registry.Queries.
func (s queries) Models(ctx context.Context) ([]fleet.Model, error) {
	rows, err := s.q.ListModels(ctx)
	if err != nil {
		return nil, classify(err)
	}
	models := make([]fleet.Model, 0, len(rows))
	for _, row := range rows {
		models = append(models, model(db.GetModelRow(row)))
	}
	slices.SortFunc(models, func(a, b fleet.Model) int { return cmp.Compare(a.Code, b.Code) })
	return models, nil
}

// Model implements registry.Queries.
func (s queries) Model(ctx context.Context, id int64) (fleet.Model, error) {
	row, err := s.q.GetModel(ctx, id)
	if err != nil {
		return fleet.Model{}, missing(err, "DeviceModel", id)
	}
	return model(row), nil
}

// BareModel implements registry.Queries.
func (s queries) BareModel(ctx context.Context, id int64) (fleet.Model, error) {
	r, err := s.q.GetBareModel(ctx, id)
	if err != nil {
		return fleet.Model{}, missing(err, "DeviceModel", id)
	}
	return model(db.GetModelRow{
		ID: r.ID, Code: r.Code, Name: r.Name, FirmwareVersion: r.FirmwareVersion, ConfigSchema: r.ConfigSchema,
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}), nil
}

// InsertModel implements registry.Queries.
func (s queries) InsertModel(ctx context.Context, m fleet.Model) (int64, error) {
	id, err := s.q.NextID(ctx, "device_models")
	if err != nil {
		return 0, classify(err)
	}
	err = s.q.InsertModel(ctx, db.InsertModelParams{
		ID:              id,
		Code:            m.Code,
		Name:            m.Name,
		FirmwareVersion: nullString(m.FirmwareVersion),
		ConfigSchema:    nullString(m.ConfigSchema),
		CreatedAt:       m.CreatedAt.UnixMicro(),
		UpdatedAt:       m.UpdatedAt.UnixMicro(),
	})
	if violated(err) == unique {
		e := fleet.ErrExists("DeviceModel", m.Code)
		e.Cause = err
		return 0, e
	}
	return id, classify(err)
}

// UpdateModel implements registry.Queries.
func (s queries) UpdateModel(ctx context.Context, m fleet.Model) error {
	n, err := s.q.UpdateModel(ctx, db.UpdateModelParams{
		Name:            m.Name,
		FirmwareVersion: nullString(m.FirmwareVersion),
		ConfigSchema:    nullString(m.ConfigSchema),
		UpdatedAt:       m.UpdatedAt.UnixMicro(),
		ID:              m.ID,
	})
	return one(n, err, "DeviceModel", m.ID)
}

// DeleteModel implements registry.Queries.
func (s queries) DeleteModel(ctx context.Context, id int64) error {
	n, err := s.q.DeleteModel(ctx, id)
	if violated(err) == foreignKey {
		e := fleet.ErrOperation("delete device model", "model has associated device(s)")
		e.Cause = err
		return e
	}
	return one(n, err, "DeviceModel", id)
}

// Devices implements registry.Queries.
func (s queries) Devices(ctx context.Context, filter registry.DeviceFilter) ([]fleet.Device, error) {
	var p db.ListDevicesParams
	if filter.ModelID != nil {
		p.ModelID = sql.NullInt64{Int64: *filter.ModelID, Valid: true}
	}
	if filter.Rotation != nil {
		p.RotationState = sql.NullString{String: string(*filter.Rotation), Valid: true}
	}
	rows, err := s.q.ListDevices(ctx, p)
	if err != nil {
		return nil, classify(err)
	}
	devices := make([]fleet.Device, 0, len(rows))
	for _, r := range rows {
		devices = append(devices, device(db.GetDeviceRow{
			ID: r.ID, Key: r.Key, Active: r.Active,
			DeviceName: r.DeviceName, DeviceEntityID: r.DeviceEntityID, EnableOta: r.EnableOta,
			RotationState: r.RotationState, SecretCreatedAt: r.SecretCreatedAt,
			LastRotationAttemptAt: r.LastRotationAttemptAt, LastRotationCompletedAt: r.LastRotationCompletedAt,
			CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Tags: r.Tags, RevokedAt: r.RevokedAt,
			ModelID: r.ModelID, ModelCode: r.ModelCode, ModelName: r.ModelName, FirmwareVersion: r.FirmwareVersion,
		}))
	}
	slices.SortFunc(devices, func(a, b fleet.Device) int { return cmp.Compare(a.Key, b.Key) })
	return devices, nil
}

// Device implements registry.Queries.
func (s queries) Device(ctx context.Context, id int64) (fleet.Device, error) {
	row, err := s.q.GetDevice(ctx, id)
	if err != nil {
		return fleet.Device{}, missing(err, "Device", id)
	}
	return device(row), nil
}

// InsertDevice implements registry.Queries.
func (s queries) InsertDevice(ctx context.Context, d fleet.Device) (int64, error) {
	id, err := s.q.NextID(ctx, "devices")
	if err != nil {
		return 0, classify(err)
	}
	err = s.q.InsertDevice(ctx, db.InsertDeviceParams{
		ID:                      id,
		Key:                     d.Key,
		DeviceModelID:           d.Model.ID,
		Active:                  d.Active,
		Config:                  d.Config,
		DeviceName:              nullString(d.Name),
		DeviceEntityID:          nullString(d.EntityID),
		EnableOta:               nullBool(d.EnableOTA),
		RotationState:           string(d.Rotation),
		SecretCreatedAt:         nullTime(d.SecretCreatedAt),
		LastRotationAttemptAt:   nullTime(d.LastRotationAttemptAt),
		LastRotationCompletedAt: nullTime(d.LastRotationCompletedAt),
		CreatedAt:               d.CreatedAt.UnixMicro(),
		UpdatedAt:               d.UpdatedAt.UnixMicro(),
		Tags:                    string(d.Tags),
	})
	switch violated(err) {
	case unique:
		e := fleet.ErrExists("Device", d.Key)
		e.Cause = err
		return 0, e
	case foreignKey:
		e := fleet.ErrNotFound("DeviceModel", d.Model.ID)
		e.Cause = err
		return 0, e
	}
	if err != nil {
		return id, classify(err)
	}
	return id, mark(ctx, s.q, id)
}

// UpdateDevice implements registry.Queries.
func (s queries) UpdateDevice(ctx context.Context, d fleet.Device) error {
	n, err := s.q.UpdateDevice(ctx, db.UpdateDeviceParams{
		Active:                  d.Active,
		Config:                  d.Config,
		DeviceName:              nullString(d.Name),
		DeviceEntityID:          nullString(d.EntityID),
		EnableOta:               nullBool(d.EnableOTA),
		RotationState:           string(d.Rotation),
		SecretCreatedAt:         nullTime(d.SecretCreatedAt),
		LastRotationAttemptAt:   nullTime(d.LastRotationAttemptAt),
		LastRotationCompletedAt: nullTime(d.LastRotationCompletedAt),
		UpdatedAt:               d.UpdatedAt.UnixMicro(),
		Tags:                    string(d.Tags),
		ID:                      d.ID,
	})
	return s.marked(ctx, n, err, d.ID)
}

// Untagged implements registry.Queries.
func (s queries) Untagged(ctx context.Context) ([]int64, error) {
	ids, err := s.q.ListUntagged(ctx)
	return ids, classify(err)
}

// DeleteDevice implements registry.Queries.
func (s queries) DeleteDevice(ctx context.Context, id int64) error {
	n, err := s.q.DeleteDevice(ctx, id)
	return one(n, err, "Device", id)
}

// SetRevoked implements registry.Queries.
func (s queries) SetRevoked(ctx context.Context, id int64, at *time.Time) error {
	n, err := s.q.SetDeviceRevoked(ctx, db.SetDeviceRevokedParams{RevokedAt: nullTime(at), ID: id})
	return s.marked(ctx, n, err, id)
}

// SetClientStale implements registry.Queries.
func (s queries) SetClientStale(ctx context.Context, id int64, stale bool) error {
	n, err := s.q.SetClientStale(ctx, db.SetClientStaleParams{ClientStale: stale, ID: id})
	return one(n, err, "Device", id)
}

// StaleDevices implements registry.Queries.
func (s queries) StaleDevices(ctx context.Context) ([]int64, error) {
	ids, err := s.q.ListStaleDevices(ctx)
	slices.Sort(ids)
	return ids, classify(err)
}

// PutRemoval implements registry.Queries.
func (s queries) PutRemoval(ctx context.Context, clientID string, due time.Time) error {
	return classify(s.q.PutRemoval(ctx, db.PutRemovalParams{ClientID: clientID, DueAt: due.UnixMicro()}))
}

// Removals implements registry.Queries.
func (s queries) Removals(ctx context.Context) ([]registry.Removal, error) {
	rows, err := s.q.ListRemovals(ctx)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]registry.Removal, 0, len(rows))
	for _, r := range rows {
		list = append(list, registry.Removal{ClientID: r.ClientID, Due: timeOf(r.DueAt)})
	}
	slices.SortFunc(list, func(a, b registry.Removal) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return list, nil
}

// DeleteRemoval implements registry.Queries.
func (s queries) DeleteRemoval(ctx context.Context, clientID string) (bool, error) {
	n, err := s.q.DeleteRemoval(ctx, clientID)
	return n > 0, classify(err)
}

func model(r db.GetModelRow) fleet.Model {
	return fleet.Model{
		ID:              r.ID,
		Code:            r.Code,
		Name:            r.Name,
		FirmwareVersion: stringPtr(r.FirmwareVersion),
		ConfigSchema:    stringPtr(r.ConfigSchema),
		DeviceCount:     int(r.DeviceCount),
		CreatedAt:       time.UnixMicro(r.CreatedAt).UTC(),
		UpdatedAt:       time.UnixMicro(r.UpdatedAt).UTC(),
	}
}

func device(r db.GetDeviceRow) fleet.Device {
	d := fleet.Device{
		ID:  r.ID,
		Key: r.Key,
		Model: fleet.Model{
			ID: r.ModelID, Code: r.ModelCode, Name: r.ModelName, FirmwareVersion: stringPtr(r.FirmwareVersion),
		},
		Active:                  r.Active,
		Config:                  r.Config,
		Name:                    stringPtr(r.DeviceName),
		EntityID:                stringPtr(r.DeviceEntityID),
		Tags:                    fleet.Tags(r.Tags),
		Rotation:                fleet.RotationState(r.RotationState),
		SecretCreatedAt:         timePtr(r.SecretCreatedAt),
		LastRotationAttemptAt:   timePtr(r.LastRotationAttemptAt),
		LastRotationCompletedAt: timePtr(r.LastRotationCompletedAt),
		CreatedAt:               time.UnixMicro(r.CreatedAt).UTC(),
		UpdatedAt:               time.UnixMicro(r.UpdatedAt).UTC(),
		RevokedAt:               timePtr(r.RevokedAt),
	}
	if r.EnableOta.Valid {
		d.EnableOTA = &r.EnableOta.Bool
	}
	return d
}

// missing turns the error of a query for one row into fleet.NotFound if the row
// is not there.
func missing(err error, thing string, id int64) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fleet.ErrNotFound(thing, id)
	}
	return classify(err)
}

// one is missing for a statement that changes one row.
func one(n int64, err error, thing string, id int64) error {
	if err == nil && n == 0 {
		return fleet.ErrNotFound(thing, id)
	}
	return classify(err)
}

func nullString(s *string) sql.NullString {
	if s == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: *s, Valid: true}
}

func nullBool(b *bool) sql.NullBool {
	if b == nil {
		return sql.NullBool{}
	}
	return sql.NullBool{Bool: *b, Valid: true}
}

func nullTime(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: true}
}

func stringPtr(s sql.NullString) *string {
	if !s.Valid {
		return nil
	}
	return &s.String
}

func timePtr(n sql.NullInt64) *time.Time {
	if !n.Valid {
		return nil
	}
	t := time.UnixMicro(n.Int64).UTC()
	return &t
}
