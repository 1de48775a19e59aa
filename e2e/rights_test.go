package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"signalbox/internal/sse"
)

// session logs somebody in and returns the cookie, as a header.
func (s *server) session(name, password string) string {
	s.t.Helper()
	a := s.with("POST", "/api/auth/login", fmt.Sprintf(`{"username":%q,"password":%q}`, name, password))
	if a.status != 200 {
		s.t.Fatalf("login of %s: %d %s", name, a.status, a.body)
	}
	cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	return "Cookie: " + cookie
}

// witness is an open stream of somebody, which follows a device.
type witness struct {
	t      *testing.T
	body   interface{ Close() error }
	events *sse.Decoder
}

func (s *server) witness(id string, d device, proof string) *witness {
	s.t.Helper()
	q, err := http.NewRequestWithContext(s.t.Context(), "GET", s.streamURL(id), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	name, value, _ := strings.Cut(proof, ": ")
	q.Header.Set(name, value)
	a, err := http.DefaultClient.Do(q) //nolint:bodyclose // with the test
	if err != nil {
		s.t.Fatal(err)
	}
	w := &witness{s.t, a.Body, sse.NewDecoder(a.Body, "")}
	s.t.Cleanup(func() { a.Body.Close() })
	if a := s.with("POST", "/api/device-logs/subscribe", fmt.Sprintf(`{"request_id":%q,"device_id":%d}`, id, d.ID), proof); a.status != 200 {
		s.t.Fatalf("subscribe %s: %d %s", id, a.status, a.body)
	}
	return w
}

// until reads to an event of the type and returns its payload.
func (w *witness) until(kind string) map[string]any {
	w.t.Helper()
	for {
		m, err := w.events.Next()
		if err != nil {
			w.t.Fatalf("the stream ended before %s: %v", kind, err)
		}
		var event struct {
			Type    string         `json:"type"`
			Payload map[string]any `json:"payload"`
		}
		if json.Unmarshal([]byte(m.Data), &event) == nil && event.Type == kind {
			return event.Payload
		}
	}
}

// over reads to the end, which has to come with the reason, and returns when it did.
func (w *witness) over(reason string) time.Time {
	w.t.Helper()
	if p := w.until("session-ended"); p["reason"] != reason {
		w.t.Errorf("the session ended for %v, want %s", p["reason"], reason)
	}
	at := time.Now()
	if m, err := w.events.Next(); err == nil {
		w.t.Errorf("after its end the stream says %q", m.Data)
	}
	return at
}

// What somebody has open ends or narrows with their rights, whoever takes these
// away and from which process.
func TestRightsEnd(t *testing.T) {
	s := start(t)
	d, other := s.device("lamp"), s.device("fan")
	for _, user := range [][]string{{"root", "admin"}, {"vic", "viewer"}, {"liv", "viewer"}} {
		if out, err := s.account("correct horse battery", "add", user[0], "--role", user[1], "--password-stdin"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	eventually(t, "login is on", func() bool { return s.with("GET", "/api/devices", "").status == 401 })
	root := s.session("root", "correct horse battery")
	within := func(what string, begin, at time.Time) {
		t.Helper()
		t.Logf("%s: after %v", what, at.Sub(begin).Round(time.Millisecond))
		if late := at.Sub(begin); late > 5*time.Second { // it is meant to be one, on a machine that does nothing else
			t.Errorf("%s: only after %v", what, late)
		}
	}
	people := func(name string) int64 {
		t.Helper()
		var all struct {
			People []struct {
				ID       int64
				Username string
			}
		}
		a := s.with("GET", "/api/people", "", root)
		a.into(t, &all)
		for _, p := range all.People {
			if p.Username == name {
				return p.ID
			}
		}
		t.Fatalf("no %s among %s", name, a.body)
		return 0
	}

	// Somebody is disabled by the command line, while they watch in two ways.
	vic := s.session("vic", "correct horse battery")
	var token struct{ Secret string }
	s.with("POST", "/api/account/tokens", `{"name":"script","roles":["viewer"],"days":1}`, vic).into(t, &token)
	page, script := s.witness("page", d, vic), s.witness("script", d, "Authorization: Bearer "+token.Secret)
	begin := time.Now()
	if out, err := s.account("", "disable", "vic"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	begin2 := time.Now()
	within("disabled", begin, page.over("revoked"))
	within("disabled, the token", begin, script.over("revoked"))
	t.Logf("the command took %v", begin2.Sub(begin))
	for _, proof := range []string{vic, "Authorization: Bearer " + token.Secret} {
		if a := s.with("GET", "/api/devices", "", proof); a.status != 401 {
			t.Errorf("afterwards: %d %s", a.status, a.body)
		}
	}

	// A right is narrowed; then the session is ended by an admin; then by oneself.
	liv := s.session("liv", "correct horse battery")
	w := s.witness("liv", d, liv)
	begin = time.Now()
	if a := s.with("PUT", fmt.Sprintf("/api/people/%d", people("liv")), `{"limit":{"models":[],"tags":["lab"]}}`, root); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if p := w.until("subscription-ended"); p["device_id"] != float64(d.ID) {
		t.Errorf("it ended for %v", p)
	}
	within("narrowed", begin, time.Now())
	if a := s.with("POST", "/api/device-logs/subscribe", fmt.Sprintf(`{"request_id":"liv","device_id":%d}`, other.ID), liv); a.status != 404 {
		t.Errorf("a device beyond the limit: %d %s", a.status, a.body)
	}
	begin = time.Now()
	if a := s.with("DELETE", fmt.Sprintf("/api/people/%d/sessions", people("liv")), "", root); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	within("ended by an admin", begin, w.over("revoked"))
	w = s.witness("root", d, root)
	begin = time.Now()
	if a := s.with("POST", "/api/auth/logout", "", root); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	within("logged out", begin, w.over("logout"))

	// All of that is on record.
	root = s.session("root", "correct horse battery")
	audit := string(s.with("GET", "/api/audit?limit=1000", "", root, "Accept: application/x-ndjson").body)
	for _, action := range []string{"person.create", "login", "token.create", "logs.watch", "person.update", "session.end-all", "logout"} {
		if !strings.Contains(audit, fmt.Sprintf(`"action":%q`, action)) {
			t.Errorf("the audit has no %s", action)
		}
	}
	if strings.Contains(audit, token.Secret) || strings.Contains(audit, "correct horse") {
		t.Error("the audit has a secret")
	}
}
