package app

import (
	"context"
	"time"
	_ "time/tzdata" // for systems that have no zones of their own, such as small containers

	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
	"signalbox/internal/stream"
)

// rotationSchedule returns the schedule of the settings: fleet.Invalid, with the
// name of the setting that is wrong.
func rotationSchedule(cfg *config.Config) (rotation.Schedule, error) {
	zone, err := time.LoadLocation(cfg.RotationTimezone)
	if err != nil || cfg.RotationTimezone == "" || cfg.RotationTimezone == "Local" { // that would be another one on each machine
		return rotation.Schedule{}, fleet.E(fleet.Invalid, nil, "ROTATION_TIMEZONE: %q: want the name of a time zone, such as UTC or Europe/Berlin", cfg.RotationTimezone)
	}
	schedule, err := rotation.ParseSchedule(cfg.RotationCron, zone)
	if err != nil {
		return rotation.Schedule{}, fleet.E(fleet.Invalid, err, "ROTATION_CRON: %q: want five fields, which are minute, hour, day of the month, month, day of the week, such as 0 8 * * 6#1", cfg.RotationCron)
	}
	return schedule, nil
}

// openFleet returns what rotates the fleet as a whole, and what is to be run for
// it.
func (a *app) openFleet(db *sqlstore.DB, devices *registry.Service, runner *rotation.Runner, schedule rotation.Schedule, nudger *stream.Nudger) (*rotation.Fleet, []unit) {
	others := make(chan struct{}, 1) // has room for one: another process changed something
	all := rotation.NewFleet(rotation.FleetOptions{
		Store: db, Runner: runner, Schedule: schedule, Announce: func() { _ = nudger.Nudge("web") }, // as in open
		Registerer: a.metrics, Log: a.log, Echo: func() {
			nudger.Echo()
			select {
			case others <- struct{}{}:
			default:
			}
		},
	})
	units := []unit{{"rotation of the fleet", all.Run}}
	if a.cfg.DatabaseURL != "" { // there may be other processes
		units = append(units, unit{"rotations by others", all.Watch}, unit{"devices of others", func(ctx context.Context) error {
			a.followDevices(ctx, devices, others)
			return nil
		}})
	}
	return all, units
}

const (
	followPause = 2 * time.Second  // between two looks at all devices: a rotation of the fleet changes many
	followEvery = 30 * time.Second // also for what nobody counts, such as deletions
)

// followDevices has this process know the devices as other processes change
// them, until ctx ends.
func (a *app) followDevices(ctx context.Context, devices *registry.Service, changed <-chan struct{}) {
	every := time.NewTicker(followEvery)
	defer every.Stop()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-every.C:
		}
		err := devices.Sync(ctx)
		if err != nil && ctx.Err() == nil && !silent {
			a.log.Warn("changes of devices by other processes cannot be seen", "err", err)
		}
		silent = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(followPause):
		}
	}
}
