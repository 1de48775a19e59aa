package keycloak_test

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"signalbox/internal/keycloak"
	"signalbox/internal/keycloaktest"
)

// Two who change one client at the same time do it one after the other: no
// request of one comes between those of the other.
func TestChangesOfOneClient(t *testing.T) {
	type who struct{}
	var mu sync.Mutex
	var order []int
	var s keycloaktest.Server
	there(&s)
	issuer := open(t, &s, func(o *keycloak.Options) {
		next := o.Transport
		o.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if n, ok := r.Context().Value(who{}).(int); ok {
				mu.Lock()
				order = append(order, n)
				mu.Unlock()
			}
			return next.RoundTrip(r)
		})
	})
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			ctx := context.WithValue(t.Context(), who{}, n)
			var err error
			if n%2 == 0 {
				_, err = issuer.Only(ctx, device, "a secret of ours")
			} else {
				_, err = issuer.Ensure(ctx, wanted("another name"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[int]bool{}
	for i, n := range order {
		if i > 0 && n != order[i-1] && seen[n] {
			t.Fatalf("they overlap: %v", order)
		}
		seen[n] = true
	}
	if len(seen) != 8 {
		t.Errorf("%v", order)
	}
	if c := current(&s); c.Secret != "a secret of ours" || c.Name != "another name" {
		t.Errorf("%+v", c)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
