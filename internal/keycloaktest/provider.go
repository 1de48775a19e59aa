package keycloaktest

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

const keyID = "stand-in"

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request, _ []byte) {
	at := s.Issuer() + "/protocol/openid-connect/"
	answer(w, map[string]any{
		"issuer": s.Issuer(), "authorization_endpoint": at + "auth", "token_endpoint": at + "token", "jwks_uri": at + "certs",
		"introspection_endpoint": at + "token/introspect", "end_session_endpoint": at + "logout",
		"id_token_signing_alg_values_supported": []string{"RS256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"grant_types_supported": []string{"client_credentials"}, "token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
	})
}

func (s *Server) keys(w http.ResponseWriter, _ *http.Request, _ []byte) {
	answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key().Public(), KeyID: keyID, Algorithm: string(jose.RS256), Use: "sig"}}})
}

// authenticated returns the client that a request at the token endpoint is from,
// with its secret in the body or in the header (RFC 6749, section 2.3.1).
func (s *Server) authenticated(r *http.Request, form url.Values) *Client {
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	for _, c := range s.clients {
		same := func(good string) bool {
			return good != "" && subtle.ConstantTimeCompare([]byte(good), []byte(secret)) == 1
		}
		if c.ClientID == id && c.Enabled && !c.Public && (same(c.Secret) || same(c.Old)) {
			return c
		}
	}
	return nil
}

func refuse(w http.ResponseWriter, status int, word string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": word, "error_description": "Refused by the stand-in"})
}

func (s *Server) token(w http.ResponseWriter, r *http.Request, body []byte) {
	issuer := s.Issuer()
	s.mu.Lock()
	defer s.mu.Unlock()
	form, err := url.ParseQuery(string(body))
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request")
		return
	}
	c := s.authenticated(r, form)
	switch {
	case c == nil:
		refuse(w, http.StatusUnauthorized, "unauthorized_client")
		return
	case form.Get("grant_type") != "client_credentials":
		refuse(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	case !c.ServiceAccount:
		refuse(w, http.StatusUnauthorized, "unauthorized_client")
		return
	}
	reply := func(token string) {
		w.Header().Set("Cache-Control", "no-store")
		answer(w, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(s.life().Seconds()), "not-before-policy": 0, "scope": "profile email"})
	}
	if c.ClientID == AdminID { // a token that only the Admin API reads; to sign it takes time
		token := rand.Text()
		s.admins[token] = time.Now().Add(s.life())
		reply(token)
		return
	}
	audience := []string{"account"}
	if slices.Contains(c.Default, DeviceScope) {
		if s.Audience != "" {
			audience = append(audience, s.Audience)
		} else {
			audience = append(audience, "signalbox")
		}
	}
	resources := map[string]any{}
	for client, roles := range c.ClientRoles {
		resources[client] = map[string]any{"roles": roles}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key(), KeyID: keyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		panic(err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": issuer, "sub": "service-account-of-" + c.UUID, "aud": audience, "azp": c.ClientID, "client_id": c.ClientID, "typ": "Bearer", "jti": uuid.NewString(),
		"iat": now.Unix(), "exp": now.Add(s.life()).Unix(), "realm_access": map[string]any{"roles": append([]string{"default-roles"}, c.RealmRoles...)},
		"resource_access": resources, "scope": "profile email", "preferred_username": "service-account-" + c.ClientID,
	}).Serialize()
	if err != nil {
		panic(err)
	}
	reply(token)
}

// introspect says of a token whether it is good: it is not when its client is
// disabled or gone (RFC 7662).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	form, err := url.ParseQuery(string(body))
	if err != nil || s.authenticated(r, form) == nil {
		refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	active := false
	var claims struct {
		Client string `json:"azp"`
	}
	if parsed, err := jwt.ParseSigned(form.Get("token"), []jose.SignatureAlgorithm{jose.RS256}); err == nil && good(form.Get("token")) && parsed.Claims(key().Public(), &claims) == nil {
		for _, c := range s.clients {
			active = active || c.ClientID == claims.Client && c.Enabled
		}
	}
	answer(w, map[string]any{"active": active})
}

// good reports whether a token has not ended.
func good(token string) bool {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return false
	}
	var c jwt.Claims
	return parsed.Claims(key().Public(), &c) == nil && c.Expiry != nil && time.Now().Before(c.Expiry.Time())
}
