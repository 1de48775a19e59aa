// Package elastic writes log lines to Elasticsearch, OpenSearch and other
// servers that speak their bulk and search protocols, and reads them there.
package elastic

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

const (
	bulkTimeout   = 30 * time.Second
	searchTimeout = 10 * time.Second
	maxAnswer     = 64 << 20 // bytes of one answer
	maxComplaint  = 512      // bytes of an error's answer that are logged
)

// Options say where the server is and what it holds.
type Options struct {
	URL      string // http or https, with a path and a query if need be
	Username string // "" for none, or the one in URL
	Password string

	IndexPrefix  string // of the index for a day; the date follows
	IndexPattern string // of the indices to read
	EntityField  string // the documents' field that names the device

	Metrics *Metrics
}

// Metrics are those of the package. Label values are bounded.
type Metrics struct {
	writes       *prometheus.CounterVec // by status and error_type
	writeSeconds prometheus.Histogram
	searches     *prometheus.CounterVec // by operation and status
	searchTime   *prometheus.HistogramVec
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		writes:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_logsink_es_writes_total", Help: "Bulk requests, by what became of them."}, []string{"status", "error_type"}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "iot_logsink_es_write_duration_seconds", Help: "Time of a bulk request."}),
		searches:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_elasticsearch_operations_total", Help: "Search requests, by what became of them."}, []string{"operation", "status"}),
		searchTime:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "iot_elasticsearch_query_duration_seconds", Help: "Time of a search request."}, []string{"operation"}),
	}
	reg.MustRegister(m.writes, m.writeSeconds, m.searches, m.searchTime)
	m.writes.WithLabelValues("success", string(noError))
	for _, o := range []outcome{connection, timedOut, httpError, unknown} {
		m.writes.WithLabelValues("error", string(o))
	}
	return m
}

// outcome is how a request went, as a metric label.
type outcome string

const (
	noError    outcome = "none"
	connection outcome = "connection"
	timedOut   outcome = "timeout"
	httpError  outcome = "http_error"
	unknown    outcome = "unknown" // the answer cannot be read
)

// Client speaks to one server. It does not ask which product that is. Safe for
// concurrent use.
type Client struct {
	base         url.URL // without user and password
	user         *url.Userinfo
	http         *http.Client
	indexPrefix  string
	indexPattern string
	entityField  string
	metrics      *Metrics
}

// New returns a Client. It does not connect.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fleet.E(fleet.Invalid, nil, "The URL of Elasticsearch must start with http:// or https://") // err would show a password
	}
	c := &Client{
		base: *base, user: base.User, indexPrefix: o.IndexPrefix, indexPattern: o.IndexPattern,
		entityField: cmp.Or(o.EntityField, "entity_id"), metrics: o.Metrics,
	}
	c.base.User, c.base.Fragment = nil, ""
	if o.Username != "" {
		c.user = url.UserPassword(o.Username, o.Password)
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     90 * time.Second,
		},
		// A redirect would carry log lines and a password to who knows where.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Name implements logs.Sink.
func (c *Client) Name() string { return "elasticsearch" }

// Close closes the connections that are idle.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

var errTooLong = fmt.Errorf("over %d bytes", maxAnswer)

// answer is what a server said. A status that is no success is no error here.
type answer struct {
	status int
	body   []byte
}

// post makes one request. It fails with kind fleet.Unavailable when there is
// no complete answer and with fleet.External when it is too long.
func (c *Client) post(ctx context.Context, timeout time.Duration, path, contentType string, query url.Values, body []byte) (answer, outcome, error) {
	own, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed := func(err error) (answer, outcome, error) {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // it repeats the URL, and that may hold a secret
		}
		netErr, isNet := errors.AsType[net.Error](err)
		switch {
		case ctx.Err() != nil:
			return answer{}, unknown, ctx.Err()
		case own.Err() != nil:
			return answer{}, timedOut, fleet.E(fleet.Unavailable, own.Err(), "Request timed out")
		case isNet && netErr.Timeout():
			return answer{}, timedOut, fleet.E(fleet.Unavailable, err, "Connection timed out")
		}
		return answer{}, connection, fleet.E(fleet.Unavailable, err, "Connection failed")
	}

	target := c.base
	target.Path = strings.TrimRight(target.Path, "/") + path
	target.RawPath = ""
	all := target.Query()
	for name, values := range query {
		all[name] = values
	}
	target.RawQuery = all.Encode()
	q, err := http.NewRequestWithContext(own, http.MethodPost, target.String(), bytes.NewReader(body))
	if err != nil {
		return failed(err)
	}
	q.Header.Set("Content-Type", contentType)
	q.Header.Set("Accept", "application/json")
	q.Header.Set("User-Agent", "signalbox")
	if c.user != nil {
		password, _ := c.user.Password()
		q.SetBasicAuth(c.user.Username(), password)
	}
	a, err := c.http.Do(q)
	if err != nil {
		return failed(err)
	}
	defer a.Body.Close()
	limit := int64(maxAnswer)
	if a.StatusCode/100 != 2 {
		limit = 64 << 10 // only the beginning matters; more of it costs the connection
	}
	content, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	if err != nil {
		return failed(err)
	}
	if int64(len(content)) > limit && a.StatusCode/100 == 2 {
		return answer{}, unknown, fleet.E(fleet.External, errTooLong, "The answer is too long")
	}
	return answer{a.StatusCode, content}, noError, nil
}

// complaint is the beginning of an error's answer, for the log.
func (a answer) complaint() error {
	text := strings.TrimSpace(strings.ToValidUTF8(string(a.body[:min(len(a.body), maxComplaint)]), ""))
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// failure is the error of an answer whose status is no success.
func (a answer) failure(kind fleet.Kind) error {
	return &fleet.Error{Kind: kind, Msg: fmt.Sprintf("HTTP %d", a.status), Cause: a.complaint()}
}
