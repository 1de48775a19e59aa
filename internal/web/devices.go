package web

import (
	"context"
	"errors"
	"net/http"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// Devices is how devices prove who they are, and what one is provisioned with.
type Devices struct {
	// Verify checks a device's access token. Its errors are those of access.Deny.
	Verify func(ctx context.Context, token string) (fleet.DeviceClaims, error)

	// Open reports whether a device without a token may say which one it is in
	// ?device_key=, as is so while nobody has to log in. Nil: never.
	Open func() bool

	// Issuer answers the paths of the built-in issuer. Nil: there is another one.
	Issuer http.Handler

	// SetPublicKey stores the public key of a device's client. Nil: the issuer
	// does not keep such.
	SetPublicKey func(ctx context.Context, clientID, jwk string) error

	// CloseSessions ends what a device has open at the MQTT broker, and returns how
	// many sessions that were. Nil: nobody knows of any.
	CloseSessions func(context.Context, fleet.DeviceRef) (int, error)

	// Broker is the built-in MQTT broker. Nil: it is off.
	Broker *Broker

	TokenURL string // where devices get their tokens; "" if unknown, as what follows
	BaseURL  string // of the API, for devices
	MQTTURL  string // of the broker, for devices

	WiFiSSID, WiFiPassword string
}

type deviceContextKey struct{}

// caller is the device that sent a request.
type caller struct {
	fleet.DeviceRef
	claims fleet.DeviceClaims // of its token; zero: it only said which one it is
}

// withDevice returns a context that carries the device that sent a request.
func withDevice(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, deviceContextKey{}, c)
}

// callingDevice returns the device that sent the request of a route for devices.
func callingDevice(r *http.Request) caller {
	c, _ := r.Context().Value(deviceContextKey{}).(caller)
	return c
}

// identifyDevice returns the device that sent a request, by its bearer token
// alone: cookies are people's. The device must be there and not be revoked,
// whatever its token says.
func (s *Server) identifyDevice(r *http.Request) (caller, error) {
	header := r.Header.Get("Authorization")
	if token := secret.Bearer(r.Header); token != "" && s.devices.Verify != nil {
		claims, err := s.devices.Verify(r.Context(), token)
		if err != nil {
			return caller{}, err
		}
		ref, err := s.registry.Identify(claims)
		return caller{ref, claims}, err
	}
	if header != "" || s.devices.Open == nil || !s.devices.Open() {
		return caller{}, access.Deny(access.Missing, nil)
	}
	if !s.identity.ownName(r.Host) { // see identify
		return caller{}, errName
	}
	key := r.URL.Query().Get("device_key")
	if key == "" {
		return caller{}, fleet.E(fleet.Unauthenticated, nil, "Device authentication required")
	}
	ref, ok := s.registry.Directory().ByKey(key)
	switch {
	case !ok:
		return caller{}, fleet.E(fleet.NotFound, nil, "Device %.40q was not found", key)
	case ref.Revoked:
		return caller{}, access.Deny(access.Revoked, errors.New("the device is revoked"))
	}
	return caller{DeviceRef: ref}, nil
}

// issuer answers a path of the built-in issuer, in the ways of OAuth2.
func (s *Server) issuer(w http.ResponseWriter, r *http.Request) error {
	if s.devices.Issuer == nil {
		return errNoRoute
	}
	s.devices.Issuer.ServeHTTP(w, r)
	return nil
}
