// Package oidctest is an OpenID provider for tests: the certified library of
// ZITADEL over a store in memory, and the moods of a provider that tests want.
package oidctest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// What Signalbox is to the provider.
const (
	ClientID     = "signalbox"
	ClientSecret = "a secret of the tests"
	Scopes       = "openid profile email offline_access" // the last for a refresh token
)

// User is somebody whom the provider knows.
type User struct {
	Subject, Name, Email string
	Roles                []string // of the realm, as Keycloak has them
}

// Provider is a running provider. Its methods are safe for concurrent use.
type Provider struct {
	URL string // the issuer

	t        testing.TB
	server   *httptest.Server
	redirect []string

	mu        sync.Mutex
	users     map[string]User
	current   string // who is at the keyboard
	down      bool
	age       time.Duration // of access tokens
	keys      []*key        // the last one signs
	requests  map[string]*request
	codes     map[string]string
	sessions  map[string]*session // by refresh token
	refreshes int
	ended     int
}

type key struct {
	id      string
	private *rsa.PrivateKey
}

type session struct {
	id      string
	subject string
	client  string
	scopes  []string
	began   time.Time
}

// New starts a provider that sends people back to the addresses, and ends it
// with the test.
func New(t testing.TB, redirects ...string) *Provider {
	t.Helper()
	p := &Provider{
		t: t, redirect: redirects, users: map[string]User{}, age: 5 * time.Minute,
		requests: map[string]*request{}, codes: map[string]string{}, sessions: map[string]*session{},
	}
	p.RotateKey()
	var handler http.Handler
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(p.server.Close)
	p.URL = p.server.URL
	var cryptoKey [32]byte
	rand.Read(cryptoKey[:])
	provider, err := op.NewProvider(&op.Config{CryptoKey: cryptoKey, CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true},
		p, op.StaticIssuer(p.URL), op.WithAllowInsecure(), op.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", provider)
	mux.Handle("GET /login", op.NewIssuerInterceptor(provider.IssuerFromRequest).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.login(w, r, op.AuthCallbackURL(provider))
	}))
	handler = mux
	return p
}

// login is the page where people say who they are; whoever is at the keyboard
// does it at once.
func (p *Provider) login(w http.ResponseWriter, r *http.Request, back func(context.Context, string) string) {
	id := r.URL.Query().Get("id")
	p.mu.Lock()
	q := p.requests[id]
	if q != nil && p.current != "" {
		q.subject, q.done, q.at, q.session = p.current, true, time.Now(), rand.Text()
	}
	p.mu.Unlock()
	if q == nil || !q.done {
		http.Error(w, "nobody is there", http.StatusForbidden)
		return
	}
	http.Redirect(w, r, back(r.Context(), id), http.StatusFound)
}

// Put adds somebody, or changes them.
func (p *Provider) Put(u User) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users[u.Subject] = u
}

// At puts somebody at the keyboard: the next login is theirs.
func (p *Provider) At(subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = subject
}

// Down makes the provider answer everything with 503, or no more.
func (p *Provider) Down(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// AccessAge is for how long access tokens are good from now on; five minutes at first.
func (p *Provider) AccessAge(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age = d
}

// RotateKey makes the provider sign with a new key. The old ones stay published.
func (p *Provider) RotateKey() {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = append(p.keys, &key{rand.Text(), private})
}

// EndSessions makes all refresh tokens of somebody worthless.
func (p *Provider) EndSessions(subject string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.sessions, func(_ string, s *session) bool { return s.subject == subject })
}

// Refreshes returns how many times the provider was asked for new tokens, and
// how many sessions were ended at its page for that.
func (p *Provider) Refreshes() (refreshes, ended int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshes, p.ended
}

// Sign returns a token of the provider with these claims, over those that every
// access token has; nil leaves one out.
func (p *Provider) Sign(claims map[string]any) string {
	p.t.Helper()
	now := time.Now()
	all := map[string]any{
		"iss": p.URL, "aud": []string{ClientID}, "azp": ClientID, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": rand.Text(), "typ": "Bearer",
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	p.mu.Lock()
	k := p.keys[len(p.keys)-1]
	p.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return token
}

// AccessToken returns an access token of somebody, as a login would give it but
// without a session.
func (p *Provider) AccessToken(subject string) string {
	p.t.Helper()
	p.mu.Lock()
	u := p.users[subject]
	p.mu.Unlock()
	claims := u.claims()
	claims["sub"], claims["sid"] = subject, "script-"+subject
	return p.Sign(claims)
}

// LogoutToken returns a logout token for a session, or with "" for all of the subject.
func (p *Provider) LogoutToken(subject, session string) string {
	p.t.Helper()
	claims := map[string]any{"sub": subject, "typ": "Logout", "azp": nil, "aud": ClientID,
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}
	if session != "" {
		claims["sid"] = session
	}
	return p.Sign(claims)
}

func (u User) claims() map[string]any {
	return map[string]any{"name": u.Name, "email": u.Email, "realm_access": map[string]any{"roles": u.Roles}}
}

// request is a login that was begun.
type request struct {
	*oidc.AuthRequest
	id      string
	subject string
	session string
	done    bool
	at      time.Time
}

func (r *request) GetID() string                      { return r.id }
func (r *request) GetACR() string                     { return "" }
func (r *request) GetAMR() []string                   { return []string{"pwd"} }
func (r *request) GetAudience() []string              { return []string{r.ClientID} }
func (r *request) GetAuthTime() time.Time             { return r.at }
func (r *request) GetClientID() string                { return r.ClientID }
func (r *request) GetNonce() string                   { return r.Nonce }
func (r *request) GetRedirectURI() string             { return r.RedirectURI }
func (r *request) GetResponseType() oidc.ResponseType { return r.ResponseType }
func (r *request) GetResponseMode() oidc.ResponseMode { return r.ResponseMode }
func (r *request) GetScopes() []string                { return r.Scopes }
func (r *request) GetState() string                   { return r.State }
func (r *request) GetSubject() string                 { return r.subject }
func (r *request) Done() bool                         { return r.done }
func (r *request) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: r.CodeChallenge, Method: r.CodeChallengeMethod}
}

func (s *session) GetAMR() []string            { return []string{"pwd"} }
func (s *session) GetAudience() []string       { return []string{s.client} }
func (s *session) GetAuthTime() time.Time      { return s.began }
func (s *session) GetClientID() string         { return s.client }
func (s *session) GetScopes() []string         { return s.scopes }
func (s *session) GetSubject() string          { return s.subject }
func (s *session) SetCurrentScopes(l []string) { s.scopes = l }

// CreateAuthRequest implements op.Storage.
func (p *Provider) CreateAuthRequest(_ context.Context, q *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &request{AuthRequest: q, id: rand.Text()}
	p.requests[r.id] = r
	return r, nil
}

var errUnknown = errors.New("unknown")

// AuthRequestByID implements op.Storage.
func (p *Provider) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.requests[id]; ok {
		return r, nil
	}
	return nil, errUnknown
}

// AuthRequestByCode implements op.Storage.
func (p *Provider) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	p.mu.Lock()
	id := p.codes[code]
	p.mu.Unlock()
	return p.AuthRequestByID(ctx, id)
}

// SaveAuthCode implements op.Storage.
func (p *Provider) SaveAuthCode(_ context.Context, id, code string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.codes[code] = id
	return nil
}

// DeleteAuthRequest implements op.Storage.
func (p *Provider) DeleteAuthRequest(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.requests, id)
	return nil
}

// CreateAccessToken implements op.Storage.
func (p *Provider) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return rand.Text(), time.Now().Add(p.age), nil
}

// CreateAccessAndRefreshTokens implements op.Storage. A refresh token is good once.
func (p *Provider) CreateAccessAndRefreshTokens(_ context.Context, q op.TokenRequest, current string) (id, refresh string, expires time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sessions[current]
	if r, ok := q.(*request); ok {
		s = &session{r.session, r.subject, r.ClientID, r.Scopes, r.at}
	}
	if s == nil {
		return "", "", time.Time{}, op.ErrInvalidRefreshToken
	}
	delete(p.sessions, current)
	refresh = rand.Text()
	p.sessions[refresh] = s
	return rand.Text(), refresh, time.Now().Add(p.age), nil
}

// TokenRequestByRefreshToken implements op.Storage.
func (p *Provider) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refreshes++
	if s, ok := p.sessions[token]; ok {
		return s, nil
	}
	return nil, op.ErrInvalidRefreshToken
}

// TerminateSession implements op.Storage.
func (p *Provider) TerminateSession(_ context.Context, subject, _ string) error {
	p.EndSessions(subject)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	return nil
}

// RevokeToken implements op.Storage.
func (p *Provider) RevokeToken(_ context.Context, token, _, _ string) *oidc.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sessions, token)
	return nil
}

// GetRefreshTokenInfo implements op.Storage.
func (p *Provider) GetRefreshTokenInfo(_ context.Context, _, token string) (subject, id string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.sessions[token]; ok {
		return s.subject, token, nil
	}
	return "", "", op.ErrInvalidRefreshToken
}

func (k *key) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k *key) Algorithm() jose.SignatureAlgorithm          { return jose.RS256 }
func (k *key) Use() string                                 { return "sig" }
func (k *key) ID() string                                  { return k.id }
func (k *key) Key() any                                    { return k.private }

type published struct{ *key }

func (k published) Key() any { return &k.private.PublicKey }

// SigningKey implements op.Storage.
func (p *Provider) SigningKey(context.Context) (op.SigningKey, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys[len(p.keys)-1], nil
}

// SignatureAlgorithms implements op.Storage.
func (p *Provider) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet implements op.Storage.
func (p *Provider) KeySet(context.Context) ([]op.Key, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var keys []op.Key
	for _, k := range p.keys {
		keys = append(keys, published{k})
	}
	return keys, nil
}

// client is Signalbox at the provider.
type client struct{ redirects, after []string }

func (c *client) GetID() string                       { return ClientID }
func (c *client) RedirectURIs() []string              { return c.redirects }
func (c *client) PostLogoutRedirectURIs() []string    { return c.after }
func (c *client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c *client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodPost }
func (c *client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c *client) LoginURL(id string) string            { return "/login?id=" + url.QueryEscape(id) }
func (c *client) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeJWT }
func (c *client) IDTokenLifetime() time.Duration       { return 5 * time.Minute }
func (c *client) DevMode() bool                        { return true } // over plain http
func (c *client) IsScopeAllowed(string) bool           { return false }
func (c *client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c *client) ClockSkew() time.Duration             { return 0 }
func (c *client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}
func (c *client) RestrictAdditionalIdTokenScopes() func([]string) []string     { return slices.Clone }
func (c *client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return slices.Clone }

// GetClientByClientID implements op.Storage.
func (p *Provider) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != ClientID {
		return nil, errUnknown
	}
	c := &client{redirects: p.redirect}
	for _, back := range p.redirect {
		if u, err := url.Parse(back); err == nil {
			c.after = append(c.after, u.Scheme+"://"+u.Host+"/")
		}
	}
	return c, nil
}

// AuthorizeClientIDSecret implements op.Storage.
func (p *Provider) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if id != ClientID || secret != ClientSecret {
		return errUnknown
	}
	return nil
}

// SetUserinfoFromScopes implements op.Storage.
func (p *Provider) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest.
func (p *Provider) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, q op.IDTokenRequest, _ []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.users[q.GetSubject()]
	info.Subject, info.Name, info.Email = q.GetSubject(), u.Name, u.Email
	return nil
}

// SetUserinfoFromToken implements op.Storage.
func (p *Provider) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errUnknown
}

// SetIntrospectionFromToken implements op.Storage.
func (p *Provider) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errUnknown
}

// GetPrivateClaimsFromRequest implements op.CanGetPrivateClaimsFromRequest: what
// Keycloak has in its access tokens beside what the standards say.
func (p *Provider) GetPrivateClaimsFromRequest(_ context.Context, q op.TokenRequest, _ []string) (map[string]any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	claims := p.users[q.GetSubject()].claims()
	claims["azp"], claims["typ"] = ClientID, "Bearer"
	switch q := q.(type) {
	case *request:
		claims["sid"] = q.session
	case *session:
		claims["sid"] = q.id
	}
	return claims, nil
}

// GetPrivateClaimsFromScopes implements op.Storage.
func (p *Provider) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID implements op.Storage.
func (p *Provider) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnknown
}

// ValidateJWTProfileScopes implements op.Storage.
func (p *Provider) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnknown
}

// Health implements op.Storage.
func (p *Provider) Health(context.Context) error { return nil }
