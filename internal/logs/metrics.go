package logs

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the log path's own. Label values are bounded.
type Metrics struct {
	lines   *prometheus.CounterVec // by status
	reasons *prometheus.CounterVec // by reason
	// redactions counts the secrets that were replaced, by rule.
	redactions *prometheus.CounterVec
	messages   prometheus.Counter
	bytes      prometheus.Counter
	batches    prometheus.Histogram
	appends    *prometheus.CounterVec // by status
	behind     prometheus.Gauge
	replayed   prometheus.Counter
	gaps       *prometheus.CounterVec // by reason
	gapLines   prometheus.Counter
	ambiguous  prometheus.Counter
	repeated   prometheus.Counter
	cut        prometheus.Gauge
}

// NewMetrics registers the log path's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &Metrics{
		lines:      counter("iot_logsink_messages_received_total", "Log lines received, by what became of them.", "status"),
		reasons:    counter("iot_logsink_lines_irregular_total", "Log lines that were dropped, repaired, cut or not attributed, by reason.", "reason"),
		appends:    counter("iot_logsink_journal_appends_total", "Batches given to the journal.", "status"),
		redactions: counter("iot_logsink_redactions_total", "Secrets in log lines that were replaced, by the rule that found them.", "rule"),
		gaps:       counter("sse_log_gaps_total", "Gaps told to readers, by reason.", "reason"),
		messages:   prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_logsink_mqtt_messages_total", Help: "MQTT messages received on the log topics."}),
		bytes:      prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_logsink_bytes_received_total", Help: "Bytes of the MQTT messages received on the log topics."}),
		batches: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "iot_logsink_batch_size", Help: "Lines of one device in one MQTT message.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 500, 1000, 10000}}),
		behind:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "sse_log_readers_behind", Help: "Streams that are being fed from the journal because they resume or fell behind."}),
		replayed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sse_log_lines_replayed_total", Help: "Lines delivered from the journal instead of live."}),
		gapLines:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sse_log_gap_lines_total", Help: "Lines that readers were told they miss, where the number is known."}),
		ambiguous: prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_logsink_lines_shared_total", Help: "Lines given to more than one device because the devices share an entity id."}),
	}
	m.repeated = prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_logsink_lines_repeated_total", Help: "Lines that a broker delivered again after a restart and that the journal had already."})
	m.cut = prometheus.NewGauge(prometheus.GaugeOpts{Name: "iot_logsink_devices_cut", Help: "Devices over their log quota, whose lines are being dropped."})
	reg.MustRegister(m.cut, m.repeated, m.messages, m.bytes, m.batches, m.behind, m.replayed, m.gapLines, m.ambiguous)
	for _, status := range []string{"success", "parse_error", "processing_error"} {
		m.lines.WithLabelValues(status)
	}
	for _, rule := range ruleNames {
		m.redactions.WithLabelValues(rule)
	}
	return m
}
