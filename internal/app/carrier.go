package app

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/gateway"
	"signalbox/internal/web"
)

// carrier is web.Carrier on the gateways of the settings.
type carrier struct {
	*gateway.Carrier
	publisher *gateway.Publisher // nil: events are posted
}

// openCarrier returns what carries the streams of SSE_GATEWAY_URL, nil if there
// are no gateways, and what is to be run for that.
func (a *app) openCarrier(streams *web.Streams) (*carrier, []unit, error) {
	cfg := &a.cfg
	urls := cfg.Gateways()
	if len(urls) == 0 {
		return nil, nil, nil
	}
	c := new(carrier)
	var units []unit
	var err error
	if cfg.RabbitMQURL != "" {
		c.publisher, err = gateway.NewPublisher(gateway.PublisherOptions{
			URL: cfg.RabbitMQURL.Reveal(), Prefix: cfg.RabbitMQPrefix, AutoDelete: cfg.RabbitMQAutoDelete, Log: a.log,
		})
		if err != nil {
			return nil, nil, err
		}
		units = append(units, unit{"RabbitMQ", c.publisher.Run})
	}
	c.Carrier, err = gateway.NewCarrier(gateway.CarrierOptions{
		URLs: urls, Secret: cfg.SSEGatewaySecret.Reveal(), Buffer: int(cfg.StreamBufferBytes), MaxBody: int(cfg.SSEGatewayMaxBody), Publisher: c.publisher,
		Memory: filepath.Join(cfg.DataDir, "gateway-streams"), Wrote: streams.Observe, Log: a.log, Registerer: a.metrics,
	})
	if err != nil {
		return nil, nil, err
	}
	return c, append(units, unit{"SSE gateways", func(ctx context.Context) error {
		return c.Run(ctx, time.Duration(cfg.GracefulShutdownTimeout)/2)
	}}), nil
}

// New implements web.Carrier.
func (c *carrier) New(token, requestID, name string, callback http.Header) web.Carried {
	return c.Carrier.New(token, requestID, c.Gateway(name), callback)
}

// Bindings implements web.Carrier.
func (c *carrier) Bindings(ctx context.Context, requestID string) ([]string, error) {
	if c.publisher == nil {
		return nil, nil
	}
	keys, err := c.publisher.Bindings(requestID)
	if err != nil {
		return nil, err
	}
	if err = c.Silence(ctx, requestID); err == nil {
		err = c.publisher.Forget(ctx, requestID)
	}
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "RabbitMQ is not available")
	}
	return keys, nil
}
