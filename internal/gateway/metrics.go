package gateway

import (
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/sse"
)

type metrics struct {
	connects    *prometheus.CounterVec
	disconnects *prometheus.CounterVec
	callbacks   *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	sends       *prometheus.CounterVec
	frames      *prometheus.CounterVec
	overflows   prometheus.Counter
	dropped     prometheus.Counter
}

func newMetrics(r prometheus.Registerer, s *Server) metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := metrics{
		connects:    vec("gateway_connects_total", "Requests for a stream, by what became of them.", "result"),
		disconnects: vec("gateway_disconnects_total", "Ends of streams that the backend is told of, by reason.", "reason"),
		callbacks:   vec("gateway_callbacks_total", "Callbacks to the backend, by outcome.", "action", "result"),
		duration:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gateway_callback_duration_seconds", Help: "What callbacks took."}, []string{"action"}),
		sends:       vec("gateway_sends_total", "Requests to /internal/send, by answer.", "result"),
		frames:      vec("gateway_frames_total", "What was written to streams, by outcome.", "result"),
		overflows:   prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_overflows_total", Help: "Streams cut because more was waiting for the reader than may wait."}),
		dropped:     prometheus.NewCounter(prometheus.CounterOpts{Name: "gateway_streams_dropped_total", Help: "Streams cut because the reader took nothing for too long."}),
	}
	streams := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_streams", Help: "Streams that are open or that the backend is being asked about."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.connections))
	})
	r.MustRegister(m.connects, m.disconnects, m.callbacks, m.duration, m.sends, m.frames, m.overflows, m.dropped, streams)
	return m
}

// wrote counts one write to a stream.
func (m *metrics) wrote(frames []*sse.Frame, _ time.Time, err error) {
	if err == nil {
		m.frames.WithLabelValues("success").Add(float64(len(frames)))
		return
	}
	m.frames.WithLabelValues("error").Add(float64(len(frames)))
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		m.dropped.Inc()
	}
}
