package mqtt

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the numbers of one source.
type metrics struct {
	connected     prometheus.Gauge
	enabled       prometheus.Gauge
	subscriptions prometheus.Gauge
	reconnects    prometheus.Counter
	dropped       prometheus.Counter
	publishes     *prometheus.CounterVec
	publishTime   *prometheus.HistogramVec
}

// newMetrics registers the metrics. With a nil registry they are only counted.
// It panics if reg has them already: there is one source to a process.
func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		connected:     f.NewGauge(prometheus.GaugeOpts{Name: "iot_mqtt_connection_state", Help: "1 while connected to the external MQTT broker."}),
		enabled:       f.NewGauge(prometheus.GaugeOpts{Name: "iot_mqtt_enabled", Help: "1 while an external MQTT broker is in use."}),
		subscriptions: f.NewGauge(prometheus.GaugeOpts{Name: "iot_mqtt_subscriptions_total", Help: "Subscriptions that the external MQTT broker has granted on this connection."}),
		reconnects:    f.NewCounter(prometheus.CounterOpts{Name: "iot_mqtt_reconnects_total", Help: "Attempts to connect to the external MQTT broker after the first."}),
		dropped:       f.NewCounter(prometheus.CounterOpts{Name: "iot_mqtt_qos0_dropped_total", Help: "Messages of QoS 0 that were dropped because too many were waiting."}),
		publishes:     reuse(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_mqtt_publish_total", Help: "Messages published, counted at the broker's acknowledgement."}, []string{"topic", "status"})),
		publishTime:   reuse(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "iot_mqtt_publish_duration_seconds", Help: "Time from the call to the broker's acknowledgement."}, []string{"topic"})),
	}
}

// reuse registers a metric, unless the embedded broker has: it is of both.
func reuse[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return there.ExistingCollector.(C)
	}
	if err != nil {
		panic(err)
	}
	return c
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

func (m *metrics) published(topic string, took time.Duration, err error) {
	status := "success"
	if err != nil {
		status = "failure"
	}
	label := topicLabel(topic)
	m.publishes.WithLabelValues(label, status).Inc()
	m.publishTime.WithLabelValues(label).Observe(took.Seconds())
}
