package access_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// Many log in, are checked, lose rights and are shut out at once, by two
// processes; in the end both know the same.
func TestManyAtOnce(t *testing.T) {
	b := newBench(t, func(o *access.Options) { o.PollInterval = time.Millisecond })
	b.person("root", access.RoleAdmin)
	other := onDatabase(t, b.db, b.clock, func(o *access.Options) { o.PollInterval = time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	for _, s := range []*bench{b, other} {
		runs.Go(func() { wantNil(t, s.Run(ctx)) })
	}
	var wg sync.WaitGroup
	for i := range 8 {
		s := []*bench{b, other}[i%2]
		wg.Go(func() {
			for round := range 4 {
				if err := once(ctx, s, fmt.Sprintf("p%d-%d", i, round)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() { // readers of everything
			for range 200 {
				if _, err := s.Accounts(ctx); err != nil {
					t.Error(err)
				}
				s.Tokens("")
				s.Sessions("local:1")
				if _, err := s.Check(access.Local()); err == nil {
					t.Error("everybody may everything")
				}
				if _, err := b.reg.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	runs.Wait()
	for _, s := range []*bench{b, other} {
		again := onDatabase(t, b.db, b.clock)
		want, _ := again.Accounts(t.Context())
		if err := s.same(t, want); err != nil {
			t.Error(err)
		}
	}
}

// same compares the accounts with those of a fresh start, once it has seen all changes.
func (b *bench) same(t *testing.T, want []access.Account) error {
	// A login looks for changes first.
	if _, _, err := b.SignIn(t.Context(), "nobody", "x", here); err == nil {
		return errors.New("nobody logged in")
	}
	got, err := b.Accounts(t.Context())
	if err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d accounts, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Subject != want[i].Subject || got[i].Disabled != want[i].Disabled || got[i].Tokens != want[i].Tokens || got[i].Sessions != want[i].Sessions {
			return fmt.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	return nil
}

// once is the life of one account.
func once(ctx context.Context, s *bench, name string) error {
	a, err := s.CreateAccount(ctx, access.NewAccount{Username: name, Password: password, Roles: []string{"editor"}})
	if err != nil {
		return err
	}
	// From an address of its own: failures are counted from the beginning on.
	secret, p, err := s.SignIn(ctx, name, password, access.Client{Address: name})
	if err != nil {
		return err
	}
	tokenSecret, _, err := s.CreateToken(ctx, p, access.NewToken{Name: "x", Roles: []string{"viewer"}, Lifetime: time.Hour})
	if err != nil {
		return err
	}
	for _, f := range []func() error{
		func() error { _, err := s.Session(secret); return err },
		func() error { _, err := s.APIToken(tokenSecret); return err },
		func() error { _, err := s.Check(p); return err },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	if _, err := s.ChangeAccount(ctx, a.ID, access.AccountChange{Roles: &[]string{"viewer"}}); err != nil {
		return err
	}
	if q, err := s.Check(p); err != nil || q.Has(access.RoleEditor) {
		return fmt.Errorf("still %+v, %w", q, err)
	}
	if _, err := s.ChangeAccount(ctx, a.ID, access.AccountChange{Disabled: new(true)}); err != nil {
		return err
	}
	if _, err := s.Check(p); fleet.KindOf(err) != fleet.Unauthenticated {
		return fmt.Errorf("disabled, and got %w", err)
	}
	if _, err := s.APIToken(tokenSecret); fleet.KindOf(err) != fleet.Unauthenticated {
		return fmt.Errorf("disabled, and got %w", err)
	}
	if a.ID%3 == 0 {
		return s.DeleteAccount(ctx, a.ID)
	}
	return nil
}

func BenchmarkSession(b *testing.B) {
	s := newBench(b)
	s.person("ann", access.RoleAdmin)
	secret, p := s.signIn("ann")
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Session(secret); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Check(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("at once", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Session(secret); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkAPIToken(b *testing.B) {
	s := newBench(b)
	s.person("ann", access.RoleAdmin)
	_, p := s.signIn("ann")
	secret, _, err := s.CreateToken(b.Context(), p, access.NewToken{Name: "x", Roles: []string{"viewer", "pipeline"}, Limit: access.Limit{Tags: []string{"lab"}}, Lifetime: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.APIToken(secret); err != nil {
			b.Fatal(err)
		}
	}
}
