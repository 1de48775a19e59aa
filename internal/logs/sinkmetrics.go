package logs

import "github.com/prometheus/client_golang/prometheus"

// SinkMetrics are those of all sinks. Label values are bounded.
type SinkMetrics struct {
	lines   *prometheus.CounterVec // by sink
	refused *prometheus.CounterVec // by sink and reason
	lost    *prometheus.CounterVec // by sink
	depth   prometheus.Gauge
	delay   prometheus.Gauge
	lag     *prometheus.GaugeVec // by sink
}

// NewSinkMetrics registers them.
func NewSinkMetrics(reg prometheus.Registerer) *SinkMetrics {
	m := &SinkMetrics{
		lines:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_logsink_sink_lines_total", Help: "Log lines that a sink has taken."}, []string{"sink"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_logsink_sink_refused_total", Help: "Log lines that a sink will never take and that became dead letters, by reason."}, []string{"sink", "reason"}),
		lost:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_logsink_sink_lost_total", Help: "Batches that the journal gave up before a sink had them."}, []string{"sink"}),
		depth:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "iot_logsink_queue_depth", Help: "Batches in the journal that the sink has not settled yet."}),
		delay:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "iot_logsink_retry_delay_seconds", Help: "Wait before the sink is tried again; 0 while it works."}),
		lag:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "iot_logsink_sink_lag_seconds", Help: "Age of the oldest line that a sink was offered and has not settled."}, []string{"sink"}),
	}
	reg.MustRegister(m.lines, m.refused, m.lost, m.depth, m.delay, m.lag)
	return m
}
