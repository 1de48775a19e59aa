package mqtt

import (
	"context"
	"errors"
	"time"

	"signalbox/internal/fleet"
)

// Publish sends a message and returns once the broker has acknowledged it, or
// once it is written with QoS 0. While there is no connection it waits for one,
// and if the connection is lost before the acknowledgement it sends the message
// again: give it a ctx that ends. QoS is 0 or 1.
//
// Errors: fleet.Invalid for a bad topic or QoS, fleet.External if the broker
// refused the message, fleet.Unavailable if ctx or the source ended first; then
// the message may have been sent or not.
func (s *Source) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	if err := fleet.CheckPublish(topic, qos); err != nil {
		return err
	}
	s.start()
	for {
		l, err := s.awaitLink(ctx)
		if err != nil {
			return fleet.E(fleet.Unavailable, err, "the MQTT broker cannot be reached")
		}
		err = l.protocol.publish(ctx, topic, qos, retain, payload)
		s.publishing.Done()
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*reasonError](err); ok {
			return fleet.E(fleet.External, err, "the MQTT broker refused the message")
		}
		select {
		case <-l.lost:
			continue
		default:
		}
		if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
			return fleet.E(fleet.Unavailable, err, "the MQTT broker did not acknowledge the message")
		}
		// The library noticed before we did, or it will not send this at all.
		select {
		case <-l.lost:
		case <-time.After(time.Second):
			return fleet.E(fleet.External, err, "the message cannot be sent to the MQTT broker")
		}
	}
}

// awaitLink waits for a connection. If there is no error, who calls it has to
// call s.publishing.Done when they are done with it.
func (s *Source) awaitLink(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		l, up := s.link, s.up
		if l != nil {
			s.publishing.Add(1) // Close takes the link away before it waits
		}
		s.mu.Unlock()
		if l != nil {
			select {
			case <-l.lost:
				s.publishing.Done()
				<-l.left // at once
				continue
			default:
				return l, nil
			}
		}
		select {
		case <-up:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ctx.Done():
			return nil, errClosed
		}
	}
}
