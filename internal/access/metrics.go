package access

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what the service counts.
type metrics struct {
	signIns  *prometheus.CounterVec
	failures prometheus.Counter // events that were not recorded
}

func newMetrics(r prometheus.Registerer, s *Service) metrics {
	m := metrics{
		signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "access_sign_in_total", Help: "Logins with a password, by outcome: success, refused, too_many, or error.",
		}, []string{"status"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "audit_failures_total", Help: "Events that could not be recorded in the audit.",
		}),
	}
	for _, status := range []string{"success", "refused", "too_many", "error"} {
		m.signIns.WithLabelValues(status) // so that 0 is seen, too
	}
	if r == nil {
		return m
	}
	r.MustRegister(m.signIns, m.failures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "access_sessions", Help: "Sessions that are open."}, func() float64 {
			return s.count(func(st *state, now time.Time) (n int) {
				for _, x := range st.sessions {
					if now.Before(x.end()) {
						n++
					}
				}
				return n
			})
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "access_api_tokens", Help: "API tokens that are good."}, func() float64 {
			return s.count(func(st *state, now time.Time) (n int) {
				for _, t := range st.tokens {
					if now.Before(t.ExpiresAt) && !st.people[t.Person].Disabled {
						n++
					}
				}
				return n
			})
		}))
	return m
}

func (s *Service) count(f func(*state, time.Time) int) float64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return float64(f(s.st, s.now()))
}
