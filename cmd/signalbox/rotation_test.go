package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/porttest"
)

// The commands against the server itself.
func TestRotationCommands(t *testing.T) {
	address, internal := porttest.Free(t), porttest.Free(t)
	_, port, _ := net.SplitHostPort(address)
	data := filepath.Join(t.TempDir(), "data")
	environ := []string{"DATA_DIR=" + data, "PORT=" + port, "INTERNAL_LISTEN=" + internal, "MQTT_LISTEN=", "LOGS_HISTORY=off", "ROTATION_CRON=0 8 1 1 *"}
	serve := command(t, environ, "serve")
	serve.Stderr = os.Stderr
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = serve.Process.Signal(syscall.SIGTERM)
		if got := exitOf(t, serve.Wait()); got != 0 {
			t.Errorf("serve ended with %d", got)
		}
	}()
	post := func(path, body string) (ok bool) {
		t.Helper()
		res, err := http.Post("http://"+address+path, "application/json", strings.NewReader(body))
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusCreated
	}
	for end := time.Now().Add(time.Minute); !post("/api/device-models", `{"code":"relay","name":"Relay"}`); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the server does not come up")
		}
	}
	for _, config := range []string{`{"deviceName":"Kitchen"}`, `{"deviceName":"Hall"}`} {
		body, err := json.Marshal(map[string]any{"device_model_id": 1, "config": config})
		if err != nil || !post("/api/devices", string(body)) {
			t.Fatal(err)
		}
	}
	f := func(line string, code int, pattern string, more ...string) {
		t.Helper()
		c := command(t, append([]string{"SIGNALBOX_SERVER=http://" + address}, more...), strings.Fields(line)...)
		var out bytes.Buffer
		c.Stdout, c.Stderr = &out, &out
		if got := exitOf(t, c.Run()); got != code || !regexp.MustCompile("(?s)"+pattern).MatchString(out.String()) {
			t.Errorf("%q: exit code %d, want %d, %q, want %s", line, got, code, &out, pattern)
		}
	}
	f("rotation status", 0, `^ok +2\nqueued +0\nin an attempt +0\ntimed out +0\nstuck +0\ninactive +0\nlast completed +never\noldest secret +20\S+\nschedule +0 8 1 1 \* UTC\nnext +20\d\d-01-01T08:00:00Z\n$`)
	f("rotation rotate kitchen", 0, `^queued\n$`)
	f("rotation rotate kitchen", 0, `^already pending\n$`)
	f("rotation trigger", 0, `^1 queued\n$`)
	f("rotation trigger --json", 0, `^{"queued_count":0,"devices_queued":0}\n$`)
	f("rotation history kitchen -n 3", 0, `^(PENDING|QUEUED), secret of 20\S+\n(\nattempt 1 by .*, asked for\n  20\S+  started\n.*)?$`)
	f("rotation history kitchen --json", 0, `^{"rotation_state":"(PENDING|QUEUED)",.*"attempts":\[.*\]}\n$`)
	f("rotation retry kitchen", 0, `^(nothing to retry|retried)\n$`)
	f("rotation abort hall", 0, `^aborted\n$`)
	f("rotation abort hall", 0, `^not rotating\n$`)
	f("rotation abort nobody", 1, `There is no device "nobody"`)
	f("rotation history kitchen -n 0", 2, `--attempts must be 1 to 100`)

	// It has the database, and does the job.
	f("rotation-job", 0, `Rotation job completed\n  Timeouts processed: 0\n  Device rotated: none\n  Scheduled triggered: False\n  The running server did it`, environ...)
	f("rotation-job --internal-api-url http://127.0.0.1:1", exitInUse, `signalbox: the database is in use by a running signalbox, and cannot be asked at http://127.0.0.1:1: `, environ...)
}
