package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/oidc"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// deviceAudience is whom the tokens of devices are for where no setting says so.
const deviceAudience = "signalbox"

// openDevices returns the registry and how devices prove who they are, and what
// is to be run for that. Their credentials are in Keycloak where the settings
// say so, and else here. who is how people do.
func (a *app) openDevices(ctx context.Context, db *sqlstore.DB, key string, who *web.Identity) (*registry.Service, web.Devices, []unit, error) {
	fail := func(err error) (*registry.Service, web.Devices, []unit, error) { return nil, web.Devices{}, nil, err }
	cfg := &a.cfg
	how := web.Devices{
		Open: func() bool { return who.Provider == nil && !who.Accounts.HasPeople() }, TokenURL: cfg.DeviceTokenURL(),
		BaseURL: cfg.DeviceBaseURL, MQTTURL: cfg.DeviceMQTTURL, WiFiSSID: cfg.WiFiSSID, WiFiPassword: cfg.WiFiPassword.Reveal(),
	}
	var issuer registry.Issuer
	var units []unit
	if cfg.Keycloak() {
		realm, err := a.openKeycloak()
		if err != nil {
			return fail(err)
		}
		provider := who.Provider
		if provider == nil {
			p := oidc.New(oidc.Options{Issuer: cfg.DeviceIssuer(), ClientID: deviceAudience, Audience: cfg.OIDCAudience, Skew: time.Duration(cfg.OIDCClockSkew), Log: a.log})
			provider, units = p, append(units, unit{"issuer of device tokens", p.Run})
		}
		issuer, a.rotating, how.Verify = realm, realm, verifyAt(provider)
	} else {
		box, err := secret.NewBox(key, "device credentials")
		if err != nil {
			return fail(err)
		}
		slog.SetDefault(slog.New(demoted{a.log.Handler()})) // see there
		here, err := local.New(ctx, local.Options{
			Store: db, Box: box, Log: a.log, URL: cfg.BaseURL, TokenURL: cfg.DeviceTokenURL(), Audience: cmp.Or(cfg.OIDCAudience, deviceAudience),
			Lifetime: time.Duration(cfg.DeviceTokenLifetime), Registerer: a.metrics, Address: who.Address,
			Minted: func(clientID string, said time.Time) { // both are there before the first request is
				a.presence.Minted(clientID, said)
				a.reminders.heard(clientID)
			},
		})
		if err != nil {
			return fail(err)
		}
		issuer, a.rotating, units = here, here, append(units, unit{"issuer of device tokens", here.Run})
		how.Verify, how.Issuer, how.SetPublicKey = here.Verify, here.Handler(), here.SetPublicKey
		a.deviceSecret = here.VerifySecret
	}
	devices, err := registry.New(ctx, db, a.log, registry.WithIssuer(issuer), registry.WithMetrics(a.metrics))
	if err != nil {
		return fail(err)
	}
	return devices, how, append(units, unit{"clients of devices", devices.Run}), nil
}

// verifyAt returns what checks the token of a device that a provider gave it.
// Such a token does not name the secret that it was obtained with.
func verifyAt(provider access.Provider) func(context.Context, string) (fleet.DeviceClaims, error) {
	return func(ctx context.Context, token string) (fleet.DeviceClaims, error) {
		c, err := provider.Verify(ctx, token)
		if err != nil {
			return fleet.DeviceClaims{}, err
		}
		if c.ClientID == "" {
			return fleet.DeviceClaims{}, access.Deny(access.Incomplete, errors.New("the token does not say which client it was given to"))
		}
		return fleet.DeviceClaims{ClientID: c.ClientID, IssuedAt: c.IssuedAt, Expires: c.Expires}, nil
	}
}

// demoted logs as debug whatever comes. The library of the issuer writes every
// request that it refuses to the default logger, as a warning: whoever sends
// requests could fill the log. What of it matters the issuer logs itself.
type demoted struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
