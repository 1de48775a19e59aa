package nats

import (
	"context"
	"strings"

	"signalbox/internal/fleet"
)

// Publish sends a message to the devices that are connected to the embedded
// broker and subscribe to the topic.
func (s *Server) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	c, err := s.connect()
	if err != nil {
		return fleet.E(fleet.Unavailable, err, "the broker is not there")
	}
	defer c.Close()
	if err := c.Publish(strings.ReplaceAll(topic, "/", "."), payload); err != nil {
		return fleet.E(fleet.Unavailable, err, "the broker is not there")
	}
	return c.FlushWithContext(ctx)
}
