package app

import (
	"time"
	_ "time/tzdata" // for systems that have no zones of their own, such as small containers

	"signalbox/internal/config"
	"signalbox/internal/fleet"
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
func (a *app) openFleet(db *sqlstore.DB, runner *rotation.Runner, schedule rotation.Schedule, nudger *stream.Nudger) (*rotation.Fleet, []unit) {
	all := rotation.NewFleet(rotation.FleetOptions{
		Store: db, Runner: runner, Schedule: schedule, Announce: func() { _ = nudger.Nudge("web") }, // as in open
		Echo: nudger.Echo, Registerer: a.metrics, Log: a.log,
	})
	units := []unit{{"rotation of the fleet", all.Run}}
	if a.cfg.DatabaseURL != "" { // there may be other processes
		units = append(units, unit{"rotations by others", all.Watch})
	}
	return all, units
}
