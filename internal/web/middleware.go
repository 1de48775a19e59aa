package web

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// outer wraps what every request goes through, whether or not it has a route.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if s.cors(w, r) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// cors lets the pages of allowed origins read the answer, and reports whether
// the request only asked for that.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) (preflight bool) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	allowed := slices.Contains(s.origins, origin) || slices.Contains(s.origins, "*")
	if allowed {
		h.Set("Access-Control-Allow-Origin", origin)
	}
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if allowed {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, X-Request-ID")
		h.Set("Access-Control-Max-Age", "600")
	}
	return true
}

// serve turns a row of the table into a handler: it checks the right, measures,
// and answers errors and panics.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		tracked := &tracker{ResponseWriter: w}
		err := s.run(rt, tracked, r)
		s.metrics.observe(rt.operation, time.Since(start), err)
		switch {
		case err == nil:
		case !tracked.wrote:
			s.fail(w, r, err)
		default:
			// Half an answer must not look like a whole one.
			s.log.ErrorContext(r.Context(), "answer broken off", "method", r.Method, "route", r.Pattern, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *Server) run(rt route, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler: // the handler wants the connection cut
			panic(p)
		default:
			err = fleet.E(fleet.Internal, fmt.Errorf("%v\n%s", p, debug.Stack()), "panic")
		}
	}()
	if rt.needs == probe {
		return rt.handle(w, r)
	}
	if s.draining.Load() {
		return fleet.E(fleet.Unavailable, nil, "Signalbox is currently unavailable: shutting down")
	}
	if rt.needs == public {
		return rt.handle(w, r)
	}
	if rt.needs == device {
		ref, err := s.identifyDevice(r)
		if err != nil {
			return err
		}
		return rt.handle(w, r.WithContext(withDevice(r.Context(), ref)))
	}
	p, err := s.authenticate(r)
	if err != nil {
		return err
	}
	if rt.needs == editor && !p.Has(access.RoleEditor) {
		return fleet.E(fleet.Forbidden, nil, "Insufficient permissions - requires one of: %s", access.RoleEditor)
	}
	return rt.handle(w, r.WithContext(access.NewContext(r.Context(), p)))
}

// tracker notices whether an answer was begun.
type tracker struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (t *tracker) WriteHeader(status int) {
	t.wrote = true
	t.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (t *tracker) Write(b []byte) (int, error) {
	t.wrote = true
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// metrics counts and times the operations of the routes.
type metrics struct {
	operations *prometheus.CounterVec
	duration   *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	var r prometheus.Registerer // a nil *Registry in it would not be nil
	if reg != nil {
		r = reg
	}
	return &metrics{
		operations: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "iot_config_operations_total",
			Help: "Operations on devices and device models, by outcome.",
		}, []string{"operation", "status"}),
		duration: promauto.With(r).NewHistogramVec(prometheus.HistogramOpts{
			Name: "iot_config_operation_duration_seconds",
			Help: "Duration of operations on devices and device models.",
		}, []string{"operation"}),
	}
}

func (m *metrics) observe(operation string, took time.Duration, err error) {
	if operation == "" {
		return
	}
	status := "success"
	if err != nil {
		status = "error"
	}
	m.operations.WithLabelValues(operation, status).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
}
