package web_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/local"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/secret"
	"signalbox/internal/sqlstore"
	"signalbox/internal/web"
)

// yard is a server with devices that campaigns are of: three of the model relay,
// and three boilers, the first of them with the tag lab. Nobody is rotated: nothing runs.
type yard struct {
	*web.Server
	t   *testing.T
	who map[string]access.Principal
}

func newYard(t *testing.T) *yard {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	log := slog.New(slog.DiscardHandler)
	n := 0
	service, err := registry.New(t.Context(), db, log, registry.WithKeys(func() string { n++; return fmt.Sprintf("key%05d", n) }))
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"relay", "boiler"} {
		m, err := service.CreateModel(t.Context(), registry.NewModel{Code: code, Name: code})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			config := "{}"
			if code == "boiler" && i == 0 {
				config = `{"deviceName": "Kettle", "tags": ["lab"]}`
			}
			if _, err := service.CreateDevice(t.Context(), m.ID, config); err != nil {
				t.Fatal(err)
			}
		}
	}
	box, err := secret.NewBox("a key for tests only", "rotation")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := local.New(t.Context(), local.Options{Store: db, Box: box, URL: "http://localhost", Audience: "signalbox"})
	if err != nil {
		t.Fatal(err)
	}
	runner := rotation.NewRunner(rotation.Options{Store: db, Issuer: issuer, Box: box, Sole: true})
	p := &yard{t: t, who: map[string]access.Principal{}}
	p.Server = web.New(web.Options{
		Log: log, Registry: service, Metrics: prometheus.NewRegistry(), Rotation: runner,
		Campaigns: rotation.NewCampaigns(rotation.CampaignOptions{Store: db, Runner: runner}),
	})
	for _, role := range []string{access.RoleViewer, access.RoleEditor} {
		p.who[role] = access.Principal{Kind: access.Person, Subject: role, Name: "Ann", Roles: []string{role}}
		p.who[role+" of relays"] = access.Principal{Kind: access.Person, Subject: role + "-r", Roles: []string{role}, Limit: access.Limit{Models: []string{"relay"}}}
		p.who[role+" of lab"] = access.Principal{Kind: access.Person, Subject: role + "-l", Roles: []string{role}, Limit: access.Limit{Tags: []string{"lab"}}}
	}
	p.IdentifyWith(func(_ http.ResponseWriter, r *http.Request, _ bool) (access.Principal, error) {
		who, ok := p.who[r.Header.Get("Who")]
		if !ok {
			return who, access.Deny(access.Missing, nil)
		}
		return who, nil
	})
	return p
}

// do returns the status and the decoded answer.
func (p *yard) do(who, method, path, body string) (int, map[string]any) {
	p.t.Helper()
	r := httptest.NewRequestWithContext(p.t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Who", who)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, r)
	var object map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &object); err != nil {
		object = map[string]any{"": w.Body.String()}
	}
	return w.Code, object
}

const campaignsPath = "/api/rotation/campaigns"

func TestCampaignBody(t *testing.T) {
	p := newYard(t)
	f := func(body string, want ...string) {
		t.Helper()
		code, answer := p.do("editor", "POST", campaignsPath, body)
		text, _ := answer[""].(string)
		if code != 400 {
			t.Errorf("%s: %d %v", body, code, answer)
			return
		}
		var faults []struct {
			Type string
			Loc  []any
		}
		if err := json.Unmarshal([]byte(text), &faults); err != nil {
			t.Fatalf("%s: %v", body, answer)
		}
		var got []string
		for _, x := range faults {
			got = append(got, strings.TrimSpace(x.Type+" "+strings.Trim(fmt.Sprint(x.Loc), "[]")))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", body, got, want)
		}
	}
	with := func(rest string) string {
		return `{"name": "x", "selection": {"all": true}, "dry_run": true, ` + rest + `}`
	}
	f(`{}`, "missing name", "missing selection")
	f(`{"name": "", "selection": {}}`, "string_too_short name", "value_error selection")
	f(`{"name": "a\nb", "selection": {"all": false}}`, "value_error name", "value_error selection")
	f(`{"name": "`+strings.Repeat("x", 101)+`", "selection": []}`, "string_too_long name", "dict_type selection")
	f(`{"name": "x", "selection": {"all": 7, "device_ids": "x", "model_ids": ["x"], "tags": [1], "states": ["ok"], "secret_older_than_days": -1, "include_inactive": [], "other": 1}}`,
		"bool_parsing selection all", "list_type selection device_ids", "int_type selection model_ids 0", "string_type selection tags 0", "enum selection states 0",
		"greater_than_equal selection secret_older_than_days", "bool_type selection include_inactive", "extra_forbidden selection other")
	f(`{"name": "x", "selection": {"device_ids": [`+strings.Repeat("1,", 100_000)+`1]}}`, "too_long selection device_ids")
	f(with(`"reason": 1, "canary": 2, "wave_size": -1, "in_flight": 0, "pause_failure_rate": 1.5, "pause_min_devices": 0, "wave_pause_seconds": 604801`),
		"string_type reason", "dict_type canary", "greater_than_equal wave_size", "greater_than_equal in_flight", "less_than_equal pause_failure_rate",
		"greater_than_equal pause_min_devices", "less_than_equal wave_pause_seconds")
	f(with(`"canary": {}, "in_flight": 1001, "pause_failure_rate": "x", "timezone": "Mars/Base", "defer_offline": "perhaps", "defer_hours": 0, "more": 1`),
		"missing canary count", "less_than_equal in_flight", "float_type pause_failure_rate", "value_error timezone", "bool_parsing defer_offline", "greater_than_equal defer_hours",
		"extra_forbidden more")
	f(with(`"windows": 3, "timezone": "Local"`), "list_type windows", "value_error timezone")
	f(with(`"windows": [1, {"days": [], "from": "9:00", "to": "24:00"}, {"days": [0, 8], "from": "25:00", "to": "12:60"}, {"from": "24:01", "to": 3, "at": 1}]`),
		"dict_type windows 0", "too_short windows 1 days", "value_error windows 1 from", "value_error windows 2 days 0", "value_error windows 2 days 1", "value_error windows 2 from",
		"value_error windows 2 to", "missing windows 3 days", "value_error windows 3 from", "string_type windows 3 to", "extra_forbidden windows 3 at")

	if code, answer := p.do("editor", "POST", campaignsPath, `{"name": "x", "selection": {"tags": ["none"]}}`); code != 400 || answer["code"] != "INVALID_OPERATION" {
		t.Errorf("of nobody: %d %v", code, answer)
	}
	if code, answer := p.do("editor", "POST", campaignsPath, `{"name": "x", "pause_failure_rate": 0, "wave_size": 0, "reason": null, "windows": null, "canary": null, "timezone": null, "dry_run": true, "selection": {"states": ["OK"]}}`); code != 200 {
		t.Errorf("the least that may be: %d %v", code, answer)
	}
}

func TestCampaignAPI(t *testing.T) {
	p := newYard(t)
	number := func(v any) int64 { x, _ := v.(float64); return int64(x) }
	list := func(who string) (ids []int64) {
		t.Helper()
		code, answer := p.do(who, "GET", campaignsPath, "")
		all, _ := answer["campaigns"].([]any)
		if code != 200 || number(answer["count"]) != int64(len(all)) {
			t.Fatalf("%d %v", code, answer)
		}
		for _, c := range all {
			ids = append(ids, number(c.(map[string]any)["id"]))
		}
		return ids
	}
	code, answer := p.do("editor", "POST", campaignsPath,
		`{"name": "x", "selection": {"all": true, "device_ids": [4711]}, "wave_size": 3, "in_flight": 2, "wave_pause_seconds": 60, "dry_run": true}`)
	plan, _ := answer["plan"].(map[string]any)
	if waves, _ := plan["waves"].([]any); code != 200 || number(plan["devices"]) != 6 || len(waves) != 3 || number(plan["expected_seconds"]) != 30+60+60+60+30 {
		t.Errorf("plan: %d %v", code, answer)
	}
	if text := fmt.Sprint(plan["excluded"]); text != "[map[device_id:4711 key: reason:was not found]]" {
		t.Errorf("excluded: %s", text)
	}
	if ids := list("editor"); len(ids) > 0 {
		t.Errorf("a dry run left %v", ids)
	}
	// Who has limits selects within them, and cannot find out what is beyond.
	code, answer = p.do("editor of lab", "POST", campaignsPath, `{"name": "x", "selection": {"device_ids": [1, 4, 4711]}, "dry_run": true}`)
	if text := fmt.Sprint(answer); code != 200 || !strings.Contains(text, "devices:[4]") || !strings.Contains(text, "device_id:1 key: reason:was not found") {
		t.Errorf("%d %s", code, text)
	}

	code, c := p.do("editor", "POST", campaignsPath, `{"name": "Relays", "reason": "y", "selection": {"model_ids": [1]}, "timezone": "Europe/Berlin",
		"windows": [{"days": [1, 2, 3, 4, 5, 6, 7], "from": "00:00", "to": "24:00"}]}`)
	if code != 201 || c["state"] != "running" || c["created_by"] != "Ann" || c["name"] != "Relays" || c["reason"] != "y" || c["failure_rate"] != nil || c["ended_at"] != nil || c["expected_end"] == nil {
		t.Fatalf("%d %v", code, c)
	}
	if text := fmt.Sprint(c["counts"]); text != "map[deferred:0 done:0 failed:0 in_flight:0 skipped:0 total:3 waiting:3]" {
		t.Error(text)
	}
	if text := fmt.Sprint(c["waves"]); text != "[map[deferred:0 done:0 failed:0 number:1 size:1] map[deferred:0 done:0 failed:0 number:2 size:2]]" {
		t.Error(text)
	}
	if o, _ := c["options"].(map[string]any); o["timezone"] != "Europe/Berlin" || number(o["in_flight"]) != 1 || number(o["defer_hours"]) != 72 {
		t.Errorf("options %v", c["options"])
	}
	if _, err := time.Parse(time.RFC3339, fmt.Sprint(c["created_at"])); err != nil {
		t.Error(err)
	}
	relays := number(c["id"])
	code, c = p.do("editor of lab", "POST", campaignsPath, `{"name": "Lab", "selection": {"all": true}}`)
	if code != 201 || number(c["counts"].(map[string]any)["total"]) != 1 {
		t.Fatalf("%d %v", code, c)
	}
	lab := number(c["id"])
	code, c = p.do("editor", "POST", campaignsPath, `{"name": "All", "selection": {"all": true}}`)
	if code != 201 || number(c["counts"].(map[string]any)["total"]) != 2 { // the others are busy
		t.Fatalf("%d %v", code, c)
	}
	rest := number(c["id"])
	for who, want := range map[string][]int64{"viewer": {rest, lab, relays}, "viewer of relays": {relays}, "viewer of lab": {lab}} {
		if ids := list(who); !slices.Equal(ids, want) {
			t.Errorf("%s sees %v, want %v", who, ids, want)
		}
	}
	f := func(who, method string, id int64, rest string, code int, state string) {
		t.Helper()
		got, answer := p.do(who, method, fmt.Sprintf("%s/%d%s", campaignsPath, id, rest), "")
		if got != code || state != "" && answer["state"] != state {
			t.Errorf("%s %s %d%s: %d %v", who, method, id, rest, got, answer)
		}
	}
	f("viewer of relays", "GET", relays, "", 200, "running")
	f("viewer of relays", "GET", lab, "", 404, "")
	f("viewer of relays", "GET", lab, "/devices", 404, "")
	f("viewer of relays", "POST", relays, "/pause", 403, "")
	for _, op := range []string{"/pause", "/resume", "/abort"} {
		f("editor of relays", "POST", rest, op, 404, "")
		f("editor", "POST", 4711, op, 404, "")
	}
	f("editor of relays", "POST", relays, "/pause", 200, "paused")
	f("editor of relays", "POST", relays, "/pause", 200, "paused")
	f("editor of relays", "POST", relays, "/resume", 200, "running")
	f("editor of relays", "POST", relays, "/abort", 200, "aborted")
	f("editor of relays", "POST", relays, "/resume", 400, "")
	f("viewer", "GET", relays, "/devices?limit=0", 400, "")
	f("viewer", "GET", relays, "/devices?state=lost", 400, "")

	page := func(query string, want string, next any) {
		t.Helper()
		code, answer := p.do("viewer", "GET", fmt.Sprintf("%s/%d/devices%s", campaignsPath, relays, query), "")
		var got []string
		devices, _ := answer["devices"].([]any)
		for _, d := range devices {
			d := d.(map[string]any)
			got = append(got, fmt.Sprintf("%v %v %v %v", d["key"], d["wave"], d["state"], d["reason"]))
		}
		if text := strings.Join(got, ", "); code != 200 || text != want || answer["next"] != next {
			t.Errorf("%s: %d %s, next %v", query, code, text, answer["next"])
		}
	}
	const why = "skipped the campaign was aborted"
	page("", "key00001 1 "+why+", key00002 2 "+why+", key00003 2 "+why, nil)
	page("?limit=2", "key00001 1 "+why+", key00002 2 "+why, 2.0)
	page("?limit=2&after=2", "key00003 2 "+why, nil)
	page("?state=done", "", nil)
}
