package access

import (
	"context"
	"time"
)

// Provider is an identity provider that speaks OpenID Connect. The errors of
// its methods are those of Deny.
type Provider interface {
	// Verify checks an access token.
	Verify(ctx context.Context, token string) (Claims, error)
	// LoginURL returns where a browser is sent to log in.
	LoginURL(l Login) (string, error)
	// Exchange turns the code that the browser came back with into tokens.
	Exchange(ctx context.Context, code string, l Login) (Tokens, error)
	// Refresh gets new tokens. Many may come at once with the same refresh
	// token: all get the same answer.
	Refresh(ctx context.Context, refresh string) (Tokens, error)
	// VerifyLogout checks a logout token; that its ID is used once is the
	// caller's to see to.
	VerifyLogout(ctx context.Context, token string) (Logout, error)
	// LogoutURL returns where the provider ends its own session and sends the
	// browser to after; "" if it cannot.
	LogoutURL(idToken, after string) string
	// Ready reports whether the provider was found.
	Ready() bool
}

// Claims is what an access token says of who carries it.
type Claims struct {
	Subject  string
	Email    string   // "" if it does not say
	Name     string   // "" if it does not say
	ClientID string   // the client it was given to: azp, or client_id (RFC 9068)
	Session  string   // the provider's name of the session: sid; "" if it does not say
	Roles    []string // sorted: those of the realm and those of the audience
	IssuedAt time.Time
	Expires  time.Time
}

// Login is what the browser must bring back: State and Nonce tie the answer to
// it, Verifier is the secret of PKCE (RFC 7636).
type Login struct {
	State    string
	Nonce    string
	Verifier string
}

// Tokens is what the provider gives at the end of a login, or for a refresh.
type Tokens struct {
	Access  string
	Refresh string // "" if there is none
	ID      string // "" if a refresh brought none
	Claims  Claims // of the access token
}

// Logout is what a logout token ends: a session, or all of a subject's.
type Logout struct {
	Subject string // "" if it names a session only
	Session string // "" if it names a subject only
	ID      string // of the token, which may be used once
	Expires time.Time
}
