package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// callbackTimeout is how long the backend has for one callback.
	callbackTimeout = 5 * time.Second
	// maxAnswer bounds what is read of the answer to a callback, in bytes.
	maxAnswer = 1 << 20
	// maxFarewells is how many disconnect callbacks are under way at once: when
	// thousands of clients leave together, the backend still answers connects.
	maxFarewells = 64
)

// What this gateway, unlike that of the reference system, says of itself in the
// headers of its callbacks and of the answer to /healthz.
const (
	// acceptsHeader is what else it takes for a stream: acceptsID, the id of a stream
	// without an event.
	acceptsHeader = "Sse-Gateway-Accepts"
	acceptsID     = "id"
	// instanceHeader is a name that it has until it ends: one with another name
	// knows none of its streams.
	instanceHeader = "Sse-Gateway-Instance"
)

// The reasons of a disconnect callback.
const (
	clientClosed = "client_closed"
	serverClosed = "server_closed"
	failed       = "error"
)

// callback is the body of a callback.
type callback struct {
	Action  string          `json:"action"`
	Reason  string          `json:"reason,omitempty"`
	Token   string          `json:"token"`
	Request json.RawMessage `json:"request"`
}

// verdict is what the backend says about a stream.
type verdict struct {
	status int
	phrase string // the reason phrase of the status line

	RequestID string
	Bindings  []string
}

// backend is the other end of the callbacks.
type backend struct {
	url, secret string
	instance    string // see instanceHeader
	metrics     *metrics
	client      *http.Client
	ctx         context.Context // of all callbacks; its end cuts them off
	cancel      context.CancelFunc
	farewells   chan struct{} // tokens
}

func newBackend(url, secret string, m *metrics) backend {
	b := backend{url: url, secret: secret, instance: uuid.NewString(), metrics: m, farewells: make(chan struct{}, maxFarewells)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The backend is named by the settings, and close by. Each callback has its
	// own connection: one that the backend closes just then would lose it, and
	// none is repeated.
	transport.Proxy, transport.DisableKeepAlives = nil, true
	transport.DisableCompression = true
	b.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return b
}

// introduce has headers say who we are.
func (b *backend) introduce(h http.Header) {
	h.Set(acceptsHeader, acceptsID)
	h.Set(instanceHeader, b.instance)
}

func (b *backend) close() {
	b.cancel()
	b.client.CloseIdleConnections()
}

// connected asks the backend about a new stream.
func (b *backend) connected(c *connection) (verdict, error) {
	ctx, cancel := context.WithTimeout(b.ctx, callbackTimeout)
	defer cancel()
	return b.call(ctx, callback{Action: "connect", Token: c.token, Request: c.request})
}

// disconnected tells the backend that a stream has ended. Any answer will do.
func (b *backend) disconnected(c *connection, reason string) error {
	select {
	case b.farewells <- struct{}{}:
		defer func() { <-b.farewells }()
	case <-b.ctx.Done():
		b.metrics.callbacks.WithLabelValues("disconnect", "unavailable").Inc()
		return b.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(b.ctx, callbackTimeout)
	defer cancel()
	_, err := b.call(ctx, callback{Action: "disconnect", Reason: reason, Token: c.token, Request: c.request})
	return err
}

// call posts a callback. An error says nothing of the URL, which may hold a secret.
func (b *backend) call(ctx context.Context, c callback) (v verdict, err error) {
	start := time.Now()
	defer func() {
		b.metrics.duration.WithLabelValues(c.Action).Observe(time.Since(start).Seconds())
		b.metrics.callbacks.WithLabelValues(c.Action, resultOf(v.status, err)).Inc()
	}()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url, bytes.NewReader(encode(c)))
	if err != nil {
		return v, withoutURL(err)
	}
	r.Header.Set("Content-Type", "application/json")
	b.introduce(r.Header)
	if b.secret != "" {
		r.Header.Set("Authorization", "Bearer "+b.secret)
	}
	answer, err := b.client.Do(r)
	if err != nil {
		return v, withoutURL(err)
	}
	defer answer.Body.Close()
	// The connection can be used again when all is read, and a backend that
	// does not end its answer in time has not answered.
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil && ctx.Err() != nil {
		return v, err
	}
	v.status = answer.StatusCode
	_, v.phrase, _ = strings.Cut(answer.Status, " ")
	v.read(body)
	return v, nil
}

// read takes from an answer what is of use, and ignores everything else.
func (v *verdict) read(body []byte) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return
	}
	var id string
	var bindings []string
	if json.Unmarshal(fields["request_id"], &id) == nil && json.Unmarshal(fields["bindings"], &bindings) == nil {
		v.RequestID, v.Bindings = id, bindings
	}
}

// requestOf returns the part of a callback that says what the client asked for.
func requestOf(r *http.Request) json.RawMessage {
	headers := make(map[string]string, len(r.Header)+1)
	for name, values := range r.Header {
		separator := ", "
		if name == "Cookie" {
			separator = "; "
		}
		headers[strings.ToLower(name)] = strings.Join(values, separator)
	}
	headers["host"] = r.Host
	return encode(struct {
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers"`
	}{r.RequestURI, headers})
}

// encode is json.Marshal without the escapes that only HTML needs.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // only texts and what was encoded before
	return bytes.TrimRight(b.Bytes(), "\n")
}

// withoutURL returns what went wrong without where.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// resultOf is the label of a callback's outcome.
func resultOf(status int, err error) string {
	switch {
	case err != nil && isTimeout(err):
		return "timeout"
	case err != nil:
		return "unavailable"
	case status >= 200 && status < 300:
		return "success"
	case status == http.StatusBadRequest, status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "rejected"
	}
	return "error"
}
