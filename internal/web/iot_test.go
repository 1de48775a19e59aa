package web_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/web"
)

const patience = 20 * time.Second

// rotating is a plant that rotates, with a device.
type rotating struct {
	*plant
	credentials map[string]any
	secret      string
	token       string
}

func newRotating(t *testing.T, change func(*web.Options)) *rotating {
	r := &rotating{plant: newPlant(t, change)}
	r.credentials = r.create(`{"deviceName":"Kitchen"}`)
	r.secret = r.credentials["client_secret"].(string)
	r.login(r.secret)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

// login gets a token with a secret, and reports whether the issuer gave one.
func (r *rotating) login(secret string) bool {
	r.t.Helper()
	token, status := r.plant.token(map[string]any{"client_id": r.credentials["client_id"], "client_secret": secret})
	if status == http.StatusOK {
		r.token = token
	}
	return status == http.StatusOK
}

// device sends a request as the device.
func (r *rotating) device(method, path, body string) *httptest.ResponseRecorder {
	r.t.Helper()
	return r.do(method, path, body, "Authorization", "Bearer "+r.token)
}

// rotate asks for a rotation and waits until the device is told.
func (r *rotating) rotate() {
	r.t.Helper()
	r.want("POST", "/api/devices/1/rotate", "", 200, `{"status":"queued"}`)
	select {
	case <-r.told:
	case <-time.After(patience):
		r.t.Fatal("the device is not told")
	}
}

func (r *rotating) fetch() string {
	r.t.Helper()
	w := r.device("GET", "/api/iot/provisioning", "")
	var c map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusOK {
		r.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return c["client_secret"].(string)
}

func (r *rotating) state() string {
	r.t.Helper()
	var d struct {
		State string `json:"rotation_state"`
	}
	w := r.do("GET", "/api/devices/1", "")
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil {
		r.t.Fatal(err)
	}
	return d.State
}

func (r *rotating) await(state string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); r.state() != state; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("the device is %s, and not %s", r.state(), state)
		}
	}
}

func TestIotProvisioning(t *testing.T) {
	r := newRotating(t, nil)
	w := r.device("GET", "/api/iot/provisioning", "")
	want := `{"device_key":"aaaaaaaa","client_id":"iotdevice-relay-aaaaaaaa","client_secret":"` + r.secret + `","token_url":"https://box.example.org/oauth/token",
		"base_url":"https://box.example.org","mqtt_url":null,"wifi_ssid":"net","wifi_password":"hunter2"}`
	r.same("provisioning", w, 200, want)
	if got := w.Header().Get("Cache-Control"); got != "no-cache, no-store, must-revalidate" {
		t.Errorf("Cache-Control: %s", got)
	}
	const path, keyed = "/api/iot/provisioning", "/api/iot/provisioning?device_key=aaaaaaaa"
	f := func(path string, status int) {
		t.Helper()
		if w := r.do("GET", path, ""); w.Code != status {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, status)
		}
	}
	f(path, 401)
	f(keyed, 401)
	r.open = true
	f(path, 401)
	f(path+"?device_key=zzzzzzzz", 404)
	r.same("by its key", r.do("GET", keyed, ""), 200, want)
	r.open = false

	w = r.device("GET", "/api/iot/firmware-version", "")
	r.same("firmware", w, 200, `{"firmware_version":null}`)
	if w := r.do("GET", "/api/iot/firmware-version", ""); w.Code != 401 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// The config that it is told of is the one that is there.
	r.do("PUT", "/api/devices/1", `{"config":"{}","active":true}`)
	r.do("PUT", "/api/devices/1", `{"config":"{","active":true}`)
	r.do("PUT", "/api/devices/99", `{"config":"{}","active":true}`)
	if got := strings.Join(r.change, " "); got != "iotdevice-relay-aaaaaaaa" {
		t.Errorf("told of changes: %q", got)
	}
}

// D38: who asks twice during one rotation gets the same new secret, and the old
// one is still that which the device came with.
func TestD38AskingTwiceChangesNothing(t *testing.T) {
	r := newRotating(t, nil)
	r.rotate()
	fresh := r.fetch()
	if fresh == r.secret {
		t.Fatal("there is no new secret")
	}
	for range 3 {
		if again := r.fetch(); again != fresh {
			t.Fatalf("got %q and then %q", fresh, again)
		}
	}
	// It never arrived, and the attempt times out: what the device has is good.
	r.ahead.Store(int64(2 * time.Minute))
	r.await("TIMEOUT")
	if !r.login(r.secret) {
		t.Fatal("the device is locked out")
	}
	if again := r.fetch(); again != fresh {
		t.Errorf("after the time-out it gets %q and not %q", again, fresh)
	}
	if !r.login(fresh) {
		t.Fatal("the new secret is not good")
	}
	if w := r.device("GET", "/api/iot/config", ""); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	r.await("OK")
	if r.login(r.secret) || !r.login(fresh) {
		t.Error("the old secret is good still, or the new one is not")
	}
}

// D39: who asks while there is no rotation gets the secret that it has, and
// nothing is left of it that a later rotation could restore.
func TestD39AskingWithoutRotationLeavesNothing(t *testing.T) {
	r := newRotating(t, nil)
	for range 3 {
		if got := r.fetch(); got != r.secret {
			t.Fatalf("got %q, the device has %q", got, r.secret)
		}
	}
	if s := r.state(); s != "OK" {
		t.Errorf("the device is %s", s)
	}
	r.rotate()
	fresh := r.fetch()
	if !r.login(fresh) {
		t.Fatal("the new secret is not good")
	}
	r.device("GET", "/api/iot/config", "")
	r.await("OK")
	if got := r.fetch(); got != fresh {
		t.Errorf("it asks once more and gets %q and not %q", got, fresh)
	}
	// The next one times out, before and after the device asked.
	r.rotate()
	r.ahead.Store(int64(2 * time.Minute))
	r.await("TIMEOUT")
	if !r.login(fresh) {
		t.Error("a healthy device is locked out by a rotation that it did not notice")
	}
}

// D40: the old secret is good until the new one was used, whatever is lost.
func TestD40BothSecretsAreGoodMeanwhile(t *testing.T) {
	r := newRotating(t, nil)
	r.rotate()
	fresh := r.fetch() // and the answer is lost
	if !r.login(fresh) || !r.login(r.secret) {
		t.Fatal("one of the two secrets is not good")
	}
	if w := r.device("GET", "/api/iot/config", ""); w.Code != 200 { // with the old one
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if s := r.state(); s != "PENDING" {
		t.Errorf("a token of the old secret made it %s", s)
	}
	if !r.login(r.secret) {
		t.Error("the old secret is not good any more")
	}
	if again := r.fetch(); again != fresh {
		t.Errorf("got %q and then %q", fresh, again)
	}
}

type nonce struct {
	Nonce   string    `json:"nonce"`
	Expires time.Time `json:"expires_at"`
}

func (r *rotating) nonce() (n nonce) {
	r.t.Helper()
	w := r.device("POST", "/api/iot/rotation/nonce", "")
	if err := json.Unmarshal(w.Body.Bytes(), &n); err != nil || w.Code != 200 {
		r.t.Fatalf("%d %s", w.Code, w.Body)
	}
	if left := time.Until(n.Expires); left > 5*time.Minute || left < 4*time.Minute {
		r.t.Errorf("it is good for %s", left)
	}
	return n
}

// proofOf is what a device sends.
func proofOf(nonce, secret string) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(nonce))
	return fmt.Sprintf(`{"nonce":%q,"hmac":%q}`, nonce, hex.EncodeToString(h.Sum(nil)))
}

func (r *rotating) proofs(result string) float64 {
	r.t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "iot_rotation_proofs_total" && m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	r.t.Fatalf("nobody counts %s", result)
	return 0
}

func TestRotationProof(t *testing.T) {
	r := newRotating(t, nil)
	f := func(body string, status int, want, result string) {
		t.Helper()
		before := 0.0
		if result != "" {
			before = r.proofs(result)
		}
		w := r.device("POST", "/api/iot/rotation/proof", body)
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%.80s: %d %s, want %d %s", body, w.Code, w.Body, status, want)
		}
		if result != "" && r.proofs(result) != before+1 {
			t.Errorf("%.80s: %s is not counted", body, result)
		}
	}
	// Before any rotation: what it has it can prove.
	f(proofOf(r.nonce().Nonce, r.secret), 200, `{"rotation_state":"OK"}`, "ok")
	f(proofOf(r.nonce().Nonce, "x"), 403, "The proof is of no secret of the device", "wrong")

	r.rotate()
	fresh := r.fetch()
	n := r.nonce()
	f(`{}`, 400, "Field required", "")
	f(`{"nonce":"x","hmac":"zz"}`, 400, "64 hexadecimal digits", "")
	f(`{"nonce":"x","hmac":"`+strings.Repeat("0", 62)+`"}`, 400, "64 hexadecimal digits", "")
	f(`{"nonce":"`+strings.Repeat("x", 5000)+`","hmac":""}`, 413, "more than 4096 bytes", "")
	f(proofOf("x", fresh), 400, "The nonce is not one of ours", "nonce")
	f(proofOf(n.Nonce[:len(n.Nonce)-2]+"AA", fresh), 400, "The nonce is not one of ours", "nonce")
	f(proofOf(n.Nonce, r.secret), 200, `{"rotation_state":"PENDING"}`, "ok") // the old one proves nothing
	f(proofOf(n.Nonce, fresh), 400, "The nonce was used before", "replayed")

	// That of another device is none.
	other := r.create(`{}`)
	token, _ := r.plant.token(other)
	w := r.do("POST", "/api/iot/rotation/nonce", "", "Authorization", "Bearer "+token)
	var foreign nonce
	if err := json.Unmarshal(w.Body.Bytes(), &foreign); err != nil {
		t.Fatal(err)
	}
	f(proofOf(foreign.Nonce, fresh), 400, "The nonce was given to another device", "nonce")

	n = r.nonce()
	f(proofOf(n.Nonce, fresh), 200, `"rotation_state"`, "ok")
	r.await("OK")
	if r.login(r.secret) || !r.login(fresh) {
		t.Error("the old secret is good still, or the new one is not")
	}
	f(proofOf(n.Nonce, fresh), 400, "The nonce was used before", "replayed")
	for range 20 {
		r.device("POST", "/api/iot/rotation/proof", proofOf(r.nonce().Nonce, "x"))
	}
	f(proofOf(r.nonce().Nonce, fresh), 429, "too many proofs", "limited")
	// Its neighbour is not concerned.
	w = r.do("POST", "/api/iot/rotation/proof", proofOf(foreign.Nonce, other["client_secret"].(string)), "Authorization", "Bearer "+token)
	r.same("the other's proof", w, 200, `{"rotation_state":"OK"}`)
}

// Where nobody has to log in a device says which one it is, and proves by its
// secret that it has it.
func TestRotationProofInOpenMode(t *testing.T) {
	r := newRotating(t, nil)
	r.open = true
	r.rotate()
	var c map[string]any
	if err := json.Unmarshal(r.do("GET", "/api/iot/provisioning?device_key=aaaaaaaa", "").Body.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	var n nonce
	if err := json.Unmarshal(r.do("POST", "/api/iot/rotation/nonce?device_key=aaaaaaaa", "").Body.Bytes(), &n); err != nil {
		t.Fatal(err)
	}
	w := r.do("POST", "/api/iot/rotation/proof?device_key=aaaaaaaa", proofOf(n.Nonce, c["client_secret"].(string)))
	if w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	r.await("OK")
}

// What a device reads of secrets is in the audit under its own name, once in a
// while however often it asks.
func TestDeviceIsInTheAudit(t *testing.T) {
	accounts := newAccounts(t)
	r := newRotating(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: accounts, BaseURL: "http://example.com"}
	})
	for range 5 {
		r.fetch()
	}
	r.rotate()
	for range 5 {
		r.fetch()
	}
	r.device("POST", "/api/iot/rotation/proof", proofOf(r.nonce().Nonce, "x"))
	r.open = true
	r.do("GET", "/api/iot/provisioning?device_key=aaaaaaaa", "")
	r.do("GET", "/api/iot/provisioning?device_key=zzzzzzzz", "") // by nobody
	var got []string
	for e, err := range accounts.Events(t.Context(), access.EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == access.Device {
			got = append(got, strings.Join([]string{e.Actor, e.Name, e.Action, e.Target, e.Label, e.Outcome, e.Address, e.Detail}, "|"))
		}
	}
	const who = "iotdevice-relay-aaaaaaaa|Kitchen|"
	want := []string{
		who + `secret.read|device/1|aaaaaaaa|ok|192.0.2.1|{"proof":"none","rotation_state":"PENDING"}`,
		who + `rotation.prove|device/1|aaaaaaaa|forbidden|192.0.2.1|`,
		who + `secret.read|device/1|aaaaaaaa|ok|192.0.2.1|{"rotation_state":"PENDING"}`,
		who + `secret.read|device/1|aaaaaaaa|ok|192.0.2.1|{"rotation_state":"OK"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The example that firmware is written by is right.
func TestProofInTheDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/DEVICES.md")
	if err != nil {
		t.Fatal(err)
	}
	field := func(name string) string {
		_, rest, _ := strings.Cut(string(text), "\n"+name+" ")
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(line)
	}
	nonce, secret := field("nonce"), field("secret")
	body := strings.NewReplacer(`":"`, `": "`, `","`, `", "`).Replace(proofOf(nonce, secret))
	if nonce == "" || secret == "" || !strings.Contains(string(text), "\n"+body+"\n") {
		t.Errorf("with %q and %q the docs do not say %s", nonce, secret, body)
	}
}
