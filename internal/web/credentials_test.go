package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// plant is a site whose devices have credentials at the built-in issuer.
type plant struct {
	*site
	issuer *local.Issuer
	open   bool // nobody has to log in
	closed []string
	told   chan string // client ids that were told of a rotation
	runner *rotation.Runner
	change []string     // client ids whose config changed
	fail   error        // of closing sessions
	ahead  atomic.Int64 // the clock of rotations
}

// Tell implements rotation.Notifier, as do Remind and Clear.
func (p *plant) Tell(_ context.Context, _ int64, clientID string, _ int64) error {
	p.told <- clientID
	return nil
}

// Remind is never called here.
func (p *plant) Remind(context.Context, int64, string, int64) error { return nil }

// Clear has nothing to take back.
func (p *plant) Clear(context.Context, int64, string) error { return nil }

func newPlant(t *testing.T, change func(*web.Options)) *plant {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	box, err := secret.NewBox("a key for tests only", "device credentials")
	if err != nil {
		t.Fatal(err)
	}
	p := &plant{told: make(chan string, 100)}
	if p.issuer, err = local.New(t.Context(), local.Options{Store: db, Box: box, URL: "https://box.example.org", Audience: "signalbox"}); err != nil {
		t.Fatal(err)
	}
	n := 0
	service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithIssuer(p.issuer),
		registry.WithKeys(func() string { n++; return []string{"", "aaaaaaaa", "bbbbbbbb"}[n] }))
	if err != nil {
		t.Fatal(err)
	}
	p.site = &site{t: t, registry: service, metrics: prometheus.NewRegistry()}
	o := web.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Registry: service, Metrics: p.metrics, Devices: web.Devices{
		Verify: p.issuer.Verify, Open: func() bool { return p.open }, Issuer: p.issuer.Handler(), SetPublicKey: p.issuer.SetPublicKey,
		CloseSessions: func(_ context.Context, d fleet.DeviceRef) (int, error) {
			p.closed = append(p.closed, d.Key)
			return 1, p.fail
		},
		TokenURL: "https://box.example.org/oauth/token", BaseURL: "https://box.example.org", WiFiSSID: "net", WiFiPassword: "hunter2",
	}}
	o.Rotation = rotation.NewRunner(rotation.Options{
		Store: db, Issuer: p.issuer, Notifier: p, Box: box, Sole: true,
		Policy: rotation.Policy{Timeout: time.Minute, Turn: time.Minute, Skew: 30 * time.Second, RetryAfter: time.Hour, RetryMax: time.Hour, Tries: 3},
		Poll:   10 * time.Millisecond, Now: func() time.Time { return time.Now().Add(time.Duration(p.ahead.Load())) },
	})
	o.Nonces, o.ConfigChanged = box, func(clientID string) { p.change = append(p.change, clientID) }
	p.runner = o.Rotation
	if change != nil {
		change(&o)
	}
	p.server = web.New(o)
	p.do("POST", "/api/device-models", `{"code":"relay","name":"Relay"}`)
	return p
}

// create makes a device and returns its id and credentials.
func (p *plant) create(config string) (credentials map[string]any) {
	p.t.Helper()
	body, _ := json.Marshal(map[string]any{"device_model_id": 1, "config": config})
	w := p.do("POST", "/api/devices", string(body))
	if w.Code != http.StatusCreated {
		p.t.Fatalf("%d %s", w.Code, w.Body)
	}
	var d struct{ ID json.Number }
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
		p.t.Fatal(err)
	}
	w = p.do("GET", "/api/devices/"+d.ID.String()+"/credentials", "")
	if err := json.Unmarshal(w.Body.Bytes(), &credentials); err != nil || w.Code != http.StatusOK || w.Header().Get("Cache-Control") != "no-store" {
		p.t.Fatalf("%d %s %v", w.Code, w.Body, w.Header())
	}
	return credentials
}

// token gets a token on the server's own routes.
func (p *plant) token(credentials map[string]any) (token string, status int) {
	p.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {credentials["client_id"].(string)}, "client_secret": {credentials["client_secret"].(string)}}
	r := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	p.server.Handler().ServeHTTP(w, r)
	var body struct {
		Token string `json:"access_token"`
	}
	_ = json.Unmarshal(w.Body.Bytes(), &body)
	return body.Token, w.Code
}

func TestCredentials(t *testing.T) {
	p := newPlant(t, nil)
	c := p.create(`{}`)
	if len(c["client_secret"].(string)) < 40 {
		t.Errorf("%v", c)
	}
	delete(c, "client_secret")
	want := map[string]any{"device_key": "aaaaaaaa", "client_id": "iotdevice-relay-aaaaaaaa", "token_url": "https://box.example.org/oauth/token",
		"base_url": "https://box.example.org", "mqtt_url": nil, "wifi_ssid": "net", "wifi_password": "hunter2"}
	for name, value := range want {
		if c[name] != value {
			t.Errorf("%s: %v, want %v", name, c[name], value)
		}
	}
	if len(c) != len(want) {
		t.Errorf("%v", c)
	}
	p.want("GET", "/api/devices/9/credentials", "", 404, `{"error":"Device 9 was not found","details":{"message":"The requested resource could not be found"},"code":"RECORD_NOT_FOUND","correlationId":"id-1"}`)
	p.want("GET", "/api/devices/1/keycloak-status", "", 200, `{"exists":true,"enabled":true,"client_id":"iotdevice-relay-aaaaaaaa","keycloak_uuid":null,"console_url":null}`)
	if err := p.issuer.Delete(t.Context(), "iotdevice-relay-aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	p.want("GET", "/api/devices/1/keycloak-status", "", 200, `{"exists":false,"enabled":false,"client_id":"iotdevice-relay-aaaaaaaa","keycloak_uuid":null,"console_url":null}`)
	p.want("POST", "/api/device-clients/reconcile", "", 200, `{"devices":1,"clients":0,"created":["iotdevice-relay-aaaaaaaa"],"changed":[],"orphans":[],"removed":[],"failed":[]}`)
	if err := p.issuer.Delete(t.Context(), "iotdevice-relay-aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	p.want("POST", "/api/devices/1/keycloak-sync", "", 200, `{"exists":true,"enabled":true,"client_id":"iotdevice-relay-aaaaaaaa","keycloak_uuid":null,"console_url":null}`)
	if w := p.do("POST", "/api/device-clients/reconcile", `{"delete_orphans":"perhaps"}`); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A viewer sees no secret and changes nothing; nobody but a device is a device.
func TestCredentialsNeedAnEditor(t *testing.T) {
	p := newPlant(t, nil)
	p.server.IdentifyWith(func(_ http.ResponseWriter, r *http.Request, _ bool) (access.Principal, error) {
		if r.Method == "POST" && (r.URL.Path == "/api/devices" || r.URL.Path == "/api/device-models") || r.Header.Get("X-Test") == "editor" {
			return access.Local(), nil
		}
		return access.Principal{Kind: access.Person, Subject: "v", Roles: []string{access.RoleViewer}}, nil
	})
	p.do("POST", "/api/devices", `{"device_model_id":1,"config":"{}"}`)
	for _, route := range []string{"GET /api/devices/1/credentials", "POST /api/devices/1/revoke", "POST /api/devices/1/restore",
		"POST /api/devices/1/keycloak-sync", "PUT /api/devices/1/public-key", "POST /api/device-clients/reconcile"} {
		method, path, _ := strings.Cut(route, " ")
		if w := p.do(method, path, `{"public_key":null}`); w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
		if w := p.do(method, path, `{"public_key":null}`, "X-Test", "editor"); w.Code >= 300 {
			t.Errorf("%s as an editor: %d %s", route, w.Code, w.Body)
		}
	}
	if w := p.do("GET", "/api/iot/config", "", "X-Test", "editor"); w.Code != http.StatusUnauthorized {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Who has to do with a part of the devices only, has nothing to do with the
// credentials of the others.
func TestCredentialsWithinALimit(t *testing.T) {
	limit := access.Limit{Models: []string{"relay"}}
	p := newPlant(t, nil)
	p.server.IdentifyWith(func(http.ResponseWriter, *http.Request, bool) (access.Principal, error) {
		who := access.Local()
		who.Limit = limit
		return who, nil
	})
	p.create(`{}`)
	limit.Models = []string{"other"}
	for _, route := range []string{"GET /api/devices/1/credentials", "GET /api/devices/1/keycloak-status", "POST /api/devices/1/revoke",
		"POST /api/devices/1/restore", "POST /api/devices/1/keycloak-sync", "PUT /api/devices/1/public-key"} {
		method, path, _ := strings.Cut(route, " ")
		if w := p.do(method, path, `{"public_key":null}`); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "aaaaaaaa") {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
	}
	if w := p.do("POST", "/api/device-clients/reconcile", ""); w.Code != http.StatusForbidden {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestIotConfig(t *testing.T) {
	p := newPlant(t, nil)
	const config = " {\"deviceName\" : \"Küche\"}\n"
	c := p.create(config)
	other := p.create(`{"deviceName":"Other"}`)
	token, status := p.token(c)
	if status != http.StatusOK {
		t.Fatal(status)
	}
	w := p.do("GET", "/api/iot/config", "", "Authorization", "Bearer "+token)
	if w.Code != http.StatusOK || w.Body.String() != config || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %q %v", w.Code, w.Body, w.Header())
	}
	otherToken, _ := p.token(other)
	if w := p.do("GET", "/api/iot/config?device_key=aaaaaaaa", "", "Authorization", "Bearer "+otherToken); w.Body.String() != `{"deviceName":"Other"}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	f := func(name string, status int, message, path string, headers ...string) {
		t.Helper()
		w := p.do("GET", path, "", headers...)
		var body struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != status || body.Error != message {
			t.Errorf("%s: %d %s, want %d %q", name, w.Code, w.Body, status, message)
		}
	}
	const path, keyed = "/api/iot/config", "/api/iot/config?device_key=aaaaaaaa"
	f("nothing", 401, "No valid token provided", path)
	f("a key without a token", 401, "No valid token provided", keyed)
	f("a cookie", 401, "No valid token provided", path, "Cookie", "access_token="+token)
	f("basic", 401, "No valid token provided", keyed, "Authorization", "Basic eDp4")
	f("an empty token", 401, "No valid token provided", path, "Authorization", "Bearer ")
	f("garbage", 401, "Invalid token: it cannot be read", path, "Authorization", "Bearer x")
	f("forged", 401, "Invalid token signature", path, "Authorization", "Bearer "+token[:len(token)-30])
	f("the secret", 401, "Invalid token: it cannot be read", path, "Authorization", "Bearer "+c["client_secret"].(string))
	p.open = true
	f("open without a key", 401, "Device authentication required", path)
	f("open with a key", 404, `Device "zzzzzzzz" was not found`, path+"?device_key=zzzzzzzz")
	f("open with a bad token", 401, "Invalid token: it cannot be read", keyed, "Authorization", "Bearer x")
	f("open with basic", 401, "No valid token provided", keyed, "Authorization", "Basic eDp4")
	if w := p.do("GET", keyed, ""); w.Code != http.StatusOK || w.Body.String() != config {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	// Withdrawn, it is nobody: with its token, with another, and by its key.
	p.do("POST", "/api/devices/1/revoke", "")
	f("revoked", 401, "Session expired, please login again", path, "Authorization", "Bearer "+token)
	f("revoked by key", 401, "Session expired, please login again", keyed)
	if _, status := p.token(c); status != http.StatusUnauthorized {
		t.Errorf("a revoked device gets %d", status)
	}
	p.do("POST", "/api/devices/1/restore", "")
	token, _ = p.token(c)
	if w := p.do("GET", path, "", "Authorization", "Bearer "+token); w.Code != http.StatusOK {
		t.Errorf("restored: %d %s", w.Code, w.Body)
	}
	if w := p.do("DELETE", "/api/devices/1", ""); w.Code != http.StatusNoContent {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	f("deleted", 401, "The device does not exist", path, "Authorization", "Bearer "+token)
	f("deleted by key", 404, `Device "aaaaaaaa" was not found`, keyed)
}

// What the issuer says of a device is not enough: the registry has to agree.
func TestIotConfigOfAnotherClient(t *testing.T) {
	claims := fleet.DeviceClaims{}
	p := newPlant(t, func(o *web.Options) {
		o.Devices.Verify = func(context.Context, string) (fleet.DeviceClaims, error) { return claims, nil }
	})
	p.create(`{}`)
	f := func(clientID string, status int) {
		t.Helper()
		claims.ClientID = clientID
		if w := p.do("GET", "/api/iot/config", "", "Authorization", "Bearer x"); w.Code != status {
			t.Errorf("%s: %d %s", clientID, w.Code, w.Body)
		}
	}
	f("iotdevice-relay-aaaaaaaa", 200)
	f("iotdevice-other-aaaaaaaa", 401) // the key alone is not enough
	f("iotdevice-relay-zzzzzzzz", 401)
	f("pipeline", 401)
	f("", 401)
}

func TestRevoke(t *testing.T) {
	p := newPlant(t, nil)
	p.create(`{}`)
	post := func(path string) (body map[string]any) {
		t.Helper()
		w := p.do("POST", path, "")
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return body
	}
	number := func(v any) bool { n, ok := v.(float64); return ok && n > 0 }
	r := post("/api/devices/1/revoke")
	if r["revoked"] != true || r["revoked_at"] == nil || !number(r["refused_ms"]) || !number(r["client_disabled_ms"]) || r["client_enabled_ms"] != nil ||
		r["client_error"] != nil || r["sessions_closed"] != 1.0 || !number(r["sessions_closed_ms"]) || len(p.closed) != 1 {
		t.Errorf("%v, closed %v", r, p.closed)
	}
	for _, path := range []string{"/api/devices/1", "/api/devices"} {
		if w := p.do("GET", path, ""); !strings.Contains(w.Body.String(), `"revoked":true`) {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
	if r := post("/api/devices/1/restore"); r["revoked"] != false || r["revoked_at"] != nil || !number(r["client_enabled_ms"]) || len(p.closed) != 1 {
		t.Errorf("%v", r)
	}
	p.fail = errors.New("the broker is busy")
	if r := post("/api/devices/1/revoke"); r["sessions_closed"] != nil || r["sessions_closed_ms"] != nil || r["revoked"] != true {
		t.Errorf("%v", r)
	}
	for _, path := range []string{"/api/devices/9/revoke", "/api/devices/9/restore"} {
		if w := p.do("POST", path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestIssuerRoutes(t *testing.T) {
	p := newPlant(t, nil)
	f := func(method, path string, status int) {
		t.Helper()
		if w := p.do(method, path, ""); w.Code != status {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	f("GET", "/.well-known/openid-configuration", 200)
	f("GET", "/oauth/keys", 200)
	f("GET", "/oauth/token", 405)
	f("POST", "/oauth/keys", 405)
	f("POST", "/oauth/token", 400)
	p = newPlant(t, func(o *web.Options) { o.Devices.Issuer = nil })
	f("GET", "/.well-known/openid-configuration", 404)
	f("POST", "/oauth/token", 404)
}

func TestPublicKey(t *testing.T) {
	p := newPlant(t, nil)
	p.create(`{}`)
	f := func(body string, status int) {
		t.Helper()
		if w := p.do("PUT", "/api/devices/1/public-key", body); w.Code != status {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	f(`{"public_key":"{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"CAvfAQOYnn73NrMFOpuVS8snIveebw9OBYovmsFgsqQ\",\"y\":\"ztbQxlei8NKGBonSsgjW2D-zfr-ybQvYRw1zWBtS5g8\"}"}`, 204)
	f(`{"public_key":null}`, 204)
	f(`{"public_key":"x"}`, 400)
	f(`{"public_key":7}`, 400)
	if w := p.do("PUT", "/api/devices/9/public-key", `{"public_key":null}`); w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
	p = newPlant(t, func(o *web.Options) { o.Devices.SetPublicKey = nil })
	p.create(`{}`)
	f(`{"public_key":null}`, 400)
}

// Where a device need not prove anything, a page of another site that has its own
// name lead here must not read configs either.
func TestIotConfigByAnotherName(t *testing.T) {
	p := newPlant(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: newAccounts(t), BaseURL: "http://example.com", Box: newBox(t)}
	})
	p.create(`{"psk": "hush"}`)
	p.open = true
	f := func(host string, status int) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "GET", "http://"+host+"/api/iot/config?device_key=aaaaaaaa", nil)
		w := httptest.NewRecorder()
		p.server.Handler().ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("%s: %d %s", host, w.Code, w.Body)
		}
	}
	f("evil.example:3101", 403)
	f("localhost:3101", 200)
	f("example.com", 200)
}
