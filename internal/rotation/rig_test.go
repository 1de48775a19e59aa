package rotation_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/keycloak"
	"signalbox/internal/keycloaktest"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// provider is an identity provider as a device and the server see it.
type provider struct {
	rotation.Issuer
	ensure func(registry.Client)
	token  func(id, secret string) (token string, ok bool)
	verify func(token string) (fleet.DeviceClaims, error)
	reload func() // as a new process has it
}

// rig is a database, a provider, and devices; and a server that is killed.
type rig struct {
	t        testing.TB
	db       *sqlstore.DB
	box      *secret.Box
	provider provider
	change   func(*rotation.Options)

	runner *rotation.Runner
	kill   *killer
	reg    *prometheus.Registry
	stop   func()

	mu   sync.Mutex
	told map[int64]int
	lies map[int64]int64 // the attempts of the notices that lie at the broker
	news []rotation.News

	committed []commit
	broke     error // of Tell and Clear
}

// commit is a state of a device that was committed.
type commit struct {
	device  int64
	wire    fleet.RotationState
	attempt int64
}

func newRig(t testing.TB, with func(*rig) provider) *rig {
	t.Helper()
	r := &rig{t: t, told: map[int64]int{}, lies: map[int64]int64{}, change: func(*rotation.Options) {}}
	// Power is not cut here: what the kernel has is enough.
	path := filepath.Join(memory(t), "test.db")
	if err := os.WriteFile(path, empty(), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.db, err = sqlstore.Open(t.Context(), "file:"+path+"?_pragma=synchronous(OFF)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.db.Close() })
	if r.box, err = secret.NewBox("a key for tests only", "rotation"); err != nil {
		t.Fatal(err)
	}
	r.provider = with(r)
	return r
}

// memory returns a directory that is on no disk if there is such a thing.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "signalbox-rotation-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// empty is a database without anything in it, made once.
var empty = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "signalbox-rotation-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "empty.db")
	db, err := sqlstore.Open(context.Background(), path)
	if err == nil {
		err = db.Close() // the write-ahead log ends in the file
	}
	if err != nil {
		panic(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return text
})

func builtIn(r *rig) (p provider) {
	t := r.t
	var issuer *local.Issuer
	p.reload = func() {
		var err error
		issuer, err = local.New(t.Context(), local.Options{Store: r.db, Box: r.box, URL: "http://localhost", Audience: "signalbox"})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.reload()
	p.Issuer = late{func() rotation.Issuer { return issuer }}
	p.ensure = func(c registry.Client) {
		if _, err := issuer.Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	p.token = func(id, text string) (string, bool) { return post(issuer.Handler(), local.TokenPath, id, text) }
	p.verify = func(token string) (fleet.DeviceClaims, error) { return issuer.Verify(t.Context(), token) }
	return p
}

func realm(r *rig) (p provider) {
	t := r.t
	s := new(keycloaktest.Server)
	s.Place("http://keycloak.test")
	issuer, err := keycloak.New(keycloak.Options{
		BaseURL: s.URL(), TokenURL: s.TokenURL(), Realm: keycloaktest.Realm, ClientID: keycloaktest.AdminID, ClientSecret: keycloaktest.AdminSecret,
		Transport: s.Transport(), Metrics: keycloak.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = issuer.Close() })
	path := strings.TrimPrefix(s.TokenURL(), s.URL())
	return provider{
		Issuer: issuer, reload: func() {},
		ensure: func(c registry.Client) {
			if _, err := issuer.Ensure(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		},
		token: func(id, text string) (string, bool) { return post(s, path, id, text) },
		verify: func(token string) (c fleet.DeviceClaims, err error) {
			parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
			if err != nil {
				return c, err
			}
			var claims jwt.Claims
			err = parsed.UnsafeClaimsWithoutVerification(&claims)
			return fleet.DeviceClaims{IssuedAt: claims.IssuedAt.Time(), Expires: claims.Expiry.Time()}, err
		},
	}
}

func post(h http.Handler, path, id, text string) (string, bool) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {text}}
	q := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q)
	var a struct {
		Token string `json:"access_token"`
	}
	return a.Token, w.Code == http.StatusOK && json.Unmarshal(w.Body.Bytes(), &a) == nil && a.Token != ""
}

// late is an issuer that is another one after a restart.
type late struct{ of func() rotation.Issuer }

func (l late) Dual() bool { return l.of().Dual() }
func (l late) Secret(ctx context.Context, id string) (string, error) {
	return l.of().Secret(ctx, id)
}
func (l late) Both(ctx context.Context, id, old, new string) (string, string, error) {
	return l.of().Both(ctx, id, old, new)
}
func (l late) Only(ctx context.Context, id, secret string) (time.Time, error) {
	return l.of().Only(ctx, id, secret)
}

var errKilled = errors.New("killed")

// killer lets a process do so many things, and from then on none. The last one
// takes effect or not, and its answer never arrives.
type killer struct {
	mu     sync.Mutex
	left   int // -1: it is never killed
	effect bool
	change bool // it is killed right after it changed something at the provider
	dead   bool
}

// changed kills the process if it is to die of its first change at the provider,
// which took effect.
func (k *killer) changed(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && k.change {
		k.dead = true
		return errKilled
	}
	return err
}

// do does a thing.
func (k *killer) do(f func() error) error {
	k.mu.Lock()
	if k.dead {
		k.mu.Unlock()
		return errKilled
	}
	if k.left == 0 {
		k.dead = true
		effect := k.effect
		k.mu.Unlock()
		if effect {
			_ = f()
		}
		return errKilled
	}
	if k.left > 0 {
		k.left--
	}
	k.mu.Unlock()
	return f()
}

func (k *killer) killed() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.dead }

// mortal is what a process has of the world until it is killed.
type mortal struct {
	rotation.Store
	issuer rotation.Issuer
	r      *rig
	k      *killer
}

func (m mortal) Rotation(ctx context.Context, device int64) (rec rotation.Record, err error) {
	if m.k.killed() {
		return rec, errKilled
	}
	return m.Store.Rotation(ctx, device)
}

func (m mortal) CommitRotation(ctx context.Context, c rotation.Change) (version int64, err error) {
	err = m.k.do(func() error {
		if version, err = m.Store.CommitRotation(ctx, c); err == nil {
			m.r.mu.Lock()
			defer m.r.mu.Unlock()
			s := c.Record.State
			m.r.committed = append(m.r.committed, commit{c.Record.Device, cmp.Or(s.Wire, fleet.RotationOK), s.Attempt})
		}
		return err
	})
	return version, err
}

func (m mortal) RotationLease(ctx context.Context, holder string, now, until time.Time) (bool, error) {
	if m.k.killed() {
		return false, errKilled
	}
	return m.Store.RotationLease(ctx, holder, now, until)
}

func (m mortal) ReleaseRotationLease(ctx context.Context, holder string) error {
	if m.k.killed() {
		return errKilled
	}
	return m.Store.ReleaseRotationLease(ctx, holder)
}

func (m mortal) Dual() bool { return m.issuer.Dual() }

func (m mortal) Secret(ctx context.Context, id string) (text string, err error) {
	err = m.k.do(func() error { text, err = m.issuer.Secret(ctx, id); return err })
	return text, err
}

func (m mortal) Both(ctx context.Context, id, old, new string) (a, b string, err error) {
	err = m.k.changed(m.k.do(func() error { a, b, err = m.issuer.Both(ctx, id, old, new); return err }))
	return a, b, err
}

func (m mortal) Only(ctx context.Context, id, secret string) (at time.Time, err error) {
	err = m.k.changed(m.k.do(func() error { at, err = m.issuer.Only(ctx, id, secret); return err }))
	return at, err
}

func (m mortal) Tell(ctx context.Context, device int64, clientID string, attempt int64) error {
	return m.k.do(func() error {
		// Nobody is told of what did not happen.
		rec, err := m.Store.Rotation(ctx, device)
		if ctx.Err() != nil { // the process ends, and tells nobody anything
			return ctx.Err()
		}
		if err != nil || rec.State.Wire != fleet.RotationPending || rec.State.Step != rotation.Offered || rec.ClientID != clientID || rec.State.Attempt != attempt || !rec.State.Noticed {
			m.r.t.Errorf("told in %+v, %v", rec.State, err)
		}
		m.r.mu.Lock()
		defer m.r.mu.Unlock()
		if m.r.broke != nil {
			return m.r.broke
		}
		m.r.told[device]++
		m.r.lies[device] = attempt
		return nil
	})
}

func (m mortal) Remind(ctx context.Context, device int64, clientID string, attempt int64) error {
	return m.Tell(ctx, device, clientID, attempt)
}

func (m mortal) Clear(ctx context.Context, device int64, clientID string) error {
	return m.k.do(func() error {
		rec, err := m.Store.Rotation(ctx, device)
		if err != nil || rec.State.Wire == fleet.RotationPending || rec.ClientID != clientID {
			m.r.t.Errorf("the notice is taken back in %+v, %v", rec.State, err)
		}
		m.r.mu.Lock()
		defer m.r.mu.Unlock()
		if m.r.broke != nil {
			return m.r.broke
		}
		delete(m.r.lies, device)
		return nil
	})
}

// begin starts a process that can do so many things; -1 is any number.
func (r *rig) begin(things int, effect bool) {
	r.t.Helper()
	r.provider.reload()
	r.kill = &killer{left: things, effect: effect}
	m := mortal{r.db, r.provider.Issuer, r, r.kill}
	p := policy(false)
	p.Turn, p.Tries = 2*time.Minute, 3
	shared := false
	r.reg = prometheus.NewRegistry()
	o := rotation.Options{Store: m, Issuer: m, Notifier: m, Box: r.box, Policy: p, Sole: true, Poll: 900 * time.Millisecond, Registerer: r.reg, Observe: func(n rotation.News) {
		rec, err := r.db.Rotation(context.Background(), n.Device)
		r.mu.Lock()
		defer r.mu.Unlock()
		is := rec.State.Wire == n.To && rec.State.Attempt == n.Attempt
		// Another process may have got on from there already.
		was := shared && slices.Contains(r.committed, commit{n.Device, n.To, n.Attempt})
		if err != nil || !is && !was {
			r.t.Errorf("told %+v of %+v, %v", n, rec.State, err)
		}
		r.news = append(r.news, n)
	}}
	r.change(&o)
	shared = !o.Sole
	r.runner = rotation.NewRunner(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	runner := r.runner
	go func() {
		defer close(done)
		if err := runner.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.stop = func() { cancel(); <-done }
}

// sim is a device.
type sim struct {
	r      *rig
	id     int64
	client string
	secret string
	token  string
}

// devices makes so many.
func (r *rig) devices(n int) (all []*sim) {
	r.t.Helper()
	now := time.Now()
	err := r.db.Tx(r.t.Context(), func(q registry.Queries) error {
		model, err := q.InsertModel(r.t.Context(), fleet.Model{Code: "relay", Name: "Relay", CreatedAt: now, UpdatedAt: now})
		if err != nil {
			return err
		}
		for range n {
			key := fleet.NewKey()
			at := now.Add(time.Duration(len(all)) * time.Second)
			id, err := q.InsertDevice(r.t.Context(), fleet.Device{Key: key, Model: fleet.Model{ID: model}, Active: true, Config: "{}", Rotation: fleet.RotationOK,
				SecretCreatedAt: &at, CreatedAt: now, UpdatedAt: now})
			if err != nil {
				return err
			}
			all = append(all, &sim{r: r, id: id, client: fleet.ClientID("relay", key)})
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, d := range all {
		r.provider.ensure(registry.Client{ID: d.client, Enabled: true})
		if d.secret, err = r.provider.Secret(r.t.Context(), d.client); err != nil {
			r.t.Fatal(err)
		}
	}
	return all
}

// login gets a token with what the device has.
func (d *sim) login() (ok bool) {
	d.token, ok = d.r.provider.token(d.client, d.secret)
	return ok
}

// fetch asks for the secret, and keeps it if the answer arrives.
func (d *sim) fetch(arrives bool) error {
	claims, err := d.r.provider.verify(d.token)
	if err != nil {
		return err
	}
	text, err := d.r.runner.Fetch(context.Background(), d.id, claims)
	if err == nil && text == "" {
		d.r.t.Error("an empty secret")
	}
	if err == nil && arrives {
		d.secret = text
	}
	return err
}

// show asks for the config.
func (d *sim) show() error {
	claims, err := d.r.provider.verify(d.token)
	if err != nil {
		return err
	}
	return d.r.runner.Seen(context.Background(), d.id, claims)
}

func (d *sim) record() rotation.Record {
	d.r.t.Helper()
	rec, err := d.r.db.Rotation(context.Background(), d.id)
	if err != nil {
		d.r.t.Fatal(err)
	}
	return rec
}

// toldOf returns how often a device was told.
func (r *rig) toldOf(device int64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told[device]
}

// live is what a device does in a second: it logs in, asks for its secret when it
// was told to, logs in again, and asks for its config.
func (d *sim) live() {
	told := d.r.toldOf(d.id) > 0
	if !d.login() {
		return
	}
	if told && d.fetch(true) == nil {
		d.r.mu.Lock()
		d.r.told[d.id] = 0
		d.r.mu.Unlock()
		time.Sleep(2 * time.Second) // the tokens of Keycloak tell whole seconds
		if !d.login() {
			return
		}
	}
	_ = d.show()
}
