package tail

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signalbox/internal/fleet"
)

// fleetAt returns the fleet of a server that answers so, and what it printed.
func fleetAt(t *testing.T, answers map[string]string) (f *Fleet, out, errs *bytes.Buffer, asked func() string) {
	t.Helper()
	var last string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		answer, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		last = r.URL.RawQuery + " " + string(body)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	f, err := OpenFleet(server.URL, "", out, errs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, out, errs, func() string { return last }
}

const oneDevice = `{"devices":[{"id":7,"key":"aaaaaaaa","device_name":"Hall\u001b[2J","device_entity_id":"hall","device_model_id":1,"active":true,"rotation_state":"OK","tags":["x"]}]}`

func TestFleetImport(t *testing.T) {
	const lines = `{"total":3,"dry_run":true}
{"line":2,"status":"ok","errors":[],"warnings":[]}
{"line":3,"status":"error","errors":["model: is\u001b[2J missing"],"warnings":[]}
{"line":4,"status":"exists","errors":[],"warnings":["twice"]}
`
	f := func(answer string, counts ImportCounts, kind fleet.Kind, failed bool) {
		t.Helper()
		client, _, errs, asked := fleetAt(t, map[string]string{"POST /api/devices/import": answer})
		steps := 0
		got, err := client.Import(t.Context(), []byte("model\n"), true, func(done, total int) {
			if steps++; done != steps || total != 3 {
				t.Errorf("%d of %d", done, total)
			}
		})
		if got != counts || (err != nil) != failed || failed && fleet.KindOf(err) != kind {
			t.Errorf("%+v, %v", got, err)
		}
		if asked() != "dry_run=true model\n" || errs.String() != "line 3: model: is\\x1b[2J missing\nline 4: warning: twice\n" || steps != 3 {
			t.Errorf("%q, %q", asked(), errs)
		}
	}
	whole := ImportCounts{Lines: 3, OK: 1, Exists: 1, Errors: 1, Warnings: 1}
	f(lines+`{"counts":{"lines":3,"ok":1,"exists":1,"errors":1,"warnings":1},"stopped":null}`, whole, 0, false)
	f(lines+`{"counts":{"lines":3,"ok":1,"exists":1,"errors":1,"warnings":1},"stopped":"shutting down"}`, whole, fleet.Unavailable, true)
	f(lines, ImportCounts{Lines: 3, OK: 1, Exists: 1, Errors: 1}, fleet.Unavailable, true) // it broke off
}

func TestFleet(t *testing.T) {
	answers := map[string]string{
		"GET /api/devices": oneDevice, "GET /api/device-models": `{"device_models":[{"id":1,"code":"relay"}]}`,
		"GET /api/devices/7/credentials":         `{"device_key":"aaaaaaaa","client_id":"c","client_secret":"s","token_url":null}`,
		"GET /api/devices/7/provisioning":        `{"size":2,"data":"AAE="}`,
		"POST /api/devices/7/provisioning-links": `{"url":"http://x/p/y","expires_at":"soon"}`,
		"POST /api/devices/7/revoke":             `{"sessions_closed":2,"client_error":null}`,
		"POST /api/devices/7/restore":            `{"client_error":"away"}`,
		"POST /api/devices":                      `{"key":"bbbbbbbb","warnings":["shared"]}`,
		"DELETE /api/devices/7":                  ``,
	}
	f := func(does func(*Fleet) error, want, asks string) {
		t.Helper()
		client, out, _, asked := fleetAt(t, answers)
		if err := does(client); err != nil || !strings.Contains(out.String(), want) || !strings.Contains(asked(), asks) {
			t.Errorf("%v, %q, asked %q", err, out, asked())
		}
	}
	ctx := t.Context()
	f(func(c *Fleet) error { return c.List(ctx, "relay", false) }, `aaaaaaaa  relay  Hall\x1b[2J  hall       OK        active  x`, "model_id=1")
	f(func(c *Fleet) error { return c.List(ctx, "", true) }, `"device_name":"Hall\u001b[2J"`, "")
	f(func(c *Fleet) error { return c.Package(ctx, "hall", "json", 0) }, `{"device_key":"aaaaaaaa","client_id":"c","client_secret":"s","token_url":null,`, "")
	f(func(c *Fleet) error { return c.Package(ctx, "aaaaaaaa", "nvs", 12288) }, "\x00\x01", "partition_size=12288")
	f(func(c *Fleet) error { return c.Package(ctx, "hall", "qr-terminal", 0) }, "▀▀▀▀▀", "")
	f(func(c *Fleet) error { return c.Link(ctx, "hall", "nvs", 12288, time.Hour) }, "http://x/p/y\n", `{"expires_in_seconds":3600,"format":"nvs","partition_size":12288}`)
	f(func(c *Fleet) error { return c.Create(ctx, "relay", "{}") }, "bbbbbbbb\n", `{"config":"{}","device_model_id":1}`)
	f(func(c *Fleet) error { return c.Revoke(ctx, "hall") }, "aaaaaaaa is revoked; 2 MQTT sessions were closed\n", "")
	f(func(c *Fleet) error { return c.Restore(ctx, "hall", false) }, "asked again: away\n", "")
	f(func(c *Fleet) error { return c.Restore(ctx, "hall", true) }, "asked again: away\n", `{"new_secret":true}`)
	f(func(c *Fleet) error { return c.Delete(ctx, "hall", func(string) bool { return true }) }, "aaaaaaaa is deleted\n", "")

	client, _, _, _ := fleetAt(t, map[string]string{"GET /api/devices": oneDevice})
	if err := client.Delete(ctx, "hall", func(d string) bool { return !strings.Contains(d, "aaaaaaaa") }); err == nil {
		t.Error("it was deleted though nobody was sure")
	}
	if err := client.Package(ctx, "hull", "json", 0); fleet.KindOf(err) != fleet.NotFound || !strings.Contains(err.Error(), "hall") {
		t.Error(err)
	}
}
