package web

import (
	"context"
	"net/http"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// clientStatus is what the issuer has of a device.
type clientStatus struct {
	Exists       bool    `json:"exists"`
	Enabled      bool    `json:"enabled"`
	ClientID     string  `json:"client_id"`
	KeycloakUUID *string `json:"keycloak_uuid"`
	ConsoleURL   *string `json:"console_url"`
}

// scopedID returns the id of the device that a request is about, if it is in the
// scope of the one who sent it.
func (s *Server) scopedID(r *http.Request) (int64, error) {
	id, err := pathID(r)
	if err != nil {
		return 0, err
	}
	d, err := s.scope(r).device(id)
	if err == nil {
		audited(r.Context()).about("device", d.ID, d.Key)
	}
	return id, err
}

func (s *Server) writeStatus(w http.ResponseWriter, r *http.Request, d fleet.Device, status registry.ClientStatus) {
	s.write(w, r, http.StatusOK, clientStatus{status.Exists, status.Enabled, d.ClientID(), textOrNull(status.UUID), textOrNull(status.ConsoleURL)})
}

func (s *Server) showClient(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	d, status, err := s.registry.ClientStatus(r.Context(), id)
	if err != nil {
		return err
	}
	s.writeStatus(w, r, d, status)
	return nil
}

func (s *Server) syncClient(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	d, status, err := s.registry.SyncClient(r.Context(), id)
	if err != nil {
		return err
	}
	s.writeStatus(w, r, d, status)
	return nil
}

func (s *Server) showCredentials(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	audited(r.Context()).detail("format", registry.FormatJSON)
	_, p, err := s.packageOf(r.Context(), id)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, p)
	return nil
}

// packageSecret returns a device and the secret that it is to be provisioned with
// now, also in the middle of a rotation. Every package comes by it.
func (s *Server) packageSecret(ctx context.Context, id int64) (d fleet.Device, secret string, err error) {
	d, secret, err = s.registry.Secret(ctx, id) // which sees to a device that has no client yet
	if err == nil && s.rotation != nil {
		secret, err = s.rotation.Package(ctx, id)
	}
	return d, secret, err
}

func (s *Server) credentialsOf(d fleet.Device, secret string) registry.Package {
	return registry.Package{
		DeviceKey: d.Key, ClientID: d.ClientID(), ClientSecret: secret,
		TokenURL: textOrNull(s.devices.TokenURL), BaseURL: textOrNull(s.devices.BaseURL), MQTTURL: textOrNull(s.devices.MQTTURL),
		WiFiSSID: textOrNull(s.devices.WiFiSSID), WiFiPassword: textOrNull(s.devices.WiFiPassword),
	}
}

// revocation is what was done to withdraw a device's credential, or to give it
// back, and how long each step took from the beginning. What is null was not
// done, or not yet.
type revocation struct {
	Revoked        bool     `json:"revoked"`
	RevokedAt      *string  `json:"revoked_at"`
	RefusedMS      *float64 `json:"refused_ms"`         // this process takes the device for nobody
	DisabledMS     *float64 `json:"client_disabled_ms"` // the issuer gives it no tokens
	EnabledMS      *float64 `json:"client_enabled_ms"`  // the issuer gives it tokens again
	ClientError    *string  `json:"client_error"`       // why the issuer has not yet; it is tried again
	SessionsClosed *int     `json:"sessions_closed"`    // at the MQTT broker
	SessionsMS     *float64 `json:"sessions_closed_ms"`
}

func (s *Server) revokeDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	start := time.Now()
	done, err := s.registry.Revoke(r.Context(), id)
	if err != nil {
		return err
	}
	if s.rotation != nil { // it is for nothing now; if this fails, it is found when its time is up
		if err := s.rotation.Hold(r.Context(), id); err != nil {
			s.log.WarnContext(r.Context(), "the rotation of a revoked device goes on until its time is up", "device", done.Device.Key, "err", err)
		}
	}
	answer := revocation{
		Revoked: true, RevokedAt: timestampOrNull(done.Device.RevokedAt), RefusedMS: millis(done.Refused),
		DisabledMS: millisOrNull(done.Client), ClientError: publicOrNull(done.Err),
	}
	if s.devices.CloseSessions != nil {
		switch closed, err := s.devices.CloseSessions(r.Context(), done.Device.Ref()); err {
		case nil:
			answer.SessionsClosed, answer.SessionsMS = &closed, millis(time.Since(start))
		default:
			s.log.WarnContext(r.Context(), "the sessions of a revoked device were not closed at once", "device", done.Device.Key, "err", err)
		}
	}
	s.write(w, r, http.StatusOK, answer)
	return nil
}

// restoreDevice gives a device its credential back, or a new one instead.
func (s *Server) restoreDevice(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	if r.ContentLength != 0 && !saysJSON(r.Header.Get("Content-Type")) {
		// It would be read as no body, and a secret that others know be good again.
		return fleet.E(fleet.Invalid, nil, "The request body must be JSON, and said to be")
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	fresh := f.has("new_secret") && f.boolean("new_secret")
	if err := f.err(); err != nil {
		return err
	}
	if fresh {
		if s.rotation == nil {
			return fleet.ErrOperation("give the device a new secret", "no issuer of device credentials is configured")
		}
		// Before the client is enabled: what it had is never good again. The client
		// must be there, which the reading of its secret sees to.
		if _, _, err := s.registry.Secret(r.Context(), id); err != nil {
			return err
		}
		if err := s.rotation.Reset(r.Context(), id, rotation.Ask{Actor: actor(r), Reason: "restored with a new secret"}); err != nil {
			return err
		}
	}
	done, err := s.registry.Restore(r.Context(), id)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, revocation{EnabledMS: millisOrNull(done.Client), ClientError: publicOrNull(done.Err)})
	return nil
}

func millis(d time.Duration) *float64 {
	return new(float64(d.Microseconds()) / 1000)
}

func millisOrNull(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	return millis(d)
}

func publicOrNull(err error) *string {
	if err == nil {
		return nil
	}
	_, text := fleet.Public(err)
	return &text
}

// setPublicKey stores the key with which a device signs what it authenticates
// with instead of its secret.
func (s *Server) setPublicKey(w http.ResponseWriter, r *http.Request) error {
	id, err := s.scopedID(r)
	if err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	jwk := f.textOrNull("public_key", rule{most: 4096})
	if err := f.err(); err != nil {
		return err
	}
	d, err := s.registry.Device(r.Context(), id)
	if err != nil {
		return err
	}
	if s.devices.SetPublicKey == nil {
		return fleet.ErrOperation("set a public key", "the issuer of the devices' tokens does not keep them here")
	}
	text := ""
	if jwk != nil {
		text = *jwk
	}
	if err := s.devices.SetPublicKey(r.Context(), d.ClientID(), text); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// reconciliation is registry.ReconcileReport on the wire.
type reconciliation struct {
	Devices int      `json:"devices"`
	Clients int      `json:"clients"`
	Created []string `json:"created"`
	Changed []string `json:"changed"`
	Orphans []string `json:"orphans"`
	Removed []string `json:"removed"`
	Failed  []string `json:"failed"`
}

func (s *Server) reconcileClients(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	f, err := s.form(w, r)
	if err != nil {
		return err
	}
	var o registry.ReconcileOptions
	if f.has("delete_orphans") {
		o.DeleteOrphans = f.boolean("delete_orphans")
	}
	if err := f.err(); err != nil {
		return err
	}
	report, err := s.registry.Reconcile(r.Context(), o)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, reconciliation(report))
	return nil
}
