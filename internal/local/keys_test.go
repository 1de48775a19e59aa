package local_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"signalbox/internal/access"
	"signalbox/internal/local"
	"signalbox/internal/sqlstore"
)

// kids returns the ids of the keys that are published.
func (b *bench) kids() (ids []string) {
	b.t.Helper()
	var set jose.JSONWebKeySet
	b.get(local.KeysPath, &set)
	for _, k := range set.Keys {
		if !k.IsPublic() || !k.Valid() || k.Use != "sig" || k.Algorithm != "ES256" {
			b.t.Errorf("published: %+v", k)
		}
		ids = append(ids, k.KeyID)
	}
	return ids
}

// kid returns which key signed a token.
func kid(t testing.TB, token string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid, Alg, Typ string }
	if err := json.Unmarshal(raw, &header); err != nil || header.Alg != "ES256" || header.Typ != "JWT" {
		t.Fatalf("%+v, %v", header, err)
	}
	return header.Kid
}

func TestKeysTurnOver(t *testing.T) {
	const day = 24 * time.Hour
	b := open(t)
	text := b.ensure(device)
	first := b.mustToken(device.ID, text)
	one := kid(t, first)
	turn := func() {
		t.Helper()
		if err := b.TurnKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	published := func(want ...string) {
		t.Helper()
		if got := b.kids(); !slices.Equal(got, want) {
			t.Errorf("published are %v, want %v", got, want)
		}
	}
	published(one)
	b.ahead(28 * day)
	turn()
	published(one)

	// The next key is published a day before it signs.
	b.ahead(day + time.Hour)
	turn()
	all := b.kids()
	if len(all) != 2 || all[0] != one {
		t.Fatalf("published are %v", all)
	}
	two := all[1]
	turn()
	published(one, two)
	last := b.mustToken(device.ID, text)
	if kid(t, last) != one {
		t.Error("the next key signs before its time")
	}

	// When it signs, what the old one signed stays good until it expires.
	b.ahead(23*time.Hour - time.Minute) // just before the turn
	late := b.mustToken(device.ID, text)
	if kid(t, late) != one {
		t.Error("not the old key")
	}
	denied(t, b.Issuer, last, access.Expired)
	b.ahead(2 * time.Minute) // and just after it
	turn()
	published(one, two)
	if got := kid(t, b.mustToken(device.ID, text)); got != two {
		t.Errorf("%s signs, want %s", got, two)
	}
	denied(t, b.Issuer, late, 0)
	b.ahead(10 * time.Minute)
	turn()
	published(two)
	denied(t, b.Issuer, late, access.Expired)
	denied(t, b.Issuer, first, access.UnknownKey)
}

// A process that slept over the end of a key does not sign with a key that
// others cannot have seen.
func TestKeysAfterALongSleep(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	one := kid(t, b.mustToken(device.ID, text))
	b.ahead(400 * 24 * time.Hour)
	if err := b.TurnKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kid(t, b.mustToken(device.ID, text)); got != one {
		t.Error("the new key signs at once")
	}
	b.ahead(2 * time.Second)
	if got := kid(t, b.mustToken(device.ID, text)); got == one {
		t.Error("the new key does not sign")
	}
}

// Tokens that live longer than those of today keep their key alive.
func TestKeyOfALongLivedToken(t *testing.T) {
	b := open(t, func(o *local.Options) { o.Lifetime = 24 * time.Hour })
	text := b.ensure(device)
	b.ahead(30*24*time.Hour - time.Minute)
	token := b.mustToken(device.ID, text)
	b.Issuer = b.another(b.db, func(o *local.Options) { o.Lifetime = time.Minute }) // a restart with another setting
	b.ahead(time.Hour)
	if err := b.TurnKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	denied(t, b.Issuer, token, 0)
}

func TestSameKeysInEveryProcess(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	db, err := sqlstore.Open(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other := b.another(db)
	b.ahead(29*24*time.Hour + time.Hour)
	var wg sync.WaitGroup
	for _, i := range []*local.Issuer{b.Issuer, other} {
		wg.Go(func() {
			if err := i.TurnKeys(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := b.kids(); len(got) != 2 {
		t.Errorf("two processes made the keys %v", got)
	}
	b.ahead(24 * time.Hour)
	denied(t, other, b.mustToken(device.ID, text), 0)
}

// While keys turn over, devices get tokens, and everybody who verifies believes
// them: the issuer, another process, and a library that fetches the keys.
func TestKeysTurnOverUnderLoad(t *testing.T) {
	const age = 2 * time.Second
	fast := func(o *local.Options) {
		o.KeyAge, o.Lifetime, o.Skew, o.Poll = age, 3*time.Second, 100*time.Millisecond, 10*time.Millisecond
	}
	b := open(t, fast)
	text := b.ensure(device)
	db, err := sqlstore.Open(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other := b.another(db, fast)
	run(t, b.Issuer)
	run(t, other)
	closing := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ctx := goidc.ClientContext(t.Context(), closing)
	provider, err := goidc.NewProvider(ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&goidc.Config{ClientID: "signalbox"})
	var mu sync.Mutex
	used := map[string]int{}
	var wg sync.WaitGroup
	end := time.Now().Add(3 * age)
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(end) {
				token, err := b.token(device.ID, text, oauth2.AuthStyleInParams)
				if err != nil {
					t.Error(err)
					return
				}
				denied(t, b.Issuer, token.AccessToken, 0)
				denied(t, other, token.AccessToken, 0)
				if _, err := verifier.Verify(ctx, token.AccessToken); err != nil {
					t.Error(err)
				}
				mu.Lock()
				used[kid(t, token.AccessToken)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(used) < 3 {
		t.Errorf("the tokens were signed with %v", used)
	}
	if got := len(b.kids()); got > 5 {
		t.Errorf("%d keys are published", got)
	}
}
