package web_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// imported is an answer of the import.
type imported struct {
	Lines []struct {
		Line             int
		Status           string
		Key              *string
		DeviceID         *int64 `json:"device_id"`
		Errors, Warnings []string
	}
	Counts  map[string]int
	Stopped *string
}

// says returns the answer, a line each.
func (i imported) says() (lines []string) {
	for _, l := range i.Lines {
		text := fmt.Sprint(l.Line, " ", l.Status)
		for _, say := range append(l.Errors, l.Warnings...) {
			text += "; " + say
		}
		lines = append(lines, text)
	}
	return lines
}

func (d *stock) load(who, csv string, dry bool) imported {
	d.t.Helper()
	w := d.by(who, "POST", fmt.Sprintf("/api/devices/import?dry_run=%t", dry), csv, "Content-Type", "text/csv")
	var got imported
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		d.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return got
}

func TestImport(t *testing.T) {
	d := newStock(t, nil)
	const csv = "\ufeffmodel;name;entity_id;key;active\r\nthermostat;Küche;kitchen;;\r\nnope;X;x;;\r\nthermostat;Y;y;old12345;no\r\nthermostat;Z;kitchen;;\r\n"
	f := func(dry bool, word string) imported {
		t.Helper()
		got := d.load("ed", csv, dry)
		want := []string{"2 " + word, `3 error; model: there is none with the code "nope"`, "4 " + word,
			"5 " + word + "; entity_id: line 2 has the same: log lines on the shared topic will belong to both"}
		if diff := cmp.Diff(want, got.says()); diff != "" {
			t.Error(diff)
		}
		if got.Counts["lines"] != 4 || got.Counts[word] != 3 || got.Counts["errors"] != 1 || got.Counts["warnings"] != 1 || got.Stopped != nil {
			t.Errorf("%v", got.Counts)
		}
		return got
	}
	f(true, "ok")
	if n := d.registry.Directory().Len(); n != 0 || len(d.events("devices.import")) > 0 || len(d.vault.clients) > 0 {
		t.Fatalf("a dry run made %d devices and %d clients", n, len(d.vault.clients))
	}
	got := f(false, "created")
	made, err := d.registry.Device(t.Context(), *got.Lines[2].DeviceID)
	if err != nil || made.Key != "old12345" || made.Active || made.Config != `{"deviceName":"Y","deviceEntityId":"y"}` {
		t.Errorf("%+v, %v", made, err)
	}
	if n := d.registry.Directory().Len(); n != 3 || len(d.vault.clients) != 3 {
		t.Errorf("%d devices, %d clients", n, len(d.vault.clients))
	}
	if e := d.events("devices.import"); len(e) != 1 || e[0].Detail != `{"created":3,"errors":1,"exists":0,"lines":4}` {
		t.Errorf("%+v", e)
	}
	if e := d.events("device.create"); len(e) != 3 || e[0].Name != "ed" || e[0].Detail != `{"import":true}` {
		t.Errorf("%+v", e)
	}
	// Once more changes nothing.
	again := d.load("ed", csv, false)
	if again.Counts["exists"] != 3 || again.Counts["created"] != 0 || d.registry.Directory().Len() != 3 {
		t.Errorf("%v", again.says())
	}
}

func TestImportRefuses(t *testing.T) {
	d := newStock(t, nil)
	f := func(body, kind string, status int, say string) {
		t.Helper()
		if w := d.by("ed", "POST", "/api/devices/import", body, "Content-Type", kind); w.Code != status || !strings.Contains(w.Body.String(), say) {
			t.Errorf("%.20q: %d %s", body, w.Code, w.Body)
		}
	}
	f("model\n", "application/json", 400, "text/csv")
	f("model\n", "text/csv; charset=latin1", 400, "UTF-8")
	f("name\n", "text/csv", 400, "none named model")
	f("model\n"+strings.Repeat("x", registry.MaxImportBytes), "text/csv; charset=UTF-8", 413, "more than 16777216 bytes")
	if w := d.by("ed", "POST", "/api/devices/import?dry_run=perhaps", "model\n", "Content-Type", "text/csv"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := d.by("vic", "POST", "/api/devices/import?dry_run=true", "model\n", "Content-Type", "text/csv"); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// A fault of the issuer is that line's.
	d.vault.fail = fleet.E(fleet.External, nil, "Keycloak answered 500")
	if got := d.load("ed", "model,entity_id\nthermostat,a\nthermostat,b\n", false); got.Counts["errors"] != 2 || !strings.Contains(got.Lines[0].Errors[0], "Keycloak") {
		t.Errorf("%v", got.says())
	}
}

// Whoever is limited imports within their limit, and learns nothing of the rest.
func TestImportWithinALimit(t *testing.T) {
	d := newStock(t, nil)
	d.device(`{"deviceEntityId":"secret"}`)
	d.device(`{"deviceEntityId":"own","tags":["north"]}`)
	for _, dry := range []bool{true, false} {
		word := map[bool]string{true: "ok", false: "created"}[dry]
		got := d.load("nora", "model,entity_id,tags\nthermostat,a,south\nthermostat,secret,north\nthermostat,own,\n", dry)
		want := []string{"2 error; The device would be beyond your access, which is limited to the tags north", "3 " + word, "4 exists"}
		if diff := cmp.Diff(want, got.says()); diff != "" {
			t.Error(diff)
		}
	}
	for _, ref := range d.registry.Directory().All()[2:] {
		if ref.Tags != "north" {
			t.Errorf("%+v", ref)
		}
	}
	if w := d.by("nora", "GET", "/api/devices/export", ""); strings.Count(w.Body.String(), "\n") != 3 || strings.Contains(w.Body.String(), "abc12345,") {
		t.Errorf("%s", w.Body)
	}
}

// What is exported is what an import takes: here it is all there, elsewhere it can
// all be made.
func TestExport(t *testing.T) {
	d := newStock(t, nil)
	for _, config := range []string{`{}`, `{"deviceName":"=cmd|' /C calc'!A0","deviceEntityId":"@e","tags":["b","a"]}`, `{"deviceName":"a\",\n;b"}`, `-7`, "{\n \"deviceName\": \"Küche\"\n}"} {
		d.device(config)
	}
	w := d.by("ed", "GET", "/api/devices/export", "")
	file := w.Body.String()
	if w.Code != 200 || w.Header().Get("Content-Type") != "text/csv; charset=utf-8" || w.Header().Get("Cache-Control") != "no-store" || strings.Contains(file, "secret123") {
		t.Fatalf("%d %v %s", w.Code, w.Header(), file)
	}
	if !strings.Contains(file, ",'=cmd|' /C calc'!A0,'@e,") || !strings.Contains(file, ",'-7\r\n") {
		t.Errorf("%s", file)
	}
	if got := d.load("ed", file, true); got.Counts["exists"] != 5 {
		t.Errorf("%v", got.says())
	}
	other := newStock(t, nil)
	if got := other.load("ed", file, true); got.Counts["ok"] != 5 {
		t.Errorf("%v", got.says())
	}
	if got := other.load("ed", file, false); got.Counts["created"] != 5 {
		t.Errorf("%v", got.says())
	}
	for _, ref := range d.registry.Directory().All() {
		there, ok := other.registry.Directory().ByKey(ref.Key)
		if !ok || there.Name != ref.Name || there.EntityID != ref.EntityID || there.Tags != ref.Tags {
			t.Errorf("%+v became %+v", ref, there)
		}
		a, err := d.registry.Device(t.Context(), ref.ID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := other.registry.Device(t.Context(), there.ID)
		if err != nil || a.Config != b.Config || a.Active != b.Active {
			t.Errorf("%q became %q, %v", a.Config, b.Config, err)
		}
	}
	// A viewer sees no configs: they may hold secrets.
	viewers := d.by("vic", "GET", "/api/devices/export", "").Body.String()
	if head, _, _ := strings.Cut(viewers, "\r\n"); strings.Contains(viewers, "deviceName") || strings.Contains(head, "config") || strings.Count(viewers, "iotdevice-") != 5 {
		t.Errorf("%s", viewers)
	}
	if e := d.events("devices.export"); len(e) != 2 || e[0].Detail != `{"configs":false,"devices":5}` || e[1].Detail != `{"configs":true,"devices":5}` {
		t.Errorf("%+v", e)
	}
}

// Progress is told while it is made; a client that goes away ends the import
// behind the lines that were begun, and nothing is left half done.
func TestImportStream(t *testing.T) {
	d := newStock(t, nil)
	server := httptest.NewServer(d.server.Handler())
	defer server.Close()
	gate := make(chan struct{}, 100)
	d.vault.ensured = func(string) { <-gate }
	var csv strings.Builder
	csv.WriteString("model,entity_id\n")
	for i := range 50 {
		fmt.Fprintf(&csv, "thermostat,e%d\n", i)
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/api/devices/import", strings.NewReader(csv.String()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "text/csv")
	r.Header.Set("Accept", "application/x-ndjson")
	r.Header.Set("Authorization", "Bearer "+d.tokens["ed"])
	res, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if !lines.Scan() || lines.Text() != `{"total":50,"dry_run":false}` {
		t.Fatal(lines.Text())
	}
	for range 20 { // and no more than so many: the rest waits
		gate <- struct{}{}
	}
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"line":2,"status":"created","key":"abc`) {
		t.Fatal(lines.Text())
	}
	leave()
	deadline := time.Now().Add(30 * time.Second)
	// What was begun waits at the gate, and is let through until the import has ended.
	for len(d.events("devices.import")) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the import goes on")
		}
		select {
		case gate <- struct{}{}:
		case <-time.After(20 * time.Millisecond):
		}
	}
	n := d.registry.Directory().Len()
	e := d.events("devices.import")[0]
	var detail struct {
		Lines, Done, Created, Errors int
		Stopped                      string
	}
	if err := json.Unmarshal([]byte(e.Detail), &detail); err != nil || detail.Lines != 50 || detail.Created != n || detail.Done != n || detail.Errors != 0 || detail.Stopped == "" || n < 1 || n >= 50 {
		t.Errorf("%d devices, %s", n, e.Detail)
	}
	if len(d.vault.clients) != n {
		t.Errorf("%d clients of %d devices", len(d.vault.clients), n)
	}
}

// Rights that end in the middle of an import end it.
func TestImportOfSomebodyWhoMayNot(t *testing.T) {
	d := newStock(t, nil)
	all, err := d.accounts.Accounts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	d.vault.ensured = func(string) {
		if n++; n != 3 {
			return
		}
		for _, a := range all {
			if a.Username == "ed" {
				if _, err := d.accounts.ChangeAccount(context.Background(), a.ID, access.AccountChange{Roles: &[]string{"viewer"}}); err != nil {
					t.Error(err)
				}
			}
		}
	}
	got := d.load("ed", "model,entity_id\n"+strings.Repeat("thermostat,e\n", 200), false)
	if got.Stopped == nil || got.Counts["lines"] >= 200 || got.Counts["created"] < 3 || got.Counts["created"] != d.registry.Directory().Len() {
		t.Errorf("%v, %d devices", got.Counts, d.registry.Directory().Len())
	}
}
