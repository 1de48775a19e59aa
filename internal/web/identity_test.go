package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/oidc"
	"signalbox/internal/oidctest"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// newAccounts returns a service over a store of its own.
func newAccounts(t *testing.T) *access.Service {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "people.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	accounts, err := access.New(t.Context(), access.Options{Store: db, Log: slog.New(slog.DiscardHandler), SessionIdle: time.Hour, SessionMax: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return accounts
}

func newBox(t *testing.T) *secret.Box {
	t.Helper()
	box, err := secret.NewBox("a key of the tests", "cookies")
	if err != nil {
		t.Fatal(err)
	}
	return box
}

const password = "correct horse battery"

// atHome is an identity with one account of Signalbox: root, who is an admin.
func atHome(t *testing.T) *web.Identity {
	t.Helper()
	accounts := newAccounts(t)
	if _, err := accounts.CreateAccount(t.Context(), access.NewAccount{Username: "root", Name: "Root", Password: password, Roles: []string{"admin"}}); err != nil {
		t.Fatal(err)
	}
	return &web.Identity{Accounts: accounts, BaseURL: "http://example.com", Box: newBox(t)}
}

// world is a site with a provider where people log in, and a browser.
type world struct {
	*site
	url      string
	idp      *oidctest.Provider
	accounts *access.Service
	ahead    atomic.Int64 // by how much the provider's client has its clock ahead
	browser  *http.Client
	renewed  atomic.Int64
}

func newWorld(t *testing.T, change func(*web.Options)) *world {
	t.Helper()
	w := &world{accounts: newAccounts(t)}
	var handler atomic.Pointer[http.Handler]
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*handler.Load()).ServeHTTP(rw, r) }))
	t.Cleanup(front.Close)
	w.url = front.URL
	w.idp = oidctest.New(t, w.url+"/api/auth/callback")
	for _, u := range []oidctest.User{
		{Subject: "ann", Name: "Ann", Email: "ann@example.com", Roles: []string{"editor", "offline_access"}}, {Subject: "nil", Name: "Nil"},
		{Subject: "vic", Name: "Vic", Roles: []string{"viewer"}}, {Subject: "adam", Name: "Adam", Roles: []string{"admin"}},
		{Subject: "liv", Name: "Liv", Roles: []string{"viewer", "model:relay"}}, {Subject: "les", Name: "Les", Roles: []string{"editor", "tag:north"}},
	} {
		w.idp.Put(u)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	provider := oidc.New(oidc.Options{
		Issuer: w.idp.URL, ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret, Scopes: strings.Fields(oidctest.Scopes),
		RedirectURL: w.url + "/api/auth/callback", Skew: 30 * time.Second, Log: slog.New(slog.DiscardHandler), Client: &http.Client{Transport: transport},
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
	})
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	running.Go(func() { _ = provider.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	w.site = newSite(t, func(o *web.Options) {
		o.Identity = &web.Identity{
			Accounts: w.accounts, Provider: provider, ClientID: oidctest.ClientID, BaseURL: w.url, Box: newBox(t), RefreshAge: 24 * time.Hour,
			Renewed: func(access.Principal) { w.renewed.Add(1) },
		}
		o.Page = func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "page ", r.URL.RequestURI()) })
		}
		if change != nil {
			change(o)
		}
	})
	h := w.server.Handler()
	handler.Store(&h)
	w.browser = w.newBrowser()
	w.await(provider.Ready)
	return w
}

func (w *world) await(ready func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("it takes too long")
		}
	}
}

func (w *world) newBrowser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	transport := &http.Transport{}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport}
}

// get fetches a path as the browser does, with all redirects.
func (w *world) get(browser *http.Client, path string) (status int, body string) {
	w.t.Helper()
	res, err := browser.Get(w.url + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// login lets somebody in.
func (w *world) login(browser *http.Client, subject string) {
	w.t.Helper()
	w.idp.At(subject)
	if status, body := w.get(browser, "/api/auth/login?redirect=%2Fdevices%2F1%3Fa%3Db"); status != 200 || body != "page /devices/1?a=b" {
		w.t.Fatalf("after the login of %s: %d %s", subject, status, body)
	}
}

func (w *world) cookies(browser *http.Client) map[string]string {
	u, err := url.Parse(w.url + "/api/auth/callback")
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]string{}
	for _, c := range browser.Jar.Cookies(u) {
		all[c.Name] = c.Value
	}
	return all
}

// with sends a request with cookies of the test's choice.
func (w *world) with(cookies map[string]string, method, path string) *httptest.ResponseRecorder {
	w.t.Helper()
	var pairs []string
	for name, value := range cookies {
		pairs = append(pairs, name+"="+value)
	}
	return w.do(method, path, "", "Cookie", strings.Join(pairs, "; "))
}

// set returns the cookies that an answer sets, as the browser is told.
func set(res *httptest.ResponseRecorder) map[string]*http.Cookie {
	all := map[string]*http.Cookie{}
	for _, c := range res.Result().Cookies() {
		all[c.Name] = c
	}
	return all
}

// cleared reports whether an answer makes the browser forget its login.
func cleared(res *httptest.ResponseRecorder) bool {
	got := set(res)
	for _, name := range []string{"access_token", "refresh_token", "id_token"} {
		if c := got[name]; c == nil || c.MaxAge != -1 || c.Value != "" {
			return false
		}
	}
	return true
}

type selfBody struct {
	Subject, Kind, Mode, Session string
	Name, Email                  *string
	Roles                        []string
	Limit                        *struct{ Models, Tags []string }
}

func selfOf(t *testing.T, body []byte) (b selfBody) {
	t.Helper()
	if err := json.Unmarshal(body, &b); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return b
}

func TestProviderLogin(t *testing.T) {
	w := newWorld(t, nil)
	w.want("GET", "/api/auth/mode", "", 200, `{"mode": "oidc", "insecure": false, "setup": false}`)
	w.want("GET", "/api/auth/self", "", 401, problemJSON(fleet.Unauthenticated, "No valid token provided"))
	w.login(w.browser, "ann")
	status, body := w.get(w.browser, "/api/auth/self")
	got := selfOf(t, []byte(body))
	if status != 200 || got.Subject != "ann" || *got.Name != "Ann" || *got.Email != "ann@example.com" || got.Kind != "person" || got.Mode != "oidc" || got.Session == "" {
		t.Errorf("%d %s", status, body)
	}
	if diff := cmp.Diff([]string{"editor"}, got.Roles); diff != "" {
		t.Error(diff)
	}
	people, err := w.accounts.Accounts(t.Context())
	if err != nil || len(people) != 1 || people[0].Subject != "ann" || !people[0].External {
		t.Errorf("%+v, %v", people, err)
	}

	// Somebody whom the provider knows and who has no role here.
	w.login(w.browser, "nil")
	if status, body := w.get(w.browser, "/api/auth/self"); status != 403 || !strings.Contains(body, "No recognized role -- access denied") {
		t.Errorf("%d %s", status, body)
	}
	// Limits.
	w.login(w.browser, "les")
	_, body = w.get(w.browser, "/api/auth/self")
	if got := selfOf(t, []byte(body)); got.Limit == nil || !cmp.Equal(got.Limit.Tags, []string{"north"}) || len(got.Limit.Models) != 0 {
		t.Errorf("%s", body)
	}
}

// The cookies are what the contract says, and what a page of another site or a
// script in ours could use of them is nothing.
func TestLoginCookies(t *testing.T) {
	f := func(c web.Cookies, names, want string) {
		t.Helper()
		w := newWorld(t, func(o *web.Options) { o.Identity.Cookies = c })
		w.idp.At("ann")
		var last *http.Response
		browser := w.newBrowser()
		browser.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.String(), w.url+"/api/auth/callback") {
				last = r.Response
				return http.ErrUseLastResponse
			}
			return nil
		}
		begun, err := browser.Get(w.url + "/api/auth/login?redirect=/")
		if err != nil {
			t.Fatal(err)
		}
		begun.Body.Close()
		u, err := url.Parse(last.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		var state string
		for _, c := range browser.Jar.Cookies(u) {
			if c.Name == "login_state" {
				state = c.Value
			}
		}
		res := w.with(map[string]string{"login_state": state}, "GET", u.RequestURI())
		if res.Code != 302 || res.Header().Get("Location") != "/" || res.Header().Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v %s", res.Code, res.Header(), res.Body)
		}
		got := set(res)
		for _, name := range strings.Fields(names) {
			c := got[name]
			if c == nil {
				t.Errorf("no cookie %s in %v", name, res.Header())
				continue
			}
			text := fmt.Sprintf("%s httponly=%v secure=%v samesite=%d partitioned=%v", c.Path, c.HttpOnly, c.Secure, c.SameSite, c.Partitioned)
			if text != want || c.MaxAge < 200 || c.Value == "" {
				t.Errorf("%s: %s, max age %d", name, text, c.MaxAge)
			}
		}
		if c := got["login_state"]; c == nil || c.MaxAge != -1 || c.Path != "/api/auth" || !c.HttpOnly || c.SameSite != got["id_token"].SameSite {
			t.Errorf("login_state: %+v", c)
		}
		if text := got[strings.Fields(names)[1]].Value; strings.Count(text, ".") == 2 && strings.HasPrefix(text, "ey") || !strings.HasPrefix(text, "v1.") {
			t.Errorf("the refresh token is for all to read: %.20s", text)
		}
	}
	f(web.Cookies{}, "access_token refresh_token id_token", "/ httponly=true secure=false samesite=2 partitioned=false")
	f(web.Cookies{Access: "a", Refresh: "r", Secure: true, SameSite: http.SameSiteNoneMode, Partitioned: true}, "a r id_token",
		"/ httponly=true secure=true samesite=4 partitioned=true")
}

// An answer of the provider is taken from the browser that asked, once, for ten
// minutes; several tabs may ask at once.
func TestLoginState(t *testing.T) {
	w := newWorld(t, nil)
	w.idp.At("ann")
	// begin returns the address to which the provider sends a browser back.
	begin := func(browser *http.Client, redirect string) *url.URL {
		t.Helper()
		var back *url.URL
		once := *browser
		once.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
			if strings.HasPrefix(r.URL.String(), w.url+"/api/auth/callback") {
				back = r.URL
				return http.ErrUseLastResponse
			}
			return nil
		}
		res, err := once.Get(w.url + "/api/auth/login?redirect=" + url.QueryEscape(redirect))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if back == nil {
			t.Fatalf("not sent back: %s", res.Status)
		}
		return back
	}
	first, second := begin(w.browser, "/one"), begin(w.browser, "/two")
	stranger := w.newBrowser()
	begin(stranger, "/three") // has begun a login of its own
	for name, browser := range map[string]*http.Client{"another browser": stranger, "one that never asked": w.newBrowser()} {
		if status, body := w.get(browser, first.RequestURI()); status != 400 || !strings.Contains(body, "Invalid or expired authentication state") {
			t.Errorf("%s: %d %s", name, status, body)
		}
		if c := w.cookies(browser); c["access_token"] != "" {
			t.Errorf("%s is logged in", name)
		}
	}
	if _, body := w.get(w.browser, second.RequestURI()); body != "page /two" {
		t.Errorf("the second tab: %s", body)
	}
	if _, body := w.get(w.browser, first.RequestURI()); body != "page /one" {
		t.Errorf("the first tab: %s", body)
	}
	if status, _ := w.get(w.browser, first.RequestURI()); status != 400 {
		t.Errorf("a second time: %d", status)
	}
	for n := range 8 {
		begin(w.browser, "/"+strings.Repeat("x", 280*n))
	}
	if n := len(w.cookies(w.browser)["login_state"]); n > 3900 {
		t.Errorf("the cookie has %d bytes", n)
	}
	back := begin(w.browser, "/"+strings.Repeat("x", 1990))
	if _, body := w.get(w.browser, back.RequestURI()); !strings.HasPrefix(body, "page /xxx") {
		t.Errorf("after many: %s", body)
	}

	w.want("GET", "/api/auth/callback?state=x", "", 400, problemJSON(fleet.Invalid, "Missing 'code' parameter in callback"))
	w.want("GET", "/api/auth/callback?code=x", "", 400, problemJSON(fleet.Invalid, "Missing 'state' parameter in callback"))
	w.want("GET", "/api/auth/callback?code=x&state=x", "", 400, problemJSON(fleet.Invalid, "Invalid or expired authentication state"))
	w.want("GET", "/api/auth/login", "", 400, problemJSON(fleet.Invalid, "Missing required 'redirect' parameter"))
	w.want("GET", "/api/auth/login?redirect=//evil.example", "", 400, problemJSON(fleet.Invalid, "Invalid redirect URL - external redirects not allowed"))

	// A code that is not the provider's, and a login that it refuses.
	back = begin(w.browser, "/")
	query := back.Query()
	query.Set("code", "forged")
	if status, body := w.get(w.browser, back.Path+"?"+query.Encode()); status != 401 || !strings.Contains(body, "Failed to exchange authorization code") {
		t.Errorf("%d %s", status, body)
	}
	back = begin(w.browser, "/")
	query = url.Values{"state": back.Query()["state"], "error": {"access_denied"}}
	if status, body := w.get(w.browser, back.Path+"?"+query.Encode()); status != 401 || !strings.Contains(body, "refused the login") {
		t.Errorf("%d %s", status, body)
	}
}

// expired returns the cookies of a browser as they are when the access token is over.
func (w *world) expired(browser *http.Client, subject string) map[string]string {
	c := w.cookies(browser)
	c["access_token"] = w.idp.Sign(map[string]any{"sub": subject, "exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()})
	return c
}

// D33: twenty requests with one expired access token become one refresh, and all
// succeed, those to self included; also when the access cookie is gone with its token.
func TestRefresh(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	old := w.expired(w.browser, "ann")
	before, _ := w.idp.Refreshes()
	var all sync.WaitGroup
	answers := make([]*httptest.ResponseRecorder, 20)
	for n := range answers {
		path := []string{"/api/auth/self", "/api/devices"}[n%2]
		all.Go(func() { answers[n] = w.with(old, "GET", path) })
	}
	all.Wait()
	for n, res := range answers {
		got := set(res)
		if res.Code != 200 || got["access_token"] == nil || got["refresh_token"] == nil || got["id_token"] == nil {
			t.Fatalf("%d: %d %s %v", n, res.Code, res.Body, res.Header())
		}
		if got["access_token"].Value != set(answers[0])["access_token"].Value {
			t.Errorf("%d got another token", n)
		}
	}
	after, _ := w.idp.Refreshes()
	if after-before != 1 {
		t.Errorf("the provider was asked %d times", after-before)
	}
	if w.renewed.Load() != 20 {
		t.Errorf("%d were told to go on", w.renewed.Load())
	}

	// What was got is good, and the next refresh, too, without the access cookie.
	next := map[string]string{"access_token": set(answers[0])["access_token"].Value}
	if res := w.with(next, "GET", "/api/devices"); res.Code != 200 || len(set(res)) != 0 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	next = map[string]string{"refresh_token": set(answers[0])["refresh_token"].Value}
	res := w.with(next, "POST", "/api/device-models")
	if res.Code != 400 || set(res)["access_token"] == nil { // an empty body; the person is known
		t.Errorf("a POST: %d %s", res.Code, res.Body)
	}

	// A header says who it is by itself: the browser's refresh token is not for it.
	if res := w.do("GET", "/api/devices", "", "Authorization", "Bearer "+old["access_token"], "Cookie", "refresh_token="+next["refresh_token"]); res.Code != 401 {
		t.Errorf("an expired bearer token: %d", res.Code)
	}
	// What was not sealed here is no refresh token.
	for _, bad := range []string{"forged", "v1.x.y", next["refresh_token"][:len(next["refresh_token"])-4] + "AAAA"} {
		if res := w.with(map[string]string{"refresh_token": bad}, "GET", "/api/devices"); res.Code != 401 || !cleared(res) {
			t.Errorf("%.20s: %d, cleared %v", bad, res.Code, cleared(res))
		}
	}
	if got := w.count("auth_token_refresh_total", "success"); got != 21 {
		t.Errorf("%v refreshes are counted", got)
	}
	if got := w.count("auth_token_refresh_total", "failed"); got != 3 {
		t.Errorf("%v failed refreshes are counted", got)
	}
	if got := w.count("auth_validation_total", "expired"); got != 1 {
		t.Errorf("%v expired tokens are counted", got)
	}
	if got := w.count("oidc_token_exchange_total", "success"); got != 1 {
		t.Errorf("%v logins are counted", got)
	}
}

// count returns a counter with one label.
func (s *site) count(name, label string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == name && m.Label[0].GetValue() == label {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}

// A session that is over is over, and a provider that does not answer ends none.
func TestRefreshFails(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	good, old := w.cookies(w.browser), w.expired(w.browser, "ann")

	w.idp.Down(true)
	res := w.with(old, "GET", "/api/auth/self")
	w.same("the provider is down", res, 503, problemJSON(fleet.Unavailable, "The identity provider cannot be reached"))
	if len(set(res)) != 0 || res.Header().Get("Retry-After") == "" {
		t.Errorf("headers %v", res.Header())
	}
	if res := w.with(good, "GET", "/api/auth/self"); res.Code != 200 {
		t.Errorf("a running session: %d %s", res.Code, res.Body)
	}
	w.idp.Down(false)
	if res := w.with(old, "GET", "/api/auth/self"); res.Code != 200 {
		t.Errorf("when it is back: %d %s", res.Code, res.Body)
	}

	other := w.newBrowser()
	w.login(other, "vic")
	old = w.expired(other, "vic")
	w.idp.EndSessions("vic")
	res = w.with(old, "GET", "/api/auth/self")
	w.same("the provider refuses", res, 401, problemJSON(fleet.Unauthenticated, "Session expired, please login again"))
	if !cleared(res) {
		t.Errorf("headers %v", res.Header())
	}
}

// Who logs out everywhere is logged out in browsers, too, that were away
// meanwhile, though the provider would give these new tokens.
func TestLogoutEverywhere(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	away := w.newBrowser()
	w.login(away, "ann")
	sleeping := w.cookies(away)
	delete(sleeping, "access_token") // it is over

	here := w.cookies(w.browser)
	if res := w.with(here, "DELETE", "/api/account/sessions"); res.Code != 204 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	res := w.with(sleeping, "GET", "/api/auth/self")
	if res.Code != 401 || !cleared(res) {
		t.Errorf("the other browser: %d %s", res.Code, res.Body)
	}
	if res := w.with(here, "GET", "/api/auth/self"); res.Code != 200 {
		t.Errorf("this browser: %d %s", res.Code, res.Body)
	}
	delete(here, "access_token")
	if res := w.with(here, "GET", "/api/auth/self"); res.Code != 200 {
		t.Errorf("this browser, later: %d %s", res.Code, res.Body)
	}
}

func TestKeyRotation(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	w.idp.RotateKey()
	w.ahead.Store(int64(11 * time.Second)) // the provider is not asked for keys at every turn
	other := w.newBrowser()
	w.login(other, "vic")
	for _, browser := range []*http.Client{w.browser, other} {
		if status, body := w.get(browser, "/api/auth/self"); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
}

func TestLogout(t *testing.T) {
	w := newWorld(t, nil)
	// A link: by way of the provider, back to our page.
	w.login(w.browser, "ann")
	before := w.cookies(w.browser)
	if status, body := w.get(w.browser, "/api/auth/logout"); status != 200 || body != "page /" {
		t.Errorf("%d %s", status, body)
	}
	if got := w.cookies(w.browser); len(got) != 0 {
		t.Errorf("cookies %v", got)
	}
	if _, ended := w.idp.Refreshes(); ended != 1 {
		t.Errorf("the provider ended %d sessions", ended)
	}
	if res := w.with(before, "GET", "/api/auth/self"); res.Code != 401 {
		t.Errorf("with the cookies of before: %d", res.Code)
	}

	// The page: ended here, and told where to end it there. That needs the id
	// token, which a refresh brings when it is gone.
	w.login(w.browser, "ann")
	c := w.cookies(w.browser)
	fresh := map[string]string{"refresh_token": c["refresh_token"]}
	res := w.with(fresh, "POST", "/api/auth/logout")
	var to struct{ Redirect string }
	if err := json.Unmarshal(res.Body.Bytes(), &to); err != nil || res.Code != 200 || !cleared(res) {
		t.Fatalf("%d %s %v", res.Code, res.Body, res.Header())
	}
	u, err := url.Parse(to.Redirect)
	if err != nil || !strings.HasPrefix(to.Redirect, w.idp.URL) || u.Query().Get("id_token_hint") == "" || u.Query().Get("post_logout_redirect_uri") != w.url+"/" {
		t.Errorf("%s, %v", to.Redirect, err)
	}
	if res := w.with(c, "GET", "/api/auth/self"); res.Code != 401 || !cleared(res) {
		t.Errorf("with the cookies of before: %d", res.Code)
	}

	// Nobody, or with the provider away: the cookies go all the same.
	if res := w.do("POST", "/api/auth/logout", ""); res.Code != 200 || !cleared(res) {
		t.Errorf("nobody: %d", res.Code)
	}
	w.want("GET", "/api/auth/logout?redirect=https://evil.example/", "", 400, problemJSON(fleet.Invalid, "Invalid redirect URL - external redirects not allowed"))
	w.login(w.browser, "ann")
	w.idp.Down(true)
	res = w.with(w.cookies(w.browser), "GET", "/api/auth/logout?redirect=/bye")
	if res.Code != 302 || !cleared(res) {
		t.Errorf("with the provider away: %d %v", res.Code, res.Header())
	}
}

func TestBackchannelLogout(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	other := w.newBrowser()
	w.login(other, "ann")
	_, body := w.get(w.browser, "/api/auth/self")
	sid := selfOf(t, []byte(body)).Session
	post := func(token string) *httptest.ResponseRecorder {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/api/auth/backchannel-logout", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res := httptest.NewRecorder()
		w.server.Handler().ServeHTTP(res, r)
		return res
	}
	for name, token := range map[string]string{"nothing": "", "rubbish": "a.b.c", "an access token": w.idp.AccessToken("ann")} {
		if res := post(token); res.Code != 400 {
			t.Errorf("%s: %d %s", name, res.Code, res.Body)
		}
	}
	if status, _ := w.get(w.browser, "/api/auth/self"); status != 200 {
		t.Fatalf("logged out by rubbish: %d", status)
	}
	token := w.idp.LogoutToken("ann", sid)
	if res := post(token); res.Code != 200 || res.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if status, _ := w.get(w.browser, "/api/auth/self"); status != 401 {
		t.Errorf("the session that was ended: %d", status)
	}
	if status, _ := w.get(other, "/api/auth/self"); status != 200 {
		t.Errorf("another session: %d", status)
	}
	if res := post(token); res.Code != 400 {
		t.Errorf("a second time: %d", res.Code)
	}
	if res := post(w.idp.LogoutToken("ann", "")); res.Code != 200 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if status, _ := w.get(other, "/api/auth/self"); status != 401 {
		t.Errorf("all sessions were ended: %d", status)
	}
	if res := w.do("POST", "/api/auth/backchannel-logout", strings.Repeat("x", 70<<10), "Content-Type", "application/x-www-form-urlencoded"); res.Code != 400 {
		t.Errorf("a long form: %d", res.Code)
	}
}

// A provider that is down at the start: nobody comes in, and everybody does when
// it is there. What needs no provider works.
func TestProviderDown(t *testing.T) {
	w := newWorld(t, nil) // found
	w.idp.Down(true)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	late := oidc.New(oidc.Options{Issuer: w.idp.URL, ClientID: oidctest.ClientID, Log: slog.New(slog.DiscardHandler), Client: &http.Client{Transport: transport}})
	s := newSite(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: w.accounts, Provider: late, ClientID: oidctest.ClientID, BaseURL: w.url, Box: newBox(t)}
		o.Health = web.Health{Provider: late.Ready, Database: func(context.Context) (int, error) { return 0, nil }, Journal: func(context.Context) error { return nil }}
	})
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	running.Go(func() { _ = late.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })

	down := problemJSON(fleet.Unavailable, "The identity provider cannot be reached")
	bearer := "Bearer " + w.idp.AccessToken("ann")
	s.same("a token", s.do("GET", "/api/devices", "", "Authorization", bearer), 503, down)
	s.same("a login", s.do("GET", "/api/auth/login?redirect=/", ""), 503, down)
	s.want("GET", "/api/auth/mode", "", 200, `{"mode": "oidc", "insecure": false, "setup": false}`)
	s.want("GET", "/api/devices", "", 401, problemJSON(fleet.Unauthenticated, "No valid token provided"))
	if res := s.do("GET", "/health/readyz", ""); res.Code != 503 || !strings.Contains(res.Body.String(), `"oidc":{"ok":false}`) || !strings.Contains(res.Body.String(), `"ready":false`) {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	w.idp.Down(false)
	w.await(late.Ready)
	if res := s.do("GET", "/api/devices", "", "Authorization", bearer); res.Code != 200 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	if res := s.do("GET", "/health/readyz", ""); res.Code != 200 || !strings.Contains(res.Body.String(), `"oidc":{"ok":true}`) {
		t.Errorf("%d %s", res.Code, res.Body)
	}
}

// The order in which proofs are looked at.
func TestTokenOrder(t *testing.T) {
	w := newWorld(t, nil)
	ann, vic := w.idp.AccessToken("ann"), w.idp.AccessToken("vic")
	who := func(headers ...string) string {
		t.Helper()
		return selfOf(t, w.do("GET", "/api/auth/self", "", headers...).Body.Bytes()).Subject
	}
	if got := who("Cookie", "access_token="+ann, "Authorization", "Bearer "+vic); got != "ann" {
		t.Errorf("the header goes before the cookie: %q", got)
	}
	if got := who("Authorization", "bearer  "+vic); got != "vic" {
		t.Errorf("the header: %q", got)
	}
	if got := who("Cookie", "access_token=", "Authorization", "Bearer "+vic); got != "vic" {
		t.Errorf("an empty cookie: %q", got)
	}
	if got := who("Authorization", "Basic "+vic); got != "" {
		t.Errorf("basic: %q", got)
	}
}

// What a provider takes from somebody their API tokens lose as well, with the
// next token of their browser and not only when they log in again.
func TestRefreshReachesTokens(t *testing.T) {
	w := newWorld(t, nil)
	w.login(w.browser, "ann")
	res := w.with(w.cookies(w.browser), "GET", "/api/auth/self")
	ann := access.Principal{Kind: access.Person, Subject: "ann", Roles: []string{"editor"}, Session: selfOf(t, res.Body.Bytes()).Session}
	token, _, err := w.accounts.CreateToken(t.Context(), ann, access.NewToken{Name: "ci", Roles: []string{"editor"}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f := func(roles ...string) {
		t.Helper()
		if got := selfOf(t, w.as(token, "GET", "/api/auth/self", "").Body.Bytes()); !cmp.Equal(got.Roles, roles) {
			t.Errorf("%v, want %v", got.Roles, roles)
		}
	}
	f("editor")
	w.idp.Put(oidctest.User{Subject: "ann", Name: "Ann", Email: "ann@example.com", Roles: []string{"viewer", "tag:lab"}})
	if res := w.with(w.expired(w.browser, "ann"), "GET", "/api/devices"); res.Code != 200 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	f("viewer")
	if p, err := w.accounts.APIToken(token); err != nil || !cmp.Equal(p.Limit.Tags, []string{"lab"}) {
		t.Errorf("%+v %v", p, err)
	}
}
