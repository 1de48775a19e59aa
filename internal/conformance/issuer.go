package conformance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// IssuerCase is an issuer that has no clients of devices yet.
type IssuerCase struct {
	registry.Issuer

	// Token asks the provider for an access token with client_credentials, as a
	// device does, and returns the provider's refusal.
	Token func(ctx context.Context, clientID, secret string) error
}

// Issuer checks that the issuers which open returns keep the promises of
// registry.Issuer. Each call of open returns one without clients of devices; it
// may have other clients. open sees to its end.
func Issuer(t *testing.T, open func(*testing.T) IssuerCase) {
	check := func(name string, f func(*testing.T, IssuerCase)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("no clients", issuerEmpty)
	check("a client that is not there", issuerMissing)
	check("ensure makes a client", issuerEnsure)
	check("ensure may be repeated", issuerRepeat)
	check("ensure brings a client up to date", issuerUpdate)
	check("names are kept as they are", issuerNames)
	check("a client that is not enabled", issuerDisabled)
	check("delete", issuerDelete)
	check("all clients, page by page", issuerClients)
	check("a list that is left early", issuerClientsBreak)
	check("ensure at once", issuerTogether)
	check("ensure races delete", issuerRace)
	check("cancelled", issuerCancelled)
}

// client returns a client of the nth device.
func client(n int) registry.Client {
	return registry.Client{
		ID: fleet.ClientID("relay_2", fmt.Sprintf("a%07d", n)), Name: fmt.Sprintf("Relay %d", n), Description: "Of a test", Enabled: true,
	}
}

func ensure(t *testing.T, s registry.Issuer, c registry.Client, created bool) {
	t.Helper()
	switch got, err := s.Ensure(t.Context(), c); {
	case err != nil:
		t.Fatalf("ensure %s: %v", c.ID, err)
	case got != created:
		t.Errorf("ensure %s: created %v, want %v", c.ID, got, created)
	}
}

func secretOf(t *testing.T, s registry.Issuer, id string) string {
	t.Helper()
	secret, err := s.Secret(t.Context(), id)
	if err != nil {
		t.Fatalf("secret of %s: %v", id, err)
	}
	if len(secret) < 16 {
		t.Errorf("the secret of %s has %d characters", id, len(secret))
	}
	return secret
}

func hasStatus(t *testing.T, s registry.Issuer, id string, exists, enabled bool) {
	t.Helper()
	got, err := s.Status(t.Context(), id)
	if err != nil || got.Exists != exists || got.Enabled != enabled {
		t.Errorf("status of %s: %+v, %v; want exists %v, enabled %v", id, got, err, exists, enabled)
	}
	if !exists && (got.UUID != "" || got.ConsoleURL != "") {
		t.Errorf("a client that is not there is found at %+v", got)
	}
}

// hasClients checks that the issuer lists exactly these.
func hasClients(t *testing.T, s registry.Issuer, want ...registry.Client) {
	t.Helper()
	got := make(map[string]registry.Client)
	for c, err := range s.Clients(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[c.ID]; twice {
			t.Errorf("%s is listed twice", c.ID)
		}
		got[c.ID] = c
	}
	for _, c := range want {
		if got[c.ID] != c {
			t.Errorf("listed as %+v, want %+v", got[c.ID], c)
		}
		delete(got, c.ID)
	}
	for id := range got {
		t.Errorf("%s is listed", id)
	}
}

func issuerEmpty(t *testing.T, s IssuerCase) { hasClients(t, s) }

func issuerMissing(t *testing.T, s IssuerCase) {
	ensure(t, s, client(1), true)
	id := client(2).ID
	hasStatus(t, s, id, false, false)
	_, err := s.Secret(t.Context(), id)
	wantKind(t, err, fleet.NotFound)
	if err := s.Delete(t.Context(), id); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if s.Token(t.Context(), id, secretOf(t, s, client(1).ID)) == nil {
		t.Error("a client that is not there got a token")
	}
	hasClients(t, s, client(1))
}

func issuerEnsure(t *testing.T, s IssuerCase) {
	a, b := client(1), client(2)
	ensure(t, s, a, true)
	ensure(t, s, b, true)
	hasStatus(t, s, a.ID, true, true)
	hasStatus(t, s, b.ID, true, true)
	one, other := secretOf(t, s, a.ID), secretOf(t, s, b.ID)
	if one == other {
		t.Error("two clients have one secret")
	}
	f := func(id, secret string, good bool) {
		t.Helper()
		if err := s.Token(t.Context(), id, secret); (err == nil) != good {
			t.Errorf("token for %s: %v", id, err)
		}
	}
	f(a.ID, one, true)
	f(a.ID, one, true) // a secret is good more than once
	f(b.ID, other, true)
	f(a.ID, other, false)
	f(a.ID, one+"x", false)
	f(a.ID, "", false)
	hasClients(t, s, a, b)
}

func issuerRepeat(t *testing.T, s IssuerCase) {
	c := client(1)
	ensure(t, s, c, true)
	before, err := s.Status(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, s, c.ID)
	ensure(t, s, c, false)
	ensure(t, s, c, false)
	if got := secretOf(t, s, c.ID); got != secret {
		t.Error("ensure changed the secret")
	}
	if after, err := s.Status(t.Context(), c.ID); err != nil || after != before {
		t.Errorf("ensure changed %+v to %+v, %v", before, after, err)
	}
	if err := s.Token(t.Context(), c.ID, secret); err != nil {
		t.Error(err)
	}
	hasClients(t, s, c)
}

func issuerUpdate(t *testing.T, s IssuerCase) {
	c, other := client(1), client(2)
	ensure(t, s, c, true)
	ensure(t, s, other, true)
	secret := secretOf(t, s, c.ID)
	f := func(name, description string, enabled bool) {
		t.Helper()
		c.Name, c.Description, c.Enabled = name, description, enabled
		ensure(t, s, c, false)
		hasStatus(t, s, c.ID, true, enabled)
		hasClients(t, s, c, other)
		if secretOf(t, s, c.ID) != secret {
			t.Error("an update changed the secret")
		}
	}
	f("Renamed", "Of a test", true)
	f("Renamed", "Moved", true)
	f("", "Moved", true) // a device whose name was taken away
	f("", "Moved", false)
	f("Back", "Of a test", true)
}

func issuerNames(t *testing.T, s IssuerCase) {
	var all []registry.Client
	for i, name := range []string{"", "Küche 😀", `"quoted" \ 'single'`, "<b>&amp;</b>", "a\tb", "%s ${client} {{x}}"} {
		c := client(i)
		c.Name, c.Description = name, name
		ensure(t, s, c, true)
		all = append(all, c)
	}
	hasClients(t, s, all...)
}

func issuerDisabled(t *testing.T, s IssuerCase) {
	c := client(1)
	ensure(t, s, c, true)
	secret := secretOf(t, s, c.ID)
	c.Enabled = false
	ensure(t, s, c, false)
	hasStatus(t, s, c.ID, true, false)
	if s.Token(t.Context(), c.ID, secret) == nil {
		t.Error("a client that is not enabled got a token")
	}
	if secretOf(t, s, c.ID) != secret {
		t.Error("disabling changed the secret")
	}
	c.Enabled = true
	ensure(t, s, c, false)
	if err := s.Token(t.Context(), c.ID, secret); err != nil {
		t.Errorf("an enabled client gets none: %v", err)
	}

	born := client(2)
	born.Enabled = false
	ensure(t, s, born, true)
	hasStatus(t, s, born.ID, true, false)
	if s.Token(t.Context(), born.ID, secretOf(t, s, born.ID)) == nil {
		t.Error("a client that never was enabled got a token")
	}
	hasClients(t, s, c, born)
}

func issuerDelete(t *testing.T, s IssuerCase) {
	c, other := client(1), client(2)
	ensure(t, s, c, true)
	ensure(t, s, other, true)
	old := secretOf(t, s, c.ID)
	for range 2 {
		if err := s.Delete(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		hasStatus(t, s, c.ID, false, false)
		if s.Token(t.Context(), c.ID, old) == nil {
			t.Error("a deleted client got a token")
		}
		hasClients(t, s, other)
	}
	// One of the same id is another client.
	ensure(t, s, c, true)
	if secretOf(t, s, c.ID) == old {
		t.Error("the secret came back")
	}
	if s.Token(t.Context(), c.ID, old) == nil {
		t.Error("the secret of a deleted client is good for the next one")
	}
	hasClients(t, s, c, other)
}

func issuerClients(t *testing.T, s IssuerCase) {
	const many = 230 // more than two of anybody's pages
	var want []registry.Client
	for i := range many {
		c := client(i)
		c.Enabled = i%3 > 0
		ensure(t, s, c, true)
		want = append(want, c)
	}
	hasClients(t, s, want...)
}

func issuerClientsBreak(t *testing.T, s IssuerCase) {
	for i := range 3 {
		ensure(t, s, client(i), true)
	}
	list := s.Clients(t.Context())
	for _, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		ensure(t, s, client(3), true) // nothing is held while the list is read
		break
	}
	n := 0
	for range list { // and it can be read again
		n++
	}
	if n != 4 {
		t.Errorf("%d clients", n)
	}
}

func issuerTogether(t *testing.T, s IssuerCase) {
	const callers = 8
	c := client(1)
	var made atomic.Int32
	secrets := make([]string, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			created, err := s.Ensure(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			if created {
				made.Add(1)
			}
			if secrets[i], err = s.Secret(t.Context(), c.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d callers made the client", made.Load())
	}
	if len(slices.Compact(secrets)) != 1 {
		t.Error("the callers saw several secrets")
	}
	hasClients(t, s, c)
}

func issuerRace(t *testing.T, s IssuerCase) {
	ctx := t.Context()
	for round := range 10 {
		c := client(round)
		ensure(t, s, c, true)
		var ensured, deleted error
		var wg sync.WaitGroup
		wg.Go(func() { _, ensured = s.Ensure(ctx, c) })
		wg.Go(func() { deleted = s.Delete(ctx, c.ID) })
		wg.Wait()
		// An error is allowed, as the caller tries again; half a client is not.
		if ensured != nil {
			if _, err := s.Ensure(ctx, c); err != nil {
				t.Fatalf("ensure: %v, and again: %v", ensured, err)
			}
		}
		if deleted != nil {
			t.Fatalf("delete: %v", deleted)
		}
		status, err := s.Status(ctx, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if status.Exists {
			if err := s.Token(ctx, c.ID, secretOf(t, s, c.ID)); err != nil {
				t.Fatalf("round %d: the client is there and of no use: %v", round, err)
			}
		}
	}
}

func issuerCancelled(t *testing.T, s IssuerCase) {
	ensure(t, s, client(1), true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Ensure(ctx, client(2)); err == nil {
		t.Error("ensure did not notice")
	}
	if err := s.Delete(ctx, client(1).ID); err == nil {
		t.Error("delete did not notice")
	}
	hasClients(t, s, client(1))
}
