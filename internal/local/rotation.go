package local

import (
	"context"
	"slices"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
)

var _ rotation.Issuer = (*Issuer)(nil)

// Dual implements rotation.Issuer: a client can have two secrets.
func (i *Issuer) Dual() bool { return true }

// Both implements rotation.Issuer.
func (i *Issuer) Both(ctx context.Context, clientID, old, new string) (oldName, newName string, err error) {
	names, err := i.setSecrets(ctx, clientID, old, new)
	if err != nil {
		return "", "", err
	}
	return names[0], names[1], nil
}

// Only implements rotation.Issuer. The tokens that were got with another secret
// are refused from then on.
func (i *Issuer) Only(ctx context.Context, clientID, secret string) (at time.Time, err error) {
	if _, err := i.setSecrets(ctx, clientID, secret); err != nil {
		return time.Time{}, err
	}
	return i.clock(), nil
}

// setSecrets makes these the secrets of a client, and returns their names. Those
// that it has already stay as they are.
func (i *Issuer) setSecrets(ctx context.Context, clientID string, texts ...string) (names []string, err error) {
	for _, text := range texts {
		if text == "" {
			return nil, fleet.E(fleet.Invalid, nil, "A secret must not be empty")
		}
	}
	err = i.write(ctx, clientID, func(q registry.CredentialQueries, before *registry.ClientRecord) (*registry.ClientRecord, error) {
		if before == nil {
			return nil, fleet.ErrNotFound("Client", clientID)
		}
		names = make([]string, len(texts))
		now, changed := i.clock(), false
		var kept []registry.SecretRecord
		for _, s := range before.Secrets {
			text, err := i.opts.Box.Open(s.Sealed, AboutSecret(clientID, s.ID))
			if err != nil {
				return nil, fleet.E(fleet.Internal, wrongKey(err), "the secret cannot be read")
			}
			at := slices.IndexFunc(texts, func(t string) bool { return secret.Equal(t, text) })
			if at >= 0 && names[at] == "" {
				names[at] = credOf(s.ID)
				kept = append(kept, s)
				continue
			}
			if err := q.RevokeSecret(ctx, s.ID, now); err != nil {
				return nil, err
			}
			changed = true
		}
		for n, text := range texts {
			if names[n] != "" {
				continue
			}
			id, err := q.NextSecretID(ctx)
			if err != nil {
				return nil, err
			}
			s := registry.SecretRecord{ID: id, Sealed: i.seal(clientID, id, text), CreatedAt: now}
			if err := q.InsertSecret(ctx, clientID, s); err != nil {
				return nil, err
			}
			names[n], changed = credOf(id), true
			kept = append(kept, s)
		}
		if !changed {
			return before, nil
		}
		after := *before
		after.Secrets = kept
		return &after, nil
	})
	return names, err
}
