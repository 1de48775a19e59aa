// Package web is the HTTP side of Signalbox: routes.go is the whole table of
// routes, errors.go the only place that picks the status of an error.
package web

import (
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/overview"
	"signalbox/internal/presence"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/stream"
)

// DefaultMaxBody bounds a JSON request body, in bytes.
const DefaultMaxBody = 1 << 20

// Options is what a Server is made of.
type Options struct {
	Log      *slog.Logger
	Registry *registry.Service
	Metrics  *prometheus.Registry // nil: metrics are kept and not shown

	// Identity is how people prove who they are. Nil means that they need not:
	// everybody is access.Local.
	Identity *Identity

	// CORSOrigins are the origins, as in https://example.com, whose pages may
	// read answers; "*" is any. They may not send cookies.
	CORSOrigins []string

	MaxBody int64 // bytes of a JSON body; 0 is DefaultMaxBody

	// History answers what devices said before. Nil: there is none, and every
	// answer is empty.
	History logs.History

	// Undelivered is what sinks refused for good. Nil: there are no sinks.
	Undelivered *logs.Undelivered

	Streams     *Streams
	Connections *stream.Registry
	Nudger      *stream.Nudger
	Health      Health

	// Activity is what devices said of late. Nil: nothing.
	Activity *logs.Activity

	// Overview has the figures of the last hours. Nil: there are none.
	Overview *overview.Recorder

	// Page makes the handler of the web page; it passes on to notFound what it
	// does not have. Nil: there is no page.
	Page func(notFound http.Handler) http.Handler

	// Carrier carries the streams of SSE gateways, whose callbacks have
	// CallbackSecret. Nil: there are none.
	Carrier        Carrier
	CallbackSecret string

	DrainKey string // bearer token of /health/drain; "" lets nobody

	// Devices is how devices prove who they are. The zero Devices lets none in.
	Devices Devices

	// ConfigChanged is told of each device whose config was replaced, after the
	// commit. It must not block. Nil: nobody is.
	ConfigChanged func(clientID string)

	// Nonces seals what devices prove that they have a secret with. It is needed
	// with Rotation.
	Nonces *secret.Box

	// Rotation rotates the credentials of devices. Nil: nobody does.
	Rotation *rotation.Runner

	// Fleet is the same for many devices. Nil: nobody does.
	Fleet        *rotation.Fleet
	CriticalDays int // since its last rotation, after which a device whose rotation timed out is critical

	InternalToken string // bearer token of /internal; "": none is asked for
	// Campaigns rotate many devices each. Nil: there are none.
	Campaigns *rotation.Campaigns
	// Presence knows which devices are there. Nil: nobody does.
	Presence *presence.Tracker
	// Links give out the credentials of devices. Nil: there are none.
	Links *registry.Links
}

// Server answers HTTP requests.
type Server struct {
	log         *slog.Logger
	registry    *registry.Service
	metrics     *metrics
	identity    *identity
	identify    func(http.ResponseWriter, *http.Request, bool) (access.Principal, error) // identity's
	crossOrigin *http.CrossOriginProtection
	spent       once  // logout tokens
	reads       reads // of logs
	origins     []string
	maxBody     int64

	history     logs.History
	undelivered *logs.Undelivered
	streams     *Streams
	connections *stream.Registry
	nudger      *stream.Nudger
	health      Health
	drainKey    string
	gatherer    prometheus.Gatherer
	activity    *logs.Activity
	overview    *overview.Recorder
	devices     Devices
	rotation    *rotation.Runner
	changed     func(clientID string) // nil: nobody wants to know
	proofs      *proofs
	fleet       *rotation.Fleet
	campaigns   *rotation.Campaigns
	presence    *presence.Tracker
	links       *registry.Links
	linkGuesses access.Throttle
	importing   chan struct{} // has room for the imports that may run at once
	carrier     Carrier
	page        http.Handler

	criticalDays   int
	internalToken  string
	callbackSecret string

	handler, internal http.Handler
	draining          atomic.Bool
}

// New returns a server. It panics when its metrics are registered already.
func New(o Options) *Server {
	s := &Server{
		log:         o.Log,
		registry:    o.Registry,
		origins:     o.CORSOrigins,
		maxBody:     o.MaxBody,
		history:     o.History,
		undelivered: o.Undelivered,
		streams:     o.Streams,
		connections: o.Connections,
		nudger:      o.Nudger,
		health:      o.Health,
		drainKey:    o.DrainKey,
		activity:    o.Activity,
		overview:    o.Overview,
		devices:     o.Devices,
		rotation:    o.Rotation,
		changed:     o.ConfigChanged,
		fleet:       o.Fleet,
		campaigns:   o.Campaigns,
		presence:    o.Presence,
		links:       o.Links,
		importing:   make(chan struct{}, maxImports),
		carrier:     o.Carrier,
		gatherer:    prometheus.NewRegistry(),

		criticalDays:   o.CriticalDays,
		internalToken:  o.InternalToken,
		callbackSecret: o.CallbackSecret,
	}
	var register prometheus.Registerer // a nil *Registry in it would not be nil
	if o.Metrics != nil {
		s.gatherer, register = o.Metrics, o.Metrics
	}
	s.proofs = newProofs(o.Nonces, register)
	s.metrics, s.identity = newMetrics(register), newIdentity(o.Identity, o.Log, register)
	s.identify = s.identity.identify
	if o.Streams != nil {
		o.Streams.belongTo(s.identity)
	}
	s.crossOrigin = newCrossOrigin(s.identity.BaseURL, o.CORSOrigins)
	if s.maxBody == 0 {
		s.maxBody = DefaultMaxBody
	}
	if s.activity == nil {
		s.activity = logs.NewActivity("", func(string) (fleet.DeviceRef, bool) { return fleet.DeviceRef{}, false })
	}
	s.page = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errNoRoute) })
	if o.Page != nil {
		s.page = o.Page(s.page)
	}
	s.handler = s.outer(s.mux(s.routes()))
	s.internal = s.outer(s.mux(s.internalRoutes()))
	return s
}

// Handler returns the handler of the main listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Internal returns the handler of the internal listener.
func (s *Server) Internal() http.Handler { return s.internal }

// Drain makes the server refuse new requests from now on, with 503 and
// Retry-After; those it has begun go on, and probes are still answered.
func (s *Server) Drain() { s.draining.Store(true) }
