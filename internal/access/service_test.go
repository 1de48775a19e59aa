package access_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/sqlstore"
)

const password = "a good long password"

var here = access.Client{Address: "192.0.2.1", Agent: "test"}

// clock is a time that only the test moves.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.at.Store(time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time          { return time.UnixMicro(c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(d.Microseconds()) }

// bench is a service with its database.
type bench struct {
	*access.Service
	t     testing.TB
	db    *sqlstore.DB
	store *brittle
	clock *clock
	reg   *prometheus.Registry
}

// brittle is a store that can be away.
type brittle struct {
	access.Store
	away atomic.Bool
	slow atomic.Bool
}

var errAway = fleet.E(fleet.Unavailable, nil, "Database is currently unavailable")

func (b *brittle) AccessVersion(ctx context.Context) (int64, error) {
	if b.away.Load() {
		return 0, errAway
	}
	return b.Store.AccessVersion(ctx)
}

func (b *brittle) ChangeAccess(ctx context.Context, f func(access.Writer, int64) error) error {
	if b.away.Load() {
		return errAway
	}
	return b.Store.ChangeAccess(ctx, f)
}

func (b *brittle) NoteUses(ctx context.Context, uses []access.Use) error {
	if b.away.Load() {
		return errAway
	}
	return b.Store.NoteUses(ctx, uses)
}

func (b *brittle) InsertEvent(ctx context.Context, e access.Event) error {
	if b.slow.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	if b.away.Load() {
		return errAway
	}
	return b.Store.InsertEvent(ctx, e)
}

func newBench(t testing.TB, change ...func(*access.Options)) *bench {
	t.Helper()
	db, err := sqlstore.Open(context.Background(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return onDatabase(t, db, newClock(), change...)
}

func onDatabase(t testing.TB, db *sqlstore.DB, c *clock, change ...func(*access.Options)) *bench {
	t.Helper()
	b := &bench{t: t, db: db, store: &brittle{Store: db}, clock: c, reg: prometheus.NewRegistry()}
	o := access.Options{
		Store: b.store, Log: slog.New(slog.DiscardHandler), Registerer: b.reg, Now: b.clock.now,
		SessionIdle: 8 * time.Hour, SessionMax: 24 * time.Hour,
	}
	for _, f := range change {
		f(&o)
	}
	s, err := access.New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	access.Cheap(s)
	b.Service = s
	return b
}

func (b *bench) person(name string, roles ...string) access.Account {
	b.t.Helper()
	a, err := b.CreateAccount(b.t.Context(), access.NewAccount{Username: name, Name: strings.ToUpper(name), Password: password, Roles: roles})
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) signIn(name string) (string, access.Principal) {
	b.t.Helper()
	secret, p, err := b.SignIn(b.t.Context(), name, password, here)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret, p
}

func wantKind(t testing.TB, err error, kind fleet.Kind) {
	t.Helper()
	if err == nil || fleet.KindOf(err) != kind {
		t.Errorf("got %v of kind %v, want %v", err, fleet.KindOf(err), kind)
	}
}

func wantReason(t testing.TB, err error, want access.Reason) {
	t.Helper()
	if got, ok := access.ReasonOf(err); !ok || got != want {
		t.Errorf("got %v, want the reason %v", err, want)
	}
}

func wantNil(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestSignIn(t *testing.T) {
	b := newBench(t)
	if b.HasPeople() {
		t.Error("there are people")
	}
	if _, err := b.Check(access.Local()); err != nil {
		t.Error(err)
	}
	told := 0
	b.OnChange(func() { told++ })
	a := b.person("ann", access.RoleAdmin)
	if told != 1 || !b.HasPeople() {
		t.Errorf("told %d times of the first person", told)
	}
	_, err := b.Check(access.Local())
	wantReason(t, err, access.Revoked)

	secret, p := b.signIn(" Ann ")
	want := access.Principal{
		Kind: access.Person, Subject: a.Subject, Name: "ANN", Roles: []string{"admin"}, Session: p.Session,
		Issued: b.clock.now().UTC(), Expires: b.clock.now().UTC().Add(8 * time.Hour),
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(secret, access.SessionPrefix) || len(secret) != len(access.SessionPrefix)+43 || strings.Contains(secret, p.Session) {
		t.Errorf("the secret is %q, the session %q", secret, p.Session)
	}
	if got, err := b.Session(secret); err != nil || !cmp.Equal(want, got) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := b.Check(p); err != nil || !cmp.Equal(want, got) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, wrong := range []string{"", "sbs_", secret + "x", secret[:len(secret)-1], strings.ToLower(secret)} {
		_, err := b.Session(wrong)
		wantReason(t, err, access.Revoked)
	}
	f := func(name, password string) {
		t.Helper()
		_, _, err := b.SignIn(t.Context(), name, password, here)
		wantReason(t, err, access.Refused)
	}
	f("ann", password+"x")
	f("ann", "")
	f("bob", password)
	f("", "")
	f("ann", strings.Repeat("x", 1<<20))
	if n := collect(t, b.reg, "access_sign_in_total", "refused"); n != 5 {
		t.Errorf("%v refused", n)
	}
}

// collect returns a counter of the registry.
func collect(t *testing.T, r *prometheus.Registry, name, status string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() == status) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}

func TestSessionEnds(t *testing.T) {
	b := newBench(t)
	b.person("ann", access.RoleAdmin)
	secret, p := b.signIn("ann")

	b.clock.advance(time.Hour)
	if _, renewed, err := b.Renew(t.Context(), secret); err != nil || renewed {
		t.Errorf("renewed after an hour: %v, %v", renewed, err)
	}
	b.clock.advance(2 * time.Hour)
	q, renewed, err := b.Renew(t.Context(), secret)
	if err != nil || !renewed || !q.Expires.Equal(b.clock.now().Add(8*time.Hour)) {
		t.Errorf("got %+v, %v, %v", q, renewed, err)
	}
	// Whoever holds something open for it learns of the new end, too.
	if q, err := b.Check(p); err != nil || !q.Expires.Equal(b.clock.now().Add(8*time.Hour)) {
		t.Errorf("got %+v, %v", q, err)
	}
	for range 5 {
		b.clock.advance(4 * time.Hour)
		_, _, err = b.Renew(t.Context(), secret)
		wantNil(t, err)
	}
	if q, err = b.Session(secret); err != nil || !q.Expires.Equal(p.Issued.Add(24*time.Hour)) {
		t.Errorf("it ends at %v, %v", q.Expires, err)
	}
	b.clock.advance(time.Hour)
	_, err = b.Session(secret)
	wantReason(t, err, access.Expired)
	_, _, err = b.Renew(t.Context(), secret)
	wantReason(t, err, access.Expired)
	_, err = b.Check(p)
	wantReason(t, err, access.Expired)
	if list := b.Sessions(p.Subject); len(list) != 0 {
		t.Errorf("open: %+v", list)
	}

	secret, _ = b.signIn("ann")
	b.clock.advance(8 * time.Hour)
	_, err = b.Session(secret)
	wantReason(t, err, access.Expired)
}

func TestSessionsOfOne(t *testing.T) {
	b := newBench(t)
	a := b.person("ann", access.RoleAdmin)
	var secrets []string
	var ps []access.Principal
	for range 3 {
		b.clock.advance(time.Minute)
		secret, p := b.signIn("ann")
		secrets, ps = append(secrets, secret), append(ps, p)
	}
	list := b.Sessions(a.Subject)
	if len(list) != 3 || list[0].ID != ps[2].Session || list[0].Client != here || !list[0].CreatedAt.Equal(b.clock.now()) {
		t.Errorf("got %+v", list)
	}
	wantKind(t, b.EndSession(t.Context(), "somebody else", ps[0].Session), fleet.NotFound)
	wantNil(t, b.EndSession(t.Context(), a.Subject, ps[0].Session))
	wantKind(t, b.EndSession(t.Context(), a.Subject, ps[0].Session), fleet.NotFound)
	_, err := b.Session(secrets[0])
	wantReason(t, err, access.Revoked)
	_, err = b.Check(ps[0])
	wantReason(t, err, access.Revoked)

	wantNil(t, b.EndSessions(t.Context(), a.Subject, ps[1].Session))
	_, err = b.Session(secrets[2])
	wantReason(t, err, access.Revoked)
	_, err = b.Session(secrets[1])
	wantNil(t, err)
	wantNil(t, b.SignOut(t.Context(), ps[1]))
	wantNil(t, b.SignOut(t.Context(), ps[1])) // twice does no harm
	_, err = b.Session(secrets[1])
	wantReason(t, err, access.Revoked)

	for range 101 {
		b.clock.advance(time.Second)
		b.signIn("ann")
	}
	if n := len(b.Sessions(a.Subject)); n != 100 {
		t.Errorf("%d sessions", n)
	}
}

func TestAccounts(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	create := func(n access.NewAccount) error {
		_, err := b.CreateAccount(ctx, n)
		return err
	}
	f := func(kind fleet.Kind, change func(*access.NewAccount)) {
		t.Helper()
		n := access.NewAccount{Username: "bob", Password: password, Roles: []string{"viewer"}}
		change(&n)
		wantKind(t, create(n), kind)
	}
	f(fleet.InvalidOperation, func(*access.NewAccount) {}) // the first has to be an admin
	f(fleet.InvalidOperation, func(n *access.NewAccount) { n.Roles, n.Limit.Tags = []string{"admin"}, []string{"x"} })
	ann := b.person("ann", access.RoleAdmin)

	f(fleet.Exists, func(n *access.NewAccount) { n.Username = "ANN" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Username = "" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Username = "b b" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Username = strings.Repeat("b", 65) })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Username = "bö" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Name = strings.Repeat("ö", 256) })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Name = "a\x00b" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Name = "a\xffb" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Email = strings.Repeat("x", 256) })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Password = "nine char" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Password = strings.Repeat("xy", 513) })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Username, n.Password = "bob.long.name", "Bob.Long.Name" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Password = "Password1234" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Password = "aaaaaaaaaaaaa" })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Roles = []string{"root"} })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Limit.Models = []string{""} })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Limit.Tags = []string{"a b"} })
	f(fleet.Invalid, func(n *access.NewAccount) { n.Limit.Tags = make([]string, 101) })

	bob, err := b.CreateAccount(ctx, access.NewAccount{
		Username: "Bob", Name: "Bob B.", Email: "bob@example.org", Password: strings.Repeat("xy", 512),
		Roles: []string{"viewer", "editor", "viewer"}, Limit: access.Limit{Tags: []string{"b", "a", "b"}},
	})
	want := access.Account{
		ID: bob.ID, Subject: fmt.Sprint("local:", bob.ID), Username: "bob", Name: "Bob B.", Email: "bob@example.org",
		Roles: []string{"editor", "viewer"}, Limit: access.Limit{Tags: []string{"a", "b"}}, CreatedAt: b.clock.now().UTC(),
	}
	if diff := cmp.Diff(want, bob); diff != "" || err != nil {
		t.Error(err, diff)
	}
	got, err := b.Account(ctx, bob.ID)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if list, err := b.Accounts(ctx); err != nil || len(list) != 2 || list[0].ID != ann.ID || list[1].ID != bob.ID {
		t.Errorf("got %+v, %v", list, err)
	}
	_, err = b.Account(ctx, 99)
	wantKind(t, err, fleet.NotFound)
	_, err = b.ChangeAccount(ctx, 99, access.AccountChange{})
	wantKind(t, err, fleet.NotFound)
	wantKind(t, b.DeleteAccount(ctx, 99), fleet.NotFound)
	wantKind(t, b.SetPassword(ctx, 99, password, ""), fleet.NotFound)

	// Rights are those of now.
	secret, p := b.signIn("ann")
	if got, err := b.ChangeAccount(ctx, bob.ID, access.AccountChange{Roles: &[]string{"admin"}, Limit: &access.Limit{}, Email: new("")}); err != nil ||
		!cmp.Equal(got.Roles, []string{"admin"}) || !got.Limit.None() || got.Email != "" || got.Name != "Bob B." {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := b.ChangeAccount(ctx, ann.ID, access.AccountChange{Roles: &[]string{"viewer"}, Limit: &access.Limit{Models: []string{"m"}}}); err != nil || got.Sessions != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	want2 := access.Limit{Models: []string{"m"}}
	for _, f := range []func() (access.Principal, error){
		func() (access.Principal, error) { return b.Session(secret) }, func() (access.Principal, error) { return b.Check(p) },
	} {
		if got, err := f(); err != nil || !cmp.Equal(got.Roles, []string{"viewer"}) || !cmp.Equal(got.Limit, want2) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	_, err = b.ChangeAccount(ctx, ann.ID, access.AccountChange{Roles: &[]string{"root"}})
	wantKind(t, err, fleet.Invalid)

	// Bob is the last admin now.
	last := func(c access.AccountChange) {
		t.Helper()
		_, err := b.ChangeAccount(ctx, bob.ID, c)
		wantKind(t, err, fleet.InvalidOperation)
	}
	last(access.AccountChange{Disabled: new(true)})
	last(access.AccountChange{Roles: &[]string{"editor", "pipeline", "viewer"}})
	last(access.AccountChange{Limit: &access.Limit{Models: []string{"m"}}})
	wantKind(t, b.DeleteAccount(ctx, bob.ID), fleet.InvalidOperation)

	_, err = b.ChangeAccount(ctx, ann.ID, access.AccountChange{Disabled: new(true)})
	wantNil(t, err)
	_, err = b.Session(secret)
	wantReason(t, err, access.Revoked)
	_, _, err = b.SignIn(ctx, "ann", password, here)
	wantReason(t, err, access.Refused)
	_, err = b.ChangeAccount(ctx, ann.ID, access.AccountChange{Disabled: new(false)})
	wantNil(t, err)
	_, err = b.Session(secret) // it does not come to life again
	wantReason(t, err, access.Revoked)
	secret, p = b.signIn("ann")
	wantNil(t, b.DeleteAccount(ctx, ann.ID))
	_, err = b.Session(secret)
	wantReason(t, err, access.Revoked)
	_, err = b.Check(p)
	wantReason(t, err, access.Revoked)
	_, _, err = b.SignIn(ctx, "ann", password, here)
	wantReason(t, err, access.Refused)
	if again := b.person("ann", "viewer"); again.Subject == ann.Subject {
		t.Error("a subject was given to somebody else")
	}
}

func TestPasswords(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	a := b.person("ann", access.RoleAdmin)
	first, p := b.signIn("ann")
	second, _ := b.signIn("ann")
	const other = "another good password"

	wantKind(t, b.ChangePassword(ctx, p, password+"x", other, here), fleet.Invalid)
	wantKind(t, b.ChangePassword(ctx, p, password, "short", here), fleet.Invalid)
	wantKind(t, b.ChangePassword(ctx, access.Local(), password, other, here), fleet.Forbidden)
	wantKind(t, b.ChangePassword(ctx, access.Principal{Kind: access.Token, Subject: p.Subject, Session: "signalbox-token-1"}, password, other, here), fleet.Forbidden)
	wantNil(t, b.ChangePassword(ctx, p, password, other, here))
	_, err := b.Session(first)
	wantNil(t, err)
	_, err = b.Session(second)
	wantReason(t, err, access.Revoked)
	_, _, err = b.SignIn(ctx, "ann", password, here)
	wantReason(t, err, access.Refused)
	_, _, err = b.SignIn(ctx, "ann", other, here)
	wantNil(t, err)

	wantKind(t, b.SetPassword(ctx, a.ID, "ANN", ""), fleet.Invalid)
	wantNil(t, b.SetPassword(ctx, a.ID, password, ""))
	_, err = b.Session(first)
	wantReason(t, err, access.Revoked)

	// Guessing the old one is as hard as logging in.
	_, p = b.signIn("ann")
	for range 5 {
		wantKind(t, b.ChangePassword(ctx, p, "not the password", other, here), fleet.Invalid)
	}
	wantKind(t, b.ChangePassword(ctx, p, password, other, here), fleet.TooMany)
	b.clock.advance(time.Hour)

	// The same letters, typed on another keyboard.
	wantNil(t, b.SetPassword(ctx, a.ID, "Kränkliche Bären", ""))
	_, _, err = b.SignIn(ctx, "ann", "Kra\u0308nkliche Ba\u0308ren", here)
	wantNil(t, err)
}

// A hash with other parameters becomes one with those of today.
func TestRehash(t *testing.T) {
	b := newBench(t)
	b.person("ann", access.RoleAdmin)
	hash := func() string {
		t.Helper()
		stored, err := b.db.LoadAccess(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stored.People[0].Password
	}
	if !strings.HasPrefix(hash(), "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Errorf("hash is %s", hash())
	}
	b.signIn("ann")
	before := hash()
	access.Dear(b.Service)
	b.signIn("ann")
	if !strings.HasPrefix(hash(), "$argon2id$v=19$m=16,t=1,p=1$") {
		t.Errorf("hash is %s after %s", hash(), before)
	}
	after := hash()
	b.signIn("ann")
	if hash() != after {
		t.Error("it was hashed once more")
	}
}

func TestGuessing(t *testing.T) {
	b := newBench(t)
	b.person("ann", access.RoleAdmin)
	b.person("bob", access.RoleViewer)
	ctx := t.Context()
	try := func(name, password, address string) (time.Duration, error) {
		_, _, err := b.SignIn(ctx, name, password, access.Client{Address: address})
		if e, ok := errors.AsType[*access.TooManyAttempts](err); ok {
			wantKind(t, err, fleet.TooMany)
			return e.RetryAfter, err
		}
		return 0, err
	}
	wrong := func(name, address string, wait time.Duration) {
		t.Helper()
		got, err := try(name, "wrong", address)
		if got != wait {
			t.Errorf("%s from %s waits %v, want %v (%v)", name, address, got, wait, err)
		}
	}
	const one, two = "192.0.2.1", "192.0.2.2"
	for range 5 {
		wrong("ann", one, 0)
	}
	wrong("ann", one, time.Second)
	if wait, _ := try("ann", password, one); wait != time.Second { // even with the right one
		t.Errorf("waits %v", wait)
	}
	// Others are not held up, neither elsewhere nor here.
	if _, err := try("ann", password, two); err != nil {
		t.Error(err)
	}
	if _, err := try("bob", password, one); err != nil {
		t.Error(err)
	}
	wrong("ann", one, time.Second) // a success of bob's, or elsewhere, changes nothing
	for _, next := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		b.clock.advance(next * time.Second)
		wrong("ann", one, 0)
		if wait, _ := try("ann", "wrong", one); wait != min(2*next, 300)*time.Second {
			t.Errorf("after %d s: waits %v", next, wait)
		}
	}
	b.clock.advance(300 * time.Second)
	if _, err := try("ann", password, one); err != nil { // and the right one ends it
		t.Error(err)
	}
	for range 5 {
		wrong("ann", one, 0)
	}
	wrong("ann", one, time.Second)
	b.clock.advance(time.Hour) // as time does
	for range 5 {
		wrong("ann", one, 0)
	}

	// Many names from one address; who has an account gains nothing by it.
	b.clock.advance(time.Hour)
	for i := range 20 {
		wrong(fmt.Sprint("name", i), "2001:db8::1", 0)
		if i == 10 {
			if _, err := try("bob", password, "2001:db8::1"); err != nil {
				t.Error(err)
			}
		}
	}
	wrong("another", "2001:db8::2", time.Second) // the same network
	wrong("another", "2001:db8:0:1::2", 0)
}

// Many at once are counted one by one.
func TestGuessingAtOnce(t *testing.T) {
	b := newBench(t)
	b.person("ann", access.RoleAdmin)
	var refused, waits atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, _, err := b.SignIn(t.Context(), "ann", "wrong", here)
			if fleet.KindOf(err) == fleet.TooMany {
				waits.Add(1)
			} else if _, ok := access.ReasonOf(err); ok {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if refused.Load() != 5 || waits.Load() != 45 {
		t.Errorf("%d were tried, %d had to wait", refused.Load(), waits.Load())
	}
}

func TestSetup(t *testing.T) {
	b := newBench(t)
	other := onDatabase(t, b.db, b.clock) // another process
	setup := b.SetupSecret()
	n := access.NewAccount{Username: "ann", Password: password, Roles: []string{"viewer"}}
	if setup == "" || setup == other.SetupSecret() {
		t.Errorf("the secrets are %q and %q", setup, other.SetupSecret())
	}
	for _, wrong := range []string{"", setup + "x", setup[1:], other.SetupSecret()} {
		_, _, err := b.Setup(t.Context(), wrong, n, here)
		wantKind(t, err, fleet.Forbidden)
	}
	_, _, err := b.Setup(t.Context(), setup, access.NewAccount{Username: "ann", Password: "short"}, here)
	wantKind(t, err, fleet.Invalid)
	secret, p, err := b.Setup(t.Context(), setup, n, here)
	if err != nil || !p.Has(access.RoleAdmin) {
		t.Errorf("got %+v, %v", p, err)
	}
	if got, err := b.Session(secret); err != nil || !cmp.Equal(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
	if s := b.SetupSecret(); s != "" {
		t.Errorf("the secret is %q", s)
	}
	n.Username = "eve"
	_, _, err = b.Setup(t.Context(), setup, n, here)
	wantKind(t, err, fleet.Forbidden)
	// The other process has not seen it yet, and does not believe in its own.
	_, _, err = other.Setup(t.Context(), other.SetupSecret(), n, here)
	wantKind(t, err, fleet.Forbidden)
	if other.SetupSecret() != "" || !other.HasPeople() {
		t.Error("the other process has not learnt of it")
	}
}

func TestSetupRace(t *testing.T) {
	b := newBench(t)
	other := onDatabase(t, b.db, b.clock)
	var done atomic.Int64
	var wg sync.WaitGroup
	for i, s := range []*bench{b, other, b, other} {
		wg.Go(func() {
			_, _, err := s.Setup(t.Context(), s.SetupSecret(), access.NewAccount{Username: fmt.Sprint("ann", i), Password: password}, here)
			if err == nil {
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1 {
		t.Errorf("%d first admins", done.Load())
	}
}

func TestTokens(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.person("root", access.RoleAdmin)
	a := b.person("ann", access.RoleEditor)
	_, ann := b.signIn("ann")
	day := 24 * time.Hour
	create := func(owner access.Principal, n access.NewToken) error {
		_, _, err := b.CreateToken(ctx, owner, n)
		return err
	}
	f := func(kind fleet.Kind, change func(*access.NewToken)) {
		t.Helper()
		n := access.NewToken{Name: "x", Roles: []string{"viewer"}, Lifetime: day}
		change(&n)
		wantKind(t, create(ann, n), kind)
	}
	f(fleet.Invalid, func(n *access.NewToken) { n.Name = " " })
	f(fleet.Invalid, func(n *access.NewToken) { n.Name = strings.Repeat("ö", 101) })
	f(fleet.Invalid, func(n *access.NewToken) { n.Name = "a\x00" })
	f(fleet.Invalid, func(n *access.NewToken) { n.Roles = nil })
	f(fleet.Invalid, func(n *access.NewToken) { n.Roles = []string{"root"} })
	f(fleet.Invalid, func(n *access.NewToken) { n.Lifetime = 0 })
	f(fleet.Invalid, func(n *access.NewToken) { n.Lifetime = 366*day + 1 })
	f(fleet.Invalid, func(n *access.NewToken) { n.Limit.Models = []string{""} })
	f(fleet.Forbidden, func(n *access.NewToken) { n.Roles = []string{"viewer", "admin"} })
	f(fleet.Forbidden, func(n *access.NewToken) { n.Roles = []string{"pipeline"} })
	wantKind(t, create(access.Local(), access.NewToken{Name: "x", Roles: []string{"viewer"}, Lifetime: day}), fleet.Forbidden)

	secret, info, err := b.CreateToken(ctx, ann, access.NewToken{Name: "ci", Roles: []string{"editor"}, Limit: access.Limit{Tags: []string{"lab"}}, Lifetime: 366 * day})
	if err != nil {
		t.Fatal(err)
	}
	want := access.TokenInfo{
		ID: info.ID, Subject: a.Subject, Name: "ci", Hint: secret[:8], Roles: []string{"editor"}, Limit: access.Limit{Tags: []string{"lab"}},
		CreatedAt: b.clock.now().UTC(), ExpiresAt: b.clock.now().UTC().Add(366 * day),
	}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Error(diff)
	}
	f(fleet.Exists, func(n *access.NewToken) { n.Name = "ci" })
	p, err := b.APIToken(secret)
	if diff := cmp.Diff(access.Principal{
		Kind: access.Token, Subject: a.Subject, Name: "ANN (ci)", Roles: []string{"editor"}, Limit: access.Limit{Tags: []string{"lab"}},
		Session: p.Session, Issued: want.CreatedAt, Expires: want.ExpiresAt,
	}, p); diff != "" || err != nil {
		t.Error(err, diff)
	}
	wantKind(t, create(p, access.NewToken{Name: "child", Roles: []string{"viewer"}, Lifetime: day}), fleet.Forbidden)
	want.UsedAt = new(b.clock.now().UTC())
	for _, subject := range []string{"", a.Subject} {
		if diff := cmp.Diff([]access.TokenInfo{want}, b.Tokens(subject)); diff != "" {
			t.Error(diff)
		}
	}
	if len(b.Tokens("somebody")) != 0 {
		t.Error("somebody has tokens")
	}
	for _, wrong := range []string{"", "sbt_", secret + "x", secret[:len(secret)-1]} {
		_, err := b.APIToken(wrong)
		wantReason(t, err, access.Revoked)
	}

	// It may never more than its owner.
	change := func(c access.AccountChange) {
		t.Helper()
		if _, err := b.ChangeAccount(ctx, a.ID, c); err != nil {
			t.Error(err)
		}
	}
	change(access.AccountChange{Roles: &[]string{"viewer"}})
	for _, f := range []func() (access.Principal, error){
		func() (access.Principal, error) { return b.APIToken(secret) }, func() (access.Principal, error) { return b.Check(p) },
	} {
		if got, err := f(); err != nil || !cmp.Equal(got.Roles, []string{"viewer"}) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	change(access.AccountChange{Roles: &[]string{"admin"}})
	if got, err := b.APIToken(secret); err != nil || !cmp.Equal(got.Roles, []string{"editor"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	change(access.AccountChange{Disabled: new(true)})
	_, err = b.APIToken(secret)
	wantReason(t, err, access.Revoked)
	_, err = b.Check(p)
	wantReason(t, err, access.Revoked)
	change(access.AccountChange{Disabled: new(false)})
	_, err = b.APIToken(secret)
	wantNil(t, err)

	wantKind(t, b.RevokeToken(ctx, "somebody", info.ID), fleet.NotFound)
	wantNil(t, b.RevokeToken(ctx, "", info.ID))
	wantKind(t, b.RevokeToken(ctx, "", info.ID), fleet.NotFound)
	_, err = b.APIToken(secret)
	wantReason(t, err, access.Revoked)
	_, err = b.Check(p)
	wantReason(t, err, access.Revoked)

	_, ann = b.signIn("ann")
	secret, info, err = b.CreateToken(ctx, ann, access.NewToken{Name: "ci", Roles: []string{"viewer"}, Lifetime: day})
	wantNil(t, err)
	b.clock.advance(day)
	_, err = b.APIToken(secret)
	wantReason(t, err, access.Expired)
	if list := b.Tokens(""); len(list) != 0 {
		t.Errorf("got %+v", list)
	}
	_, ann = b.signIn("ann")
	wantNil(t, create(ann, access.NewToken{Name: "ci", Roles: []string{"viewer"}, Lifetime: day})) // the name is free again
	wantNil(t, b.DeleteAccount(ctx, a.ID))
	if list := b.Tokens(""); len(list) != 0 {
		t.Errorf("got %+v after %+v", list, info)
	}
}

func TestLimitedOwner(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.person("root", access.RoleAdmin)
	a, err := b.CreateAccount(ctx, access.NewAccount{
		Username: "ann", Password: password, Roles: []string{"editor"}, Limit: access.Limit{Models: []string{"m", "n"}, Tags: []string{"lab"}},
	})
	wantNil(t, err)
	_, ann := b.signIn("ann")
	f := func(name string, l access.Limit) (string, error) {
		secret, _, err := b.CreateToken(ctx, ann, access.NewToken{Name: name, Roles: []string{"viewer"}, Limit: l, Lifetime: time.Hour})
		return secret, err
	}
	_, err = f("x", access.Limit{Models: []string{"m", "other"}})
	wantKind(t, err, fleet.Forbidden)
	open, err := f("open", access.Limit{})
	wantNil(t, err)
	narrow, err := f("narrow", access.Limit{Models: []string{"m"}})
	wantNil(t, err)
	limit := func(secret string) access.Limit {
		t.Helper()
		p, err := b.APIToken(secret)
		wantNil(t, err)
		return p.Limit
	}
	if got := limit(open); !cmp.Equal(got, a.Limit) {
		t.Errorf("got %+v", got)
	}
	if got := limit(narrow); !cmp.Equal(got, access.Limit{Models: []string{"m"}}) {
		t.Errorf("got %+v", got)
	}
	// The owner loses the model, and keeps those of it in the lab.
	_, err = b.ChangeAccount(ctx, a.ID, access.AccountChange{Limit: &access.Limit{Tags: []string{"lab"}}})
	wantNil(t, err)
	got := limit(narrow)
	if got.None() || got.Allows("m", "") || !got.Allows("m", fleet.NewTags("lab")) || got.Allows("n", fleet.NewTags("lab")) || got.AllowsModel("m") {
		t.Errorf("got %+v", got)
	}
}

func TestExternal(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.person("root", access.RoleAdmin)
	now := b.clock.now().UTC()
	p := access.Principal{Kind: access.Person, Subject: "abc", Name: "Zoe", Roles: []string{"editor"}, Session: "sid-1", Issued: now, Expires: now.Add(time.Hour)}
	if got, err := b.Check(p); err != nil || !cmp.Equal(got, p) { // nobody knows them here
		t.Errorf("got %+v, %v", got, err)
	}
	wantNil(t, b.Entered(ctx, p, here))
	wantNil(t, b.Entered(ctx, p, here))
	list, err := b.Accounts(ctx)
	want := access.Account{ID: list[1].ID, Subject: "abc", External: true, Name: "Zoe", Roles: []string{"editor"}, CreatedAt: now, SeenAt: &now, Sessions: 1}
	if diff := cmp.Diff(want, list[1]); diff != "" || err != nil {
		t.Error(err, diff)
	}
	id := want.ID
	_, err = b.ChangeAccount(ctx, id, access.AccountChange{Roles: &[]string{"admin"}})
	wantKind(t, err, fleet.InvalidOperation)
	wantKind(t, b.SetPassword(ctx, id, password, ""), fleet.InvalidOperation)
	secret, _, err := b.CreateToken(ctx, p, access.NewToken{Name: "ci", Roles: []string{"editor"}, Lifetime: time.Hour})
	wantNil(t, err)

	// The next login brings other roles, which are those of the token then.
	p2 := p
	p2.Session, p2.Roles = "sid-2", []string{"viewer"}
	wantNil(t, b.Entered(ctx, p2, here))
	if got, err := b.APIToken(secret); err != nil || !cmp.Equal(got.Roles, []string{"viewer"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got := b.Sessions("abc"); len(got) != 2 {
		t.Errorf("got %+v", got)
	}

	// One session ends; then all but one; then those from before now.
	wantNil(t, b.EndSession(ctx, "abc", "sid-1"))
	_, err = b.Check(p)
	wantReason(t, err, access.Revoked)
	_, err = b.Check(p2)
	wantNil(t, err)
	nameless := p
	nameless.Session = ""
	_, err = b.Check(nameless)
	wantNil(t, err)
	b.clock.advance(time.Second)
	wantNil(t, b.EndSessions(ctx, "abc", "sid-2"))
	_, err = b.Check(p2)
	wantNil(t, err)
	_, err = b.Check(nameless)
	wantReason(t, err, access.Revoked)
	wantNil(t, b.EndSessions(ctx, "abc", ""))
	_, err = b.Check(p2)
	wantReason(t, err, access.Revoked)
	p3 := p
	p3.Session, p3.Issued = "sid-3", b.clock.now()
	_, err = b.Check(p3)
	wantNil(t, err)
	wantNil(t, b.Revoke(ctx, access.Revocation{Session: "sid-3"}))
	_, err = b.Check(p3)
	wantReason(t, err, access.Revoked)

	// Without a name for its session, a logout is of all that was given out.
	p4 := p3
	p4.Session = "sub:abc"
	_, err = b.Check(p4)
	wantNil(t, err)
	b.clock.advance(time.Second)
	wantNil(t, b.SignOut(ctx, p4))
	_, err = b.Check(p4)
	wantReason(t, err, access.Revoked)
	p4.Issued = b.clock.now()
	_, err = b.Check(p4)
	wantNil(t, err)
	b.clock.advance(time.Hour)
	_, err = b.Check(p4)
	wantReason(t, err, access.Expired)

	_, err = b.ChangeAccount(ctx, id, access.AccountChange{Disabled: new(true)})
	wantNil(t, err)
	p4.Expires = time.Time{}
	_, err = b.Check(p4)
	wantReason(t, err, access.Revoked)
	wantReason(t, b.Entered(ctx, p4, here), access.Refused)
	_, err = b.APIToken(secret)
	wantReason(t, err, access.Revoked)

	// A provider cannot speak for somebody with a password.
	_, root := b.signIn("root")
	forged := access.Principal{Kind: access.Person, Subject: root.Subject, Roles: []string{"admin"}}
	_, err = b.Check(forged)
	wantReason(t, err, access.Revoked)
	wantReason(t, b.Entered(ctx, forged, here), access.Refused)
	_, _, err = b.CreateToken(ctx, forged, access.NewToken{Name: "x", Roles: []string{"admin"}, Lifetime: time.Hour})
	wantReason(t, err, access.Revoked)
}

// A provider may call people and sessions what it likes.
func TestStrangeNames(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	_, info, err := b.CreateTokenFor(ctx, b.person("root", access.RoleAdmin).ID, access.NewToken{Name: "ci", Roles: []string{"admin"}, Lifetime: time.Hour})
	wantNil(t, err)
	eve := access.Principal{Kind: access.Person, Subject: "eve", Session: fmt.Sprint("signalbox-token-", info.ID), Roles: []string{"viewer"}}
	if got, err := b.Check(eve); err != nil || got.Subject != "eve" || got.Has(access.RoleEditor) { // not root's token
		t.Errorf("got %+v, %v", got, err)
	}
	for i, name := range []string{strings.Repeat("n", 300), strings.Repeat("n", 301), "a\x00b", "a\xffb", "a�b"} {
		now := b.clock.now()
		p := access.Principal{Kind: access.Person, Subject: name, Session: name + "-sid", Roles: []string{"viewer"}, Issued: now}
		wantNil(t, b.Entered(ctx, p, here))
		if list, err := b.Accounts(ctx); err != nil || len(list) != i+2 { // and root
			t.Errorf("%d accounts, %v", len(list), err)
		}
		if list := b.Sessions(name); len(list) != 1 {
			t.Errorf("got %+v", list)
		}
		_, err := b.Check(p)
		wantNil(t, err)
		wantNil(t, b.Revoke(ctx, access.Revocation{Session: p.Session}))
		_, err = b.Check(p)
		wantReason(t, err, access.Revoked)
		p.Session = name + "-other"
		wantNil(t, b.Entered(ctx, p, here))
		b.clock.advance(time.Second)
		wantNil(t, b.EndSessions(ctx, name, p.Session))
		_, err = b.Check(p)
		wantNil(t, err)
		wantNil(t, b.Revoke(ctx, access.Revocation{Subject: name}))
		_, err = b.Check(p)
		wantReason(t, err, access.Revoked)
	}
}

// What one process does, the others see.
func TestTwoProcesses(t *testing.T) {
	b := newBench(t)
	other := onDatabase(t, b.db, b.clock)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { wantNil(t, other.Run(ctx)) })
	defer wg.Wait()
	defer cancel()
	told := make(chan struct{}, 100)
	other.OnChange(func() { told <- struct{}{} })
	a := b.person("ann", access.RoleAdmin)
	<-told
	if !other.HasPeople() {
		t.Error("it has no people")
	}
	secret, p := b.signIn("ann")
	<-told
	if got, err := other.Session(secret); err != nil || !cmp.Equal(got, p) {
		t.Errorf("got %+v, %v", got, err)
	}
	bob := other.person("bob", access.RoleViewer) // which b has not seen
	if _, err := b.ChangeAccount(ctx, bob.ID, access.AccountChange{Name: new("Bob")}); err != nil {
		t.Error(err)
	}
	<-told // its own
	wantNil(t, b.EndSessions(ctx, a.Subject, ""))
	for {
		if _, err := other.Session(secret); err != nil {
			wantReason(t, err, access.Revoked)
			break
		}
		<-told
	}
	// A login sees a password of just now, whether Run has seen it or not.
	wantNil(t, other.SetPassword(ctx, a.ID, "another good password", ""))
	_, _, err := b.SignIn(ctx, "ann", "another good password", here)
	wantNil(t, err)
}

func TestRunKeepsHouse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "test.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b := onDatabase(t, db, nil, func(o *access.Options) {
			o.Now, o.AuditMaxAge, o.PollInterval = nil, 48*time.Hour, time.Hour
		})
		b.person("ann", access.RoleAdmin)
		secret, p := b.signIn("ann")
		tokenSecret, token, err := b.CreateToken(ctx, p, access.NewToken{Name: "x", Roles: []string{"viewer"}, Lifetime: time.Hour})
		wantNil(t, err)
		for range 600 { // more than are deleted at once
			b.Record(ctx, access.Event{Action: "old"})
		}
		wantNil(t, b.Revoke(ctx, access.Revocation{Session: "sid", Until: time.Now().Add(time.Hour)}))
		version := func() int64 {
			v, err := db.AccessVersion(ctx)
			wantNil(t, err)
			return v
		}
		before := version()
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()

		time.Sleep(30 * time.Second)
		_, err = b.Session(secret)
		wantNil(t, err)
		_, err = b.APIToken(tokenSecret)
		wantNil(t, err)
		used := time.Now().UTC().Truncate(time.Microsecond)
		time.Sleep(time.Minute)
		synctest.Wait()
		stored, err := db.LoadAccess(ctx)
		wantNil(t, err)
		if got := stored.Sessions[0].SeenAt; !got.Equal(used) {
			t.Errorf("the session was seen at %v, want %v", got, used)
		}
		if got := stored.Tokens[0].UsedAt; got == nil || !got.Equal(used) {
			t.Errorf("token %d was used at %v, want %v", token.ID, got, used)
		}
		if version() != before {
			t.Error("that moved the version")
		}

		time.Sleep(33 * time.Hour) // 8 h and a day after the last use
		synctest.Wait()
		stored, err = db.LoadAccess(ctx)
		if err != nil || len(stored.Sessions)+len(stored.Tokens)+len(stored.Revocations) != 0 {
			t.Errorf("left: %+v, %v", stored, err)
		}
		b.Record(ctx, access.Event{Action: "young"})
		time.Sleep(16 * time.Hour)
		synctest.Wait()
		var left []string
		for e, err := range b.Events(ctx, access.EventFilter{}) {
			wantNil(t, err)
			left = append(left, e.Action)
		}
		if !slices.Equal(left, []string{"young"}) {
			t.Errorf("%d events are left", len(left))
		}

		// The last uses are stored at the end.
		secret, _ = b.signIn("ann")
		time.Sleep(10 * time.Second)
		_, err = b.Session(secret)
		wantNil(t, err)
		cancel()
		wantNil(t, <-done)
		stored, err = db.LoadAccess(context.Background())
		if err != nil || time.Since(stored.Sessions[0].SeenAt) > time.Second {
			t.Errorf("got %+v, %v", stored.Sessions, err)
		}
	})
}

// Without a database those who are in stay in.
func TestDatabaseAway(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	a := b.person("ann", access.RoleAdmin)
	secret, p := b.signIn("ann")
	tokenSecret, _, err := b.CreateToken(ctx, p, access.NewToken{Name: "x", Roles: []string{"viewer"}, Lifetime: 100 * time.Hour})
	wantNil(t, err)
	b.store.away.Store(true)

	for range 2 {
		b.clock.advance(7 * time.Hour)
		if p, renewed, err := b.Renew(ctx, secret); err != nil || !renewed || !p.Expires.Equal(b.clock.now().Add(8*time.Hour)) {
			t.Errorf("got %+v, %v, %v", p, renewed, err)
		}
	}
	_, err = b.APIToken(tokenSecret)
	wantNil(t, err)
	_, err = b.Check(p)
	wantNil(t, err)
	_, _, err = b.SignIn(ctx, "ann", password, here)
	wantKind(t, err, fleet.Unavailable)
	_, err = b.CreateAccount(ctx, access.NewAccount{Username: "bob", Password: password})
	wantKind(t, err, fleet.Unavailable)
	wantKind(t, b.SignOut(ctx, p), fleet.Unavailable)
	b.Record(ctx, access.Event{Action: "x"})
	if n := collect(t, b.reg, "audit_failures_total", ""); n != 1 {
		t.Errorf("%v failures", n)
	}

	b.store.away.Store(false)
	run, cancel := context.WithCancel(ctx)
	cancel()
	wantNil(t, b.Run(run)) // notes what is not stored
	later := onDatabase(t, b.db, b.clock)
	if p, err := later.Session(secret); err != nil || !p.Expires.Equal(b.clock.now().Add(8*time.Hour)) {
		t.Errorf("another process has %+v, %v", p, err)
	}
	if list := b.Sessions(a.Subject); len(list) != 1 || !list[0].SeenAt.Equal(b.clock.now()) {
		t.Errorf("got %+v", list)
	}
}

func TestRecordWaitsNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, err := sqlstore.Open(context.Background(), filepath.Join(t.TempDir(), "test.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		b := onDatabase(t, db, nil, func(o *access.Options) { o.Now = nil })
		b.store.slow.Store(true)
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // the browser has gone
		start := time.Now()
		b.Record(ctx, access.Event{Action: "x"})
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("it took %v", d)
		}
		if n := collect(t, b.reg, "audit_failures_total", ""); n != 1 {
			t.Errorf("%v failures", n)
		}
		b.store.slow.Store(false)
		b.Record(ctx, access.Event{Action: "y"})
		for e, err := range b.Events(context.Background(), access.EventFilter{}) {
			if err != nil || e.Action != "y" {
				t.Errorf("got %+v, %v", e, err)
			}
		}
	})
}

func TestAudit(t *testing.T) {
	b := newBench(t)
	for i := range 1234 {
		b.Record(t.Context(), access.Event{Actor: "a", Action: fmt.Sprint("n", i), Outcome: "ok"})
	}
	n := 1234
	for e, err := range b.Events(t.Context(), access.EventFilter{}) {
		n--
		if err != nil || e.Action != fmt.Sprint("n", n) || !e.At.Equal(b.clock.now()) {
			t.Fatalf("got %+v, %v, want n%d", e, err, n)
		}
	}
	if n != 0 {
		t.Errorf("%d are missing", n)
	}
	b.Record(t.Context(), access.Event{Action: "bad", Actor: "a\x00\xff", Label: strings.Repeat("ö", 1000), Detail: strings.Repeat("x", 5000)})
	for e, err := range b.Events(t.Context(), access.EventFilter{Action: "bad"}) {
		if err != nil || e.Actor != "a��" || e.Label != strings.Repeat("ö", 127) || e.Detail != `{"omitted":"too long"}` {
			t.Errorf("got %+v, %v", e, err)
		}
	}
}
