package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"signalbox/internal/config"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// rotationPolicy returns how the settings have credentials rotated.
func rotationPolicy(cfg *config.Config) rotation.Policy {
	return rotation.Policy{
		Timeout: time.Duration(cfg.RotationTimeout), Turn: time.Duration(cfg.RotationTurn), Skew: time.Duration(cfg.OIDCClockSkew),
		RetryAfter: time.Duration(cfg.RotationRetryAfter), RetryMax: 24 * time.Hour, Tries: cfg.RotationTries,
	}
}

// openRotation returns the runner of rotations, and what is to be run for it.
// observe hears of every change after its commit.
func (a *app) openRotation(db *sqlstore.DB, key string, brokers []publisher, observe func(rotation.News)) (*rotation.Runner, []unit, error) {
	box, err := secret.NewBox(key, "rotation")
	if err != nil {
		return nil, nil, err
	}
	runner := rotation.NewRunner(rotation.Options{
		Store: db, Issuer: a.rotating, Notifier: notices{brokers}, Box: box, Policy: rotationPolicy(&a.cfg), InFlight: a.cfg.RotationInFlight, SilentAfter: time.Duration(a.cfg.RotationSilentAfter),
		Sole: a.cfg.DatabaseURL == "", Observe: observe, Registerer: a.metrics, Log: a.log,
	})
	return runner, []unit{{"rotation", runner.Run}}, nil
}

// publisher sends messages to devices.
type publisher interface {
	Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error
}

// notices tells devices over MQTT what there is to be fetched.
type notices struct{ brokers []publisher }

// Tell implements rotation.Notifier.
func (n notices) Tell(ctx context.Context, _ int64, clientID string) error {
	payload, err := json.Marshal(struct {
		ClientID string `json:"client_id"`
	}{clientID})
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range n.brokers {
		if err := b.Publish(ctx, provisioningTopic, 1, false, payload); err != nil {
			failed = append(failed, fmt.Errorf("tell %s: %w", clientID, err))
		}
	}
	return errors.Join(failed...)
}
