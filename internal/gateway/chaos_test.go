package gateway_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signalbox/internal/gateway"
)

// TestReaderProcess is not a test: it is the client that the tests kill and stop.
func TestReaderProcess(t *testing.T) {
	addr := os.Getenv("GATEWAY_TEST_READ")
	if addr == "" {
		t.Skip("runs as a process of another test")
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, _ = io.Copy(io.Discard, conn)
}

// process opens a stream from a process of its own.
func (w *world) process() (*os.Process, string) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReaderProcess$")
	cmd.Env = append(os.Environ(), "GATEWAY_TEST_READ="+w.addr)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process, w.backend.next().Token
}

func TestKilledClient(t *testing.T) {
	w := run(t, nil)
	p, token := w.process()
	eventually(t, "the stream's opening", func() bool { return w.send(`{"token":"`+token+`"}`) == `200 {"status":"ok"}` })
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if told := w.backend.next(); told.Reason != "client_closed" || told.Token != token {
		t.Error(told.raw)
	}
	if got := w.send(`{"token":"` + token + `"}`); got[:3] != "404" {
		t.Error(got)
	}
}

// A client that takes nothing is dropped when too much waits for it, or after
// too long; nobody else notices.
func TestStoppedClientD28(t *testing.T) {
	f := func(change func(*gateway.Options), metric string) {
		t.Helper()
		w := run(t, change)
		p, slow := w.process()
		eventually(t, "the stream's opening", func() bool { return w.send(`{"token":"`+slow+`"}`) == `200 {"status":"ok"}` })
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		good, token := w.open("/good")
		big := strings.Repeat("x", 100_000)
		gone := false
		for i := 0; !gone; i++ {
			start := time.Now()
			if got := w.send(`{"token":"` + token + `","event":{"data":"tick"}}`); got != `200 {"status":"ok"}` {
				t.Fatal(got)
			}
			good.want("data: tick\n\n")
			if took := time.Since(start); took > 10*time.Second {
				t.Error("the good reader waited", took)
			}
			got := w.send(`{"token":"` + slow + `","event":{"data":"` + big + `"}}`)
			gone = got[:3] != "200"
			if i > 2000 {
				t.Fatal("the stopped client is still there")
			}
		}
		if told := w.backend.next(); told.Token != slow || told.Reason != "error" {
			t.Error(told.raw)
		}
		if n := w.metric(metric); n != 1 {
			t.Errorf("%s: %v", metric, n)
		}
	}
	f(func(o *gateway.Options) { o.Buffer, o.WriteTimeout = 1<<20, time.Minute }, "gateway_overflows_total")
	f(func(o *gateway.Options) { o.Buffer, o.WriteTimeout = 1<<30, 200*time.Millisecond }, "gateway_streams_dropped_total")
}

func TestBackendDown(t *testing.T) {
	w := run(t, nil)
	c, token := w.open("/")
	w.backend.server.Close()
	a := w.do("GET", "/x", "")
	if a.status != 503 || a.body != `{"error":{"message":"Backend unavailable","code":"BACKEND_UNAVAILABLE"}}` {
		t.Error(a.status, a.body)
	}
	if got := w.send(`{"token":"` + token + `","event":{"data":"x"},"close":true}`); got != `200 {"status":"ok"}` {
		t.Error(got)
	}
	if got := c.rest(); got != "data: x\n\n" {
		t.Errorf("%q", got)
	}
}

func TestShutdownD30(t *testing.T) {
	w := run(t, nil)
	const streams = 50
	var clients []*client
	tokens := map[string]bool{}
	for range streams {
		c, token := w.open("/")
		clients = append(clients, c)
		tokens[token] = true
	}
	// One that the backend is being asked about while the shutdown begins.
	asked, release := make(chan struct{}), make(chan struct{})
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			close(asked)
			<-release
		}
	})
	late := w.dial("/late")
	<-asked
	tokens[w.backend.next().Token] = true
	start := time.Now()
	var stopped sync.WaitGroup
	stopped.Go(w.stop)
	for _, c := range clients {
		got := c.rest()
		if !strings.HasPrefix(got, "retry: ") || !strings.HasSuffix(got, "\n\n") || strings.Count(got, "\n") != 2 {
			t.Errorf("%q", got)
		}
	}
	close(release)
	if late.answered(); late.status[:3] != "503" {
		t.Error(late.status)
	}
	stopped.Wait()
	if took := time.Since(start); took > 9*time.Second {
		t.Error("took", took)
	}
	for range streams + 1 {
		told := w.backend.next()
		if told.Action != "disconnect" || told.Reason != "server_closed" || !tokens[told.Token] {
			t.Error(told.raw)
		}
		delete(tokens, told.Token)
	}
	w.backend.quiet()
}

// A backend that hangs does not keep the gateway, nor its clients.
func TestShutdownBeforeAHangingBackend(t *testing.T) {
	w := run(t, func(o *gateway.Options) { o.Grace = 300 * time.Millisecond })
	c, _ := w.open("/")
	release := make(chan struct{})
	defer close(release)
	w.backend.does(func(http.ResponseWriter, callback) { <-release })
	start := time.Now()
	w.stop()
	if took := time.Since(start); took > 3*time.Second {
		t.Error("took", took)
	}
	if got := c.rest(); !strings.HasPrefix(got, "retry: ") {
		t.Errorf("%q", got)
	}
}

// Many connections come, get events in order and go, all at once.
func TestManyAtOnce(t *testing.T) {
	w := run(t, nil)
	var all sync.WaitGroup
	tokens := make(chan string, 100)
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			tokens <- c.Token
		}
	})
	for range 20 {
		all.Go(func() {
			c := w.dial("/").answered()
			c.want("event: ready\ndata:\n\n")
			if got := c.rest(); got != strings.Repeat("data: x\n\n", 20) {
				t.Errorf("%q", got)
			}
		})
		all.Go(func() {
			token := <-tokens
			eventually(t, "the stream's opening", func() bool { return w.send(`{"token":"`+token+`"}`) == `200 {"status":"ok"}` })
			for range 20 {
				w.send(`{"token":"` + token + `","event":{"data":"x"}}`)
			}
			w.send(`{"token":"` + token + `","close":true}`)
		})
	}
	all.Wait()
	if n := w.metric("gateway_streams"); n != 0 {
		t.Errorf("%v streams are left", n)
	}
}

// Whatever is posted, the answer is JSON of a known kind and the stream keeps
// its form.
func FuzzSend(f *testing.F) {
	for _, seed := range []string{"", "{}", "[]", `{"token":"T"}`, `{"token":"T","event":{"data":"a\nb\r"}}`, `{"token":"T","event":{"name":"n","data":"{}","id":"1"},"close":false}`,
		`{"token":"T","event":{"name":"\u2028","data":"1e5"}}`, `{"token":"T","event":{"name":"rejected","data":"x"}}`, "\xff", `{"token":"T","token":1,"event":{"data":"\ud800"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		frame, code, message := gateway.Parse(body)
		if code != "" {
			if message == "" || len(frame) > 0 {
				t.Fatalf("%s %q %q", code, message, frame)
			}
			return
		}
		if len(frame) == 0 {
			return
		}
		block, ended := bytes.CutSuffix(frame, []byte("\n\n"))
		if !ended || bytes.Contains(block, []byte("\n\n")) || bytes.Contains(block, []byte("\r")) {
			t.Fatalf("%q", frame)
		}
		for line := range bytes.SplitSeq(block, []byte("\n")) {
			field, _, ok := bytes.Cut(line, []byte(":"))
			if name := string(field); !ok || name != "data" && name != "event" && name != "id" {
				t.Fatalf("line %q in %q", line, frame)
			}
		}
	})
}
