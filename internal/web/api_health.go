package web

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signalbox/internal/secret"
)

// Health is what the probes ask.
type Health struct {
	// Database reports whether the database answers, and how many migrations
	// it lacks.
	Database func(context.Context) (pending int, err error)
	// Journal reports whether the journal answers.
	Journal func(context.Context) error
	// Broker reports whether the external MQTT broker is connected; nil if
	// there is none. It is shown, and does not make the program unready: what
	// devices send then waits at the broker.
	Broker func() bool
	// Admits reports whether the embedded MQTT broker lets devices in; nil if there
	// is none.
	Admits func() bool
	// Provider reports whether the identity provider was found; nil if there is
	// none. Until then nobody can be let in.
	Provider func() bool
	// Gateways reports whether an SSE gateway answered when it was last looked at;
	// nil if there are none.
	Gateways func() bool
	// Drain shuts the program down and returns when devices' messages are no
	// longer taken and all streams have ended.
	Drain func(context.Context) error
}

// probeTimeout bounds the checks of one probe together.
const probeTimeout = 3 * time.Second

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) error {
	s.write(w, r, http.StatusOK, map[string]any{"status": "alive", "ready": true})
	return nil
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		s.write(w, r, http.StatusServiceUnavailable, map[string]any{"status": "shutting down", "ready": false})
		return nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	database := map[string]any{"connected": true, "migrations_pending": 0, "ok": true}
	pending, err := s.health.Database(ctx)
	ready := err == nil && pending == 0
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "not ready: the database does not answer", "err", err)
		database = map[string]any{"connected": false, "ok": false}
	case pending > 0:
		database["migrations_pending"], database["ok"] = pending, false
	}
	journal := map[string]any{"ok": true}
	if err := s.health.Journal(ctx); err != nil {
		s.log.WarnContext(ctx, "not ready: the journal does not answer", "err", err)
		journal["ok"], ready = false, false
	}
	body := map[string]any{
		"status": "ready", "ready": ready, "database": database, "journal": journal,
		"sse_gateway": map[string]any{"reachable": true, "ok": true}, // this program is the gateway
	}
	if s.health.Gateways != nil {
		up := s.health.Gateways()
		gateway := map[string]any{"reachable": up, "ok": up}
		if !up {
			gateway["error"] = "no gateway answers"
		}
		body["sse_gateway"], ready = gateway, ready && up
		body["ready"] = ready
	}
	if s.health.Admits != nil {
		admits := s.health.Admits()
		body["broker"], ready = map[string]any{"ok": admits}, ready && admits
		body["ready"] = ready
	}
	if s.health.Provider != nil {
		found := s.health.Provider()
		body["oidc"], ready = map[string]any{"ok": found}, ready && found
		body["ready"] = ready
	}
	if s.health.Broker != nil {
		body["mqtt"] = map[string]any{"connected": s.health.Broker()}
	}
	status := http.StatusOK
	if !ready {
		status, body["status"] = http.StatusServiceUnavailable, "not ready"
	}
	s.write(w, r, status, body)
	return nil
}

// drain shuts down, for the holder of the key.
func (s *Server) drain(w http.ResponseWriter, r *http.Request) error {
	if !secret.Equal(secret.Bearer(r.Header), s.drainKey) {
		s.write(w, r, http.StatusUnauthorized, map[string]any{"status": "unauthorized", "ready": false})
		return nil
	}
	if err := s.health.Drain(r.Context()); err != nil {
		s.log.ErrorContext(r.Context(), "drain", "err", err)
		s.write(w, r, http.StatusInternalServerError, map[string]any{"status": "error", "ready": false})
		return nil
	}
	s.write(w, r, http.StatusOK, map[string]any{"status": "alive", "ready": true})
	return nil
}

// showMetrics answers Prometheus.
func (s *Server) showMetrics(w http.ResponseWriter, r *http.Request) error {
	promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	return nil
}
