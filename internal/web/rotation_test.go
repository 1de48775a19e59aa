package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
	"signalbox/internal/sqlstore"
	"signalbox/internal/stream"
	"signalbox/internal/web"
)

// depot is a site whose devices are rotated, but for the attempts themselves.
type depot struct {
	*site
	db      *sqlstore.DB
	nudges  *stream.Nudger
	devices []int64
}

func newDepot(t *testing.T, change func(*web.Options)) *depot {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d := &depot{db: db}
	n := 0
	service, err := registry.New(t.Context(), db, slog.New(slog.DiscardHandler), registry.WithKeys(func() string { n++; return fmt.Sprintf("key%05d", n) }))
	if err != nil {
		t.Fatal(err)
	}
	model, err := service.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"})
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{`{"deviceName":"Ä \"1\"","tags":["north"]}`, `{"tags":["north"]}`, `{}`, `{}`, `{}`} {
		one, err := service.CreateDevice(t.Context(), model.ID, config)
		if err != nil {
			t.Fatal(err)
		}
		d.devices = append(d.devices, one.ID)
	}
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := rotation.ParseSchedule("0 8 1 1 *", zone)
	if err != nil {
		t.Fatal(err)
	}
	d.site = newSite(t, func(o *web.Options) {
		runner := rotation.NewRunner(rotation.Options{Store: db, Issuer: none{}})
		o.Registry, o.Rotation, o.CriticalDays = service, runner, 7
		o.Connections = stream.NewRegistry(stream.Options{Devices: service.Directory(), Log: o.Log, Registerer: o.Metrics})
		o.Nudger = stream.NewNudger(o.Connections, o.Metrics)
		o.Fleet = rotation.NewFleet(rotation.FleetOptions{Store: db, Runner: runner, Schedule: schedule, Announce: func() { _ = o.Nudger.Nudge("web") }, Registerer: o.Metrics})
		d.nudges = o.Nudger
		if change != nil {
			change(o)
		}
	})
	d.registry = service
	return d
}

func (d *depot) put(id int64, change func(*rotation.Record)) {
	d.t.Helper()
	rec, err := d.db.Rotation(d.t.Context(), id)
	if err != nil {
		d.t.Fatal(err)
	}
	change(&rec)
	c := rotation.Change{Record: rec}
	if n := rec.State.Attempt; n > 0 {
		c.Attempt = &rotation.Attempt{Number: n, Actor: "anna", StartedAt: rec.State.StartedAt}
		c.Entries = []rotation.Entry{{At: rec.State.StartedAt, What: "started"}, {At: rec.State.StartedAt, What: "failed", Detail: "tell"}}
	}
	if _, err := d.db.CommitRotation(d.t.Context(), c); err != nil {
		d.t.Fatal(err)
	}
}

func (d *depot) answer(method, path string, into any) {
	d.t.Helper()
	res := d.do(method, path, "")
	if res.Code != 200 {
		d.t.Fatalf("%s: %d %s", path, res.Code, res.Body)
	}
	if err := json.Unmarshal(res.Body.Bytes(), into); err != nil {
		d.t.Fatalf("%v in %s", err, res.Body)
	}
}

func TestRotationStatus(t *testing.T) {
	d := newDepot(t, nil)
	at := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	d.put(d.devices[0], func(r *rotation.Record) {
		r.SecretAt, r.State.Wire, r.State.CompletedAt = at, fleet.RotationPending, at.Add(time.Hour)
	})
	d.put(d.devices[1], func(r *rotation.Record) { r.State.Wire, r.Stuck = fleet.RotationPending, true })
	d.put(d.devices[2], func(r *rotation.Record) { r.State.Wire = fleet.RotationTimeout })
	if _, err := d.registry.UpdateDevice(t.Context(), d.devices[3], "{}", false); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	d.answer("GET", "/api/rotation/status", &got)
	next, err := time.Parse(time.RFC3339, fmt.Sprint(got["next_scheduled_rotation"]))
	if err != nil || next.Before(time.Now()) || next.UTC().Format("01-02T15:04:05") != "01-01T07:00:00" {
		t.Errorf("next is %v, %v", got["next_scheduled_rotation"], err)
	}
	delete(got, "next_scheduled_rotation")
	if diff := cmp.Diff(map[string]any{
		"counts_by_state": map[string]any{"OK": 2.0, "QUEUED": 0.0, "PENDING": 2.0, "TIMEOUT": 1.0}, "inactive": 1.0, "pending_device_id": float64(d.devices[0]),
		"last_rotation_completed_at": "2020-01-02T04:04:05.000006Z", "in_flight": 1.0, "stuck": 1.0, "oldest_secret_at": "2020-01-02T03:04:05.000006Z",
		"schedule": map[string]any{"cron": "0 8 1 1 *", "timezone": "Europe/Berlin", "last_scheduled_at": nil},
	}, got); diff != "" {
		t.Error(diff)
	}
}

// D49: a device that was never rotated, and whose rotation timed out, becomes
// critical by the age of its secret.
func TestD49Dashboard(t *testing.T) {
	d := newDepot(t, nil)
	ago := func(days int) time.Time {
		return time.Now().UTC().Add(-time.Duration(days)*24*time.Hour - time.Minute).Truncate(time.Microsecond)
	}
	timedOut := func(i int, secret, completed time.Time) {
		d.put(d.devices[i], func(r *rotation.Record) {
			r.State.Wire, r.State.Failures, r.SecretAt, r.State.CompletedAt = fleet.RotationTimeout, 2, secret, completed
		})
	}
	timedOut(0, ago(8), time.Time{}) // never rotated
	timedOut(1, ago(6), time.Time{})
	timedOut(2, ago(1), ago(9))
	d.put(d.devices[3], func(r *rotation.Record) {
		r.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Offered, StartedAt: ago(1), Deadline: ago(0), CompletedAt: ago(30)}
		r.Stuck, r.Trouble, r.Campaign, r.New = true, "no \x01 broker", 7, "sealed"
	})
	if _, err := d.registry.UpdateDevice(t.Context(), d.devices[4], "{}", false); err != nil {
		t.Fatal(err)
	}
	type device = map[string]any
	var got struct {
		Healthy, Warning, Critical, Inactive []device
		Counts                               map[string]int
	}
	d.answer("GET", "/api/rotation/dashboard", &got)
	keys := func(list []device) (keys []any) {
		for _, x := range list {
			keys = append(keys, x["key"])
		}
		return keys
	}
	if diff := cmp.Diff([][]any{{"key00004"}, {"key00002"}, {"key00001", "key00003"}, {"key00005"}},
		[][]any{keys(got.Healthy), keys(got.Warning), keys(got.Critical), keys(got.Inactive)}); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(map[string]int{"healthy": 1, "warning": 1, "critical": 2, "inactive": 1}, got.Counts); diff != "" {
		t.Error(diff)
	}
	text := func(at time.Time) string { return at.Format("2006-01-02T15:04:05.000000Z") }
	full := got.Healthy[0]
	for name, want := range map[string]any{
		"id": float64(d.devices[3]), "device_name": nil, "device_model_code": "relay", "active": true, "rotation_state": "PENDING", "days_since_rotation": 30.0,
		"stuck": true, "failures": 0.0, "step": "offered", "secret_created_at": full["secret_created_at"], "last_rotation_completed_at": full["last_rotation_completed_at"],
		"last_rotation_attempt_at": full["last_rotation_attempt_at"], "deadline": full["deadline"], "retry_at": nil, "trouble": "no \x01 broker", "campaign_id": 7.0, "key": "key00004",
	} {
		if have, ok := full[name]; !ok || have != want {
			t.Errorf("%s is %v, want %v", name, have, want)
		}
	}
	if len(full) != 17 {
		t.Errorf("%d members: %v", len(full), full)
	}
	if got := fmt.Sprint(full["last_rotation_completed_at"]); got[:10] != text(ago(30))[:10] || len(got) != 27 {
		t.Error(got)
	}
	if never := got.Critical[0]; never["days_since_rotation"] != nil || never["device_name"] != "Ä \"1\"" || never["failures"] != 2.0 {
		t.Errorf("%v", never)
	}
}

func TestRotationTrigger(t *testing.T) {
	d := newDepot(t, nil)
	limited := true
	d.server.IdentifyWith(func(http.ResponseWriter, *http.Request, bool) (access.Principal, error) {
		p := access.Principal{Kind: access.Person, Subject: "ann", Name: "Ann", Roles: []string{"editor"}}
		if limited {
			p.Limit = access.Limit{Tags: []string{"north"}}
		}
		return p, nil
	})
	d.want("POST", "/api/rotation/trigger", "", 200, `{"queued_count":2,"devices_queued":2}`)
	var status struct {
		Counts map[string]int `json:"counts_by_state"`
	}
	d.answer("GET", "/api/rotation/status", &status)
	if diff := cmp.Diff(map[string]int{"OK": 0, "QUEUED": 2, "PENDING": 0, "TIMEOUT": 0}, status.Counts); diff != "" {
		t.Error(diff)
	}
	var board struct{ Healthy []map[string]any }
	if d.answer("GET", "/api/rotation/dashboard", &board); len(board.Healthy) != 2 {
		t.Errorf("%d devices are shown", len(board.Healthy))
	}
	other := fmt.Sprintf("/api/devices/%d/rotation", d.devices[3])
	for method, path := range map[string]string{"GET": other, "POST": other + "/abort"} {
		if res := d.do(method, path, ""); res.Code != 404 {
			t.Errorf("%s: %d %s", path, res.Code, res.Body)
		}
	}
	limited = false
	d.want("POST", "/api/rotation/trigger", "", 200, `{"queued_count":3,"devices_queued":3}`)
	d.want("POST", "/api/rotation/trigger", "", 200, `{"queued_count":0,"devices_queued":0}`)
	if got := d.metric("sse_rotation_nudge_broadcast_total", "web"); got != 3 { // for nothing as well
		t.Errorf("%v nudges", got)
	}
	rec, err := d.db.Rotation(t.Context(), d.devices[4])
	if err != nil || rec.Actor != "Ann" || rec.State.Wire != fleet.RotationQueued {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestDeviceRotation(t *testing.T) {
	d := newDepot(t, nil)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for n := range int64(3) {
		d.put(d.devices[0], func(r *rotation.Record) {
			r.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Offered, Attempt: n + 1, StartedAt: at, Failures: 1, FetchedAt: at.Add(time.Second)}
			r.SecretAt, r.Trouble, r.Stuck, r.Old, r.New = at, "no broker", true, "sealed-old", "sealed-new"
		})
	}
	path := fmt.Sprintf("/api/devices/%d/rotation", d.devices[0])
	attempt := func(n int) string {
		return fmt.Sprintf(`{"number":%d,"actor":"anna","reason":null,"campaign_id":null,"started_at":"2026-01-02T03:04:05.000000Z","ended_at":null,"outcome":"",
			"steps":[{"at":"2026-01-02T03:04:05.000000Z","what":"started","detail":null},{"at":"2026-01-02T03:04:05.000000Z","what":"failed","detail":"tell"}]}`, n)
	}
	d.want("GET", path+"?limit=2", "", 200, `{"rotation_state":"PENDING","step":"offered","stuck":true,"trouble":"no broker","failures":1,"attempt":3,
		"started_at":"2026-01-02T03:04:05.000000Z","deadline":null,"fetched_at":"2026-01-02T03:04:06.000000Z","retry_at":null,"completed_at":null,
		"secret_created_at":"2026-01-02T03:04:05.000000Z","believed":false,"campaign_id":null,"attempts":[`+attempt(3)+","+attempt(2)+`]}`)
	if body := d.do("GET", path, "").Body.String(); strings.Contains(body, "sealed") {
		t.Error(body)
	}
	for _, limit := range []string{"0", "101", "x", "-1"} {
		if res := d.do("GET", path+"?limit="+limit, ""); res.Code != 400 {
			t.Errorf("limit %s: %d", limit, res.Code)
		}
	}
	d.want("POST", path+"/retry", "", 200, `{"status":"nothing_to_retry"}`)
	d.want("POST", path+"/abort", "", 200, `{"status":"aborted"}`)
	d.want("POST", path+"/abort", "", 200, `{"status":"not_rotating"}`)
	d.put(d.devices[1], func(r *rotation.Record) { r.TodoAt = at })
	d.want("POST", fmt.Sprintf("/api/devices/%d/rotation/retry", d.devices[1]), "", 200, `{"status":"retried"}`)
	if res := d.do("GET", "/api/devices/999/rotation", ""); res.Code != 404 {
		t.Errorf("%d", res.Code)
	}
}

// inside sends a request to the internal listener.
func (d *depot) inside(method, path, body, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(d.t.Context(), method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	w := httptest.NewRecorder()
	d.server.Internal().ServeHTTP(w, r)
	return w
}

func (d *depot) metric(name, label string) float64 {
	d.t.Helper()
	families, err := d.metrics.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// D4: what is internal asks for its token where there is one.
func TestInternalToken(t *testing.T) {
	const token = "let me in"
	d := newDepot(t, func(o *web.Options) { o.InternalToken = token })
	f := func(method, path, authorization string, status int) {
		t.Helper()
		res := d.inside(method, path, "", authorization)
		if res.Code != status || path != "/metrics" && !json.Valid(res.Body.Bytes()) {
			t.Errorf("%s %q: %d %s, want %d", path, authorization, res.Code, res.Body, status)
		}
	}
	for _, path := range []string{"/internal/rotation-nudge", "/internal/rotation-job"} {
		f("POST", path, "Bearer "+token, 200)
		f("POST", path, "bearer  "+token, 200)
		for _, wrong := range []string{"", token, "Basic " + token, "Bearer", "Bearer let me i", "Bearer let me inn", "Bearer Let me in"} {
			f("POST", path, wrong, 401)
		}
	}
	f("GET", "/metrics", "", 200)
	f("GET", "/health/healthz", "", 200)
	open := newDepot(t, nil)
	if res := open.inside("POST", "/internal/rotation-nudge", "", ""); res.Code != 200 {
		t.Errorf("without a token: %d", res.Code)
	}
}

// D50: how the runs of the job ended is counted where it can be scraped.
func TestD50JobRuns(t *testing.T) {
	d := newDepot(t, nil)
	f := func(body string, status int, success, failed, nudges float64) {
		t.Helper()
		res := d.inside("POST", "/internal/rotation-nudge", body, "")
		got := []float64{d.metric("iot_rotation_job_runs_total", "success"), d.metric("iot_rotation_job_runs_total", "error"), d.metric("sse_rotation_nudge_broadcast_total", "cronjob")}
		if diff := cmp.Diff([]float64{success, failed, nudges}, got); diff != "" || res.Code != status {
			t.Errorf("%s: %d %s: %s", body, res.Code, res.Body, diff)
		}
	}
	f("", 200, 0, 0, 1)
	f("{}", 200, 0, 0, 2)
	f(`{"result":"success","timeouts":3,"rotated":1,"scheduled":false}`, 200, 1, 0, 3)
	f(`{"result":"error"}`, 200, 1, 1, 4)
	f(`{"result":"perhaps"}`, 400, 1, 1, 4)
	f(`{"result":3}`, 400, 1, 1, 4)
	f("no json", 200, 1, 1, 5)
	if res := d.inside("POST", "/internal/rotation-job", "", ""); res.Code != 200 || strings.TrimSpace(res.Body.String()) != `{"scheduled":false,"queued":0}` {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	if got := d.metric("iot_rotation_job_runs_total", "success"); got != 2 {
		t.Errorf("%v", got)
	}
}

func TestAppendTimestamp(t *testing.T) {
	for _, at := range []time.Time{epoch, {}, time.Unix(0, 0), time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.FixedZone("", 3600))} {
		if got, want := string(web.AppendTimestamp(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000000Z"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// largeFleet is a server over a database with so many devices, which were all
// rotated before and are in all states of an attempt.
func largeFleet(b *testing.B, n int) (*web.Server, *rotation.Fleet) {
	b.Helper()
	ctx := b.Context()
	db, err := sqlstore.Open(ctx, filepath.Join(b.TempDir(), "test.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	at := time.Now().Add(-100 * time.Hour).UTC()
	ids := make([]int64, n)
	err = db.Tx(ctx, func(q registry.Queries) error {
		model, err := q.InsertModel(ctx, fleet.Model{Code: "relay", Name: "Relay", CreatedAt: at, UpdatedAt: at})
		for i := range ids {
			if err != nil {
				return err
			}
			ids[i], err = q.InsertDevice(ctx, fleet.Device{Key: fmt.Sprintf("dev%05d", i), Model: fleet.Model{ID: model}, Active: i%10 > 0, Config: "{}", Name: new(fmt.Sprintf("Device %d", i)),
				Rotation: fleet.RotationOK, SecretCreatedAt: &at, LastRotationAttemptAt: &at, LastRotationCompletedAt: &at, CreatedAt: at, UpdatedAt: at})
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	service, err := registry.New(ctx, db, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	runner := rotation.NewRunner(rotation.Options{Store: db, Issuer: none{}})
	f := rotation.NewFleet(rotation.FleetOptions{Store: db, Runner: runner})
	start := time.Now()
	queued, err := f.Trigger(ctx, nil, rotation.Ask{})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d devices queued in %s", queued, time.Since(start))
	// The worst case: every record has a whole state.
	for i, id := range ids {
		rec, err := db.Rotation(ctx, id)
		if err != nil {
			b.Fatal(err)
		}
		if rec.State.Wire == fleet.RotationQueued {
			rec.State = rotation.State{Wire: fleet.RotationPending, Step: rotation.Offered, Attempt: int64(i), StartedAt: at, Deadline: at.Add(time.Hour), FetchedAt: at, FetchedBy: at, CompletedAt: at}
			if i%2 == 0 {
				rec.State.Wire, rec.State.Deadline, rec.State.RetryAt, rec.State.Failures = fleet.RotationTimeout, time.Time{}, at.Add(time.Hour), 2
			}
			rec.New = "sealed"
			if _, err := db.CommitRotation(ctx, rotation.Change{Record: rec}); err != nil {
				b.Fatal(err)
			}
		}
	}
	return web.New(web.Options{Log: slog.New(slog.DiscardHandler), Registry: service, Fleet: f, CriticalDays: 7}), f
}

// none is an issuer that is never asked.
type none struct{ rotation.Issuer }

func (none) Dual() bool { return true }

// sink is a client that wants to see nothing.
type sink struct {
	header http.Header
	status int
	bytes  int64
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }
func (s *sink) Write(b []byte) (int, error) {
	s.bytes += int64(len(b))
	return len(b), nil
}

func BenchmarkRotation(b *testing.B) {
	server, f := largeFleet(b, 10_000)
	for _, path := range []string{"status", "dashboard"} {
		for _, encoding := range []string{"", "gzip"} {
			b.Run(path+"/"+encoding, func(b *testing.B) {
				var before, after syscall.Rusage
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before) // it cannot fail
				for b.Loop() {
					r := httptest.NewRequest("GET", "/api/rotation/"+path, nil)
					r.Header.Set("Accept-Encoding", encoding)
					w := &sink{header: http.Header{}}
					server.Handler().ServeHTTP(w, r)
					if w.status != 200 {
						b.Fatal(w.status)
					}
					b.SetBytes(w.bytes)
				}
				_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
				// On a machine with much else to do, this is what tells.
				spent := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano())
				b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/1000, "cpu-ms/op")
			})
		}
	}
	b.Run("standings", func(b *testing.B) {
		for b.Loop() {
			if _, err := f.Standings(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
