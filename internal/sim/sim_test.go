package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/porttest"
)

// mosquitto is a real broker on a free port of the loopback interface.
type mosquitto struct {
	bin, conf, addr string
	cmd             *exec.Cmd
}

// startMosquitto skips the test when there is no mosquitto, but not in CI.
func startMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	bin, err := exec.LookPath("mosquitto")
	if err != nil {
		bin = "/usr/sbin/mosquitto"
		if _, err := os.Stat(bin); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("mosquitto is not installed")
			}
			t.Skip("SKIPPED: mosquitto is not installed")
		}
	}
	addr := porttest.Free(t)
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &mosquitto{bin: bin, conf: conf, addr: addr}
	m.start(t)
	t.Cleanup(m.stop)
	return m
}

func (m *mosquitto) start(t *testing.T) {
	t.Helper()
	m.cmd = exec.Command(m.bin, "-c", m.conf)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "mosquitto to listen", func() bool {
		c, err := net.Dial("tcp", m.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) stop() {
	m.cmd.Process.Kill()
	m.cmd.Wait()
}

func (m *mosquitto) url() string { return "mqtt://" + m.addr }

// waitFor polls for what another process does.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// inbox collects what arrives at the broker, by topic.
type inbox struct {
	mu     sync.Mutex
	topics map[string]int
	seqs   map[string][]int // by entity id
}

func (b *inbox) lines() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.seqs {
		n += len(s)
	}
	return n
}

func (b *inbox) devices() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seqs)
}

// subscribe fills b until stop is called.
func (b *inbox) subscribe(t *testing.T, m *mosquitto) (stop func()) {
	t.Helper()
	decoder := logs.NewDecoder("entity_id")
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(m.url()).SetClientID("inbox").SetAutoReconnect(false))
	if token := c.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	token := c.Subscribe("iotsupport/logsink/#", 1, func(_ mqtt.Client, msg mqtt.Message) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.topics[msg.Topic()]++
		for _, e := range decoder.Decode(nil, msg.Payload(), time.Now(), func(r logs.Reason) { t.Errorf("line counted as %s", r) }) {
			var doc struct{ Seq int }
			if err := json.Unmarshal(e.Doc, &doc); err != nil {
				t.Error(err)
			}
			b.seqs[e.EntityID] = append(b.seqs[e.EntityID], doc.Seq)
		}
	})
	if token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	return func() { c.Disconnect(250) }
}

// whole checks that every device's lines are there from the first on. Where
// repeats are allowed, those of a batch that was sent again are left out.
func (b *inbox) whole(t *testing.T, devices int, repeats bool) {
	t.Helper()
	if len(b.seqs) != devices {
		t.Errorf("lines of %d devices, want %d", len(b.seqs), devices)
	}
	for id, seqs := range b.seqs {
		if repeats {
			slices.Sort(seqs)
			seqs = slices.Compact(seqs)
		}
		for i, seq := range seqs {
			if seq != i+1 {
				t.Errorf("%s: line %d in the place of %d", id, seq, i+1)
				break
			}
		}
	}
}

// server is the two resources of the HTTP API that a simulation needs, in memory.
type server struct {
	*httptest.Server
	token string

	mu      sync.Mutex
	models  []map[string]any
	devices []map[string]any
	broken  int // answers to give as 503 first
}

func newServer(t *testing.T, token string) *server {
	s := &server{token: token}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/device-models", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"device_models": s.models, "count": len(s.models)})
	})
	mux.HandleFunc("POST /api/device-models", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Code, Name string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Name == "" || in.Code == "" {
			problem(w, 400, "VALIDATION_FAILED")
			return
		}
		if slices.ContainsFunc(s.models, func(m map[string]any) bool { return m["code"] == in.Code }) {
			problem(w, 409, "RECORD_EXISTS")
			return
		}
		m := map[string]any{"id": len(s.models) + 11, "code": in.Code, "name": in.Name, "firmware_version": nil, "has_config_schema": false, "device_count": 0}
		s.models = append(s.models, m)
		answer(w, 201, m)
	})
	mux.HandleFunc("GET /api/devices", func(w http.ResponseWriter, r *http.Request) {
		slices.SortFunc(s.devices, func(a, b map[string]any) int { return cmp.Compare(a["key"].(string), b["key"].(string)) })
		answer(w, 200, map[string]any{"devices": s.devices, "count": len(s.devices)})
	})
	mux.HandleFunc("POST /api/devices", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			ModelID int `json:"device_model_id"`
			Config  string
		}
		var config struct{ DeviceName, DeviceEntityID *string }
		if json.NewDecoder(r.Body).Decode(&in) != nil || json.Unmarshal([]byte(in.Config), &config) != nil {
			problem(w, 400, "VALIDATION_FAILED")
			return
		}
		i := slices.IndexFunc(s.models, func(m map[string]any) bool { return m["id"] == in.ModelID })
		if i < 0 {
			problem(w, 404, "RECORD_NOT_FOUND")
			return
		}
		key := fleet.NewKey()
		d := map[string]any{"id": len(s.devices) + 1, "key": key, "device_model_id": in.ModelID, "device_name": config.DeviceName, "device_entity_id": config.DeviceEntityID,
			"active": true, "config": in.Config, "client_id": fleet.ClientID(s.models[i]["code"].(string), key)}
		s.devices = append(s.devices, d)
		answer(w, 201, d)
	})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.broken > 0:
			s.broken--
			problem(w, 503, "SERVICE_UNAVAILABLE")
		case s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
			problem(w, 401, "AUTHENTICATION_REQUIRED")
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func problem(w http.ResponseWriter, status int, code string) {
	answer(w, status, map[string]any{"error": code, "details": map[string]string{"message": code}, "code": code, "correlationId": "x"})
}

// lockedBuffer is where a test's log goes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func testConfig(mqttURL, serverURL string) (Config, *lockedBuffer) {
	out := &lockedBuffer{}
	return Config{
		Devices: 20, Rate: 20, Seed: 5, MQTT: mqttURL, Topic: "iotsupport/logsink", Server: serverURL, Model: "sim_board",
		Log: slog.New(slog.NewTextHandler(out, nil)),
	}, out
}

// start runs cfg until the test calls stop, which returns what run returned.
func start(ctx context.Context, cfg Config) (stop func() (*totals, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var t *totals
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		t, err = run(ctx, cfg)
	}()
	return func() (*totals, error) {
		cancel()
		<-done
		return t, err
	}
}

func TestRun(t *testing.T) {
	m := startMosquitto(t)
	s := newServer(t, "secret")
	leaks := goleak.IgnoreCurrent()
	for _, perClient := range []bool{false, true} {
		box := &inbox{topics: map[string]int{}, seqs: map[string][]int{}}
		unsubscribe := box.subscribe(t, m)
		cfg, out := testConfig(m.url(), s.URL)
		cfg.Token, cfg.PerClientTopic = "secret", perClient

		stop := start(t.Context(), cfg)
		waitFor(t, "all devices to run", func() bool { return strings.Contains(out.String(), "all devices are running") })
		waitFor(t, "lines of all devices", func() bool { return box.devices() == cfg.Devices && box.lines() > 1000 })
		totals, err := stop()
		if err != nil {
			t.Fatal(err)
		}
		acked := int(totals.acked.Load())
		waitFor(t, "every acknowledged line", func() bool { return box.lines() >= acked })
		unsubscribe()

		box.whole(t, cfg.Devices, false)
		if box.lines() != acked || totals.published.Load() != totals.acked.Load() || totals.errors.Load() != 0 {
			t.Errorf("%d lines arrived, %d published, %d acked, %d errors", box.lines(), totals.published.Load(), acked, totals.errors.Load())
		}
		if !strings.Contains(out.String(), fmt.Sprintf("lines_acked=%d", acked)) {
			t.Errorf("no totals in the log:\n%s", out)
		}
		topics := map[string]bool{"iotsupport/logsink": true}
		if perClient {
			topics = map[string]bool{}
			for _, d := range s.devices {
				topics["iotsupport/logsink/"+d["client_id"].(string)] = true
			}
		}
		for topic := range box.topics {
			if !topics[topic] {
				t.Errorf("published on %s", topic)
			}
		}
		if len(box.topics) != len(topics) {
			t.Errorf("published on %d topics, want %d", len(box.topics), len(topics))
		}
	}
	if len(s.models) != 1 || len(s.devices) != 20 {
		t.Errorf("%d models and %d devices after two runs", len(s.models), len(s.devices))
	}
	if d := s.devices[0]; !strings.HasPrefix(d["client_id"].(string), "iotdevice-sim_board-") || !strings.Contains(d["config"].(string), `"enableOTA": `) {
		t.Errorf("device %v", d)
	}
	s.CloseClientConnections()
	goleak.VerifyNone(t, leaks)
}

// proxy is a TCP connection to the broker that can be cut.
type proxy struct {
	addr, to string
	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	copying  sync.WaitGroup
}

func (p *proxy) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.addr, p.listener = l.Addr().String(), l
	p.copying.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.to)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.copying.Go(func() { io.Copy(in, out); in.Close() })
			p.copying.Go(func() { io.Copy(out, in); out.Close() })
		}
	})
}

// cut closes everything that is open.
func (p *proxy) cut() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
}

func TestRunSurvivesCuts(t *testing.T) {
	m := startMosquitto(t)
	s := newServer(t, "")
	leaks := goleak.IgnoreCurrent()
	box := &inbox{topics: map[string]int{}, seqs: map[string][]int{}}
	unsubscribe := box.subscribe(t, m)
	p := &proxy{addr: "127.0.0.1:0", to: m.addr}
	p.open(t)
	cfg, out := testConfig("mqtt://"+p.addr, s.URL)
	cfg.Rate = 100

	stop := start(t.Context(), cfg)
	waitFor(t, "lines of all devices", func() bool { return box.devices() == cfg.Devices && box.lines() > 1000 })
	for range 3 {
		p.cut()
		p.open(t)
		before := box.lines()
		waitFor(t, "lines after the cut", func() bool { return box.lines() > before+1000 })
	}
	totals, err := stop()
	if err != nil || totals.errors.Load() == 0 || !strings.Contains(out.String(), "will try again") {
		t.Errorf("error %v, %d errors", err, totals.errors.Load())
	}
	waitFor(t, "every acknowledged line", func() bool { return box.lines() >= int(totals.acked.Load()) })
	unsubscribe()
	box.whole(t, cfg.Devices, true) // a batch may come twice, but none is missing
	p.cut()
	p.copying.Wait()
	s.CloseClientConnections()
	goleak.VerifyNone(t, leaks)
}

func TestRunWithoutBroker(t *testing.T) {
	s := newServer(t, "")
	leaks := goleak.IgnoreCurrent()
	cfg, out := testConfig("mqtt://127.0.0.1:1", s.URL) // nobody listens there
	cfg.Duration = 1500 * time.Millisecond
	if err := Run(t.Context(), cfg); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "will try again"); n != 1 {
		t.Errorf("the failure is logged %d times:\n%s", n, out)
	}
	s.CloseClientConnections()
	goleak.VerifyNone(t, leaks)
}

func TestProvision(t *testing.T) {
	s := newServer(t, "")
	cfg, _ := testConfig("mqtt://x", s.URL+"/")
	log := slog.New(slog.DiscardHandler)
	cfg.Devices = 3
	api, closeAPI := newAPI(cfg)
	defer closeAPI()
	first, err := api.provision(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	// More devices, of another model: the old ones stay what they are.
	cfg.Devices, cfg.Model, s.broken = 50, "other", 2
	second, err := api.provision(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first, second[:3]) || len(second) != 50 || !strings.HasPrefix(second[3].clientID, "iotdevice-other-") || len(s.devices) != 50 {
		t.Errorf("%v then %v", first, second)
	}
	different := map[board]bool{}
	for _, b := range second {
		different[b] = true
	}
	if len(different) != 50 {
		t.Error("two boards have one client id")
	}
}

func TestRunErrors(t *testing.T) {
	s := newServer(t, "secret")
	f := func(kind fleet.Kind, change func(*Config)) {
		t.Helper()
		cfg, _ := testConfig("mqtt://127.0.0.1:1", s.URL)
		cfg.Token = "secret"
		change(&cfg)
		if err := Run(t.Context(), cfg); err == nil || fleet.KindOf(err) != kind {
			t.Errorf("got %v, want %v", err, kind)
		}
	}
	f(fleet.Unauthenticated, func(c *Config) { c.Token = "" })
	f(fleet.External, func(c *Config) { c.Server += "/nowhere" })
	f(fleet.Invalid, func(c *Config) { c.Devices = 0 })
	f(fleet.Invalid, func(c *Config) { c.Rate = 0 })
	f(fleet.Invalid, func(c *Config) { c.MQTT = "localhost" })
	f(fleet.Invalid, func(c *Config) { c.Server = "" })
	f(fleet.Invalid, func(c *Config) { c.Topic = "" })
	f(fleet.Invalid, func(c *Config) { c.Duration = -1 })
	f(fleet.Invalid, func(c *Config) { c.Login = "password" })
	f(fleet.Invalid, func(c *Config) { c.Shares.Flaky = 0.1 }) // without a login
	f(fleet.Invalid, func(c *Config) { c.Report = "report.json" })
	f(fleet.Invalid, func(c *Config) { c.Login, c.Shares.Flaky = LoginToken, 1.5 })
	f(fleet.Invalid, func(c *Config) { c.Login, c.Think = LoginToken, -1 })
	f(fleet.Invalid, func(c *Config) { c.Login, c.State = LoginToken, "sim_test.go" })

	// Cancelled while it waits for a server: that is not an error.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("enough"))
	defer cancel()
	cfg, _ := testConfig("mqtt://127.0.0.1:1", "http://127.0.0.1:1")
	if err := Run(ctx, cfg); err != nil {
		t.Error(err)
	}
}
