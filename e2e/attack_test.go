package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"signalbox/internal/oidctest"
)

// matrix is the written table of routes and of who may use them, which the
// server's own table is tested against.
const matrix = "../internal/web/testdata/matrix.txt"

// somewhere is a route, with numbers in the places of its parts.
type somewhere struct{ method, path, needs string }

// routes returns the rows of the matrix.
func routes(t *testing.T) (all []somewhere) {
	t.Helper()
	text, err := os.ReadFile(matrix)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 9 || strings.HasPrefix(fields[0], "#") || !strings.HasPrefix(fields[1], "/") {
			continue
		}
		path := fields[1]
		for strings.Contains(path, "{") {
			open, end := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
			path = path[:open] + "1" + path[end+1:]
		}
		// The columns: nobody, roleless, viewer, editor, admin, pipeline, device.
		needs := "nothing that people have"
		for i, name := range []string{"nothing", "", "viewer", "editor", "admin"} {
			if fields[2+i] == "+" {
				needs = name
				break
			}
		}
		all = append(all, somewhere{fields[0], path, needs})
	}
	if len(all) < 40 {
		t.Fatalf("only %d routes in %s", len(all), matrix)
	}
	return all
}

// guarded are the routes for people that ask for somebody.
func guarded(t *testing.T) []somewhere {
	t.Helper()
	all := slices.DeleteFunc(routes(t), func(r somewhere) bool { return !slices.Contains([]string{"viewer", "editor", "admin"}, r.needs) })
	if len(all) < 40 {
		t.Fatalf("only %d routes ask for somebody", len(all))
	}
	return all
}

// with makes a request with headers written Name: value.
func (s *server) with(method, path, body string, headers ...string) reply {
	s.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	q, err := http.NewRequestWithContext(s.t.Context(), method, s.url(path), content)
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Add(name, value)
	}
	client := &http.Client{Transport: s.http.Transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a, err := client.Do(q)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer a.Body.Close()
	// A stream that was opened against all rights would never end.
	text, err := io.ReadAll(io.LimitReader(a.Body, 1<<20))
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{a.StatusCode, a.Header, text}
}

// refused reports whether the answer is a refusal with the status, as JSON, or
// for a stream within the stream, and tells nothing more.
func refused(r somewhere, a reply, statuses ...int) bool {
	if r.path == "/api/sse/stream" {
		for _, status := range statuses {
			if a.status == 200 && strings.Contains(string(a.body), "event: rejected") && strings.Contains(string(a.body), fmt.Sprintf(`"status":%d`, status)) {
				return true
			}
		}
		return false
	}
	var said struct {
		Error string `json:"error"`
	}
	return slices.Contains(statuses, a.status) && json.Unmarshal(a.body, &said) == nil && said.Error != "" && len(a.body) < 1000
}

// withProvider starts a server whose people log in at a provider.
func withProvider(t *testing.T, settings ...string) (*server, *oidctest.Provider) {
	t.Helper()
	s := prepare(t)
	base := "http://" + s.api
	p := oidctest.New(t, base+"/api/auth/callback")
	for _, setting := range append([]string{
		"BASEURL=" + base, "OIDC_ENABLED=true", "OIDC_ISSUER_URL=" + p.URL, "OIDC_CLIENT_ID=" + oidctest.ClientID, "OIDC_CLIENT_SECRET=" + oidctest.ClientSecret,
		"OIDC_SCOPES=" + oidctest.Scopes,
	}, settings...) {
		name, value, _ := strings.Cut(setting, "=")
		s.settings[name] = value
	}
	p.Put(oidctest.User{Subject: "ann", Name: "Ann", Roles: []string{"editor"}})
	p.Put(oidctest.User{Subject: "bob", Name: "Bob", Roles: []string{"editor"}})
	p.Put(oidctest.User{Subject: "eve", Name: "Eve", Roles: []string{"admin"}})
	s.launch()
	return s, p
}

// Whatever is wrong with a token, it opens nothing; and what a device has opens
// nothing that is for people.
func TestForgedTokens(t *testing.T) {
	s, p := withProvider(t)
	good := p.AccessToken("eve")
	if a := s.with("GET", "/api/people", "", "Authorization: Bearer "+good); a.status != 200 {
		t.Fatalf("a good token: %d %s", a.status, a.body)
	}
	now := time.Now()
	claims := func(more map[string]any) map[string]any {
		c := map[string]any{"sub": "eve", "realm_access": map[string]any{"roles": []string{"admin"}}}
		maps.Copy(c, more)
		return c
	}
	head, body, _ := strings.Cut(good, ".")
	body, signature, _ := strings.Cut(body, ".")
	encode := base64.RawURLEncoding.EncodeToString
	kid := func() string {
		var h struct{ Kid string }
		raw, _ := base64.RawURLEncoding.DecodeString(head)
		_ = json.Unmarshal(raw, &h) // of a good token
		return h.Kid
	}()
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key jose.SigningKey, c map[string]any) string {
		signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithHeader("kid", kid))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{"iss": p.URL, "aud": oidctest.ClientID, "azp": oidctest.ClientID, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "typ": "Bearer"}
		maps.Copy(all, c)
		token, err := jwt.Signed(signer).Claims(all).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	// The public key, as a text that a careless verifier takes for a shared secret.
	published := s.with("GET", "/", "").body // any text will do as long as it is public
	r, err := http.Get(p.URL + "/keys")
	if err == nil {
		published, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	bad := map[string]string{
		"garbage":                 "x",
		"dots":                    "..",
		"alg none":                encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + body + ".",
		"alg None":                encode([]byte(`{"alg":"None","kid":"`+kid+`"}`)) + "." + body + "." + signature,
		"no signature":            head + "." + body + ".",
		"another body":            head + "." + encode([]byte(fmt.Sprintf(`{"iss":%q,"aud":"signalbox","sub":"eve","exp":%d}`, p.URL, now.Add(time.Hour).Unix()))) + "." + signature,
		"signed by another":       sign(jose.SigningKey{Algorithm: jose.RS256, Key: other}, claims(nil)),
		"signed by a public text": sign(jose.SigningKey{Algorithm: jose.HS256, Key: published}, claims(nil)),
		"expired":                 p.Sign(claims(map[string]any{"exp": now.Add(-time.Minute).Unix()})),
		"of tomorrow":             p.Sign(claims(map[string]any{"nbf": now.Add(24 * time.Hour).Unix()})),
		"without an end":          p.Sign(claims(map[string]any{"exp": nil})),
		"without a subject":       p.Sign(claims(map[string]any{"sub": nil})),
		"for somebody else":       p.Sign(claims(map[string]any{"aud": "another"})),
		"for nobody":              p.Sign(claims(map[string]any{"aud": nil})),
		"of another issuer":       p.Sign(claims(map[string]any{"iss": "https://id.example.org"})),
		"an id token":             p.Sign(claims(map[string]any{"typ": "ID"})),
		"a refresh token":         p.Sign(claims(map[string]any{"typ": "Refresh"})),
		"a logout token":          p.LogoutToken("eve", ""),
		"a session of ours":       "sbs_" + encode(make([]byte, 32)),
		"an API token":            "sbt_" + encode(make([]byte, 32)),
		"long":                    strings.Repeat("x", 20<<10),
	}
	device := p.Sign(map[string]any{"sub": "service-account-iotdevice-board-abcd2345", "azp": "iotdevice-board-abcd2345", "realm_access": map[string]any{"roles": []string{"admin"}}})
	nobody := p.Sign(map[string]any{"sub": "mallory", "realm_access": map[string]any{"roles": []string{"offline_access"}}})
	for _, r := range guarded(t) {
		path := r.path
		if r.path == "/api/sse/stream" {
			path += "?request_id=mallory"
		}
		if a := s.with(r.method, path, "{}"); !refused(r, a, 401) {
			t.Errorf("%s %s without a token: %d %s", r.method, r.path, a.status, a.body)
		}
		for name, token := range bad {
			if a := s.with(r.method, path, "{}", "Authorization: Bearer "+token); !refused(r, a, 401) {
				t.Errorf("%s %s with a token that is %s: %d %s", r.method, r.path, name, a.status, a.body)
			}
		}
		for _, name := range []string{"alg none", "expired", "signed by another", "garbage"} {
			if a := s.with(r.method, path, "{}", "Cookie: access_token="+bad[name]); !refused(r, a, 401) {
				t.Errorf("%s %s with a cookie that is %s: %d %s", r.method, r.path, name, a.status, a.body)
			}
		}
		if a := s.with(r.method, path, "{}", "Authorization: Bearer "+device); !refused(r, a, 403) {
			t.Errorf("%s %s with a device's token: %d %s", r.method, r.path, a.status, a.body)
		}
		if a := s.with(r.method, path, "{}", "Authorization: Bearer "+nobody); !refused(r, a, 403) {
			t.Errorf("%s %s without a role: %d %s", r.method, r.path, a.status, a.body)
		}
	}
	if a := s.with("GET", "/api/people", "", "Authorization: Bearer "+good); a.status != 200 {
		t.Errorf("the good token afterwards: %d %s", a.status, a.body)
	}
	for name, token := range bad {
		if strings.Contains(tailOf(s.log), token) && len(token) > 10 {
			t.Errorf("the log has the token that is %s", name)
		}
	}
}

// A request_id that somebody overheard gives them nothing, and its owner does
// not notice.
func TestStolenRequestID(t *testing.T) {
	s, p := withProvider(t)
	ann, bob := p.AccessToken("ann"), p.AccessToken("bob")
	ask := func(token, method, path string, body any, want int) []byte {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		a := s.with(method, path, string(text), "Authorization: Bearer "+token)
		if a.status != want {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, want, a.body)
		}
		return a.body
	}
	var model, d struct{ ID int64 }
	_ = json.Unmarshal(ask(ann, "POST", "/api/device-models", map[string]any{"code": "board", "name": "Board"}, 201), &model) // its id is looked at
	_ = json.Unmarshal(ask(ann, "POST", "/api/devices", map[string]any{"device_model_id": model.ID, "config": configOf("lamp")}, 201), &d)

	stream := func(token string) (lines *bufio.Scanner, close func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		q, err := http.NewRequestWithContext(ctx, "GET", s.url("/api/sse/stream?request_id=known"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			q.Header.Set("Authorization", "Bearer "+token)
		}
		a, err := http.DefaultClient.Do(q) //nolint:bodyclose // close does it
		if err != nil {
			t.Fatal(err)
		}
		return bufio.NewScanner(a.Body), func() { cancel(); a.Body.Close() }
	}
	until := func(lines *bufio.Scanner, text string) (seen string) {
		t.Helper()
		for lines.Scan() {
			seen += lines.Text() + "\n"
			if strings.Contains(lines.Text(), text) {
				return seen
			}
		}
		t.Fatalf("the stream ended before %q: %s", text, seen)
		return ""
	}
	hers, close := stream(ann)
	defer close()
	until(hers, "event: ready")
	follow := map[string]any{"request_id": "known", "device_id": d.ID}
	ask(ann, "POST", "/api/device-logs/subscribe", follow, 200)

	for _, token := range []string{bob, "", "x"} {
		his, close := stream(token)
		until(his, "event: rejected")
		if his.Scan(); !strings.Contains(his.Text(), `"status":40`) {
			t.Errorf("the refusal says %q", his.Text())
		}
		for his.Scan() {
			if his.Text() != "" {
				t.Errorf("after its refusal the stream says %q", his.Text())
			}
		}
		close()
	}
	ask(bob, "POST", "/api/device-logs/subscribe", follow, 403)
	ask(bob, "POST", "/api/device-logs/unsubscribe", follow, 403)

	// Her stream goes on, with what she follows.
	board, err := dial(s.mqtt, "lamp")
	if err == nil {
		defer board.Disconnect(0)
		if tok := board.Publish(sharedTopic, 1, false, `{"entity_id":"lamp","message":"still here"}`); !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatal(tok.Error())
		}
		until(hers, "still here")
	}
}

// Pages of other sites cannot change anything with a browser's cookies.
func TestCrossSiteRequests(t *testing.T) {
	s, p := withProvider(t)
	cookie := "Cookie: access_token=" + p.AccessToken("eve")
	changes := slices.DeleteFunc(guarded(t), func(r somewhere) bool { return r.method == "GET" })
	if len(changes) < 15 {
		t.Fatalf("only %d routes change anything", len(changes))
	}
	for _, r := range changes {
		f := func(headers ...string) {
			t.Helper()
			if a := s.with(r.method, r.path, "{}", append(headers, cookie)...); !refused(r, a, 403) || !strings.Contains(string(a.body), "ross-origin") {
				t.Errorf("%s %s with %q: %d %s", r.method, r.path, headers, a.status, a.body)
			}
		}
		f("Sec-Fetch-Site: cross-site", "Origin: https://evil.example")
		f("Sec-Fetch-Site: same-site", "Origin: http://evil."+s.api)
		f("Origin: https://evil.example")
		f("Origin: null")
	}
	// The page itself can.
	body := `{"code":"board","name":"Board"}`
	if a := s.with("POST", "/api/device-models", body, cookie, "Sec-Fetch-Site: same-origin", "Origin: http://"+s.api); a.status != 201 {
		t.Errorf("the page itself: %d %s", a.status, a.body)
	}
	// Logins cannot be begun for somebody by another site either.
	if a := s.with("POST", "/api/auth/login", `{"username":"x","password":"y"}`, "Sec-Fetch-Site: cross-site", "Origin: https://evil.example"); a.status < 400 {
		t.Errorf("a login from another site: %d %s", a.status, a.body)
	}
	// The answer to a login that this browser did not begin is not taken.
	if a := s.with("GET", "/api/auth/callback?code=x&state=y", ""); a.status != 400 && a.status != 401 {
		t.Errorf("a callback out of nowhere: %d %s", a.status, a.body)
	}
}

func TestOpenRedirects(t *testing.T) {
	s, _ := withProvider(t)
	for _, to := range []string{
		"https://evil.example/", "//evil.example/", `/\evil.example/`, `\\evil.example`, "http:evil.example", "javascript:alert(1)", "https:/evil.example", "/\t/evil.example",
		"///evil.example", "http://" + s.api + "@evil.example/", "http://" + s.api + ".evil.example/", " https://evil.example", "%2f%2fevil.example/..//", "/\r\nSet-Cookie: a=b", "data:text/html,x",
	} {
		for _, path := range []string{"/api/auth/login", "/api/auth/logout"} {
			a := s.with("GET", path+"?redirect="+url.QueryEscape(to), "")
			where, err := url.Parse(a.header.Get("Location"))
			if err != nil {
				t.Errorf("%s to %q leads to %q", path, to, a.header.Get("Location"))
				continue
			}
			// Where it goes after the provider is in what it was given.
			if a.status != 400 && strings.Contains(where.Hostname()+where.Query().Get("post_logout_redirect_uri"), "evil") || a.header.Get("Set-Cookie") == "a=b" {
				t.Errorf("%s to %q: %d to %q", path, to, a.status, a.header.Get("Location"))
			}
			if path == "/api/auth/login" && a.status != 400 && strings.Contains(to, "evil") && !strings.HasPrefix(to, "%2f") {
				t.Errorf("%s to %q: %d", path, to, a.status)
			}
		}
	}
	if a := s.with("GET", "/api/auth/login?redirect=/devices/1%3Fx=1", ""); a.status != 302 {
		t.Errorf("a place of the page: %d %s", a.status, a.body)
	}
}

func TestOversizedRequests(t *testing.T) {
	s, p := withProvider(t)
	bearer := "Authorization: Bearer " + p.AccessToken("eve")
	if a := s.with("GET", "/api/devices", "", bearer, "X-Filler: "+strings.Repeat("x", 200<<10)); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 200 KiB: %d", a.status)
	}
	long := `{"username":"` + strings.Repeat("x", 4<<20) + `"}`
	for _, r := range routes(t) {
		if r.method == "GET" || r.method == "DELETE" || !strings.HasPrefix(r.path, "/api/") {
			continue
		}
		if a := s.with(r.method, r.path, long, bearer); a.status < 400 || a.status >= 500 {
			t.Errorf("%s %s with 4 MiB: %d %s", r.method, r.path, a.status, a.body)
		}
	}
	s.want(200, "GET", "/health/readyz", nil)
}

// Clients that send a byte now and then cannot keep others from being served,
// and do not stay for ever.
func TestSlowClients(t *testing.T) {
	s := start(t)
	var conns []net.Conn
	var wg sync.WaitGroup
	ended := make(chan time.Duration, 400)
	begin := time.Now()
	for i := range 200 {
		c, err := net.Dial("tcp", s.api)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		head := "GET /api/devices HTTP/1.1\r\nHost: x\r\nX-A: "
		if i%2 == 1 { // or in the body
			head = "POST /api/device-models HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
		}
		if _, err := io.WriteString(c, head); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			_, _ = io.Copy(io.Discard, c) // until it is closed, however
			ended <- time.Since(begin)
		})
	}
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			for _, c := range conns {
				_, _ = c.Write([]byte("x")) // it may be closed
			}
		}
	})
	for range 20 {
		s.want(200, "GET", "/api/devices", nil)
	}
	for n := range conns {
		select {
		case <-ended:
		case <-time.After(60 * time.Second):
			t.Fatalf("after %v only %d of %d slow clients are gone", time.Since(begin), n, len(conns))
		}
	}
	close(stop)
	wg.Wait()
}

// account runs "signalbox user" on the server's settings.
func (s *server) account(password string, args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.Command(program, append([]string{"user"}, args...)...)
	cmd.Dir = s.t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for name, value := range s.settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdin = strings.NewReader(password + "\n")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Guessing a password gets slower and slower, however the guesser names himself,
// and tells nothing about who has an account.
func TestPasswordGuessing(t *testing.T) {
	s := start(t)
	if out, err := s.account("correct horse battery", "add", "ann", "--role", "admin", "--password-stdin"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually(t, "login is on", func() bool { return s.with("GET", "/api/devices", "").status == 401 })
	login := func(name, password string) reply {
		return s.with("POST", "/api/auth/login", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password))
	}
	first, unknown := login("ann", "wrong"), login("nobody", "wrong")
	if first.status != 401 || unknown.status != 401 || !bytes.Equal(stripped(first.body), stripped(unknown.body)) {
		t.Errorf("a wrong password: %d %s\nan unknown name: %d %s", first.status, first.body, unknown.status, unknown.body)
	}
	var slowed reply
	for n := 0; slowed.status != 429; n++ {
		if n > 50 {
			t.Fatal("50 guesses and no end")
		}
		slowed = login("ann", fmt.Sprintf("guess %d", n))
	}
	if after := slowed.header.Get("Retry-After"); after == "" || after == "0" {
		t.Errorf("slowed down for %q", after)
	}
	if a := login("ann", "correct horse battery"); a.status != 429 {
		t.Errorf("the right password within that time: %d %s", a.status, a.body)
	}
	if strings.Contains(tailOf(s.log), "correct horse") || strings.Contains(tailOf(s.log), "guess 1") {
		t.Error("the log has a password")
	}
}

// stripped returns an error's body without what differs from request to request.
func stripped(body []byte) []byte {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		return body
	}
	delete(fields, "correlationId")
	text, _ := json.Marshal(fields) // it came from there
	return text
}
