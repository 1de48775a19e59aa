package web

import (
	"net/http"
	"slices"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
)

// checkInside returns nil if a request has the token of the internal listener,
// or if there is none.
func (s *Server) checkInside(r *http.Request) error {
	if s.internalToken != "" && !secret.Equal(secret.Bearer(r.Header), s.internalToken) {
		return fleet.E(fleet.Unauthenticated, nil, "The internal API needs its bearer token")
	}
	return nil
}

// nudge tells every page that rotation moved on. signalbox rotation-job says in
// the body how its run ended; others, such as curl, send none.
func (s *Server) nudge(w http.ResponseWriter, r *http.Request) error {
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	result := f.textOrNull("result", rule{})
	if result != nil && !slices.Contains(rotation.JobResults[:], *result) {
		f.fault("literal_error", []any{"result"}, "Input should be 'success' or 'error'", *result)
	}
	if err := f.err(); err != nil {
		return err
	}
	if err := s.nudger.Nudge("cronjob"); err != nil {
		return err
	}
	if result != nil && s.fleet != nil {
		s.fleet.CountJob(*result)
	}
	s.write(w, r, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// runRotationJob does what signalbox rotation-job does, for one that cannot
// because this process has the database for itself. Time-outs, and the start of
// what is queued, do not wait for it.
func (s *Server) runRotationJob(w http.ResponseWriter, r *http.Request) error {
	f, err := s.rotations()
	if err != nil {
		return err
	}
	triggered, queued, err := f.Due(r.Context())
	if err != nil {
		f.CountJob("error")
		return err
	}
	f.CountJob("success")
	if err := s.nudger.Nudge("cronjob"); err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, struct {
		Scheduled bool `json:"scheduled"`
		Queued    int  `json:"queued"`
	}{triggered, queued})
	return nil
}
