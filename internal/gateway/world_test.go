package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"signalbox/internal/gateway"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 20 * time.Second

// callback is what a backend is told.
type callback struct {
	Action  string
	Reason  string
	Token   string
	Request struct {
		URL     string
		Headers map[string]string
	}
	raw    string
	header http.Header
}

// backend is a server written from the protocol's description alone.
type backend struct {
	t      *testing.T
	url    string
	told   chan callback
	server *http.Server

	mu     sync.Mutex
	answer func(w http.ResponseWriter, c callback)
}

func newBackend(t *testing.T) *backend {
	b := &backend{t: t, told: make(chan callback, 1000)}
	l := listen(t)
	b.url = "http://" + l.Addr().String() + "/api/sse/callback?secret=s"
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.server.Serve(l)
	}()
	t.Cleanup(func() { b.server.Close(); <-done })
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	var c callback
	if err != nil || json.Unmarshal(text, &c) != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || r.URL.RawQuery != "secret=s" {
		b.t.Errorf("callback %s %s %v: %q", r.Method, r.URL, r.Header, text)
	}
	c.raw, c.header = string(text), r.Header
	b.mu.Lock()
	answer := b.answer
	b.mu.Unlock()
	b.told <- c
	if answer != nil {
		answer(w, c)
		return
	}
	_, _ = io.WriteString(w, "{}")
}

// does sets what the backend answers from now on.
func (b *backend) does(f func(w http.ResponseWriter, c callback)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = f
}

// next returns the next callback.
func (b *backend) next() callback {
	b.t.Helper()
	select {
	case c := <-b.told:
		return c
	case <-time.After(patience):
		b.t.Fatal("no callback came")
		return callback{}
	}
}

// quiet fails the test if the backend was told something else.
func (b *backend) quiet() {
	b.t.Helper()
	select {
	case c := <-b.told:
		b.t.Errorf("unexpected callback %s", c.raw)
	default:
	}
}

// world is a running gateway and its backend.
type world struct {
	t       *testing.T
	addr    string
	backend *backend
	metrics *prometheus.Registry
	stop    func() // as SIGTERM does; waits

	over chan string // gets the path of each stream that was answered, or whose client has left
}

func run(t *testing.T, change func(*gateway.Options)) *world {
	t.Helper()
	w := &world{t: t, backend: newBackend(t), metrics: prometheus.NewRegistry(), over: make(chan string, 1000)}
	o := gateway.Options{CallbackURL: w.backend.url, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: w.metrics}
	if change != nil {
		change(&o)
	}
	s := gateway.New(o)
	l := listen(t)
	w.addr = l.Addr().String()
	seen := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			context.AfterFunc(r.Context(), func() {
				select {
				case w.over <- r.URL.Path:
				default: // nobody asks
				}
			})
		}
		s.ServeHTTP(rw, r)
	})
	server := &http.Server{Handler: seen, ReadHeaderTimeout: patience, DisableGeneralOptionsHandler: true}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = server.Serve(l) })
	parts.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	w.stop = func() { cancel(); parts.Wait() }
	t.Cleanup(func() { w.stop(); http.DefaultClient.CloseIdleConnections() })
	return w
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// answer is a whole answer as text: status, a few headers and the body.
type answer struct {
	status int
	header http.Header
	body   string
}

// do makes a request; headers are written "Name: value".
func (w *world) do(method, path, body string, headers ...string) answer {
	w.t.Helper()
	r, err := http.NewRequest(method, "http://"+w.addr+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	permissive(w.t, a.Header)
	return answer{a.StatusCode, a.Header, string(text)}
}

// permissive checks the three headers that every answer has.
func permissive(t *testing.T, h http.Header) {
	t.Helper()
	for name, want := range map[string]string{"Origin": "*", "Methods": "GET, POST, OPTIONS", "Headers": "Content-Type, Cache-Control"} {
		if got := h.Values("Access-Control-Allow-" + name); len(got) != 1 || got[0] != want {
			t.Errorf("Access-Control-Allow-%s: %q", name, got)
		}
	}
}

// send posts a body to /internal/send and returns status and body as one text.
func (w *world) send(body string) string {
	w.t.Helper()
	a := w.do("POST", "/internal/send", body, "Content-Type: application/json")
	return fmt.Sprint(a.status, " ", a.body)
}

// client is one open request for a stream, on its own socket.
type client struct {
	t      *testing.T
	conn   net.Conn
	r      *bufio.Reader
	status string
	header http.Header
	body   io.Reader
}

// dial asks for a stream and does not wait for the answer.
func (w *world) dial(path string, headers ...string) *client {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	head := "GET " + path + " HTTP/1.1\r\nHost: gw.example\r\n"
	for _, h := range headers {
		head += h + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		w.t.Fatal(err)
	}
	return &client{t: w.t, conn: conn, r: bufio.NewReader(conn)}
}

// answered reads the head of the answer.
func (c *client) answered() *client {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	a, err := http.ReadResponse(c.r, nil) //nolint:bodyclose // the connection is closed in the end
	if err != nil {
		c.t.Fatal(err)
	}
	permissive(c.t, a.Header)
	c.status, c.header, c.body = a.Status, a.Header, a.Body
	return c
}

// open opens a stream and returns it with its token, when `ready` has come.
func (w *world) open(path string, headers ...string) (*client, string) {
	w.t.Helper()
	c := w.dial(path, headers...).answered()
	if c.status != "200 OK" {
		w.t.Fatal(c.status)
	}
	c.want("event: ready\ndata:\n\n")
	for {
		if told := w.backend.next(); told.Action == "connect" {
			return c, told.Token
		}
	}
}

// want reads exactly these bytes.
func (c *client) want(text string) {
	c.t.Helper()
	c.wantBy(text, patience)
}

func (c *client) wantBy(text string, limit time.Duration) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(limit))
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.body, got)
	if string(got[:n]) != text {
		c.t.Fatalf("got %q (%v), want %q", got[:n], err, text)
	}
}

// rest reads until the stream ends as it should.
func (c *client) rest() string {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(c.body)
	if err != nil {
		c.t.Fatalf("%v after %q", err, text)
	}
	return string(text)
}

// quiet fails the test if the stream has more, or ends, within a moment.
func (c *client) quiet() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	// The end of the last chunk may be there still; the end of a stream is longer.
	if more, err := c.r.Peek(3); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the stream goes on with %q, %v", more, err)
	}
}

// quote is a JSON string.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// metric returns the sum of a family's counters and gauges: all, or those with a
// label of this value.
func (w *world) metric(name string, label ...string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				if len(label) > 0 && !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label[0] }) {
					continue
				}
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen: ", what)
		}
	}
}
