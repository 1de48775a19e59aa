package web

import (
	"cmp"
	"net/http"

	"signalbox/internal/access"
	"signalbox/internal/rotation"
)

// actor returns who sent a request, for the history of a rotation.
func actor(r *http.Request) string {
	who, _ := access.FromContext(r.Context())
	return cmp.Or(who.Name, who.Email, who.Subject)
}

// rotateDevice queues one device, before all others.
func (s *Server) rotateDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	queued, err := s.rotation.Queue(r.Context(), id, true, true, rotation.Ask{Actor: actor(r), Reason: "asked for"})
	if err != nil {
		return err
	}
	status := "already_pending"
	if queued {
		status = "queued"
	}
	s.write(w, r, http.StatusOK, struct {
		Status string `json:"status"`
	}{status})
	return nil
}
