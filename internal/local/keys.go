package local

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// algorithm signs tokens. ES256 and not RS256: a signature takes 0.1 ms and not
// 6 (BenchmarkSignature, on a busy machine), which is what there is to do when a
// whole fleet comes back at once, and a token is 250 bytes shorter, which a
// microcontroller holds in memory and sends with each request. Devices do not
// verify tokens, and we alone verify these.
const algorithm = jose.ES256

// accepted are the algorithms that a token of ours may have.
var accepted = []jose.SignatureAlgorithm{algorithm}

// key is a signing key, ready to be used. It never changes.
type key struct {
	registry.KeyRecord
	signer jose.Signer
	public jose.JSONWebKey
}

// lead is how long before its time a new key is published, so that who keeps a
// copy of the published keys has it when it is needed.
func (i *Issuer) lead() time.Duration { return min(24*time.Hour, i.opts.KeyAge/4) }

// turnKeys sees to it that there is a key to sign with and, shortly before its
// time is over, the next one; and deletes those of which no token can be valid.
func (i *Issuer) turnKeys(ctx context.Context) error {
	if !i.due() {
		return nil
	}
	var made string
	_, err := i.opts.Store.CredentialsTx(ctx, func(q registry.CredentialQueries) (changed bool, err error) {
		now := i.clock()
		keys, err := q.SigningKeys(ctx) // another process may have been here first
		if err != nil {
			return false, err
		}
		add := func(from time.Time) error {
			k, err := i.newKey(from)
			if err != nil {
				return err
			}
			made, changed = k.ID, true
			return q.InsertSigningKey(ctx, k)
		}
		for n, k := range keys {
			if n+1 < len(keys) && over(k, keys[n+1], now, i.opts.Skew) {
				changed = true
				if err := q.DeleteSigningKey(ctx, k.ID); err != nil {
					return false, err
				}
			} else if k.Lifetime < i.opts.Lifetime {
				changed = true
				if err := q.SetSigningKeyLifetime(ctx, k.ID, i.opts.Lifetime); err != nil {
					return false, err
				}
			}
		}
		if len(keys) == 0 {
			return true, add(now)
		}
		if end := keys[len(keys)-1].ActiveFrom.Add(i.opts.KeyAge); !now.Before(end.Add(-i.lead())) {
			// Everybody has to see the key before the first token that it signed, so
			// that a process that slept over the end does not begin with it at once.
			if soon := now.Add(4 * i.opts.Poll); end.Before(soon) {
				end = soon
			}
			return true, add(end)
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	if made != "" {
		i.opts.Log.InfoContext(ctx, "made a key to sign the tokens of devices", "kid", made)
	}
	return i.load(ctx)
}

// over reports whether no token that k signed can be valid: not since next
// signs, and the last one of k has expired.
func over(k, next registry.KeyRecord, now time.Time, skew time.Duration) bool {
	// Twice the skew: another process may have begun with next so much later,
	// and who verifies may be so much behind.
	return now.After(next.ActiveFrom.Add(k.Lifetime + 2*skew))
}

// due reports whether turnKeys has anything to do, without asking the database.
func (i *Issuer) due() bool {
	now := i.opts.Now()
	i.mu.RLock()
	defer i.mu.RUnlock()
	if len(i.keys) == 0 {
		return true
	}
	for n, k := range i.keys {
		if k.Lifetime < i.opts.Lifetime || n+1 < len(i.keys) && over(k.KeyRecord, i.keys[n+1].KeyRecord, now, i.opts.Skew) {
			return true
		}
	}
	return !now.Before(i.keys[len(i.keys)-1].ActiveFrom.Add(i.opts.KeyAge - i.lead()))
}

// newKey makes a key that signs from then on.
func (i *Issuer) newKey(from time.Time) (registry.KeyRecord, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return registry.KeyRecord{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return registry.KeyRecord{}, err
	}
	public := jose.JSONWebKey{Key: private.Public()}
	sum, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return registry.KeyRecord{}, err
	}
	id := base64.RawURLEncoding.EncodeToString(sum[:12])
	return registry.KeyRecord{
		ID: id, Algorithm: string(algorithm), Sealed: i.opts.Box.Seal(base64.RawStdEncoding.EncodeToString(der), AboutKey(id)),
		ActiveFrom: from, Lifetime: i.opts.Lifetime, CreatedAt: i.clock(),
	}, nil
}

// openKey makes a stored key ready, or finds it among those that are.
func (i *Issuer) openKey(r registry.KeyRecord, have []*key) (*key, error) {
	for _, k := range have {
		if k.ID == r.ID {
			return &key{r, k.signer, k.public}, nil
		}
	}
	text, err := i.opts.Box.Open(r.Sealed, AboutKey(r.ID))
	if err != nil {
		return nil, err
	}
	der, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || r.Algorithm != string(algorithm) {
		return nil, fmt.Errorf("signing key %s is for %s, which this program does not know", r.ID, r.Algorithm)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: private, KeyID: r.ID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	return &key{r, signer, jose.JSONWebKey{Key: private.Public(), KeyID: r.ID, Algorithm: r.Algorithm, Use: "sig"}}, nil
}

// aboutKey binds a sealed key to its row.
// AboutKey returns what a signing key is sealed about.
func AboutKey(id string) string { return "signing key " + id }

// signing returns the key that signs now: the last one whose time has come.
func (i *Issuer) signing(now time.Time) (*key, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, k := range slices.Backward(i.keys) {
		if !k.ActiveFrom.After(now) {
			return k, nil
		}
	}
	if len(i.keys) > 0 { // our clock is behind that of who made the key
		return i.keys[0], nil
	}
	return nil, fleet.E(fleet.Unavailable, nil, "There is no signing key")
}

// keyOf returns the key that signed a token, or nil. One that is not known makes
// the database be asked, should another process have made it just now; but
// seldom, since anybody can invent a name.
func (i *Issuer) keyOf(ctx context.Context, kid string) (*key, error) {
	if k := i.byID(kid); k != nil {
		return k, nil
	}
	now := i.opts.Now()
	i.mu.Lock()
	due := now.Sub(i.asked) >= 4*i.opts.Poll
	if due {
		i.asked = now
	}
	i.mu.Unlock()
	if !due {
		return nil, nil
	}
	if err := i.sync(ctx); err != nil {
		return nil, err
	}
	return i.byID(kid), nil
}

// byID returns a key that is known, or nil.
func (i *Issuer) byID(kid string) *key {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, k := range i.keys {
		if k.ID == kid {
			return k
		}
	}
	return nil
}

// published returns the public keys (RFC 7517).
func (i *Issuer) published() jose.JSONWebKeySet {
	i.mu.RLock()
	defer i.mu.RUnlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.public)
	}
	return set
}

// strong refuses public keys of clients that are too weak or that no accepted
// algorithm uses.
func strong(k any) error {
	switch k := k.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("an RSA key of %d bits; 2048 to 4096 are allowed", bits)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("neither RSA nor EC P-256")
}
