package keycloak

import (
	"context"
	"net/http"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
)

var _ rotation.Issuer = (*Issuer)(nil)

// Dual implements rotation.Issuer. A realm can keep the old secret of a client
// good for a while, but it ends when the realm says so, whether or not the device
// has come for the new one. So the old and the new one are given turns instead,
// for as long as it takes.
func (s *Issuer) Dual() bool { return false }

// Both implements rotation.Issuer: there is no such thing in Keycloak.
func (s *Issuer) Both(context.Context, string, string, string) (oldName, newName string, err error) {
	return "", "", fleet.ErrOperation("keep two secrets", "Keycloak does not for as long as it takes")
}

// Only implements rotation.Issuer. The secret is read again once it is set: what
// policies of the realm make of a change, only that tells.
func (s *Issuer) Only(ctx context.Context, clientID, secret string) (at time.Time, err error) {
	leave, err := s.alone(ctx, clientID)
	if err != nil {
		return time.Time{}, err
	}
	defer leave()
	now, _, err := s.dated(ctx, clientID)
	if err != nil {
		return time.Time{}, err
	}
	if !same(secret, now) {
		if err := s.SetSecret(ctx, clientID, secret); err != nil {
			return time.Time{}, err
		}
	}
	if err := s.DropOld(ctx, clientID); err != nil {
		return time.Time{}, err
	}
	now, at, err = s.dated(ctx, clientID)
	switch {
	case err != nil:
		return time.Time{}, err
	case !same(secret, now):
		return time.Time{}, s.counted(setSecret, fleet.E(fleet.External, nil, "Keycloak gave the client another secret than it was told to"))
	}
	return at, nil
}

func same(given, want string) bool { return secret.Equal(given, want) }

// dated returns the client's secret, and when it was read by Keycloak's clock:
// the Date of the answer (RFC 9110, section 6.6.1), in whole seconds as in its
// tokens.
func (s *Issuer) dated(ctx context.Context, clientID string) (secret string, at time.Time, err error) {
	k, err := s.one(ctx, clientID)
	if err != nil {
		return "", time.Time{}, s.counted(getSecret, err)
	}
	var c credential
	err = s.do(ctx, request{method: http.MethodGet, path: k.path() + "/client-secret", into: &c, date: &at})
	if err == nil && at.IsZero() {
		err = fleet.E(fleet.External, nil, "Keycloak does not tell the time")
	}
	return c.Value, at, s.counted(getSecret, missing(clientID, gone(err)))
}
