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
	if s.rotation == nil {
		return errNoRotation
	}
	c := callingDevice(r)
	aboutDevice(r, c)
	secret, err := s.rotation.Fetch(r.Context(), c.ID, c.claims)
	if err != nil {
		return err
	}
	d, err := s.registry.Device(r.Context(), c.ID)
	if err != nil {
		return err
	}
	audited(r.Context()).detail("rotation_state", string(d.Rotation)) // that tells one rotation from the next, see record
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate")
	s.write(w, r, http.StatusOK, s.credentialsOf(d, secret))
	return nil
}

// deviceFirmwareVersion answers a device with the version that its model is to
// have.
func (s *Server) deviceFirmwareVersion(w http.ResponseWriter, r *http.Request) error {
	c := callingDevice(r)
	d, err := s.registry.Device(r.Context(), c.ID)
	if err != nil {
		return err
	}
	s.seen(r, c)
	w.Header().Set("Cache-Control", "no-cache")
	s.write(w, r, http.StatusOK, struct {
		Version *string `json:"firmware_version"`
	}{d.Model.FirmwareVersion})
	return nil
}

// aboutDevice says in the audit that a device asked for something of its own.
func aboutDevice(r *http.Request, c caller) {
	e := audited(r.Context())
	e.about("device", c.ID, c.Key)
	if c.claims.ClientID == "" {
		e.detail("proof", "none") // nobody has to log in
	}
}
