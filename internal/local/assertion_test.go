package local_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
)

// sign returns a JWT of what the values say.
func sign(t testing.TB, key any, alg jose.SignatureAlgorithm, values map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signWith(t, signer, values)
}

func signWith(t testing.TB, signer jose.Signer, values map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newEC(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func jwk(t testing.TB, key any) string {
	t.Helper()
	raw, err := jose.JSONWebKey{Key: key}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func (b *bench) setKey(public any) {
	b.t.Helper()
	if err := b.SetPublicKey(b.t.Context(), device.ID, jwk(b.t, public)); err != nil {
		b.t.Fatal(err)
	}
}

func assertionForm(assertion string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
}

func TestAssertion(t *testing.T) {
	b := open(t, func(o *local.Options) { o.TokenURL = "https://box.example.org/oauth/token" })
	b.ensure(device)
	mine := newEC(t)
	b.setKey(mine.Public())
	n := 0
	good := func(change ...any) map[string]any {
		n++
		now := time.Now().Unix()
		v := map[string]any{"iss": device.ID, "sub": device.ID, "aud": b.url + local.TokenPath, "iat": now, "exp": now + 500, "jti": fmt.Sprint(n)}
		for i := 0; i < len(change); i += 2 {
			if change[i+1] == nil {
				delete(v, change[i].(string))
			} else {
				v[change[i].(string)] = change[i+1]
			}
		}
		return v
	}
	f := func(name string, assertion string, status int) (token string) {
		t.Helper()
		b.ahead(11 * time.Second) // what was wrong before is forgiven
		got, _, body := b.post(assertionForm(assertion))
		if got != status || (status == 200) != (body["access_token"] != nil) {
			t.Errorf("%s: %d %v, want %d", name, got, body, status)
		}
		token, _ = body["access_token"].(string)
		return token
	}
	es := func(v map[string]any) string { return sign(t, mine, jose.ES256, v) }
	now := time.Now().Unix()

	token := f("good", es(good()), 200)
	c, err := b.Verify(t.Context(), token)
	if err != nil || !strings.HasPrefix(c.Credential, "key-") {
		t.Fatalf("%+v, %v", c, err)
	}
	f("the issuer as audience", es(good("aud", b.url)), 200)
	f("where devices are told to go as audience", es(good("aud", "https://box.example.org/oauth/token")), 200)
	f("several audiences", es(good("aud", []string{"x", b.url})), 200)

	once := es(good())
	f("once", once, 200)
	f("twice", once, 401)
	f("the same jti", es(good("jti", fmt.Sprint(n))), 401)
	f("another audience", es(good("aud", "https://example.org")), 401)
	f("no audience", es(good("aud", nil)), 401)
	f("expired", es(good("exp", now-1)), 401)
	f("no expiry", es(good("exp", nil)), 401)
	f("good for too long", es(good("exp", now+3600)), 401)
	f("from the future", es(good("iat", now+300)), 401)
	f("from long ago", es(good("iat", now-3600)), 401)
	f("no iat", es(good("iat", nil)), 401)
	f("no jti", es(good("jti", nil)), 401)
	f("about another", es(good("sub", "iotdevice-relay-zzzzzzzz")), 401)
	f("of another", es(good("iss", "iotdevice-relay-zzzzzzzz", "sub", "iotdevice-relay-zzzzzzzz")), 401)
	f("of nobody", es(good("iss", nil, "sub", nil)), 401)
	f("another key", sign(t, newEC(t), jose.ES256, good()), 401)
	f("by a secret", sign(t, []byte(strings.Repeat("x", 32)), jose.HS256, good()), 401)
	f("with the public key as a secret", sign(t, []byte(jwk(t, mine.Public())), jose.HS256, good()), 401)
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(es(good()), ".")[1] + "."
	f("by nobody", none, 401)
	f("garbage", "x.y.z", 401)
	f("not even that", "x", 401)

	// The claims must be those that were signed.
	parts, others := strings.Split(es(good()), "."), strings.Split(es(good("exp", now+400)), ".")
	f("changed", parts[0]+"."+others[1]+"."+parts[2], 401)

	form := assertionForm(es(good()))
	form.Set("client_id", "iotdevice-relay-zzzzzzzz")
	if got, _, body := b.post(form); got != 401 {
		t.Errorf("the client_id of another: %d %v", got, body)
	}
	form = assertionForm(es(good()))
	form.Set("client_id", device.ID)
	if got, _, body := b.post(form); got != 200 {
		t.Errorf("with client_id: %d %v", got, body)
	}

	form = assertionForm(es(good("iss", "iotdevice-relay-zzzzzzzz", "sub", "iotdevice-relay-zzzzzzzz")))
	form.Set("client_id", device.ID)
	if got, _, body := b.post(form); got != 401 {
		t.Errorf("signed by one for another: %d %v", got, body)
	}
	b.ahead(time.Minute)

	off := device
	off.Enabled = false
	b.ensure(off)
	f("not enabled", es(good()), 401)
	b.ensure(device)
	f("enabled", es(good()), 200)

	// Another key ends what was got with the one before.
	token = f("before the other key", es(good()), 200)
	weak := newRSA(t, 2048)
	b.setKey(weak.Public())
	denied(t, b.Issuer, token, access.Revoked)
	f("the key before", es(good()), 401)
	f("RS256", sign(t, weak, jose.RS256, good()), 200)
	f("PS256", sign(t, weak, jose.PS256, good()), 200)
	f("RS512", sign(t, weak, jose.RS512, good()), 401)
	if err := b.SetPublicKey(t.Context(), device.ID, ""); err != nil {
		t.Fatal(err)
	}
	f("no key", sign(t, weak, jose.RS256, good()), 401)
}

// A client that was deleted and made again is another one, even with the key of before.
func TestKeyOfAnEarlierClient(t *testing.T) {
	b := open(t)
	mine := newEC(t)
	token := func(jti string) string {
		t.Helper()
		b.ensure(device)
		b.setKey(mine.Public())
		now := time.Now().Unix()
		_, _, body := b.post(assertionForm(sign(t, mine, jose.ES256, map[string]any{
			"iss": device.ID, "sub": device.ID, "aud": b.url, "iat": now, "exp": now + 300, "jti": jti})))
		text, _ := body["access_token"].(string)
		return text
	}
	old := token("a")
	denied(t, b.Issuer, old, 0)
	if err := b.Delete(t.Context(), device.ID); err != nil {
		t.Fatal(err)
	}
	b.ahead(2 * time.Second)
	next := token("b")
	denied(t, b.Issuer, next, 0)
	denied(t, b.Issuer, old, access.Revoked)
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// An assertion is good once even if the process that took it is not the one
// that is asked again, and nobody fills the list of those that were used.
func TestAssertionsAreRemembered(t *testing.T) {
	b := open(t)
	b.ensure(device)
	mine := newEC(t)
	b.setKey(mine.Public())
	now := time.Now()
	make := func(jti string) url.Values {
		return assertionForm(sign(t, mine, jose.ES256, map[string]any{
			"iss": device.ID, "sub": device.ID, "aud": b.url, "iat": now.Unix(), "exp": now.Unix() + 300, "jti": jti}))
	}
	f := func(form url.Values, status int) {
		t.Helper()
		if got, _, body := b.post(form); got != status {
			t.Errorf("%d %v, want %d", got, body, status)
		}
	}
	f(make("a"), 200)
	b.Issuer = b.another(b.db)
	f(make("a"), 401)
	for n := range 99 {
		f(make(fmt.Sprint(n)), 200)
	}
	f(make("one too many"), 401)
	b.ahead(6 * time.Minute) // they have expired, and are forgotten
	f(assertionForm(sign(t, mine, jose.ES256, map[string]any{
		"iss": device.ID, "sub": device.ID, "aud": b.url, "iat": now.Unix(), "exp": now.Unix() + 500, "jti": "b"})), 200)
}

func TestPublicKeys(t *testing.T) {
	b := open(t)
	b.ensure(device)
	f := func(name, text string, good bool) {
		t.Helper()
		if err := b.SetPublicKey(t.Context(), device.ID, text); (err == nil) != good || err != nil && fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	mine := newEC(t)
	f("EC P-256", jwk(t, mine.Public()), true)
	f("none", "", true)
	f("private", jwk(t, mine), false)
	f("symmetric", jwk(t, []byte(strings.Repeat("x", 32))), false)
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f("EC P-384", jwk(t, big.Public()), false)
	f("RSA", jwk(t, newRSA(t, 2048).Public()), true)
	f("weak RSA", `{"kty":"RSA","e":"AQAB","n":"`+base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 128)))+`"}`, false)
	f("for encryption", strings.Replace(jwk(t, mine.Public()), "{", `{"use":"enc",`, 1), false)
	f("not JSON", "x", false)
	f("too long", `{"x":"`+strings.Repeat("x", 5000)+`"}`, false)
	if err := b.SetPublicKey(t.Context(), "iotdevice-relay-zzzzzzzz", jwk(t, mine.Public())); fleet.KindOf(err) != fleet.NotFound || err == nil {
		t.Errorf("of a client that is not there: %v", err)
	}
}
