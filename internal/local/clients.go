package local

import (
	"cmp"
	"context"
	"crypto"
	"encoding/base64"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
)

// maxSecrets is how many secrets of a client are good at once: the one that a
// device has, and the next one.
const maxSecrets = 2

func isNotFound(err error) bool { return err != nil && fleet.KindOf(err) == fleet.NotFound }

// Ensure implements registry.Issuer. A client that was enabled and is no more
// loses its tokens for good.
func (i *Issuer) Ensure(ctx context.Context, want registry.Client) (created bool, err error) {
	if _, _, ok := fleet.ParseClientID(want.ID); !ok {
		return false, fleet.E(fleet.Invalid, nil, "%q is not the client id of a device", want.ID)
	}
	if err := i.sync(ctx); err != nil {
		return false, err
	}
	if c := i.client(want.ID); c != nil && c.Client == want && len(c.Secrets) > 0 {
		return false, nil // as is usual when many are looked at
	}
	err = i.write(ctx, want.ID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		created = before == nil
		if before != nil && before.Client == want && len(before.Secrets) > 0 {
			return before, nil
		}
		now := i.clock()
		after := registry.ClientRecord{CreatedAt: now}
		if before != nil {
			after = *before
		}
		if before != nil && before.Enabled && !want.Enabled {
			after.NotBefore = nextSecond(now)
		}
		after.Client, after.UpdatedAt = want, now
		if err := q.PutClient(ctx, after); err != nil {
			return nil, err
		}
		if len(after.Secrets) == 0 {
			s, _, err := i.insertSecret(ctx, q, want.ID)
			if err != nil {
				return nil, err
			}
			after.Secrets = []registry.SecretRecord{s}
		}
		return &after, nil
	})
	return created && err == nil, err
}

// nextSecond returns the first whole second after t, as tokens tell time in
// seconds: none from before is issued then.
func nextSecond(t time.Time) time.Time { return t.Truncate(time.Second).Add(time.Second) }

// Secret implements registry.Issuer. Of two it is the newer one.
func (i *Issuer) Secret(ctx context.Context, clientID string) (string, error) {
	if err := i.sync(ctx); err != nil { // another process may have changed it just now
		return "", err
	}
	c := i.client(clientID)
	if c == nil || len(c.Secrets) == 0 {
		return "", fleet.ErrNotFound("Client", clientID)
	}
	s := c.Secrets[len(c.Secrets)-1]
	text, err := i.opts.Box.Open(s.Sealed, AboutSecret(clientID, s.ID))
	if err != nil {
		return "", fleet.E(fleet.Internal, wrongKey(err), "the secret cannot be read")
	}
	return text, nil
}

// Delete implements registry.Issuer.
func (i *Issuer) Delete(ctx context.Context, clientID string) error {
	return i.write(ctx, clientID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		if before == nil {
			return nil, nil
		}
		_, err := q.DeleteClient(ctx, clientID)
		return nil, err
	})
}

// Status implements registry.Issuer.
func (i *Issuer) Status(ctx context.Context, clientID string) (registry.ClientStatus, error) {
	if err := i.sync(ctx); err != nil {
		return registry.ClientStatus{}, err
	}
	c := i.client(clientID)
	return registry.ClientStatus{Exists: c != nil, Enabled: c != nil && c.Enabled}, nil
}

// Clients implements registry.Issuer.
func (i *Issuer) Clients(ctx context.Context) iter.Seq2[registry.Client, error] {
	return func(yield func(registry.Client, error) bool) {
		if err := i.sync(ctx); err != nil {
			yield(registry.Client{}, err)
			return
		}
		i.mu.RLock()
		all := make([]registry.Client, 0, len(i.clients))
		for _, c := range i.clients {
			all = append(all, c.Client)
		}
		i.mu.RUnlock()
		slices.SortFunc(all, func(a, b registry.Client) int { return cmp.Compare(a.ID, b.ID) })
		for _, c := range all {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// AddSecret gives a client a further secret, which Secret returns from now on.
// The ones before stay good until RevokeSecret. id is the name that tokens got
// with it have in fleet.DeviceClaims.Credential. Errors: fleet.NotFound;
// fleet.InvalidOperation for a client that has two.
func (i *Issuer) AddSecret(ctx context.Context, clientID string) (id, text string, err error) {
	err = i.write(ctx, clientID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		switch {
		case before == nil:
			return nil, fleet.ErrNotFound("Client", clientID)
		case len(before.Secrets) >= maxSecrets:
			return nil, fleet.ErrOperation("add a secret", "the client has %d already", len(before.Secrets))
		}
		s, plain, err := i.insertSecret(ctx, q, clientID)
		if err != nil {
			return nil, err
		}
		id, text = credOf(s.ID), plain
		after := *before
		after.Secrets = append(slices.Clone(before.Secrets), s)
		return &after, nil
	})
	return id, text, err
}

// RevokeSecret ends one secret of a client, and the tokens got with it. The last
// one stays. Errors: fleet.NotFound; fleet.InvalidOperation for the last one.
func (i *Issuer) RevokeSecret(ctx context.Context, clientID, id string) error {
	return i.write(ctx, clientID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		if before == nil {
			return nil, fleet.ErrNotFound("Client", clientID)
		}
		at := slices.IndexFunc(before.Secrets, func(s registry.SecretRecord) bool { return credOf(s.ID) == id })
		switch {
		case at < 0:
			return nil, fleet.ErrNotFound("Secret", id)
		case len(before.Secrets) == 1:
			return nil, fleet.ErrOperation("revoke a secret", "it is the only one of the client")
		}
		if err := q.RevokeSecret(ctx, before.Secrets[at].ID, i.clock()); err != nil {
			return nil, err
		}
		after := *before
		after.Secrets = slices.Delete(slices.Clone(before.Secrets), at, at+1)
		return &after, nil
	})
}

// SetPublicKey stores the public key (JWK, RFC 7517) that a client signs its
// assertions with; "" takes it away. Tokens got with another key are refused
// from then on. Errors: fleet.NotFound; fleet.Invalid for a key that is none,
// is private, or is not for RS256, PS256 or ES256.
func (i *Issuer) SetPublicKey(ctx context.Context, clientID, jwk string) error {
	if jwk != "" {
		public, err := parsePublicKey(jwk)
		if err != nil {
			return fleet.E(fleet.Invalid, err, "The public key must be a public JWK for RS256, PS256 or ES256")
		}
		raw, err := public.MarshalJSON() // only what is known of it
		if err != nil {
			return err
		}
		jwk = string(raw)
	}
	return i.write(ctx, clientID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		if before == nil {
			return nil, fleet.ErrNotFound("Client", clientID)
		}
		if before.PublicKey == jwk {
			return before, nil
		}
		after := *before
		after.PublicKey, after.UpdatedAt = jwk, i.clock()
		return &after, q.PutClient(ctx, after)
	})
}

// insertSecret makes a new secret and stores it.
func (i *Issuer) insertSecret(ctx context.Context, q registry.CredentialQueries, clientID string) (s registry.SecretRecord, text string, err error) {
	id, err := q.NextSecretID(ctx)
	if err != nil {
		return s, "", err
	}
	text = secret.NewText()
	s = registry.SecretRecord{ID: id, Sealed: i.seal(clientID, id, text), CreatedAt: i.clock()}
	return s, text, q.InsertSecret(ctx, clientID, s)
}

// use notes that an assertion was used; fleet.Exists if it was before.
func (i *Issuer) use(ctx context.Context, clientID, jti string, expires, now time.Time) error {
	return i.opts.Store.UseAssertion(ctx, registry.Assertion{ClientID: clientID, JTI: jti, Expires: expires}, now, maxAssertions)
}

func (i *Issuer) seal(clientID string, id int64, text string) string {
	return i.opts.Box.Seal(text, AboutSecret(clientID, id))
}

// aboutSecret binds a sealed secret to its row.
// AboutSecret returns what a secret of a client is sealed about.
func AboutSecret(clientID string, id int64) string {
	return fmt.Sprintf("device secret %d of %s", id, clientID)
}

// credOf returns the name of a secret in a token.
func credOf(id int64) string { return strconv.FormatInt(id, 10) }

// publicKey is the key that a client signs its assertions with.
type publicKey struct {
	jose.JSONWebKey
	cred string // its name in a token: of its thumbprint (RFC 7638)
}

// maxJWK bounds a public key, in bytes: an RSA key of 4096 bits has 800.
const maxJWK = 4096

func parsePublicKey(text string) (*publicKey, error) {
	if len(text) > maxJWK {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(text), maxJWK)
	}
	var k publicKey
	if err := k.UnmarshalJSON([]byte(text)); err != nil {
		return nil, err
	}
	if !k.IsPublic() || !k.Valid() || k.Use != "" && k.Use != "sig" {
		return nil, fmt.Errorf("not a valid public key for signatures")
	}
	if err := strong(k.Key); err != nil {
		return nil, err
	}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	k.cred = "key-" + base64.RawURLEncoding.EncodeToString(sum)
	k.Certificates, k.CertificatesURL, k.CertificateThumbprintSHA1, k.CertificateThumbprintSHA256 = nil, nil, nil, nil
	return &k, nil
}
