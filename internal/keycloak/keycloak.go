// Package keycloak keeps the OAuth2 clients of devices in a realm of Keycloak,
// by its Admin REST API.
package keycloak

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// Options say where Keycloak is and who we are to it.
type Options struct {
	BaseURL      string // http or https; with /auth if Keycloak is served below it
	Realm        string // of the devices and of our own client
	TokenURL     string // the realm's token endpoint
	ClientID     string // a confidential client with a service account
	ClientSecret string
	DeviceScope  string // client scope that puts our audience into the tokens of devices; "" for none

	Timeout   time.Duration     // of one request; 0 is 10 s
	Attempts  int               // at a request that may be repeated; 0 is 3
	Backoff   time.Duration     // about the time before the second attempt; 0 is 200 ms. It doubles each time
	Transport http.RoundTripper // nil for one of its own
	Metrics   *Metrics
	Log       *slog.Logger
}

// Metrics are those of the package. Label values are bounded.
type Metrics struct {
	operations *prometheus.CounterVec // by operation and status
	missing    *prometheus.CounterVec // by scope
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_keycloak_operations_total",
			Help: "What was done in Keycloak, by what became of it. Of operations that only read, failures alone are counted."}, []string{"operation", "status"}),
		missing: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "iot_keycloak_scopes_missing_total",
			Help: "Times that Keycloak was found to lack a client scope which clients of devices should have."}, []string{"scope"}),
	}
	reg.MustRegister(m.operations, m.missing)
	for _, o := range operations {
		m.operations.WithLabelValues(o.name, "error")
		if o.writes {
			m.operations.WithLabelValues(o.name, "success")
		}
	}
	return m
}

// operation is something that is done in Keycloak.
type operation struct {
	name   string // as a metric label
	what   string // after "cannot", in the log
	writes bool   // so that its successes are of interest, too
}

var (
	getToken   = operation{"get_token", "log in to Keycloak", false}
	create     = operation{"create_client", "create the client of the device", true}
	regenerate = operation{"regenerate_secret", "renew the secret of the device", true}
	setSecret  = operation{"update_secret", "set the secret of the device", true}
	remove     = operation{"delete_client", "delete the client of the device", true}
	update     = operation{"update_client_metadata", "update the client of the device", true}
	status     = operation{"get_client_status", "look up the client of the device", false}
	getSecret  = operation{"get_secret", "read the secret of the device", false}
	dropSecret = operation{"drop_rotated_secret", "drop the old secret of the device", true}
	addScopes  = operation{"add_scopes", "add client scopes to the client of the device", false}
	list       = operation{"list_clients", "list the clients of the devices", false}

	operations = []operation{getToken, create, regenerate, setSecret, remove, update, status, getSecret, dropSecret, addScopes, list}
)

// Issuer is a realm of Keycloak that holds the clients of devices. It touches no
// client whose id is not a device's.
type Issuer struct {
	opts   Options
	base   string // of BaseURL, without a slash at its end
	admin  string // the Admin API's URL of the realm
	scopes []string
	http   *http.Client
	token  token
	turns  fleet.Turns[string] // by client id

	mu       sync.Mutex
	scopeIDs map[string]string // by name
	scopesAt time.Time         // when they were read
	twoAt    time.Time         // when two was found out
	two      bool
}

var _ registry.Issuer = (*Issuer)(nil)

// New returns an Issuer. It does not connect: Keycloak may be down now and for
// as long as it likes. It fails with fleet.Invalid for addresses that are none.
func New(o Options) (*Issuer, error) {
	for name, text := range map[string]string{"Keycloak": o.BaseURL, "its token endpoint": o.TokenURL} {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" {
			return nil, fleet.E(fleet.Invalid, nil, "The URL of %s must start with http:// or https://", name) // err would show a password
		}
	}
	if o.Realm == "" || o.ClientID == "" || o.ClientSecret == "" {
		return nil, fleet.E(fleet.Invalid, nil, "Keycloak needs a realm, a client id and a client secret")
	}
	o.Timeout, o.Attempts, o.Backoff = cmp.Or(o.Timeout, 10*time.Second), cmp.Or(o.Attempts, 3), cmp.Or(o.Backoff, 200*time.Millisecond)
	s := &Issuer{opts: o, base: strings.TrimRight(o.BaseURL, "/")}
	s.admin = s.base + "/admin/realms/" + url.PathEscape(o.Realm)
	for _, name := range []string{o.DeviceScope, "profile", "email"} {
		if name != "" {
			s.scopes = append(s.scopes, name)
		}
	}
	if o.Transport == nil {
		o.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: o.Timeout,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 4,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	s.http = &http.Client{
		Transport: o.Transport,
		// A redirect would carry a token to who knows where.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.token = token{turn: make(chan struct{}, 1), fetch: &clientcredentials.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret, TokenURL: o.TokenURL, AuthStyle: oauth2.AuthStyleInParams,
	}}
	return s, nil
}

// alone waits until nobody else changes the client, and returns what lets others.
// To change one takes several requests, and what Keycloak makes of two changes of
// one client at the same time is for it to say: the secret that one sets must not
// go with what the other writes.
func (s *Issuer) alone(ctx context.Context, clientID string) (leave func(), err error) {
	leave, err = s.turns.Take(ctx, clientID)
	if err != nil {
		return nil, fleet.E(fleet.Unavailable, err, "Keycloak is busy with other changes")
	}
	return leave, nil
}

// Close closes the connections that are idle.
func (s *Issuer) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// counted counts what became of an operation, and makes an error of this
// package's inside one for others.
func (s *Issuer) counted(o operation, err error) error {
	switch {
	case err != nil:
		s.opts.Metrics.operations.WithLabelValues(o.name, "error").Inc()
	case o.writes:
		s.opts.Metrics.operations.WithLabelValues(o.name, "success").Inc()
	}
	return public(o, err)
}

// consoleURL is where a person finds a client.
func (s *Issuer) consoleURL(uuid string) string {
	return s.base + "/admin/master/console/#/" + url.PathEscape(s.opts.Realm) + "/clients/" + url.PathEscape(uuid) + "/settings"
}
