package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/config"
	"signalbox/internal/fleet"
	"signalbox/internal/nats"
	"signalbox/internal/registry"
	"signalbox/internal/web"
)

// brokerRights is what the rights of a device on the embedded broker are made
// from.
type brokerRights struct {
	// verify looks at a token as whoever gave it out does. Errors: access.Deny.
	verify func(ctx context.Context, token string) (fleet.DeviceClaims, error)
	// secret compares a client secret with those that are good, in constant
	// time; nil: only tokens are taken. Errors: access.Deny.
	secret func(ctx context.Context, clientID, secret string) (fleet.DeviceClaims, error)
	// identify finds whose the claims are. Errors: fleet.Unauthenticated for a
	// device that is deleted or revoked.
	identify func(claims fleet.DeviceClaims) (fleet.DeviceRef, error)

	topic    string // LOGSINK_TOPIC
	shared   bool   // a device may publish to it
	expiring bool   // a connection ends with the token it was opened with
}

// openBroker sets how the embedded broker listens and who is let in, and returns
// that for those who show it; nil is no broker. open says that people need no
// login.
func (a *app) openBroker(o *nats.ServerOptions, r brokerRights, open bool) (*web.Broker, error) {
	if a.cfg.MQTTListen == "" {
		return nil, nil
	}
	_, text, err := net.SplitHostPort(a.cfg.MQTTListen)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	if o.MQTTTLS, err = brokerTLS(&a.cfg); err != nil {
		return nil, err
	}
	auth := brokerAuth(&a.cfg, open)
	r.topic, r.shared, r.expiring = a.cfg.LogsinkTopic, sharedLogTopic(&a.cfg, auth), a.cfg.MQTTDisconnectOnExpiry
	switch {
	case auth == "off":
	case auth == "secret" && r.secret == nil:
		return nil, errors.New("MQTT_AUTH: secret is for the built-in issuer of devices' credentials; with another one only token is possible")
	case auth == "token":
		r.secret = nil
		fallthrough
	default:
		o.Authenticate = brokerAuthenticate(r)
	}
	if auth != "off" && o.MQTTTLS == nil && !a.cfg.MQTTLoopback() {
		a.log.Warn("devices' credentials travel unencrypted to the MQTT broker; set MQTT_TLS_CERT and MQTT_TLS_KEY", "address", a.cfg.MQTTListen)
	}
	a.log.Info("who may use the MQTT broker", "auth", auth, "shared_log_topic", r.shared, "tls", o.MQTTTLS != nil)
	return &web.Broker{Auth: auth, Port: port, TLS: o.MQTTTLS != nil, Topic: r.topic, SharedTopic: r.shared}, nil
}

// The topics of devices besides those of the log (docs/OPERATIONS.md).
const (
	updateTopics      = "iotsupport/updates/+"            // what all are told
	configTopic       = "iotsupport/updates/config"       // that one has another config
	provisioningTopic = "iotsupport/updates/provisioning" // that one is to fetch its secret
	telemetryTopic    = "iotsupport/telemetry/%s/#"       // what one measures
	rotationTopic     = "iotsupport/%s/rotation"          // what one is told of its credentials
)

// brokerAuthenticate returns who lets devices in: by a token or, where that is
// set, by a secret, and on their own topics only.
func brokerAuthenticate(r brokerRights) func(context.Context, nats.Login) (nats.Grant, error) {
	return func(ctx context.Context, l nats.Login) (nats.Grant, error) {
		if _, _, ok := fleet.ParseClientID(l.Username); !ok {
			return nats.Grant{}, access.Deny(access.Malformed, fmt.Errorf("the user name %.100q is not a device's client id", l.Username))
		}
		if l.Password == "" {
			return nats.Grant{}, access.Deny(access.Missing, nil)
		}
		claims, byToken, err := r.claims(ctx, l)
		if err != nil {
			return nats.Grant{}, err
		}
		if claims.ClientID != l.Username {
			return nats.Grant{}, access.Deny(access.Foreign, fmt.Errorf("credentials of %s for %s", claims.ClientID, l.Username))
		}
		device, err := r.identify(claims)
		if fleet.KindOf(err) == fleet.Unauthenticated {
			err = access.Deny(access.Revoked, err)
		}
		if err != nil {
			return nats.Grant{}, err
		}
		g := nats.Grant{
			Name:      device.ClientID,
			Publish:   []string{r.topic + "/" + device.ClientID, fmt.Sprintf(telemetryTopic, device.ClientID)},
			Subscribe: []string{updateTopics, fmt.Sprintf(rotationTopic, device.ClientID)},
		}
		if r.shared {
			g.Publish = append(g.Publish, r.topic)
		}
		if byToken && r.expiring {
			g.Until = claims.Expires
		}
		return g, nil
	}
}

// claims returns what the password proves. A token has two dots (RFC 7519,
// section 3.1), which no secret of ours has.
func (r brokerRights) claims(ctx context.Context, l nats.Login) (claims fleet.DeviceClaims, byToken bool, err error) {
	if r.secret != nil && strings.Count(l.Password, ".") != 2 {
		claims, err = r.secret(ctx, l.Username, l.Password)
		return claims, false, err
	}
	claims, err = r.verify(ctx, l.Password)
	return claims, true, err
}

// brokerAuth returns what MQTT_AUTH is in effect: off, token or secret. open
// says that people need no login.
func brokerAuth(cfg *config.Config, open bool) string {
	switch {
	case cfg.MQTTAuth != "auto":
		return cfg.MQTTAuth
	case open && cfg.MQTTLoopback():
		return "off"
	}
	return "token"
}

// sharedLogTopic reports whether devices may publish to the log topic of all.
func sharedLogTopic(cfg *config.Config, auth string) bool {
	return cfg.MQTTSharedLogTopic == "on" || cfg.MQTTSharedLogTopic == "auto" && auth == "off"
}

// brokerTLS returns what the embedded broker's listener speaks; nil is plain MQTT.
func brokerTLS(cfg *config.Config) (*tls.Config, error) {
	if cfg.MQTTTLSCert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cfg.MQTTTLSCert, cfg.MQTTTLSKey)
	if err != nil {
		return nil, fmt.Errorf("MQTT_TLS_CERT and MQTT_TLS_KEY: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// brokerGuard closes the connections of devices that lost the right to them.
type brokerGuard struct {
	server  *nats.Server
	devices *registry.Service
	log     *slog.Logger
	every   time.Duration // brokerSweep
	gone    chan struct{} // has room for one: names has something

	mu    sync.Mutex
	names []string // client ids whose right ended

	closing sync.Mutex        // held while connections are closed and counted
	closed  map[string]recent // what was closed of late, by client id
}

// recent is how many connections were closed, and when last.
type recent struct {
	n  int
	at time.Time
}

// brokerSweep is how often every connection is looked at, for the sake of what
// other processes changed.
const brokerSweep = 10 * time.Second

// newBrokerGuard returns a guard that hears of every change of a device from
// now on. Run must run.
func newBrokerGuard(server *nats.Server, devices *registry.Service, log *slog.Logger) *brokerGuard {
	g := &brokerGuard{server: server, devices: devices, log: log, every: brokerSweep, gone: make(chan struct{}, 1), closed: make(map[string]recent)}
	devices.Observe(func(_ context.Context, ch registry.Change) {
		if ch.Kind == registry.Deleted || ch.Kind == registry.Updated && (ch.After.Revoked || ch.After.ClientID != ch.Before.ClientID) {
			g.end(ch.Before.ClientID)
		}
	})
	return g
}

// end has the connection of a client id closed soon. It does not wait.
func (g *brokerGuard) end(clientID string) {
	g.mu.Lock()
	g.names = append(g.names, clientID)
	g.mu.Unlock()
	select {
	case g.gone <- struct{}{}:
	default: // it is known already that there is something
	}
}

// Run closes connections until ctx ends.
func (g *brokerGuard) Run(ctx context.Context) error {
	tick := time.NewTicker(g.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.gone:
			g.mu.Lock()
			names := g.names
			g.names = nil
			g.mu.Unlock()
			for _, clientID := range names {
				g.close(clientID)
			}
		case <-tick.C:
			g.closing.Lock()
			maps.DeleteFunc(g.closed, func(_ string, r recent) bool { return time.Since(r.at) > brokerSweep }) // who wanted to know has asked by now
			g.closing.Unlock()
			g.sweep(ctx)
		}
	}
}

// sweep looks at every connection.
func (g *brokerGuard) sweep(ctx context.Context) {
	clients := g.server.Clients()
	if len(clients) == 0 {
		return
	}
	if err := g.devices.Sync(ctx); err != nil && ctx.Err() == nil {
		g.log.Warn("whether other processes revoked a device is not known", "err", err)
	}
	for _, clientID := range clients {
		if d, ok := g.devices.Directory().ByClientID(clientID); !ok || d.Revoked {
			g.close(clientID)
		}
	}
}

// close closes what a client id has open, and notes how many connections that were.
func (g *brokerGuard) close(clientID string) {
	g.closing.Lock()
	defer g.closing.Unlock()
	if n := g.server.CloseClient(clientID); n > 0 {
		g.closed[clientID] = recent{g.closed[clientID].n + n, time.Now()}
		g.log.Info("the MQTT connection of a device was closed, as its right to it ended", "client_id", clientID)
	}
}

// CloseSessions closes what the device has open, and returns how many
// connections that were, with those that Run closed just before, when it heard
// of the same or looked at all.
func (g *brokerGuard) CloseSessions(_ context.Context, d fleet.DeviceRef) (int, error) {
	g.close(d.ClientID)
	g.closing.Lock()
	defer g.closing.Unlock()
	n := g.closed[d.ClientID].n
	delete(g.closed, d.ClientID)
	return n, nil
}
