package oidc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"signalbox/internal/access"
)

const (
	keysFresh  = 5 * time.Minute  // how long keys are used before they are fetched again
	keysPause  = 10 * time.Second // the shortest time between two fetches, whatever tokens name
	keysAnswer = 1 << 20          // bytes of a key set that are read
)

// keySet is the provider's published keys (RFC 7517). Keys that cannot be
// fetched anew stay good, so that a provider that is down ends no session.
type keySet struct {
	url    string
	client *http.Client
	now    func() time.Time
	flight singleflight.Group

	mu    sync.Mutex
	keys  jose.JSONWebKeySet
	asked time.Time // of the last fetch, whatever came of it
	got   time.Time // of the last fetch that succeeded
}

// find returns the keys that may have signed a token which names kid. A token
// without a kid may be of any key for its algorithm. A kid that is not known
// makes the keys be fetched, but not more often than keysPause allows: tokens
// with invented names must not become requests to the provider.
func (s *keySet) find(ctx context.Context, kid string) ([]jose.JSONWebKey, error) {
	s.mu.Lock()
	found, stale := s.match(kid), s.now().Sub(s.got) >= keysFresh
	due := s.now().Sub(s.asked) >= keysPause
	s.mu.Unlock()
	if due && (len(found) == 0 || stale) {
		err := s.fetch(ctx)
		s.mu.Lock()
		fresh, never := s.match(kid), s.got.IsZero()
		s.mu.Unlock()
		if err == nil {
			found = fresh
		} else if never {
			return nil, access.Deny(access.Unreachable, err)
		}
	}
	if len(found) == 0 {
		s.mu.Lock()
		never := s.got.IsZero()
		s.mu.Unlock()
		if never {
			return nil, access.Deny(access.Unreachable, nil)
		}
		return nil, access.Deny(access.UnknownKey, nil)
	}
	return found, nil
}

// match is called with mu held.
func (s *keySet) match(kid string) (found []jose.JSONWebKey) {
	for _, k := range s.keys.Keys {
		if (kid == "" || k.KeyID == kid) && k.Use != "enc" && k.IsPublic() && k.Valid() {
			found = append(found, k)
		}
	}
	return found
}

// fetch reads the keys; callers at one time share one request, which goes on
// when the first of them gives up.
func (s *keySet) fetch(ctx context.Context) error {
	done := s.flight.DoChan("", func() (any, error) {
		s.mu.Lock()
		s.asked = s.now()
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		keys, err := s.read(ctx)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.keys, s.got = keys, s.now()
		s.mu.Unlock()
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *keySet) read(ctx context.Context) (keys jose.JSONWebKeySet, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return keys, err
	}
	answer, err := s.client.Do(req)
	if err != nil {
		return keys, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return keys, fmt.Errorf("the keys were answered with %s", answer.Status)
	}
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, answer.Body, keysAnswer)).Decode(&raw); err != nil {
		return keys, fmt.Errorf("the keys: %w", err)
	}
	for _, r := range raw.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(r) == nil { // a key of a kind we do not know leaves the others good
			keys.Keys = append(keys.Keys, k)
		}
	}
	return keys, nil
}
