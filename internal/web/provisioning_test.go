package web_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// vault is an issuer whose secrets are as they are asked to be.
type vault struct {
	mu      sync.Mutex
	clients map[string]bool
	fail    error
	ensured func(id string)
}

// Ensure implements registry.Issuer.
func (v *vault) Ensure(_ context.Context, c registry.Client) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ensured != nil {
		v.ensured(c.ID)
	}
	if v.fail != nil {
		return false, v.fail
	}
	there := v.clients[c.ID]
	v.clients[c.ID] = true
	return !there, nil
}

// Secret implements registry.Issuer.
func (v *vault) Secret(_ context.Context, id string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fail != nil {
		return "", v.fail
	}
	return "secret123", nil
}

// Delete implements registry.Issuer.
func (v *vault) Delete(context.Context, string) error { return nil }

// Status implements registry.Issuer.
func (v *vault) Status(_ context.Context, id string) (registry.ClientStatus, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return registry.ClientStatus{Exists: v.clients[id], Enabled: v.clients[id]}, v.fail
}

// Clients implements registry.Issuer.
func (v *vault) Clients(context.Context) iter.Seq2[registry.Client, error] {
	return func(func(registry.Client, error) bool) {}
}

// stock is a site with devices to be provisioned, and people.
type stock struct {
	*site
	vault    *vault
	accounts *access.Service
	ahead    atomic.Int64 // of the clock of links
	n        atomic.Int64
	tokens   map[string]string // of people
}

func newStock(t *testing.T, change func(*web.Options)) *stock {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d := &stock{vault: &vault{clients: map[string]bool{}}, tokens: map[string]string{}}
	service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithIssuer(d.vault), registry.WithKeys(func() string {
		return fmt.Sprintf("abc%05d", 12345+d.n.Add(1)-1)
	}))
	if err != nil {
		t.Fatal(err)
	}
	who := atHome(t)
	d.accounts = who.Accounts
	for name, a := range map[string]access.NewAccount{
		"ed": {Roles: []string{"editor"}}, "vic": {Roles: []string{"viewer"}}, "nora": {Roles: []string{"editor"}, Limit: access.Limit{Tags: []string{"north"}}},
	} {
		a.Username, a.Password = name, password
		if _, err := d.accounts.CreateAccount(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	o := web.Options{
		Log: slog.New(slog.DiscardHandler), Registry: service, Identity: who,
		Links: registry.NewLinks(db, slog.New(slog.DiscardHandler), func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) }),
		Devices: web.Devices{
			TokenURL: "https://auth.example.com/realms/iot/protocol/openid-connect/token", BaseURL: "http://localhost:3200", MQTTURL: "mqtt://mqtt.example.com:1883",
			WiFiSSID: "TestNetwork", WiFiPassword: "test-wifi-password",
		},
	}
	if change != nil {
		change(&o)
	}
	d.site = &site{t: t, registry: service, log: new(bytes.Buffer), server: web.New(o)}
	for _, name := range []string{"root", "ed", "vic", "nora"} {
		d.tokens[name] = d.signIn(name, password)
	}
	if w := d.by("ed", "POST", "/api/device-models", `{"code":"thermostat","name":"Thermostat"}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	return d
}

// by sends a request as somebody.
func (d *stock) by(who, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	d.t.Helper()
	return d.do(method, path, body, append([]string{"Authorization", "Bearer " + d.tokens[who]}, headers...)...)
}

// device makes one with that config.
func (d *stock) device(config string) fleet.Device {
	d.t.Helper()
	made, err := d.registry.CreateDevice(d.t.Context(), 1, config)
	if err != nil {
		d.t.Fatal(err)
	}
	return made
}

// events returns those of an action, the newest first.
func (d *stock) events(action string) (list []access.Event) {
	d.t.Helper()
	for e, err := range d.accounts.Events(d.t.Context(), access.EventFilter{Action: action}) {
		if err != nil {
			d.t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// The sums are of what Espressif's own tool writes for these values.
func TestProvisioningGolden(t *testing.T) {
	d := newStock(t, nil)
	if made := d.device(`{}`); made.ClientID() != "iotdevice-thermostat-abc12345" {
		t.Fatal(made.ClientID())
	}
	for size, want := range map[int]string{
		0x3000: "713d701d3f5a1e32d1817bec53bcf267b34da60f43ae35000b2b9546c4bb2c6f",
		0x4000: "e13c31fde36217ea30786d1f718c43832c2520fd4c2bc1b6f044487257dd2783",
		0x6000: "88f5ac2b9b6d0c3443531ca9b74a763e0fb7d4cd13984142382f19f910fd653c",
	} {
		w := d.by("ed", "GET", fmt.Sprintf("/api/devices/1/provisioning?partition_size=%d", size), "")
		var got struct {
			Size int
			Data []byte
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.Size != size || len(got.Data) != size || w.Header().Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %v: %d bytes, %v", w.Code, err, len(got.Data), w.Header())
		}
		if sum := sha256.Sum256(got.Data); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%#x: %x", size, sum)
		}
		raw := d.by("ed", "GET", fmt.Sprintf("/api/devices/1/provisioning.bin?partition_size=%d", size), "")
		if !bytes.Equal(raw.Body.Bytes(), got.Data) || raw.Header().Get("Cache-Control") != "no-store" || raw.Header().Get("Content-Disposition") != `attachment; filename="abc12345-nvs.bin"` {
			t.Errorf("%#x: %d, %v", size, raw.Code, raw.Header())
		}
	}
	events := d.events("secret.read")
	if len(events) != 6 || events[0].Detail != `{"format":"nvs"}` || events[0].Target != "device/1" || events[0].Name != "ed" {
		t.Errorf("%+v", events)
	}
}

func TestProvisioningRefuses(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{}`)
	f := func(who, path string, status int, say string) {
		t.Helper()
		w := d.by(who, "GET", path, "")
		if w.Code != status || !strings.Contains(w.Body.String(), say) || strings.Contains(w.Body.String(), "secret123") {
			t.Errorf("%s %s: %d %s", who, path, w.Code, w.Body)
		}
	}
	const nvs = "/api/devices/1/provisioning"
	f("vic", nvs+"?partition_size=16384", 403, "Insufficient permissions")
	f("nora", nvs+"?partition_size=16384", 404, "Device 1 was not found")
	f("ed", "/api/devices/9/provisioning?partition_size=16384", 404, "Device 9 was not found")
	f("ed", nvs, 400, `[{"type":"missing","loc":["partition_size"],"msg":"Field required"`)
	f("ed", nvs+"?partition_size=8192", 400, `[{"type":"greater_than_equal","loc":["partition_size"],"msg":"Input should be greater than or equal to 12288"`)
	f("ed", nvs+"?partition_size=big", 400, `[{"type":"int_parsing"`)
	f("ed", nvs+"?partition_size=99999999999999999999", 400, `[{"type":"int_parsing_size"`)
	f("ed", nvs+"?partition_size=1073741824", 400, `[{"type":"less_than_equal"`)
	f("ed", nvs+"?partition_size=12289", 400, "VALIDATION_FAILED")
	f("ed", nvs+"/qr?format=gif", 400, "VALIDATION_FAILED")
	d.vault.fail = fleet.E(fleet.External, nil, "Keycloak answered 500")
	f("ed", nvs+"?partition_size=12288", 502, "EXTERNAL_SERVICE_ERROR")
	if events := d.events("secret.read"); len(events) == 0 || slices.ContainsFunc(events, func(e access.Event) bool { return e.Outcome == "ok" }) {
		t.Errorf("%+v", events)
	}

	bare := newStock(t, func(o *web.Options) { o.Devices.WiFiSSID = "" })
	bare.device(`{}`)
	if w := bare.by("ed", "GET", nvs+"?partition_size=12288", ""); w.Code != 400 || !strings.Contains(w.Body.String(), "Provisioning field 'wifi_ssid' is missing") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestProvisioningQR(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{}`)
	w := d.by("ed", "GET", "/api/devices/1/provisioning/qr?format=png", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "image/png" || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatal(w.Code, w.Header())
	}
	img, err := png.Decode(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		t.Fatal(err)
	}
	credentials := d.by("ed", "GET", "/api/devices/1/credentials", "").Body.String()
	if diff := cmp.Diff(decode(t, credentials), decode(t, read.GetText())); diff != "" || strings.Contains(read.GetText(), ": ") {
		t.Errorf("%s\n%s", diff, read.GetText())
	}
	if w := d.by("ed", "GET", "/api/devices/1/provisioning/qr", ""); w.Header().Get("Content-Type") != "image/svg+xml" || !strings.HasPrefix(w.Body.String(), "<svg") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// link makes one and returns its path.
func (d *stock) link(who string, device int64, more string) string {
	d.t.Helper()
	w := d.by(who, "POST", fmt.Sprintf("/api/devices/%d/provisioning-links", device), `{"format":"json"`+more+`}`)
	var made struct{ URL string }
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 {
		d.t.Fatal(w.Code, w.Body)
	}
	path, ok := strings.CutPrefix(made.URL, "http://example.com/p/")
	if !ok {
		d.t.Fatal(made.URL)
	}
	return "/p/" + path
}

var browser = []string{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Site", "same-origin"}

func TestLinkByHTTP(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{"deviceName":"<b>Hall</b>"}`)
	path := d.link("ed", 1, "")
	w := d.by("ed", "GET", "/api/devices/1/provisioning-links", "")
	if w.Code != 200 || strings.Contains(w.Body.String(), path) || !strings.Contains(w.Body.String(), `"count":1`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	// Looking at it, as the programs do that show previews, does not use it up.
	for range 3 {
		w = d.do("GET", path, "", browser...)
		body := w.Body.String()
		if w.Code != 200 || !strings.Contains(body, "&lt;b&gt;Hall") || strings.Contains(body, "secret123") || strings.Contains(body, "<script") {
			t.Fatalf("%d %s", w.Code, body)
		}
		policy := w.Header().Get("Content-Security-Policy")
		style := body[strings.Index(body, "<style>")+7 : strings.Index(body, "</style>")]
		sum := sha256.Sum256([]byte(style))
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "script-src") || strings.Contains(policy, "unsafe") || !strings.Contains(policy, "'sha256-"+b64(sum[:])+"'") {
			t.Errorf("%s", policy)
		}
		if w.Header().Get("Referrer-Policy") != "no-referrer" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%v", w.Header())
		}
	}
	// A page of another site cannot use it, whoever looks at that.
	if w := d.do("POST", path, "", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}

	// Of many at once one gets it.
	server := httptest.NewServer(d.server.Handler())
	defer server.Close()
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			res, err := server.Client().Post(server.URL+path, "", nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			switch {
			case res.StatusCode == 200 && bytes.Contains(body, []byte(`"client_secret":"secret123"`)) && res.Header.Get("Cache-Control") == "no-store":
				won.Add(1)
			case res.StatusCode == 404:
				lost.Add(1)
			default:
				t.Errorf("%d %s", res.StatusCode, body)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d got it, %d did not", won.Load(), lost.Load())
	}
	var ok []access.Event
	for _, e := range d.events("secret.read") {
		if e.Outcome == "ok" {
			ok = append(ok, e)
		}
	}
	if len(ok) != 1 || ok[0].Address != "127.0.0.1" || ok[0].Kind != access.Link || !strings.Contains(ok[0].Name, "ed") || ok[0].Target != "device/1" || !strings.Contains(ok[0].Detail, `"format":"json"`) {
		t.Errorf("%+v", ok)
	}
	if made := d.events("link.create"); len(made) != 1 || made[0].Name != "ed" || strings.Contains(made[0].Detail, path) {
		t.Errorf("%+v", made)
	}
}

func b64(b []byte) string {
	text, _ := json.Marshal(b)
	return strings.Trim(string(text), `"`)
}

// Whatever is wrong with a link, the answer is the same.
func TestLinkOver(t *testing.T) {
	d := newStock(t, nil)
	want := problemJSON(fleet.NotFound, "This link is not valid: it was used, has expired, or never was")
	over := func(why, path string) {
		t.Helper()
		d.same(why, d.do("POST", path, ""), 404, want)
		d.same(why, d.do("GET", path, "", "Accept", "application/json"), 404, want)
		if w := d.do("GET", path, "", browser...); w.Code != 404 || !strings.Contains(w.Body.String(), "This link is not valid") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", why, w.Code, w.Body)
		}
	}
	for range 5 {
		d.device(`{"tags":["north"]}`)
	}
	over("never was", "/p/x")

	path := d.link("ed", 1, "")
	if w := d.do("POST", path, ""); w.Code != 200 {
		t.Fatal(w.Code)
	}
	over("used", path)

	path = d.link("ed", 1, `,"expires_in_seconds":60`)
	d.ahead.Store(int64(time.Minute))
	over("expired", path)
	d.ahead.Store(0)

	path = d.link("ed", 2, "")
	if _, err := d.registry.Revoke(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	over("revoked", path)
	path = d.link("ed", 3, "")
	if err := d.registry.DeleteDevice(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	over("deleted", path)

	d = newStock(t, nil) // the address above has to wait by now
	for range 2 {
		d.device(`{"tags":["north"]}`)
	}
	path = d.link("ed", 1, "")
	list := d.by("ed", "GET", "/api/devices/1/provisioning-links", "")
	var links struct{ Links []struct{ ID int64 } }
	if err := json.Unmarshal(list.Body.Bytes(), &links); err != nil {
		t.Fatal(err)
	}
	if w := d.by("ed", "DELETE", fmt.Sprintf("/api/devices/2/provisioning-links/%d", links.Links[0].ID), ""); w.Code != 404 {
		t.Errorf("of another device: %d", w.Code)
	}
	if w := d.by("ed", "DELETE", fmt.Sprintf("/api/devices/1/provisioning-links/%d", links.Links[0].ID), ""); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	over("withdrawn", path)
	if e := d.events("link.delete"); len(e) == 0 || e[0].Outcome != "ok" {
		t.Errorf("%+v", e)
	}

	// Where the identity provider is away nothing is used up.
	path = d.link("ed", 1, "")
	d.vault.fail = fleet.E(fleet.External, nil, "Keycloak answered 500")
	if w := d.do("POST", path, ""); w.Code != 502 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	d.vault.fail = nil
	if w := d.do("POST", path, ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A link may what its maker may by now, and does not need their session.
func TestLinkOfSomebodyWhoMayNot(t *testing.T) {
	account := func(d *stock, name string) int64 {
		all, err := d.accounts.Accounts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return all[slices.IndexFunc(all, func(a access.Account) bool { return a.Username == name })].ID
	}
	f := func(name, who string, status int, change func(*stock) error) {
		t.Run(name, func(t *testing.T) {
			d := newStock(t, nil)
			d.device(`{"tags":["north"]}`)
			path := d.link(who, 1, "")
			if err := change(d); err != nil {
				t.Fatal(err)
			}
			if w := d.do("POST", path, ""); w.Code != status {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	change := func(who string, ch access.AccountChange) func(*stock) error {
		return func(d *stock) error {
			_, err := d.accounts.ChangeAccount(t.Context(), account(d, who), ch)
			return err
		}
	}
	f("logged out", "ed", 200, func(d *stock) error {
		if w := d.by("ed", "POST", "/api/auth/logout", ""); w.Code != 204 {
			return fmt.Errorf("%d %s", w.Code, w.Body)
		}
		return nil
	})
	f("disabled", "ed", 404, change("ed", access.AccountChange{Disabled: new(true)}))
	f("a viewer now", "ed", 404, change("ed", access.AccountChange{Roles: &[]string{"viewer"}}))
	f("of another part", "ed", 404, change("ed", access.AccountChange{Limit: &access.Limit{Tags: []string{"south"}}}))
	f("of a part with it", "ed", 200, change("ed", access.AccountChange{Limit: &access.Limit{Tags: []string{"north"}}}))
	f("deleted", "ed", 404, func(d *stock) error { return d.accounts.DeleteAccount(t.Context(), account(d, "ed")) })
	f("the device left their part", "nora", 404, func(d *stock) error {
		_, err := d.registry.UpdateDevice(t.Context(), 1, `{}`, true)
		return err
	})
	f("nothing changed", "nora", 200, func(*stock) error { return nil })
}

// Guessing is slowed down, and using a good link is not.
func TestLinkThrottle(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{}`)
	paths := []string{}
	for range 3 {
		paths = append(paths, d.link("ed", 1, ""))
	}
	for range 40 {
		if w := d.do("GET", paths[0], "", browser...); w.Code != 200 {
			t.Fatal(w.Code)
		}
	}
	n := 0
	for ; n < 100; n++ {
		if w := d.do("POST", "/p/guess", ""); w.Code == 429 && w.Header().Get("Retry-After") != "" {
			break
		}
	}
	if n != 20 {
		t.Errorf("%d guesses", n)
	}
	if w := d.do("GET", paths[1], "", browser...); w.Code != 429 || !strings.Contains(w.Body.String(), "<main>") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestLinkFormats(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{}`)
	make := func(body string) string {
		t.Helper()
		w := d.by("ed", "POST", "/api/devices/1/provisioning-links", body)
		var made struct{ URL string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 {
			t.Fatal(w.Code, w.Body)
		}
		return strings.TrimPrefix(made.URL, "http://example.com")
	}
	w := d.do("POST", make(`{"format":"nvs","partition_size":12288}`), "")
	if sum := sha256.Sum256(w.Body.Bytes()); hex.EncodeToString(sum[:]) != "713d701d3f5a1e32d1817bec53bcf267b34da60f43ae35000b2b9546c4bb2c6f" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := d.do("POST", make(`{"format":"qr"}`), "", browser...); w.Code != 200 || !strings.Contains(w.Body.String(), "<svg") || strings.Contains(w.Body.String(), "<form") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = d.do("POST", make(`{"format":"qr"}`), "", "Accept", "*/*")
	if _, err := png.Decode(w.Body); err != nil {
		t.Error(w.Code, err)
	}
	for _, body := range []string{`{}`, `{"format":"xml"}`, `{"format":"nvs"}`, `{"format":"nvs","partition_size":4096}`, `{"format":"nvs","partition_size":9007199254740993}`,
		`{"format":"json","expires_in_seconds":59}`, `{"format":"json","expires_in_seconds":604801}`, `{"format":"json","expires_in_seconds":9223372036854775807}`, `{"format":"json","expires_in_seconds":"x"}`} {
		if w := d.by("ed", "POST", "/api/devices/1/provisioning-links", body); w.Code != 400 {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, who := range []string{"vic", "nora"} {
		for _, method := range []string{"GET", "POST"} {
			if w := d.by(who, method, "/api/devices/1/provisioning-links", `{"format":"json"}`); w.Code != map[string]int{"vic": 403, "nora": 404}[who] {
				t.Errorf("%s: %d %s", who, w.Code, w.Body)
			}
		}
	}
	if w := d.do("GET", "/api/devices/import", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "OPTIONS, POST" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
