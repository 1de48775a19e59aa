package web

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/secret"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
)

// Carrier carries the streams that SSE gateways hold for us.
type Carrier interface {
	// New returns a stream that a gateway asked about: its token there, the
	// client's request id, what the gateway calls itself, which may be "", and the
	// headers of its callback.
	New(token, requestID, gateway string, callback http.Header) Carried
	// Disconnected takes the word of a gateway that a stream has ended.
	Disconnected(token string)
	// Bindings returns the routing keys of a request id, and sees to it that
	// nothing is left of the stream that the client had before. nil: events are not
	// published. Errors: fleet.Unavailable.
	Bindings(ctx context.Context, requestID string) ([]string, error)
}

// Carried is a stream that a gateway holds.
type Carried interface {
	Out() *sse.Outbox
	End(*sse.Frame)
	Expel(*sse.Frame)
	// Begin has the stream sent; the owner is told when it ends. sse.ErrClosed: we
	// shut down.
	Begin(sse.Owner) error
}

const (
	maxCallback     = 256 << 10       // bytes of the body of a callback
	callbackTimeout = 4 * time.Second // the gateway gives up after five
)

// gatewayCallback is what a gateway says of a stream.
type gatewayCallback struct {
	Action  string `json:"action"`
	Reason  string `json:"reason"`
	Token   string `json:"token"`
	Request struct {
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
	} `json:"request"`
}

// callback answers an SSE gateway that asks about a stream or tells of its end.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) error {
	if s.carrier == nil {
		return errNoRoute
	}
	if !s.fromGateway(r) {
		return s.callbackFailed(w, r, http.StatusUnauthorized, "Unauthorized")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	if err != nil {
		return s.callbackFailed(w, r, http.StatusBadRequest, "Invalid JSON")
	}
	var c gatewayCallback
	switch {
	case len(body) == 0:
		return s.callbackFailed(w, r, http.StatusBadRequest, "Missing JSON body")
	case !json.Valid(body):
		return s.callbackFailed(w, r, http.StatusBadRequest, "Invalid JSON")
	case json.Unmarshal(body, &c) != nil, c.Token == "", len(c.Token) > 256, strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return s.callbackFailed(w, r, http.StatusBadRequest, "Invalid payload")
	}
	switch c.Action {
	case "connect":
		return s.carriedStream(w, r, c)
	case "disconnect":
		s.carrier.Disconnected(c.Token)
		s.write(w, r, http.StatusOK, struct{}{})
		return nil
	}
	return s.callbackFailed(w, r, http.StatusBadRequest, "Unknown action: "+strings.ToValidUTF8(c.Action[:min(len(c.Action), 40)], ""))
}

// fromGateway reports whether a callback has the secret: in its Authorization
// header, or in the query as gateways of the reference system have it.
func (s *Server) fromGateway(r *http.Request) bool {
	given := secret.Bearer(r.Header)
	if given == "" {
		given = r.URL.Query().Get("secret")
	}
	return secret.Equal(given, s.callbackSecret)
}

func (s *Server) callbackFailed(w http.ResponseWriter, r *http.Request, status int, text string) error {
	s.write(w, r, status, struct {
		Error string `json:"error"`
	}{text})
	return nil
}

// carriedStream answers whether a stream may be opened, and begins it.
func (s *Server) carriedStream(w http.ResponseWriter, r *http.Request, c gatewayCallback) error {
	ctx, cancel := context.WithTimeout(r.Context(), callbackTimeout)
	defer cancel()
	asked, err := s.requestOf(ctx, c)
	if err != nil {
		return s.callbackFailed(w, r, http.StatusBadRequest, "Invalid payload")
	}
	conn, bindings, err := s.beginCarried(asked, r, c.Token)
	switch {
	case err == nil:
	case errors.Is(err, sse.ErrClosed):
		return s.callbackFailed(w, r, http.StatusServiceUnavailable, "The server is shutting down")
	default:
		kind, text := fleet.Public(err)
		if kind == fleet.Internal {
			s.log.ErrorContext(r.Context(), "a stream was not opened for a gateway", "err", err)
		}
		return s.callbackFailed(w, r, answers(kind).status, text)
	}
	answer := struct {
		RequestID string   `json:"request_id,omitempty"`
		Bindings  []string `json:"bindings,omitempty"`
	}{}
	if bindings != nil {
		answer.RequestID, answer.Bindings = conn.RequestID, bindings
	}
	s.write(w, r, http.StatusOK, answer)
	return nil
}

// requestOf returns the request of the client as if it had come here. What would
// change the client's cookies is left out of it: there is no way to tell it.
func (s *Server) requestOf(ctx context.Context, c gatewayCallback) (*http.Request, error) {
	u, err := url.ParseRequestURI(c.Request.URL)
	if err != nil {
		return nil, err
	}
	q := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	for name, value := range c.Request.Headers {
		if strings.EqualFold(name, "host") {
			q.Host = value
			continue
		}
		q.Header.Set(name, value)
	}
	cookies := q.Cookies()
	q.Header.Del("Cookie")
	for _, cookie := range cookies {
		if cookie.Name != s.identity.Cookies.Refresh {
			q.AddCookie(cookie)
		}
	}
	return q, nil
}

// beginCarried finds out who asks with q, of which r is the callback, and begins the
// stream.
func (s *Server) beginCarried(q, r *http.Request, token string) (*stream.Connection, []string, error) {
	if !s.readableFrom(q) {
		return nil, nil, errCrossOrigin
	}
	who, err := s.identify(discard{}, q, true)
	if err == nil {
		err = viewer.check(who)
	}
	if err != nil {
		s.connections.BindingFailed()
		return nil, nil, err
	}
	id := q.URL.Query().Get("request_id")
	st := s.carrier.New(token, id, r.URL.Query().Get("gateway"), r.Header)
	reading, err := s.streams.connect(st, q, who)
	if err != nil {
		return nil, nil, err
	}
	// Only for one who may: this ends the stream that the id had before.
	bindings, err := s.carrier.Bindings(q.Context(), id)
	if err == nil {
		err = st.Begin(reading)
	}
	if err != nil {
		reading.leave()
		return nil, nil, err
	}
	return reading.conn, bindings, nil
}

// readableFrom reports whether the page that asked, if one did, may read the answer.
// A gateway says of all its answers that every page may (CORS), so that it is up to
// us; where nobody logs in, any page could follow what goes on here.
func (s *Server) readableFrom(q *http.Request) bool {
	if s.ownProof(q) || slices.Contains(s.origins, "*") {
		return true
	}
	strict := q.Clone(q.Context())
	strict.Method = http.MethodPost // of one that only reads it is not asked where it comes from
	return s.crossOrigin.Check(strict) == nil
}

// discard is for an answer that nobody gets.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}
