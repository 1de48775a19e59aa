package conformance

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// ClientStore checks that the stores which open returns keep the promises of
// registry.ClientStore. Each call of open returns an empty store; open sees to its end.
func ClientStore(t *testing.T, open func(*testing.T) registry.ClientStore) {
	check := func(name string, f func(*testing.T, registry.ClientStore)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("empty", clientsEmpty)
	check("client round trip", clientsRoundTrip)
	check("secrets", clientsSecrets)
	check("signing keys", clientsKeys)
	check("the version grows with each change", clientsVersion)
	check("failed transaction leaves nothing", clientsRollback)
	check("assertions are used once", clientsAssertions)
	check("one snapshot", clientsSnapshot)
}

func record(n int) registry.ClientRecord {
	return registry.ClientRecord{Client: client(n), CreatedAt: epoch, UpdatedAt: epoch.Add(time.Microsecond)}
}

// change runs f in a transaction that changes something.
func change(t *testing.T, s registry.ClientStore, f func(registry.CredentialQueries) error) (version int64) {
	t.Helper()
	version, err := s.CredentialsTx(t.Context(), func(q registry.CredentialQueries) (bool, error) { return true, f(q) })
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func hasCredentials(t *testing.T, s registry.ClientStore, clients []registry.ClientRecord, keys []registry.KeyRecord) {
	t.Helper()
	got, err := s.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]registry.ClientRecord{}
	for _, c := range got.Clients {
		have[c.ID] = c
	}
	want := map[string]registry.ClientRecord{}
	for _, c := range clients {
		want[c.ID] = c
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error("clients:", diff)
	}
	if len(keys) != len(got.Keys) {
		t.Errorf("keys: %+v", got.Keys)
	} else if diff := cmp.Diff(keys, got.Keys); len(keys) > 0 && diff != "" {
		t.Error("keys:", diff)
	}
	if version, err := s.CredentialsVersion(t.Context()); err != nil || version != got.Version {
		t.Errorf("version %d, and %d of all; %v", version, got.Version, err)
	}
}

func clientsEmpty(t *testing.T, s registry.ClientStore) {
	hasCredentials(t, s, nil, nil)
	f := func(want string, call func(registry.CredentialQueries) error) {
		t.Helper()
		_, err := s.CredentialsTx(t.Context(), func(q registry.CredentialQueries) (bool, error) { return true, call(q) })
		wantMessage(t, err, fleet.NotFound, want)
	}
	ctx := t.Context()
	f("Client x was not found", func(q registry.CredentialQueries) error { _, err := q.ClientRecord(ctx, "x"); return err })
	f("Client x was not found", func(q registry.CredentialQueries) error {
		return q.InsertSecret(ctx, "x", registry.SecretRecord{ID: 1, Sealed: "x", CreatedAt: epoch})
	})
	f("Secret 7 was not found", func(q registry.CredentialQueries) error { return q.RevokeSecret(ctx, 7, epoch) })
	f("SigningKey x was not found", func(q registry.CredentialQueries) error { return q.SetSigningKeyLifetime(ctx, "x", 1) })
	change(t, s, func(q registry.CredentialQueries) error {
		if deleted, err := q.DeleteClient(ctx, "x"); deleted || err != nil {
			t.Errorf("%v, %v", deleted, err)
		}
		return q.DeleteSigningKey(ctx, "x")
	})
	wantKind(t, s.UseAssertion(ctx, registry.Assertion{ClientID: "x", JTI: "a", Expires: epoch}, epoch, 9), fleet.NotFound)
}

func clientsRoundTrip(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	a, b := record(1), record(2)
	b.Enabled, b.Name, b.Description, b.PublicKey, b.NotBefore = false, "", "Küche 😀 '", `{"kty":"EC"}`, epoch.Add(time.Second)
	put := func(c registry.ClientRecord) {
		t.Helper()
		change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, c) })
	}
	put(a)
	put(b)
	hasCredentials(t, s, []registry.ClientRecord{a, b}, nil)
	a.Enabled, a.Name, a.PublicKey, a.NotBefore, a.UpdatedAt = false, "x", "y", epoch, epoch.Add(time.Hour)
	b.PublicKey = ""
	put(a)
	put(b)
	hasCredentials(t, s, []registry.ClientRecord{a, b}, nil)
	change(t, s, func(q registry.CredentialQueries) error {
		if got, err := q.ClientRecord(ctx, a.ID); err != nil || cmp.Diff(a, got) != "" {
			t.Errorf("%+v, %v", got, err)
		}
		deleted, err := q.DeleteClient(ctx, a.ID)
		if !deleted {
			t.Error("not deleted")
		}
		return err
	})
	hasCredentials(t, s, []registry.ClientRecord{b}, nil)
}

func clientsSecrets(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	c := record(1)
	add := func() (r registry.SecretRecord) {
		t.Helper()
		change(t, s, func(q registry.CredentialQueries) error {
			id, err := q.NextSecretID(ctx)
			if err != nil {
				return err
			}
			r = registry.SecretRecord{ID: id, Sealed: fmt.Sprint("sealed ", id), CreatedAt: epoch}
			return q.InsertSecret(ctx, c.ID, r)
		})
		return r
	}
	change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, c) })
	one := add()
	two := add()
	c.Secrets = []registry.SecretRecord{one, two}
	hasCredentials(t, s, []registry.ClientRecord{c}, nil)
	change(t, s, func(q registry.CredentialQueries) error { return q.RevokeSecret(ctx, one.ID, epoch) })
	c.Secrets = []registry.SecretRecord{two}
	hasCredentials(t, s, []registry.ClientRecord{c}, nil)
	_, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) { return true, q.RevokeSecret(ctx, one.ID, epoch) })
	wantKind(t, err, fleet.NotFound)
	_, err = s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) { return true, q.InsertSecret(ctx, c.ID, two) })
	wantKind(t, err, fleet.Exists)

	// With the client go its secrets, and their ids never come back.
	change(t, s, func(q registry.CredentialQueries) error { _, err := q.DeleteClient(ctx, c.ID); return err })
	change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, c) })
	c.Secrets = nil
	hasCredentials(t, s, []registry.ClientRecord{c}, nil)
	if three := add(); three.ID <= two.ID {
		t.Errorf("id %d after %d", three.ID, two.ID)
	}
}

func clientsKeys(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	key := func(id string, from time.Duration) registry.KeyRecord {
		return registry.KeyRecord{ID: id, Algorithm: "ES256", Sealed: "sealed " + id, ActiveFrom: epoch.Add(from), Lifetime: 5 * time.Minute, CreatedAt: epoch}
	}
	late, early := key("a", time.Hour), key("z", 0)
	for _, k := range []registry.KeyRecord{late, early} {
		change(t, s, func(q registry.CredentialQueries) error { return q.InsertSigningKey(ctx, k) })
	}
	hasCredentials(t, s, nil, []registry.KeyRecord{early, late})
	early.Lifetime = time.Hour
	change(t, s, func(q registry.CredentialQueries) error { return q.SetSigningKeyLifetime(ctx, early.ID, time.Hour) })
	hasCredentials(t, s, nil, []registry.KeyRecord{early, late})
	_, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) { return true, q.InsertSigningKey(ctx, late) })
	wantKind(t, err, fleet.Exists)
	change(t, s, func(q registry.CredentialQueries) error { return q.DeleteSigningKey(ctx, early.ID) })
	hasCredentials(t, s, nil, []registry.KeyRecord{late})
}

func clientsVersion(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	first := change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, record(1)) })
	if second := change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, record(2)) }); second != first+1 {
		t.Errorf("%d after %d", second, first)
	}
	same, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) {
		_, err := q.ClientRecord(ctx, client(1).ID)
		return false, err
	})
	if err != nil || same != first+1 {
		t.Errorf("%d after nothing changed, %v", same, err)
	}

	// Together, each gets a number of its own, and none is left out.
	const callers = 20
	seen := make([]int64, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			version, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) {
				return true, q.PutClient(ctx, record(i))
			})
			if err != nil {
				t.Error(err)
			}
			seen[i] = version
		})
	}
	wg.Wait()
	numbers := map[int64]bool{}
	for _, n := range seen {
		numbers[n] = true
	}
	for n := same + 1; n <= same+callers; n++ {
		if !numbers[n] {
			t.Errorf("nobody got %d: %v", n, seen)
		}
	}
}

func clientsRollback(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	before := change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, record(1)) })
	_, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) {
		if err := q.PutClient(ctx, record(2)); err != nil {
			return true, err
		}
		return true, fleet.ErrNotFound("Client", "y")
	})
	wantMessage(t, err, fleet.NotFound, "Client y was not found")
	hasCredentials(t, s, []registry.ClientRecord{record(1)}, nil)
	if version, err := s.CredentialsVersion(ctx); err != nil || version != before {
		t.Errorf("version %d, want %d, %v", version, before, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Credentials(ctx); err == nil {
		t.Error("cancelled, and read")
	}
}

func clientsAssertions(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	for n := range 2 {
		change(t, s, func(q registry.CredentialQueries) error { return q.PutClient(ctx, record(n)) })
	}
	version, err := s.CredentialsVersion(ctx)
	if err != nil {
		t.Fatal(err)
	}
	use := func(n int, jti string, life, now time.Duration) error {
		return s.UseAssertion(ctx, registry.Assertion{ClientID: client(n).ID, JTI: jti, Expires: epoch.Add(life)}, epoch.Add(now), 3)
	}
	good := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	good(use(0, "a", time.Minute, 0))
	wantKind(t, use(0, "a", time.Minute, 0), fleet.Exists)
	good(use(1, "a", time.Minute, 0)) // that of another client
	good(use(0, "b", time.Hour, 0))
	good(use(0, "c", time.Hour, 0))
	wantKind(t, use(0, "d", time.Hour, 0), fleet.TooMany)
	good(use(1, "d", time.Hour, 0))
	good(use(0, "a", time.Hour, 2*time.Minute)) // forgotten, as it has expired
	wantKind(t, use(0, "b", time.Hour, 2*time.Minute), fleet.TooMany)
	if after, err := s.CredentialsVersion(ctx); err != nil || after != version {
		t.Errorf("using assertions changed the version from %d to %d, %v", version, after, err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	used := 0
	for range 8 {
		wg.Go(func() {
			if use(1, "once", time.Hour, 0) == nil {
				mu.Lock()
				used++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if used != 1 {
		t.Errorf("used %d times", used)
	}
	change(t, s, func(q registry.CredentialQueries) error { _, err := q.DeleteClient(ctx, client(0).ID); return err })
}

// Whoever reads all sees what one version has, while others write.
func clientsSnapshot(t *testing.T, s registry.ClientStore) {
	ctx := t.Context()
	var wg sync.WaitGroup
	const rounds = 40
	wg.Go(func() {
		for n := range rounds { // a client and its secret, always together
			c := record(n)
			_, err := s.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) {
				if err := q.PutClient(ctx, c); err != nil {
					return false, err
				}
				id, err := q.NextSecretID(ctx)
				if err != nil {
					return false, err
				}
				return true, q.InsertSecret(ctx, c.ID, registry.SecretRecord{ID: id, Sealed: "x", CreatedAt: epoch})
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	for range rounds {
		all, err := s.Credentials(ctx)
		if err != nil {
			t.Error(err)
		}
		if int(all.Version) != len(all.Clients) {
			t.Errorf("version %d has %d clients", all.Version, len(all.Clients))
		}
		for _, c := range all.Clients {
			if len(c.Secrets) != 1 {
				t.Errorf("%s has %d secrets", c.ID, len(c.Secrets))
			}
		}
	}
	wg.Wait()
}
