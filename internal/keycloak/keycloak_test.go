package keycloak_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"signalbox/internal/conformance"
	"signalbox/internal/fleet"
	"signalbox/internal/keycloak"
	"signalbox/internal/keycloaktest"
	"signalbox/internal/registry"
)

// atServer has the stand-in listen, as a device reaches it.
func atServer(t *testing.T, s *keycloaktest.Server) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.Place(server.URL + "/auth/")
}

// login asks for a token as a device does.
func login(ctx context.Context, s *keycloaktest.Server, id, secret string) (*oauth2.Token, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return (&clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: s.TokenURL(), AuthStyle: oauth2.AuthStyleInHeader}).
		Token(context.WithValue(ctx, oauth2.HTTPClient, client))
}

func TestConformance(t *testing.T) {
	conformance.Issuer(t, func(t *testing.T) conformance.IssuerCase {
		s := new(keycloaktest.Server)
		atServer(t, s)
		return conformance.IssuerCase{Issuer: open(t, s), Token: func(ctx context.Context, id, secret string) error {
			_, err := login(ctx, s, id, secret)
			return err
		}}
	})
}

// A device that Ensure made gets tokens that are for us and can be verified.
func TestTokensOfDevices(t *testing.T) {
	s := &keycloaktest.Server{Audience: "backend", Born: []string{keycloaktest.DeviceScope}}
	atServer(t, s)
	k := open(t, s)
	if _, err := k.Ensure(t.Context(), wanted("Relay")); err != nil {
		t.Fatal(err)
	}
	secret, err := k.Secret(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	got, err := login(t.Context(), s, device, secret)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	provider, err := gooidc.NewProvider(gooidc.ClientContext(t.Context(), client), s.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	verified, err := provider.Verifier(&gooidc.Config{ClientID: "backend"}).Verify(gooidc.ClientContext(t.Context(), client), got.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Party string `json:"azp"`
		Realm struct {
			Roles []string `json:"roles"`
		} `json:"realm_access"`
	}
	if err := verified.Claims(&claims); err != nil || claims.Party != device || len(claims.Realm.Roles) == 0 || verified.IssuedAt.IsZero() {
		t.Errorf("%+v, %v", claims, err)
	}
}

// The same faults as without a network, on real connections.
func TestNetwork(t *testing.T) {
	f := func(op keycloaktest.Op, fault keycloaktest.Fault) {
		t.Helper()
		s := new(keycloaktest.Server)
		atServer(t, s)
		k := open(t, s, func(o *keycloak.Options) { o.Timeout, o.Backoff = 300*time.Millisecond, time.Millisecond })
		s.Fail(op, fault)
		created, err := k.Ensure(t.Context(), wanted("Relay"))
		if err != nil || !created {
			t.Errorf("%s %+v: %v, %v", op, fault, created, err)
		}
		if c := current(s); c.Secrets != 1 || !slices.Equal(c.Default, []string{"email", keycloaktest.DeviceScope, "profile", "roles", "web-origins"}) {
			t.Errorf("%s %+v: %+v", op, fault, c)
		}
	}
	for _, op := range []keycloaktest.Op{keycloaktest.Token, keycloaktest.Find, keycloaktest.Create, keycloaktest.AddScope, keycloaktest.ReadSecret} {
		f(op, keycloaktest.Fault{Hang: true, Effect: true})
		f(op, keycloaktest.Fault{Reset: true})
		f(op, keycloaktest.Fault{Reset: true, Effect: true})
		f(op, keycloaktest.Fault{Truncate: true})
	}

	s := new(keycloaktest.Server)
	s.Place("http://127.0.0.1:1")
	k := open(t, s, func(o *keycloak.Options) { o.Backoff = time.Millisecond })
	if _, err := k.Status(t.Context(), device); fleet.KindOf(err) != fleet.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}

func TestOneLoginForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(keycloaktest.Server)
		k := open(t, s)
		there(s)
		all := func() (failed int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range 50 {
				wg.Go(func() {
					if _, err := k.Status(t.Context(), device); err != nil {
						mu.Lock()
						failed++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			return failed
		}
		logins := func(want int) {
			t.Helper()
			if got := s.Requests(keycloaktest.Token); got != want {
				t.Errorf("%d logins, want %d", got, want)
			}
		}
		s.Fail(keycloaktest.Token, keycloaktest.Fault{Delay: time.Second})
		if n := all(); n > 0 {
			t.Errorf("%d failed", n)
		}
		logins(1)
		time.Sleep(5*time.Minute - 32*time.Second) // the token lives 5 minutes, one second of which is gone
		all()
		logins(1)
		time.Sleep(3 * time.Second) // and is given up 30 s before its end
		all()
		logins(2)
		s.Expire() // all hear 401 at once
		if n := all(); n > 0 {
			t.Errorf("%d failed", n)
		}
		logins(3)

		// What a login comes to is shared also when it is an error.
		s.Expire()
		time.Sleep(5 * time.Minute)
		s.Fail(keycloaktest.Token, keycloaktest.Fault{Delay: time.Second, Status: 401})
		if n := all(); n != 50 {
			t.Errorf("%d failed, want all", n)
		}
		logins(4)

		// Somebody who gives up takes nobody with them.
		s.Fail(keycloaktest.Token, keycloaktest.Fault{Delay: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		go k.Status(ctx, device)
		synctest.Wait()
		if n := all(); n > 0 {
			t.Errorf("%d failed", n)
		}
	})
}

// A token that is refused though new is a right that lacks, not a reason to log
// in for ever.
func TestRefusedForGood(t *testing.T) {
	s := new(keycloaktest.Server)
	k := open(t, s)
	s.Fail(keycloaktest.Find, slices.Repeat([]keycloaktest.Fault{{Status: 401}}, 10)...)
	_, err := k.Status(t.Context(), device)
	if kind, text := fleet.Public(err); kind != fleet.External || !strings.Contains(text, "does not give the right") {
		t.Error(err)
	}
	if s.Requests(keycloaktest.Token) != 2 || s.Requests(keycloaktest.Find) != 2 {
		t.Errorf("%d logins, %d requests", s.Requests(keycloaktest.Token), s.Requests(keycloaktest.Find))
	}
}

// Secrets of short life are used for half of it.
func TestShortTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &keycloaktest.Server{TokenLife: 20 * time.Second}
		k := open(t, s)
		for range 10 {
			if _, err := k.Status(t.Context(), device); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		if n := s.Requests(keycloaktest.Token); n != 3 {
			t.Errorf("%d logins", n)
		}
	})
}

func TestWaiting(t *testing.T) {
	f := func(fault keycloaktest.Fault, deadline, atLeast, atMost time.Duration, requests int, good bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			s := new(keycloaktest.Server)
			k := open(t, s)
			s.Fail(keycloaktest.Find, fault, fault)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			start := time.Now()
			_, err := k.Status(ctx, device)
			if took := time.Since(start); took < atLeast || took > atMost {
				t.Errorf("%+v: took %v", fault, took)
			}
			if (err == nil) != good || s.Requests(keycloaktest.Find) != requests {
				t.Errorf("%+v: %v after %d requests", fault, err, s.Requests(keycloaktest.Find))
			}
			if err != nil && fleet.KindOf(err) != fleet.Unavailable {
				t.Errorf("%+v: %v", fault, err)
			}
		})
	}
	const long = time.Hour
	f(keycloaktest.Fault{Status: 503}, long, 300*time.Millisecond, 600*time.Millisecond, 3, true)
	f(keycloaktest.Fault{Hang: true}, long, 20*time.Second, 21*time.Second, 3, true)
	f(keycloaktest.Fault{Status: 503, RetryAfter: "5"}, long, 10*time.Second, 10*time.Second, 3, true)
	f(keycloaktest.Fault{Status: 429, RetryAfter: "nonsense"}, long, 300*time.Millisecond, 600*time.Millisecond, 3, true)
	f(keycloaktest.Fault{Status: 503, RetryAfter: "86400"}, long, 0, 0, 1, false) // nobody waits that long
	// A wait that the caller will not see the end of is not begun.
	f(keycloaktest.Fault{Status: 503, RetryAfter: "5"}, 4*time.Second, 0, 0, 1, false)
	f(keycloaktest.Fault{Hang: true}, 4*time.Second, 4*time.Second, 4*time.Second, 1, false)
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(6 * time.Second).UTC().Format(http.TimeFormat)
		f := keycloaktest.Fault{Status: 503, RetryAfter: date}
		s := new(keycloaktest.Server)
		k := open(t, s)
		s.Fail(keycloaktest.Find, f)
		start := time.Now()
		if _, err := k.Status(t.Context(), device); err != nil || time.Since(start) < 5*time.Second || time.Since(start) > 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// The list changes while it is read: who stays is listed, and once.
func TestClientsOfAChangingRealm(t *testing.T) {
	id := func(n int) string { return fmt.Sprintf("iotdevice-x-%08d", n) }
	f := func(name string, repeats bool, on func(s *keycloaktest.Server, page int)) {
		t.Helper()
		s := &keycloaktest.Server{Repeats: repeats}
		k := open(t, s)
		for n := range 1000 {
			s.Put(keycloaktest.Client{ClientID: id(n + 500), Enabled: true})
		}
		s.Put(keycloaktest.Client{ClientID: "x-iotdevice-x-00000007"}) // contains, but is none
		s.Put(keycloaktest.Client{ClientID: "iotdevice-of-somebody-else"})
		s.OnList = func(page int) { on(s, page) }
		seen := map[string]int{}
		for c, err := range k.Clients(t.Context()) {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			seen[c.ID]++
		}
		for _, c := range s.Clients("iotdevice-x-00") {
			var n int
			_, _ = fmt.Sscanf(c.ClientID, "iotdevice-x-%d", &n)
			if n >= 500 && n < 1500 && seen[c.ClientID] != 1 {
				t.Errorf("%s: %s is listed %d times", name, c.ClientID, seen[c.ClientID])
			}
		}
		for id, n := range seen {
			if n != 1 || !strings.HasPrefix(id, "iotdevice-x-") {
				t.Errorf("%s: %s is listed %d times", name, id, n)
			}
		}
		if n := s.Requests(keycloaktest.List); n > 30 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
	f("at rest", false, func(*keycloaktest.Server, int) {})
	f("twice", true, func(*keycloaktest.Server, int) {})
	f("one deleted", false, func(s *keycloaktest.Server, page int) { s.Take(id(500 + page)) })
	f("one made before", false, func(s *keycloaktest.Server, page int) { s.Put(keycloaktest.Client{ClientID: id(page)}) })
	f("a page deleted", false, func(s *keycloaktest.Server, page int) {
		if page == 3 {
			for n := range 400 {
				s.Take(id(500 + n))
			}
		}
	})
	for _, many := range []int{7, 8, 9, 10, 60, 70, 130, 200, 249, 250, 251} {
		f(fmt.Sprintf("%d deleted", many), false, func(s *keycloaktest.Server, page int) {
			if page == 3 {
				for n := range many {
					s.Take(id(500 + n))
				}
			}
		})
	}
	f("some deleted, one made", false, func(s *keycloaktest.Server, page int) {
		for n := range 5 {
			s.Take(id(500 + 5*page + n))
		}
		s.Put(keycloaktest.Client{ClientID: id(page)})
	})
	f("the border deleted", false, func(s *keycloaktest.Server, page int) { s.Take(id(500 + 249*page)) })
	f("the end deleted", false, func(s *keycloaktest.Server, page int) {
		if page == 2 {
			for n := 700; n < 1500; n++ {
				s.Take(id(n))
			}
		}
	})
}

func TestTenThousandClients(t *testing.T) {
	s := new(keycloaktest.Server)
	k := open(t, s)
	for n := range 10_000 {
		s.Put(keycloaktest.Client{ClientID: fmt.Sprintf("iotdevice-x-%08d", n), Enabled: true, Description: description, Default: []string{"profile", "email"}})
	}
	n := 0
	for _, err := range k.Clients(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 10_000 || s.Requests() > 110 {
		t.Errorf("%d clients with %d requests", n, s.Requests())
	}
	t.Logf("%d requests", s.Requests())
}

// What is as it should be is not written, and what is not costs what it must.
func TestRequests(t *testing.T) {
	s := new(keycloaktest.Server)
	k := open(t, s)
	f := func(name string, want int, ops ...keycloaktest.Op) {
		t.Helper()
		before, of := s.Requests(), s.Requests(ops...)
		if _, err := k.Ensure(t.Context(), wanted(name)); err != nil {
			t.Fatal(err)
		}
		if got := s.Requests() - before; got != want || s.Requests(ops...)-of != len(ops) {
			t.Errorf("%s: %d requests, want %d; %d of %v", name, got, want, s.Requests(ops...)-of, ops)
		}
	}
	// token, find, create, find, scopes, the one scope that the realm gives not, secret
	f("One", 7, keycloaktest.Create, keycloaktest.AddScope, keycloaktest.Scopes)
	f("One", 2, keycloaktest.ReadSecret)
	f("Other", 3, keycloaktest.Update)
	s.Take(device)
	f("One", 5, keycloaktest.Create, keycloaktest.AddScope) // the realm's scopes are known
	s.Take(device)
	s.Rescope(keycloaktest.DeviceScope) // until one is another
	if _, err := k.Ensure(t.Context(), wanted("One")); err != nil || !slices.Contains(current(s).Default, keycloaktest.DeviceScope) {
		t.Errorf("%v, %+v", err, current(s))
	}
}

func TestMissingScope(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	s := &keycloaktest.Server{NoScopes: []string{keycloaktest.DeviceScope}}
	k := open(t, s, func(o *keycloak.Options) {
		o.Log, o.Metrics = slog.New(slog.NewTextHandler(&log, nil)), keycloak.NewMetrics(reg)
	})
	for n := range 3 {
		c := wanted("Relay")
		c.ID = fmt.Sprintf("iotdevice-x-%08d", n)
		if _, err := k.Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "scope="+keycloaktest.DeviceScope); n != 1 {
		t.Errorf("warned %d times: %s", n, log.String())
	}
	if got := counters(t, reg, "iot_keycloak_scopes_missing_total"); got[keycloaktest.DeviceScope] != 1 || len(got) != 1 {
		t.Error(got)
	}
}

// counters returns the values above 0 of a metric by its labels.
func counters(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if v := m.GetCounter().GetValue(); v > 0 && family.GetName() == name {
				got[strings.Join(labels, " ")] = v
			}
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := new(keycloaktest.Server)
	k := open(t, s, func(o *keycloak.Options) { o.Metrics, o.Backoff = keycloak.NewMetrics(reg), time.Millisecond })
	ctx := t.Context()
	do := func(err error, good bool) {
		t.Helper()
		if (err == nil) != good {
			t.Error(err)
		}
	}
	_, err := k.Ensure(ctx, wanted("Relay"))
	do(err, true)
	_, err = k.Ensure(ctx, wanted("Other"))
	do(err, true)
	_, err = k.Rotate(ctx, device)
	do(err, true)
	do(k.SetSecret(ctx, device, "x"), true)
	do(k.Delete(ctx, device), true)
	_, err = k.Status(ctx, device)
	do(err, true)
	s.Fail(keycloaktest.Find, keycloaktest.Fault{Status: 400})
	_, err = k.Status(ctx, device)
	do(err, false)
	s.Fail(keycloaktest.Create, keycloaktest.Fault{Status: 400})
	_, err = k.Ensure(ctx, wanted("Relay"))
	do(err, false)
	s.Expire()
	s.Fail(keycloaktest.Token, keycloaktest.Fault{Status: 400})
	do(k.Delete(ctx, device), false)
	got := counters(t, reg, "iot_keycloak_operations_total")
	want := map[string]float64{"create_client success": 1, "update_client_metadata success": 1, "regenerate_secret success": 1, "update_secret success": 1, "delete_client success": 1,
		"get_client_status error": 1, "create_client error": 1, "get_token error": 1, "delete_client error": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Clients of the realm that are no devices' are not Signalbox's to touch, and
// parts of ids are not taken for ids.
func TestOthersAreLeftAlone(t *testing.T) {
	s := &keycloaktest.Server{Fuzzy: true}
	k := open(t, s)
	s.Put(keycloaktest.Client{ClientID: "a-" + device, Secret: "s", Enabled: true})
	s.Put(keycloaktest.Client{ClientID: strings.ToUpper(device), Secret: "s", Enabled: true})
	before := state(s)
	ctx := t.Context()
	if err := k.Delete(ctx, device); err != nil {
		t.Error(err)
	}
	if got, err := k.Status(ctx, device); err != nil || got != (registry.ClientStatus{}) {
		t.Error(got, err)
	}
	if _, err := k.Secret(ctx, device); fleet.KindOf(err) != fleet.NotFound {
		t.Error(err)
	}
	for _, id := range []string{"account", keycloaktest.AdminID, "", "a-" + device, "iotdevice-x", "iotdevice-x-12345678/../.."} {
		_, ensure := k.Ensure(ctx, registry.Client{ID: id})
		_, secret := k.Secret(ctx, id)
		_, status := k.Status(ctx, id)
		_, rotate := k.Rotate(ctx, id)
		for _, err := range []error{ensure, secret, status, rotate, k.Delete(ctx, id), k.SetSecret(ctx, id, "x"), k.DropOld(ctx, id)} {
			if fleet.KindOf(err) != fleet.Invalid {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	if diff := cmp.Diff(before, state(s)); diff != "" {
		t.Error(diff)
	}
}

func TestTwoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		s := new(keycloaktest.Server)
		k := open(t, s)
		two := func(want bool) {
			t.Helper()
			if got, err := k.RotatesTwo(ctx); err != nil || got != want {
				t.Errorf("%v, %v", got, err)
			}
		}
		old := func(want string) {
			t.Helper()
			got, err := k.Rotated(ctx, device)
			if want == "" && fleet.KindOf(err) != fleet.NotFound || want != "" && (err != nil || got != want) {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
		two(false) // there is no device to tell by
		there(s)
		two(false)
		first := current(s).Secret
		second, err := k.Rotate(ctx, device)
		if err != nil || second == first || second != current(s).Secret {
			t.Errorf("%q, %v", second, err)
		}
		old("")
		if err := k.SetSecret(ctx, device, first); err != nil || current(s).Secret != first {
			t.Error(err)
		}

		s.Rotation = true
		if _, err := k.Rotate(ctx, device); err != nil {
			t.Error(err)
		}
		old(first)
		two(false) // as it was
		time.Sleep(11 * time.Minute)
		two(true)
		if _, err := k.Ensure(ctx, wanted("Relay")); err != nil {
			t.Error(err)
		}
		old(first)
		for range 2 {
			if err := k.DropOld(ctx, device); err != nil {
				t.Error(err)
			}
			old("")
		}
		n := s.Requests()
		two(true)
		if s.Requests() != n {
			t.Error("asked again")
		}
	})
}

func TestConsoleURL(t *testing.T) {
	s := new(keycloaktest.Server)
	s.Place("https://keycloak.test/auth")
	k := open(t, s, func(o *keycloak.Options) { o.Transport, o.BaseURL = s.Transport(), "https://keycloak.test/auth//" })
	c := there(s)
	got, err := k.Status(t.Context(), device)
	if want := "https://keycloak.test/auth/admin/master/console/#/iot%20realm/clients/" + c.UUID + "/settings"; err != nil || got.ConsoleURL != want {
		t.Errorf("%q, %v", got.ConsoleURL, err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := keycloak.Options{BaseURL: "https://k", TokenURL: "https://k/token", Realm: "r", ClientID: "c", ClientSecret: "s"}
	if _, err := keycloak.New(good); err != nil {
		t.Error(err)
	}
	f := func(change func(*keycloak.Options)) {
		t.Helper()
		o := good
		change(&o)
		if _, err := keycloak.New(o); fleet.KindOf(err) != fleet.Invalid || strings.Contains(err.Error(), "pass") {
			t.Error(err)
		}
	}
	f(func(o *keycloak.Options) { o.BaseURL = "" })
	f(func(o *keycloak.Options) { o.BaseURL = "ftp://user:pass@k" })
	f(func(o *keycloak.Options) { o.TokenURL = "http://user:pass word@k\x00" })
	f(func(o *keycloak.Options) { o.Realm = "" })
	f(func(o *keycloak.Options) { o.ClientID = "" })
	f(func(o *keycloak.Options) { o.ClientSecret = "" })
}

// raw is a server that answers everything but the login with one text.
type raw struct {
	text   string
	status int
	after  string
	logins bool // these, too
}

func (a raw) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if strings.HasSuffix(r.URL.Path, "/token") && !a.logins {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.WriteString(`{"access_token":"x","expires_in":60}`)
	} else {
		w.Header().Set("Retry-After", a.after)
		w.WriteHeader(a.status)
		_, _ = w.WriteString(a.text)
	}
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return w.Result(), nil
}

// Whatever a server says, the answer to our callers is of a kind that they know
// and no request leaves the client's own place.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{`[]`, `null`, `[null]`, `{}`, `[{"id":"..","clientId":"iotdevice-relay_2-aaaa1111"}]`, `[{"id":"a/../b","clientId":"iotdevice-relay_2-aaaa1111","attributes":{"x":1}}]`,
		`[{"clientId":"iotdevice-relay_2-aaaa1111"}]`, `{"value":"x"}`, `<html>`, `[{"id":"a","clientId":"iotdevice-relay_2-aaaa1111","enabled":"yes"}]`, ``} {
		f.Add(seed, 200, "", false)
	}
	f.Add(`{"error":"x","errorMessage":"y"}`, 503, "7", false)
	f.Add(`{"access_token":"","expires_in":-1}`, 200, "", true)
	f.Add(`{"access_token":"x","expires_in":1e300}`, 200, "", true)
	f.Add(`{"error":"unauthorized_client","error_description":"z"}`, 401, "Fri, 31 Dec 1999 23:59:59 GMT", true)
	f.Fuzz(func(t *testing.T, text string, status int, after string, logins bool) {
		status = 200 + status&0x1ff
		k, err := keycloak.New(keycloak.Options{BaseURL: "http://k", TokenURL: "http://k/token", Realm: "r", ClientID: "c", ClientSecret: "s", Attempts: 1, Transport: raw{text, status, after, logins},
			Metrics: keycloak.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, ensure := k.Ensure(ctx, wanted("Relay"))
		_, secret := k.Secret(ctx, device)
		found, look := k.Status(ctx, device)
		_, two := k.RotatesTwo(ctx)
		_, rotate := k.Rotate(ctx, device)
		for _, err := range []error{ensure, secret, look, two, rotate, k.Delete(ctx, device)} {
			if err != nil && !slices.Contains([]fleet.Kind{fleet.External, fleet.Unavailable, fleet.NotFound}, fleet.KindOf(err)) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%q: %v", text, err)
			}
		}
		if found.Exists && (found.UUID == "" || found.UUID == "..") {
			t.Errorf("%q: %+v", text, found)
		}
		n := 0
		for c, err := range k.Clients(ctx) {
			if _, _, ok := fleet.ParseClientID(c.ID); err == nil && !ok {
				t.Errorf("%q: lists %q", text, c.ID)
			}
			if n++; n > 1000 {
				break
			}
		}
	})
}

// Faults that meet: each alone is harmless.
func TestTwoFaults(t *testing.T) {
	// The first request to create takes effect while the second is under way.
	synctest.Test(t, func(t *testing.T) {
		s := new(keycloaktest.Server)
		k := open(t, s)
		s.Fail(keycloaktest.Create, keycloaktest.Fault{Hang: true, Effect: true, Delay: 11 * time.Second}, keycloaktest.Fault{Delay: 2 * time.Second})
		if created, err := k.Ensure(t.Context(), wanted("Relay")); err != nil || !created {
			t.Errorf("%v, %v", created, err)
		}
		if n := s.Requests(keycloaktest.Create); n != 2 || len(s.Clients(device)) != 1 {
			t.Errorf("%d requests, %d clients", n, len(s.Clients(device)))
		}
	})

	// That the token endpoint is not there says nothing about what the token is for.
	f := func(op keycloaktest.Op, run func(*keycloak.Issuer) error) {
		t.Helper()
		s := new(keycloaktest.Server)
		k := open(t, s)
		c := there(s)
		c.Old = "old"
		s.Put(c)
		s.Fail(keycloaktest.Token, keycloaktest.Fault{}, keycloaktest.Fault{Status: 404})
		s.Fail(op, keycloaktest.Fault{Expire: true})
		if err := run(k); fleet.KindOf(err) != fleet.External {
			t.Errorf("%s: %v", op, err)
		}
	}
	f(keycloaktest.DropRotated, func(k *keycloak.Issuer) error { return k.DropOld(t.Context(), device) })
	f(keycloaktest.Delete, func(k *keycloak.Issuer) error { return k.Delete(t.Context(), device) })
	f(keycloaktest.ReadSecret, func(k *keycloak.Issuer) error { _, err := k.Secret(t.Context(), device); return err })
	f(keycloaktest.ReadRotated, func(k *keycloak.Issuer) error { _, err := k.Rotated(t.Context(), device); return err })
	f(keycloaktest.Update, func(k *keycloak.Issuer) error { return k.SetSecret(t.Context(), device, "x") })
}
