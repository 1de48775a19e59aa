package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/secret"
)

// outer wraps what every request goes through, whether or not it has a route.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if s.cors(w, r) {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = newTimedBody(w, r.Body)
		}
		next.ServeHTTP(w, r)
	})
}

// bodyTime is how long a client may take to send the body of a request.
const bodyTime = 30 * time.Second

// timedBody is a body that is read within bodyTime. A client that sends it byte
// by byte would otherwise hold a connection and a goroutine for as long as it likes.
type timedBody struct {
	io.ReadCloser
	connection *http.ResponseController
}

func newTimedBody(w http.ResponseWriter, body io.ReadCloser) timedBody {
	b := timedBody{body, http.NewResponseController(w)}
	b.deadline(time.Now().Add(bodyTime))
	return b
}

// deadline sets the connection's; one that cannot have any, in a test, has none.
func (b timedBody) deadline(t time.Time) { _ = b.connection.SetReadDeadline(t) }

// Read implements io.Reader. When all is read the deadline goes, because
// net/http reads on, to notice a client that leaves.
func (b timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.deadline(time.Time{})
	}
	return n, err
}

// cors lets the pages of allowed origins read the answer, and reports whether
// the request only asked for that.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) (preflight bool) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	allowed := slices.Contains(s.origins, origin) || slices.Contains(s.origins, "*")
	if allowed {
		h.Set("Access-Control-Allow-Origin", origin)
	}
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if allowed {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, X-Request-ID")
		h.Set("Access-Control-Max-Age", "600")
	}
	return true
}

// serve turns a row of the table into a handler: it checks the right, measures,
// records, and answers errors and panics.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		tracked := &tracker{ResponseWriter: w}
		what := s.begin(rt, r)
		who, err := s.run(rt, tracked, r, what)
		s.metrics.observe(rt.operation, time.Since(start), err)
		s.record(rt, r, who, what, err)
		switch {
		case err == nil:
		case !tracked.wrote:
			s.fail(w, r, err)
		default:
			// Half an answer must not look like a whole one.
			s.log.ErrorContext(r.Context(), "answer broken off", "method", r.Method, "route", r.Pattern, "err", err)
			panic(http.ErrAbortHandler)
		}
	}
}

// ownProof reports whether a request proves by itself who sends it, whatever page
// had it sent. A bearer token no page can send without our leave (CORS), and none
// that it does not know; everything else a browser may add by itself, also the
// name and password of a proxy (RFC 7617). Where nobody need prove anything, a
// token is no proof either.
func (s *Server) ownProof(r *http.Request) bool {
	return secret.Bearer(r.Header) != "" && s.identity.mode() != modeOff
}

var (
	errCrossOrigin = fleet.E(fleet.Forbidden, nil, "Cross-origin request refused")
	errDraining    = fleet.E(fleet.Unavailable, nil, "Signalbox is currently unavailable: shutting down")
)

func (s *Server) run(rt route, w http.ResponseWriter, r *http.Request, what *event) (who access.Principal, err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler: // the handler wants the connection cut
			panic(p)
		default:
			err = fleet.E(fleet.Internal, fmt.Errorf("%v\n%s", p, debug.Stack()), "panic")
		}
	}()
	if rt.needs == probe {
		return who, rt.handle(w, r)
	}
	if s.draining.Load() {
		return who, errDraining
	}
	if !s.ownProof(r) && s.crossOrigin.Check(r) != nil {
		return who, errCrossOrigin
	}
	ctx := context.WithValue(r.Context(), eventKey{}, what)
	if rt.needs == inside {
		if err := s.checkInside(r); err != nil {
			return who, err
		}
	}
	if rt.needs == public || rt.needs == inside {
		return who, rt.handle(w, r.WithContext(ctx))
	}
	if rt.needs == device {
		c, err := s.identifyDevice(r)
		if err != nil {
			return who, err
		}
		who = access.Principal{Kind: access.Device, Subject: c.ClientID, Name: c.Name}
		s.heard(c)
		return who, rt.handle(w, r.WithContext(withDevice(ctx, c)))
	}
	if who, err = s.identify(w, r, r.Pattern == streamRoute); err != nil {
		return who, err
	}
	if err := rt.needs.check(who); err != nil {
		return who, err
	}
	return who, rt.handle(w, r.WithContext(access.NewContext(ctx, who)))
}

// check returns the error for who has not this right. A device has none here,
// whatever roles its token says.
func (n right) check(p access.Principal) error {
	var role string
	var enough []string
	switch n {
	case viewer:
		role, enough = access.RoleViewer, []string{access.RoleViewer, access.RoleEditor, access.RoleAdmin}
	case editor:
		role, enough = access.RoleEditor, []string{access.RoleEditor, access.RoleAdmin}
	case pipeline:
		role, enough = access.RolePipeline, []string{access.RolePipeline, access.RoleAdmin}
	default:
		role, enough = access.RoleAdmin, []string{access.RoleAdmin}
	}
	switch {
	case p.Kind == access.Device || len(p.Roles) == 0:
		return fleet.E(fleet.Forbidden, nil, "No recognized role -- access denied")
	case n == admin && p.Has(role) && !p.Limit.None():
		// People, tokens and the audit are of everything: who decides about them
		// could give themselves what their limit takes away.
		return errLimited
	case !p.Has(role):
		return fleet.E(fleet.Forbidden, nil, "Insufficient permissions - requires one of: %s", strings.Join(enough, ", "))
	}
	return nil
}

// tracker notices whether an answer was begun.
type tracker struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (t *tracker) WriteHeader(status int) {
	t.wrote = true
	t.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (t *tracker) Write(b []byte) (int, error) {
	t.wrote = true
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// metrics counts and times the operations of the routes.
type metrics struct {
	operations *prometheus.CounterVec
	duration   *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		operations: promauto.With(r).NewCounterVec(prometheus.CounterOpts{
			Name: "iot_config_operations_total",
			Help: "Operations on devices and device models, by outcome.",
		}, []string{"operation", "status"}),
		duration: promauto.With(r).NewHistogramVec(prometheus.HistogramOpts{
			Name: "iot_config_operation_duration_seconds",
			Help: "Duration of operations on devices and device models.",
		}, []string{"operation"}),
	}
}

func (m *metrics) observe(operation string, took time.Duration, err error) {
	if operation == "" {
		return
	}
	status := "success"
	if err != nil {
		status = "error"
	}
	m.operations.WithLabelValues(operation, status).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
}
