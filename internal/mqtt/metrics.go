package mqtt

import (
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
	}
}
