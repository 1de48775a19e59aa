package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/oidc"
	"signalbox/internal/secret"
	"signalbox/internal/web"
)

// openIdentity returns how people prove who they are, and what is to be run for
// that. It refuses a configuration that lets everybody in who comes from
// another machine.
func (a *app) openIdentity(ctx context.Context, store access.Store, key string) (*web.Identity, []unit, error) {
	cfg := &a.cfg
	accounts, err := access.New(ctx, access.Options{
		Store: store, Log: a.log, Registerer: a.metrics,
		SessionIdle: time.Duration(cfg.SessionIdle), SessionMax: time.Duration(cfg.SessionMax), AuditMaxAge: time.Duration(cfg.AuditMaxAge),
	})
	if err != nil {
		return nil, nil, err
	}
	if err := checkExposure(cfg, accounts.HasPeople()); err != nil {
		return nil, nil, err
	}
	box, err := secret.NewBox(key, "cookies")
	if err != nil {
		return nil, nil, err
	}
	who := &web.Identity{
		Accounts: accounts, ClientID: cfg.OIDCClientID, BaseURL: cfg.BaseURL, Insecure: len(cfg.Exposed()) > 0,
		Cookies: web.Cookies{
			Access: cfg.OIDCCookieName, Refresh: cfg.OIDCRefreshCookieName, Secure: cfg.CookieSecure(), SameSite: sameSite(cfg.OIDCCookieSameSite),
			Partitioned: cfg.OIDCCookiePartitioned,
		},
		Box: box, RefreshAge: time.Duration(cfg.SessionMax), Proxies: cfg.TrustedProxies,
	}
	units := []unit{{"accounts", accounts.Run}}
	if cfg.OIDCEnabled {
		provider := oidc.New(oidc.Options{
			Issuer: cfg.OIDCIssuerURL, ClientID: cfg.OIDCClientID, ClientSecret: cfg.OIDCClientSecret.Reveal(), Audience: cfg.OIDCAudience,
			Scopes: scopes(cfg.OIDCScopes), RedirectURL: cfg.BaseURL + "/api/auth/callback", Skew: time.Duration(cfg.OIDCClockSkew), Log: a.log,
		})
		who.Provider = provider
		units = append(units, unit{"identity provider", provider.Run})
		return who, units, nil
	}
	if setup := accounts.SetupSecret(); setup != "" {
		// Behind the #, which browsers keep to themselves: no log of a proxy has it.
		a.log.Info("nobody has an account yet, so everybody may do everything; to make the first account, open this address",
			"url", cfg.BaseURL+"/setup#"+setup)
	}
	return who, units, nil
}

func sameSite(word string) http.SameSite {
	switch word {
	case "Strict":
		return http.SameSiteStrictMode
	case "None":
		return http.SameSiteNoneMode
	}
	return http.SameSiteLaxMode
}

// scopes returns those of the setting, and the one that makes it OpenID Connect.
func scopes(text string) []string {
	list := []string{"openid"}
	for _, scope := range strings.Fields(text) {
		if scope != "openid" {
			list = append(list, scope)
		}
	}
	return list
}

// checkExposure refuses listeners that other machines can reach while everybody
// who reaches them may do everything.
func checkExposure(cfg *config.Config, people bool) error {
	if cfg.AllowInsecure || cfg.OIDCEnabled || people {
		return nil
	}
	if found := cfg.Exposed(); len(found) > 0 {
		return fleet.E(fleet.Invalid, errors.Join(found...), "the settings have mistakes")
	}
	return nil
}

// neverRun reports whether there is no database yet, so that nobody can have an
// account.
func neverRun(cfg *config.Config) (bool, error) {
	if cfg.DatabaseURL != "" {
		return false, nil
	}
	_, err := os.Stat(cfg.SQLitePath())
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("DATA_DIR: %w", err)
	}
	return false, nil
}
