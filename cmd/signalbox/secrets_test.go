package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/postgrestest"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
)

// nobodyIsTold is a notifier of a broker on which nobody is.
type nobodyIsTold struct{}

func (nobodyIsTold) Tell(context.Context, int64, string, int64) error   { return nil }
func (nobodyIsTold) Remind(context.Context, int64, string, int64) error { return nil }
func (nobodyIsTold) Clear(context.Context, int64, string) error         { return nil }

// keeper is what a server under one key has of a database.
type keeper struct {
	t        *testing.T
	db       *sqlstore.DB
	issuer   *local.Issuer
	registry *registry.Service
	runner   *rotation.Runner
}

func keeps(t *testing.T, dsn, key string) (*keeper, error) {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	box := func(purpose string) *secret.Box {
		b, err := secret.NewBox(key, purpose)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	k := &keeper{t: t, db: db}
	if k.issuer, err = local.New(t.Context(), local.Options{Store: db, Box: box("device credentials"), URL: "http://localhost", Audience: "signalbox"}); err != nil {
		return nil, err
	}
	if k.registry, err = registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithIssuer(k.issuer)); err != nil {
		t.Fatal(err)
	}
	k.runner = rotation.NewRunner(rotation.Options{Store: db, Issuer: k.issuer, Notifier: nobodyIsTold{}, Box: box("rotation"), Policy: rotation.Policy{Timeout: time.Hour, Tries: 3}})
	return k, nil
}

// token returns what a secret gets of the issuer.
func (k *keeper) token(d fleet.Device, text string) (string, bool) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {d.ClientID()}, "client_secret": {text}}
	q := httptest.NewRequest(http.MethodPost, local.TokenPath, strings.NewReader(form.Encode()))
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	k.issuer.Handler().ServeHTTP(w, q)
	_, text, _ = strings.Cut(w.Body.String(), `"access_token":"`)
	text, _, _ = strings.Cut(text, `"`)
	return text, w.Code == http.StatusOK
}

// everySecret fills a database with one secret of every kind, and returns what has to be
// so under another key.
func everySecret(t *testing.T, dsn, key string) (check func(key string)) {
	t.Helper()
	k, err := keeps(t, dsn, key)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	model, err := k.registry.CreateModel(ctx, registry.NewModel{Code: "relay", Name: "Relay"})
	if err != nil {
		t.Fatal(err)
	}
	var all []fleet.Device
	for range 2 {
		d, err := k.registry.CreateDevice(ctx, model.ID, "{}")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	_, old, err := k.registry.Secret(ctx, all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	_, still, err := k.registry.Secret(ctx, all[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.runner.Queue(ctx, all[0].ID, true, true, rotation.Ask{}); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- k.runner.Run(run) }()
	token, _ := k.token(all[0], old)
	claims, err := k.issuer.Verify(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	var fresh string
	for end := time.Now().Add(time.Minute); fresh == "" || fresh == old; time.Sleep(50 * time.Millisecond) {
		if fresh, err = k.runner.Fetch(ctx, all[0].ID, claims); err != nil || time.Now().After(end) {
			t.Fatalf("no new secret, %v", err)
		}
	}
	if stop(); <-ended != nil {
		t.Fatal("it did not end")
	}
	if err := k.db.Close(); err != nil {
		t.Fatal(err)
	}
	return func(key string) {
		t.Helper()
		k, err := keeps(t, dsn, key)
		if err != nil {
			t.Fatalf("it does not start: %v", err)
		}
		defer k.db.Close()
		if _, err := k.issuer.Verify(t.Context(), token); err != nil {
			t.Errorf("a token of before: %v", err)
		}
		for n, text := range []string{old, fresh} {
			if _, ok := k.token(all[0], text); !ok {
				t.Errorf("secret %d of the device is not good", n)
			}
		}
		if _, ok := k.token(all[1], still); !ok {
			t.Error("the secret of the other device is not good")
		}
		if text, err := k.runner.Package(t.Context(), all[0].ID); err != nil || text != fresh {
			t.Errorf("the new secret of the rotation: %v", err)
		}
	}
}

func TestReencryptSQLite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	testReencrypt(t, dir, filepath.Join(dir, "data", "signalbox.db"), nil)
}

func TestReencryptPostgres(t *testing.T) {
	t.Parallel()
	dsn := postgrestest.Start(t).New()
	testReencrypt(t, t.TempDir(), dsn, []string{"DATABASE_URL=" + dsn})
}

func testReencrypt(t *testing.T, dir, dsn string, environ []string) {
	const first, second = "the first key of them", "the second key of them"
	f := func(code int, out string, environ2 []string, args ...string) {
		t.Helper()
		c := command(t, append(environ2, environ...), append([]string{"secrets", "reencrypt"}, args...)...)
		c.Dir = dir
		text, err := c.CombinedOutput()
		if got := exitOf(t, err); got != code || !strings.Contains(string(text), out) {
			t.Fatalf("%v: exit code %d, want %d and %q\n%s", args, got, code, out, text)
		}
	}
	if environ == nil {
		f(2, "is DATA_DIR right?", []string{"SECRET_KEY=" + second})
	}
	check := everySecret(t, dsn, first)
	old, key := []string{"SECRET_KEY_OLD=" + first}, []string{"SECRET_KEY=" + second}
	both := append(old, key...)
	f(2, "SECRET_KEY is not set", old)
	f(2, "The old key is missing", key)
	f(2, "has less than 16", append(key, "SECRET_KEY_OLD=short"))
	f(2, "are the same", append(key, "SECRET_KEY_OLD="+second))
	f(2, "SECRET_KEY is set", both, "--generate")
	f(2, "no such file", key, "--old-key-file=none")
	f(1, "cannot be read with the old key", append(key, "SECRET_KEY_OLD=some other key that it is not"))
	check(first)

	// While somebody may use it, nothing is done.
	held, err := os.OpenFile(filepath.Join(dir, "data", "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f(1, "is in use by another signalbox; stop the server first", both)
	held.Close()
	db, err := sqlstore.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := db.RotationLease(t.Context(), "a server", time.Now(), time.Now().Add(time.Hour)); err != nil || !got {
		t.Fatal(got, err)
	}
	f(1, "A server runs on the database", both)
	if err := db.ReleaseRotationLease(t.Context(), "a server"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	const some = "3 secrets of devices, 2 secrets of rotations, 1 signing keys. "
	f(0, "Would be encrypted with the new key: "+some+"0 were", both, "--dry-run")
	check(first)
	f(0, "Encrypted with the new key: "+some+"0 were", both)
	check(second)
	f(0, "0 secrets of devices, 0 secrets of rotations, 0 signing keys. 6 were", both) // again

	// And under one that is made, with the old one from a file. Interrupted before
	// the file is in place, the same command does the rest.
	path := filepath.Join(dir, "data", "secret.key")
	if err := os.WriteFile(filepath.Join(dir, "old"), []byte(second+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(0, "Would be", nil, "--generate", "--old-key-file=old", "--dry-run")
	if _, err := os.Stat(path); err == nil {
		t.Error("a dry run leaves a key")
	}
	f(0, "The new key is in secret.key", nil, "--generate", "--old-key-file=old")
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check(strings.TrimSpace(string(made)))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Rename(path, path+".new"); err != nil {
		t.Fatal(err)
	}
	f(0, "6 were before", nil, "--generate", "--old-key-file=old")
	if again, err := os.ReadFile(path); err != nil || string(again) != string(made) {
		t.Errorf("another key, %v", err)
	}
	// From that file to another one.
	f(0, some, nil, "--generate")
	next, err := os.ReadFile(path)
	if err != nil || string(next) == string(made) {
		t.Fatalf("the same key, %v", err)
	}
	check(strings.TrimSpace(string(next)))
	if strings.Contains(fmt.Sprint(auditOf(t, dsn)), "secrets.reencrypt") == false {
		t.Error("not in the audit")
	}
}

// auditOf returns the actions in the audit.
func auditOf(t *testing.T, dsn string) (actions []string) {
	t.Helper()
	c := command(t, nil, "audit", "-n", "0")
	if strings.HasPrefix(dsn, "postgres") {
		c.Env = append(c.Env, "DATABASE_URL="+dsn)
	} else {
		c.Dir = filepath.Dir(filepath.Dir(dsn))
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Fields(string(out))
}
