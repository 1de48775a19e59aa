// Package gateway is the protocol of the SSE gateway: Server is the gateway
// itself, which holds the event streams of browsers on behalf of a backend. It
// asks the backend about each with a callback, and writes to a stream what the
// backend posts for its token, or publishes for its queue.
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/secret"
	"signalbox/internal/sse"
)

// Options configure a Server. Log and Registerer are needed.
type Options struct {
	// CallbackURL is where the backend is told of streams. Empty: no stream is
	// opened, and the server is not ready.
	CallbackURL string
	// CallbackSecret goes with every callback as a bearer token. Empty: none.
	CallbackSecret string
	// Secret is the bearer token that /internal/send asks for. Empty: none.
	Secret string

	Heartbeat    time.Duration // between two heartbeats; 0 is 15 s
	Buffer       int           // bytes that may wait for one reader; 0 is 1 MiB
	WriteTimeout time.Duration // for one write; 0 is 10 s
	MaxBody      int64         // bytes of a body of /internal/send; 0 is 8 MiB
	MaxStreams   int           // open at once, with those that are being asked about; 0 is 20,000
	Grace        time.Duration // what a shutdown may take for telling the backend; 0 is 4 s

	// Queues are what else there is to be written to streams. Nil: nothing.
	Queues *Queues

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	orInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orTime(&o.Heartbeat, 15*time.Second)
	orTime(&o.WriteTimeout, 10*time.Second)
	orTime(&o.Grace, 4*time.Second)
	orInt(&o.Buffer, 1<<20)
	orInt(&o.MaxStreams, 20_000)
	if o.MaxBody == 0 {
		o.MaxBody = 8 << 20
	}
	return o
}

// Server is a gateway: the handler of its listener. Its streams live while Run runs.
type Server struct {
	opts    Options
	log     *slog.Logger
	metrics metrics
	streams *sse.Streams
	backend backend

	mu          sync.Mutex
	connections map[string]*connection // by token
	closing     bool                   // no stream is opened any more
	shut        bool                   // no request is begun any more
	all         sync.WaitGroup         // requests, and callbacks that nobody waits for
}

// New returns a Server without streams. It panics when its metrics are
// registered already.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{opts: o, log: o.Log, connections: map[string]*connection{}}
	s.metrics = newMetrics(o.Registerer, s)
	s.streams = sse.NewStreams(sse.Options{Heartbeat: o.Heartbeat, Buffer: o.Buffer, WriteTimeout: o.WriteTimeout, Wrote: s.metrics.wrote})
	s.backend = newBackend(o.CallbackURL, o.CallbackSecret, &s.metrics)
	return s
}

// Run keeps the streams alive until ctx ends. Then it opens no more, tells the
// clients to come back and the backend that they are gone, and returns when all
// streams have ended: within Grace and a second.
func (s *Server) Run(ctx context.Context) error {
	defer s.backend.close()
	var parts, reading sync.WaitGroup
	queues, stopQueues := context.WithCancel(context.WithoutCancel(ctx))
	defer stopQueues()
	if s.opts.Queues != nil {
		reading.Go(func() { s.opts.Queues.run(queues) })
	}
	streams, stopStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStreams()
	drained := make(chan error, 1)
	go func() { drained <- s.streams.Run(streams, time.Second) }()

	<-ctx.Done()
	late := time.AfterFunc(s.opts.Grace, s.backend.cancel)
	defer late.Stop()
	s.mu.Lock()
	s.closing = true
	open := make([]*connection, 0, len(s.connections))
	for _, c := range s.connections {
		open = append(open, c)
	}
	s.mu.Unlock()
	s.log.Info("closing streams", "streams", len(open))
	// What is not delivered stays in the queues. A RabbitMQ that hangs keeps nobody
	// from being told.
	stopQueues()
	for _, c := range open {
		parts.Go(func() { c.leave() })
	}
	parts.Wait()
	stopStreams()
	err := <-drained
	reading.Wait()

	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.all.Wait()
	return err
}

// comeBack is how long a client waits before it connects again after a
// shutdown: not all at the same time.
func comeBack() *sse.Frame { return sse.Retry(time.Second + rand.N(4*time.Second)) }

// begin counts a request, which must then call s.all.Done. It reports false
// when none may begin any more.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shut {
		s.all.Add(1)
	}
	return !s.shut
}

// ServeHTTP implements http.Handler. Any path is a stream but the few that are
// named here, so that there is no table of routes, which would clean paths.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Content-Type, Cache-Control")
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch path := r.URL.Path; {
	case r.Method == http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	case read && path == "/healthz":
		s.backend.introduce(h)
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	case read && path == "/readyz":
		s.readyz(w)
	case r.Method == http.MethodHead:
		// An answer to HEAD has no body (RFC 9110, section 9.3.2), and a stream
		// is nothing else.
		sse.SetHeaders(h)
	case r.Method == http.MethodGet && !s.begin(), r.Method == http.MethodPost && path == "/internal/send" && !s.begin():
		refuse(w, errShuttingDown)
	case r.Method == http.MethodGet:
		defer s.all.Done()
		s.connect(w, r)
	case r.Method == http.MethodPost && path == "/internal/send":
		defer s.all.Done()
		s.send(w, r)
	default:
		refuse(w, &problem{http.StatusNotFound, "NOT_FOUND", "Not found"})
	}
}

// readyz answers whether streams can be opened.
func (s *Server) readyz(w http.ResponseWriter) {
	answer := struct {
		Status     string   `json:"status"`
		Configured bool     `json:"configured"`
		RabbitMQ   string   `json:"rabbitmq"`
		Reasons    []string `json:"reasons,omitempty"`
	}{"ready", s.opts.CallbackURL != "", "disabled", nil}
	if !answer.Configured {
		answer.Reasons = append(answer.Reasons, "CALLBACK_URL not configured")
	}
	if q := s.opts.Queues; q != nil {
		answer.RabbitMQ = "connected"
		if !q.connected() {
			answer.RabbitMQ = "disconnected"
			answer.Reasons = append(answer.Reasons, "RabbitMQ not connected")
		}
	}
	s.mu.Lock()
	if s.closing {
		answer.Reasons = append(answer.Reasons, "Shutting down")
	}
	s.mu.Unlock()
	status := http.StatusOK
	if len(answer.Reasons) > 0 {
		answer.Status, status = "not_ready", http.StatusServiceUnavailable
	}
	reply(w, status, answer)
}

// problem is an answer that says what is wrong, for people and for programs.
type problem struct {
	status        int
	code, message string
}

var (
	errNotConfigured  = &problem{http.StatusServiceUnavailable, "SERVICE_NOT_CONFIGURED", "Service not configured"}
	errNoQueues       = &problem{http.StatusServiceUnavailable, "RABBITMQ_UNAVAILABLE", "RabbitMQ unavailable"}
	errShuttingDown   = &problem{http.StatusServiceUnavailable, "SHUTTING_DOWN", "The gateway is shutting down"}
	errTooManyStreams = &problem{http.StatusServiceUnavailable, "TOO_MANY_STREAMS", "Too many streams are open"}
	errOverflow       = &problem{http.StatusServiceUnavailable, "BUFFER_FULL", "Too much was sent before the stream was open"}
	errTimeout        = &problem{http.StatusGatewayTimeout, "GATEWAY_TIMEOUT", "Gateway timeout"}
	errNoBackend      = &problem{http.StatusServiceUnavailable, "BACKEND_UNAVAILABLE", "Backend unavailable"}

	errUnauthorized = &problem{http.StatusUnauthorized, "UNAUTHORIZED", "Unauthorized"}
	errNoToken      = &problem{http.StatusNotFound, "TOKEN_NOT_FOUND", "Token not found"}
	errWrite        = &problem{http.StatusInternalServerError, "WRITE_FAILED", "Write failed: connection closed"}
)

// refuse answers with a problem.
func refuse(w http.ResponseWriter, p *problem) {
	type details struct {
		Message string `json:"message"`
		Code    string `json:"code"`
	}
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(1+rand.N(5)))
	}
	reply(w, p.status, struct {
		Error details `json:"error"`
	}{details{p.message, p.code}})
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, v any) {
	text, _ := json.Marshal(v) // what is answered here always marshals
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text) // an error means that the client went away
}

// allowed reports whether a request has the secret.
func (s *Server) allowed(r *http.Request) bool {
	return s.opts.Secret == "" || secret.Equal(secret.Bearer(r.Header), s.opts.Secret)
}

// find returns the connection of a token, or nil.
func (s *Server) find(token string) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections[token]
}

// add adds a connection, if there may be one more.
func (s *Server) add(c *connection) *problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return errShuttingDown
	case len(s.connections) >= s.opts.MaxStreams:
		return errTooManyStreams
	}
	s.connections[c.token] = c
	return nil
}

func (s *Server) remove(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c.token)
}

func (s *Server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// isTimeout reports whether a callback took too long.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}
