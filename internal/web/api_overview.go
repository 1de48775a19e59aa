package web

import (
	"math"
	"net/http"
	"strconv"

	"signalbox/internal/fleet"
	"signalbox/internal/overview"
)

// showOverview answers the figures of the last hours, with ?since= those later
// than a time in seconds since 1970.
func (s *Server) showOverview(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	since := 0.0
	if text := r.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = strconv.ParseFloat(text, 64); err != nil || math.IsNaN(since) {
			return fleet.E(fleet.Invalid, nil, "since must be a number of seconds since 1970")
		}
	}
	a := overview.Answer{Step: int(overview.Step.Seconds()), Series: []overview.Series{}}
	if s.overview != nil {
		a = s.overview.Since(since)
	}
	s.writeLarge(w, r, a)
	return nil
}
