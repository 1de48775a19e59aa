package e2e_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"signalbox/internal/mosquittotest"
	"signalbox/internal/sse"
)

// rawStream is a stream as its bytes.
type rawStream struct {
	t      *testing.T
	status string
	header textproto.MIMEHeader
	body   *bufio.Reader // chunks taken apart
	lines  []string      // that were read
}

// raw opens a stream with a request that is written byte for byte.
func (s *server) raw(requestID, version, headers string) *rawStream {
	s.t.Helper()
	c, err := net.Dial("tcp", s.api)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /api/sse/stream?request_id=%s HTTP/%s\r\nHost: signalbox\r\n%s\r\n", requestID, version, headers)
	b := bufio.NewReader(c)
	head := textproto.NewReader(b)
	r := &rawStream{t: s.t}
	if r.status, err = head.ReadLine(); err != nil {
		s.t.Fatal(err)
	}
	if r.header, err = head.ReadMIMEHeader(); err != nil {
		s.t.Fatal(err)
	}
	r.body = b
	if r.header.Get("Transfer-Encoding") == "chunked" {
		r.body = bufio.NewReader(&chunks{from: b})
	}
	return r
}

// chunks takes HTTP/1.1 chunks apart, strictly: net/http forgives more.
type chunks struct {
	from *bufio.Reader
	left int
	end  bool // the last chunk came
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if c.left == 0 {
		size, err := c.from.ReadString('\n')
		if err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		if _, err := fmt.Sscanf(size, "%x\r\n", &c.left); err != nil || !strings.HasSuffix(size, "\r\n") {
			return 0, fmt.Errorf("a chunk of size %q", size)
		}
		if c.left == 0 {
			c.end = true
			if rest, err := c.from.ReadString('\n'); err != nil || rest != "\r\n" {
				return 0, fmt.Errorf("behind the last chunk: %q, %w", rest, err)
			}
			return 0, io.EOF
		}
	}
	n, err := c.from.Read(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		var crlf [2]byte
		if _, err = io.ReadFull(c.from, crlf[:]); err == nil && string(crlf[:]) != "\r\n" {
			err = fmt.Errorf("a chunk ends with %q", crlf)
		}
	}
	return n, err
}

// block reads up to the next blank line.
func (r *rawStream) block() string {
	r.t.Helper()
	var b strings.Builder
	for {
		line, err := r.body.ReadString('\n')
		if err != nil {
			r.t.Fatalf("the stream ended: %v after %q", err, b.String()+line)
		}
		b.WriteString(line)
		if line == "\n" {
			r.lines = append(r.lines, b.String())
			return b.String()
		}
	}
}

// The bytes of a stream: its headers, and each block as browsers, the reference
// page and the gateway expect it.
func TestWireBytes(t *testing.T) {
	s := start(t, "SSE_HEARTBEAT_INTERVAL=1s", `CORS_ORIGINS=["https://page.example"]`)
	d := s.device("wire")
	opened := time.Now()
	r := s.raw("wire", "1.1", "Origin: https://page.example\r\n")
	if r.status != "HTTP/1.1 200 OK" {
		t.Errorf("status line %q", r.status)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Connection": "keep-alive",
		"X-Accel-Buffering": "no", "Transfer-Encoding": "chunked", "Content-Encoding": "", "Content-Length": "",
		"Access-Control-Allow-Origin": "https://page.example", "Vary": "Origin",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got, want := r.block(), "retry: 2000\n\n"; got != want {
		t.Errorf("first block %q, want %q", got, want)
	}
	if got := r.block(); !regexp.MustCompile(`^data: \{"type":"version","payload":\{"version":"[^"]+"\}\}\n\n$`).MatchString(got) {
		t.Errorf("second block %q, want the version", got)
	}
	if got, want := r.block(), "event: ready\ndata:\n\n"; got != want {
		t.Errorf("third block %q, want %q", got, want)
	}
	if got, want := r.block(), ": heartbeat\n\n"; got != want {
		t.Errorf("fourth block %q, want %q", got, want)
	}
	if took := time.Since(opened); took < 900*time.Millisecond {
		t.Errorf("the first heartbeat came after %v, want an interval of a second", took)
	}

	s.subscribe("wire", d)
	b := s.board(d)
	b.send([]byte(`{"message":"\u001b[0;33mW (42) wifi: \u00fcber\u001b[0m","entity_id":"wire","relative_time":42,"n":1.50}` + "\r\n" + `{"message":"plain","entity_id":"wire","@timestamp":"never"}`))
	var event string
	for !strings.Contains(event, "data: ") {
		event = r.block()
	}
	const stamp = `"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"`
	shape := regexp.MustCompile(`^id: ([a-z0-9]{1,32}-\d+)\ndata: \{"type":"device-logs","payload":(\{.*\})\}\n\n$`)
	m := shape.FindStringSubmatch(event)
	if m == nil {
		t.Fatalf("a log event is %q", event)
	}
	var got struct {
		DeviceID int64             `json:"device_id"`
		Entity   string            `json:"device_entity_id"`
		Cursor   string            `json:"cursor"`
		Received string            `json:"received"`
		Lines    int               `json:"lines"`
		Logs     []json.RawMessage `json:"logs"`
		Meta     []json.RawMessage `json:"meta"`
	}
	if err := json.Unmarshal([]byte(m[2]), &got); err != nil {
		t.Fatal(err)
	}
	if got.DeviceID != d.ID || got.Entity != "wire" || got.Cursor != m[1] || got.Lines != 2 || len(got.Logs) != 2 || len(got.Meta) != 2 {
		t.Fatalf("the payload is %s", m[2])
	}
	f := func(pattern string, text json.RawMessage) {
		t.Helper()
		if !regexp.MustCompile("^" + pattern + "$").Match(text) {
			t.Errorf("%s does not look like %s", text, pattern)
		}
	}
	f(stamp, json.RawMessage(`"`+got.Received+`"`))
	f(`\{.*"@timestamp":`+stamp+`.*\}`, got.Logs[0])
	f(`\{.*"@timestamp":`+stamp+`.*\}`, got.Logs[1])
	f(`\{.*"message":"W \(42\) wifi: (ü|\\u00fc)ber".*\}`, got.Logs[0])
	f(`\{.*"n":1\.50.*\}`, got.Logs[0])
	f(`\{"level":"warn","tag":"wifi","uptime_ms":42\}`, got.Meta[0])
	f(`\{\}`, got.Meta[1])
	if strings.Contains(event, "relative_time") || strings.Contains(event, "never") {
		t.Errorf("the documents have what they should not: %s", event)
	}

	for range 2 {
		r.block()
	}
	beats := 0
	for _, block := range r.lines {
		if strings.Contains(block, "retry:") && block != r.lines[0] {
			t.Errorf("retry comes again: %q", block)
		}
		if strings.HasPrefix(block, ":") {
			beats++
			if block != ": heartbeat\n\n" {
				t.Errorf("a heartbeat is %q", block)
			}
		}
	}
	if beats < 2 {
		t.Errorf("%d heartbeats", beats)
	}
}

// A client of HTTP/1.0 knows no chunks and gets the same blocks.
func TestHTTP10(t *testing.T) {
	s := start(t)
	d := s.device("old")
	r := s.raw("old", "1.0", "")
	if r.header.Get("Transfer-Encoding") != "" || r.header.Get("Connection") != "close" {
		t.Errorf("headers %v", r.header)
	}
	for r.block() != "event: ready\ndata:\n\n" {
	}
	s.subscribe("old", d)
	s.board(d).say(1)
	for !strings.Contains(r.block(), `"message":"line 1"`) {
	}
}

// HEAD asks for the headers alone: it is answered at once, and leaves the
// stream that is open under that id in peace.
func TestHeadOpensNoStream(t *testing.T) {
	s := start(t)
	d := s.device("head")
	r := s.raw("head", "1.1", "")
	for r.block() != "event: ready\ndata:\n\n" {
	}
	s.subscribe("head", d)
	if a := s.want(200, "HEAD", "/api/sse/stream?request_id=head", nil); a.header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("headers %v", a.header)
	}
	if n := s.metric(`sse_gateway_connections_total{action="connect"}`); n != 1 {
		t.Errorf("%v streams were opened, want 1", n)
	}
	s.board(d).say(1)
	for !strings.Contains(r.block(), `"message":"line 1"`) {
	}
}

// Pages of other origins may read the answers if they are allowed to.
func TestCORS(t *testing.T) {
	s := start(t, `CORS_ORIGINS=["https://page.example"]`)
	f := func(method, path, origin, wantOrigin string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), method, s.url(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Origin", origin)
		if method == "OPTIONS" {
			q.Header.Set("Access-Control-Request-Method", "POST")
			q.Header.Set("Access-Control-Request-Headers", "content-type, last-event-id")
		}
		r, err := s.do(q)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.header.Get("Access-Control-Allow-Origin"); got != wantOrigin {
			t.Errorf("%s %s from %s: origin %q is allowed, want %q", method, path, origin, got, wantOrigin)
		}
		if got := r.header.Get("Access-Control-Allow-Credentials"); got != "" {
			t.Errorf("%s %s: credentials are allowed", method, path)
		}
		if method == "OPTIONS" {
			if r.status != 204 || (r.header.Get("Access-Control-Allow-Headers") != "") != (wantOrigin != "") {
				t.Errorf("preflight of %s from %s: %d %v", path, origin, r.status, r.header)
			}
		}
	}
	f("GET", "/api/devices", "https://page.example", "https://page.example")
	f("GET", "/api/devices", "https://evil.example", "")
	f("GET", "/api/nothing", "https://page.example", "https://page.example")
	f("GET", "/api/sse/stream?request_id=a:b", "https://page.example", "https://page.example")
	f("OPTIONS", subscribePath, "https://page.example", "https://page.example")
	f("OPTIONS", subscribePath, "https://evil.example", "")
}

// With a certificate the API speaks TLS, and HTTP/2 with those who know it,
// and the stream is the same.
func TestTLSAndHTTP2(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := mosquittotest.Certificates(t)
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	s := prepare(t, "TLS_CERT="+write("cert.pem", cert), "TLS_KEY="+write("key.pem", key), "SSE_HEARTBEAT_INTERVAL=1s")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	s.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	s.launch()
	d := s.device("secure")
	b := s.board(d)

	for _, version := range []int{2, 1} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: version == 2}}
		t.Cleanup(client.CloseIdleConnections)
		id := fmt.Sprintf("h%d", version)
		a, err := client.Get(s.url("/api/sse/stream?request_id=" + id))
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		if a.ProtoMajor != version || a.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("the stream came as %s with %v", a.Proto, a.Header)
		}
		var text strings.Builder
		dec := sse.NewDecoder(io.TeeReader(a.Body, &text), "")
		next(t, dec, "version")
		next(t, dec, "ready")
		if dec.Retry() != 2*time.Second {
			t.Errorf("retry is %v", dec.Retry())
		}
		s.subscribe(id, d)
		b.say(1)
		var got batch
		if err := json.Unmarshal(next(t, dec, "device-logs"), &got); err != nil || len(got.Logs) != 1 || got.Logs[0].N != b.said || dec.LastID() == "" {
			t.Errorf("HTTP/%d brought %+v with id %q", version, got, dec.LastID())
		}
		time.Sleep(1500 * time.Millisecond) // for a heartbeat, which no event shows
		b.say(1)
		next(t, dec, "device-logs")
		if !strings.Contains(text.String(), "\n\n: heartbeat\n\n") {
			t.Errorf("no heartbeat in %q", text.String())
		}
	}

	// The stream is told of the end in HTTP/2 as well.
	r := s.newReader("bye", d)
	r.http.Transport = s.http.Transport
	r.start()
	r.wait("the device is followed", func() bool { return r.live })
	s.terminate()
	if code := s.awaitExit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
