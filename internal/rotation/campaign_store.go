package rotation

import (
	"context"
	"encoding/json"
	"time"
)

// Campaign is a rotation of many devices.
type Campaign struct {
	ID        int64
	Version   int64 // grows with each change
	Name      string
	Reason    string // why it was made; "" if nobody said
	Actor     string // who made it
	CreatedAt time.Time
	Rules     CampaignRules
	Course    Course
	Options   json.RawMessage // as they were asked for; nil where they are not needed
}

// Member is a device of a campaign.
type Member struct {
	Position  int64 // in the order of turns, from 1
	Device    int64
	Key       string
	Wave      int
	State     TurnState
	Reason    string
	StartedAt time.Time // zero: it did not
	EndedAt   time.Time // zero: it did not
}

// Late is a device that failed, and was rotated all the same.
type Late struct {
	Campaign int64
	Move     Move
}

// CampaignChange is what is committed at once.
type CampaignChange struct {
	Campaign Campaign // Version is that of the campaign as it was read; only the Course is stored
	Moves    []Move
	SkipOpen string    // not "": who did not begin is skipped, for that reason
	Deferred time.Time // not zero: who is deferred is so since then
	At       time.Time
}

// MemberFilter selects devices of a campaign in the order of their turns.
type MemberFilter struct {
	State TurnState // "": all
	After int64     // those behind that position
	Limit int
}

// CampaignStore keeps campaigns. A campaign that is not there is
// fleet.NotFound, and a database that cannot be reached fleet.Unavailable.
type CampaignStore interface {
	// Candidates returns all devices.
	Candidates(ctx context.Context) ([]Candidate, error)
	// TookLately returns how long rotations took that were done, the last ones first.
	TookLately(ctx context.Context, limit int) ([]Took, error)

	// CreateCampaign stores a campaign with its devices, all of which are waiting, and
	// returns its id. fleet.Exists: one of them takes part in another campaign, and
	// nothing was stored.
	CreateCampaign(ctx context.Context, c Campaign, members []Member) (int64, error)
	// Campaign returns one.
	Campaign(ctx context.Context, id int64) (Campaign, error)
	// Campaigns returns the newest ones, with an id below before if that is not 0.
	Campaigns(ctx context.Context, before int64, limit int) ([]Campaign, error)
	// LiveCampaigns returns those that have not ended, without their Options, the
	// oldest first.
	LiveCampaigns(ctx context.Context) ([]Campaign, error)
	// CampaignCounts returns how many campaigns there are in each state.
	CampaignCounts(ctx context.Context) (map[CampaignState]int, error)
	// CommitCampaign stores a change in one transaction. fleet.Exists: another was
	// committed since the campaign was read, and nothing was stored.
	CommitCampaign(ctx context.Context, c CampaignChange) error

	// Members returns devices of a campaign.
	Members(ctx context.Context, campaign int64, f MemberFilter) ([]Member, error)
	// MemberIDs returns the ids of all devices of a campaign.
	MemberIDs(ctx context.Context, campaign int64) ([]int64, error)
	// Turns returns devices in a state, TurnWaiting or TurnDeferred, of a wave, or of
	// all for 0, in the order of their turns, without their Contact.
	Turns(ctx context.Context, campaign int64, state TurnState, wave, limit int) ([]Turn, error)
	// Flights returns the devices in flight.
	Flights(ctx context.Context, campaign int64) ([]Flight, error)
	// MarkQueued notes that devices in flight were queued.
	MarkQueued(ctx context.Context, campaign int64, devices []int64, at time.Time) error
	// LateDevices returns devices that failed since then, in whatever campaign, and
	// were rotated later, by the same attempt or when it was tried again by itself.
	LateDevices(ctx context.Context, since time.Time, limit int) ([]Late, error)

	// CampaignLease gives the lease to holder until then, if holder has it or nobody
	// had it at now, and reports whether it did. One of a wrong clock is nobody's, as
	// in Store.
	CampaignLease(ctx context.Context, holder string, now, until time.Time) (bool, error)
	// ReleaseCampaignLease ends the holder's lease.
	ReleaseCampaignLease(ctx context.Context, holder string) error
}
