package local_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/zitadel/oidc/v3/pkg/client"
	"golang.org/x/oauth2"

	"signalbox/internal/access"
	"signalbox/internal/local"
)

func credentials(id, secret string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
}

func TestDiscovery(t *testing.T) {
	b := open(t)
	b.ensure(device)
	closing := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	// Two libraries that are not ours read the document and the keys.
	found, err := client.Discover(t.Context(), b.url, closing)
	if err != nil {
		t.Fatal(err)
	}
	if found.TokenEndpoint != b.url+local.TokenPath || found.AuthorizationEndpoint != "" || found.UserinfoEndpoint != "" {
		t.Errorf("%+v", found)
	}
	ctx := goidc.ClientContext(t.Context(), closing)
	provider, err := goidc.NewProvider(ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	token := b.mustToken(device.ID, b.ensure(device))
	verified, err := provider.Verifier(&goidc.Config{ClientID: "signalbox"}).Verify(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := verified.Claims(&c); err != nil {
		t.Fatal(err)
	}
	if c["sub"] != device.ID || c["azp"] != device.ID || c["cred"] == "" || c["jti"] == "" || c["iss"] != b.url {
		t.Errorf("%v", c)
	}
	var raw map[string]any
	b.get(local.DiscoveryPath, &raw)
	if list, ok := raw["response_types_supported"].([]any); !ok || len(list) != 0 {
		t.Errorf("response types: %v", raw["response_types_supported"])
	}
}

func TestOnlyWhatIsOurs(t *testing.T) {
	b := open(t)
	for _, path := range []string{"/authorize", "/oauth/authorize", "/oauth/introspect", "/userinfo", "/revoke", "/oauth/revoke", "/end_session", "/device_authorization", "/healthz", "/ready", "/"} {
		for _, method := range []string{"GET", "POST"} {
			w := httptest.NewRecorder()
			b.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
}

func TestToken(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	for _, style := range []oauth2.AuthStyle{oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader, oauth2.AuthStyleAutoDetect} {
		before := time.Now().Truncate(time.Second)
		token, err := b.token(device.ID, text, style)
		if err != nil {
			t.Fatal(err)
		}
		if token.TokenType != "Bearer" || token.RefreshToken != "" || time.Until(token.Expiry).Round(time.Minute) != 5*time.Minute {
			t.Errorf("%+v", token)
		}
		c, err := b.Verify(t.Context(), token.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		if c.ClientID != device.ID || c.Credential == "" || c.IssuedAt.Before(before) || c.Expires.Sub(c.IssuedAt) != 5*time.Minute {
			t.Errorf("%+v", c)
		}
	}
	if _, header, _ := b.post(credentials(device.ID, text)); header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", header)
	}
}

func TestTokenRefused(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	f := func(name string, form url.Values, status int, code string, set ...func(*http.Request)) {
		t.Helper()
		got, header, body := b.post(form, set...)
		if got != status || body["error"] != code || body["access_token"] != nil {
			t.Errorf("%s: %d %v, want %d %s", name, got, body, status, code)
		}
		if header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %v", name, header)
		}
		if status == http.StatusUnauthorized && header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
		raw, _ := json.Marshal(body)
		if strings.Contains(string(raw), text) {
			t.Errorf("%s: the secret is repeated", name)
		}
	}
	with := func(name string, values ...string) url.Values {
		form := credentials(device.ID, text)
		form[name] = values
		return form
	}
	basic := func(id, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(id, secret) }
	}
	f("wrong secret", credentials(device.ID, text+"x"), 401, "invalid_client")
	f("no secret", with("client_secret"), 401, "invalid_client")
	f("unknown client", credentials("iotdevice-relay-zzzzzzzz", text), 401, "invalid_client")
	f("no device", credentials("admin", text), 401, "invalid_client")
	f("wrong secret by basic", url.Values{"grant_type": {"client_credentials"}}, 401, "invalid_client", basic(device.ID, "x"))
	f("both ways", credentials(device.ID, text), 400, "invalid_request", basic(device.ID, text))
	f("broken basic", url.Values{"grant_type": {"client_credentials"}}, 400, "invalid_client", basic("%zz", "x"))
	f("no grant", with("grant_type"), 400, "invalid_request")
	f("no client", url.Values{"grant_type": {"client_credentials"}}, 400, "invalid_request")
	for _, grant := range []string{"password", "authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer",
		"urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:grant-type:device_code", "x"} {
		f(grant, with("grant_type", grant), 400, "unsupported_grant_type")
	}
	f("twice", with("client_id", device.ID, device.ID), 400, "invalid_request")
	f("in the URL", credentials(device.ID, text), 400, "invalid_request", func(r *http.Request) { r.URL.RawQuery = "client_secret=" + text })
	f("as JSON", credentials(device.ID, text), 400, "invalid_request", func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	f("too long", with("scope", strings.Repeat("x", 17<<10)), 413, "invalid_request")
	f("by GET", credentials(device.ID, text), 405, "invalid_request", func(r *http.Request) { r.Method = "GET" })
	f("another assertion type", url.Values{"grant_type": {"client_credentials"}, "client_assertion": {"x"}, "client_assertion_type": {"saml"}}, 400, "invalid_request")

	off := device
	off.Enabled = false
	b.ensure(off)
	f("not enabled", credentials(device.ID, text), 401, "invalid_client")
}

func TestGuessing(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	from := func(address string) func(*http.Request) {
		return func(r *http.Request) { r.RemoteAddr = address }
	}
	f := func(id, secret, address string, want int) {
		t.Helper()
		got, header, body := b.post(credentials(id, secret), from(address))
		if got != want {
			t.Errorf("%s from %s: %d %v, want %d", id, address, got, body, want)
		}
		if (want == http.StatusTooManyRequests) != (header.Get("Retry-After") != "") {
			t.Errorf("Retry-After: %v", header)
		}
	}
	const bad, good = "192.0.2.1:1000", "192.0.2.2:1000"
	for range 5 {
		f(device.ID, "wrong", bad, 401)
	}
	f(device.ID, "wrong", bad, 429)
	f(device.ID, text, "192.0.2.1:2000", 429) // the right one is not told either
	f(device.ID, text, good, 200)             // and nobody locks out the device
	other := device
	other.ID = "iotdevice-relay-bbbbbbbb"
	f(other.ID, b.ensure(other), bad, 200)
	b.ahead(11 * time.Second)
	f(device.ID, text, bad, 200)
	for range 5 {
		f("invented", "wrong", bad, 401)
	}
	f("invented as well", "wrong", bad, 429)
}

// Disabled and enabled again within one second: what was given out before stays
// refused, and what is given out after is good.
// A client that was made, and disabled for a moment, while the clock was ahead gets
// in when that is set right.
func TestClockSetBack(t *testing.T) {
	b := open(t)
	b.ahead(365 * 24 * time.Hour)
	text := b.ensure(device)
	denied(t, b.Issuer, b.mustToken(device.ID, text), 0)
	other := device
	other.ID = "iotdevice-relay-efgh2345"
	otherText := b.ensure(other)
	other.Enabled = false
	b.ensure(other)
	other.Enabled = true
	b.ensure(other)
	future := b.mustToken(device.ID, text)
	b.ahead(-365 * 24 * time.Hour)
	denied(t, b.Issuer, future, access.NotYet)
	denied(t, b.Issuer, b.mustToken(device.ID, text), 0)
	denied(t, b.Issuer, b.mustToken(other.ID, otherText), 0)
}

func TestDisabledForAMoment(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	before := b.mustToken(device.ID, text)
	off := device
	off.Enabled = false
	b.ensure(off)
	denied(t, b.Issuer, before, access.Revoked)
	b.ensure(device)
	denied(t, b.Issuer, before, access.Revoked)
	denied(t, b.Issuer, b.mustToken(device.ID, text), 0)
	if err := b.Delete(context.Background(), device.ID); err != nil {
		t.Fatal(err)
	}
	denied(t, b.Issuer, before, access.Revoked)
}
