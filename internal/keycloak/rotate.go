package keycloak

import (
	"context"
	"errors"
	"net/http"
	"time"

	"signalbox/internal/fleet"
)

const (
	// expires is the attribute that Keycloak's secret-rotation executor gives a
	// client which a policy with it applies to: when the secret ends.
	expires = "client.secret.expiration.time"
	notYet  = 10 * time.Minute // after which a realm that did not rotate is asked again
	probed  = 100              // clients that are looked at
)

// RotatesTwo reports whether the realm keeps the old secret of a device good for
// a while when it gets a new one: whether a client policy with the executor
// secret-rotation applies to the clients of devices. Nothing is changed to find
// out; the policy shows in the clients that it has met. A realm that does is
// asked once, one that does not again after ten minutes. Whether one certain
// secret is still good, Rotated says.
func (s *Issuer) RotatesTwo(ctx context.Context) (bool, error) {
	s.mu.Lock()
	two, known := s.two, !s.twoAt.IsZero() && (s.two || time.Since(s.twoAt) < notYet)
	s.mu.Unlock()
	if known {
		return two, nil
	}
	page, err := s.page(ctx, 0, probed)
	if err != nil {
		return false, s.counted(list, err)
	}
	any := false
	for _, k := range page {
		if ours(k.ClientID) != nil {
			continue
		}
		any = true
		two = two || k.Attributes[expires] != nil
	}
	if any { // a realm without devices tells nothing
		s.mu.Lock()
		s.two, s.twoAt = two, time.Now()
		s.mu.Unlock()
	}
	return two, nil
}

// Rotate gives the client a new secret and returns it. The request for it is
// never repeated, as each one would put the secret before it out of use: if it is
// not answered, the secret is read to see what became of it. fleet.Unavailable
// means that the old one may be the current one still, or may not; Secret tells.
func (s *Issuer) Rotate(ctx context.Context, clientID string) (string, error) {
	k, err := s.one(ctx, clientID)
	if err != nil {
		return "", s.counted(regenerate, err)
	}
	old, err := s.secret(ctx, k)
	if err != nil {
		return "", s.counted(regenerate, missing(clientID, err))
	}
	secret, err := s.regenerate(ctx, k, old)
	return secret, s.counted(regenerate, missing(clientID, err))
}

// regenerate makes Keycloak give the client a new secret in place of old.
func (s *Issuer) regenerate(ctx context.Context, k client, old string) (string, error) {
	var c credential
	err := s.do(ctx, request{method: http.MethodPost, path: k.path() + "/client-secret", into: &c})
	if err == nil && c.Value != "" {
		return c.Value, nil
	}
	if f, ok := errors.AsType[*failure](err); err != nil && (!ok || !f.unknown) {
		return "", gone(err)
	}
	for n := 1; ; n++ { // Keycloak may be at it still
		now, again := s.secret(ctx, k)
		switch {
		case again != nil:
			return "", again
		case now != old && now != "":
			return now, nil
		case err == nil:
			return "", errors.New("no secret in the answer")
		case n >= s.opts.Attempts || !s.wait(ctx, n, 0):
			return "", err
		}
	}
}

// SetSecret makes secret the client's. It is for realms that keep one secret
// only, to bring an old one back.
func (s *Issuer) SetSecret(ctx context.Context, clientID, secret string) error {
	if secret == "" {
		return fleet.E(fleet.Invalid, nil, "A secret must not be empty")
	}
	k, err := s.one(ctx, clientID)
	if err != nil {
		return s.counted(setSecret, err)
	}
	err = s.do(ctx, request{method: http.MethodPut, path: k.path(), body: map[string]string{"clientId": clientID, "secret": secret}})
	return s.counted(setSecret, missing(clientID, gone(err)))
}

// Rotated returns the client's old secret while that is good beside the current
// one. It fails with fleet.NotFound if there is none.
func (s *Issuer) Rotated(ctx context.Context, clientID string) (string, error) {
	k, err := s.one(ctx, clientID)
	if err != nil {
		return "", s.counted(getSecret, err)
	}
	var c credential
	err = s.do(ctx, request{method: http.MethodGet, path: k.path() + "/client-secret/rotated", into: &c})
	if is(err, http.StatusNotFound) || err == nil && c.Value == "" {
		return "", fleet.ErrNotFound("Old secret of client", clientID)
	}
	return c.Value, s.counted(getSecret, err)
}

// DropOld puts the client's old secret out of use; that there is none is no
// error.
func (s *Issuer) DropOld(ctx context.Context, clientID string) error {
	k, err := s.one(ctx, clientID)
	if err != nil {
		return s.counted(dropSecret, err)
	}
	err = s.do(ctx, request{method: http.MethodDelete, path: k.path() + "/client-secret/rotated"})
	if is(err, http.StatusNotFound) {
		err = nil
	}
	return s.counted(dropSecret, err)
}
