package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// issuer is a provider that does what its test says, also what none should.
type issuer struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	keys    map[string]crypto.Signer
	algs    map[string]jose.SignatureAlgorithm
	fetches int // of the keys
	down    bool
	codes   map[string]grant
	refresh map[string]bool // refresh tokens that are good, once
	spent   int             // refresh tokens that came a second time
	slow    time.Duration   // for which the token endpoint waits
	mangle  func(claims map[string]any)
}

type grant struct{ challenge, nonce string }

var now = time.Now().Truncate(time.Second)

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t, keys: map[string]crypto.Signer{}, algs: map[string]jose.SignatureAlgorithm{}, codes: map[string]grant{}, refresh: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.answer(w, map[string]any{"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"jwks_uri": i.URL + "/keys", "end_session_endpoint": i.URL + "/end?theme=x"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		i.fetches++
		set := map[string][]any{"keys": {map[string]any{"kty": "unheard of"}}}
		for id, k := range i.keys {
			set["keys"] = append(set["keys"], jose.JSONWebKey{Key: k.Public(), KeyID: id, Algorithm: string(i.algs[id]), Use: "sig"})
		}
		i.mu.Unlock()
		i.answer(w, set)
	})
	mux.HandleFunc("POST /token", i.token)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		down := i.down
		i.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.Close)
	i.add("one", jose.ES256)
	return i
}

func (i *issuer) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// add makes a key and publishes it.
func (i *issuer) add(id string, alg jose.SignatureAlgorithm) {
	var key crypto.Signer
	var err error
	switch alg {
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	i.keys[id], i.algs[id] = key, alg
	i.mu.Unlock()
}

// sign returns a token signed with the key; what is in more replaces claims, and
// nil removes them.
func (i *issuer) sign(id string, more map[string]any) string {
	claims := map[string]any{"iss": i.URL, "aud": []string{"account", "signalbox"}, "sub": "ann", "azp": "signalbox", "typ": "Bearer",
		"exp": now.Add(5 * time.Minute).Unix(), "iat": now.Unix(), "email": "ann@example.com", "name": "Ann", "sid": "s1",
		"realm_access":    map[string]any{"roles": []string{"editor", "x"}},
		"resource_access": map[string]any{"signalbox": map[string]any{"roles": []string{"editor", "viewer"}}, "other": map[string]any{"roles": []string{"admin"}}}}
	maps.Copy(claims, more)
	for k, v := range claims {
		if v == nil {
			delete(claims, k)
		}
	}
	i.mu.Lock()
	key, alg := i.keys[id], i.algs[id]
	i.mu.Unlock()
	return signed(i.t, key, id, alg, claims)
}

func signed(t *testing.T, key any, id string, alg jose.SignatureAlgorithm, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// login is what the provider does when somebody logs in; the answer is the code.
func (i *issuer) login(authorize string) (code string) {
	u, err := url.Parse(authorize)
	if err != nil {
		i.t.Fatal(err)
	}
	q := u.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("client_id") != "signalbox" || q.Get("response_type") != "code" {
		i.t.Errorf("asked to log in with %s", authorize)
	}
	code = rand.Text()
	i.mu.Lock()
	i.codes[code] = grant{q.Get("code_challenge"), q.Get("nonce")}
	i.mu.Unlock()
	return code
}

func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	slow := i.slow
	i.mu.Unlock()
	time.Sleep(slow)
	refuse := func(word string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": word})
	}
	if r.PostFormValue("client_id") != "signalbox" || r.PostFormValue("client_secret") != "sesame" {
		refuse("invalid_client")
		return
	}
	nonce := ""
	i.mu.Lock()
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		g, ok := i.codes[r.PostFormValue("code")]
		delete(i.codes, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !ok || g.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
			i.mu.Unlock()
			refuse("invalid_grant")
			return
		}
		nonce = g.nonce
	case "refresh_token":
		token := r.PostFormValue("refresh_token")
		if good, known := i.refresh[token]; !good {
			if known {
				i.spent++
			}
			i.mu.Unlock()
			refuse("invalid_grant")
			return
		}
		i.refresh[token] = false
	}
	next := rand.Text()
	i.refresh[next] = true
	mangle := i.mangle
	i.mu.Unlock()

	id := map[string]any{"aud": "signalbox", "typ": "ID", "nonce": nonce}
	if nonce == "" {
		id["nonce"] = nil
	}
	if mangle != nil {
		mangle(id)
	}
	i.answer(w, map[string]any{"access_token": i.sign("one", nil), "token_type": "Bearer", "expires_in": 300, "refresh_token": next, "id_token": i.sign("one", id)})
}

func (i *issuer) provider(at func() time.Time) *Provider {
	p := New(Options{Issuer: i.URL, ClientID: "signalbox", ClientSecret: "sesame", Scopes: []string{"openid", "profile"}, RedirectURL: "http://here/api/auth/callback",
		Skew: 30 * time.Second, Client: i.Client(), Now: at, Log: slog.New(slog.DiscardHandler)})
	if err := p.discover(i.t.Context()); err != nil {
		i.t.Fatal(err)
	}
	return p
}

func fixed() time.Time { return now }
