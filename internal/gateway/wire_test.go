package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"signalbox/internal/gateway"
)

func TestSurface(t *testing.T) {
	w := run(t, nil)
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		a := w.do(method, path, body)
		if a.status != status || a.body != want {
			t.Errorf("%s %s: %d %q", method, path, a.status, a.body)
		}
		for name, value := range map[string]string{"Origin": "*", "Methods": "GET, POST, OPTIONS", "Headers": "Content-Type, Cache-Control"} {
			if got := a.header.Get("Access-Control-Allow-" + name); got != value {
				t.Errorf("%s %s: Access-Control-Allow-%s: %q", method, path, name, got)
			}
		}
		if kind := a.header.Get("Content-Type"); want != "" && kind != "application/json; charset=utf-8" {
			t.Errorf("%s %s: %s", method, path, kind)
		}
	}
	f("OPTIONS", "/", "", 204, "")
	f("OPTIONS", "/internal/send", "", 204, "")
	f("OPTIONS", "/any/../path//", "", 204, "")
	f("GET", "/healthz", "", 200, `{"status":"ok"}`)
	f("GET", "/readyz", "", 200, `{"status":"ready","configured":true,"rabbitmq":"disabled"}`)
	f("POST", "/other", "{}", 404, `{"error":{"message":"Not found","code":"NOT_FOUND"}}`)
	f("PUT", "/internal/send", "{}", 404, `{"error":{"message":"Not found","code":"NOT_FOUND"}}`)

	w = run(t, func(o *gateway.Options) { o.CallbackURL = "" })
	f("GET", "/healthz", "", 200, `{"status":"ok"}`)
	f("GET", "/readyz", "", 503, `{"status":"not_ready","configured":false,"rabbitmq":"disabled","reasons":["CALLBACK_URL not configured"]}`)
	f("GET", "/stream", "", 503, `{"error":{"message":"Service not configured","code":"SERVICE_NOT_CONFIGURED"}}`)
}

// Any path is a stream, and the backend is told of it as it was asked for.
func TestConnect(t *testing.T) {
	w := run(t, nil)
	for _, path := range []string{"/api/sse/stream?request_id=a%20b&x=<1>", "/", "/favicon.ico", "//a/../b/"} {
		c := w.dial(path, "X-A: 1", "X-A: 2", "Cookie: a=1", "Cookie: b=2", "Last-Event-ID: e-7", "Connection: keep-alive").answered()
		if c.status != "200 OK" {
			t.Fatal(path, c.status)
		}
		for name, value := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no",
			"Access-Control-Allow-Origin": "*", "Content-Encoding": "",
		} {
			if got := c.header.Get(name); got != value {
				t.Errorf("%s: %q", name, got)
			}
		}
		c.want("event: ready\ndata:\n\n")
		told := w.backend.next()
		want := `{"action":"connect","token":"` + told.Token + `","request":{"url":` + `"` + path + `"` +
			`,"headers":{"connection":"keep-alive","cookie":"a=1; b=2","host":"gw.example","last-event-id":"e-7","x-a":"1, 2"}}}`
		if told.raw != want {
			t.Errorf("got  %s\nwant %s", told.raw, want)
		}
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(told.Token) {
			t.Errorf("token %q", told.Token)
		}
		c.conn.Close()
		left := w.backend.next()
		if want := strings.Replace(want, `"connect"`, `"disconnect","reason":"client_closed"`, 1); left.raw != want {
			t.Errorf("got  %s\nwant %s", left.raw, want)
		}
	}
}

func TestAnswersOfTheBackend(t *testing.T) {
	w := run(t, nil)
	f := func(answer func(http.ResponseWriter), status int, body string) {
		t.Helper()
		w.backend.does(func(w http.ResponseWriter, _ callback) { answer(w) })
		a := w.do("GET", "/x", "")
		if a.status != status || a.body != body {
			t.Errorf("%d %q, want %d %q", a.status, a.body, status, body)
		}
		w.backend.next()
		w.backend.quiet() // no disconnect callback
	}
	code := func(n int) func(http.ResponseWriter) { return func(w http.ResponseWriter) { w.WriteHeader(n) } }
	f(code(400), 200, "event: rejected\ndata: {\"status\":400,\"message\":\"Bad Request\"}\n\n")
	f(code(401), 200, "event: rejected\ndata: {\"status\":401,\"message\":\"Unauthorized\"}\n\n")
	f(code(403), 200, "event: rejected\ndata: {\"status\":403,\"message\":\"Forbidden\"}\n\n")
	for _, n := range []int{302, 404, 409, 500, 503} {
		f(code(n), n, fmt.Sprintf(`{"error":{"message":"Backend returned %d","code":"BACKEND_ERROR"}}`, n))
	}
	raw := func(line string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, line)
			conn.Close()
		}
	}
	f(raw("HTTP/1.1 403 Not You\r\nContent-Length: 0\r\n\r\n"), 200, "event: rejected\ndata: {\"status\":403,\"message\":\"Not You\"}\n\n")
	f(raw("HTTP/1.1 401\r\nContent-Length: 0\r\n\r\n"), 200, "event: rejected\ndata: {\"status\":401,\"message\":\"Unauthorized\"}\n\n")
	f(raw(""), 503, `{"error":{"message":"Backend unavailable","code":"BACKEND_UNAVAILABLE"}}`)

	for _, body := range []string{"", "{}", "[1", `{"request_id":1,"bindings":"x"}`, `{"request_id":"r","bindings":["b"]}`} {
		w.backend.does(func(w http.ResponseWriter, _ callback) { w.WriteHeader(201); _, _ = io.WriteString(w, body) })
		c, _ := w.open("/")
		c.conn.Close()
		w.backend.next()
	}
	if n := w.metric("gateway_streams"); n != 0 {
		t.Errorf("%v streams are left", n)
	}
}

func TestSlowBackend(t *testing.T) {
	t.Parallel()
	w := run(t, nil)
	release := make(chan struct{})
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			<-release
		}
	})
	defer close(release)
	start := time.Now()
	a := w.do("GET", "/x", "")
	if a.status != 504 || a.body != `{"error":{"message":"Gateway timeout","code":"GATEWAY_TIMEOUT"}}` {
		t.Error(a.status, a.body)
	}
	if took := time.Since(start); took < 4500*time.Millisecond || took > 8*time.Second {
		t.Error("took", took)
	}
	w.backend.next()

	// A client that leaves meanwhile: nothing was opened, and nobody is told.
	c := w.dial("/y")
	w.backend.next()
	c.conn.Close()
	eventually(t, "the end of the connection", func() bool { return w.metric("gateway_streams") == 0 })
	w.backend.quiet()
}

func TestSend(t *testing.T) {
	w := run(t, func(o *gateway.Options) { o.MaxBody = 200_000 })
	c, token := w.open("/")
	f := func(body, want string) {
		t.Helper()
		if got := w.send(strings.ReplaceAll(body, "TOKEN", token)); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	invalid := func(body, code, message string) {
		t.Helper()
		f(body, `400 {"error":{"message":"Invalid request: `+message+`","code":"`+code+`"}}`)
	}
	const noToken, noTokenText = "INVALID_TOKEN_MISSING", "token is required and must be a string"
	for _, body := range []string{`{}`, `[]`, `{"token":""}`, `{"token":null}`, `{"token":7,"event":3,"close":"x"}`, `{"Token":"TOKEN"}`} {
		invalid(body, noToken, noTokenText)
	}
	for _, event := range []string{`null`, `"x"`, `1`, `true`, `[]`} {
		invalid(`{"token":"nobody","event":`+event+`,"close":1}`, "INVALID_EVENT_TYPE", "event must be an object")
	}
	for _, event := range []string{`{}`, `{"data":null}`, `{"data":{}}`, `{"name":1,"data":1}`} {
		invalid(`{"token":"TOKEN","event":`+event+`,"close":1}`, "INVALID_EVENT_DATA_MISSING", "event.data is required and must be a string")
	}
	for _, name := range []string{`null`, `1`, `{}`} {
		invalid(`{"token":"TOKEN","event":{"data":"","name":`+name+`},"close":1}`, "INVALID_EVENT_NAME_TYPE", "event.name must be a string")
	}
	for _, end := range []string{`null`, `1`, `"true"`} {
		invalid(`{"token":"nobody","close":`+end+`}`, "INVALID_CLOSE_TYPE", "close must be a boolean")
	}
	for _, id := range []string{`null`, `1`, `"a\nb"`, `"a\u0000"`, quote(strings.Repeat("x", 1025))} {
		invalid(`{"token":"TOKEN","event":{"data":"","id":`+id+`}}`, "INVALID_EVENT_ID", "event.id must be a short string on one line")
	}
	for _, id := range []string{`null`, `1`, `""`, `"a\nb"`, `"a\u0000"`, quote(strings.Repeat("x", 1025))} {
		invalid(`{"token":"TOKEN","id":`+id+`}`, "INVALID_ID", "id must be a short string on one line")
	}
	for _, data := range []string{``, `{`, `{} x`, "{\n}", "[1]\r", `<`} {
		invalid(`{"token":"TOKEN","event":{"name":"x","data":`+quote(data)+`}}`, "INVALID_EVENT_DATA", "event.data must be JSON on one line, since the event has a name")
	}
	invalid(`{"token":"TOKEN","event":{"name":"rejected","data":"a\nb"}}`, "INVALID_EVENT_DATA", "event.data must be on one line")
	f(`{"token":"nobody"}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	f(`{"token":"nobody","close":true}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	for _, body := range []string{``, `{`, `1`, `null`, `"x"`, `{"token":"TOKEN"} x`} {
		f(body, `400 {"error":{"message":"The body must be a JSON object","code":"INVALID_JSON"}}`)
	}
	f(`{"token":"TOKEN","event":{"data":"`+strings.Repeat("x", 200_000)+`"}}`, `413 {"error":{"message":"The body is too large","code":"BODY_TOO_LARGE"}}`)
	if a := w.do("POST", "/internal/send", "{}"); a.status != 415 || !strings.Contains(a.body, `"code":"UNSUPPORTED_MEDIA_TYPE"`) {
		t.Error(a.status, a.body)
	}

	// Nothing of that reached the client; what follows does, byte for byte.
	const ok = `200 {"status":"ok"}`
	event := func(event, want string) {
		t.Helper()
		f(`{"token":"TOKEN","event":`+event+`}`, ok)
		c.want(want)
	}
	f(`{"token":"TOKEN"}`, ok)
	f(`{"token":"TOKEN","close":false}`, ok)
	event(`{"name":"version","data":"{\"version\":\"1\"}"}`, "data: {\"type\":\"version\",\"payload\":{\"version\":\"1\"}}\n\n")
	event(`{"name":"a\"\\\né<","data":" [1, 2] "}`, "data: {\"type\":\"a\\\"\\\\\\né<\",\"payload\": [1, 2] }\n\n")
	event(`{"data":"one\ntwo\n"}`, "data: one\ndata: two\ndata: \n\n")
	event(`{"name":"","data":""}`, "data: \n\n")
	event(`{"data":"a\r\nb\rc"}`, "data: a\ndata: b\ndata: c\n\n")
	event(`{"name":"ready","data":"ignored"}`, "event: ready\ndata:\n\n")
	event(`{"name":"rejected","data":"{}"}`, "event: rejected\ndata: {}\n\n")
	event(`{"name":"n","id":"e-1","data":"1"}`, "id: e-1\ndata: {\"type\":\"n\",\"payload\":1}\n\n")
	event(`{"id":"e-2","data":"x"}`, "id: e-2\ndata: x\n\n")
	event(`{"data":"y"},"id":7`, "data: y\n\n") // of the stream without an event alone
	f(`{"token":"TOKEN","id":"e-3"}`, ok)
	c.want("id: e-3\n\n")
	big := strings.Repeat("x", 150_000)
	event(`{"data":"`+big+`"}`, "data: "+big+"\n\n")

	// Close: the event first, then the backend is told, then the stream ends.
	w.backend.does(func(http.ResponseWriter, callback) { time.Sleep(50 * time.Millisecond) })
	f(`{"token":"TOKEN","event":{"data":"bye"},"close":true}`, ok)
	told := w.backend.next()
	if told.Action != "disconnect" || told.Reason != "server_closed" || told.Token != token {
		t.Error(told.raw)
	}
	if got := c.rest(); got != "data: bye\n\n" {
		t.Errorf("%q", got)
	}
	f(`{"token":"TOKEN"}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	w.backend.quiet()
}

// What has no form is a failed write, which ends the stream.
func TestUnwritableD29(t *testing.T) {
	w := run(t, nil)
	c, token := w.open("/")
	if got := w.send(`{"token":"` + token + `","event":{"name":"rejected","data":""}}`); got != `500 {"error":{"message":"Write failed: connection closed","code":"WRITE_FAILED"}}` {
		t.Error(got)
	}
	if told := w.backend.next(); told.Action != "disconnect" || told.Reason != "error" {
		t.Error(told.raw)
	}
	if _, err := io.ReadAll(c.body); err == nil {
		t.Error("a cut stream looks whole")
	}
}

// While the backend is being asked, what it sends waits and comes first.
func TestBuffering(t *testing.T) {
	w := run(t, nil)
	buffered := func(token, rest string) {
		t.Helper()
		if got := w.send(`{"token":"` + token + `"` + rest + `}`); got != `200 {"status":"buffered"}` {
			t.Error(got)
		}
	}
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			buffered(c.Token, `,"event":{"name":"version","data":"1"}`)
			buffered(c.Token, "")
			buffered(c.Token, `,"event":{"data":"two"}`)
		}
	})
	c := w.dial("/").answered()
	c.want("data: {\"type\":\"version\",\"payload\":1}\n\ndata: two\n\nevent: ready\ndata:\n\n")
	c.conn.Close()
	w.backend.next()
	w.backend.next()

	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			buffered(c.Token, `,"event":{"data":"one"},"close":true`)
			buffered(c.Token, `,"event":{"data":"dropped"}`)
		}
	})
	if got := w.dial("/").answered().rest(); got != "data: one\n\n" {
		t.Errorf("%q", got)
	}
	w.backend.next()
	if told := w.backend.next(); told.Reason != "server_closed" {
		t.Error(told.raw)
	}

	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			buffered(c.Token, `,"close":true`)
		}
	})
	if got := w.dial("/").answered().rest(); got != "" {
		t.Errorf("%q", got)
	}
	w.backend.next()
	w.backend.next()

	w.backend.does(func(w2 http.ResponseWriter, c callback) {
		buffered(c.Token, `,"event":{"data":"one"}`)
		w2.WriteHeader(403)
	})
	if got := w.dial("/").answered().rest(); got != "event: rejected\ndata: {\"status\":403,\"message\":\"Forbidden\"}\n\n" {
		t.Errorf("%q", got)
	}
	w.backend.next()
	w.backend.quiet()
}

// What waits is bounded before the stream is open, too.
func TestBufferIsBoundedD28(t *testing.T) {
	w := run(t, func(o *gateway.Options) { o.Buffer = 100_000 })
	answers := make(chan string, 100)
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			for range 4 {
				answers <- w.send(`{"token":"` + c.Token + `","event":{"data":"` + strings.Repeat("x", 40_000) + `"}}`)
			}
		}
	})
	a := w.do("GET", "/", "")
	if a.status != 503 || !strings.Contains(a.body, `"code":"BUFFER_FULL"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, want := range []string{"200", "200", "500", "404"} {
		if got := <-answers; got[:3] != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	w.backend.next()
	if told := w.backend.next(); told.Reason != "error" {
		t.Error(told.raw)
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	w := run(t, func(o *gateway.Options) { o.Heartbeat = 320 * time.Millisecond })
	c, _ := w.open("/")
	start := time.Now()
	c.want(": heartbeat\n\n")
	if took := time.Since(start); took < 150*time.Millisecond || took > 5*time.Second {
		t.Error("first heartbeat after", took)
	}
	c.want(": heartbeat\n\n: heartbeat\n\n")
}

func TestSecrets(t *testing.T) {
	w := run(t, func(o *gateway.Options) { o.Secret, o.CallbackSecret = "s3cret", "c4llback" })
	for _, headers := range [][]string{nil, {"Authorization: Bearer s3cre"}, {"Authorization: Basic s3cret"}, {"Authorization: s3cret"}, {"Authorization: Bearer "}} {
		a := w.do("POST", "/internal/send", `{"token":"x"}`, append(headers, "Content-Type: application/json")...)
		if a.status != 401 || a.body != `{"error":{"message":"Unauthorized","code":"UNAUTHORIZED"}}` {
			t.Errorf("%v: %d %s", headers, a.status, a.body)
		}
	}
	if a := w.do("POST", "/internal/send", `{"token":"x"}`, "Content-Type: application/json; charset=utf-8", "Authorization: bearer s3cret"); a.status != 404 {
		t.Error(a.status, a.body)
	}
	c := w.dial("/").answered()
	if told := w.backend.next(); told.header.Get("Authorization") != "Bearer c4llback" {
		t.Error(told.header)
	}
	c.want("event: ready\ndata:\n\n")
}
