// Package local is the identity provider that is built in: devices are its
// OAuth2 clients and get access tokens from it with client_credentials
// (RFC 6749, section 4.4). It has no users, no logins and no other grants.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"signalbox/internal/registry"
	"signalbox/internal/secret"
)

// Defaults of Options.
const (
	DefaultLifetime = 5 * time.Minute
	DefaultKeyAge   = 30 * 24 * time.Hour
	DefaultSkew     = 30 * time.Second
	DefaultPoll     = 250 * time.Millisecond
)

// Options is what an Issuer is made of.
type Options struct {
	Store registry.ClientStore
	Box   *secret.Box // seals secrets and signing keys
	Log   *slog.Logger

	// URL is what the issuer is called: an http or https URL without a slash at
	// its end, under which /.well-known/openid-configuration is found.
	URL      string
	TokenURL string // where devices are told to get tokens, which they may name as the audience of an assertion; "": TokenPath below URL
	Audience string // whom tokens are for

	Lifetime time.Duration // of a token; 0: DefaultLifetime
	KeyAge   time.Duration // a key signs for so long; 0: DefaultKeyAge
	Skew     time.Duration // by which clocks may differ; 0: DefaultSkew
	Poll     time.Duration // how often changes by other processes are looked for; 0: DefaultPoll

	// Minted is told of every token that was given out. said is what the client's
	// clock showed, if it signed that (iat of RFC 7519, section 4.1.6), or zero. It
	// must be quick. Nil: nobody wants to know.
	Minted func(clientID string, said time.Time)

	// Address returns where a request comes from. Nil: the address of the connection.
	Address func(*http.Request) string

	Registerer prometheus.Registerer // nil: metrics are kept and not shown
	Now        func() time.Time      // nil: time.Now
}

// Issuer is the provider. It holds all clients, their sealed secrets and the
// keys in memory, so that neither a token nor its verification waits for the
// database. It implements registry.Issuer. All its methods may be called by any
// number of goroutines.
type Issuer struct {
	opts    Options
	dummy   string // the sealed secret of clients that are not there
	limits  *limits
	seen    seen
	handler http.Handler
	tokens  *prometheus.CounterVec

	mu      sync.RWMutex
	version int64 // of what is below
	clients map[string]*client
	keys    []*key    // the one that is active first in time first
	asked   time.Time // when a key was last looked for because a token named it

	looking sync.Mutex
	looked  time.Time // when the last look of recheck began; guarded by looking
}

var _ registry.Issuer = (*Issuer)(nil)

// client is a registry.ClientRecord, ready to be used. It never changes; a
// changed client is another one.
type client struct {
	registry.ClientRecord
	public *publicKey // nil if it has none
	creds  []string   // what a token may name in `cred`
}

// New returns an issuer, loads what there is, and makes a first signing key if
// there is none. Without the key of the Box that sealed what is stored it fails.
func New(ctx context.Context, o Options) (_ *Issuer, err error) {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&o.Lifetime, DefaultLifetime)
	set(&o.KeyAge, DefaultKeyAge)
	set(&o.Skew, DefaultSkew)
	set(&o.Poll, DefaultPoll)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.URL = strings.TrimSuffix(o.URL, "/")
	i := &Issuer{
		opts:   o,
		limits: newLimits(o.Now),
		tokens: promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "iot_device_token_requests_total",
			Help: "Requests of devices for an access token at the built-in issuer, by outcome.",
		}, []string{"status"}),
	}
	if o.Registerer != nil {
		promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
			Name: "iot_device_clients", Help: "OAuth2 clients of devices at the built-in issuer.",
		}, func() float64 { i.mu.RLock(); defer i.mu.RUnlock(); return float64(len(i.clients)) })
	}
	i.dummy = i.seal("", 0, secret.NewText())
	if i.handler, err = i.newHandler(); err != nil {
		return nil, err
	}
	if err := i.load(ctx); err != nil {
		return nil, err
	}
	if err := i.turnKeys(ctx); err != nil {
		return nil, err
	}
	if err := i.checkBox(); err != nil {
		return nil, err
	}
	return i, nil
}

// checkBox opens one secret, to notice another SECRET_KEY at the start and not
// by devices that are refused. The keys were opened when they were loaded.
func (i *Issuer) checkBox() error {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for id, c := range i.clients {
		if len(c.Secrets) == 0 {
			continue
		}
		if _, err := i.opts.Box.Open(c.Secrets[0].Sealed, AboutSecret(id, c.Secrets[0].ID)); err != nil {
			return wrongKey(err)
		}
		break
	}
	return nil
}

// wrongKey explains what a sealed text that cannot be opened means.
func wrongKey(err error) error {
	if errors.Is(err, secret.ErrKey) {
		return fmt.Errorf("the credentials of the devices cannot be read: SECRET_KEY is not the one that they were encrypted with: %w", err)
	}
	return fmt.Errorf("the credentials of the devices cannot be read: %w", err)
}

// Run looks for changes by other processes and turns the signing keys over,
// until ctx ends.
func (i *Issuer) Run(ctx context.Context) error {
	poll := time.NewTicker(i.opts.Poll)
	defer poll.Stop()
	keys := time.NewTicker(min(time.Hour, i.opts.KeyAge/8))
	defer keys.Stop()
	failing := false
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			err = i.sync(ctx)
		case <-keys.C:
			err = i.turnKeys(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			i.opts.Log.WarnContext(ctx, "changes of devices' credentials by other processes are not seen", "err", err)
		case err == nil && failing:
			i.opts.Log.InfoContext(ctx, "changes of devices' credentials are seen again")
		}
		failing = err != nil
	}
}

// recheck calls f, which judges by what is in memory, and calls it again when it
// refused and another process may have changed something since: a device that
// fetched its secret from one process shows it to another at once. Refusals at the
// same time share a look at the database. When it cannot be asked, the refusal
// stands.
func (i *Issuer) recheck(ctx context.Context, f func() (refused bool)) {
	if !f() {
		return
	}
	came := time.Now()
	i.looking.Lock()
	if i.looked.Before(came) {
		i.looked = time.Now()
		if err := i.sync(ctx); err != nil {
			i.opts.Log.DebugContext(ctx, "a refusal was not checked", "err", err) // Run says it aloud
		}
	}
	i.looking.Unlock()
	f()
}

// sync loads what another process changed.
func (i *Issuer) sync(ctx context.Context) error {
	version, err := i.opts.Store.CredentialsVersion(ctx)
	if err != nil {
		return err
	}
	i.mu.RLock()
	same := version == i.version
	i.mu.RUnlock()
	if same {
		return nil
	}
	return i.load(ctx)
}

// load reads everything.
func (i *Issuer) load(ctx context.Context) error {
	all, err := i.opts.Store.Credentials(ctx)
	if err != nil {
		return err
	}
	clients := make(map[string]*client, len(all.Clients))
	for _, r := range all.Clients {
		clients[r.ID] = i.newClient(r)
	}
	i.mu.RLock()
	have := i.keys
	i.mu.RUnlock()
	keys := make([]*key, 0, len(all.Keys))
	for _, r := range all.Keys {
		k, err := i.openKey(r, have)
		if err != nil {
			return wrongKey(err)
		}
		keys = append(keys, k)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if all.Version >= i.version { // else somebody read later, and was quicker
		i.version, i.clients, i.keys = all.Version, clients, keys
	}
	return nil
}

// write changes one client in a transaction and then in memory. f gets the
// client as it is, or nil, and returns what it shall be: the same to leave it.
func (i *Issuer) write(ctx context.Context, id string, f func(registry.CredentialQueries, *registry.ClientRecord) (*registry.ClientRecord, error)) error {
	var after *registry.ClientRecord
	changed := false
	version, err := i.opts.Store.CredentialsTx(ctx, func(q registry.CredentialQueries) (bool, error) {
		before, err := find(ctx, q, id)
		if err != nil {
			return false, err
		}
		after, err = f(q, before)
		changed = after != before
		return changed, err
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	switch {
	case version <= i.version: // nothing is new, or somebody loaded it already
		i.mu.Unlock()
		return nil
	case changed && version == i.version+1:
		i.version = version
		if after == nil {
			delete(i.clients, id)
		} else {
			i.clients[id] = i.newClient(*after)
		}
		i.mu.Unlock()
		return nil
	}
	i.mu.Unlock()
	// Others changed something in between. It is done, whoever still waits.
	return i.load(context.WithoutCancel(ctx))
}

// find returns a client of the store, or nil.
func find(ctx context.Context, q registry.CredentialQueries, id string) (*registry.ClientRecord, error) {
	r, err := q.ClientRecord(ctx, id)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// newClient makes a record ready.
func (i *Issuer) newClient(r registry.ClientRecord) *client {
	c := &client{ClientRecord: r}
	for _, s := range r.Secrets {
		c.creds = append(c.creds, credOf(s.ID))
	}
	if r.PublicKey != "" {
		public, err := parsePublicKey(r.PublicKey)
		if err != nil { // it was checked when it was stored
			i.opts.Log.Error("the public key of a client cannot be read", "client_id", r.ID, "err", err)
			return c
		}
		c.public = public
		c.creds = append(c.creds, public.cred)
	}
	return c
}

// client returns a client, or nil.
func (i *Issuer) client(id string) *client {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.clients[id]
}

// clock returns the time as it is stored: UTC, whole microseconds.
func (i *Issuer) clock() time.Time { return i.opts.Now().UTC().Truncate(time.Microsecond) }
