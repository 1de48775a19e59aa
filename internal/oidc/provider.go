// Package oidc lets people log in at an OpenID provider, and verifies the
// tokens that it gives to them and to devices.
package oidc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"signalbox/internal/access"
)

// timeout bounds one request to the provider.
const timeout = 10 * time.Second

// Options say which provider, and who we are to it.
type Options struct {
	Issuer       string // a slash at its end may be there or not
	ClientID     string
	ClientSecret string
	Audience     string        // that an access token must be for; "" is ClientID
	Scopes       []string      // openid is always among them
	RedirectURL  string        // where the provider sends people back to
	Skew         time.Duration // by which clocks may differ
	Client       *http.Client  // nil is one with a time limit
	Now          func() time.Time
	Log          *slog.Logger
}

// Provider is an OpenID provider. It need not be there when Signalbox starts,
// and may go away: what it has published is kept, and tokens that it has given
// are verified with that.
type Provider struct {
	opts  Options
	found atomic.Pointer[discovered]
	again refreshes
}

// discovered is what the provider says of itself.
type discovered struct {
	issuer string // as the tokens have it
	oauth  oauth2.Config
	keys   *keySet
	end    string // end_session_endpoint; "" if there is none
}

// New returns a provider that is yet to be found, by Run.
func New(o Options) *Provider {
	o.Audience = cmp.Or(o.Audience, o.ClientID)
	if o.Client == nil {
		o.Client = &http.Client{Timeout: timeout}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Provider{opts: o}
	p.again.now = o.Now
	return p
}

// Run finds the provider, again and again until that succeeds, and returns when
// ctx ends. It looks again every hour, so that what moves is followed.
func (p *Provider) Run(ctx context.Context) error {
	const first, most, hourly = time.Second, time.Minute, time.Hour
	wait := first
	for {
		err := p.discover(ctx)
		switch {
		case err == nil:
			wait = hourly
		case ctx.Err() != nil:
			return nil
		default:
			if wait == hourly {
				wait = first
			}
			p.opts.Log.Warn("the identity provider cannot be asked", "issuer", p.opts.Issuer, "again_in", wait, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if err != nil {
			wait = min(2*wait, most)
		}
	}
}

// Ready reports whether the provider was found.
func (p *Provider) Ready() bool { return p.found.Load() != nil }

// discover reads the provider's configuration (OpenID Connect Discovery 1.0,
// section 4) and its keys.
func (p *Provider) discover(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, p.opts.Client), timeout)
	defer cancel()
	// Some providers end their name with a slash, and settings of the reference
	// system have it without: the name is compared here, the slash aside.
	provider, err := oidc.NewProvider(oidc.InsecureIssuerURLContext(ctx, p.opts.Issuer), p.opts.Issuer)
	if err != nil {
		return err
	}
	var more struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
		End    string `json:"end_session_endpoint"`
	}
	if err := provider.Claims(&more); err != nil {
		return err
	}
	if strings.TrimSuffix(more.Issuer, "/") != strings.TrimSuffix(p.opts.Issuer, "/") {
		return fmt.Errorf("it calls itself %q", more.Issuer)
	}
	endpoint := provider.Endpoint()
	if endpoint.AuthURL == "" || endpoint.TokenURL == "" || more.Keys == "" {
		return errors.New("its configuration lacks an endpoint")
	}
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	d := &discovered{
		issuer: more.Issuer,
		oauth: oauth2.Config{
			ClientID: p.opts.ClientID, ClientSecret: p.opts.ClientSecret, Endpoint: endpoint, RedirectURL: p.opts.RedirectURL, Scopes: p.opts.Scopes,
		},
		keys: &keySet{url: more.Keys, client: p.opts.Client, now: p.opts.Now},
		end:  more.End,
	}
	if old := p.found.Load(); old != nil && old.keys.url == d.keys.url {
		d.keys = old.keys // with what it knows
	}
	first := p.found.Swap(d) == nil
	if first {
		p.opts.Log.Info("the identity provider is there", "issuer", p.opts.Issuer)
	}
	return nil
}

// keys returns those that may have signed a token.
func (p *Provider) keys(ctx context.Context, kid string) (keys []jose.JSONWebKey, err error) {
	d := p.found.Load()
	if d == nil {
		return nil, access.Deny(access.Unreachable, nil)
	}
	return d.keys.find(ctx, kid)
}

// LogoutURL returns where the provider ends its own session (OpenID Connect
// RP-Initiated Logout 1.0) and sends the browser to after; "" if it cannot.
func (p *Provider) LogoutURL(idToken, after string) string {
	d := p.found.Load()
	if d == nil || d.end == "" {
		return ""
	}
	u, err := url.Parse(d.end)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", p.opts.ClientID)
	q.Set("post_logout_redirect_uri", after)
	if idToken != "" {
		q.Set("id_token_hint", idToken)
	}
	u.RawQuery = q.Encode()
	return u.String()
}
