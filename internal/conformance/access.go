package conformance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// Access checks that the stores which open returns keep the promises of
// access.Store. Each call of open returns an empty store; open sees to its end.
func Access(t *testing.T, open func(*testing.T) access.Store) {
	check := func(name string, f func(*testing.T, access.Store)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("round trip", accessRoundTrip)
	check("second of one name", accessExists)
	check("missing rows", accessMissing)
	check("ids are not reused", accessIDs)
	check("failed transaction leaves nothing", accessRollback)
	check("transactions are serial", accessSerial)
	check("uses", accessUses)
	check("events", accessEvents)
	check("events of many at once", accessEventsAtOnce)
	check("two services", accessTwoServices)
}

func changeAccess(t *testing.T, s access.Store, f func(access.Writer) error) {
	t.Helper()
	if err := s.ChangeAccess(t.Context(), func(w access.Writer, _ int64) error { return f(w) }); err != nil {
		t.Fatal(err)
	}
}

func loadAccess(t *testing.T, s access.Store) access.Stored {
	t.Helper()
	l, err := s.LoadAccess(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inOrder(l)
}

// inOrder sorts what a store may return in any order.
func inOrder(l access.Stored) access.Stored {
	slices.SortFunc(l.People, func(a, b access.StoredPerson) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(l.Sessions, func(a, b access.StoredSession) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(l.Tokens, func(a, b access.StoredToken) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(l.Revocations, func(a, b access.StoredRevocation) int { return cmp.Compare(a.Subject, b.Subject) })
	return l
}

// storedAccess fills a store with one of everything and returns that.
func storedAccess(t *testing.T, s access.Store) access.Stored {
	t.Helper()
	hour := epoch.Add(time.Hour)
	want := access.Stored{
		Version: 1,
		People: []access.StoredPerson{{
			Account: access.Account{
				Username: "ann", Name: "Änn 😀 '\"", Email: "a@b", Roles: []string{"admin", "viewer"},
				Limit: access.Limit{Models: []string{`m"`, "n,"}, Tags: []string{"[t]"}}, Disabled: true, CreatedAt: epoch, SeenAt: &hour,
			},
			Password: "$argon2id$",
		}, {
			Account: access.Account{Subject: "f:x", External: true, CreatedAt: hour},
		}},
		Sessions: []access.StoredSession{{
			ID: "s", Hash: strings.Repeat("ab", 32), Client: access.Client{Address: "::1", Agent: "x"},
			CreatedAt: epoch, SeenAt: epoch.Add(1000), ExpiresAt: epoch.Add(2000), EndsAt: epoch.Add(3000),
		}, {
			ID: "sid", CreatedAt: epoch, SeenAt: epoch, ExpiresAt: epoch, EndsAt: epoch,
		}},
		Tokens: []access.StoredToken{{
			TokenInfo: access.TokenInfo{
				Name: "ci", Hint: "sbt_", Roles: []string{"viewer"}, Limit: access.Limit{Tags: []string{"lab"}}, CreatedAt: epoch, ExpiresAt: hour, UsedAt: &hour,
			},
			Hash: strings.Repeat("cd", 32),
		}, {
			TokenInfo: access.TokenInfo{Name: "ci", CreatedAt: epoch, ExpiresAt: hour},
			Hash:      strings.Repeat("ef", 32),
		}},
		Revocations: []access.StoredRevocation{
			{Revocation: access.Revocation{Session: "sid", Until: hour}, At: epoch},
			{Revocation: access.Revocation{Subject: "f:x", Until: hour}, At: epoch, Keep: "kept"},
		},
	}
	changeAccess(t, s, func(w access.Writer) (err error) {
		for i := range want.People {
			p := &want.People[i]
			if p.ID, err = w.InsertPerson(t.Context(), *p); err != nil {
				return err
			}
		}
		want.People[0].Subject = fmt.Sprint("local:", want.People[0].ID)
		for i := range want.Sessions {
			want.Sessions[i].Person = want.People[i].ID
			if err = w.InsertSession(t.Context(), want.Sessions[i]); err != nil {
				return err
			}
		}
		for i := range want.Tokens {
			x := &want.Tokens[i]
			x.Person = want.People[1-i].ID
			if x.ID, err = w.InsertToken(t.Context(), *x); err != nil {
				return err
			}
		}
		for _, r := range want.Revocations {
			if err = w.PutRevocation(t.Context(), r); err != nil {
				return err
			}
		}
		within, err := w.LoadAccess(t.Context())
		if err == nil && len(within.People) != 2 {
			t.Errorf("a transaction does not see its own change: %+v", within)
		}
		return err
	})
	return want
}

func accessRoundTrip(t *testing.T, s access.Store) {
	ctx := t.Context()
	empty := loadAccess(t, s)
	if diff := gocmp.Diff(access.Stored{}, empty); diff != "" {
		t.Error(diff)
	}
	want := storedAccess(t, s)
	same := func() {
		t.Helper()
		if diff := gocmp.Diff(want, loadAccess(t, s)); diff != "" {
			t.Error(diff)
		}
		if v, err := s.AccessVersion(ctx); err != nil || v != want.Version {
			t.Errorf("version %d, %v, want %d", v, err, want.Version)
		}
	}
	same()
	p := &want.People[0]
	p.Name, p.Email, p.Password, p.Roles, p.Limit, p.Disabled = "", "", "other", nil, access.Limit{}, false
	want.Sessions[0].SeenAt, want.Sessions[0].ExpiresAt = epoch.Add(5000), epoch.Add(6000)
	want.Revocations[0].At, want.Revocations[0].Until, want.Revocations[0].Keep = epoch.Add(1000), epoch.Add(2000), "x"
	changeAccess(t, s, func(w access.Writer) error {
		return errors.Join(w.UpdatePerson(ctx, *p), w.ExtendSession(ctx, "s", epoch.Add(5000), epoch.Add(6000)), w.PutRevocation(ctx, want.Revocations[0]))
	})
	want.Version = 2
	same()
	changeAccess(t, s, func(w access.Writer) error {
		return errors.Join(w.DeleteSession(ctx, "s"), w.DeleteToken(ctx, want.Tokens[0].ID), w.DeleteRevocation(ctx, "", "sid"))
	})
	want.Sessions, want.Tokens, want.Revocations, want.Version = want.Sessions[1:], want.Tokens[1:], want.Revocations[1:], 3
	same()
	// Somebody goes with all they have.
	changeAccess(t, s, func(w access.Writer) error {
		return errors.Join(w.DeletePerson(ctx, want.People[0].ID), w.DeletePerson(ctx, want.People[1].ID))
	})
	want.People, want.Sessions, want.Tokens, want.Version = nil, nil, nil, 4
	same()
}

func accessExists(t *testing.T, s access.Store) {
	want := storedAccess(t, s)
	ctx := t.Context()
	f := func(kind fleet.Kind, f func(access.Writer) error) {
		t.Helper()
		wantKind(t, s.ChangeAccess(ctx, func(w access.Writer, _ int64) error { return f(w) }), kind)
	}
	f(fleet.Exists, func(w access.Writer) error {
		_, err := w.InsertPerson(ctx, access.StoredPerson{Account: access.Account{Username: "ann"}})
		return err
	})
	f(fleet.Exists, func(w access.Writer) error {
		_, err := w.InsertPerson(ctx, access.StoredPerson{Account: access.Account{Subject: "f:x", External: true}})
		return err
	})
	f(fleet.Exists, func(w access.Writer) error {
		return w.InsertSession(ctx, access.StoredSession{ID: "s", Person: want.People[0].ID})
	})
	// Several external people and sessions, which have no username and no secret.
	changeAccess(t, s, func(w access.Writer) error {
		id, err := w.InsertPerson(ctx, access.StoredPerson{Account: access.Account{Subject: "f:y", External: true}})
		return errors.Join(err, w.InsertSession(ctx, access.StoredSession{ID: "sid2", Person: id}))
	})
}

func accessMissing(t *testing.T, s access.Store) {
	ctx := t.Context()
	f := func(f func(access.Writer) error) {
		t.Helper()
		wantKind(t, s.ChangeAccess(ctx, func(w access.Writer, _ int64) error { return f(w) }), fleet.NotFound)
	}
	f(func(w access.Writer) error {
		return w.UpdatePerson(ctx, access.StoredPerson{Account: access.Account{ID: 7}})
	})
	f(func(w access.Writer) error { return w.DeletePerson(ctx, 7) })
	f(func(w access.Writer) error { return w.ExtendSession(ctx, "x", epoch, epoch) })
	f(func(w access.Writer) error { return w.InsertSession(ctx, access.StoredSession{ID: "x", Person: 7}) })
	f(func(w access.Writer) error { _, err := w.InsertToken(ctx, access.StoredToken{Person: 7}); return err })
	changeAccess(t, s, func(w access.Writer) error { // what is to be gone may be gone
		return errors.Join(w.DeleteSession(ctx, "x"), w.DeleteToken(ctx, 7), w.DeleteRevocation(ctx, "x", "y"))
	})
	if err := s.NoteUses(ctx, []access.Use{{Person: 7, At: epoch}, {Token: 7, At: epoch}, {Session: "x", At: epoch, Expires: epoch}}); err != nil {
		t.Error(err)
	}
}

func accessIDs(t *testing.T, s access.Store) {
	var before int64
	for range 3 {
		var id int64
		changeAccess(t, s, func(w access.Writer) (err error) {
			id, err = w.InsertPerson(t.Context(), access.StoredPerson{Account: access.Account{Username: "ann"}})
			return err
		})
		if id <= before {
			t.Errorf("id %d after %d was deleted", id, before)
		}
		before = id
		changeAccess(t, s, func(w access.Writer) error { return w.DeletePerson(t.Context(), id) })
	}
}

func accessRollback(t *testing.T, s access.Store) {
	want := storedAccess(t, s)
	mine := errors.New("mine")
	change := func(w access.Writer, version int64) error {
		if version != want.Version+1 {
			t.Errorf("version %d", version)
		}
		return errors.Join(w.DeletePerson(t.Context(), want.People[0].ID), w.DeleteRevocation(t.Context(), "", "sid"))
	}
	if err := s.ChangeAccess(t.Context(), func(w access.Writer, v int64) error { return errors.Join(change(w, v), mine) }); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.ChangeAccess(ctx, func(w access.Writer, v int64) error { defer cancel(); return change(w, v) }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if diff := gocmp.Diff(want, loadAccess(t, s)); diff != "" {
		t.Error(diff)
	}
}

func accessSerial(t *testing.T, s access.Store) {
	const workers, rounds = 8, 10
	want := storedAccess(t, s)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				err := s.ChangeAccess(t.Context(), func(w access.Writer, version int64) error {
					l, err := w.LoadAccess(t.Context())
					if err != nil {
						return err
					}
					if l.Version != version {
						t.Errorf("version %d within %d", l.Version, version)
					}
					p := inOrder(l).People[0]
					p.Name += "-"
					return w.UpdatePerson(t.Context(), p)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	l := loadAccess(t, s)
	if n := len(l.People[0].Name) - len(want.People[0].Name); n != workers*rounds || l.Version != want.Version+workers*rounds {
		t.Errorf("%d changes are left, version %d", n, l.Version)
	}
}

func accessUses(t *testing.T, s access.Store) {
	want := storedAccess(t, s)
	note := func(at time.Time) {
		t.Helper()
		if err := s.NoteUses(t.Context(), []access.Use{
			{Person: want.People[0].ID, At: at}, {Person: want.People[1].ID, At: at}, {Token: want.Tokens[0].ID, At: at}, {Token: want.Tokens[1].ID, At: at},
			{Session: "s", At: at}, {Session: "sid", At: at, Expires: at.Add(time.Hour)},
		}); err != nil {
			t.Error(err)
		}
	}
	later := epoch.Add(2 * time.Hour)
	note(later)
	note(epoch.Add(-time.Hour)) // which is late, and says nothing new
	want.People[0].SeenAt, want.People[1].SeenAt, want.Tokens[0].UsedAt, want.Tokens[1].UsedAt = &later, &later, &later, &later
	want.Sessions[0].SeenAt, want.Sessions[1].SeenAt, want.Sessions[1].ExpiresAt = later, later, later.Add(time.Hour)
	if diff := gocmp.Diff(want, loadAccess(t, s)); diff != "" {
		t.Error(diff)
	}
}

func accessEvents(t *testing.T, s access.Store) {
	ctx := t.Context()
	var all []access.Event
	for i, e := range []access.Event{
		{Actor: "a", Name: "Änn", Kind: access.Person, Action: "device.update", Target: "device/1", Label: "x", Outcome: "ok", Address: "::1", Detail: `{"a":1}`},
		{Actor: "b", Action: "device.delete", Target: "device/12", Outcome: "forbidden"},
		{Action: "device", Target: "DEVICE/1"},
		{Actor: "a", Action: "login%"},
		{Actor: "a", Action: "login_x"},
	} {
		e.At = epoch.Add(time.Duration(i) * time.Minute)
		if err := s.InsertEvent(ctx, e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	page, err := s.EventPage(ctx, access.EventFilter{}, 100)
	if err != nil || len(page) != len(all) {
		t.Fatalf("got %+v, %v", page, err)
	}
	for i := range all {
		all[i].ID = page[len(page)-1-i].ID
	}
	f := func(filter access.EventFilter, limit int, want ...int) {
		t.Helper()
		got, err := s.EventPage(ctx, filter, limit)
		events := []access.Event{}
		for _, i := range want {
			events = append(events, all[i])
		}
		if diff := gocmp.Diff(events, got); diff != "" || err != nil {
			t.Error(err, diff)
		}
	}
	f(access.EventFilter{}, 100, 4, 3, 2, 1, 0)
	f(access.EventFilter{}, 2, 4, 3)
	f(access.EventFilter{Before: all[3].ID}, 2, 2, 1)
	f(access.EventFilter{Before: all[0].ID}, 2)
	f(access.EventFilter{Actor: "a"}, 100, 4, 3, 0)
	f(access.EventFilter{Actor: "A"}, 100)
	f(access.EventFilter{Action: "device"}, 100, 2)
	f(access.EventFilter{Action: "device*"}, 100, 2, 1, 0)
	f(access.EventFilter{Action: "device.*"}, 100, 1, 0)
	f(access.EventFilter{Action: "login%*"}, 100, 3)
	f(access.EventFilter{Action: "login_*"}, 100, 4)
	f(access.EventFilter{Action: "*"}, 100, 4, 3, 2, 1, 0)
	f(access.EventFilter{Target: "device/1"}, 100, 0)
	f(access.EventFilter{Target: "device/*", Actor: "b"}, 100, 1)
	f(access.EventFilter{Since: all[1].At, Until: all[3].At}, 100, 2, 1)
	f(access.EventFilter{Actor: "' OR 1=1 --"}, 100)

	for _, want := range []int{2, 1, 0} {
		if n, err := s.DeleteEvents(ctx, all[3].At, 2); err != nil || n != want {
			t.Errorf("%d deleted, %v, want %d", n, err, want)
		}
	}
	f(access.EventFilter{}, 100, 4, 3)
}

func accessEventsAtOnce(t *testing.T, s access.Store) {
	const workers, rounds = 8, 10
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range rounds {
				if err := s.InsertEvent(t.Context(), access.Event{At: epoch, Actor: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	page, err := s.EventPage(t.Context(), access.EventFilter{}, 1000)
	if err != nil || len(page) != workers*rounds {
		t.Errorf("%d events, %v", len(page), err)
	}
	for i := 1; i < len(page); i++ {
		if page[i].ID >= page[i-1].ID {
			t.Errorf("%d after %d", page[i].ID, page[i-1].ID)
		}
	}
}

// Two services over one database agree, and see each other's changes.
func accessTwoServices(t *testing.T, s access.Store) {
	service := func() *access.Service {
		a, err := access.New(t.Context(), access.Options{Store: s, Log: slog.New(slog.DiscardHandler), PollInterval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := service(), service()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	told := make(chan struct{}, 1)
	b.OnChange(func() {
		select {
		case told <- struct{}{}:
		default:
		}
	})
	for _, s := range []*access.Service{a, b} {
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	const password = "a good long password"
	secret, p, err := a.Setup(ctx, a.SetupSecret(), access.NewAccount{Username: "ann", Password: password}, access.Client{})
	if err != nil {
		t.Fatal(err)
	}
	eventually := func(what string, f func() bool) {
		t.Helper()
		for !f() {
			select {
			case <-told:
			case <-time.After(10 * time.Second):
				t.Fatal("not seen: " + what)
			}
		}
	}
	eventually("the session", func() bool { _, err := b.Session(secret); return err == nil })
	token, info, err := b.CreateToken(ctx, p, access.NewToken{Name: "ci", Roles: []string{"viewer"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	// Either may change what the other did, before it has seen it.
	if err := a.RevokeToken(ctx, p.Subject, info.ID); err != nil {
		t.Error(err)
	}
	eventually("the end of the token", func() bool { _, err := b.APIToken(token); return err != nil })
	if err := a.SignOut(ctx, p); err != nil {
		t.Error(err)
	}
	eventually("the logout", func() bool { _, err := b.Check(p); return err != nil })

	// Each makes the other's admin the last one: only one may be removed.
	other, err := b.CreateAccount(ctx, access.NewAccount{Username: "bob", Password: password, Roles: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	accounts, err := a.Accounts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	go func() { errs <- a.DeleteAccount(ctx, other.ID) }()
	go func() {
		_, err := b.ChangeAccount(ctx, accounts[0].ID, access.AccountChange{Disabled: new(true)})
		errs <- err
	}()
	first, second := <-errs, <-errs
	if (first == nil) == (second == nil) || fleet.KindOf(errors.Join(first, second)) != fleet.InvalidOperation {
		t.Errorf("got %v and %v", first, second)
	}
}
