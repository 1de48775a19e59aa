package sim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signalbox/internal/fleet"
)

func TestKinds(t *testing.T) {
	count := func(kinds []Kind) map[Kind]int {
		n := map[Kind]int{}
		for _, k := range kinds {
			n[k]++
		}
		return n
	}
	s := Shares{Offline: 0.04, Flaky: 0.05, Slow: 0.03, OldFirmware: 0.03, LostResponse: 0.02, NeverProves: 0.03}
	want := map[Kind]int{Easy: 160, Offline: 4, Off: 4, Flaky: 10, Slow: 6, OldFirmware: 6, LostResponse: 4, NeverProves: 6}
	if got := count(s.kinds(1, 200)); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !slices.Equal(s.kinds(1, 200), s.kinds(1, 200)) || slices.Equal(s.kinds(1, 200), s.kinds(2, 200)) {
		t.Error("the kinds are not those of the seed")
	}
	if got := count(Shares{Slow: 1}.kinds(1, 7)); got[Slow] != 7 {
		t.Errorf("%v", got)
	}
	if got := count(Shares{Flaky: 0.5, Slow: 0.5}.kinds(1, 5)); got[Flaky]+got[Slow] != 5 { // both round up
		t.Errorf("%v", got)
	}
	for _, bad := range []Shares{{Flaky: -0.1}, {Slow: 1.1}, {Offline: 0.6, NeverProves: 0.5}} {
		if err := bad.validate(); fleet.KindOf(err) != fleet.Invalid || err == nil {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := (Shares{Offline: 0.1, Flaky: 0.2, Slow: 0.7}).validate(); err != nil {
		t.Error(err)
	}
}

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := roundTripper(func(q *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x")), Request: q}, nil
		})
		// up returns the share of ten minutes in which the network is up, and how often
		// it went.
		up := func(kind Kind) (share float64, drops int) {
			n := newNetwork(kind, 1, 3, wire)
			before, ups := false, 0
			for range 6000 {
				down, change := n.down()
				if !change.IsZero() && !change.After(time.Now()) {
					t.Fatalf("%s: it is to change at %v", kind, change)
				}
				if down && !before {
					drops++
				}
				if before = down; !down {
					ups++
				}
				time.Sleep(100 * time.Millisecond)
			}
			return float64(ups) / 6000, drops
		}
		f := func(kind Kind, least, most float64, leastDrops, mostDrops int) {
			t.Helper()
			if share, drops := up(kind); share < least || share > most || drops < leastDrops || drops > mostDrops {
				t.Errorf("%s: up for %.3f of the time, %d drops", kind, share, drops)
			}
		}
		f(Easy, 1, 1, 0, 0)
		f(Off, 0, 0, 1, 1)
		f(Offline, 0.16, 0.175, 9, 11)
		f(Flaky, 0.6, 0.9, 60, 200)

		// Half of the requests of a flaky one fail, of those that are made at all.
		n := newNetwork(Flaky, 1, 4, wire)
		made, failed := 0, 0
		for made < 2000 {
			if down, _ := n.down(); down {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			made++
			q, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x", nil)
			a, err := n.RoundTrip(q)
			if err != nil {
				failed++
				continue
			}
			a.Body.Close()
			time.Sleep(10 * time.Millisecond)
		}
		if failed < 900 || failed > 1100 {
			t.Errorf("%d of %d requests failed", failed, made)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// issuing is as much of a server as one board needs: the secrets that are good,
// and the one that is to be used.
type issuing struct {
	t       *testing.T
	good    []string
	offered string
	proofs  bool // it takes them
	revoked bool
	away    bool

	asked  []string // paths, in order
	proven string   // the secret that a proof was of
	used   string   // the secret whose token came for the config
}

func (s *issuing) RoundTrip(q *http.Request) (*http.Response, error) {
	if s.away {
		return nil, fleet.E(fleet.Unavailable, nil, "away")
	}
	w := httptest.NewRecorder()
	s.asked = append(s.asked, q.URL.Path)
	bearer := strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
	switch {
	case q.URL.Path == "/token":
		_, secret, _ := q.BasicAuth()
		if !slices.Contains(s.good, secret) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(401)
			w.WriteString(`{"error":"invalid_client"}`)
			break
		}
		answer(map[string]any{"access_token": "token-of-" + secret, "token_type": "Bearer", "expires_in": 300})
	case q.URL.Path == "/api/devices/7/credentials":
		answer(map[string]string{"client_id": "iotdevice-x-aaaaaaaa", "client_secret": s.good[0], "token_url": "http://here/token", "base_url": "http://here/"})
	case q.URL.Path == "/api/devices/7":
		answer(map[string]bool{"revoked": s.revoked})
	case !slices.Contains(s.good, strings.TrimPrefix(bearer, "token-of-")):
		w.WriteHeader(401)
	case q.URL.Path == "/api/iot/provisioning":
		answer(map[string]string{"client_id": "iotdevice-x-aaaaaaaa", "client_secret": s.offered})
	case q.URL.Path == "/api/iot/config":
		s.used = strings.TrimPrefix(bearer, "token-of-")
		answer(map[string]any{})
	case q.URL.Path == "/api/iot/rotation/nonce" && s.proofs:
		answer(map[string]string{"nonce": "a nonce"})
	case q.URL.Path == "/api/iot/rotation/proof" && s.proofs:
		var p struct{ Nonce, HMAC string }
		if err := json.NewDecoder(q.Body).Decode(&p); err != nil {
			s.t.Error(err)
		}
		for _, secret := range s.good {
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(p.Nonce))
			if hex.EncodeToString(mac.Sum(nil)) == p.HMAC {
				s.proven, s.good = secret, []string{secret} // the old one is dead
			}
		}
		answer(map[string]string{"rotation_state": "OK"})
	default:
		w.WriteHeader(404)
	}
	return w.Result(), nil
}

// rotating runs a board of a kind against a server that offers "new" beside
// "old", for as long as f takes.
func rotating(t *testing.T, kind Kind, proofs bool, f func(s *issuing, k *keeper)) {
	t.Helper()
	t.Run(string(kind), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &issuing{t: t, good: []string{"old", "new"}, offered: "new", proofs: proofs}
			cfg := &Config{Seed: 1, Think: 250 * time.Millisecond, Login: LoginToken}
			kept, err := openKept("")
			if err != nil {
				t.Fatal(err)
			}
			tally := &tally{kept: kept, steps: map[string]StepReport{}}
			server := &api{base: "http://here", http: &http.Client{Transport: s}}
			k := newKeeper(cfg, server, board{7, "iotdevice-x-aaaaaaaa"}, 1, kind, tally, slog.New(slog.DiscardHandler))
			tally.keepers = []*keeper{k}
			if err := k.provision(t.Context()); err != nil || k.secret() != "old" {
				t.Fatal(err)
			}
			f(s, k)
		})
	})
}

// live has the board live for so long.
func (k *keeper) live(t *testing.T, length time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	k.run(ctx)
}

func TestKeeper(t *testing.T) {
	const own = "iotsupport/iotdevice-x-aaaaaaaa/rotation"
	tell := func(k *keeper) { k.hear(provisioningTopic, []byte(`{"client_id":"iotdevice-x-aaaaaaaa"}`)) }
	want := func(t *testing.T, k *keeper, ending Ending, secret string, fetched, rotations int) {
		t.Helper()
		if r := k.report(); r.Ending != ending || k.secret() != secret || r.Fetched != fetched || r.Rotations != rotations {
			t.Errorf("%+v with %s", r, k.secret())
		}
	}
	rotating(t, Easy, true, func(s *issuing, k *keeper) {
		for _, m := range []struct{ topic, text string }{{provisioningTopic, `{"client_id":"iotdevice-x-bbbbbbbb"}`}, {provisioningTopic, `{`}, {own, ""},
			{"iotsupport/updates/config", `{"client_id":"iotdevice-x-aaaaaaaa"}`}, {"iotsupport/iotdevice-x-bbbbbbbb/rotation", "{}"}} {
			k.hear(m.topic, []byte(m.text))
		}
		k.live(s.t, time.Minute)
		want(s.t, k, Untouched, "old", 0, 0)
		if len(s.asked) != 1 {
			s.t.Errorf("it asked for %v", s.asked)
		}

		tell(k)
		k.hear(own, []byte("{}")) // the same again
		k.live(s.t, time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
		if s.proven != "new" || s.used != "new" {
			s.t.Errorf("proven %q, used %q", s.proven, s.used)
		}
		if got := strings.Join(s.asked[1:], " "); got != "/token /api/iot/provisioning /api/iot/rotation/nonce /api/iot/rotation/proof /token /api/iot/config" {
			s.t.Errorf("it asked for %s", got)
		}
		tell(k) // of what it has
		k.live(s.t, time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
		if got := len(s.asked); got != 8 {
			s.t.Errorf("it asked for %v", s.asked)
		}
		if n := k.tally.report().Steps["fetch"]; n.Done != 2 || n.Failed != 0 {
			s.t.Errorf("%+v", n)
		}
	})
	rotating(t, OldFirmware, true, func(s *issuing, k *keeper) {
		if len(k.topics()) != 1 {
			s.t.Errorf("it listens to %v", k.topics())
		}
		tell(k)
		k.live(s.t, time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
		if s.proven != "" || s.used != "new" || slices.Contains(s.asked, "/api/iot/rotation/nonce") {
			s.t.Errorf("it asked for %v", s.asked)
		}
	})
	rotating(t, LostResponse, false, func(s *issuing, k *keeper) { // by a server without proofs
		tell(k)
		k.live(s.t, time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
		if n := k.tally.report().Steps["fetch"]; n.Done != 1 || n.Failed != 1 || s.used != "new" {
			s.t.Errorf("%+v, used %q", n, s.used)
		}
	})
	rotating(t, NeverProves, true, func(s *issuing, k *keeper) {
		tell(k)
		k.live(s.t, time.Minute)
		want(s.t, k, Waiting, "old", 0, 0)
		if s.used != "old" {
			s.t.Errorf("it used %q", s.used)
		}
	})
	rotating(t, Flaky, true, func(s *issuing, k *keeper) {
		tell(k)
		k.live(s.t, 10*time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
	})
	rotating(t, Offline, true, func(s *issuing, k *keeper) {
		tell(k)
		k.live(s.t, 10*time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
	})
	rotating(t, Slow, true, func(s *issuing, k *keeper) {
		tell(k)
		k.live(s.t, 9*time.Second)
		want(s.t, k, Waiting, "old", 0, 0)
		tell(k) // the run that was cut off is forgotten
		k.live(s.t, 5*time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
	})
	// Told anew while it tries in vain: it begins again.
	rotating(t, Easy, true, func(s *issuing, k *keeper) {
		tell(k)
		s.away = true
		k.live(s.t, time.Minute)
		s.away = false
		tell(k)
		k.live(s.t, time.Minute)
		want(s.t, k, Rotated, "new", 1, 1)
	})
	// What it has is refused: it says so, unless that is meant.
	rotating(t, Easy, true, func(s *issuing, k *keeper) {
		s.good = []string{"another"}
		tell(k)
		k.live(s.t, time.Minute)
		want(s.t, k, LockedOut, "old", 0, 0)
		k.tally.look(s.t.Context())
		want(s.t, k, LockedOut, "old", 0, 0)
		s.revoked = true
		k.tally.look(s.t.Context())
		want(s.t, k, Revoked, "old", 0, 0)
		s.away = true
		s.good = []string{"old"}
		k.mu.Lock()
		k.story = story{}
		k.mu.Unlock()
		k.tally.look(s.t.Context())
		want(s.t, k, Unknown, "old", 0, 0)
	})
}

func TestKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	k, err := openKept(file)
	if err != nil || k.get("a") != "" {
		t.Fatal(err)
	}
	for _, secret := range []string{"one", "two"} {
		if err := k.put("a", secret); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	again, err := openKept(file)
	if err != nil || again.get("a") != "two" || again.get("b") != "" {
		t.Errorf("%q %v", again.get("a"), err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openKept(file); fleet.KindOf(err) != fleet.Invalid || err == nil {
		t.Error(err)
	}
	none, err := openKept("")
	if err != nil || none.put("a", "one") != nil || none.get("a") != "" {
		t.Errorf("%q %v", none.get("a"), err)
	}
}

func TestReport(t *testing.T) {
	rotating(t, Easy, true, func(s *issuing, k *keeper) {
		file := filepath.Join(s.t.TempDir(), "report.json")
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, nil))
		if err := k.tally.end(s.t.Context(), "", log); err != nil || said.Len() != 0 {
			s.t.Errorf("%v %s", err, &said)
		}
		k.hear(k.ownTopic(), []byte("{}"))
		k.live(s.t, time.Minute)
		if err := k.tally.end(s.t.Context(), file, log); err != nil || !strings.Contains(said.String(), "rotated=1 waiting=0 locked_out=0") {
			s.t.Errorf("%v %s", err, &said)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			s.t.Fatal(err)
		}
		var r Report
		if err := json.Unmarshal(text, &r); err != nil || r.Devices != 1 || r.ByKind[Easy][Rotated] != 1 || r.Steps["proof"].Done != 1 ||
			r.All[0].ClientID != k.clientID || r.All[0].DeviceID != 7 || r.All[0].Notices != 1 || r.All[0].ToldAt == nil || r.All[0].DoneAt == nil {
			s.t.Errorf("%v: %s", err, text)
		}
		if bytes.Contains(text, []byte(k.secret()+`"`)) {
			s.t.Errorf("the report tells the secret: %s", text)
		}
		if err := k.tally.end(s.t.Context(), filepath.Join(file, "below"), log); err == nil {
			s.t.Error("a report that cannot be written is no mistake")
		}
	})
}
