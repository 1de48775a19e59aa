package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// Login is what somebody says of themselves in an MQTT CONNECT packet
// (MQTT 3.1.1, section 3.1).
type Login struct {
	ClientID string // the MQTT client id; one that the server made up if there was none
	Username string // never ""
	Password string // "" if there was none
	Address  string // IP address
}

// Grant is what somebody who proved who they are may do. Topics are MQTT topic
// filters (MQTT 3.1.1, section 4.7): nothing but what they match is allowed,
// and a subscription must not be wider than one of them.
type Grant struct {
	Name      string    // the MQTT client id under which they may connect
	Publish   []string  // of wills and retained messages, too
	Subscribe []string  // of sessions that were kept from before, too
	Until     time.Time // the connection is closed then; zero: it may stay
}

// authenticateTimeout bounds the look at one login.
const authenticateTimeout = 10 * time.Second

// inProcess is the name that this process's own connections give.
const inProcess = "signalbox"

// watcher is the user name of that one which hears the server's own events.
const watcher = "signalbox-watcher"

// gate decides who may connect. Devices wait outside until the log topics have
// somebody who answers for them.
type gate struct {
	secret       string
	authenticate func(context.Context, Login) (Grant, error) // nil: everybody may do everything
	log          *slog.Logger
	refused      *prometheus.CounterVec
	closed       prometheus.Counter
	throttle     *throttle
	nats         *server.Server
	open         atomic.Bool

	ctx  context.Context // of the server's life: those who wait leave when it ends
	stop context.CancelFunc

	mu       sync.Mutex
	sessions map[string]map[uint64]*session // by client id and number of the connection
}

// session is a connection that is being let in, or was.
type session struct{ cut bool } // closed by CloseClient; guarded by gate.mu

func newGate(o ServerOptions, secret string) *gate {
	g := &gate{
		secret: secret, authenticate: o.Authenticate, log: o.Log, throttle: newThrottle(time.Now),
		sessions: map[string]map[uint64]*session{},
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "iot_mqtt_connections_refused_total", Help: "Connections to the embedded MQTT broker that were refused, by reason.",
		}, []string{"reason"}),
		closed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "iot_mqtt_connections_closed_total", Help: "Connections to the embedded MQTT broker that were closed because the right to them ended.",
		}),
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	if o.Registerer != nil {
		o.Registerer.MustRegister(g.refused, g.closed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "iot_mqtt_connections_delayed", Help: "Refused connections to the embedded MQTT broker that wait for their answer.",
		}, func() float64 { return float64(g.throttle.delayed()) }))
	}
	return g
}

// Check implements server.Authentication. It runs on the goroutine of its
// connection, so that whoever waits here keeps nobody else waiting.
func (g *gate) Check(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	if c.RemoteAddress().Network() == "pipe" {
		if !secret.Equal(opts.Password, g.secret) {
			return false
		}
		if opts.Username == watcher {
			c.RegisterUser(&server.User{Username: watcher, Account: g.nats.SystemAccount()})
		}
		return true
	}
	if !g.open.Load() {
		g.refused.WithLabelValues("not_ready").Inc()
		return false
	}
	if opts.Username == inProcess && secret.Equal(opts.Password, g.secret) { // see outlet
		c.RegisterUser(&server.User{Username: inProcess, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: reserved},
			Subscribe: &server.SubjectPermission{Deny: []string{">"}},
		}})
		return true
	}
	if g.authenticate == nil {
		c.RegisterUser(&server.User{Username: opts.Username, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Deny: reserved},
			Subscribe: &server.SubjectPermission{Deny: reserved},
		}})
		return true
	}
	l := Login{Username: opts.Username, Password: opts.Password, Address: c.RemoteAddress().String()}
	if host, _, err := net.SplitHostPort(l.Address); err == nil {
		l.Address = host
	}
	if !g.throttle.look(l.Address, l.Username) {
		g.refused.WithLabelValues("throttled").Inc()
		return false
	}
	user, err := g.enter(c.GetID(), l)
	if err == nil {
		g.throttle.good(l.Address, l.Username)
		c.RegisterUser(user)
		return true
	}
	reason := reasonOf(err)
	g.refused.WithLabelValues(reason).Inc()
	var wait time.Duration
	often := 1
	if fleet.KindOf(err) == fleet.Unauthenticated || fleet.KindOf(err) == fleet.Forbidden { // else it is no fault of theirs
		var leave func()
		wait, often, leave = g.throttle.bad(l.Address, l.Username)
		defer leave()
	}
	if often&(often-1) == 0 { // the first, the second, the fourth ...
		g.log.Warn("an MQTT connection was refused", "reason", reason, "username", brief(l.Username), "client_id", brief(l.ClientID), "address", l.Address, "times", often, "err", err)
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.ctx.Done():
		}
	}
	return false
}

// errMismatch is the cause of the error for a login under another's client id.
var errMismatch = errors.New("the MQTT client id is another's")

// reasonOf returns the metric's label for why a login failed.
func reasonOf(err error) string {
	if errors.Is(err, errMismatch) {
		return "client_id"
	}
	if r, ok := access.ReasonOf(err); ok {
		return r.String()
	}
	return fleet.KindOf(err).String()
}

// brief returns what the log shows of a text that anybody may have sent.
func brief(s string) string { return s[:min(len(s), 100)] }

// enter returns with what rights a connection is let in. From before the look
// at the login, CloseClient finds the connection: a device that is revoked in
// this very moment is not let in.
func (g *gate) enter(id uint64, l Login) (*server.User, error) {
	if l.Username == "" {
		return nil, access.Deny(access.Missing, nil)
	}
	var err error
	if l.ClientID, err = g.clientID(id); err != nil {
		return nil, err
	}
	s := g.arrive(l.ClientID, id)
	ctx, cancel := context.WithTimeout(g.ctx, authenticateTimeout)
	defer cancel()
	grant, err := g.authenticate(ctx, l)
	if err == nil && grant.Name != l.ClientID {
		err = fleet.E(fleet.Forbidden, errMismatch, "The MQTT client id must be the client id that the credentials are for")
	}
	user := &server.User{Username: l.Username, ConnectionDeadline: grant.Until, Permissions: &server.Permissions{}}
	if err == nil {
		user.Permissions.Publish, err = permission(grant.Publish)
	}
	if err == nil {
		user.Permissions.Subscribe, err = permission(grant.Subscribe)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil && s.cut {
		err = access.Deny(access.Revoked, nil)
	}
	if err != nil {
		g.leaveLocked(l.ClientID, id)
		return nil, err
	}
	return user, nil
}

// clientID returns the MQTT client id of a connection. The server shows it to
// authenticators only by way of its monitoring.
func (g *gate) clientID(id uint64) (string, error) {
	z, err := g.nats.Connz(&server.ConnzOptions{CID: id, State: server.ConnOpen})
	if err != nil {
		return "", err
	}
	if len(z.Conns) != 1 {
		return "", fleet.E(fleet.Unavailable, nil, "The connection is gone")
	}
	return z.Conns[0].MQTTClient, nil
}

// arrive notes a connection, and forgets those of its client id that are gone.
func (g *gate) arrive(clientID string, id uint64) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := g.sessions[clientID]
	if all == nil {
		all = map[uint64]*session{}
		g.sessions[clientID] = all
	}
	g.pruneLocked(clientID)
	s := &session{}
	all[id] = s
	g.sessions[clientID] = all // pruning may have taken it away
	return s
}

func (g *gate) leaveLocked(clientID string, id uint64) {
	delete(g.sessions[clientID], id)
	if len(g.sessions[clientID]) == 0 {
		delete(g.sessions, clientID)
	}
}

// pruneLocked forgets the connections of a client id that are gone.
func (g *gate) pruneLocked(clientID string) {
	for id := range g.sessions[clientID] {
		if g.nats.GetClient(id) == nil {
			g.leaveLocked(clientID, id)
		}
	}
}

// Listens reports whether a connection is subscribed to an MQTT topic, and
// whether it is there at all.
func (s *Server) Listens(connection uint64, topic string) (listens, there bool) {
	z, err := s.nats.Connz(&server.ConnzOptions{CID: connection, State: server.ConnOpen, Subscriptions: true})
	if err != nil || len(z.Conns) != 1 {
		return false, false
	}
	subject := strings.ReplaceAll(topic, "/", ".")
	return slices.ContainsFunc(z.Conns[0].Subs, func(filter string) bool { return server.SubjectsCollide(filter, subject) }), true
}

// Clients returns the MQTT client ids that are connected with credentials, or
// about to be.
func (s *Server) Clients() []string {
	g := s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	for clientID := range g.sessions {
		g.pruneLocked(clientID)
	}
	return slices.Sorted(maps.Keys(g.sessions))
}

// CloseClient closes the connection of the MQTT client id now, if it has one,
// and returns how many that were. One that is being let in is refused. It does
// nothing where everybody is let in. It does not keep the client from coming back:
// that is for Authenticate.
func (s *Server) CloseClient(clientID string) (closed int) {
	g := s.gate
	g.mu.Lock()
	var ids []uint64
	for id, session := range g.sessions[clientID] {
		session.cut = true
		ids = append(ids, id)
	}
	g.mu.Unlock()
	for _, id := range ids {
		if s.nats.DisconnectClientByID(id) == nil { // else it went by itself
			closed++
		}
	}
	g.closed.Add(float64(closed))
	return closed
}

// permission translates topic filters. Nothing is allowed without one.
func permission(filters []string) (*server.SubjectPermission, error) {
	p := &server.SubjectPermission{Deny: reserved}
	for _, filter := range filters {
		subjects, err := filterSubjects(filter)
		if err != nil {
			return nil, err
		}
		p.Allow = append(p.Allow, subjects...)
	}
	if len(p.Allow) == 0 { // to the server an empty list would be everything
		p.Deny = []string{">"}
	}
	return p, nil
}

// filterSubjects translates an MQTT topic filter to NATS subjects. "a/#" is two
// of them: it matches "a" as well (MQTT 3.1.1, section 4.7.1.2).
func filterSubjects(filter string) ([]string, error) {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "+":
			levels[i] = "*"
		case level == "#" && i == len(levels)-1 && i > 0:
			parent := strings.Join(levels[:i], ".")
			return []string{parent, parent + ".>"}, nil
		case level == "" || strings.ContainsAny(level, ".*> \t\r\n\f+#$"):
			return nil, fmt.Errorf("the topic filter %q cannot be granted", filter)
		}
	}
	return []string{strings.Join(levels, ".")}, nil
}
