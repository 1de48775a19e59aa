package mqtt_test

import (
	"testing"
	"time"

	"signalbox/internal/conformance"
	"signalbox/internal/logs"
	"signalbox/internal/mosquittotest"
	"signalbox/internal/mqtt"
)

func TestConformance(t *testing.T) {
	f := func(name string, url func(t *testing.T, b *mosquittotest.Broker) string) {
		t.Run(name, func(t *testing.T) {
			conformance.Source(t, func(t *testing.T) conformance.SourceHarness {
				b := mosquittotest.Start(t, mosquittotest.Options{})
				open := func(t *testing.T) logs.Source {
					return newSource(t, mqtt.Config{URL: url(t, b)})
				}
				return conformance.SourceHarness{Source: open(t), Addr: b.Addr, Topic: topic, Reopen: open}
			})
		})
	}
	f("MQTT 5", func(_ *testing.T, b *mosquittotest.Broker) string { return b.URL() })
	f("MQTT 3.1.1", func(t *testing.T, b *mosquittotest.Broker) string {
		return "mqtt://" + startProxy(t, b.Addr, refuse5).addr
	})
}

const topic = "iotsupport/logsink"

// newSource makes a source that is closed with the test and hurries.
func newSource(t *testing.T, cfg mqtt.Config) *mqtt.Source {
	t.Helper()
	cfg.Topic = topic
	if cfg.ClientID == "" {
		cfg.ClientID = "signalbox-test"
	}
	if cfg.BackoffMin == 0 {
		cfg.BackoffMin, cfg.BackoffMax = 10*time.Millisecond, 100*time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = logTo(t)
	}
	s, err := mqtt.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
