package e2e_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"signalbox/internal/porttest"
	"signalbox/internal/rabbitmqtest"
)

// gatewayProcess is a running "signalbox gateway", and the backend it calls.
type gatewayProcess struct {
	t       *testing.T
	addr    string
	metrics string
	log     string
	cmd     *exec.Cmd
	told    chan gatewayCallback
}

type gatewayCallback struct {
	Action, Reason, Token string
	Request               struct {
		URL     string
		Headers map[string]string
	}
}

func startGateway(t *testing.T, settings ...string) *gatewayProcess {
	t.Helper()
	g := &gatewayProcess{t: t, addr: porttest.Free(t), metrics: porttest.Free(t), told: make(chan gatewayCallback, 100), log: filepath.Join(t.TempDir(), "log")}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c gatewayCallback
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || r.URL.Path != "/api/sse/callback" {
			t.Errorf("%s: %v", r.URL, err)
		}
		g.told <- c
		if strings.Contains(c.Request.URL, "forbidden") {
			w.WriteHeader(http.StatusForbidden)
		}
		if _, id, ok := strings.Cut(c.Request.URL, "bound="); ok {
			_, _ = io.WriteString(w, `{"request_id":"`+id+`","bindings":["broadcast","connection.`+id+`"]}`)
		}
	}))
	t.Cleanup(backend.Close)
	log, err := os.Create(g.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_, port, _ := net.SplitHostPort(g.addr)
	g.cmd = exec.Command(program, "gateway")
	g.cmd.Dir = filepath.Dir(g.log)
	g.cmd.Env = append([]string{"PORT=" + port, "INTERNAL_LISTEN=" + g.metrics, "CALLBACK_URL=" + backend.URL + "/api/sse/callback?secret=geheim"}, settings...)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill() // it may have ended
		_ = g.cmd.Wait()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", tailOf(g.log))
		}
		http.DefaultClient.CloseIdleConnections()
	})
	eventually(t, "the gateway is ready", func() bool {
		a, err := http.Get("http://" + g.addr + "/readyz")
		if err != nil {
			return false
		}
		a.Body.Close()
		return a.StatusCode == http.StatusOK
	})
	return g
}

func (g *gatewayProcess) next() gatewayCallback {
	g.t.Helper()
	select {
	case c := <-g.told:
		return c
	case <-time.After(patience):
		g.t.Fatal("the backend was not called")
		return gatewayCallback{}
	}
}

// open opens a stream and reads up to ready.
func (g *gatewayProcess) open(path string) (io.ReadCloser, *bufio.Reader) {
	g.t.Helper()
	q, err := http.NewRequestWithContext(g.t.Context(), "GET", "http://"+g.addr+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	q.Header.Set("Last-Event-ID", "e-1")
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { a.Body.Close() })
	return a.Body, bufio.NewReader(a.Body)
}

func (g *gatewayProcess) send(body string, headers ...string) string {
	g.t.Helper()
	q, err := http.NewRequestWithContext(g.t.Context(), "POST", "http://"+g.addr+"/internal/send", strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		q.Header.Set("Authorization", h)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		g.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return a.Status + " " + string(text)
}

// exits waits for the end of the process, and returns its code.
func (g *gatewayProcess) exits(limit time.Duration) int {
	g.t.Helper()
	kill := time.AfterFunc(limit, func() { _ = g.cmd.Process.Kill() })
	defer kill.Stop()
	err := g.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return 0
}

func TestGateway(t *testing.T) {
	g := startGateway(t, "GATEWAY_SECRET=s3cret", "CALLBACK_SECRET=other", "HEARTBEAT_INTERVAL_SECONDS=soon")
	// It listens on every interface, not only on the one that it is asked at.
	_, port, _ := net.SplitHostPort(g.addr)
	if a, err := http.Get("http://127.0.0.2:" + port + "/healthz"); err != nil {
		t.Error(err)
	} else if a.Body.Close(); a.StatusCode != http.StatusOK {
		t.Error(a.Status)
	}
	_, r := g.open("/api/sse/stream?request_id=r1")
	told := g.next()
	if told.Action != "connect" || told.Request.URL != "/api/sse/stream?request_id=r1" || told.Request.Headers["last-event-id"] != "e-1" {
		t.Errorf("%+v", told)
	}
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); string(got) != want {
			t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	}
	read("event: ready\ndata:\n\n")
	event := `{"token":"` + told.Token + `","event":{"name":"device-logs","id":"e-2","data":"{\"logs\":[]}"}}`
	if got := g.send(event); !strings.HasPrefix(got, "401 ") {
		t.Error(got)
	}
	if got := g.send(event, "Bearer s3cret"); got != `200 OK {"status":"ok"}` {
		t.Error(got)
	}
	read("id: e-2\ndata: {\"type\":\"device-logs\",\"payload\":{\"logs\":[]}}\n\n")
	// Above the limit of the gateway that this one replaces.
	big := strings.Repeat("x", 5<<20)
	if got := g.send(`{"token":"`+told.Token+`","event":{"data":"`+big+`"}}`, "Bearer s3cret"); got != `200 OK {"status":"ok"}` {
		t.Error(got)
	}
	read("data: " + big + "\n\n")

	_, rejected := g.open("/?forbidden")
	if text, err := io.ReadAll(rejected); string(text) != "event: rejected\ndata: {\"status\":403,\"message\":\"Forbidden\"}\n\n" {
		t.Errorf("%q %v", text, err)
	}
	g.next()

	a, err := http.Get("http://" + g.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(a.Body)
	a.Body.Close()
	if err != nil || !strings.Contains(string(text), "\ngateway_streams 1\n") {
		t.Errorf("%v %s", err, text)
	}

	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if last, err := io.ReadAll(r); err != nil || !strings.HasPrefix(string(last), "retry: ") {
		t.Errorf("%q %v", last, err)
	}
	if end := g.next(); end.Action != "disconnect" || end.Reason != "server_closed" || end.Token != told.Token {
		t.Errorf("%+v", end)
	}
	if code := g.exits(patience); code != 0 {
		t.Error("exit code", code)
	}
	if took := time.Since(start); took > 9*time.Second {
		t.Error("the shutdown took", took)
	}
	log := tailOf(g.log)
	for _, secret := range []string{"geheim", "s3cret", told.Token} {
		if strings.Contains(log, secret) {
			t.Errorf("%q is in the log:\n%s", secret, log)
		}
	}
	if !strings.Contains(log, "HEARTBEAT_INTERVAL_SECONDS") {
		t.Errorf("the bad interval is not told:\n%s", log)
	}
}

// The settings of RabbitMQ are those of the gateway that this one replaces.
func TestGatewayRabbitMQ(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	g := startGateway(t, "RABBITMQ_URL="+broker.URL(), "RABBITMQ_ENV_PREFIX=dev", "RABBITMQ_ENV_AUTO_DELETE=true", "RABBITMQ_QUEUE_TTL_MS=123456")
	_, r := g.open("/?bound=r1")
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); string(got) != want {
			t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	}
	read("event: ready\ndata:\n\n")
	ch, err := broker.Dial().Channel()
	if err != nil {
		t.Fatal(err)
	}
	// Whatever is declared in another way than it is there fails.
	if err := ch.ExchangeDeclare("dev.sse.events", "topic", false, true, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("dev.sse.conn.r1", true, false, false, false, amqp.Table{"x-expires": int32(123456)}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"broadcast", "connection.r1"} {
		if err := ch.PublishWithContext(t.Context(), "dev.sse.events", key, true, false, amqp.Publishing{Body: []byte(`{"event":"n","data":"1"}`)}); err != nil {
			t.Fatal(err)
		}
		read("data: {\"type\":\"n\",\"payload\":1}\n\n")
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.exits(patience); code != 0 {
		t.Error("exit code", code)
	}
	if log := tailOf(g.log); strings.Contains(log, "guest:guest") {
		t.Errorf("the password is in the log:\n%s", log)
	}
}

// An interrupt ends it as well as SIGTERM does.
func TestGatewayHeartbeatAndInterrupt(t *testing.T) {
	g := startGateway(t, "HEARTBEAT_INTERVAL_SECONDS=1")
	start := time.Now()
	_, r := g.open("/")
	const want = "event: ready\ndata:\n\n: heartbeat\n\n: heartbeat\n\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); string(got) != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
	if took := time.Since(start); took < 1900*time.Millisecond {
		t.Error("two heartbeats took", took)
	}
	if err := g.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := g.exits(patience); code != 0 {
		t.Error("exit code", code)
	}
}

// A client that is stopped delays no other, and one that is killed is told of.
func TestGatewayClients(t *testing.T) {
	curl := tool(t, "curl")
	g := startGateway(t, "STREAM_BUFFER_BYTES=128KiB", "STREAM_WRITE_TIMEOUT=300ms")
	client := func() (*exec.Cmd, string) {
		cmd := exec.Command(curl, "-sN", "http://"+g.addr+"/")
		cmd.Stdout = io.Discard
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		t.Cleanup(func() { once.Do(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) })
		token := g.next().Token
		eventually(t, "the stream is open", func() bool { return g.send(`{"token":"`+token+`"}`) == `200 OK {"status":"ok"}` })
		return cmd, token
	}
	killed, token := client()
	_ = killed.Process.Kill()
	if end := g.next(); end.Reason != "client_closed" || end.Token != token {
		t.Errorf("%+v", end)
	}
	stopped, slow := client()
	if err := stopped.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	_, r := g.open("/good")
	good := g.next().Token
	if _, err := io.ReadFull(r, make([]byte, len("event: ready\ndata:\n\n"))); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 64<<10)
	for gone := false; !gone; {
		gone = !strings.HasPrefix(g.send(`{"token":"`+slow+`","event":{"data":"`+big+`"}}`), "200")
		start := time.Now()
		g.send(`{"token":"` + good + `","event":{"data":"tick"}}`)
		got := make([]byte, len("data: tick\n\n"))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "data: tick\n\n" {
			t.Fatalf("%q %v", got, err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Error("the good reader waited", took)
		}
	}
	if end := g.next(); end.Reason != "error" || end.Token != slow {
		t.Errorf("%+v", end)
	}
}

func TestGatewayExitCodes(t *testing.T) {
	f := func(code int, settings ...string) {
		t.Helper()
		cmd := exec.Command(program, "gateway")
		cmd.Dir, cmd.Env = t.TempDir(), settings
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != code {
			t.Errorf("%v: %v, want %d\n%s", settings, err, code, out)
		}
		if strings.Contains(string(out), "geheim") {
			t.Errorf("%v: %s", settings, out)
		}
	}
	f(2, "PORT=0")
	f(2, "PORT=65536")
	f(2, "PORT=x")
	f(2, "RABBITMQ_URL=http://a:geheim@b")
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	f(1, "PORT="+port)
}
