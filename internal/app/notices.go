package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// publisher sends messages to devices.
type publisher interface {
	Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error
}

// notices tells devices over MQTT what there is to be fetched.
type notices struct {
	brokers []publisher
	url     string // of the API, for devices
}

// notice is what lies at a broker for a device that is to fetch its secret.
type notice struct {
	ClientID string `json:"client_id"`
	State    string `json:"state"` // pending
	Attempt  int64  `json:"attempt"`
	URL      string `json:"url"` // where the secret is to be fetched
}

// Tell implements rotation.Notifier.
func (n notices) Tell(ctx context.Context, _ int64, clientID string, attempt int64) error {
	all, err := json.Marshal(struct {
		ClientID string `json:"client_id"`
	}{clientID})
	if err != nil {
		return err
	}
	own, err := json.Marshal(notice{clientID, "pending", attempt, n.url + "/api/iot/provisioning"})
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range n.brokers {
		err := b.Publish(ctx, fmt.Sprintf(rotationTopic, clientID), 1, true, own)
		if err == nil {
			err = b.Publish(ctx, provisioningTopic, 1, false, all)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("tell %s: %w", clientID, err))
		}
	}
	return errors.Join(failed...)
}

// Clear implements rotation.Notifier.
func (n notices) Clear(ctx context.Context, _ int64, clientID string) error {
	var failed []error
	for _, b := range n.brokers {
		if err := b.Publish(ctx, fmt.Sprintf(rotationTopic, clientID), 1, true, nil); err != nil {
			failed = append(failed, fmt.Errorf("take back what %s was told: %w", clientID, err))
		}
	}
	return errors.Join(failed...)
}
