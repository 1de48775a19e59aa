package local_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signalbox/internal/access"
	"signalbox/internal/local"
	"signalbox/internal/secret"
)

// signer returns what signs as the issuer does: its key is taken from the database.
func (b *bench) signer(kid string) (jose.Signer, any) {
	b.t.Helper()
	all, err := b.db.Credentials(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	box, err := secret.NewBox(testKey, "device credentials")
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := box.Open(all.Keys[0].Sealed, "signing key "+all.Keys[0].ID)
	if err != nil {
		b.t.Fatal(err)
	}
	der, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		b.t.Fatal(err)
	}
	if kid == "" {
		kid = all.Keys[0].ID
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return s, key
}

func TestVerifyRefuses(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	token := b.mustToken(device.ID, text)
	denied(t, b.Issuer, token, 0)
	genuine, _ := b.signer("")
	now := time.Now().Unix()
	claims := func(change ...any) map[string]any {
		v := map[string]any{"iss": b.url, "sub": device.ID, "azp": device.ID, "aud": "signalbox", "iat": now, "exp": now + 300, "jti": "x", "cred": "1"}
		for i := 0; i < len(change); i += 2 {
			v[change[i].(string)] = change[i+1]
		}
		return v
	}
	f := func(name, token string, want access.Reason) {
		t.Helper()
		_, err := b.Verify(t.Context(), token)
		if got, _ := access.ReasonOf(err); got != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	g := func(name string, want access.Reason, change ...any) {
		t.Helper()
		f(name, signWith(t, genuine, claims(change...)), want)
	}
	g("genuine", 0)
	g("another issuer", access.Foreign, "iss", "https://example.org")
	g("another audience", access.Foreign, "aud", "other")
	g("expired", access.Expired, "exp", now-31)
	g("expired within the skew", 0, "exp", now-20)
	g("no expiry", access.Incomplete, "exp", 0)
	g("no iat", access.Incomplete, "iat", 0)
	g("no credential", access.Incomplete, "cred", "")
	g("no subject", access.Incomplete, "sub", "")
	g("two subjects", access.Incomplete, "azp", "iotdevice-relay-zzzzzzzz")
	g("from the future", access.NotYet, "iat", now+60)
	g("no such client", access.Revoked, "sub", "iotdevice-relay-zzzzzzzz", "azp", "iotdevice-relay-zzzzzzzz")
	g("no such credential", access.Revoked, "cred", "99")
	g("claims of another type", access.Malformed, "exp", "soon")

	parts := strings.Split(token, ".")
	f("nothing", "", access.Missing)
	f("garbage", "x", access.Malformed)
	f("three times garbage", "x.y.z", access.Malformed)
	f("too long", token+strings.Repeat("x", 5000), access.Malformed)
	f("no signature", parts[0]+"."+parts[1]+".", access.Signature)
	f("half a signature", token[:len(token)-20], access.Signature)
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	f("alg none", header(`{"alg":"none"}`)+"."+parts[1]+".", access.Malformed)
	f("alg none with our kid", header(fmt.Sprintf(`{"alg":"none","kid":%q}`, kid(t, token)))+"."+parts[1]+".", access.Malformed)
	f("alg HS256", header(fmt.Sprintf(`{"alg":"HS256","kid":%q}`, kid(t, token)))+"."+parts[1]+"."+parts[2], access.Malformed)
	f("claims changed", parts[0]+"."+strings.Split(signWith(t, genuine, claims("exp", now+9999)), ".")[1]+"."+parts[2], access.Signature)
	f("a key of one's own", sign(t, newEC(t), jose.ES256, claims()), access.UnknownKey)
	forged, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: newEC(t), KeyID: kid(t, token)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f("a key of one's own under our name", signWith(t, forged, claims()), access.Signature)
	embedded, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: newEC(t)}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	f("a key of one's own in the header", signWith(t, embedded, claims()), access.UnknownKey)
	other, _ := b.signer("other")
	f("our key under another name", signWith(t, other, claims()), access.UnknownKey)
	f("RS256", sign(t, newRSA(t, 2048), jose.RS256, claims()), access.Malformed)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Verify(ctx, token); err == nil {
		t.Error("verified for nobody")
	}
}

// Whatever is sent is answered as OAuth2 says, and gets no token.
func FuzzToken(f *testing.F) {
	b := open(f)
	b.ensure(device)
	form := credentials(device.ID, "x")
	f.Add("application/x-www-form-urlencoded", "", form.Encode())
	f.Add("application/x-www-form-urlencoded", "Basic aW90ZGV2aWNlLXJlbGF5LWFiY2QyMzQ1Ong=", "grant_type=client_credentials")
	f.Add("application/x-www-form-urlencoded", "Basic %%%", "grant_type=client_credentials&client_id=%zz")
	f.Add("application/x-www-form-urlencoded", "", assertionForm(sign(f, newEC(f), jose.ES256, map[string]any{"iss": device.ID, "sub": device.ID, "aud": b.url, "iat": 1, "exp": 2, "jti": "a"})).Encode())
	f.Add("application/x-www-form-urlencoded", "", assertionForm("eyJhbGciOiJub25lIn0.eyJpc3MiOjEsImF1ZCI6W10sImV4cCI6MWU5OTl9.").Encode())
	f.Add("multipart/form-data; boundary=x", "", "--x--")
	f.Fuzz(func(t *testing.T, kind, authorization, body string) {
		r := httptest.NewRequest(http.MethodPost, local.TokenPath, strings.NewReader(body))
		r.Header["Content-Type"] = []string{kind}
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		w := httptest.NewRecorder()
		b.Handler().ServeHTTP(w, r)
		if w.Code < 400 || w.Code >= 500 || strings.Contains(w.Body.String(), "access_token") || !strings.Contains(w.Body.String(), `"error"`) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func FuzzVerify(f *testing.F) {
	b := open(f)
	token := b.mustToken(device.ID, b.ensure(device))
	f.Add(token)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := b.Verify(t.Context(), text); err == nil && text != token {
			// ECDSA signatures and base64 have one form here only.
			t.Errorf("%q was believed", text)
		} else if _, ok := access.ReasonOf(err); err != nil && !ok {
			t.Errorf("%q: %v without a reason", text, err)
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	b := open(f)
	b.ensure(device)
	f.Add(jwk(f, newEC(f).Public()))
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB"}`)
	f.Fuzz(func(t *testing.T, text string) {
		_ = b.SetPublicKey(t.Context(), device.ID, text) // must not panic
	})
}

func BenchmarkVerify(b *testing.B) {
	x := open(b)
	text := x.ensure(device)
	f := func(name string, tokens int) {
		b.Run(name, func(b *testing.B) {
			list := make([]string, tokens)
			for n := range list {
				list[n] = x.mint(device.ID, text)
			}
			for n := 0; b.Loop(); n++ {
				if _, err := x.Verify(context.Background(), list[n%tokens]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	f("again", 1)
	f("first", 20_000) // more than are remembered
}

// mint gets a token without the network.
func (b *bench) mint(id, text string) string {
	b.t.Helper()
	status, _, body := b.post(credentials(id, text))
	token, ok := body["access_token"].(string)
	if !ok {
		b.t.Fatalf("%d %v", status, body)
	}
	return token
}

// A token that was verified before is looked at again all the same.
func TestVerifyAgain(t *testing.T) {
	b := open(t)
	token := b.mint(device.ID, b.ensure(device))
	denied(t, b.Issuer, token, 0)
	denied(t, b.Issuer, token, 0)
	off := device
	off.Enabled = false
	b.ensure(off)
	denied(t, b.Issuer, token, access.Revoked)
	b.ahead(6 * time.Minute)
	denied(t, b.Issuer, token, access.Expired)
}

// BenchmarkToken is a whole request for a token, without the network.
func BenchmarkToken(b *testing.B) {
	x := open(b)
	form := credentials(device.ID, x.ensure(device)).Encode()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, local.TokenPath, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		x.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}

// BenchmarkSignature is why tokens are signed with ES256.
func BenchmarkSignature(b *testing.B) {
	for alg, key := range map[jose.SignatureAlgorithm]any{jose.ES256: newEC(b), jose.RS256: newRSA(b, 2048)} {
		b.Run(string(alg), func(b *testing.B) {
			for b.Loop() {
				sign(b, key, alg, map[string]any{"sub": device.ID})
			}
		})
	}
}
