package app

import (
	"time"

	"signalbox/internal/config"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// rotationPolicy returns how the settings have credentials rotated.
func rotationPolicy(cfg *config.Config) rotation.Policy {
	return rotation.Policy{
		OwnClock: !cfg.Keycloak(),
		Timeout:  time.Duration(cfg.RotationTimeout), Turn: time.Duration(cfg.RotationTurn), Skew: time.Duration(cfg.OIDCClockSkew),
		RetryAfter: time.Duration(cfg.RotationRetryAfter), RetryMax: 24 * time.Hour, Tries: cfg.RotationTries,
	}
}

// openRotation returns the runner of rotations, and what is to be run for it.
// observe hears of every change after its commit.
func (a *app) openRotation(db *sqlstore.DB, key string, notifier rotation.Notifier, observe func(rotation.News)) (*rotation.Runner, []unit, error) {
	box, err := secret.NewBox(key, "rotation")
	if err != nil {
		return nil, nil, err
	}
	runner := rotation.NewRunner(rotation.Options{
		Store: db, Issuer: a.rotating, Notifier: notifier, Box: box, Policy: rotationPolicy(&a.cfg), InFlight: a.cfg.RotationInFlight, SilentAfter: time.Duration(a.cfg.RotationSilentAfter),
		Sole: a.cfg.DatabaseURL == "", Observe: observe, Registerer: a.metrics, Log: a.log,
	})
	return runner, []unit{{"rotation", runner.Run}}, nil
}
