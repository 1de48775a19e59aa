package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"signalbox/internal/porttest"
)

// plainGateway is an SSE gateway written from the description of the protocol
// alone, as the reference system has it: it knows no ids, takes 100 kB, wants no
// secret, and says nothing when it dies.
type plainGateway struct {
	t        *testing.T
	addr     string
	callback string

	mu     sync.Mutex
	server *http.Server
	ended  chan struct{}
	conns  map[string]*plainStream
	faults []string // what a backend must not send
}

// plainStream is one client. Before it is open what is sent to it waits.
type plainStream struct {
	request json.RawMessage
	open    bool
	waiting []string
	out     chan string   // blocks to write
	end     chan struct{} // closed when the backend wants it closed
	closing bool
}

// launch starts it, without streams.
func (g *plainGateway) launch() {
	g.t.Helper()
	l, err := net.Listen("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	server, ended := &http.Server{Handler: g, ReadHeaderTimeout: patience, IdleTimeout: 5 * time.Second}, make(chan struct{})
	g.mu.Lock()
	g.server, g.ended, g.conns = server, ended, map[string]*plainStream{}
	g.mu.Unlock()
	go func() { defer close(ended); _ = server.Serve(l) }()
}

// crash ends it; nobody is told.
func (g *plainGateway) crash() {
	g.mu.Lock()
	server, ended := g.server, g.ended
	g.conns = map[string]*plainStream{}
	g.mu.Unlock()
	server.Close()
	<-ended
}

func (g *plainGateway) fault(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, fmt.Sprintf(format, args...))
}

func (g *plainGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/healthz":
		_, _ = io.WriteString(w, `{"status":"ok"}`)
	case r.URL.Path == "/readyz":
		_, _ = io.WriteString(w, `{"status":"ready","configured":true,"rabbitmq":"disabled"}`)
	case r.Method == http.MethodGet:
		g.stream(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/internal/send":
		g.send(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (g *plainGateway) call(action, reason, token string, request json.RawMessage) (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	body := map[string]any{"action": action, "token": token, "request": request}
	if reason != "" {
		body["reason"] = reason
	}
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	q, err := http.NewRequestWithContext(ctx, "POST", g.callback, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	q.Header.Set("Content-Type", "application/json")
	q.Close = true
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	answer, err := io.ReadAll(a.Body)
	_ = a.Body.Close() // it was read
	if err == nil && a.StatusCode == http.StatusOK && strings.TrimSpace(string(answer)) != "{}" {
		g.fault("the answer to a callback is %s", answer)
	}
	return a.StatusCode, err
}

func (g *plainGateway) stream(w http.ResponseWriter, r *http.Request) {
	headers := map[string]string{"host": r.Host}
	for name, values := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	request, err := json.Marshal(map[string]any{"url": r.RequestURI, "headers": headers})
	if err != nil {
		g.fault("%v", err)
	}
	token := uuid.NewString()
	s := &plainStream{request: request, out: make(chan string, 10_000), end: make(chan struct{})}
	g.mu.Lock()
	conns := g.conns
	conns[token] = s
	g.mu.Unlock()
	forget := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		known := g.conns[token] == s
		delete(conns, token)
		return known
	}
	status, err := g.call("connect", "", token, request)
	w.Header().Set("Content-Type", "text/event-stream")
	switch {
	case err != nil:
		forget()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case status == 400 || status == 401 || status == 403:
		forget()
		fmt.Fprintf(w, "event: rejected\ndata: {\"status\":%d,\"message\":%q}\n\n", status, http.StatusText(status))
		return
	case status != http.StatusOK:
		forget()
		w.WriteHeader(status)
		return
	case r.Context().Err() != nil:
		forget()
		return
	}
	g.mu.Lock()
	s.open = true
	first := strings.Join(s.waiting, "") + "event: ready\ndata:\n\n"
	g.mu.Unlock()
	rc := http.NewResponseController(w)
	_, _ = io.WriteString(w, first)
	_ = rc.Flush()
	for {
		select {
		case block := <-s.out:
			_, _ = io.WriteString(w, block)
			_ = rc.Flush()
			continue
		default:
		}
		select {
		case block := <-s.out:
			_, _ = io.WriteString(w, block)
			_ = rc.Flush()
		case <-s.end:
			return
		case <-r.Context().Done():
			if forget() { // else it has crashed
				_, _ = g.call("disconnect", "client_closed", token, request)
			}
			return
		}
	}
}

func (g *plainGateway) send(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, body string) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	body, err := io.ReadAll(r.Body)
	var b struct {
		Token string
		Event *struct {
			Name string
			Data *string
		}
		Close bool
	}
	switch {
	case err != nil || r.Header.Get("Content-Type") != "application/json" || json.Unmarshal(body, &b) != nil || b.Token == "" || b.Event != nil && b.Event.Data == nil:
		g.fault("%v: %.200s", err, body)
		w.WriteHeader(http.StatusBadRequest)
		return
	case len(body) > 100<<10:
		g.fault("a body of %d bytes", len(body))
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	block := ""
	switch {
	case b.Event == nil:
	case b.Event.Name == "" || b.Event.Name == "ready" || b.Event.Name == "rejected":
		g.fault("an event of the name %q", b.Event.Name)
	default: // as it comes
		block = `data: {"type":"` + b.Event.Name + `","payload":` + *b.Event.Data + "}\n\n"
	}
	g.mu.Lock()
	s := g.conns[b.Token]
	if s == nil {
		g.mu.Unlock()
		answer(http.StatusNotFound, `{"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
		return
	}
	if !s.open {
		if b.Event == nil {
			block = "data: \n\n" // which no page expects
		}
		s.waiting = append(s.waiting, block)
		g.mu.Unlock()
		answer(http.StatusOK, `{"status":"buffered"}`)
		return
	}
	if block != "" {
		s.out <- block
	}
	ends := b.Close && !s.closing
	if ends {
		s.closing = true
		delete(g.conns, b.Token)
	}
	g.mu.Unlock()
	if ends {
		_, _ = g.call("disconnect", "server_closed", b.Token, s.request)
		close(s.end)
	}
	answer(http.StatusOK, `{"status":"ok"}`)
}

// page is a client that keeps every byte of one stream.
type page struct {
	body io.ReadCloser
	over chan struct{} // closed when the stream has ended

	mu   sync.Mutex
	text strings.Builder
}

func (g *plainGateway) page(requestID string) *page {
	g.t.Helper()
	q, err := http.NewRequestWithContext(g.t.Context(), "GET", "http://"+g.addr+"/api/sse/stream?request_id="+requestID, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	q.Close = true
	a, err := http.DefaultClient.Do(q) //nolint:bodyclose // leave does
	if err != nil || a.StatusCode != http.StatusOK {
		g.t.Fatalf("%v, %v", a, err)
	}
	p := &page{body: a.Body, over: make(chan struct{})}
	go func() {
		defer close(p.over)
		b := make([]byte, 64<<10)
		for {
			n, err := a.Body.Read(b)
			p.mu.Lock()
			p.text.Write(b[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	g.t.Cleanup(p.leave)
	return p
}

func (p *page) leave() { p.body.Close(); <-p.over }

func (p *page) got() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func (p *page) has(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the stream has "+text, func() bool { return strings.Contains(p.got(), text) })
}

// lines returns the numbers of the log lines, and fails for anything that a page
// of the reference system does not expect.
func (p *page) lines(t *testing.T) (numbers []int) {
	t.Helper()
	for block := range strings.SplitSeq(strings.TrimSuffix(p.got(), "\n\n"), "\n\n") {
		if block == "event: ready\ndata:" {
			continue
		}
		data, ok := strings.CutPrefix(block, "data: ")
		var e struct {
			Type    string
			Payload batch
		}
		if err := json.Unmarshal([]byte(data), &e); !ok || err != nil || strings.Contains(data, "\n") {
			t.Errorf("%v: %.300q", err, block)
		}
		if e.Type == "device-logs" {
			for _, l := range e.Payload.Logs {
				numbers = append(numbers, l.N)
			}
		}
	}
	return numbers
}

// The server behind a gateway that does no more than the protocol says.
func TestPlainGateway(t *testing.T) {
	g := &plainGateway{t: t, addr: porttest.Free(t)}
	s := prepare(t, "SSE_GATEWAY_URL=http://"+g.addr+"/", "SSE_CALLBACK_SECRET=geheim")
	g.callback = s.url("/api/sse/callback") + "?secret=geheim"
	g.launch()
	t.Cleanup(g.crash)
	s.launch()
	streams := func(want float64) {
		t.Helper()
		for _, gauge := range []string{"sse_gateway_active_connections", "sse_device_log_subscriptions_active"} {
			eventually(t, fmt.Sprint(gauge, " is ", want), func() bool { return s.metric(gauge) == want })
		}
	}
	d := s.device("boiler")
	subscribe := func(id string) {
		t.Helper()
		a := s.want(http.StatusOK, "POST", "/api/device-logs/subscribe", map[string]any{"request_id": id, "device_id": d.ID})
		if !strings.Contains(string(a.body), `"status":"subscribed"`) {
			t.Errorf("%s", a.body)
		}
	}
	p := g.page("r1")
	p.has(t, "event: ready\ndata:\n\n")
	p.has(t, `data: {"type":"version","payload":{"version":"`)
	subscribe("r1")
	b := s.board(d)
	b.say(1)
	b.sayLong(2000, strings.Repeat("x", 200)) // more than the gateway takes at once
	p.has(t, `"n":2001,`)
	if a := s.inside("POST", "/internal/rotation-nudge"); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	p.has(t, `data: {"type":"rotation-updated","payload":{}}`+"\n\n")
	numbers := p.lines(t)
	for n, got := range numbers {
		if got != n+1 {
			t.Fatalf("line %d follows line %d", got, n)
		}
	}
	if len(numbers) != 2001 {
		t.Errorf("%d lines", len(numbers))
	}

	// One takes the place of another (D2); the first is told to go.
	again := g.page("r1")
	again.has(t, "event: ready\n")
	<-p.over
	subscribe("r1")
	streams(1)
	b.say(1)
	again.has(t, `"n":2002,`)
	if got := p.lines(t); len(got) != 2001 {
		t.Errorf("the stream that was replaced got %d lines", len(got))
	}
	bad := g.page("a:b")
	<-bad.over
	if got := bad.got(); got != "event: rejected\ndata: {\"status\":400,\"message\":\"Bad Request\"}\n\n" {
		t.Errorf("%q", got)
	}

	again.leave()
	streams(0)

	// It dies without a word, and comes back knowing nobody (D17).
	p = g.page("r2")
	p.has(t, "event: ready\n")
	subscribe("r2")
	streams(1)
	g.crash()
	<-p.over
	g.launch()
	streams(0)
	p = g.page("r2")
	p.has(t, "event: ready\n")
	subscribe("r2")
	streams(1)
	b.say(1)
	p.has(t, `"n":2003,`)

	// What is stopped closes its streams.
	s.terminate()
	if code := s.awaitExit(patience); code != 0 {
		t.Error("exit code", code)
	}
	select {
	case <-p.over:
	case <-time.After(patience):
		t.Error("the stream goes on")
	}
	p.lines(t)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.faults {
		t.Error(f)
	}
}

// A page's host that does not answer keeps no stream waiting: a gateway gives a
// callback five seconds (D34).
func TestPlainGatewaySlowVersionD34(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := &plainGateway{t: t, addr: porttest.Free(t)}
	s := prepare(t, "SSE_GATEWAY_URL=http://"+g.addr, "SSE_CALLBACK_SECRET=geheim", "FRONTEND_VERSION_URL=http://"+l.Addr().String()+"/version.json")
	g.callback = s.url("/api/sse/callback") + "?secret=geheim"
	g.launch()
	t.Cleanup(g.crash)
	s.launch()
	p := g.page("r")
	p.has(t, "event: ready\n")
	p.has(t, `data: {"type":"version","payload":{"error":"`)
	p.has(t, `"version":"unknown"}}`+"\n\n")
}
