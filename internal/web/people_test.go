package web_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/web"
)

// as sends a request with a bearer token.
func (s *site) as(token, method, path, body string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.do(method, path, body, "Authorization", "Bearer "+token)
}

// signIn logs in with a password and returns the session's secret.
func (s *site) signIn(username, password string) string {
	s.t.Helper()
	res := s.do("POST", "/api/auth/login", fmt.Sprintf(`{"username": %q, "password": %q}`, username, password))
	c := set(res)["access_token"]
	if res.Code != 200 || c == nil {
		s.t.Fatalf("login of %s: %d %s", username, res.Code, res.Body)
	}
	return c.Value
}

func TestWithoutLogin(t *testing.T) {
	accounts := newAccounts(t)
	s := newSite(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: accounts, BaseURL: "http://example.com", Box: newBox(t), Insecure: true}
	})
	s.want("GET", "/api/auth/mode", "", 200, `{"mode": "off", "insecure": true, "setup": true}`)
	disabled := problemJSON(fleet.Invalid, "Authentication is not enabled")
	s.want("GET", "/api/auth/login?redirect=/", "", 400, disabled)
	s.want("POST", "/api/auth/login", `{"username": "a", "password": "b"}`, 400, disabled)
	s.want("GET", "/api/auth/callback?code=a&state=b", "", 400, disabled)
	s.want("POST", "/api/auth/backchannel-logout", "", 400, disabled)
	s.want("GET", "/api/account/sessions", "", 400, disabled)
	s.want("POST", "/api/account/tokens", `{"name": "a", "roles": ["viewer"], "days": 1}`, 400, disabled)
	s.want("POST", "/api/auth/logout", "", 204, "")
	if res := s.do("GET", "/api/auth/logout?redirect=/x", ""); res.Code != 302 || res.Header().Get("Location") != "/x" {
		t.Errorf("%d %v", res.Code, res.Header())
	}
	if res := s.as("anything", "GET", "/api/devices", ""); res.Code != 200 {
		t.Errorf("a token that nobody looks at: %d", res.Code)
	}

	// Another site's name that leads to this machine, where only this machine is let in.
	home := newSite(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: accounts, BaseURL: "http://example.com", Box: newBox(t)}
	})
	r := httptest.NewRequestWithContext(t.Context(), "GET", "http://evil.example:3101/api/devices", nil)
	w := httptest.NewRecorder()
	home.server.Handler().ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("a page of another site that rebinds its name: %d", w.Code)
	}
	home.want("GET", "/api/devices", "", 200, `{"devices": [], "count": 0}`)

	// Nor does a token let pages of other sites change anything: nobody looks at it,
	// and one who may read (CORS_ORIGINS=*) may send any.
	open := newSite(t, func(o *web.Options) {
		o.Identity = &web.Identity{Accounts: accounts, BaseURL: "http://example.com", Box: newBox(t)}
		o.CORSOrigins = []string{"*"}
	})
	evil := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Authorization", "Bearer x"}
	open.same("a page with a token", open.do("POST", "/api/device-models", `{"code": "evil", "name": "Evil"}`, evil...), 403, problemJSON(fleet.Forbidden, "Cross-origin request refused"))

	// The first account ends that.
	s.want("POST", "/api/auth/setup", `{"setup": "guess", "username": "root", "password": "correct horse battery"}`, 403, problemJSON(fleet.Forbidden, "The set-up link is not good, or not any more"))
	setup := accounts.SetupSecret()
	if res := s.do("POST", "/api/auth/setup", fmt.Sprintf(`{"setup": %q, "username": "root", "password": "x"}`, setup)); res.Code != 400 {
		t.Errorf("a weak password: %d %s", res.Code, res.Body)
	}
	res := s.do("POST", "/api/auth/setup", fmt.Sprintf(`{"setup": %q, "username": "Root", "password": %q, "name": "The Root"}`, setup, password))
	c := set(res)["access_token"]
	if res.Code != 200 || c == nil || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.MaxAge < 3500 || c.MaxAge > 3600 || c.Path != "/" {
		t.Fatalf("%d %s %v", res.Code, res.Body, res.Header())
	}
	if got := selfOf(t, res.Body.Bytes()); *got.Name != "The Root" || !cmp.Equal(got.Roles, []string{"admin"}) || got.Mode != "local" || got.Session == "" {
		t.Errorf("%s", res.Body)
	}
	s.want("GET", "/api/auth/mode", "", 200, `{"mode": "local", "insecure": false, "setup": false}`)
	s.want("GET", "/api/devices", "", 401, problemJSON(fleet.Unauthenticated, "No valid token provided"))
	if res := s.do("POST", "/api/auth/setup", fmt.Sprintf(`{"setup": %q, "username": "second", "password": %q}`, setup, password)); res.Code != 403 {
		t.Errorf("a second time: %d", res.Code)
	}
	if res := s.do("GET", "/api/devices", "", "Cookie", "access_token="+c.Value); res.Code != 200 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	if res := s.do("GET", "/api/auth/login?redirect=/x?a=b", ""); res.Code != 302 || res.Header().Get("Location") != "/login?redirect=%2Fx%3Fa%3Db" {
		t.Errorf("%d %v", res.Code, res.Header())
	}
}

func TestLocalLogin(t *testing.T) {
	who := atHome(t)
	s := newSite(t, func(o *web.Options) { o.Identity = who })
	s.want("POST", "/api/auth/login", `{"username": "root", "password": "wrong"}`, 401, problemJSON(fleet.Unauthenticated, "Wrong user name or password"))
	s.want("POST", "/api/auth/login", `{"username": "nobody", "password": "wrong"}`, 401, problemJSON(fleet.Unauthenticated, "Wrong user name or password"))
	if res := s.do("POST", "/api/auth/login", `{}`); res.Code != 400 {
		t.Errorf("%d", res.Code)
	}
	first, second := s.signIn("root", password), s.signIn("ROOT", password)
	if first == second || !strings.HasPrefix(first, access.SessionPrefix) {
		t.Errorf("sessions %s, %s", first, second)
	}

	// Sessions.
	var list struct {
		Sessions []struct {
			ID, Address, Agent string
			Current            bool
		}
	}
	sessions := func(token string) {
		t.Helper()
		list.Sessions = nil
		res := s.do("GET", "/api/account/sessions", "", "Cookie", "access_token="+token, "User-Agent", "a browser")
		if err := json.Unmarshal(res.Body.Bytes(), &list); err != nil || res.Code != 200 {
			t.Fatalf("%d %s", res.Code, res.Body)
		}
	}
	sessions(second)
	if len(list.Sessions) != 2 || list.Sessions[0].Current == list.Sessions[1].Current || list.Sessions[0].Address != "192.0.2.1" {
		t.Errorf("%+v", list)
	}
	for _, x := range list.Sessions {
		if !x.Current {
			s.same("end the other", s.as(second, "DELETE", "/api/account/sessions/"+x.ID, ""), 204, "")
		}
	}
	if res := s.do("GET", "/api/auth/self", "", "Cookie", "access_token="+first); res.Code != 401 || !cleared(res) {
		t.Errorf("the session that was ended: %d %v", res.Code, res.Header())
	}
	if res := s.as(second, "DELETE", "/api/account/sessions/none", ""); res.Code != 404 {
		t.Errorf("%d", res.Code)
	}
	third := s.signIn("root", password)
	s.same("end all others", s.as(third, "DELETE", "/api/account/sessions", ""), 204, "")
	if sessions(third); len(list.Sessions) != 1 || !list.Sessions[0].Current {
		t.Errorf("%+v", list)
	}

	// The password.
	s.same("a wrong old one", s.as(third, "POST", "/api/account/password", `{"old": "wrong", "password": "another good one"}`), 400, problemJSON(fleet.Invalid, "The old password is wrong"))
	other := s.signIn("root", password)
	s.same("change", s.as(third, "POST", "/api/account/password", fmt.Sprintf(`{"old": %q, "password": "another good one"}`, password)), 204, "")
	if res := s.as(other, "GET", "/api/auth/self", ""); res.Code != 401 {
		t.Errorf("another session lives on: %d", res.Code)
	}
	if res := s.as(third, "GET", "/api/auth/self", ""); res.Code != 200 {
		t.Errorf("this session: %d", res.Code)
	}
	s.want("POST", "/api/auth/login", fmt.Sprintf(`{"username": "root", "password": %q}`, password), 401, problemJSON(fleet.Unauthenticated, "Wrong user name or password"))

	// Logout.
	if res := s.do("POST", "/api/auth/logout", "", "Cookie", "access_token="+third); res.Code != 204 || !cleared(res) {
		t.Errorf("%d %v", res.Code, res.Header())
	}
	if res := s.as(third, "GET", "/api/auth/self", ""); res.Code != 401 {
		t.Errorf("after the logout: %d", res.Code)
	}
	fourth := s.signIn("root", "another good one")
	if res := s.do("GET", "/api/auth/logout", "", "Cookie", "access_token="+fourth); res.Code != 302 || res.Header().Get("Location") != "/" || !cleared(res) {
		t.Errorf("%d %v", res.Code, res.Header())
	}
	if res := s.as(fourth, "GET", "/api/auth/self", ""); res.Code != 401 {
		t.Errorf("after the logout: %d", res.Code)
	}

	// What is not from here is not believed.
	for _, bad := range []string{"eyJhbGciOiJub25lIn0.e30.", access.SessionPrefix + "x", access.TokenPrefix + "x", "x"} {
		if res := s.as(bad, "GET", "/api/devices", ""); res.Code != 401 {
			t.Errorf("%s: %d", bad, res.Code)
		}
	}
}

// Who guesses is slowed down, and told for how long.
func TestGuessing(t *testing.T) {
	who := atHome(t)
	s := newSite(t, func(o *web.Options) { o.Identity = who })
	for range 100 {
		res := s.do("POST", "/api/auth/login", `{"username": "root", "password": "wrong"}`)
		if res.Code == 401 {
			continue
		}
		seconds, err := strconv.Atoi(res.Header().Get("Retry-After"))
		if res.Code != 429 || err != nil || seconds < 1 {
			t.Errorf("%d, Retry-After %q", res.Code, res.Header().Get("Retry-After"))
		}
		return
	}
	t.Error("a hundred guesses were answered")
}

func TestTokens(t *testing.T) {
	who := atHome(t)
	s := newSite(t, func(o *web.Options) { o.Identity = who })
	root := s.signIn("root", password)
	var made struct {
		ID           int64
		Secret, Hint string
		Limit        *struct{ Models, Tags []string }
		Roles        []string
		Expires      string `json:"expires_at"`
	}
	res := s.as(root, "POST", "/api/account/tokens", `{"name": "ci", "roles": ["viewer", "viewer"], "limit": {"models": ["relay"]}, "days": 366}`)
	if err := json.Unmarshal(res.Body.Bytes(), &made); err != nil || res.Code != 201 || !strings.HasPrefix(made.Secret, access.TokenPrefix) || !strings.HasPrefix(made.Secret, made.Hint) {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if made.Limit == nil || !cmp.Equal(made.Limit.Models, []string{"relay"}) || !cmp.Equal(made.Roles, []string{"viewer"}) {
		t.Errorf("%s", res.Body)
	}
	if res := s.as(made.Secret, "GET", "/api/devices", ""); res.Code != 200 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	if got := selfOf(t, s.as(made.Secret, "GET", "/api/auth/self", "").Body.Bytes()); got.Kind != "token" || !cmp.Equal(got.Roles, []string{"viewer"}) || got.Limit == nil {
		t.Errorf("%+v", got)
	}
	s.same("too much", s.as(made.Secret, "POST", "/api/device-models", `{}`), 403, problemJSON(fleet.Forbidden, "Insufficient permissions - requires one of: editor, admin"))
	for _, own := range []string{"POST /api/account/tokens", "DELETE /api/account/sessions", "POST /api/account/password", "GET /api/account/tokens"} {
		method, path, _ := strings.Cut(own, " ")
		s.same(own, s.as(made.Secret, method, path, `{}`), 403, problemJSON(fleet.Forbidden, "Only somebody who is logged in may do this"))
	}
	if list := s.as(root, "GET", "/api/account/tokens", "").Body.String(); !strings.Contains(list, `"name":"ci"`) || strings.Contains(list, made.Secret) {
		t.Errorf("%s", list)
	}
	for _, bad := range []string{
		`{"name": "x", "roles": ["viewer"], "days": 0}`, `{"name": "x", "roles": ["viewer"], "days": 367}`, `{"name": "x", "roles": ["viewer"]}`, `{"name": "", "roles": ["viewer"], "days": 1}`,
		`{"name": "x", "roles": [], "days": 1}`, `{"name": "x", "roles": ["king"], "days": 1}`, `{"name": "x", "roles": "viewer", "days": 1}`, `{"name": "x", "roles": [1], "days": 1}`,
		`{"name": "x", "roles": ["viewer"], "days": 1, "limit": {}}`, `{"name": "x", "roles": ["viewer"], "days": 1, "limit": {"models": []}}`, `{"name": "x", "roles": ["viewer"], "days": 1, "limit": []}`,
		`{"name": "x", "roles": ["viewer"], "days": 1, "limit": {"models": "relay"}}`,
	} {
		if res := s.as(root, "POST", "/api/account/tokens", bad); res.Code != 400 {
			t.Errorf("%s: %d %s", bad, res.Code, res.Body)
		}
	}
	if res := s.as(root, "POST", "/api/account/tokens", `{"name": "ci", "roles": ["viewer"], "days": 1}`); res.Code != 409 {
		t.Errorf("a second of one name: %d", res.Code)
	}
	// An admin sees and ends everybody's; others their own only.
	if res := s.as(root, "POST", "/api/people", fmt.Sprintf(`{"username": "eve", "password": %q, "roles": ["editor"]}`, password)); res.Code != 201 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	eve := s.signIn("eve", password)
	if res := s.as(eve, "DELETE", fmt.Sprintf("/api/account/tokens/%d", made.ID), ""); res.Code != 404 {
		t.Errorf("another's token: %d", res.Code)
	}
	if res := s.as(eve, "DELETE", fmt.Sprintf("/api/tokens/%d", made.ID), ""); res.Code != 403 {
		t.Errorf("another's token, as an editor: %d", res.Code)
	}
	if list := s.as(root, "GET", "/api/tokens", "").Body.String(); !strings.Contains(list, `"name":"ci"`) {
		t.Errorf("%s", list)
	}
	s.same("revoke", s.as(root, "DELETE", fmt.Sprintf("/api/tokens/%d", made.ID), ""), 204, "")
	if res := s.as(made.Secret, "GET", "/api/devices", ""); res.Code != 401 {
		t.Errorf("a revoked token: %d", res.Code)
	}
}

func TestPeople(t *testing.T) {
	who := atHome(t)
	s := newSite(t, func(o *web.Options) { o.Identity = who })
	root := s.signIn("root", password)
	res := s.as(root, "POST", "/api/people", fmt.Sprintf(`{"username": "Eve", "name": "Eve E.", "email": "eve@example.com", "password": %q, "roles": ["editor"], "limit": {"tags": ["north", "lab"]}}`, password))
	var p struct {
		ID       int64
		Username string
		Subject  string
		Limit    *struct{ Models, Tags []string }
		Roles    []string
		Disabled bool
		External bool
		Name     string
		Sessions int
	}
	read := func(res *httptest.ResponseRecorder, status int) {
		t.Helper()
		p.Limit = nil
		if err := json.Unmarshal(res.Body.Bytes(), &p); err != nil || res.Code != status {
			t.Fatalf("%d %s", res.Code, res.Body)
		}
	}
	read(res, 201)
	if p.Username != "eve" || p.Limit == nil || !cmp.Equal(p.Limit.Tags, []string{"lab", "north"}) || p.External || p.Name != "Eve E." {
		t.Errorf("%s", res.Body)
	}
	path := fmt.Sprintf("/api/people/%d", p.ID)
	if res := s.as(root, "POST", "/api/people", fmt.Sprintf(`{"username": "EVE", "password": %q, "roles": []}`, password)); res.Code != 409 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	eve := s.signIn("eve", password)
	s.same("an editor", s.as(eve, "GET", "/api/people", ""), 403, problemJSON(fleet.Forbidden, "Insufficient permissions - requires one of: admin"))
	read(s.as(root, "GET", path, ""), 200)
	if p.Sessions != 1 {
		t.Errorf("%+v", p)
	}

	// What is not given stays; a limit of null goes.
	read(s.as(root, "PUT", path, `{"roles": ["viewer"]}`), 200)
	if !cmp.Equal(p.Roles, []string{"viewer"}) || p.Limit == nil || p.Name != "Eve E." {
		t.Errorf("%+v", p)
	}
	if res := s.as(eve, "POST", "/api/device-models", `{}`); res.Code != 403 {
		t.Errorf("a role that was taken away: %d", res.Code)
	}
	read(s.as(root, "PUT", path, `{"limit": null, "name": "E"}`), 200)
	if p.Limit != nil || p.Name != "E" {
		t.Errorf("%+v", p)
	}
	s.same("another password", s.as(root, "POST", path+"/password", `{"password": "one more good one"}`), 204, "")
	if res := s.as(eve, "GET", "/api/auth/self", ""); res.Code != 401 {
		t.Errorf("the session of the old password: %d", res.Code)
	}
	eve = s.signIn("eve", "one more good one")
	s.same("end sessions", s.as(root, "DELETE", path+"/sessions", ""), 204, "")
	if res := s.as(eve, "GET", "/api/auth/self", ""); res.Code != 401 {
		t.Errorf("an ended session: %d", res.Code)
	}
	eve = s.signIn("eve", "one more good one")
	read(s.as(root, "PUT", path, `{"disabled": true}`), 200)
	if res := s.as(eve, "GET", "/api/auth/self", ""); res.Code != 401 || !p.Disabled {
		t.Errorf("somebody disabled: %d", res.Code)
	}
	s.same("delete", s.as(root, "DELETE", path, ""), 204, "")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if res := s.as(root, method, path, `{}`); res.Code != 404 {
			t.Errorf("%s: %d %s", method, res.Code, res.Body)
		}
	}
	// The last admin stays one.
	var all struct{ People []struct{ ID int64 } }
	if err := json.Unmarshal(s.as(root, "GET", "/api/people", "").Body.Bytes(), &all); err != nil || len(all.People) != 1 {
		t.Fatalf("%v %+v", err, all)
	}
	if res := s.as(root, "PUT", fmt.Sprintf("/api/people/%d", all.People[0].ID), `{"roles": ["viewer"]}`); res.Code != 400 {
		t.Errorf("%d %s", res.Code, res.Body)
	}
}

func TestAudit(t *testing.T) {
	who := atHome(t)
	s := newSite(t, func(o *web.Options) { o.Identity = who })
	s.do("POST", "/api/auth/login", `{"username": "=cmd", "password": "wrong"}`)
	root := s.signIn("root", password)
	s.do("POST", "/api/device-models", `{"code": "x"}`) // nobody: not recorded
	s.as(root, "POST", "/api/device-models", `{"code": "relay", "name": "Relay"}`)
	s.as(root, "POST", "/api/device-models", `{"code": "relay", "name": "Relay"}`)
	s.as(root, "POST", "/api/devices", `{"device_model_id": 1, "config": "{\"deviceName\": \"=1+1\"}"}`)
	for range 3 {
		s.as(root, "GET", "/api/devices/1/logs", "")
	}
	s.as(root, "GET", "/api/logs?model_id=1", "")
	s.as(root, "DELETE", "/api/devices/1", "")
	s.as(root, "DELETE", "/api/devices/1", "")
	s.as(root, "GET", "/api/devices/1/logs", "")
	s.as(root, "PUT", "/api/device-models/1", `{"name": ""}`)
	res := s.as(root, "POST", "/api/account/tokens", `{"name": "ci", "roles": ["viewer"], "days": 1}`)
	var made struct{ Secret string }
	if err := json.Unmarshal(res.Body.Bytes(), &made); err != nil {
		t.Fatal(err)
	}
	s.as(made.Secret, "DELETE", "/api/devices/1", "")
	s.as(root, "POST", "/api/auth/logout", "")
	root = s.signIn("root", password)

	var page struct {
		Events []struct {
			ID                                                int64
			Actor, Name, Kind, Action, Target, Label, Outcome string
			Address                                           string
			Detail                                            map[string]any
		}
		Next *int64
	}
	get := func(query string) []string {
		t.Helper()
		page.Events, page.Next = nil, nil
		res := s.as(root, "GET", "/api/audit?"+query, "")
		if err := json.Unmarshal(res.Body.Bytes(), &page); err != nil || res.Code != 200 {
			t.Fatalf("%d %s", res.Code, res.Body)
		}
		var list []string
		for _, e := range page.Events {
			list = append(list, strings.Join([]string{e.Name, e.Kind, e.Action, e.Target, e.Label, e.Outcome}, "|"))
		}
		return list
	}
	want := []string{
		"Root|person|login|||ok",
		"Root|person|logout|||ok",
		"Root (ci)|token|device.delete|device/1||forbidden",
		"Root|person|token.create|token/1|ci|ok",
		"Root|person|model.update|model/1||invalid",
		"Root|person|device.delete|device/1||not_found",
		"Root|person|device.delete|device/1|=1+1|ok",
		"Root|person|logs.read|||ok",
		"Root|person|logs.read|device/1|=1+1|ok",
		"Root|person|device.create|device/1|key00001|ok",
		"Root|person|model.create|||exists",
		"Root|person|model.create|model/1|relay|ok",
		"Root|person|login|||ok",
		"||login.failed|||refused",
	}
	if diff := cmp.Diff(want, get("")); diff != "" {
		t.Error(diff)
	}
	if e := page.Events[0]; e.Address != "192.0.2.1" || e.Detail["username"] != "root" || !strings.HasPrefix(e.Actor, "local:") {
		t.Errorf("%+v", e)
	}
	if e := page.Events[7]; e.Detail["model_id"] != "1" {
		t.Errorf("%+v", e)
	}
	if page.Next != nil {
		t.Error("there is more")
	}

	// Pages and filters.
	var paged []string
	for query := "limit=4"; query != ""; {
		paged = append(paged, get(query)...)
		query = ""
		if page.Next != nil {
			query = fmt.Sprintf("limit=4&before=%d", *page.Next)
		}
	}
	if diff := cmp.Diff(want, paged); diff != "" {
		t.Error(diff)
	}
	if got := get("action=device.*"); len(got) != 4 {
		t.Errorf("%q", got)
	}
	if got := get("target=model/1&action=model.create"); !cmp.Equal(got, want[11:12]) {
		t.Errorf("%q", got)
	}
	if got := get("actor=local:1&since=2020-01-01&until=2020-01-02"); len(got) != 0 {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{"limit=0", "limit=1001", "before=x", "before=0", "since=tomorrow"} {
		if res := s.as(root, "GET", "/api/audit?"+bad, ""); res.Code != 400 {
			t.Errorf("%s: %d", bad, res.Code)
		}
	}

	// Exports. They need a real connection, for its deadlines.
	front := httptest.NewServer(s.server.Handler())
	defer front.Close()
	export := func(accept string) (text, contentType string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", front.URL+"/api/audit", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+root)
		r.Header.Set("Accept", accept)
		res, err := front.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%s %v", res.Status, err)
		}
		return string(body), res.Header.Get("Content-Type")
	}
	text, got := export("text/csv")
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(rows) != len(want)+1 || got != "text/csv; charset=utf-8" {
		t.Fatalf("%d rows, %v, %v", len(rows), err, got)
	}
	if rows[0][0] != "id" || rows[7][7] != "'=1+1" || rows[1][5] != "login" {
		t.Errorf("%q", rows)
	}
	text, got = export("application/x-ndjson")
	if lines := strings.Split(strings.TrimSpace(text), "\n"); len(lines) != len(want)+1 || !strings.Contains(lines[0], `"action":"audit.export"`) {
		t.Errorf("%d lines: %s %v", len(lines), lines[0], got)
	}
	if strings.Contains(text, password) || strings.Contains(text, made.Secret) || strings.Contains(text, root) {
		t.Error("the audit holds a secret")
	}
}

// A config may hold secrets: it is for who may change it.
func TestConfigIsForEditors(t *testing.T) {
	w := newWorld(t, nil)
	ann, vic := w.idp.AccessToken("ann"), w.idp.AccessToken("vic")
	w.as(ann, "POST", "/api/device-models", `{"code": "relay", "name": "Relay"}`)
	if res := w.as(ann, "POST", "/api/devices", `{"device_model_id": 1, "config": "{\"psk\": \"hush\", \"deviceName\": \"Kitchen\"}"}`); res.Code != 201 || !strings.Contains(res.Body.String(), "hush") {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if body := w.as(ann, "GET", "/api/devices/1", "").Body.String(); !strings.Contains(body, "hush") {
		t.Errorf("an editor: %s", body)
	}
	body := w.as(vic, "GET", "/api/devices/1", "").Body.String()
	if strings.Contains(body, "hush") || !strings.Contains(body, `"config":null`) || !strings.Contains(body, "Kitchen") {
		t.Errorf("a viewer: %s", body)
	}
	if body := w.as(vic, "GET", "/api/devices", "").Body.String(); strings.Contains(body, "hush") {
		t.Errorf("a viewer's list: %s", body)
	}
	// Who read it is on record, once in a while.
	w.as(ann, "GET", "/api/devices/1", "")
	var got struct {
		Events []struct{ Actor, Target string }
	}
	res := w.as(w.idp.AccessToken("adam"), "GET", "/api/audit?action=config.read", "")
	if err := json.Unmarshal(res.Body.Bytes(), &got); err != nil || len(got.Events) != 1 || got.Events[0].Actor != "ann" || got.Events[0].Target != "device/1" {
		t.Errorf("%d %s", res.Code, res.Body)
	}
}

// Pages of other sites change nothing, with cookies or where none are needed.
func TestCrossOrigin(t *testing.T) {
	w := newWorld(t, func(o *web.Options) { o.CORSOrigins = []string{"http://localhost:3100"} })
	w.login(w.browser, "adam")
	jar := w.cookies(w.browser)
	refused := problemJSON(fleet.Forbidden, "Cross-origin request refused")
	cookie := "access_token=" + jar["access_token"]
	n := 0
	for _, row := range w.server.Rows() {
		if row[0] == "GET" || row[0] == "" {
			continue
		}
		n++
		path := strings.Replace(row[1], "{id}", "999", 1)
		for name, headers := range map[string][]string{
			"a page of another site":   {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Cookie", cookie},
			"an old browser":           {"Origin", "https://evil.example", "Cookie", cookie},
			"a page of the same site":  {"Origin", "http://other.example.com", "Sec-Fetch-Site", "same-site", "Cookie", cookie},
			"a form without a cookie":  {"Origin", "null", "Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"},
			"a proxy's password":       {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Cookie", cookie, "Authorization", "Basic YTpi"},
			"a token of nothing":       {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Cookie", cookie, "Authorization", "Bearer "},
			"a header that hides that": {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Cookie", cookie, "X-Forwarded-Host", "evil.example"},
		} {
			w.same(name+": "+row[0]+" "+path, w.do(row[0], path, "{}", headers...), 403, refused)
		}
	}
	if n < 20 {
		t.Errorf("only %d routes were tried", n)
	}
	if status, _ := w.get(w.browser, "/api/auth/self"); status != 200 {
		t.Errorf("logged out: %d", status)
	}
	f := func(name string, headers ...string) {
		t.Helper()
		if res := w.do("POST", "/api/device-models", "{}", headers...); res.Code != 400 { // let through, and found empty
			t.Errorf("%s: %d %s", name, res.Code, res.Body)
		}
	}
	f("our own page", "Origin", w.url, "Sec-Fetch-Site", "same-origin", "Cookie", cookie)
	f("our own page behind a proxy", "Origin", w.url, "Cookie", cookie)
	f("a page that may", "Origin", "http://localhost:3100", "Sec-Fetch-Site", "cross-site", "Cookie", cookie)
	f("a program with a cookie", "Cookie", cookie)
	f("a program with a token", "Authorization", "Bearer "+jar["access_token"])
	f("a page of another site with a token of its own", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Authorization", "Bearer "+jar["access_token"])

	// A logout by an image.
	res := w.do("GET", "/api/auth/logout", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Cookie", cookie)
	w.same("an image", res, 403, refused)
}

// Who is limited to a part of the devices cannot help themselves to the rest,
// whatever their roles: neither by an account nor by a password of somebody who
// is not limited. What they do in the audit would tell them of the rest as well.
func TestLimitedAdmin(t *testing.T) {
	s := newSite(t, func(o *web.Options) { o.Identity = atHome(t) })
	root := s.signIn("root", password)
	var made struct{ Secret string }
	res := s.as(root, "POST", "/api/account/tokens", `{"name": "ci", "roles": ["admin"], "limit": {"models": ["relay"]}, "days": 1}`)
	if err := json.Unmarshal(res.Body.Bytes(), &made); err != nil || res.Code != 201 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if res := s.as(root, "POST", "/api/people", fmt.Sprintf(`{"username": "lad", "password": %q, "roles": ["admin"], "limit": {"tags": ["lab"]}}`, password)); res.Code != 201 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	limited := problemJSON(fleet.Forbidden, "Insufficient permissions - your access is limited to a part of the devices")
	for name, key := range map[string]string{"a token": made.Secret, "a person": s.signIn("lad", password)} {
		f := func(method, path, body string) {
			t.Helper()
			s.same(name+": "+method+" "+path, s.as(key, method, path, body), 403, limited)
		}
		f("POST", "/api/people", fmt.Sprintf(`{"username": "more", "password": %q, "roles": ["admin"]}`, password))
		f("PUT", "/api/people/2", `{"limit": null}`)
		f("POST", "/api/people/1/password", `{"password": "another horse battery"}`)
		f("DELETE", "/api/tokens/1", "")
		f("GET", "/api/people", "")
		f("GET", "/api/audit", "")
		if res := s.as(key, "GET", "/api/devices", ""); res.Code != 200 {
			t.Errorf("%s: %d %s", name, res.Code, res.Body)
		}
	}
}

// Who tries to see a secret and may not is in the audit, too.
func TestRefusedSecretIsRecorded(t *testing.T) {
	s := newSite(t, func(o *web.Options) { o.Identity = atHome(t) })
	root := s.signIn("root", password)
	s.as(root, "POST", "/api/people", fmt.Sprintf(`{"username": "vic", "password": %q, "roles": ["viewer"]}`, password))
	vic := s.signIn("vic", password)
	if res := s.as(vic, "GET", "/api/devices/7/credentials", ""); res.Code != 403 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	s.as(vic, "GET", "/api/dead-letters", "") // what only shows something else is not
	s.do("GET", "/api/devices/7/credentials", "")
	var got struct {
		Events []struct{ Name, Action, Target, Outcome string }
	}
	res := s.as(root, "GET", "/api/audit?action=secret.*", "")
	if err := json.Unmarshal(res.Body.Bytes(), &got); err != nil || len(got.Events) != 1 {
		t.Fatalf("%d %s", res.Code, res.Body)
	}
	if e := got.Events[0]; e.Name != "vic" || e.Action != "secret.read" || e.Target != "device/7" || e.Outcome != "forbidden" {
		t.Errorf("%+v", e)
	}
}
