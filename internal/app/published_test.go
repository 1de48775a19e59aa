package app

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

type publish func(topic string) error

func (p publish) Publish(_ context.Context, topic string, _ byte, _ bool, _ []byte) error {
	return p(topic)
}

// What two brokers send is counted together, and however many devices there are
// there are few series.
func TestPublished(t *testing.T) {
	metrics := prometheus.NewRegistry()
	p := newPublished(metrics)
	full := errors.New("full")
	one := p.by("one", publish(func(string) error { return nil }))
	two := p.by("two", publish(func(string) error { return full }))
	for _, topic := range []string{"iotsupport/updates/config", "iotsupport/iotdevice-a-1/rotation", "iotsupport/iotdevice-a-2/rotation", "iotsupport/updates/x"} {
		if one.Publish(t.Context(), topic, 1, false, nil) != nil || !errors.Is(two.Publish(t.Context(), topic, 1, false, nil), full) {
			t.Errorf("%s: another error", topic)
		}
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := ""
			for _, l := range m.GetLabel() {
				key += l.GetValue() + " "
			}
			got[key] += int(m.GetCounter().GetValue()) + int(m.GetHistogram().GetSampleCount())
		}
	}
	want := map[string]int{
		"failure iotsupport/updates/config ": 1, "success iotsupport/updates/config ": 1, "iotsupport/updates/config ": 2,
		"failure iotsupport/+/rotation ": 2, "success iotsupport/+/rotation ": 2, "iotsupport/+/rotation ": 4,
		"failure other ": 1, "success other ": 1, "other ": 2,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
