package web_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/oidctest"
	"signalbox/internal/registry"
	"signalbox/internal/stream"
	"signalbox/internal/web"
)

// The columns of testdata/matrix.txt: who may send a request, and with which proof.
func (w *world) principals() (names []string, token map[string]func() string) {
	token = map[string]func() string{}
	add := func(name string, f func() string) {
		names = append(names, name)
		token[name] = f
	}
	// A proof of its own for each request: some of these end what it is of.
	sign := func(claims map[string]any) func() string {
		return func() string {
			claims["sid"], claims["iat"] = rand.Text(), time.Now().Add(2*time.Second).Unix()
			return w.idp.Sign(claims)
		}
	}
	person := func(subject string, roles ...string) func() string {
		return sign(map[string]any{"sub": subject, "realm_access": map[string]any{"roles": roles}})
	}
	add("nobody", func() string { return "" })
	add("roleless", person("nil", "offline_access"))
	add("viewer", person("vic", "viewer"))
	add("editor", person("ann", "editor"))
	add("admin", person("adam", "admin"))
	// The client of the firmware's pipeline, and a device that was given every role by mistake.
	add("pipeline", func() string {
		return w.idp.Sign(map[string]any{"sub": "robot", "azp": "pipeline", "realm_access": map[string]any{"roles": []string{"pipeline"}}})
	})
	add("device", func() string {
		return w.idp.Sign(map[string]any{"sub": "dev", "azp": "iotdevice-relay-key00001", "realm_access": map[string]any{"roles": []string{"admin", "editor", "viewer", "pipeline"}}})
	})
	for _, role := range []string{"viewer", "editor", "admin"} {
		owner := access.Principal{Kind: access.Person, Subject: "owner-" + role, Roles: []string{role}, Session: "s-" + role}
		if err := w.accounts.Entered(w.t.Context(), owner, access.Client{}); err != nil {
			w.t.Fatal(err)
		}
		add("token:"+role, func() string {
			secret, _, err := w.accounts.CreateToken(w.t.Context(), owner, access.NewToken{Name: rand.Text(), Roles: []string{role}, Lifetime: time.Hour})
			if err != nil {
				w.t.Fatal(err)
			}
			return secret
		})
	}
	add("ltd-viewer", person("liv", "viewer", "model:relay"))
	add("ltd-editor", person("les", "editor", "tag:north"))
	add("ltd-admin", person("lad", "admin", "tag:north"))
	return names, token
}

// TestMatrix walks the whole table of routes with every kind of principal and
// compares with what is written in testdata/matrix.txt: + may, 401 and 403 may
// not. Who adds a route writes down there who may use it.
func TestMatrix(t *testing.T) {
	metrics := prometheus.NewRegistry()
	w := newWorld(t, func(o *web.Options) {
		log := slog.New(slog.DiscardHandler)
		o.Connections = stream.NewRegistry(stream.Options{Devices: o.Registry.Directory(), Log: log, Registerer: metrics})
		model, err := o.Registry.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
		if err == nil {
			_, err = o.Registry.CreateDevice(t.Context(), model.ID, "{}")
		}
		if err != nil {
			t.Fatal(err)
		}
		provider := o.Identity.Provider
		o.Devices.Verify = func(ctx context.Context, token string) (fleet.DeviceClaims, error) {
			c, err := provider.Verify(ctx, token)
			return fleet.DeviceClaims{ClientID: c.ClientID, IssuedAt: c.IssuedAt, Expires: c.Expires}, err
		}
		o.Health = web.Health{Database: func(context.Context) (int, error) { return 0, nil }, Journal: func(context.Context) error { return nil }}
		o.Streams = web.NewStreams(web.StreamOptions{Registry: o.Connections, Log: log, Registerer: metrics, Heartbeat: time.Minute, Buffer: 1 << 16, WriteTimeout: time.Second})
		o.Carrier, o.CallbackSecret = &gateways{}, rand.Text()
	})
	names, token := w.principals()

	// A try is let through if what is wrong with it is something else: there is
	// no device 999, and no field is given.
	try := func(method, pattern, token string) string {
		t.Helper()
		headers := []string{}
		if token != "" {
			headers = append(headers, "Authorization", "Bearer "+token)
		}
		body := ""
		if method != "GET" && method != "DELETE" {
			body = "{}"
		}
		res := w.do(method, strings.Replace(pattern, "{id}", "999", 1), body, headers...)
		status := res.Code
		if res.Header().Get("Content-Type") == "text/event-stream" { // there it is said in the stream
			_, data, _ := strings.Cut(res.Body.String(), "data:")
			var said struct{ Status int }
			if err := json.Unmarshal([]byte(data), &said); err != nil {
				t.Fatalf("%s: %v in %s", pattern, err, res.Body)
			}
			status = said.Status
		}
		switch status {
		case 401, 403:
			return fmt.Sprint(status)
		case 500, 405:
			t.Errorf("%s %s: %d %s", method, pattern, status, res.Body)
		}
		return "+"
	}
	var got strings.Builder
	fmt.Fprintf(&got, "%-42s", "")
	for _, name := range names {
		fmt.Fprintf(&got, " %-12s", name)
	}
	for _, row := range w.server.Rows() {
		method, pattern := row[0], row[1]
		if method == "" {
			method = "GET"
		}
		fmt.Fprintf(&got, "\n%-42s", method+" "+pattern)
		for _, name := range names {
			fmt.Fprintf(&got, " %-12s", try(method, pattern, token[name]()))
		}
	}
	var lines []string
	for line := range strings.SplitSeq(got.String(), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}

	const path = "testdata/matrix.txt"
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(written), "\n"), "\n")
	for _, line := range lines {
		if !slices.Contains(want, line) {
			t.Errorf("not in %s:\n%s\n%s", path, lines[0], line)
		}
	}
	for _, line := range want {
		if !slices.Contains(lines, line) {
			t.Errorf("only in %s:\n%s", path, line)
		}
	}
}

// D1: a device's token opens nothing that people have, and roles in it change nothing.
func TestDeviceIsNobody(t *testing.T) {
	w := newWorld(t, nil)
	device := w.idp.Sign(map[string]any{"sub": "dev", "azp": "iotdevice-relay-key00001", "sid": "s", "realm_access": map[string]any{"roles": []string{"admin"}}})
	for _, path := range []string{"/api/devices", "/api/auth/self", "/api/people", "/api/devices/1", "/api/logs"} {
		if res := w.as(device, "GET", path, ""); res.Code != 403 || !strings.Contains(res.Body.String(), "No recognized role") {
			t.Errorf("%s: %d %s", path, res.Code, res.Body)
		}
	}
	// By a header and by the cookie it is the same.
	if res := w.do("GET", "/api/devices", "", "Cookie", "access_token="+device); res.Code != 403 {
		t.Errorf("cookie: %d", res.Code)
	}
	for name, claims := range map[string]map[string]any{
		"another audience": {"sub": "ann", "aud": "account"},
		"another issuer":   {"sub": "ann", "iss": "https://elsewhere"},
		"an id token":      {"sub": "ann", "typ": "ID"},
		"expired":          {"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()},
		"without exp":      {"sub": "ann", "exp": nil},
		"of tomorrow":      {"sub": "ann", "nbf": time.Now().Add(time.Hour).Unix()},
	} {
		claims["realm_access"] = map[string]any{"roles": []string{"admin"}}
		if res := w.as(w.idp.Sign(claims), "GET", "/api/devices", ""); res.Code != 401 {
			t.Errorf("%s: %d %s", name, res.Code, res.Body)
		}
	}
	stranger := oidctest.New(t)
	if res := w.as(stranger.Sign(map[string]any{"iss": w.idp.URL, "sub": "ann", "realm_access": map[string]any{"roles": []string{"admin"}}}), "GET", "/api/devices", ""); res.Code != 401 {
		t.Errorf("signed by another provider: %d", res.Code)
	}
}
