package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/access"
	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testKey = "a key for tests only"

// bench is an issuer with its database and its HTTP server.
type bench struct {
	*local.Issuer
	t    testing.TB
	db   *sqlstore.DB
	path string
	url  string
	skip atomic.Int64 // by how much the issuer's clock is ahead, in nanoseconds
}

func open(t testing.TB, change ...func(*local.Options)) *bench {
	t.Helper()
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "signalbox.db")}
	var err error
	if b.db, err = sqlstore.Open(context.Background(), b.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.db.Close(); err != nil {
			t.Error(err)
		}
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.Handler().ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	b.url = server.URL
	b.Issuer = b.another(b.db, change...)
	return b
}

// another returns an issuer over the same or another database, as in a second process.
func (b *bench) another(db registry.ClientStore, change ...func(*local.Options)) *local.Issuer {
	b.t.Helper()
	i, err := b.try(db, change...)
	if err != nil {
		b.t.Fatal(err)
	}
	return i
}

func (b *bench) try(db registry.ClientStore, change ...func(*local.Options)) (*local.Issuer, error) {
	box, err := secret.NewBox(testKey, "device credentials")
	if err != nil {
		b.t.Fatal(err)
	}
	o := local.Options{
		Store: db, Box: box, Log: slog.New(slog.DiscardHandler), URL: b.url, Audience: "signalbox",
		Registerer: prometheus.NewRegistry(), Now: func() time.Time { return time.Now().Add(time.Duration(b.skip.Load())) },
	}
	for _, f := range change {
		f(&o)
	}
	return local.New(context.Background(), o)
}

// ahead moves the issuer's clock.
func (b *bench) ahead(d time.Duration) { b.skip.Add(int64(d)) }

// run runs an issuer until the test ends.
func run(t testing.TB, i *local.Issuer) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var device = registry.Client{ID: "iotdevice-relay-abcd2345", Name: "Relay", Description: "x", Enabled: true}

func (b *bench) ensure(c registry.Client) (text string) {
	b.t.Helper()
	if _, err := b.Ensure(context.Background(), c); err != nil {
		b.t.Fatal(err)
	}
	text, err := b.Secret(context.Background(), c.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// token gets one as a device does, with a well-known OAuth2 client.
func (b *bench) token(id, text string, style oauth2.AuthStyle) (*oauth2.Token, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c := clientcredentials.Config{ClientID: id, ClientSecret: text, TokenURL: b.url + local.TokenPath, AuthStyle: style}
	return c.Token(context.WithValue(context.Background(), oauth2.HTTPClient, client))
}

func (b *bench) mustToken(id, text string) string {
	b.t.Helper()
	t, err := b.token(id, text, oauth2.AuthStyleInParams)
	if err != nil {
		b.t.Fatal(err)
	}
	return t.AccessToken
}

// post sends a form and returns the answer; set changes the request.
func (b *bench) post(form url.Values, set ...func(*http.Request)) (status int, header http.Header, body map[string]any) {
	b.t.Helper()
	req := httptest.NewRequest(http.MethodPost, local.TokenPath, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, f := range set {
		f(req)
	}
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, req)
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		b.t.Errorf("%d with %q: %v", w.Code, w.Body, err)
	}
	return w.Code, w.Header(), body
}

func (b *bench) get(path string, into any) {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusOK {
		b.t.Fatalf("GET %s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		b.t.Fatal(err)
	}
}

// denied checks why a token is refused; 0 means that it is not.
func denied(t testing.TB, i *local.Issuer, token string, want access.Reason) {
	t.Helper()
	_, err := i.Verify(context.Background(), token)
	got, ok := access.ReasonOf(err)
	if (err != nil) != ok || got != want {
		t.Errorf("verified with %v, want %v", err, want)
	}
}

func TestConformance(t *testing.T) {
	conformance.Issuer(t, func(t *testing.T) conformance.IssuerCase {
		b := open(t)
		return conformance.IssuerCase{Issuer: b, Token: func(_ context.Context, id, text string) error {
			_, err := b.token(id, text, oauth2.AuthStyleInHeader)
			return err
		}}
	})
}

func TestAnotherSecretKey(t *testing.T) {
	b := open(t)
	b.ensure(device)
	other, err := secret.NewBox(testKey+"?", "device credentials")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.try(b.db, func(o *local.Options) { o.Box = other }); !errors.Is(err, secret.ErrKey) {
		t.Errorf("started with another key: %v", err)
	}
}

func TestNothingIsReadableInTheDatabase(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	all, err := b.db.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(all)
	if err != nil || len(all.Clients) != 1 || len(all.Keys) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if strings.Contains(string(raw), text) || strings.Contains(string(raw), "PRIVATE") {
		t.Error("a secret is stored as it is")
	}
}

func TestTwoSecrets(t *testing.T) {
	b := open(t)
	ctx := t.Context()
	first := b.ensure(device)
	id, second, err := b.AddSecret(ctx, device.ID)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := b.Secret(ctx, device.ID); err != nil || now != second || second == first {
		t.Errorf("the current secret is not the newest: %v", err)
	}
	a, z := b.mustToken(device.ID, first), b.mustToken(device.ID, second)
	ca, err := b.Verify(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	cz, err := b.Verify(ctx, z)
	if err != nil || cz.Credential != id || ca.Credential == id {
		t.Errorf("the tokens name %q and %q, want the latter %q; %v", ca.Credential, cz.Credential, id, err)
	}
	if _, _, err := b.AddSecret(ctx, device.ID); fleet.KindOf(err) != fleet.InvalidOperation {
		t.Errorf("a third secret: %v", err)
	}
	if err := b.RevokeSecret(ctx, device.ID, ca.Credential); err != nil {
		t.Fatal(err)
	}
	denied(t, b.Issuer, a, access.Revoked)
	denied(t, b.Issuer, z, 0)
	if _, err := b.token(device.ID, first, oauth2.AuthStyleInParams); err == nil {
		t.Error("a revoked secret got a token")
	}
	f := func(client, id string, want fleet.Kind) {
		t.Helper()
		if err := b.RevokeSecret(ctx, client, id); fleet.KindOf(err) != want || err == nil {
			t.Errorf("got %v", err)
		}
	}
	f(device.ID, id, fleet.InvalidOperation) // the last one
	f(device.ID, ca.Credential, fleet.NotFound)
	f(device.ID, "99", fleet.NotFound)
	f("iotdevice-relay-zzzzzzzz", id, fleet.NotFound)
}

func TestVerifySecret(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	f := func(id, text string, want access.Reason) {
		t.Helper()
		c, err := b.VerifySecret(t.Context(), id, text)
		if got, _ := access.ReasonOf(err); got != want {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
		if err == nil && (c.ClientID != id || c.Credential == "" || c.Expires.IsZero()) {
			t.Errorf("%+v", c)
		}
	}
	f(device.ID, text, 0)
	f(device.ID, text+"x", access.Refused)
	f(device.ID, "", access.Refused)
	f("iotdevice-relay-zzzzzzzz", text, access.Refused)
	f("", "", access.Refused)
	off := device
	off.Enabled = false
	b.ensure(off)
	f(device.ID, text, access.Revoked)
}

// A second process sees what the first one changes, and the same keys.
func TestTwoProcesses(t *testing.T) {
	b := open(t)
	text := b.ensure(device)
	db, err := sqlstore.Open(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other := b.another(db, func(o *local.Options) { o.Poll = 2 * time.Millisecond })
	token := b.mustToken(device.ID, text)
	denied(t, other, token, 0)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	defer func() { cancel(); <-done }()
	off := device
	off.Enabled = false
	b.ensure(off)
	within(t, func() bool { _, err := other.Verify(t.Context(), token); return err != nil })
	denied(t, other, token, access.Revoked)
	if err := b.Delete(t.Context(), device.ID); err != nil {
		t.Fatal(err)
	}
	if s, err := other.Status(t.Context(), device.ID); err != nil || s.Exists {
		t.Errorf("%+v, %v", s, err) // Status itself looks
	}
}

// What one process gives out another takes at once, though it has not looked for
// changes yet: the secret of a client that is new, a second one, a token of it, and
// a client that is enabled again.
func TestAnotherProcessTakesAtOnce(t *testing.T) {
	b := open(t)
	db, err := sqlstore.Open(t.Context(), b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other := b.another(db) // its Run is not called, so it never looks by itself
	takes := func(text string) {
		t.Helper()
		denied(t, other, b.mustToken(device.ID, text), 0)
		if _, err := other.VerifySecret(t.Context(), device.ID, text); err != nil {
			t.Error(err)
		}
	}
	takes(b.ensure(device))
	_, second, err := b.AddSecret(t.Context(), device.ID)
	if err != nil {
		t.Fatal(err)
	}
	takes(second)
	off := device
	off.Enabled = false
	b.ensure(off)
	if _, err := other.VerifySecret(t.Context(), device.ID, "wrong"); err == nil { // so that it knows
		t.Error("a wrong secret was taken")
	}
	takes(b.ensure(device))
}

// within waits for what another goroutine does on a clock of its own.
func within(t testing.TB, f func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it never came")
		}
	}
}
