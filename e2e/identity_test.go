package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"signalbox/internal/oidctest"
)

// browser keeps cookies and follows redirects.
type browser struct {
	*http.Client
	s *server
}

func (s *server) browser() browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	return browser{&http.Client{Jar: jar, Transport: transport, Timeout: patience}, s}
}

// send makes one request and returns the status and the body.
func (b browser) send(method, path, body string) (int, string) {
	b.s.t.Helper()
	q, err := http.NewRequestWithContext(b.s.t.Context(), method, b.s.url(path), strings.NewReader(body))
	if err != nil {
		b.s.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := b.Do(q)
	if err != nil {
		b.s.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		b.s.t.Fatal(err)
	}
	return a.StatusCode, string(text)
}

func (b browser) want(status int, method, path, body string) string {
	b.s.t.Helper()
	got, text := b.send(method, path, body)
	if got != status {
		b.s.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, text)
	}
	return text
}

// cookie returns a cookie that the browser has.
func (b browser) cookie(name string) string {
	u, err := url.Parse(b.s.url("/"))
	if err != nil {
		b.s.t.Fatal(err)
	}
	for _, c := range b.Jar.Cookies(u) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it takes too long until %s", what)
		}
	}
}

// The first start prints a link that makes the first account; from then on
// everybody has to log in, over restarts as well, and the server may be reached
// from other machines.
func TestFirstAccount(t *testing.T) {
	s := start(t)
	link := regexp.MustCompile(regexp.QuoteMeta(s.url("/setup#")) + `([A-Za-z0-9_-]{20,})`).FindStringSubmatch(tailOf(s.log))
	if link == nil {
		t.Fatalf("no link in %s", tailOf(s.log))
	}
	b := s.browser()
	s.want(200, "GET", "/api/devices", nil)
	setup, err := json.Marshal(map[string]string{"setup": link[1], "username": "root", "password": "correct horse battery"})
	if err != nil {
		t.Fatal(err)
	}
	b.want(200, "POST", "/api/auth/setup", string(setup))
	b.want(200, "GET", "/api/devices", "")
	s.refused("GET", "/api/devices", nil, 401, "AUTHENTICATION_REQUIRED", "Authentication is required to access this resource", "No valid token provided")
	if text := b.want(200, "GET", "/api/audit", ""); !strings.Contains(text, `"action":"setup"`) {
		t.Errorf("audit: %s", text)
	}

	s.terminate()
	if code := s.awaitExit(patience); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.settings["HOST"] = "0.0.0.0"
	s.launch()
	if text := b.want(200, "GET", "/api/auth/self", ""); !strings.Contains(text, `"root"`) {
		t.Errorf("after a restart: %s", text)
	}
	if text := b.want(200, "GET", "/api/auth/mode", ""); !strings.Contains(text, `"insecure":false`) {
		t.Errorf("mode: %s", text)
	}
	if said := tailOf(s.log); strings.Count(said, "/setup#") != 1 {
		t.Error("the link was printed again")
	}
	b.want(204, "POST", "/api/auth/logout", "")
	b.want(401, "GET", "/api/devices", "")
	b.want(200, "POST", "/api/auth/login", `{"username": "root", "password": "correct horse battery"}`)
	b.want(200, "GET", "/api/devices", "")
}

// A provider that is away at the start: the program starts, says that it is not
// ready, and recovers; away in the middle: who is in stays in.
func TestProvider(t *testing.T) {
	s := prepare(t)
	idp := oidctest.New(t, s.url("/api/auth/callback"))
	idp.Put(oidctest.User{Subject: "ann", Name: "Ann", Roles: []string{"editor"}})
	idp.At("ann")
	for name, value := range map[string]string{
		"OIDC_ENABLED": "true", "OIDC_ISSUER_URL": idp.URL + "/", "OIDC_CLIENT_ID": oidctest.ClientID, "OIDC_CLIENT_SECRET": oidctest.ClientSecret,
		"OIDC_SCOPES": oidctest.Scopes, "OIDC_CLOCK_SKEW_SECONDS": "0", "HOST": "0.0.0.0",
	} {
		s.settings[name] = value
	}
	s.settings["BASEURL"] = s.url("")
	idp.Down(true)
	s.spawn()
	b := s.browser()
	await(t, "it listens", func() bool {
		r, err := s.try(t.Context(), "GET", s.url("/health/healthz"), nil)
		return err == nil && r.status == 200
	})
	if r := s.call("GET", "/health/readyz", nil); r.status != 503 || !strings.Contains(string(r.body), `"oidc":{"ok":false}`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	b.want(503, "GET", "/api/auth/login?redirect=/", "")
	b.want(401, "GET", "/api/devices", "")
	idp.Down(false)
	await(t, "it is ready", func() bool { return s.call("GET", "/health/readyz", nil).status == 200 })

	b.want(200, "GET", "/api/auth/login?redirect=/", "")
	b.want(201, "POST", "/api/device-models", `{"code": "relay", "name": "Relay"}`)
	idp.Down(true)
	b.want(200, "GET", "/api/devices", "")
	b.want(200, "GET", "/api/auth/self", "")
	if r := s.call("GET", "/health/readyz", nil); r.status != 200 {
		t.Errorf("a provider that went away makes it unready: %s", r.body)
	}
	idp.Down(false)

	// A token that ends is followed by another, unseen.
	idp.AccessAge(2 * time.Second)
	short := s.browser()
	short.want(200, "GET", "/api/auth/login?redirect=/", "")
	old := short.cookie("access_token")
	await(t, "the token is replaced", func() bool {
		short.want(200, "GET", "/api/auth/self", "")
		token := short.cookie("access_token") // which the browser forgets at its end
		return token != "" && token != old
	})
	idp.EndSessions("ann")
	await(t, "the session ends", func() bool {
		status, _ := short.send("GET", "/api/auth/self", "")
		return status == 401
	})
	if short.cookie("refresh_token") != "" {
		t.Error("the browser keeps the cookies of a session that is over")
	}
	if got := s.metric(`auth_token_refresh_total{status="success"}`); got < 1 {
		t.Errorf("%v refreshes are counted", got)
	}

	b.want(200, "GET", "/api/auth/logout", "")
	b.want(401, "GET", "/api/devices", "")
}
