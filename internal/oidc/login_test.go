package oidc

import (
	"net/url"
	"sync"
	"testing"
	"time"

	"signalbox/internal/access"
)

func TestLogin(t *testing.T) {
	i := newIssuer(t)
	p := i.provider(fixed)
	l := Login{State: "state", Nonce: "nonce", Verifier: "a verifier of forty-three characters or more, as asked"}
	login := func(code string, l Login) (Tokens, access.Reason) {
		tokens, err := p.Exchange(t.Context(), code, l)
		r, _ := access.ReasonOf(err)
		if err != nil && r == 0 {
			t.Errorf("an error without a reason: %v", err)
		}
		return tokens, r
	}
	at, err := p.LoginURL(l)
	if err != nil {
		t.Fatal(err)
	}
	code := i.login(at)
	tokens, r := login(code, l)
	if r != 0 || tokens.Claims.Subject != "ann" || tokens.Refresh == "" || tokens.ID == "" {
		t.Errorf("%v %+v", r, tokens)
	}
	if _, r := login(code, l); r != access.Refused {
		t.Errorf("a code was good twice: %v", r)
	}
	if _, r := login(i.login(at), Login{Nonce: l.Nonce, Verifier: "another"}); r != access.Refused {
		t.Errorf("another browser's verifier: %v", r)
	}
	if _, r := login(i.login(at), Login{Nonce: "another", Verifier: l.Verifier}); r != access.Mismatch {
		t.Errorf("another nonce: %v", r)
	}

	f := func(name string, mangle func(map[string]any), want access.Reason) {
		t.Helper()
		i.mangle = mangle
		if _, r := login(i.login(at), l); r != want {
			t.Errorf("%s: %v", name, r)
		}
	}
	f("no nonce", func(c map[string]any) { c["nonce"] = nil }, access.Mismatch)
	f("the id token is of another subject", func(c map[string]any) { c["sub"] = "bob" }, access.Mismatch)
	f("the id token is for another client", func(c map[string]any) { c["aud"] = "other" }, access.Foreign)
	f("the id token is for several, and given to another", func(c map[string]any) { c["aud"], c["azp"] = []string{"signalbox", "other"}, "other" }, access.Foreign)
	f("the id token is expired", func(c map[string]any) { c["exp"] = now.Add(-time.Hour).Unix() }, access.Expired)
	i.mangle = nil

	i.down = true
	if _, r := login(code, l); r != access.Unreachable {
		t.Errorf("with the provider down: %v", r)
	}
}

// Twenty requests with one expired access token carry one refresh token. A
// provider that rotates refresh tokens must see it once.
func TestRefreshIsUsedOnce(t *testing.T) {
	i := newIssuer(t)
	at := now
	var clock sync.Mutex
	p := i.provider(func() time.Time { clock.Lock(); defer clock.Unlock(); return at })
	i.refresh["r1"] = true
	i.slow = 50 * time.Millisecond
	var all sync.WaitGroup
	got := make([]Tokens, 20)
	for n := range got {
		all.Go(func() {
			var err error
			if got[n], err = p.Refresh(t.Context(), "r1"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	late, err := p.Refresh(t.Context(), "r1") // sent before its browser had the answer
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range append(got, late) {
		if g.Refresh != got[0].Refresh || g.Access == "" {
			t.Errorf("different answers: %q and %q", g.Refresh, got[0].Refresh)
		}
	}
	if i.spent != 0 {
		t.Errorf("a refresh token was used again %d times", i.spent)
	}

	clock.Lock()
	at = at.Add(remembered)
	clock.Unlock()
	if _, err := p.Refresh(t.Context(), "r1"); err == nil {
		t.Error("a used refresh token is good for ever")
	} else if r, _ := access.ReasonOf(err); r != access.Refused {
		t.Error(err)
	}
	if _, err := p.Refresh(t.Context(), got[0].Refresh); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if len(p.again.done) != 1 {
		t.Errorf("%d answers are remembered", len(p.again.done))
	}
}

func TestLogoutURL(t *testing.T) {
	i := newIssuer(t)
	p := i.provider(fixed)
	u, err := url.Parse(p.LogoutURL("idtoken", "http://here/"))
	if err != nil {
		t.Fatal(err)
	}
	want := url.Values{"theme": {"x"}, "client_id": {"signalbox"}, "post_logout_redirect_uri": {"http://here/"}, "id_token_hint": {"idtoken"}}
	if u.Path != "/end" || u.Query().Encode() != want.Encode() {
		t.Errorf("%s", u)
	}
	if got := New(Options{}).LogoutURL("", ""); got != "" {
		t.Errorf("before the provider is found: %q", got)
	}
}
