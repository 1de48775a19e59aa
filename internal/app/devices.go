package app

import (
	"context"
	"log/slog"
	"time"

	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// deviceAudience is whom the tokens of devices are for.
const deviceAudience = "signalbox"

// openDevices returns the registry and how devices prove who they are, and what
// is to be run for that. open reports whether nobody has to log in.
func (a *app) openDevices(ctx context.Context, db *sqlstore.DB, key string, open func() bool) (*registry.Service, web.Devices, []unit, error) {
	fail := func(err error) (*registry.Service, web.Devices, []unit, error) { return nil, web.Devices{}, nil, err }
	cfg := &a.cfg
	box, err := secret.NewBox(key, "device credentials")
	if err != nil {
		return fail(err)
	}
	slog.SetDefault(slog.New(demoted{a.log.Handler()})) // see there
	issuer, err := local.New(ctx, local.Options{
		Store: db, Box: box, Log: a.log, URL: cfg.BaseURL, TokenURL: cfg.DeviceTokenURL(), Audience: deviceAudience,
		Lifetime: time.Duration(cfg.DeviceTokenLifetime), Registerer: a.metrics,
	})
	if err != nil {
		return fail(err)
	}
	devices, err := registry.New(ctx, db, a.log, registry.WithIssuer(issuer), registry.WithMetrics(a.metrics))
	if err != nil {
		return fail(err)
	}
	a.deviceSecret = issuer.VerifySecret
	return devices, web.Devices{
			Verify: issuer.Verify, Open: open, Issuer: issuer.Handler(), SetPublicKey: issuer.SetPublicKey,
			TokenURL: cfg.DeviceTokenURL(), BaseURL: cfg.DeviceBaseURL, MQTTURL: cfg.DeviceMQTTURL,
			WiFiSSID: cfg.WiFiSSID, WiFiPassword: cfg.WiFiPassword.Reveal(),
		}, []unit{
			{"issuer of device tokens", issuer.Run},
			{"clients of devices", devices.Run},
		}, nil
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
