package web

import (
	"net/http"
)

// deviceConfig answers a device with its config, exactly as it was submitted.
func (s *Server) deviceConfig(w http.ResponseWriter, r *http.Request) error {
	c := callingDevice(r)
	d, err := s.registry.Device(r.Context(), c.ID)
	if err != nil {
		return err
	}
	s.seen(r, c)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte(d.Config)) // an error means that the device has gone
	return nil
}

// seen learns from a device's token which of its secrets it has. The device gets
// what it came for whatever becomes of that.
func (s *Server) seen(r *http.Request, c caller) {
	if s.rotation == nil || c.claims.IssuedAt.IsZero() {
		return
	}
	if err := s.rotation.Seen(r.Context(), c.ID, c.claims); err != nil {
		s.log.WarnContext(r.Context(), "what the token of a device tells of its secret was not noted", "device", c.Key, "err", err)
	}
}

// deviceProvisioning answers a device with the secret that it is to use from now
// on. It may ask any number of times.
func (s *Server) deviceProvisioning(w http.ResponseWriter, r *http.Request) error {
	c := callingDevice(r)
	secret, err := s.rotation.Fetch(r.Context(), c.ID, c.claims)
	if err != nil {
		return err
	}
	d, err := s.registry.Device(r.Context(), c.ID)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate")
	s.write(w, r, http.StatusOK, s.credentialsOf(d, secret))
	return nil
}
