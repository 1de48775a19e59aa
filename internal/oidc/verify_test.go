package oidc

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
)

func TestVerify(t *testing.T) {
	i := newIssuer(t)
	i.add("rsa", jose.RS256)
	p := i.provider(fixed)
	want := Claims{Subject: "ann", Email: "ann@example.com", Name: "Ann", ClientID: "signalbox", Session: "s1",
		Roles: []string{"editor", "viewer", "x"}, IssuedAt: now, Expires: now.Add(5 * time.Minute)}
	got, err := p.Verify(t.Context(), i.sign("one", nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}

	f := func(name, token string, want access.Reason) {
		t.Helper()
		_, err := p.Verify(t.Context(), token)
		if got, _ := access.ReasonOf(err); got != want {
			t.Errorf("%s: %v, want %v (%v)", name, got, want, err)
		}
	}
	with := func(claim string, v any) string { return i.sign("one", map[string]any{claim: v}) }
	const fine access.Reason = 0
	f("any audience that is ours", with("aud", "signalbox"), fine)
	f("no typ", with("typ", nil), fine)
	f("expired within the skew", with("exp", now.Add(-29*time.Second).Unix()), fine)
	f("issued within the skew", with("iat", now.Add(29*time.Second).Unix()), fine)

	f("none", "", access.Missing)
	f("not a token", "x.y.z", access.Malformed)
	f("too long", strings.Repeat("a", maxToken+1), access.Malformed)
	f("expired", with("exp", now.Add(-31*time.Second).Unix()), access.Expired)
	f("without exp", with("exp", nil), access.Incomplete)
	f("without sub", i.sign("one", map[string]any{"sub": nil, "sid": nil}), access.Incomplete)
	f("of tomorrow", with("iat", now.Add(time.Hour).Unix()), access.NotYet)
	f("not yet", with("nbf", now.Add(time.Hour).Unix()), access.NotYet)
	f("other issuer", with("iss", "https://elsewhere"), access.Foreign)
	f("other audience", with("aud", []string{"account"}), access.Foreign)
	f("no audience", with("aud", nil), access.Foreign)
	f("id token", with("typ", "ID"), access.WrongUse)
	f("refresh token", with("typ", "Refresh"), access.WrongUse)
	f("logout token", with("events", map[string]any{logoutEvent: map[string]any{}}), access.WrongUse)
	f("exp is text", with("exp", "soon"), access.Malformed)

	good := strings.Split(i.sign("one", nil), ".")
	f("claims exchanged", good[0]+"."+part(map[string]any{"sub": "admin"})+"."+good[2], access.Signature)
	f("signature cut", good[0]+"."+good[1]+"."+good[2][:20], access.Signature)
	f("no signature", good[0]+"."+good[1]+".", access.Signature)
	for _, alg := range []string{"none", "None", "HS256"} {
		f("alg "+alg, part(map[string]any{"alg": alg, "kid": "one"})+"."+good[1]+".", access.Malformed)
	}
	// The public key as the secret of an HMAC, the classic confusion.
	public, err := x509.MarshalPKIXPublicKey(i.keys["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	f("HMAC with the public key", signed(t, public, "rsa", jose.HS256, map[string]any{"iss": i.URL, "aud": "signalbox", "sub": "x", "exp": now.Unix()}), access.Malformed)
	f("a key with another algorithm than its own", signed(t, i.keys["rsa"], "rsa", jose.PS256, map[string]any{"iss": i.URL, "aud": "signalbox", "sub": "x", "exp": now.Unix() + 60}), access.Signature)

	other := newIssuer(t)
	f("another provider's key under a name of ours", signed(t, other.keys["one"], "one", jose.ES256, map[string]any{"iss": i.URL, "aud": "signalbox", "sub": "x", "exp": now.Unix() + 60}), access.Signature)
}

func part(v any) string {
	b, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestVerifyAlgorithms(t *testing.T) {
	i := newIssuer(t)
	algs := []jose.SignatureAlgorithm{jose.RS256, jose.RS512, jose.PS256, jose.ES256, jose.EdDSA}
	for _, alg := range algs {
		i.add(string(alg), alg)
	}
	p := i.provider(fixed)
	for _, alg := range algs {
		if _, err := p.Verify(t.Context(), i.sign(string(alg), nil)); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// A key that the provider begins to use is known at once; names of keys that
// nobody has do not become requests.
func TestKeysRotate(t *testing.T) {
	i := newIssuer(t)
	at := now
	p := i.provider(func() time.Time { return at })
	verify := func(kid string) access.Reason {
		_, err := p.Verify(t.Context(), i.sign(kid, map[string]any{"exp": at.Add(time.Minute).Unix()}))
		r, _ := access.ReasonOf(err)
		return r
	}
	if r := verify("one"); r != 0 {
		t.Fatal(r)
	}
	at = at.Add(keysPause)
	i.add("two", jose.ES256)
	if r := verify("two"); r != 0 {
		t.Errorf("the new key: %v", r)
	}
	before := i.fetches
	stray := newIssuer(t)
	for n := range 1000 {
		token := signed(t, stray.keys["one"], fmt.Sprint("stray", n), jose.ES256, map[string]any{"iss": i.URL, "sub": "x"})
		if _, err := p.Verify(t.Context(), token); err == nil {
			t.Fatal("a stray key was taken")
		} else if r, _ := access.ReasonOf(err); r != access.UnknownKey {
			t.Fatal(err)
		}
	}
	if n := i.fetches - before; n != 0 {
		t.Errorf("1000 unknown keys became %d requests within the pause", n)
	}

	// A key that is withdrawn is refused when the keys are no longer fresh.
	i.mu.Lock()
	gone := i.keys["one"]
	delete(i.keys, "one")
	i.mu.Unlock()
	at = at.Add(keysFresh)
	token := signed(t, gone, "one", jose.ES256, map[string]any{"iss": i.URL, "aud": "signalbox", "sub": "x", "exp": at.Unix() + 60})
	if _, err := p.Verify(t.Context(), token); err == nil {
		t.Error("a withdrawn key is still good")
	}

	// A provider that is down ends no session.
	i.mu.Lock()
	i.down = true
	i.mu.Unlock()
	at = at.Add(24 * time.Hour)
	if r := verify("two"); r != 0 {
		t.Errorf("with the provider down: %v", r)
	}
}

func TestVerifyBeforeTheProviderIsFound(t *testing.T) {
	p := New(Options{Issuer: "http://127.0.0.1:1", ClientID: "signalbox"})
	_, err := p.Verify(t.Context(), newIssuer(t).sign("one", nil))
	if r, _ := access.ReasonOf(err); r != access.Unreachable {
		t.Errorf("%v", err)
	}
}

func TestVerifyLogout(t *testing.T) {
	i := newIssuer(t)
	p := i.provider(fixed)
	token := func(more map[string]any) string {
		claims := map[string]any{"typ": "Logout", "jti": "j1", "events": map[string]any{logoutEvent: map[string]any{}}}
		for k, v := range more {
			claims[k] = v
		}
		return i.sign("one", claims)
	}
	l, err := p.VerifyLogout(t.Context(), token(nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Logout{Subject: "ann", Session: "s1", ID: "j1", Expires: now.Add(5 * time.Minute)}, l); diff != "" {
		t.Error(diff)
	}
	f := func(name string, more map[string]any, want access.Reason) {
		t.Helper()
		_, err := p.VerifyLogout(t.Context(), token(more))
		if r, _ := access.ReasonOf(err); r != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("a session only", map[string]any{"sub": nil}, 0)
	f("with a nonce", map[string]any{"nonce": "n"}, access.WrongUse)
	f("an access token", map[string]any{"events": nil}, access.WrongUse)
	f("without an id", map[string]any{"jti": nil}, access.Incomplete)
	f("of nobody", map[string]any{"sub": nil, "sid": nil}, access.Incomplete)
}

func FuzzVerify(f *testing.F) {
	i := newIssuer(&testing.T{})
	f.Cleanup(i.Close)
	p := New(Options{Issuer: i.URL, ClientID: "signalbox", Now: fixed})
	p.found.Store(&discovered{issuer: i.URL, keys: &keySet{url: i.URL + "/keys", client: i.Client(), now: fixed}})
	good := signed(&testing.T{}, i.keys["one"], "one", jose.ES256, map[string]any{"iss": i.URL, "aud": "signalbox", "sub": "ann", "exp": now.Unix() + 60})
	f.Add(good)
	f.Add("..")
	f.Add(part(map[string]any{"alg": "none"}) + "." + part(map[string]any{}) + ".")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := p.Verify(t.Context(), token)
		if _, denied := access.ReasonOf(err); err != nil && !denied {
			t.Errorf("an error without a reason: %v", err)
		}
		if err == nil && c.Subject != "ann" {
			t.Errorf("believed %q as %+v", token, c)
		}
	})
}

// Some providers end their name with a slash and some do not; what a person
// writes in the settings need not know that. Any other name is refused.
func TestIssuerWithSlash(t *testing.T) {
	i := newIssuer(t)
	p := New(Options{Issuer: i.URL + "/", ClientID: "signalbox", Client: i.Client(), Now: fixed, Log: slog.New(slog.DiscardHandler)})
	if err := p.discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(t.Context(), i.sign("one", nil)); err != nil {
		t.Error(err)
	}
	if _, err := p.Verify(t.Context(), i.sign("one", map[string]any{"iss": i.URL + "/"})); err == nil {
		t.Error("a token of a name that the provider does not have")
	}
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.answer(w, map[string]any{"issuer": "https://elsewhere", "authorization_endpoint": "x", "token_endpoint": "x", "jwks_uri": "x"})
	}))
	defer stranger.Close()
	if err := New(Options{Issuer: stranger.URL, Client: stranger.Client()}).discover(t.Context()); err == nil {
		t.Error("a provider of another name")
	}
}
