package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
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

	for _, url := range []string{"", "http://127.0.0.1:1/"} {
		w = run(t, func(o *gateway.Options) {
			queues, err := gateway.NewQueues(gateway.QueueOptions{URL: "amqp://127.0.0.1:1/", Log: o.Log, Registerer: o.Registerer})
			if err != nil {
				t.Fatal(err)
			}
			o.CallbackURL, o.Queues = url, queues
		})
		f("GET", "/healthz", "", 200, `{"status":"ok"}`)
		if url == "" {
			f("GET", "/readyz", "", 503, `{"status":"not_ready","configured":false,"rabbitmq":"disconnected","reasons":["CALLBACK_URL not configured","RabbitMQ not connected"]}`)
			f("GET", "/stream", "", 503, `{"error":{"message":"Service not configured","code":"SERVICE_NOT_CONFIGURED"}}`)
		} else {
			f("GET", "/readyz", "", 503, `{"status":"not_ready","configured":true,"rabbitmq":"disconnected","reasons":["RabbitMQ not connected"]}`)
			f("GET", "/stream", "", 503, `{"error":{"message":"RabbitMQ unavailable","code":"RABBITMQ_UNAVAILABLE"}}`)
		}
	}
}

// The bytes of an answer, from the status line on.
func TestBytes(t *testing.T) {
	w := run(t, nil)
	f := func(request string, head []string, body string, whole bool) {
		t.Helper()
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		var got []string
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%v after %q", err, got)
			}
			if line == "\r\n" {
				break
			}
			if !strings.HasPrefix(line, "Date: ") {
				got = append(got, strings.TrimSuffix(line, "\r\n"))
			}
		}
		head = append(head, "Access-Control-Allow-Headers: Content-Type, Cache-Control", "Access-Control-Allow-Methods: GET, POST, OPTIONS", "Access-Control-Allow-Origin: *")
		slices.Sort(head)
		slices.Sort(got)
		if !slices.Equal(got, head) {
			t.Errorf("%q:\ngot  %q\nwant %q", request, got, head)
		}
		text := make([]byte, len(body))
		if n, err := io.ReadFull(r, text); string(text[:n]) != body {
			t.Errorf("%q: got %q, %v, want %q", request, text[:n], err, body)
		}
		if whole {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if more, err := r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: it goes on with %q, %v", request, more, err)
		}
	}
	stream := func(more ...string) []string {
		return append(more, "HTTP/1.1 200 OK", "Content-Type: text/event-stream", "Cache-Control: no-cache", "X-Accel-Buffering: no")
	}
	const ask = "GET /x HTTP/1.1\r\nHost: gw.example\r\nAccept: application/json\r\nAccept-Encoding: gzip, br\r\n\r\n"
	f(ask, stream("Connection: keep-alive", "Transfer-Encoding: chunked"), "14\r\nevent: ready\ndata:\n\n\r\n", false)
	// As nginx asks, when it is not told otherwise.
	f("GET /x HTTP/1.0\r\nHost: gw.example\r\nConnection: close\r\n\r\n", stream("Connection: close"), "event: ready\ndata:\n\n", false)
	w.backend.does(func(w http.ResponseWriter, _ callback) { w.WriteHeader(401) })
	f(ask, stream("Connection: keep-alive", "Transfer-Encoding: chunked"),
		"3f\r\nevent: rejected\ndata: {\"status\":401,\"message\":\"Unauthorized\"}\n\n\r\n0\r\n\r\n", true)
	f("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", []string{"HTTP/1.1 204 No Content"}, "", false)
	f("POST /internal/send HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"+`{"token":"x"}`,
		[]string{"HTTP/1.1 404 Not Found", "Content-Type: application/json; charset=utf-8", "Content-Length: 64"},
		`{"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`, true)
}

// Any path is a stream, and the backend is told of it as it was asked for.
func TestConnect(t *testing.T) {
	w := run(t, nil)
	for _, path := range []string{"/api/sse/stream?request_id=a%20b&x=<1>", "/", "/favicon.ico", "//a/../b/", "/internal/send", "/healthz/"} {
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
	for _, n := range []int{302, 402, 404, 409, 429, 500, 503, 700} {
		f(code(n), n, fmt.Sprintf(`{"error":{"message":"Backend returned %d","code":"BACKEND_ERROR"}}`, n))
	}
	for _, n := range []int{301, 303, 307, 308} { // and it is not followed
		f(func(rw http.ResponseWriter) {
			rw.Header().Set("Location", w.backend.url)
			rw.WriteHeader(n)
		}, n, fmt.Sprintf(`{"error":{"message":"Backend returned %d","code":"BACKEND_ERROR"}}`, n))
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
	f(raw("HTTP/1.1 400 <\"&>\r\nContent-Length: 0\r\n\r\n"), 200, "event: rejected\ndata: {\"status\":400,\"message\":\"<\\\"&>\"}\n\n")
	f(raw("HTTP/1.1 401\r\nContent-Length: 0\r\n\r\n"), 200, "event: rejected\ndata: {\"status\":401,\"message\":\"Unauthorized\"}\n\n")
	f(raw(""), 503, `{"error":{"message":"Backend unavailable","code":"BACKEND_UNAVAILABLE"}}`)

	f(raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), 502, `{"error":{"message":"Backend returned 101","code":"BACKEND_ERROR"}}`)

	for _, n := range []int{200, 202, 204, 299} {
		w.backend.does(func(w http.ResponseWriter, _ callback) { w.WriteHeader(n) })
		c, _ := w.open("/")
		c.conn.Close()
		w.backend.next()
	}
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
	if took := time.Since(start); took < 4500*time.Millisecond || took > patience {
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

// A client that leaves while the backend is being asked: whatever that says then,
// nothing was opened, and it is told nothing more.
func TestClientLeavesMeanwhile(t *testing.T) {
	w := run(t, nil)
	for _, status := range []int{200, 403, 500} {
		asked, release := make(chan string, 1), make(chan struct{})
		w.backend.does(func(rw http.ResponseWriter, c callback) {
			asked <- c.Token
			<-release
			rw.WriteHeader(status)
		})
		path := fmt.Sprint("/gone/", status)
		c := w.dial(path)
		token := <-asked
		if got := w.send(`{"token":"` + token + `","event":{"data":"x"}}`); got != `200 {"status":"buffered"}` {
			t.Error(got)
		}
		c.conn.Close()
		for path != <-w.over {
		}
		close(release)
		eventually(t, "the end of the connection", func() bool { return w.metric("gateway_streams") == 0 })
		if got := w.send(`{"token":"` + token + `"}`); got[:3] != "404" {
			t.Error(got)
		}
		w.backend.next()
	}
	w.stop() // then nothing is told any more
	w.backend.quiet()
}

// The backend has five seconds for the end of a stream, too, and may say to it
// what it likes.
func TestSlowFarewell(t *testing.T) {
	t.Parallel()
	w := run(t, nil)
	release := make(chan struct{})
	defer close(release)
	c, token := w.open("/")
	w.backend.does(func(rw http.ResponseWriter, _ callback) { <-release })
	start := time.Now()
	if got := w.send(`{"token":"` + token + `","close":true}`); got != `200 {"status":"ok"}` {
		t.Error(got)
	}
	if took := time.Since(start); took < 4500*time.Millisecond || took > patience {
		t.Error("took", took)
	}
	if got := c.rest(); got != "" {
		t.Errorf("%q", got)
	}
	w.backend.does(nil)
	for _, status := range []int{404, 500} {
		c, token := w.open("/")
		w.backend.does(func(rw http.ResponseWriter, c callback) {
			if c.Action == "disconnect" {
				rw.WriteHeader(status)
			}
		})
		if got := w.send(`{"token":"` + token + `","close":true}`); got != `200 {"status":"ok"}` {
			t.Error(got)
		}
		if got := c.rest(); got != "" {
			t.Errorf("%q", got)
		}
		for w.backend.next().Action != "disconnect" {
		}
	}
	w.backend.quiet() // none is told twice
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
	invalid(`{"token":"TOKEN","event":{"name":"x","data":"{","id":1},"close":1}`, "INVALID_CLOSE_TYPE", "close must be a boolean")
	// What only this gateway asks for comes last.
	f(`{"token":"nobody","event":{"name":"x","data":"{"}}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	f(`{"token":"nobody","event":{"data":"","id":1}}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	f(`{"token":"nobody"}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	f(`{"token":"nobody","close":true}`, `404 {"error":{"message":"Token not found","code":"TOKEN_NOT_FOUND"}}`)
	for _, body := range []string{``, `{`, `1`, `null`, `"x"`, `{"token":"TOKEN"} x`} {
		f(body, `400 {"error":{"message":"The body must be a JSON object","code":"INVALID_JSON"}}`)
	}
	f(`{"token":"TOKEN","event":{"data":"`+strings.Repeat("x", 200_000)+`"}}`, `413 {"error":{"message":"The body is too large","code":"BODY_TOO_LARGE"}}`)
	if a := w.do("POST", "/internal/send", "{}"); a.status != 415 || !strings.Contains(a.body, `"code":"UNSUPPORTED_MEDIA_TYPE"`) {
		t.Error(a.status, a.body)
	}

	for _, how := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json-seq", "x", "application/json\nContent-Encoding: gzip"} {
		kind, coding, _ := strings.Cut(how, "\n")
		headers := []string{"Content-Type: " + kind}
		if coding != "" {
			headers = append(headers, coding)
		}
		if a := w.do("POST", "/internal/send", `{"token":"x"}`, headers...); a.status != 415 || !strings.Contains(a.body, `"code":"UNSUPPORTED_MEDIA_TYPE"`) {
			t.Error(how, a.status, a.body)
		}
	}
	if a := w.do("POST", "/internal/send", `{"token":"x"}`, "Content-Type: APPLICATION/JSON;charset=utf-8", "Content-Encoding: identity"); a.status != 404 {
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
	release := make(chan struct{})
	w.backend.does(func(http.ResponseWriter, callback) { <-release })
	answered := make(chan string, 1)
	go func() { answered <- w.send(`{"token":"` + token + `","event":{"data":"bye"},"close":true}`) }()
	c.want("data: bye\n\n")
	told := w.backend.next()
	if told.Action != "disconnect" || told.Reason != "server_closed" || told.Token != token {
		t.Error(told.raw)
	}
	c.quiet()
	select {
	case got := <-answered:
		t.Error("answered before the backend: ", got)
	default:
	}
	close(release)
	if got := <-answered; got != ok {
		t.Error(got)
	}
	if got := c.rest(); got != "" {
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

	// While the backend is being asked nothing is written, and so nothing fails.
	w.backend.does(func(_ http.ResponseWriter, c callback) {
		if c.Action == "connect" {
			for _, event := range []string{`{"data":"one"}`, `{"name":"rejected","data":""}`, `{"data":"dropped"}`} {
				if got := w.send(`{"token":"` + c.Token + `","event":` + event + `}`); got != `200 {"status":"buffered"}` {
					t.Error(got)
				}
			}
		}
	})
	if got := w.dial("/").answered().rest(); got != "data: one\n\n" {
		t.Errorf("%q", got)
	}
	w.backend.next()
	if told := w.backend.next(); told.Action != "disconnect" || told.Reason != "error" {
		t.Error(told.raw)
	}
	if n := w.metric("gateway_overflows_total"); n != 0 {
		t.Errorf("%v overflows", n)
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
	start := time.Now()
	c, _ := w.open("/")
	c.want(": heartbeat\n\n")
	if took := time.Since(start); took < 290*time.Millisecond || took > patience {
		t.Error("first heartbeat after", took)
	}
	c.want(": heartbeat\n\n: heartbeat\n\n")
}

// Who knows no secret neither writes to streams nor opens them (D4).
func TestSecretsD4(t *testing.T) {
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
