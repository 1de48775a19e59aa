package local

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// claims is what a token says (RFC 7519).
type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Azp      string `json:"azp"` // the client it was given to (OpenID Connect Core 1.0, section 2)
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"` // seconds
	Expires  int64  `json:"exp"` // seconds
	ID       string `json:"jti"`
	Cred     string `json:"cred"` // the secret or key that the client proved to have
}

// maxToken bounds a token that is looked at, in bytes.
const maxToken = 4 << 10

// Verify checks a token that this issuer gave out: that one of its keys signed
// it, that it is for the audience and not expired, that its client is still there
// and enabled, and that the credential it was got with is not withdrawn. It asks no
// database, but before it refuses a token for what may have changed meanwhile, and
// for a key that is not known, at most once a second. Errors are those of
// access.Deny.
func (i *Issuer) Verify(ctx context.Context, token string) (fleet.DeviceClaims, error) {
	if err := ctx.Err(); err != nil {
		return fleet.DeviceClaims{}, err
	}
	c, err := i.open(ctx, token)
	if err != nil {
		return fleet.DeviceClaims{}, err
	}
	now := i.opts.Now()
	issued, expires := time.Unix(c.IssuedAt, 0).UTC(), time.Unix(c.Expires, 0).UTC()
	switch {
	case c.Issuer != i.opts.URL || c.Audience != i.opts.Audience:
		return fleet.DeviceClaims{}, access.Deny(access.Foreign, nil)
	case c.Subject == "" || c.Azp != c.Subject || c.Expires == 0 || c.IssuedAt == 0 || c.Cred == "":
		return fleet.DeviceClaims{}, access.Deny(access.Incomplete, nil)
	case now.After(expires.Add(i.opts.Skew)):
		return fleet.DeviceClaims{}, access.Deny(access.Expired, nil)
	case now.Add(i.opts.Skew).Before(issued):
		return fleet.DeviceClaims{}, access.Deny(access.NotYet, nil)
	}
	i.recheck(ctx, func() bool { err = i.standing(c); return err != nil })
	if err != nil {
		return fleet.DeviceClaims{}, err
	}
	return fleet.DeviceClaims{ClientID: c.Azp, Credential: c.Cred, IssuedAt: issued, Expires: expires}, nil
}

// standing returns why a token is refused whose client or credential is not as it
// was when the token was made, or nil.
func (i *Issuer) standing(c claims) error {
	issued, now := time.Unix(c.IssuedAt, 0), i.opts.Now()
	client := i.client(c.Azp)
	switch {
	case client == nil:
		return access.Deny(access.Revoked, errors.New("the client does not exist"))
	case !client.Enabled:
		return access.Deny(access.Revoked, errors.New("the client is not enabled"))
	case issued.Before(i.past(client.NotBefore, now)):
		return access.Deny(access.Revoked, errors.New("the client was disabled since"))
	case issued.Before(i.past(client.CreatedAt, now).Truncate(time.Second)):
		return access.Deny(access.Revoked, errors.New("of an earlier client of that id"))
	case !slices.Contains(client.creds, c.Cred):
		return access.Deny(access.Revoked, errors.New("the secret is revoked"))
	}
	return nil
}

// past returns a time before which tokens are not good, zero if it is still to come:
// then a clock was set back since. No token would be good before it comes, and a
// device could not get in.
func (i *Issuer) past(at, now time.Time) time.Time {
	if at.After(now.Add(i.opts.Skew)) {
		return time.Time{}
	}
	return at
}

// open checks the signature of a token and returns what it says.
func (i *Issuer) open(ctx context.Context, token string) (c claims, err error) {
	switch {
	case token == "":
		return c, access.Deny(access.Missing, nil)
	case len(token) > maxToken:
		return c, access.Deny(access.Malformed, errors.New("too long"))
	}
	sum := sha256.Sum256([]byte(token))
	if c, ok := i.seen.get(sum); ok {
		return c, nil
	}
	jws, err := jose.ParseSignedCompact(token, accepted)
	if err != nil {
		return c, access.Deny(access.Malformed, err)
	}
	k, err := i.keyOf(ctx, jws.Signatures[0].Header.KeyID)
	if err != nil {
		return c, access.Deny(access.Unreachable, err)
	}
	if k == nil {
		return c, access.Deny(access.UnknownKey, nil)
	}
	payload, err := jws.Verify(k.public.Key)
	if err != nil {
		return c, access.Deny(access.Signature, err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, access.Deny(access.Malformed, err)
	}
	i.seen.put(sum, c)
	return c, nil
}

// never is when a secret expires.
var never = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// VerifySecret checks a client's secret where it is taken instead of a token,
// such as by the MQTT broker. The claims have no IssuedAt, and expire in the year
// 9999. Wrong guesses are not slowed down here. Errors: access.Deny of Refused,
// and of Revoked for the right secret of a client that is not enabled.
func (i *Issuer) VerifySecret(ctx context.Context, clientID, text string) (fleet.DeviceClaims, error) {
	if err := ctx.Err(); err != nil {
		return fleet.DeviceClaims{}, err
	}
	c, cred := i.proveSecret(ctx, clientID, text)
	switch {
	case cred == "":
		return fleet.DeviceClaims{}, access.Deny(access.Refused, nil)
	case !c.Enabled:
		return fleet.DeviceClaims{}, access.Deny(access.Revoked, errors.New("the client is not enabled"))
	}
	return fleet.DeviceClaims{ClientID: clientID, Credential: cred, Expires: never}, nil
}

// proveSecret returns the client and which of its secrets text is, or "". It
// does the same for a client that is not there, and compares in constant time.
func (i *Issuer) proveSecret(ctx context.Context, clientID, text string) (c *client, cred string) {
	i.recheck(ctx, func() bool {
		c, cred = i.match(clientID, text)
		return cred == "" || !c.Enabled
	})
	return c, cred
}

// match is proveSecret by what is in memory.
func (i *Issuer) match(clientID, text string) (c *client, cred string) {
	type one struct{ sealed, about, cred string }
	candidates := make([]one, 0, maxSecrets)
	if c = i.client(clientID); c != nil {
		for _, s := range c.Secrets {
			candidates = append(candidates, one{s.Sealed, AboutSecret(clientID, s.ID), credOf(s.ID)})
		}
	}
	for len(candidates) < maxSecrets { // as many for everybody
		candidates = append(candidates, one{i.dummy, AboutSecret("", 0), ""})
	}
	for _, s := range candidates { // all of them, whichever it is
		plain, err := i.opts.Box.Open(s.sealed, s.about)
		if err != nil {
			i.opts.Log.Error("the secret of a device cannot be read", "client_id", clientID, "err", wrongKey(err))
			continue
		}
		if secret.Equal(text, plain) && s.cred != "" {
			cred = s.cred
		}
	}
	return c, cred
}
