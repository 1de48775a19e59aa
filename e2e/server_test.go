package e2e_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/porttest"
)

// patience is how long a test waits for something that should take
// milliseconds, on a machine that is busy with other things.
const patience = 30 * time.Second

// server is a running "signalbox serve" with its own data and ports. They stay
// the same over restarts.
type server struct {
	t        *testing.T
	settings map[string]string
	log      string // the file with the program's output, of all its lives

	api, internal, mqtt string // host:port
	streams             string // base URL of where readers open streams; "" is that of the API

	http *http.Client

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	exit error         // what Wait returned; read after done
}

// start starts a server, with settings written NAME=value, until the test ends.
func start(t *testing.T, settings ...string) *server {
	t.Helper()
	s := prepare(t, settings...)
	s.launch()
	return s
}

// prepare returns a server that was not started.
func prepare(t *testing.T, settings ...string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{
		t: t, log: filepath.Join(dir, "log"), settings: map[string]string{},
		api: porttest.Free(t), internal: porttest.Free(t), mqtt: porttest.Free(t),
		http: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	}
	_, port, _ := net.SplitHostPort(s.api)
	s.settings["PORT"] = port
	s.settings["INTERNAL_LISTEN"] = s.internal
	s.settings["MQTT_LISTEN"] = s.mqtt
	s.settings["DATA_DIR"] = filepath.Join(dir, "data")
	s.settings["LOG_FORMAT"] = "json"
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		s.settings[name] = value
	}
	t.Cleanup(func() {
		s.kill()
		s.http.CloseIdleConnections()
		if t.Failed() {
			t.Logf("the server's log:\n%s", tailOf(s.log))
		}
	})
	return s
}

// spawn starts the process and does not wait for it to be ready.
func (s *server) spawn() {
	s.t.Helper()
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, "serve")
	cmd.Dir = filepath.Dir(s.log) // where there is no .env
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=Asia/Kathmandu"}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		cmd.Env = append(cmd.Env, name+"="+s.settings[name])
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	s.mu.Lock()
	s.cmd, s.done = cmd, done
	s.mu.Unlock()
	go func() {
		err := cmd.Wait()
		s.mu.Lock()
		s.exit = err
		s.mu.Unlock()
		close(done)
	}()
}

// launch starts the process and waits until it is ready.
func (s *server) launch() {
	s.t.Helper()
	s.spawn()
	for deadline := time.Now().Add(patience); ; {
		if r, err := s.try(s.t.Context(), "GET", s.url("/health/readyz"), nil); err == nil && r.status == http.StatusOK {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("signalbox ended: %v", s.exit)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatal("signalbox does not become ready")
		}
	}
}

// kill ends the process as kill -9 does. It does nothing if it has ended.
func (s *server) kill() {
	s.mu.Lock()
	cmd, done := s.cmd, s.done
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-done
	}
}

// terminate asks the process to end and does not wait for it.
func (s *server) terminate() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("SIGTERM: %v", err)
	}
}

// awaitExit waits for the process to end by itself and returns its exit code.
func (s *server) awaitExit(limit time.Duration) int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(limit):
		s.t.Fatalf("signalbox did not end within %v", limit)
	}
	if exit, ok := errors.AsType[*exec.ExitError](s.exit); ok {
		return exit.ExitCode()
	}
	if s.exit != nil {
		s.t.Fatal(s.exit)
	}
	return 0
}

// alive reports whether the process runs.
func (s *server) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *server) url(path string) string {
	if s.settings["TLS_CERT"] != "" {
		return "https://" + s.api + path
	}
	return "http://" + s.api + path
}

// streamURL returns where a stream with a request id is opened.
func (s *server) streamURL(requestID string) string {
	return cmp.Or(s.streams, s.url("")) + streamPath(requestID)
}

func streamPath(requestID string) string {
	return "/api/sse/stream?request_id=" + url.QueryEscape(requestID)
}

// reply is the answer to a request.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// into decodes the reply's body.
func (r reply) into(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		t.Fatalf("%v in the answer %q", err, r.body)
	}
}

// try makes a request; a body that is neither nil nor a string is sent as JSON.
func (s *server) try(ctx context.Context, method, url string, body any) (reply, error) {
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return reply{}, err
		}
		content = bytes.NewReader(text)
	}
	q, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return reply{}, err
	}
	if content != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	return s.do(q)
}

func (s *server) do(q *http.Request) (reply, error) {
	a, err := s.http.Do(q)
	if err != nil {
		return reply{}, err
	}
	defer a.Body.Close()
	content, err := io.ReadAll(a.Body)
	return reply{a.StatusCode, a.Header, content}, err
}

// call makes a request to the API and fails the test without an answer.
func (s *server) call(method, path string, body any) reply {
	s.t.Helper()
	r, err := s.try(s.t.Context(), method, s.url(path), body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// inside makes a request to the internal listener.
func (s *server) inside(method, path string) reply {
	s.t.Helper()
	r, err := s.try(s.t.Context(), method, "http://"+s.internal+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// want makes a request to the API and checks the answer's status.
func (s *server) want(status int, method, path string, body any) reply {
	s.t.Helper()
	r := s.call(method, path, body)
	if r.status != status {
		s.t.Fatalf("%s %s: status %d, want %d: %s", method, path, r.status, status, r.body)
	}
	return r
}

// device is one device of the server.
type device struct {
	ID       int64    `json:"id"`
	Key      string   `json:"key"`
	ClientID string   `json:"client_id"`
	Entity   string   `json:"device_entity_id"`
	Config   string   `json:"config"`
	Warnings []string `json:"warnings"`
}

// device creates a device with an entity id, which may be "".
func (s *server) device(entity string) device {
	s.t.Helper()
	var model struct{ ID int64 }
	r := s.call("POST", "/api/device-models", map[string]any{"code": "board", "name": "Board"})
	switch r.status {
	case http.StatusCreated:
		r.into(s.t, &model)
	case http.StatusConflict: // it is there already, and the only one
		var list struct {
			Models []struct{ ID int64 } `json:"device_models"`
		}
		s.want(http.StatusOK, "GET", "/api/device-models", nil).into(s.t, &list)
		model = list.Models[0]
	default:
		s.t.Fatalf("creating a device model: %d %s", r.status, r.body)
	}
	var d device
	s.want(http.StatusCreated, "POST", "/api/devices", map[string]any{"device_model_id": model.ID, "config": configOf(entity)}).into(s.t, &d)
	return d
}

// rename gives a device another entity id, or none for "".
func (s *server) rename(d device, entity string) {
	s.t.Helper()
	s.want(http.StatusOK, "PUT", fmt.Sprintf("/api/devices/%d", d.ID), map[string]any{"config": configOf(entity), "active": true})
}

func configOf(entity string) string {
	text, _ := json.Marshal(map[string]string{"deviceEntityId": entity}) // strings always marshal
	return string(text)
}

// metric returns the value of a series of /metrics, written as there, or 0 if
// there is none.
func (s *server) metric(series string) float64 {
	s.t.Helper()
	for line := range strings.Lines(string(s.inside("GET", "/metrics").body)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// eventually waits until ok, which is asked again and again, and fails the
// test if that does not happen.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, patience, what, ok)
}

// within is eventually with a limit of its own.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	pause := 10 * time.Millisecond
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen in %v: %s", limit, what)
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// tailOf returns the end of a file.
func tailOf(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	const most = 8000
	return string(text[max(0, len(text)-most):])
}
