package app

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// published counts what is sent to devices, by whichever broker.
type published struct {
	total *prometheus.CounterVec
	took  *prometheus.HistogramVec
}

func newPublished(r prometheus.Registerer) *published {
	f := promauto.With(r)
	return &published{
		total: f.NewCounterVec(prometheus.CounterOpts{Name: "iot_mqtt_publish_total", Help: "Messages published, counted at the broker's acknowledgement."}, []string{"topic", "status"}),
		took:  f.NewHistogramVec(prometheus.HistogramOpts{Name: "iot_mqtt_publish_duration_seconds", Help: "Time from the call to the broker's acknowledgement."}, []string{"topic"}),
	}
}

// by returns a broker, of which what it sends is counted.
func (p *published) by(name string, to publisher) broker { return broker{&counted{to, p}, name} }

type counted struct {
	publisher
	*published
}

// Publish implements publisher.
func (c *counted) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error {
	begun := time.Now()
	err := c.publisher.Publish(ctx, topic, qos, retain, payload)
	status := "success"
	if err != nil {
		status = "failure"
	}
	label := topicLabel(topic)
	c.total.WithLabelValues(label, status).Inc()
	c.took.WithLabelValues(label).Observe(time.Since(begun).Seconds())
	return err
}

// topicLabel keeps the number of label values small.
func topicLabel(topic string) string {
	switch {
	case topic == "iotsupport/updates/provisioning", topic == "iotsupport/updates/config", topic == "iotsupport/updates/firmware":
		return topic
	case strings.HasPrefix(topic, "iotsupport/") && strings.HasSuffix(topic, "/rotation"):
		return "iotsupport/+/rotation"
	}
	return "other"
}
