package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore/db"
)

var _ rotation.CampaignStore = (*DB)(nil)

// Candidates implements rotation.CampaignStore.
func (d *DB) Candidates(ctx context.Context) ([]rotation.Candidate, error) {
	rows, err := d.q.ListCampaignCandidates(ctx)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Candidate, 0, len(rows))
	for _, r := range rows {
		c := rotation.Candidate{
			Ref: fleet.DeviceRef{
				ID: r.ID, Key: r.Key, ClientID: fleet.ClientID(r.Code, r.Key), EntityID: r.DeviceEntityID.String, Name: r.DeviceName.String,
				ModelID: r.DeviceModelID, ModelCode: r.Code, Tags: fleet.Tags(r.Tags), Revoked: r.RevokedAt.Valid,
			},
			Active: r.Active, State: fleet.RotationState(r.RotationState), SecretAt: timeOf(r.SecretCreatedAt.Int64), Stuck: r.Stuck.Bool, Campaign: r.CampaignID.Int64,
		}
		switch {
		case r.State != "":
			var s rotation.State
			if err := json.Unmarshal([]byte(r.State), &s); err != nil {
				return nil, fmt.Errorf("the state of device %d cannot be read: %w", r.ID, err)
			}
			c.Failures = s.Failures
		case !r.Wire.Valid && c.State != fleet.RotationTimeout:
			c.State = fleet.RotationOK // as of Rotation
		}
		list = append(list, c)
	}
	return list, nil
}

// TookLately implements rotation.CampaignStore.
func (d *DB) TookLately(ctx context.Context, limit int) ([]rotation.Took, error) {
	rows, err := d.q.ListTookLately(ctx, int32(limit))
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Took, 0, len(rows))
	for _, r := range rows {
		list = append(list, rotation.Took{Device: r.DeviceID, Time: timeOf(r.EndedAt).Sub(timeOf(r.StartedAt))})
	}
	return list, nil
}

// CreateCampaign implements rotation.CampaignStore.
func (d *DB) CreateCampaign(ctx context.Context, c rotation.Campaign, members []rotation.Member) (id int64, err error) {
	rules, err := json.Marshal(c.Rules)
	if err != nil {
		return 0, err
	}
	course, err := json.Marshal(c.Course)
	if err != nil {
		return 0, err
	}
	err = d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		if id, err = q.NextID(ctx, "campaigns"); err != nil {
			return classify(err)
		}
		err := q.InsertCampaign(ctx, db.InsertCampaignParams{
			ID: id, State: string(c.Course.State), Name: c.Name, Reason: c.Reason, Actor: c.Actor, CreatedAt: micros(c.CreatedAt),
			Rules: string(rules), Course: string(course), Options: string(c.Options),
		})
		if err != nil {
			return classify(err)
		}
		for len(members) > 0 {
			n := min(len(members), 200)
			if err := insertMembers(ctx, tx, id, members[:n]); err != nil {
				return err
			}
			members = members[n:]
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

// insertMembers stores devices in one statement: one for each would take a
// second for ten thousand.
func insertMembers(ctx context.Context, tx *sql.Tx, campaign int64, members []rotation.Member) error {
	var text strings.Builder
	text.WriteString("INSERT INTO campaign_devices (campaign_id, device_id, device_key, position, wave, state, reason, attempt, queued_at, deferred_at, started_at, ended_at) VALUES ")
	keys := make([]any, 0, len(members))
	for i, m := range members {
		if i > 0 {
			text.WriteByte(',')
		}
		// Numbers go into the text: SQLite looks a parameter up among all before it.
		fmt.Fprintf(&text, "(%d, %d, $%d, %d, %d, 'waiting', '', 0, 0, 0, 0, 0)", campaign, m.Device, i+1, m.Position, m.Wave)
		keys = append(keys, m.Key)
	}
	_, err := tx.ExecContext(ctx, text.String(), keys...)
	if violated(err) == unique {
		return fleet.E(fleet.Exists, err, "A device takes part in another campaign")
	}
	return classify(err)
}

func campaign(r db.GetCampaignRow) (rotation.Campaign, error) {
	c := rotation.Campaign{ID: r.ID, Version: r.Version, Name: r.Name, Reason: r.Reason, Actor: r.Actor, CreatedAt: timeOf(r.CreatedAt)}
	if r.Options != "" {
		c.Options = json.RawMessage(r.Options)
	}
	if err := json.Unmarshal([]byte(r.Rules), &c.Rules); err != nil {
		return c, fmt.Errorf("the rules of campaign %d cannot be read: %w", r.ID, err)
	}
	if err := json.Unmarshal([]byte(r.Course), &c.Course); err != nil {
		return c, fmt.Errorf("the course of campaign %d cannot be read: %w", r.ID, err)
	}
	return c, nil
}

// Campaign implements rotation.CampaignStore.
func (d *DB) Campaign(ctx context.Context, id int64) (rotation.Campaign, error) {
	row, err := d.q.GetCampaign(ctx, id)
	if err != nil {
		return rotation.Campaign{}, missing(err, "Campaign", id)
	}
	return campaign(row)
}

// Campaigns implements rotation.CampaignStore.
func (d *DB) Campaigns(ctx context.Context, before int64, limit int) ([]rotation.Campaign, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	rows, err := d.q.ListCampaigns(ctx, db.ListCampaignsParams{BeforeID: before, Most: int32(limit)})
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Campaign, 0, len(rows))
	for _, r := range rows {
		c, err := campaign(db.GetCampaignRow(r))
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// LiveCampaigns implements rotation.CampaignStore.
func (d *DB) LiveCampaigns(ctx context.Context) ([]rotation.Campaign, error) {
	rows, err := d.q.ListLiveCampaigns(ctx)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Campaign, 0, len(rows))
	for _, r := range rows {
		c, err := campaign(db.GetCampaignRow{
			ID: r.ID, Version: r.Version, Name: r.Name, Reason: r.Reason, Actor: r.Actor, CreatedAt: r.CreatedAt, Rules: r.Rules, Course: r.Course,
		})
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// CampaignCounts implements rotation.CampaignStore.
func (d *DB) CampaignCounts(ctx context.Context) (map[rotation.CampaignState]int, error) {
	rows, err := d.q.CountCampaigns(ctx)
	if err != nil {
		return nil, classify(err)
	}
	counts := map[rotation.CampaignState]int{}
	for _, r := range rows {
		counts[rotation.CampaignState(r.State)] = int(r.Campaigns)
	}
	return counts, nil
}

// CommitCampaign implements rotation.CampaignStore.
func (d *DB) CommitCampaign(ctx context.Context, c rotation.CampaignChange) error {
	id := c.Campaign.ID
	course, err := json.Marshal(c.Campaign.Course)
	if err != nil {
		return err
	}
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		n, err := q.UpdateCampaign(ctx, db.UpdateCampaignParams{
			Live: c.Campaign.Course.EndedAt.IsZero(), State: string(c.Campaign.Course.State), Course: string(course), ID: id, Version: c.Campaign.Version,
		})
		switch {
		case err != nil:
			return classify(err)
		case n == 0:
			if _, err := q.GetCampaign(ctx, id); err != nil {
				return missing(err, "Campaign", id)
			}
			return fleet.ErrExists("Campaign", id)
		}
		for _, m := range c.Moves {
			at := micros(m.At)
			switch m.To {
			case rotation.TurnInFlight:
				n, err = q.BeginCampaignDevice(ctx, db.BeginCampaignDeviceParams{At: at, CampaignID: id, DeviceID: m.Device, Was: string(m.From)})
			case rotation.TurnDeferred:
				n, err = q.DeferCampaignDevice(ctx, db.DeferCampaignDeviceParams{Reason: m.Reason, At: at, CampaignID: id, DeviceID: m.Device, Was: string(m.From)})
			default:
				n, err = q.EndCampaignDevice(ctx, db.EndCampaignDeviceParams{
					State: string(m.To), Reason: m.Reason, At: at, Attempt: m.Attempt, CampaignID: id, DeviceID: m.Device, Was: string(m.From),
				})
			}
			switch {
			case err != nil:
				return classify(err)
			case n == 0:
				return fleet.ErrExists("Campaign", id)
			}
		}
		if c.SkipOpen != "" {
			if err := q.SkipOpenCampaignDevices(ctx, db.SkipOpenCampaignDevicesParams{Reason: c.SkipOpen, At: micros(c.At), CampaignID: id}); err != nil {
				return classify(err)
			}
		}
		if !c.Deferred.IsZero() {
			return classify(q.DeferAgain(ctx, db.DeferAgainParams{At: micros(c.Deferred), CampaignID: id}))
		}
		return nil
	})
}

// Members implements rotation.CampaignStore.
func (d *DB) Members(ctx context.Context, campaign int64, f rotation.MemberFilter) ([]rotation.Member, error) {
	var rows []db.ListCampaignDevicesRow
	var err error
	if f.State == "" {
		rows, err = d.q.ListCampaignDevices(ctx, db.ListCampaignDevicesParams{CampaignID: campaign, After: f.After, Most: int32(f.Limit)})
	} else {
		var in []db.ListCampaignDevicesInRow
		in, err = d.q.ListCampaignDevicesIn(ctx, db.ListCampaignDevicesInParams{CampaignID: campaign, State: string(f.State), After: f.After, Most: int32(f.Limit)})
		for _, r := range in {
			rows = append(rows, db.ListCampaignDevicesRow(r))
		}
	}
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Member, 0, len(rows))
	for _, r := range rows {
		list = append(list, rotation.Member{
			Position: r.Position, Device: r.DeviceID, Key: r.DeviceKey, Wave: int(r.Wave), State: rotation.TurnState(r.State), Reason: r.Reason,
			StartedAt: timeOf(r.StartedAt), EndedAt: timeOf(r.EndedAt),
		})
	}
	return list, nil
}

// MemberIDs implements rotation.CampaignStore.
func (d *DB) MemberIDs(ctx context.Context, campaign int64) ([]int64, error) {
	ids, err := d.q.ListCampaignDeviceIDs(ctx, campaign)
	return ids, classify(err)
}

// Turns implements rotation.CampaignStore.
func (d *DB) Turns(ctx context.Context, campaign int64, state rotation.TurnState, wave, limit int) ([]rotation.Turn, error) {
	p := db.ListCampaignTurnsParams{CampaignID: campaign, State: string(state), FirstWave: int64(wave), LastWave: int64(wave), Most: int32(limit)}
	if wave == 0 {
		p.LastWave = math.MaxInt64
	}
	rows, err := d.q.ListCampaignTurns(ctx, p)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Turn, 0, len(rows))
	for _, r := range rows {
		t := rotation.Turn{
			Device: r.DeviceID, Wave: int(r.Wave), DeferredAt: timeOf(r.DeferredAt), Gone: !r.Active.Valid, Revoked: r.RevokedAt.Valid, Inactive: !r.Active.Bool,
		}
		switch fleet.RotationState(r.Wire.String) {
		case fleet.RotationQueued, fleet.RotationPending:
			t.Busy = true
		}
		list = append(list, t)
	}
	return list, nil
}

// Flights implements rotation.CampaignStore.
func (d *DB) Flights(ctx context.Context, campaign int64) ([]rotation.Flight, error) {
	rows, err := d.q.ListCampaignFlights(ctx, campaign)
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Flight, 0, len(rows))
	for _, r := range rows {
		list = append(list, rotation.Flight{
			Device: r.DeviceID, Wave: int(r.Wave), QueuedAt: timeOf(r.QueuedAt), Gone: !r.There.Valid,
			Attempt: r.Attempt.Int64, Outcome: rotation.Outcome(r.Outcome.String), EndedAt: timeOf(r.EndedAt.Int64),
			Wire: fleet.RotationState(r.Wire.String), Campaign: r.Campaign.Int64, Stuck: r.Stuck.Bool, Trouble: r.Trouble.String,
		})
	}
	return list, nil
}

// MarkQueued implements rotation.CampaignStore.
func (d *DB) MarkQueued(ctx context.Context, campaign int64, devices []int64, at time.Time) error {
	return d.tx(ctx, func(tx *sql.Tx) error {
		q := db.New(tx)
		for _, id := range devices {
			if err := q.MarkCampaignDeviceQueued(ctx, db.MarkCampaignDeviceQueuedParams{At: micros(at), CampaignID: campaign, DeviceID: id}); err != nil {
				return classify(err)
			}
		}
		return nil
	})
}

// LateDevices implements rotation.CampaignStore.
func (d *DB) LateDevices(ctx context.Context, since time.Time, limit int) ([]rotation.Late, error) {
	rows, err := d.q.ListLateCampaignDevices(ctx, db.ListLateCampaignDevicesParams{Since: micros(since), Most: int32(limit)})
	if err != nil {
		return nil, classify(err)
	}
	list := make([]rotation.Late, 0, len(rows))
	for i, r := range rows {
		if i > 0 && rows[i-1].CampaignID == r.CampaignID && rows[i-1].DeviceID == r.DeviceID {
			continue // it was rotated twice since
		}
		list = append(list, rotation.Late{Campaign: r.CampaignID, Move: rotation.Move{
			Device: r.DeviceID, Wave: int(r.Wave), From: rotation.TurnFailed, To: rotation.TurnDone, Reason: "late", At: timeOf(r.EndedAt),
			Attempt: r.Attempt, Failed: timeOf(r.FailedAt),
		}})
	}
	return list, nil
}

// CampaignLease implements rotation.CampaignStore.
func (d *DB) CampaignLease(ctx context.Context, holder string, now, until time.Time) (got bool, err error) {
	return d.takeLease(ctx, "campaigns", holder, now, until)
}

// ReleaseCampaignLease implements rotation.CampaignStore.
func (d *DB) ReleaseCampaignLease(ctx context.Context, holder string) error {
	return d.dropLease(ctx, "campaigns", holder)
}
