package web_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/overview"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
	"signalbox/internal/web"
)

// said is a history in which every device that is or was said one line.
type said []string // keys

func (h said) Count(_ context.Context, q logs.Query) (n int64, _ error) {
	r, _ := h.Read(context.Background(), q)
	return int64(len(r.Lines)), nil
}

func (h said) Read(_ context.Context, q logs.Query) (r logs.Result, _ error) {
	for i, key := range h {
		if q.Devices == nil || slices.Contains(q.Devices, key) {
			c := logs.Cursor{Epoch: "e", Seq: uint64(i + 1)}
			r.Lines = append(r.Lines, logs.Line{Cursor: logs.LineCursor{Cursor: c}, Device: key, Received: time.Now(), Message: []byte("line of " + key), Level: logs.Error})
			r.Lost = append(r.Lost, logs.Lost{Device: key, Epoch: "e", From: 0, To: uint64(i), Reason: logs.LostRetention})
		}
	}
	return r, nil
}

// quiet is a stream.Feed of streams on which nobody says anything.
type quiet struct{}

func (quiet) Open(*sse.Outbox, string, []string) stream.Reader             { return quiet{} }
func (quiet) Follow(context.Context, []fleet.DeviceRef, stream.Want) error { return nil }
func (quiet) Unfollow(string) bool                                         { return true }
func (quiet) Advance()                                                     {}
func (quiet) Close()                                                       {}

// estate is a server with a fleet of which nobody but an unlimited principal
// sees everything.
type estate struct {
	*web.Server
	t           *testing.T
	registry    *registry.Service
	streams     *web.Streams
	connections *stream.Registry
	who         map[string]access.Principal // by the header Who
	standing    func(access.Principal) (access.Principal, error)
	metrics     *prometheus.Registry
}

// The ids of the devices: all that have one of 7770.. are hidden from the limited.
const (
	hidden  = 777001 // of the model boiler, without a tag, and with the entity id of both
	sealed  = 777002 // the only one of its model
	deleted = 777003
	boilers = 2 // the model's id
	secrets = 3
)

// traces is everything of the hidden devices that could be seen.
var traces = regexp.MustCompile(`\b77700[1-3]\b|hiddenk\d|secretk\d|deletdk\d|Hidden|Secret|hidden_entity|secret_entity|secret_model|hush`)

func newEstate(t *testing.T) *estate {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := sqlstore.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys := []string{"visible1", "visible2", "hiddenk1", "secretk1", "deletdk1", "newdevi1", "newdevi2", "newdevi3"}
	next := 0
	service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithKeys(func() string { next++; return keys[next-1] }))
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"relay", "boiler", "secret_model"} {
		if _, err := service.CreateModel(t.Context(), registry.NewModel{Code: code, Name: "Model " + strings.ReplaceAll(code, "secret_", "Secret ")}); err != nil {
			t.Fatal(err)
		}
	}
	create := func(model int64, config string) {
		t.Helper()
		if _, err := service.CreateDevice(t.Context(), model, config); err != nil {
			t.Fatal(err)
		}
	}
	create(1, `{"deviceName": "By model", "deviceEntityId": "shared"}`)
	create(boilers, `{"deviceName": "By tag", "deviceEntityId": "shared", "tags": ["lab"]}`)
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec("UPDATE id_counters SET last_id = 777000 WHERE name = 'devices'"); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	create(boilers, `{"deviceName": "Hidden", "deviceEntityId": "shared", "password": "hush"}`)
	create(secrets, `{"deviceName": "Secret", "deviceEntityId": "secret_entity", "tags": ["vault"]}`)
	create(boilers, `{"deviceName": "Hidden", "deviceEntityId": "hidden_entity"}`)
	if err := service.DeleteDevice(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}

	e := &estate{t: t, registry: service, metrics: prometheus.NewRegistry()}
	e.who = map[string]access.Principal{}
	for _, role := range []string{access.RoleViewer, access.RoleEditor, access.RoleAdmin} {
		p := access.Principal{Kind: access.Person, Roles: []string{role}}
		add := func(name string, l access.Limit) {
			p.Subject, p.Limit = role+" "+name, l
			e.who[p.Subject] = p
		}
		add("of all", access.Limit{})
		add("of a model", access.Limit{Models: []string{"relay"}})
		add("of a tag", access.Limit{Tags: []string{"lab"}})
		add("of both", access.Limit{Models: []string{"relay"}, Tags: []string{"lab"}})
		add("of nothing", access.Limit{Tags: []string{"nothing"}})
	}
	e.who["nobody in particular"] = access.Principal{Kind: access.Person, Subject: "x"}
	directory, log := service.Directory(), slog.New(slog.DiscardHandler)
	e.connections = stream.NewRegistry(stream.Options{Feed: quiet{}, Devices: directory, Log: log, Registerer: e.metrics})
	e.streams = web.NewStreams(web.StreamOptions{
		Registry: e.connections, Log: log, Registerer: e.metrics, Heartbeat: time.Hour, Buffer: 4 << 20, WriteTimeout: time.Minute,
		Standing: func(p access.Principal) (access.Principal, error) {
			if e.standing != nil {
				return e.standing(p)
			}
			return p, nil
		},
	})
	service.Observe(func(ctx context.Context, ch registry.Change) {
		switch ch.Kind {
		case registry.Created:
			e.connections.DeviceCreated(ctx, ch.After)
		case registry.Updated:
			e.connections.DeviceUpdated(ch.Before, ch.After)
		case registry.Deleted:
			e.connections.DeviceDeleted(ch.Before)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, 2)
	go func() { _ = e.connections.Run(ctx); ended <- struct{}{} }()
	go func() { _ = e.streams.Run(ctx, 0); ended <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-ended; <-ended })

	history := said{"visible1", "visible2", "hiddenk1", "secretk1", "deletdk1"}
	activity := logs.NewActivity("e", directory.ByKey)
	activity.Fill(t.Context(), logs.FillOptions{Devices: directory.All, History: history, Log: log})
	e.Server = web.New(web.Options{
		Log: log, Registry: service, Metrics: e.metrics, History: history, Streams: e.streams, Connections: e.connections, Activity: activity,
		Overview: overview.New(e.metrics, log),
	})
	e.IdentifyWith(func(_ http.ResponseWriter, r *http.Request, _ bool) (access.Principal, error) {
		p, ok := e.who[r.Header.Get("Who")]
		if !ok {
			return p, access.Deny(access.Missing, nil)
		}
		return p, nil
	})
	return e
}

func (e *estate) do(who, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	e.t.Helper()
	r := httptest.NewRequestWithContext(e.t.Context(), method, path, strings.NewReader(body))
	r.Header.Set("Who", who)
	r.Header.Set("X-Request-ID", "id-1") // a random one may look like anything
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(patient{w}, r)
	return w
}

// patient is a recorder with deadlines, which exports set.
type patient struct{ *httptest.ResponseRecorder }

// SetWriteDeadline is for http.ResponseController.
func (patient) SetWriteDeadline(time.Time) error { return nil }

// everything returns the whole fleet, to see whether it changed.
func (e *estate) everything() string {
	e.t.Helper()
	all := e.do("admin of all", "GET", "/api/devices", "").Body.String() + e.do("admin of all", "GET", "/api/device-models", "").Body.String()
	for _, id := range []int{hidden, sealed} {
		all += e.do("admin of all", "GET", fmt.Sprintf("/api/devices/%d", id), "").Body.String()
	}
	return all
}

// Whatever is asked on whatever route, nothing of a device beyond the limit is
// in any answer, and nothing of it changes. A new row of the table is tried as
// soon as it is there.
func TestLimitsOnEveryRoute(t *testing.T) {
	if underRace {
		t.Skip("it asks many thousand times, one after the other; make test runs it without the race detector")
	}
	e := newEstate(t)
	hiddenThings := []string{fmt.Sprint(hidden), fmt.Sprint(sealed), fmt.Sprint(deleted), fmt.Sprint(secrets)}
	before := e.everything()
	if !traces.MatchString(before) || !strings.Contains(before, "hush") {
		t.Fatalf("nothing to hide in %s", before)
	}
	bodies := []string{""}
	for _, id := range hiddenThings {
		bodies = append(bodies,
			`{"device_model_id": `+id+`, "config": "{}"}`, `{"config": "{}", "active": true}`, `{"name": "x"}`, `{"config": "{}"}`,
			`{"request_id": "r", "device_id": `+id+`}`, `{"request_id": "r", "device_ids": [1, 2, `+id+`]}`, `{"request_id": "r", "model_id": `+id+`}`, `{"request_id": "r", "all": true}`)
	}
	queries := []string{""}
	for _, id := range hiddenThings {
		queries = append(queries, "?device_ids=1,"+id, "?device_ids="+id, "?model_id="+id, "?device_id="+id, "?since=x")
	}
	for name, p := range e.who {
		if p.Limit.None() {
			continue
		}
		c, err := e.connections.Connect(stream.Request{
			ID: "r", Subject: p.Subject, Out: sse.NewOutbox(1<<20, func() {}), End: func(*sse.Frame) {},
			Check: func(time.Time) (stream.Standing, error) { return stream.Standing{May: p.May}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		asked, told := 0, 0
		for _, rt := range e.Rows() {
			method, pattern := rt[0], rt[1]
			if !strings.HasPrefix(pattern, "/api/") || pattern == "/api/sse/stream" || method == "POST" && strings.HasPrefix(pattern, "/api/auth/") {
				continue
			}
			for _, id := range hiddenThings {
				if strings.HasPrefix(pattern, "/api/device-models/") && id != fmt.Sprint(secrets) || strings.HasPrefix(pattern, "/api/devices/") && id == fmt.Sprint(secrets) {
					continue
				}
				path := strings.ReplaceAll(pattern, "{id}", id)
				for _, query := range queries {
					for _, body := range bodies {
						if body != "" && (method == "GET" || query != "") || body == "" && query == "" && method != "GET" && method != "DELETE" {
							continue
						}
						for _, accept := range []string{"application/json", "text/plain"} {
							if accept != "application/json" && !strings.HasSuffix(path, "logs") {
								continue
							}
							w := e.do(name, method, path+query, body, "Accept", accept)
							asked++
							answer := w.Body.String() + fmt.Sprint(w.Header())
							for _, id := range hiddenThings { // what the caller said is no news
								for _, thing := range []string{"Device ", "DeviceModel ", "Campaign "} {
									answer = strings.ReplaceAll(answer, thing+id+" was not found", "")
								}
							}
							if w.Code == 400 {
								var faults []any
								if json.Unmarshal(w.Body.Bytes(), &faults) == nil { // it repeats the body
									continue
								}
							}
							if found := traces.FindString(answer); found != "" {
								t.Fatalf("%s: %s %s %s: %d tells of %s: %s", name, method, path+query, body, w.Code, found, answer)
							}
							if w.Code == 200 {
								told++
							}
						}
					}
				}
				if !strings.Contains(pattern, "{id}") {
					break
				}
			}
		}
		e.connections.Disconnect(c)
		if asked < 100 || told < 20 {
			t.Errorf("%s: %d asked, %d of them answered", name, asked, told)
		}
		if diff := cmp.Diff(before, e.everything()); diff != "" {
			t.Fatalf("%s changed: %s", name, diff)
		}
	}
}

// What a limited principal gets instead.
func TestLimits(t *testing.T) {
	e := newEstate(t)
	names := func(w *httptest.ResponseRecorder, pattern string) string {
		t.Helper()
		var found []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(w.Body.String(), -1) {
			found = append(found, m[1])
		}
		return strings.Join(found, " ")
	}
	const key, id, code, message = `"key":"(\w+)"`, `"device_id":(\d+)`, `"code":"(\w+)"`, `"message":"line of (\w+)"`
	f := func(who, path, pattern, want string) {
		t.Helper()
		for _, role := range []string{access.RoleViewer, access.RoleEditor, access.RoleAdmin} {
			w := e.do(role+" "+who, "GET", path, "")
			if got := names(w, pattern); w.Code != 200 || got != want {
				t.Errorf("%s %s: %s: %d %q, want %q: %s", role, who, path, w.Code, got, want, w.Body)
			}
		}
	}
	for _, path := range []string{"/api/devices", "/api/devices?rotation_state=OK"} {
		f("of a model", path, key, "visible1")
		f("of a tag", path, key, "visible2")
		f("of both", path, key, "visible1 visible2")
		f("of nothing", path, key, "")
		f("of all", path, key, "hiddenk1 secretk1 visible1 visible2")
	}
	f("of a tag", "/api/devices?model_id=2", key, "visible2")
	f("of a model", "/api/devices?model_id=2", key, "")
	f("of all", "/api/devices?model_id=2", key, "hiddenk1 visible2")
	f("of a model", "/api/device-models", code, "relay")
	f("of a tag", "/api/device-models", code, "boiler")
	f("of both", "/api/device-models", code, "boiler relay")
	f("of nothing", "/api/device-models", code, "")
	f("of all", "/api/device-models", code, "boiler relay secret_model")
	f("of a tag", "/api/device-models/2", `"device_count":(\d+)`, "1")
	f("of all", "/api/device-models/2", `"device_count":(\d+)`, "2")
	f("of both", "/api/logs", message, "visible1 visible2")
	f("of a model", "/api/logs?device_ids=1", message, "visible1")
	f("of a tag", "/api/logs?model_id=2", message, "visible2")
	f("of nothing", "/api/logs", message, "")
	f("of nothing", "/api/logs?model_id=2", message, "")
	f("of all", "/api/logs", message, "visible1 visible2 hiddenk1 secretk1 deletdk1")
	f("of a tag", "/api/devices/2/logs", message, "visible2")
	f("of both", "/api/fleet", id, "1 2")
	f("of a tag", "/api/fleet", id, "2")
	f("of nothing", "/api/fleet", id, "")
	f("of all", "/api/fleet", id, "1 2 777001 777002")
	f("of a tag", "/api/presence", id, "2")
	f("of nothing", "/api/presence", id, "")
	f("of all", "/api/presence", id, "1 2 777001 777002")
	f("of both", "/api/fleet/series?device_ids=2,1", id, "2 1")
	f("of a tag", "/api/devices/2", `"warnings":(\[.*\])`, "[]")
	f("of both", "/api/devices/2", `shared with ([\w, ]+):`, "visible1")
	f("of all", "/api/devices/2", `shared with ([\w, ]+):`, "visible1, hiddenk1")
	f("of a tag", "/api/devices/2", `"tags":(\[.*?\])`, `["lab"]`)

	w := e.do("viewer of both", "GET", "/api/logs", "", "Accept", "text/plain")
	if got := names(w, `line of (\w+)`); got != "visible1 visible2" || w.Header().Get("X-Total-Lines") != "2" {
		t.Errorf("export: %q, total %s: %s", got, w.Header().Get("X-Total-Lines"), w.Body)
	}

	// A token of one limit does not hide what changed for another.
	var answer struct {
		Token    string
		Complete bool
	}
	token := func(who, since string) string {
		t.Helper()
		if err := json.Unmarshal(e.do(who, "GET", "/api/fleet?since="+since, "").Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		return answer.Token
	}
	for from, to := range map[string]string{"of a tag": "of both", "of all": "of a tag", "of both": "of all"} {
		at := token("viewer "+from, "")
		if token("viewer "+from, at); answer.Complete {
			t.Errorf("%s: its own token is not known", from)
		}
		if token("viewer "+to, at); !answer.Complete {
			t.Errorf("the token of one %s served one %s", from, to)
		}
	}

	g := func(who, method, path, body string, status int, text string) {
		t.Helper()
		w := e.do(who, method, path, body)
		var p struct{ Error string }
		if text != "" {
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
				t.Errorf("%s %s %s: %s", who, method, path, w.Body)
			}
		}
		if w.Code != status || p.Error != text {
			t.Errorf("%s %s %s: %d %q, want %d %q", who, method, path, w.Code, p.Error, status, text)
		}
	}
	const (
		noDevice = "Device 777001 was not found"
		part     = "Insufficient permissions - your access is limited to a part of the devices"
		beyond   = "Insufficient permissions - the model has to do with devices beyond your access"
	)
	tag, model, nothing := "editor of a tag", "editor of a model", "editor of nothing"
	for _, path := range []string{"/api/devices/777001", "/api/devices/777001/logs", "/api/logs?device_ids=777001,2", "/api/fleet/series?device_ids=777001", "/api/devices/777001/presence", "/api/device-logs/subscriptions?device_id=777001"} {
		g(tag, "GET", path, "", 404, noDevice)
		g("admin of a model", "GET", path, "", 404, noDevice)
		g("editor of all", "GET", path, "", 200, "")
	}
	g(tag, "GET", "/api/devices/777003/logs", "", 404, "Device 777003 was not found")
	g(tag, "PUT", "/api/devices/777001", `{"config": "{}", "active": true}`, 404, noDevice)
	g(tag, "DELETE", "/api/devices/777001", "", 404, noDevice)
	g(tag, "GET", "/api/device-models/3", "", 404, "DeviceModel 3 was not found")
	g(tag, "PUT", "/api/device-models/3", `{"name": "x"}`, 404, "DeviceModel 3 was not found")
	g(tag, "DELETE", "/api/device-models/3", "", 404, "DeviceModel 3 was not found")
	g(tag, "POST", "/api/device-models/3/validate", `{"config": "{}"}`, 404, "DeviceModel 3 was not found")
	g(tag, "POST", "/api/devices", `{"device_model_id": 3, "config": "{}"}`, 404, "DeviceModel 3 was not found")
	g(tag, "PUT", "/api/device-models/2", `{"name": "x"}`, 403, beyond)
	g(tag, "DELETE", "/api/device-models/2", "", 403, beyond)
	g(tag, "POST", "/api/device-models/2/validate", `{"config": "{}"}`, 200, "")
	g(model, "PUT", "/api/device-models/1", `{"name": "Relay"}`, 200, "")
	g(model, "POST", "/api/device-models", `{"code": "new", "name": "New"}`, 403, part)
	for _, who := range []string{"admin of both", "admin of nothing"} {
		g(who, "GET", "/api/overview", "", 403, part)
		g(who, "GET", "/api/dead-letters", "", 403, part)
		g(who, "DELETE", "/api/dead-letters?sink=elasticsearch", "", 403, part)
		g(who, "POST", "/api/dead-letters/retry?sink=elasticsearch", "", 403, part)
	}
	g("admin of all", "GET", "/api/overview", "", 200, "")
	g("admin of all", "GET", "/api/dead-letters", "", 200, "")

	// Nobody changes a device out of their own sight, nor makes one there.
	const out = "The device would be beyond your access, which is limited to "
	g(tag, "PUT", "/api/devices/2", `{"config": "{\"tags\": [\"yard\"]}", "active": true}`, 400, out+"the tags lab")
	g("editor of both", "PUT", "/api/devices/2", `{"config": "{}", "active": true}`, 400, out+"the models relay and the tags lab")
	g(tag, "PUT", "/api/devices/2", `{"config": "{\"tags\": [\"yard\", \"lab\"]}", "active": true}`, 200, "")
	g(tag, "POST", "/api/devices", `{"device_model_id": 2, "config": "{}"}`, 400, out+"the tags lab")
	g(tag, "POST", "/api/devices", `{"device_model_id": 2, "config": "{\"tags\": [\"lab\"]}"}`, 201, "")
	g(model, "POST", "/api/devices", `{"device_model_id": 1, "config": "{}"}`, 201, "")
	g(nothing, "POST", "/api/devices", `{"device_model_id": 1, "config": "{}"}`, 404, "DeviceModel 1 was not found")
	g(model, "PUT", "/api/devices/1", `{"config": "{\"tags\": [\"any\"]}", "active": false}`, 200, "")
	g(tag, "DELETE", "/api/devices/2", "", 204, "")
	if n := e.registry.Directory().Len(); n != 5 {
		t.Errorf("%d devices are left", n)
	}
}

// Without a principal nothing is in the scope: a route that forgets to ask who
// is there shows nothing.
func TestScopeOfNobody(t *testing.T) {
	e := newEstate(t)
	r := httptest.NewRequest("GET", "/", nil)
	if devices, whole := e.Visible(r); whole || len(devices) > 0 {
		t.Errorf("everything: %v, %v", whole, devices)
	}
	if devices, whole := e.Visible(r.WithContext(access.NewContext(r.Context(), access.Local()))); !whole || len(devices) != 4 {
		t.Errorf("everything: %v, %v", whole, devices)
	}
}
