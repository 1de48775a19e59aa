package web_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/registry"
	"signalbox/internal/sqlstore"
	"signalbox/internal/stream"
	"signalbox/internal/web"
)

// oneLine is a history in which each device said something once.
type oneLine struct {
	logs.Line
	say func(device string) string // "" is nothing
}

func (h oneLine) Count(context.Context, logs.Query) (int64, error) { return -1, nil }

func (h oneLine) Read(_ context.Context, q logs.Query) (r logs.Result, err error) {
	for _, device := range q.Devices {
		l := h.Line
		l.Device, l.Message = device, []byte(h.say(device))
		if len(l.Message) > 0 && !l.Received.Before(q.Start) {
			r.Lines = append(r.Lines, l)
		}
	}
	return r, nil
}

// withActivity gives a server what the devices said, once it has them.
func withActivity(o *web.Options, h logs.History) (fill func(context.Context)) {
	directory := o.Registry.Directory()
	o.Activity = logs.NewActivity("now", directory.ByKey)
	o.Connections = stream.NewRegistry(stream.Options{Devices: directory, Log: o.Log, Registerer: prometheus.NewRegistry()})
	return func(ctx context.Context) {
		o.Activity.Fill(ctx, logs.FillOptions{Devices: directory.All, History: h, Log: slog.New(slog.DiscardHandler)})
	}
}

func TestFleet(t *testing.T) {
	received := time.Now().UTC()
	h := oneLine{
		logs.Line{Cursor: logs.LineCursor{Cursor: logs.Cursor{Epoch: "old", Seq: 7}, Line: 2}, Received: received, Level: logs.Error},
		func(device string) string { return map[string]string{"key00001": `<b>"x"`}[device] },
	}
	var fill func(context.Context)
	var activity *logs.Activity
	s := newSite(t, func(o *web.Options) { fill = withActivity(o, h); activity = o.Activity })
	if _, err := s.registry.CreateModel(t.Context(), registry.NewModel{Code: "relay", Name: "Relay"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := s.registry.CreateDevice(t.Context(), 1, "{}"); err != nil {
			t.Fatal(err)
		}
	}
	fill(t.Context())
	// What answers vary in is taken from them.
	f := func(query, complete, devices string) (token string) {
		t.Helper()
		res := s.do("GET", "/api/fleet"+query, "")
		got, ok := decode(t, res.Body.String()).(map[string]any)
		if !ok {
			t.Fatalf("answer %s", res.Body)
		}
		token, _ = got["token"].(string)
		now, _ := got["now"].(string)
		if at, err := time.Parse(logs.TimeLayout, now); err != nil || time.Since(at) > time.Minute || token == "" {
			t.Errorf("now %q, token %q", now, token)
		}
		s.same(query, res, 200, fmt.Sprintf(`{"now": %q, "token": %q, "complete": %s, "filled": true, "devices": [%s]}`, now, token, complete, devices))
		return token
	}
	one := `{"device_id": 1, "last": {"timestamp": "` + received.Format(logs.TimeLayout) + `", "message": "<b>\"x\"", "level": "error", "cursor": "old-7.2"},
		"lines_hour": 1, "errors_hour": 1, "watchers": 0}`
	two := `{"device_id": 2, "last": null, "lines_hour": 0, "errors_hour": 0, "watchers": 0}`
	token := f("", "true", one+","+two)
	f("?since="+token, "false", "")
	f("?since=another", "true", one+","+two)
	activity.Touch("key00001")
	f("?since="+token, "false", one)

	res := s.do("GET", "/api/fleet/series?device_ids=2,1", "")
	zeros := strings.Repeat("0,", 59) + "0"
	var end string
	if got, ok := decode(t, res.Body.String()).(map[string]any); ok {
		end, _ = got["end"].(string)
	}
	if at, err := time.Parse(logs.TimeLayout, end); err != nil || at.Second() != 0 || time.Until(at) > time.Minute {
		t.Errorf("end %q", end)
	}
	if !strings.Contains(res.Body.String(), `{"device_id":2,"lines":[`+zeros+`],"errors":[`+zeros+`]}`) || strings.Count(res.Body.String(), "1") < 3 {
		t.Errorf("series %s", res.Body)
	}
	s.want("GET", "/api/fleet/series", "", 400, problemJSON(fleet.Invalid, "device_ids is missing"))
	s.want("GET", "/api/fleet/series?device_ids=1,x", "", 400, problemJSON(fleet.Invalid, "device_ids must be numbers, separated by commas"))
	s.want("GET", "/api/fleet/series?device_ids=3", "", 404, problemJSON(fleet.NotFound, "Device 3 was not found"))
}

// At most so many devices at once.
func TestSeriesBound(t *testing.T) {
	server := manyDevices(t, 201)
	f := func(n, status int) {
		t.Helper()
		ids := "1"
		for i := 2; i <= n; i++ {
			ids += fmt.Sprintf(",%d", i)
		}
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest("GET", "/api/fleet/series?device_ids="+ids, nil))
		if w.Code != status {
			t.Errorf("%d devices: status %d", n, w.Code)
		}
	}
	f(200, 200)
	f(201, 400)
}

// many is a store of devices that were never stored.
type many struct {
	*sqlstore.DB
	n int
}

func (m many) Devices(context.Context, registry.DeviceFilter) ([]fleet.Device, error) {
	all := make([]fleet.Device, m.n)
	for i := range all {
		entity := fmt.Sprintf("entity-%d", i)
		all[i] = fleet.Device{ID: int64(i + 1), Key: fmt.Sprintf("key%05d", i+1), Model: fleet.Model{ID: 1, Code: "relay"}, EntityID: &entity}
	}
	return all, nil
}

// manyDevices returns a server with that many devices, which all said something.
func manyDevices(tb testing.TB, n int) http.Handler {
	tb.Helper()
	db, err := sqlstore.Open(tb.Context(), filepath.Join(tb.TempDir(), "test.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	service, err := registry.New(tb.Context(), many{db, n}, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	o := web.Options{Log: slog.New(slog.DiscardHandler), Registry: service}
	withActivity(&o, oneLine{
		logs.Line{Cursor: logs.LineCursor{Cursor: logs.Cursor{Epoch: "old", Seq: 7}}, Received: time.Now(), Level: logs.Info},
		func(device string) string {
			return fmt.Sprintf("I (123456) sensor_hub: %s temperature 21.53 C humidity 45.2 %% pressure 1013.25 hPa", device)
		},
	})(tb.Context())
	return web.New(o).Handler()
}

// BenchmarkFleet is one answer about 10 000 devices: all of them, in gzip as well,
// and none that changed.
func BenchmarkFleet(b *testing.B) {
	server := manyDevices(b, 10_000)
	ask := func(query, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/api/fleet"+query, nil)
		r.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		server.ServeHTTP(w, r)
		return w
	}
	_, rest, _ := strings.Cut(ask("", "").Body.String(), `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	for _, c := range []struct{ name, query, encoding string }{
		{"all", "", ""}, {"gzip", "", "gzip"}, {"unchanged", "?since=" + token, ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			size := 0
			for b.Loop() {
				size = ask(c.query, c.encoding).Body.Len()
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}
