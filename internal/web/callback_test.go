package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
	"signalbox/internal/web"
)

// gateways is a web.Carrier that keeps what it is told; the real one is tested
// with the real gateway in package gateway, and in e2e.
type gateways struct {
	mu      sync.Mutex
	open    map[string]*held // by token
	named   []string         // what the gateways called themselves
	keys    func(ctx context.Context, requestID string) ([]string, error)
	closing bool

	counted *prometheus.Registry
}

// held is a stream; it ends at once when it is told to.
type held struct {
	of    *gateways
	token string
	out   *sse.Outbox
	owner sse.Owner
}

func (g *gateways) New(token, _, gateway string, _ http.Header) web.Carried {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = append(g.named, gateway)
	return &held{of: g, token: token, out: sse.NewOutbox(1<<20, func() {})}
}

func (g *gateways) Disconnected(token string) {
	g.mu.Lock()
	h := g.open[token]
	delete(g.open, token)
	g.mu.Unlock()
	if h != nil {
		h.owner.Closed(nil)
	}
}

func (g *gateways) Bindings(ctx context.Context, requestID string) ([]string, error) {
	if g.keys == nil {
		return nil, nil
	}
	return g.keys(ctx, requestID)
}

func (g *gateways) tokens() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for token := range g.open {
		all = append(all, token)
	}
	return strings.Join(all, " ")
}

func (h *held) Out() *sse.Outbox { return h.out }
func (h *held) End(*sse.Frame)   { go h.of.Disconnected(h.token) } // as if the gateway had closed it
func (h *held) Expel(*sse.Frame) { go h.of.Disconnected(h.token) }
func (h *held) Begin(o sse.Owner) error {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	if h.of.closing {
		return sse.ErrClosed
	}
	h.owner = o
	h.of.open[h.token] = h
	return nil
}

// carried has a server's streams carried by gateways, whose secret is geheim.
func carried(t *testing.T, o *web.Options) (g *gateways, connections func() float64) {
	t.Helper()
	log, metrics := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	g = &gateways{open: map[string]*held{}, counted: metrics}
	o.Connections = stream.NewRegistry(stream.Options{Feed: quiet{}, Devices: o.Registry.Directory(), Log: log, Registerer: metrics})
	o.Streams = web.NewStreams(web.StreamOptions{Registry: o.Connections, Log: log, Registerer: metrics, Heartbeat: time.Hour, Buffer: 1 << 20, WriteTimeout: time.Minute})
	o.Carrier, o.CallbackSecret = g, "geheim"
	return g, func() float64 {
		return float64((&estate{t: t, metrics: metrics}).counter("sse_gateway_active_connections", ""))
	}
}

// connecting is the body of a connect; headers are names and values.
func connecting(token, path string, headers ...string) string {
	all := map[string]string{"host": "localhost"}
	for i := 0; i < len(headers); i += 2 {
		all[headers[i]] = headers[i+1]
	}
	text, _ := json.Marshal(map[string]any{"action": "connect", "token": token, "request": map[string]any{"url": path, "headers": all}}) // strings
	return string(text)
}

func (s *site) callback(body string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.do("POST", "/api/sse/callback", body, "Authorization", "Bearer geheim")
}

func (s *site) calls(body string, status int, want string) {
	s.t.Helper()
	res := s.callback(body)
	if got := strings.TrimSpace(res.Body.String()); res.Code != status || got != want || len(res.Result().Cookies()) > 0 {
		s.t.Errorf("%.120s: %d %s %v; want %d %s", body, res.Code, got, res.Header(), status, want)
	}
}

// The secret is asked for always, and the header comes before the query (D4).
func TestCallbackSecretD4(t *testing.T) {
	s := newSite(t, func(o *web.Options) { carried(t, o) })
	body := `{"action":"disconnect","token":"t"}`
	f := func(query, header string, status int) {
		t.Helper()
		headers := []string{}
		if header != "" {
			headers = append(headers, "Authorization", header)
		}
		if res := s.do("POST", "/api/sse/callback"+query, body, headers...); res.Code != status || status == 401 && strings.TrimSpace(res.Body.String()) != `{"error":"Unauthorized"}` {
			t.Errorf("%s %s: %d %s", query, header, res.Code, res.Body)
		}
	}
	f("", "", 401)
	f("?secret=", "", 401)
	f("?secret=gehei", "", 401)
	f("?secret=geheim2", "", 401)
	f("?secret=geheim", "", 200)
	f("?secret=geheim", "Bearer wrong", 401)
	f("?secret=wrong", "bearer geheim", 200)
	f("", "Basic geheim", 401)
	unset := newSite(t, func(o *web.Options) { carried(t, o); o.CallbackSecret = "" })
	if res := unset.do("POST", "/api/sse/callback?secret=", body); res.Code != 401 {
		t.Errorf("without a secret: %d", res.Code)
	}
	none := newSite(t, nil)
	if res := none.callback(body); res.Code != 404 {
		t.Errorf("without gateways: %d", res.Code)
	}
}

func TestCallbackBodies(t *testing.T) {
	var g *gateways
	s := newSite(t, func(o *web.Options) { g, _ = carried(t, o) })
	s.calls("", 400, `{"error":"Missing JSON body"}`)
	s.calls("{", 400, `{"error":"Invalid JSON"}`)
	s.calls(`"`+strings.Repeat("x", 300_000)+`"`, 400, `{"error":"Invalid JSON"}`)
	for _, bad := range []string{
		"1", "[]", "null", "{}", `{"action":"connect"}`, `{"action":"connect","token":""}`, `{"action":"connect","token":1}`, `{"action":"connect","token":"a b"}`,
		`{"action":"connect","token":"` + strings.Repeat("x", 300) + `"}`, `{"action":"connect","token":"t"}`, `{"action":"connect","token":"t","request":{"url":"x","headers":{}}}`,
		`{"action":"connect","token":"t","request":{"url":"/?request_id=r","headers":{"cookie":["a"]}}}`,
	} {
		s.calls(bad, 400, `{"error":"Invalid payload"}`)
	}
	s.calls(`{"action":"dance","token":"t"}`, 400, `{"error":"Unknown action: dance"}`)
	s.calls(connecting("t", "/x"), 400, `{"error":"Missing request_id in URL"}`)
	s.calls(connecting("t", "/x?request_id="), 400, `{"error":"Missing request_id in URL"}`)
	s.calls(connecting("t", "/x?request_id=a:b"), 400, `{"error":"Invalid request_id format"}`)
	if got := g.tokens(); got != "" {
		t.Errorf("open: %s", got)
	}
	s.calls(connecting("t", "/any/path?request_id=r"), 200, `{}`)
	g.keys = func(_ context.Context, id string) ([]string, error) { return []string{"connection." + id}, nil }
	s.calls(connecting("u", "/x?request_id=s"), 200, `{"request_id":"s","bindings":["connection.s"]}`)
	g.keys = func(context.Context, string) ([]string, error) {
		return nil, fleet.E(fleet.Unavailable, errors.New("inner"), "RabbitMQ is not available")
	}
	s.calls(connecting("v", "/x?request_id=v"), 503, `{"error":"RabbitMQ is not available"}`)
	g.keys, g.closing = nil, true
	s.calls(connecting("w", "/x?request_id=w"), 503, `{"error":"The server is shutting down"}`)
	if got := len(strings.Fields(g.tokens())); got != 2 {
		t.Errorf("open: %s", g.tokens())
	}
}

// A token that was replaced is closed, and what its gateway says of it then ends
// nothing else (D2, D17): the count of streams stays right.
func TestCallbackReplacedD2D17(t *testing.T) {
	var g *gateways
	var connections func() float64
	s := newSite(t, func(o *web.Options) { g, connections = carried(t, o) })
	s.calls(connecting("old", "/x?request_id=r"), 200, `{}`)
	s.calls(connecting("new", "/x?request_id=r"), 200, `{}`)
	for end := time.Now().Add(10 * time.Second); g.tokens() != "new"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("open: %s", g.tokens())
		}
	}
	s.calls(`{"action":"disconnect","reason":"server_closed","token":"old"}`, 200, `{}`)
	s.calls(`{"action":"disconnect","reason":"client_closed","token":"never"}`, 200, `{}`)
	if got := connections(); got != 1 || g.tokens() != "new" {
		t.Errorf("%v connections, open: %s", got, g.tokens())
	}
	s.calls(`{"action":"disconnect","reason":"client_closed","token":"new"}`, 200, `{}`)
	if got := connections(); got != 0 {
		t.Errorf("%v connections are left", got)
	}
}

// Who knows somebody else's request id can neither end that stream nor have it, nor
// does it matter whether it is the same gateway that asks (D2).
func TestCallbackTakeOverD2(t *testing.T) {
	var g *gateways
	w := newWorld(t, func(o *web.Options) { g, _ = carried(t, o) })
	proof := func(subject string) string {
		browser := w.newBrowser()
		w.login(browser, subject)
		return "access_token=" + w.cookies(browser)["access_token"]
	}
	ann, vic := proof("ann"), proof("vic")
	w.calls(connecting("anns", "/x?request_id=r", "cookie", ann), 200, `{}`)
	g.keys = func(context.Context, string) ([]string, error) {
		t.Error("what waits for the stream is touched")
		return nil, nil
	}
	for _, headers := range [][]string{{"cookie", vic}, {"cookie", "access_token=nonsense"}, nil, {"cookie", "access_token=nonsense", "authorization", "Bearer nonsense"}} {
		want := 401
		if len(headers) > 0 && headers[1] == vic {
			want = 403
		}
		if res := w.callback(connecting("thiefs", "/x?request_id=r", headers...)); res.Code != want {
			t.Errorf("%v: %d %s", headers, res.Code, res.Body)
		}
		w.calls(`{"action":"disconnect","reason":"client_closed","token":"thiefs"}`, 200, `{}`)
		if got := g.tokens(); got != "anns" {
			t.Errorf("open: %s", got)
		}
	}
	if n := (&estate{t: t, metrics: g.counted}).counter("sse_identity_binding_total", "failed"); n != 4 {
		t.Errorf("%d refusals were counted", n)
	}
	if got := w.with(map[string]string{"access_token": strings.TrimPrefix(vic, "access_token=")}, "GET", "/api/devices"); got.Code != 200 {
		t.Errorf("vic may not even look: %d", got.Code)
	}
}

// Who asks is found in the headers that the gateway passes on, and who may not is
// refused (D3); a refresh token, whose successor nobody could be given, is not spent.
func TestCallbackIdentityD3(t *testing.T) {
	var g *gateways
	w := newWorld(t, func(o *web.Options) { g, _ = carried(t, o) })
	w.login(w.browser, "ann")
	cookie := func(all map[string]string) string {
		var pairs []string
		for name, value := range all {
			pairs = append(pairs, name+"="+value)
		}
		return strings.Join(pairs, "; ")
	}
	good, old := w.cookies(w.browser), w.expired(w.browser, "ann")
	bearer := "Bearer " + good["access_token"]
	n := 0
	f := func(what string, status int, want string, headers ...string) {
		t.Helper()
		n++
		id := fmt.Sprint("r", n)
		res := w.callback(connecting("token-"+id, "/x?request_id="+id, headers...))
		if got := strings.TrimSpace(res.Body.String()); res.Code != status || want != "" && got != want || len(res.Result().Cookies()) > 0 {
			t.Errorf("%s: %d %s %v", what, res.Code, got, res.Header())
		}
		if open := strings.Contains(" "+g.tokens()+" ", " token-"+id+" "); open != (status == 200) {
			t.Errorf("%s: open is %v", what, open)
		}
	}
	f("a cookie", 200, `{}`, "cookie", cookie(good))
	f("a header", 200, `{}`, "authorization", bearer)
	f("a header before a cookie", 200, `{}`, "authorization", bearer, "cookie", "access_token=nonsense")
	f("nobody", 401, "")
	f("nonsense", 401, "", "cookie", "access_token=nonsense")
	f("somebody without a role", 403, "", "authorization", "Bearer "+w.idp.Sign(map[string]any{"sub": "nil"}))
	f("the gateway's own secret", 401, "", "authorization", "Bearer geheim")

	before, _ := w.idp.Refreshes()
	f("an expired token", 401, "", "cookie", cookie(old))
	f("a refresh token alone", 401, "", "cookie", "refresh_token="+old["refresh_token"])
	if after, _ := w.idp.Refreshes(); after != before {
		t.Errorf("%d refresh tokens were spent", after-before)
	}
	if res := w.with(old, "GET", "/api/devices"); res.Code != 200 || set(res)["refresh_token"] == nil {
		t.Errorf("the refresh token is no good any more: %d %s", res.Code, res.Body)
	}
}

// The gateway gives up after five seconds: however slow it is to find out who
// asks, it is answered before (D34).
func TestCallbackSlowIdentityD34(t *testing.T) {
	s := newSite(t, func(o *web.Options) { carried(t, o) })
	s.server.IdentifyWith(func(_ http.ResponseWriter, r *http.Request, _ bool) (access.Principal, error) {
		<-r.Context().Done()
		return access.Principal{}, fleet.E(fleet.Unavailable, r.Context().Err(), "The provider does not answer")
	})
	start := time.Now()
	s.calls(connecting("t", "/x?request_id=r"), 503, `{"error":"The provider does not answer"}`)
	if took := time.Since(start); took > 4900*time.Millisecond {
		t.Errorf("that took %v", took)
	}
}

// Whatever a gateway says, it gets an answer in JSON, and none is our fault.
func FuzzCallback(f *testing.F) {
	f.Add([]byte(connecting("t", "/x?request_id=r", "cookie", "a=b; refresh_token=c", "Authorization", "Bearer x")))
	f.Add([]byte(`{"action":"disconnect","token":"t","reason":"x","request":{}}`))
	f.Add([]byte(`{"action":"connect","token":"t","request":{"url":"//h/%zz?request_id=\u0000","headers":{"":"\r\n"}}}`))
	f.Add([]byte(`{"action":"\ud800","token":"t"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := newSite(t, func(o *web.Options) { carried(t, o) })
		res := s.callback(string(body))
		if res.Code != 200 && res.Code != 400 && res.Code != 401 && res.Code != 403 || !json.Valid(res.Body.Bytes()) {
			t.Errorf("%d %s", res.Code, res.Body)
		}
	})
}

// A page of another site may not read a stream through a gateway, which itself
// would let every page, also where nobody logs in.
func TestCallbackOtherPages(t *testing.T) {
	var g *gateways
	s := newSite(t, func(o *web.Options) {
		g, _ = carried(t, o)
		o.CORSOrigins = []string{"https://friend.example"}
	})
	n := 0
	f := func(status int, headers ...string) {
		t.Helper()
		n++
		id := fmt.Sprint("r", n)
		if res := s.callback(connecting("token-"+id, "/x?request_id="+id, headers...)); res.Code != status || strings.Contains(" "+g.tokens()+" ", " token-"+id+" ") != (status == 200) {
			t.Errorf("%q: %d %s", headers, res.Code, res.Body)
		}
	}
	f(200)
	f(200, "origin", "http://localhost")
	f(200, "sec-fetch-site", "same-origin")
	f(200, "sec-fetch-site", "cross-site", "origin", "https://friend.example")
	f(403, "sec-fetch-site", "cross-site", "origin", "https://evil.example")
	f(403, "sec-fetch-site", "same-site", "origin", "http://localhost:3100")
	f(403, "origin", "https://evil.example")
	f(403, "origin", "https://evil.example", "authorization", "Bearer x") // no proof where nobody logs in
}
