package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/logs"
	"signalbox/internal/registry"
	"signalbox/internal/web"
)

// endless is a history of which there is always more. It tells of each reading.
type endless struct{ asked func(devices []string) }

func (endless) Count(context.Context, logs.Query) (int64, error) { return -1, nil }

func (h endless) Read(_ context.Context, q logs.Query) (logs.Result, error) {
	h.asked(q.Devices)
	return logs.Result{Lines: []logs.Line{{Device: "key00001", Received: time.Now(), Message: []byte("said")}}, More: true}, nil
}

// export asks for an export, and reports whether the answer was broken off.
func (s *site) export(path, accept string, headers ...string) (w *httptest.ResponseRecorder, broken bool) {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), "GET", path, nil)
	r.Header.Set("Accept", accept)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w = httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil {
			if err, _ := p.(error); !errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			broken = true
		}
	}()
	s.server.Handler().ServeHTTP(patient{w}, r)
	return w, false
}

// An export goes on for as long as who asked for it may see what comes: it is
// broken off when their right ends, and leaves out what they may not see any more.
func TestExportsEndWithTheirRight(t *testing.T) {
	identity := atHome(t)
	a := identity.Accounts
	var between func(page int, devices []string)
	page := 0
	s := newSite(t, func(o *web.Options) {
		o.Identity = identity
		o.History = endless{func(devices []string) {
			if page++; page > 20 {
				t.Error("it goes on and on")
				panic(http.ErrAbortHandler)
			}
			between(page, devices)
		}}
	})
	ctx := t.Context()
	for _, code := range []string{"relay", "boiler"} {
		if _, err := s.registry.CreateModel(ctx, registry.NewModel{Code: code, Name: code}); err != nil {
			t.Fatal(err)
		}
	}
	for _, model := range []int64{1, 2} {
		if _, err := s.registry.CreateDevice(ctx, model, "{}"); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	person := func() (p access.Account, session string) {
		t.Helper()
		n++
		name := fmt.Sprint("eve", n)
		p, err := a.CreateAccount(ctx, access.NewAccount{Username: name, Password: password, Roles: []string{"viewer"}})
		if err != nil {
			t.Fatal(err)
		}
		return p, s.signIn(name, password)
	}
	f := func(what, key string, then func() error) {
		t.Helper()
		page = 0
		between = func(page int, _ []string) {
			if page == 3 {
				if err := then(); err != nil {
					t.Error(err)
				}
			}
		}
		if w, broken := s.export("/api/logs", "text/plain", "Authorization", "Bearer "+key); !broken || page != 3 || !strings.Contains(w.Body.String(), "said") {
			t.Errorf("%s: broken off: %v, after %d pages: %.200s", what, broken, page, w.Body)
		}
	}
	eve, key := person()
	f("disabled", key, func() error {
		_, err := a.ChangeAccount(ctx, eve.ID, access.AccountChange{Disabled: new(true)})
		return err
	})
	eve, key = person()
	f("logged out everywhere", key, func() error { return a.EndSessions(ctx, eve.Subject, "") })
	eve, key = person()
	f("without a role", key, func() error {
		_, err := a.ChangeAccount(ctx, eve.ID, access.AccountChange{Roles: new([]string{"pipeline"})})
		return err
	})
	eve, _ = person()
	token, info, err := a.CreateTokenFor(ctx, eve.ID, access.NewToken{Name: "ci", Roles: []string{"viewer"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f("an API token", token, func() error { return a.RevokeToken(ctx, "", info.ID) })

	// A limit takes away what is beyond it, in the middle of all and of what was named.
	for path, before := range map[string][]string{"/api/logs?limit=3": nil, "/api/logs?limit=3&device_ids=1,2": {"key00001", "key00002"}} {
		eve, key = person()
		page = 0
		var asked [][]string
		between = func(page int, devices []string) {
			asked = append(asked, devices)
			if page == 1 {
				if _, err := a.ChangeAccount(ctx, eve.ID, access.AccountChange{Limit: &access.Limit{Models: []string{"boiler"}}}); err != nil {
					t.Error(err)
				}
			}
		}
		w, broken := s.export(path, "text/plain", "Authorization", "Bearer "+key)
		if broken || len(asked) < 2 || !slices.Equal(asked[0], before) || !slices.Equal(asked[1], []string{"key00002"}) {
			t.Errorf("%s: %v, broken off: %v: %d %s", path, asked, broken, w.Code, w.Body)
		}
	}
}

// hurried is a recorder that tells of the first that is written.
type hurried struct {
	patient
	first *sync.Once
	f     func()
}

func (h hurried) Write(b []byte) (int, error) {
	h.first.Do(h.f)
	return h.patient.Write(b)
}

func TestAuditExportEndsWithItsRight(t *testing.T) {
	identity := atHome(t)
	a, ctx := identity.Accounts, t.Context()
	s := newSite(t, func(o *web.Options) { o.Identity = identity })
	eve, err := a.CreateAccount(ctx, access.NewAccount{Username: "eve", Password: password, Roles: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // several pieces
		a.Record(ctx, access.Event{Action: "test", Detail: `{"text": "` + strings.Repeat("x", 4000) + `"}`})
	}
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/audit", nil)
	r.Header.Set("Accept", "application/x-ndjson")
	r.Header.Set("Authorization", "Bearer "+s.signIn("eve", password))
	w := hurried{patient{httptest.NewRecorder()}, new(sync.Once), func() {
		if _, err := a.ChangeAccount(ctx, eve.ID, access.AccountChange{Roles: new([]string{"editor"})}); err != nil {
			t.Error(err)
		}
	}}
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) || w.Body.Len() == 0 || w.Body.Len() > 100<<10 {
			t.Errorf("%v after %d bytes", err, w.Body.Len())
		}
	}()
	s.server.Handler().ServeHTTP(w, r)
}
