package local

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/crypto"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// The paths of the issuer, below its URL.
const (
	DiscoveryPath = oidc.DiscoveryEndpoint // GET
	KeysPath      = "/oauth/keys"          // GET
	TokenPath     = "/oauth/token"         // POST
)

const (
	maxBody = 16 << 10 // bytes of a request for a token

	// What an assertion may be: no older, and good for no longer, so that the
	// list of those that were used stays short.
	maxAssertionAge  = 10 * time.Minute
	maxAssertionLife = 10 * time.Minute
	maxAssertions    = 100 // of one client that are remembered at once
)

// Handler answers the three paths.
func (i *Issuer) Handler() http.Handler { return i.handler }

// exchange is one request for a token on its way.
type exchange struct {
	address string
	header  http.Header // of the answer
	status  string      // label of the metric
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	if e, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return e
	}
	return &exchange{header: make(http.Header)}
}

func (i *Issuer) newHandler() (http.Handler, error) {
	dummy, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	// Every endpoint that is not named here does not exist.
	endpoints := op.Endpoints{Token: op.NewEndpoint(TokenPath), JwksURI: op.NewEndpoint(KeysPath)}
	inner := op.RegisterServer(&server{issuer: i, dummy: dummy.Public()}, endpoints, op.WithServerCORSOptions(nil))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != TokenPath {
			w.Header().Set("Cache-Control", "public, max-age=300")
			inner.ServeHTTP(w, r)
			return
		}
		e := &exchange{address: i.address(r), header: w.Header(), status: "invalid_request"}
		defer func() { i.tokens.WithLabelValues(e.status).Inc() }()
		w.Header().Set("Cache-Control", "no-store") // RFC 6749, section 5.1
		w.Header().Set("Pragma", "no-cache")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := checkRequest(r); err != nil {
			op.WriteError(w, r, err, nil)
			return
		}
		inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e)))
	}), nil
}

// checkRequest refuses what the library would let pass: credentials in the URL
// (RFC 6749, section 2.3.1), parameters that come twice (section 3.2), and
// grants that are not ours.
func checkRequest(r *http.Request) error {
	if r.Method != http.MethodPost {
		return op.NewStatusError(oidc.ErrInvalidRequest().WithDescription("the method must be POST"), http.StatusMethodNotAllowed)
	}
	if r.URL.RawQuery != "" {
		return oidc.ErrInvalidRequest().WithDescription("parameters must not be in the URL")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return oidc.ErrInvalidRequest().WithDescription("the body must be application/x-www-form-urlencoded")
	}
	if err := r.ParseForm(); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return op.NewStatusError(oidc.ErrInvalidRequest().WithDescription("the body is over %d bytes", maxBody), http.StatusRequestEntityTooLarge)
		}
		return oidc.ErrInvalidRequest().WithDescription("the body cannot be read")
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return oidc.ErrInvalidRequest().WithDescription("the parameter %.40q comes more than once", name)
		}
	}
	switch grant := r.PostForm.Get("grant_type"); grant {
	case string(oidc.GrantTypeClientCredentials), "": // the library has the answer to the latter
		return nil
	default:
		return oidc.ErrUnsupportedGrantType().WithDescription("only client_credentials is supported")
	}
}

func (i *Issuer) address(r *http.Request) string {
	if i.opts.Address != nil {
		return i.opts.Address(r)
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// server is the library's view of the issuer. Methods of op.Server that are not
// here answer that there is no such thing.
type server struct {
	op.UnimplementedServer
	issuer *Issuer
	dummy  any // the public key of clients that are not there
}

// discovery is the document of OpenID Connect Discovery 1.0, section 3. There
// are no response types, as nobody logs in; the list is required nevertheless.
type discovery struct {
	*oidc.DiscoveryConfiguration
	ResponseTypes []string `json:"response_types_supported"`
}

// Discovery implements op.Server.
func (s *server) Discovery(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	url := s.issuer.opts.URL
	return op.NewResponse(discovery{&oidc.DiscoveryConfiguration{
		Issuer:                            url,
		TokenEndpoint:                     url + TokenPath,
		JwksURI:                           url + KeysPath,
		GrantTypesSupported:               []oidc.GrantType{oidc.GrantTypeClientCredentials},
		SubjectTypesSupported:             []string{"public"},
		IDTokenSigningAlgValuesSupported:  []string{string(algorithm)},
		TokenEndpointAuthMethodsSupported: []oidc.AuthMethod{oidc.AuthMethodPost, oidc.AuthMethodBasic, oidc.AuthMethodPrivateKeyJWT},
		TokenEndpointAuthSigningAlgValuesSupported: []string{string(jose.RS256), string(jose.PS256), string(jose.ES256)},
		ClaimsSupported: []string{"iss", "sub", "azp", "aud", "iat", "exp", "jti", "cred"},
	}, []string{}}), nil
}

// Keys implements op.Server.
func (s *server) Keys(context.Context, *op.Request[struct{}]) (*op.Response, error) {
	return op.NewResponse(s.issuer.published()), nil
}

// VerifyClient implements op.Server: it authenticates a client by its secret
// (RFC 6749, section 2.3.1) or an assertion (RFC 7523, section 2.2). One that is
// not there, not enabled or not who it says gets one and the same answer.
func (s *server) VerifyClient(ctx context.Context, r *op.Request[op.ClientCredentials]) (op.Client, error) {
	e := exchangeOf(ctx)
	given := r.Data
	id := given.ClientID
	var assertion *oidc.JWTTokenRequest
	if given.ClientAssertion != "" {
		assertion = new(oidc.JWTTokenRequest)
		if _, err := oidc.ParseToken(given.ClientAssertion, assertion); err != nil {
			return nil, s.refuse(ctx, e, pair{"", e.address}, err) // nobody's, so the address alone counts
		}
		if id == "" {
			id = assertion.Issuer
		}
	}
	p := pair{id, e.address}
	if _, _, ok := fleet.ParseClientID(id); !ok {
		p.client = "" // invented names must not fill the memory
	}
	if wait := s.issuer.limits.wait(p); wait > 0 {
		e.status = "limited"
		e.header.Set("Retry-After", strconv.Itoa(int(wait.Seconds()+1)))
		return nil, op.NewStatusError(oidc.ErrSlowDown().WithDescription("too many attempts with wrong credentials"), http.StatusTooManyRequests)
	}
	var c *client
	var cred string
	var said time.Time
	if assertion == nil {
		c, cred = s.issuer.proveSecret(ctx, id, given.ClientSecret)
	} else {
		var err error
		s.issuer.recheck(ctx, func() bool {
			c, cred, err = s.proveAssertion(ctx, id, given.ClientAssertion, assertion)
			return err != nil
		})
		if err != nil {
			if kind := fleet.KindOf(err); kind == fleet.Unavailable || ctx.Err() != nil {
				e.status = "error"
				return nil, op.NewStatusError(oidc.ErrServerError().WithParent(err).WithDescription("try again later"), http.StatusServiceUnavailable)
			}
			return nil, s.refuse(ctx, e, p, err)
		}
		if assertion.IssuedAt > 0 { // it is the one that was verified
			said = assertion.IssuedAt.AsTime()
		}
	}
	if cred == "" || !c.Enabled {
		return nil, s.refuse(ctx, e, p, nil)
	}
	return &caller{client: c, cred: cred, said: said, method: oidc.AuthMethodPost}, nil
}

// refuse notes a wrong guess and returns its answer.
func (s *server) refuse(ctx context.Context, e *exchange, p pair, cause error) error {
	s.issuer.limits.wrong(p)
	s.issuer.opts.Log.WarnContext(ctx, "a device was refused a token", "client_id", p.client, "address", p.address, "err", cause)
	e.status = "invalid_client"
	e.header.Set("WWW-Authenticate", `Basic realm="signalbox devices"`) // RFC 6749, section 5.2
	return op.NewStatusError(oidc.ErrInvalidClient().WithParent(cause).WithDescription("unknown client or wrong credentials"), http.StatusUnauthorized)
}

// proveAssertion checks an assertion (RFC 7523, section 3) and returns the
// client and the name of its key.
func (s *server) proveAssertion(ctx context.Context, id, text string, unverified *oidc.JWTTokenRequest) (*client, string, error) {
	url := s.issuer.opts.URL
	audience := url
	for _, a := range unverified.Audience {
		if a == url+TokenPath || a == s.issuer.opts.TokenURL && a != "" {
			audience = a
		}
	}
	c := s.issuer.client(id)
	keys := &assertionKey{key: s.dummy}
	if c != nil && c.public != nil {
		keys.key, keys.algorithm = c.public.Key, c.public.Algorithm
	}
	verifier := op.NewJWTProfileVerifierKeySet(keys, audience, maxAssertionAge, s.issuer.opts.Skew)
	claims, err := op.VerifyJWTAssertion(ctx, text, verifier)
	if err != nil {
		return nil, "", err
	}
	now := s.issuer.opts.Now()
	expires := claims.ExpiresAt.AsTime()
	switch {
	case c == nil || c.public == nil || claims.Issuer != id:
		return nil, "", errors.New("an assertion of somebody else")
	case claims.JWTID == "":
		return nil, "", errors.New("an assertion without jti")
	case expires.After(now.Add(maxAssertionLife + s.issuer.opts.Skew)):
		return nil, "", fmt.Errorf("an assertion that is good for longer than %s", maxAssertionLife)
	}
	// Kept by its hash, so that it takes the same room however long it is.
	sum := sha256.Sum256([]byte(claims.JWTID))
	err = s.issuer.use(ctx, id, base64.RawURLEncoding.EncodeToString(sum[:]), expires.Add(s.issuer.opts.Skew), now)
	if err != nil {
		return nil, "", err
	}
	return c, c.public.cred, nil
}

// assertionKey is the key that an assertion must be signed with.
type assertionKey struct {
	key       any
	algorithm string // the only one that the key is for; "" is any that fits
}

// VerifySignature implements oidc.KeySet.
func (k *assertionKey) VerifySignature(_ context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	if k.algorithm != "" && jws.Signatures[0].Header.Algorithm != k.algorithm {
		return nil, errors.New("the key is for another algorithm")
	}
	return jws.Verify(k.key)
}

// ClientCredentialsExchange implements op.Server: it mints a token.
func (s *server) ClientCredentialsExchange(ctx context.Context, r *op.ClientRequest[oidc.ClientCredentialsRequest]) (*op.Response, error) {
	e := exchangeOf(ctx)
	c, ok := r.Client.(*caller)
	if !ok {
		e.status = "error"
		return nil, oidc.ErrServerError()
	}
	token, err := s.issuer.mint(c.client, c.cred)
	if err != nil {
		e.status = "error"
		return nil, op.NewStatusError(oidc.ErrServerError().WithParent(err).WithDescription("try again later"), http.StatusServiceUnavailable)
	}
	if s.issuer.opts.Minted != nil {
		s.issuer.opts.Minted(c.ID, c.said)
	}
	e.status = "issued"
	return op.NewResponse(&oidc.AccessTokenResponse{
		AccessToken: token, TokenType: oidc.BearerToken, ExpiresIn: uint64(s.issuer.opts.Lifetime / time.Second),
	}), nil
}

// mint returns a token for a client that proved to have the credential.
func (i *Issuer) mint(c *client, cred string) (string, error) {
	now := i.opts.Now()
	k, err := i.signing(now)
	if err != nil {
		return "", err
	}
	issued := now
	if from := i.past(c.NotBefore, now); issued.Before(from) { // disabled and enabled again within a second
		issued = from
	}
	return crypto.Sign(claims{
		Issuer: i.opts.URL, Subject: c.ID, Azp: c.ID, Audience: i.opts.Audience,
		IssuedAt: issued.Unix(), Expires: now.Add(i.opts.Lifetime).Unix(), ID: secret.NewText()[:22], Cred: cred,
	}, k.signer)
}

// caller is op.Client for a device that proved who it is. Of what the library
// asks of a client most is about logins, which devices do not have.
type caller struct {
	*client
	cred   string
	said   time.Time // what its clock showed; zero: it did not sign that
	method oidc.AuthMethod
}

var _ op.Client = (*caller)(nil)

// GetID implements op.Client.
func (c *caller) GetID() string { return c.ID }

// AuthMethod implements op.Client.
func (c *caller) AuthMethod() oidc.AuthMethod { return c.method }

// GrantTypes implements op.Client.
func (c *caller) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeClientCredentials}
}

// AccessTokenType implements op.Client.
func (c *caller) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// ApplicationType implements op.Client.
func (c *caller) ApplicationType() op.ApplicationType { return op.ApplicationTypeNative }

// RedirectURIs implements op.Client.
func (c *caller) RedirectURIs() []string { return nil }

// PostLogoutRedirectURIs implements op.Client.
func (c *caller) PostLogoutRedirectURIs() []string { return nil }

// ResponseTypes implements op.Client.
func (c *caller) ResponseTypes() []oidc.ResponseType { return nil }

// LoginURL implements op.Client.
func (c *caller) LoginURL(string) string { return "" }

// IDTokenLifetime implements op.Client.
func (c *caller) IDTokenLifetime() time.Duration { return 0 }

// DevMode implements op.Client.
func (c *caller) DevMode() bool { return false }

// RestrictAdditionalIdTokenScopes implements op.Client.
func (c *caller) RestrictAdditionalIdTokenScopes() func([]string) []string { return noScopes }

// RestrictAdditionalAccessTokenScopes implements op.Client.
func (c *caller) RestrictAdditionalAccessTokenScopes() func([]string) []string { return noScopes }

func noScopes([]string) []string { return nil }

// IsScopeAllowed implements op.Client.
func (c *caller) IsScopeAllowed(string) bool { return false }

// IDTokenUserinfoClaimsAssertion implements op.Client.
func (c *caller) IDTokenUserinfoClaimsAssertion() bool { return false }

// ClockSkew implements op.Client.
func (c *caller) ClockSkew() time.Duration { return 0 }
