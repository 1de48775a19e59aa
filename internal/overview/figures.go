package overview

import (
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// figure is one of the figures: its name and unit, and how it is read from the
// metrics, so that it is defined once for Prometheus and for the page.
type figure struct {
	name, unit string
	// read returns the figure from the metrics of a moment and of the one
	// before, and the time between them; NaN if there is none.
	read func(before, now snapshot, elapsed time.Duration) float64
}

// figures is what is recorded, in the order in which it is answered.
func figures() []figure {
	const latency = "sse_device_log_latency_seconds"
	return []figure{
		{"lines", "lines/s", rate("iot_logsink_messages_received_total", "success")},
		{"bytes", "bytes/s", rate("iot_logsink_bytes_received_total", "")},
		{"delivered", "lines/s", rate("sse_device_log_lines_sent_total", "")},
		{"latency_p50", "s", quantile(latency, .5)},
		{"latency_p99", "s", quantile(latency, .99)},
		{"journal_bytes", "bytes", gauge("iot_logsink_journal_bytes", "")},
		{"journal_limit", "bytes", gauge("iot_logsink_journal_limit_bytes", "")},
		{"journal_lag", "batches", gauge("iot_logsink_live_lag", "")},
		{"history_bytes", "bytes", gauge("iot_history_size", "bytes")},
		{"history_lag", "s", gauge("iot_history_lag_seconds", "")},
		{"streams", "streams", gauge("sse_gateway_active_connections", "")},
		{"subscriptions", "subscriptions", gauge("sse_device_log_subscriptions_active", "")},
		{"dropped", "streams/s", rate("sse_streams_dropped_total", "")},
		{"gaps", "gaps/s", rate("sse_log_gaps_total", "")},
		{"irregular", "lines/s", rate("iot_logsink_lines_irregular_total", "")},
		{"quota_cut", "devices", gauge("iot_logsink_devices_cut", "")},
		{"memory", "bytes", gauge("process_resident_memory_bytes", "")},
	}
}

// snapshot is the metrics of one moment, by name.
type snapshot map[string]*dto.MetricFamily

// sum adds up what value says of the metrics of that name, only of those with
// that label value if it is not ""; ok is false if there are none.
func (s snapshot) sum(name, label string, value func(*dto.Metric) float64) (sum float64, ok bool) {
	for _, m := range s[name].GetMetric() {
		if label == "" || hasLabel(m, label) {
			sum, ok = sum+value(m), true
		}
	}
	return sum, ok
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// gauge is the value as it is.
func gauge(name, label string) func(_, _ snapshot, _ time.Duration) float64 {
	return func(_, now snapshot, _ time.Duration) float64 {
		v, ok := now.sum(name, label, func(m *dto.Metric) float64 { return m.GetGauge().GetValue() })
		if !ok {
			return math.NaN()
		}
		return v
	}
}

// rate is by how much a counter grew in a second. A counter that is not there
// has counted nothing yet.
func rate(name, label string) func(_, _ snapshot, _ time.Duration) float64 {
	count := func(s snapshot) float64 {
		v, _ := s.sum(name, label, func(m *dto.Metric) float64 { return m.GetCounter().GetValue() })
		return v
	}
	return func(before, now snapshot, elapsed time.Duration) float64 {
		if before == nil || elapsed <= 0 {
			return math.NaN()
		}
		return (count(now) - count(before)) / elapsed.Seconds()
	}
}

// quantile is that of what a histogram has observed in between, as exactly as
// its buckets tell, as histogram_quantile of Prometheus: values are taken to be
// spread evenly over their bucket, and those above the last bound to be there.
func quantile(name string, q float64) func(_, _ snapshot, _ time.Duration) float64 {
	return func(before, now snapshot, _ time.Duration) float64 {
		metrics := now[name].GetMetric()
		if before == nil || len(metrics) == 0 {
			return math.NaN()
		}
		old := map[float64]uint64{}
		var oldCount uint64
		for _, m := range before[name].GetMetric() {
			oldCount += m.GetHistogram().GetSampleCount()
			for _, b := range m.GetHistogram().GetBucket() {
				old[b.GetUpperBound()] = b.GetCumulativeCount()
			}
		}
		h := metrics[0].GetHistogram()
		count := h.GetSampleCount() - oldCount
		if count == 0 {
			return math.NaN()
		}
		rank := q * float64(count)
		below, bound := 0.0, 0.0
		for _, b := range h.GetBucket() {
			if math.IsInf(b.GetUpperBound(), 1) {
				break
			}
			upTo := float64(b.GetCumulativeCount() - old[b.GetUpperBound()])
			if upTo >= rank && upTo > below {
				return bound + (b.GetUpperBound()-bound)*(rank-below)/(upTo-below)
			}
			below, bound = upTo, b.GetUpperBound()
		}
		return bound
	}
}
