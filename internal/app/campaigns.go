package app

import (
	_ "time/tzdata" // the zones of windows, on a system that has none

	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
)

// openCampaigns returns the campaigns, and what is to be run for them. announce
// hears of every change after its commit; presence may be nil.
func (a *app) openCampaigns(db *sqlstore.DB, runner *rotation.Runner, presence rotation.Presence, announce func()) (*rotation.Campaigns, []unit) {
	c := rotation.NewCampaigns(rotation.CampaignOptions{
		Store: db, Runner: runner, Presence: presence, Announce: announce, Registerer: a.metrics, Log: a.log,
	})
	return c, []unit{{"campaigns", c.Run}}
}
