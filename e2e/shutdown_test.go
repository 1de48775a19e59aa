package e2e_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// SIGTERM ends the program in order: every stream is told when to come back,
// not all at once, and ends cleanly; what was acknowledged is there after the
// restart, for those who were connected.
func TestShutdown(t *testing.T) {
	s := start(t)
	var all []device
	for i := range 3 {
		all = append(all, s.device(fmt.Sprintf("down-%d", i)))
	}
	steady := s.follow("steady", all...)
	var talkers []*talker
	for _, d := range all {
		talkers = append(talkers, s.talk(d, 2*time.Millisecond, 2, false))
	}
	for _, d := range all {
		steady.waitFor(d, 20)
	}
	const streams = 20
	var raws []*rawStream
	for i := range streams {
		r := s.raw(fmt.Sprintf("raw-%d", i), "1.1", "")
		for r.block() != "event: ready\ndata:\n\n" {
		}
		s.subscribe(fmt.Sprintf("raw-%d", i), all[i%3])
		raws = append(raws, r)
	}

	begun := time.Now()
	s.terminate()
	retries := map[int]bool{}
	for i, r := range raws {
		rest, err := io.ReadAll(r.body)
		if err != nil {
			t.Errorf("stream %d was cut: %v", i, err)
			continue
		}
		at := strings.LastIndex(string(rest), "retry: ")
		if at < 0 || !strings.HasSuffix(string(rest), "\n\n") {
			t.Errorf("stream %d ended with %q, without a retry", i, rest[max(0, len(rest)-100):])
			continue
		}
		ms, err := strconv.Atoi(strings.TrimSpace(string(rest[at+len("retry: "):])))
		if err != nil || ms < 1000 || ms > 10_000 {
			t.Errorf("stream %d was told %q", i, rest[at:])
		}
		retries[ms] = true
	}
	if len(retries) < streams*3/4 {
		t.Errorf("%d streams were told only %d different times: %v", streams, len(retries), retries)
	}
	if code := s.awaitExit(10 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("shut down in %v", time.Since(begun))

	s.launch()
	for _, d := range all {
		steady.waitFor(d, 1+newest(talkers, d))
	}
	for _, k := range talkers {
		k.stop()
		k.checkHeard(steady)
	}
	steady.check()
}

// newest returns the last line that was acknowledged to the talker of d.
func newest(talkers []*talker, d device) int {
	for _, k := range talkers {
		if k.device.ID == d.ID {
			_, last, _ := k.state()
			return last
		}
	}
	return 0
}

// jam opens a stream that is never read, behind so much that its end cannot
// be written: a shutdown then takes as long as the write may.
func (s *server) jam(d device) {
	s.t.Helper()
	r := s.follow("jam", d)
	b := s.board(d)
	b.say(1)
	r.waitFor(d, 1)
	r.valve.shut()
	long := strings.Repeat("x", 60<<10)
	for range 20 {
		b.sayLong(10, long)
	}
	eventually(s.t, "the stream is jammed", func() bool { return s.metric("sse_log_readers_behind") == 1 })
}

// checkDraining checks what the server answers while it shuts down.
func (s *server) checkDraining() {
	s.t.Helper()
	eventually(s.t, "readyz says that the server shuts down", func() bool {
		r := s.call("GET", "/health/readyz", nil)
		return r.status == 503 && strings.TrimSpace(string(r.body)) == `{"ready":false,"status":"shutting down"}`
	})
	if r := s.inside("GET", "/health/readyz"); r.status != 503 {
		s.t.Errorf("readyz inside: %d", r.status)
	}
	if r := s.call("GET", "/health/healthz", nil); r.status != 200 {
		s.t.Errorf("healthz: %d", r.status)
	}
	for _, q := range [][2]string{{"GET", "/api/devices"}, {"POST", subscribePath}, {"GET", "/api/sse/stream?request_id=late"}} {
		r := s.call(q[0], q[1], nil)
		seconds, err := strconv.Atoi(r.header.Get("Retry-After"))
		if r.status != http.StatusServiceUnavailable || err != nil || seconds < 1 || !strings.Contains(string(r.body), "SERVICE_UNAVAILABLE") {
			s.t.Errorf("%s %s: %d, Retry-After %q, %s", q[0], q[1], r.status, r.header.Get("Retry-After"), r.body)
		}
	}
}

// While the program shuts down it says so to probes, and turns new work away
// with a time to come back. A reader that takes nothing holds it up no longer
// than its write may take, and exit is clean all the same.
func TestDraining(t *testing.T) {
	s := start(t, "STREAM_WRITE_TIMEOUT=3s", "GRACEFUL_SHUTDOWN_TIMEOUT=20s")
	s.jam(s.device("jam"))
	begun := time.Now()
	s.terminate()
	s.checkDraining()
	if code := s.awaitExit(15 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	t.Logf("shut down in %v", time.Since(begun))
}

// GET /health/drain shuts down for who has the key, and for nobody else. It
// answers when messages are no longer taken and the streams have ended.
func TestDrain(t *testing.T) {
	ask := func(s *server, url, key string) reply {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "GET", url+"/health/drain", nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			q.Header.Set("Authorization", key)
		}
		r, err := s.do(q)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	refused := func(s *server, key string) {
		t.Helper()
		r := ask(s, s.url(""), key)
		if r.status != 401 || strings.TrimSpace(string(r.body)) != `{"ready":false,"status":"unauthorized"}` {
			t.Errorf("with %q: %d %s", key, r.status, r.body)
		}
	}
	keyless := start(t)
	refused(keyless, "")
	refused(keyless, "Bearer ")
	refused(keyless, "Bearer x")
	if r := keyless.call("GET", "/health/readyz", nil); r.status != 200 {
		t.Errorf("readyz after refused drains: %d", r.status)
	}

	for _, inside := range []bool{false, true} {
		s := start(t, "DRAIN_AUTH_KEY=open-sesame")
		refused(s, "")
		refused(s, "open-sesame")
		refused(s, "Bearer open-sesam")
		refused(s, "Basic open-sesame")
		url := s.url("")
		if inside {
			url = "http://" + s.internal
		}
		stream := s.raw("r", "1.1", "")
		r := ask(s, url, "Bearer open-sesame")
		if r.status != 200 || strings.TrimSpace(string(r.body)) != `{"ready":true,"status":"alive"}` {
			t.Errorf("drain: %d %s", r.status, r.body)
		}
		if rest, err := io.ReadAll(stream.body); err != nil || !strings.Contains(string(rest), "retry: ") {
			t.Errorf("the stream ended with %v after %q", err, rest)
		}
		if code := s.awaitExit(10 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
	}
}
