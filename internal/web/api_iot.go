package web

import (
	"net/http"
)

// deviceConfig answers a device with its config, exactly as it was submitted.
func (s *Server) deviceConfig(w http.ResponseWriter, r *http.Request) error {
	d, err := s.registry.Device(r.Context(), callingDevice(r).ID)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(d.Config)) // an error means that the device has gone
	return nil
}
