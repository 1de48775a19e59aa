package oidc

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"signalbox/internal/access"
	"signalbox/internal/secret"
)

// algorithms are those that a token may be signed with (RFC 7518, RFC 8037):
// those with a public key. "none" and those with a shared secret are never among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// What tokens say.
type (
	Claims = access.Claims
	Logout = access.Logout
)

// payload is the part of a token that is looked at.
type payload struct {
	jwt.Claims
	Type        string `json:"typ"` // Keycloak's own: Bearer, ID, Refresh, Logout
	Azp         string `json:"azp"`
	ClientID    string `json:"client_id"`
	Sid         string `json:"sid"`
	Email       string `json:"email"`
	Name        string `json:"name"`
	Preferred   string `json:"preferred_username"`
	Nonce       string `json:"nonce"`
	RealmAccess struct {
		Roles []string `json:"roles"`
	} `json:"realm_access"`
	ResourceAccess map[string]struct {
		Roles []string `json:"roles"`
	} `json:"resource_access"`
	Events map[string]any `json:"events"`
}

// Verify checks an access token: its signature by one of the provider's keys,
// issuer, audience, times, and that it is no token of another kind. Errors are
// those of access.Deny.
func (p *Provider) Verify(ctx context.Context, token string) (Claims, error) {
	pl, err := p.open(ctx, token, p.opts.Audience)
	if err != nil {
		return Claims{}, err
	}
	if pl.Type != "" && !strings.EqualFold(pl.Type, "Bearer") || pl.Events != nil {
		return Claims{}, access.Deny(access.WrongUse, nil)
	}
	return p.claims(pl), nil
}

// verifyID checks an id token as OpenID Connect Core 1.0, section 3.1.3.7, asks.
// A nonce of "" is that of a refresh, where the token need not have one.
func (p *Provider) verifyID(ctx context.Context, token, nonce string) (Claims, error) {
	pl, err := p.open(ctx, token, p.opts.ClientID)
	if err != nil {
		return Claims{}, err
	}
	if len(pl.Audience) > 1 && pl.Azp == "" || pl.Azp != "" && pl.Azp != p.opts.ClientID {
		return Claims{}, access.Deny(access.Foreign, nil)
	}
	if nonce != "" && !secret.Equal(pl.Nonce, nonce) {
		return Claims{}, access.Deny(access.Mismatch, nil)
	}
	return p.claims(pl), nil
}

// logoutEvent marks a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// VerifyLogout checks a logout token as OpenID Connect Back-Channel Logout 1.0,
// section 2.6, asks; that its ID is used once is the caller's to see to.
func (p *Provider) VerifyLogout(ctx context.Context, token string) (Logout, error) {
	pl, err := p.open(ctx, token, p.opts.ClientID)
	if err != nil {
		return Logout{}, err
	}
	if _, ok := pl.Events[logoutEvent]; !ok || pl.Nonce != "" {
		return Logout{}, access.Deny(access.WrongUse, nil)
	}
	if pl.ID == "" || pl.Subject == "" && pl.Sid == "" {
		return Logout{}, access.Deny(access.Incomplete, nil)
	}
	return Logout{Subject: pl.Subject, Session: pl.Sid, ID: pl.ID, Expires: pl.Expiry.Time()}, nil
}

// open checks what every token must pass and returns what it says.
func (p *Provider) open(ctx context.Context, token, audience string) (pl payload, err error) {
	if token == "" {
		return pl, access.Deny(access.Missing, nil)
	}
	if len(token) > maxToken {
		return pl, access.Deny(access.Malformed, errors.New("too long"))
	}
	t, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return pl, access.Deny(access.Malformed, err)
	}
	keys, err := p.keys(ctx, t.Headers[0].KeyID)
	if err != nil {
		return pl, err
	}
	err = access.Deny(access.Signature, nil)
	for _, k := range keys {
		if k.Algorithm != "" && k.Algorithm != t.Headers[0].Algorithm {
			continue // a key must not be used with another algorithm than its own
		}
		var read payload
		if e := t.Claims(k.Key, &read); e == nil {
			pl, err = read, nil
			break
		} else if !errors.Is(e, jose.ErrCryptoFailure) {
			err = access.Deny(access.Malformed, e)
		}
	}
	if err != nil {
		return payload{}, err
	}
	return pl, p.check(pl, audience)
}

func (p *Provider) check(pl payload, audience string) error {
	if pl.Expiry == nil || pl.Subject == "" && pl.Sid == "" {
		return access.Deny(access.Incomplete, nil)
	}
	d := p.found.Load() // there is one: it has given the key
	expected := jwt.Expected{Issuer: d.issuer, AnyAudience: jwt.Audience{audience}, Time: p.opts.Now()}
	switch err := pl.ValidateWithLeeway(expected, p.opts.Skew); {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return access.Deny(access.Expired, err)
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return access.Deny(access.NotYet, err)
	case errors.Is(err, jwt.ErrInvalidIssuer), errors.Is(err, jwt.ErrInvalidAudience):
		return access.Deny(access.Foreign, err)
	default:
		return access.Deny(access.Malformed, err)
	}
}

func (p *Provider) claims(pl payload) Claims {
	c := Claims{
		Subject: pl.Subject, Email: pl.Email, Name: pl.Name, ClientID: pl.Azp, Session: pl.Sid,
		Roles:   slices.Concat(pl.RealmAccess.Roles, pl.ResourceAccess[p.opts.Audience].Roles),
		Expires: pl.Expiry.Time(),
	}
	if c.Name == "" {
		c.Name = pl.Preferred
	}
	if c.ClientID == "" {
		c.ClientID = pl.ClientID
	}
	if pl.IssuedAt != nil {
		c.IssuedAt = pl.IssuedAt.Time()
	}
	slices.Sort(c.Roles)
	c.Roles = slices.Compact(c.Roles)
	return c
}
