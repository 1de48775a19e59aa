package tail

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

func lamp() device { return dev(5, "aaaa2222", "Lamp", "lamp_entity") }
func door() device { return dev(6, "bbbb3333", "Front door", "door") }

// ready waits until the tail follows n devices, so that what is said then arrives.
func (s *server) ready(t *testing.T, n int) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		have, changed := 0, s.changed
		if s.conn != nil {
			if have = len(s.conn.devices); s.conn.all {
				have = len(s.fleet)
			}
		}
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%d devices are followed, not %d", have, n)
		}
	}
}

func TestPrintsLinesOfOneDevice(t *testing.T) {
	s := newServer(t, lamp(), door())
	r := start(t, s, Config{Devices: []string{"lamp_entity"}, Token: "secret"})
	s.ready(t, 1)
	s.say(6, "not ours")
	s.say(5, "hello", "world")
	r.out.wait(t, "world")
	r.stop(t)
	want := "14:43:27.948 Lamp | hello\n14:43:27.948 Lamp | world\n"
	if diff := cmp.Diff(want, r.out.String()); diff != "" {
		t.Error(diff)
	}
	open := s.openings()[0]
	if !regexp.MustCompile(`^[a-z0-9]{32}$`).MatchString(open.requestID) || open.lastID != "" || open.token != "Bearer secret" {
		t.Errorf("opened with %+v", open)
	}
	if r.err.String() != "" {
		t.Errorf("Err has %q", r.err)
	}
}

// Streams that break anywhere, also inside an event, while devices go on
// talking: every line is printed once, in its device's order.
func TestBrokenStreamsLoseAndRepeatNothing(t *testing.T) {
	s := newServer(t, lamp(), door())
	random := rand.New(rand.NewPCG(1, 2))
	s.cut = func(n int) int {
		if n > 60 {
			return 0
		}
		return 30 + random.IntN(900)
	}
	r := start(t, s, Config{All: true})
	s.ready(t, 2)
	const rounds = 150
	for i := range rounds {
		s.say(5, fmt.Sprintf("lamp %d a", i), fmt.Sprintf("lamp %d b", i))
		s.say(6, fmt.Sprintf("door %d a", i))
	}
	s.say(5, "lamp end")
	s.say(6, "door end")
	r.out.wait(t, "lamp end")
	r.out.wait(t, "door end")
	r.stop(t)

	want := map[string][]string{}
	for i := range rounds {
		want["Lamp"] = append(want["Lamp"], fmt.Sprintf("lamp %d a", i), fmt.Sprintf("lamp %d b", i))
		want["Front door"] = append(want["Front door"], fmt.Sprintf("door %d a", i))
	}
	want["Lamp"] = append(want["Lamp"], "lamp end")
	want["Front door"] = append(want["Front door"], "door end")
	got := map[string][]string{}
	for line := range strings.Lines(r.out.String()) {
		who, message, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " | ")
		name := strings.TrimSpace(who[len("14:43:27.948 "):])
		got[name] = append(got[name], message)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	opened := s.openings()
	if len(opened) < 10 {
		t.Errorf("only %d streams: nothing was broken", len(opened))
	}
	for _, o := range opened[1:] {
		if o.requestID != opened[0].requestID || o.lastID == "" {
			t.Fatalf("reopened with %+v after %+v", o, opened[0])
		}
	}
	if e := r.err.String(); !strings.Contains(e, "--- connection lost: ") || !strings.Contains(e, "--- resumed after ") {
		t.Errorf("Err has %q", e)
	}
}

// script writes a piece of a stream; the stream breaks when its handler returns.
func script(w http.ResponseWriter, pieces ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, p := range pieces {
		io.WriteString(w, p)
	}
	http.NewResponseController(w).Flush()
}

func logEvent(id string, device int64, body string) string {
	return string(sse.Event("device-logs", id, fmt.Appendf(nil, `{"device_entity_id":"x","device_id":%d,%s}`, device, body)).Block())
}

const readyEvent = "event: ready\ndata:\n\n"

// An id without an event moves the place too: nothing was said until the loss,
// however that came about.
func TestResumesFromMark(t *testing.T) {
	f := func(name, last string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp())
			followed := make(chan struct{})
			s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool {
				script(w, readyEvent)
				if n == 1 {
					<-followed
					script(w, logEvent("e-6", 5, batch("", "one")), "id: e-7\n\n", last)
					return true
				}
				<-r.Context().Done()
				return true
			}
			s.onSubscribe = func(n int, device int64, w http.ResponseWriter) bool {
				if n == 1 {
					close(followed)
				}
				return true
			}
			r := start(t, s, Config{Devices: []string{"aaaa2222"}})
			r.err.wait(t, "resumed after")
			r.stop(t)
			if got := s.openings()[1].lastID; got != "e-7" {
				t.Errorf("resumed from %q", got)
			}
		})
	}
	f("end", "")
	f("cut in an event", "id: e-8\ndata: {\"type\":\"dev")
	f("cut before the blank line", "id: e-8\ndata: {\"type\":\"device-logs\"}\n")
	f("rejected", "event: rejected\ndata: {\"status\":503,\"message\":\"later\"}\n\n")
}

func TestSilentStreamIsReopened(t *testing.T) {
	s := newServer(t, lamp())
	s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 1 {
			return false
		}
		script(w, readyEvent)
		<-r.Context().Done() // the client must hang up
		return true
	}
	p := quick
	p.idle = 50 * time.Millisecond
	r := start(t, s, Config{Devices: []string{"lamp"}, pace: p})
	r.err.wait(t, "--- connection lost: nothing heard for 50ms; reconnecting ---\n")
	r.err.wait(t, "resumed")
	r.stop(t)
}

// Heartbeats are bytes, although they are no events.
func TestHeartbeatsKeepTheStream(t *testing.T) {
	s := newServer(t, lamp())
	s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool {
		script(w, readyEvent)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return true
			}
			script(w, string(sse.Heartbeat().Block()))
		}
		script(w, logEvent("e-1", 5, batch("", "alive")))
		<-r.Context().Done()
		return true
	}
	p := quick
	p.idle = 400 * time.Millisecond
	r := start(t, s, Config{Devices: []string{"lamp"}, pace: p})
	r.out.wait(t, "alive")
	r.stop(t)
	if n := len(s.openings()); n != 1 || r.err.String() != "" {
		t.Errorf("%d streams; Err has %q", n, r.err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	s := newServer(t, lamp())
	begin := time.Now()
	var after [4]time.Duration
	busy := func(w http.ResponseWriter, status int) {
		w.Header().Set("Retry-After", "1")
		problem(w, status, "too many")
	}
	s.onList = func(n int, w http.ResponseWriter) bool {
		if n == 1 {
			busy(w, http.StatusServiceUnavailable)
			return true
		}
		after[1] = time.Since(begin)
		return false
	}
	s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			busy(w, http.StatusTooManyRequests)
			return true
		}
		after[2] = time.Since(begin)
		return false
	}
	s.onSubscribe = func(n int, device int64, w http.ResponseWriter) bool {
		if n == 1 {
			busy(w, http.StatusTooManyRequests)
			return true
		}
		after[3] = time.Since(begin)
		return false
	}
	r := start(t, s, Config{Devices: []string{"lamp"}})
	s.ready(t, 1)
	r.stop(t)
	for i := 1; i < len(after); i++ {
		if after[i]-after[i-1] < time.Second {
			t.Errorf("request %d came after %v", i, after[i]-after[i-1])
		}
	}
}

func TestRetryFieldIsHonoured(t *testing.T) {
	s := newServer(t, lamp())
	var ended atomic.Int64
	var waited atomic.Int64
	begin := time.Now()
	s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			script(w, "retry: 300\n\n")
			ended.Store(int64(time.Since(begin)))
			return true
		}
		waited.CompareAndSwap(0, int64(time.Since(begin))-ended.Load())
		return false
	}
	r := start(t, s, Config{Devices: []string{"lamp"}})
	s.ready(t, 1)
	r.stop(t)
	if d := time.Duration(waited.Load()); d < 300*time.Millisecond {
		t.Errorf("came back after %v", d)
	}
}

func TestEndsWhenTheServerRefuses(t *testing.T) {
	f := func(name string, prepare func(*server), cfg Config, kind fleet.Kind, msg string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp(), dev(7, "cccc4444", "Mute", ""))
			if prepare != nil {
				prepare(s)
			}
			err := start(t, s, cfg).end(t)
			if fleet.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), msg) {
				t.Errorf("ended with %v: %v", fleet.KindOf(err), err)
			}
		})
	}
	named, all := Config{Devices: []string{"lamp"}}, Config{All: true}
	open := func(status int, msg string) func(*server) {
		return func(s *server) {
			s.onOpen = func(_ int, w http.ResponseWriter, _ *http.Request) bool { problem(w, status, msg); return true }
		}
	}
	subscribe := func(status int, msg string) func(*server) {
		return func(s *server) {
			s.onSubscribe = func(_ int, _ int64, w http.ResponseWriter) bool { problem(w, status, msg); return true }
		}
	}
	f("list 401", func(s *server) {
		s.onList = func(_ int, w http.ResponseWriter) bool {
			problem(w, 401, "No valid token provided")
			return true
		}
	}, named, fleet.Unauthenticated, "No valid token provided")
	f("list 500", func(s *server) {
		s.onList = func(_ int, w http.ResponseWriter) bool { problem(w, 500, "Internal server error"); return true }
	}, named, fleet.External, "Internal server error")
	f("list of another server", func(s *server) {
		s.onList = func(_ int, w http.ResponseWriter) bool { io.WriteString(w, "<html>"); return true }
	}, named, fleet.External, "is it a Signalbox server?")
	f("open 401", open(401, "Token has expired"), named, fleet.Unauthenticated, "Token has expired")
	f("open 403", open(403, "no"), named, fleet.Forbidden, "no")
	f("open 404", open(404, "Resource not found"), named, fleet.NotFound, "Resource not found")
	f("open 400", open(400, "Invalid last event id"), named, fleet.Invalid, "Invalid last event id")
	f("open 200 of another server", func(s *server) {
		s.onOpen = func(_ int, w http.ResponseWriter, _ *http.Request) bool { io.WriteString(w, "hi"); return true }
	}, named, fleet.External, "is it a Signalbox server?")
	f("rejected", func(s *server) {
		s.onOpen = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			script(w, "event: rejected\ndata: {\"status\":401,\"message\":\"Unauthorized\\u001b\"}\n\n")
			return true
		}
	}, named, fleet.Unauthenticated, `rejected the stream: Unauthorized\x1b`)
	f("subscribe 401", subscribe(401, "Token has expired"), all, fleet.Unauthenticated, "Token has expired")
	f("subscribe 403", subscribe(403, "Insufficient permissions"), named, fleet.Forbidden, "Insufficient permissions")
	f("subscribe 403, all", subscribe(403, "Insufficient permissions"), all, fleet.Forbidden, "Insufficient permissions")
	f("subscribe 429", subscribe(429, "Too many subscriptions"), named, fleet.TooMany, "Too many subscriptions")
	f("subscribe 400", func(s *server) {
		s.onSubscribe = func(_ int, _ int64, w http.ResponseWriter) bool {
			w.WriteHeader(400)
			io.WriteString(w, `[{"msg":"Field required","loc":["request_id"]}]`)
			return true
		}
	}, named, fleet.Invalid, "Field required")
	f("no entity id", nil, Config{Devices: []string{"mute"}}, fleet.NotFound, "Mute has no entity id")
}

// A refusal that another stream may not meet.
func TestTriesAgain(t *testing.T) {
	f := func(name string, prepare func(*server)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp())
			prepare(s)
			r := start(t, s, Config{Devices: []string{"lamp"}})
			s.ready(t, 1)
			s.say(5, "hello")
			r.out.wait(t, "hello")
			r.stop(t)
		})
	}
	open := func(answer func(http.ResponseWriter)) func(*server) {
		return func(s *server) {
			s.onOpen = func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n <= 3 {
					answer(w)
				}
				return n <= 3
			}
		}
	}
	f("open 502", open(func(w http.ResponseWriter) { problem(w, 502, "Bad gateway") }))
	f("open 408", open(func(w http.ResponseWriter) { problem(w, 408, "Request timeout") }))
	f("no answer", open(func(http.ResponseWriter) { panic(http.ErrAbortHandler) }))
	f("rejected 503", open(func(w http.ResponseWriter) {
		script(w, "event: rejected\ndata: {\"status\":503,\"message\":\"later\"}\n\n")
	}))
	f("rejected without reason", open(func(w http.ResponseWriter) { script(w, "event: rejected\ndata: x\n\n") }))
	subscribe := func(status int) func(*server) {
		return func(s *server) {
			s.onSubscribe = func(n int, _ int64, w http.ResponseWriter) bool {
				if n == 1 {
					problem(w, status, "no")
				}
				return n == 1
			}
		}
	}
	f("subscribe 403 once", subscribe(403)) // the server restarted and does not know the stream
	f("subscribe 500 once", subscribe(500))
	f("subscribe 429 once", subscribe(429))
}

func TestUnreachableServer(t *testing.T) {
	s := newServer(t)
	s.Close()
	err := start(t, s, Config{All: true}).end(t)
	if fleet.KindOf(err) != fleet.Unavailable || !strings.Contains(err.Error(), "Cannot reach "+s.URL) {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	f := func(cfg Config, want string) {
		t.Helper()
		cfg.Out, cfg.Err = io.Discard, io.Discard
		if cfg.Server == "" {
			cfg.Server = "http://127.0.0.1:1"
		}
		err := Run(context.Background(), cfg)
		if fleet.KindOf(err) != fleet.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	f(Config{}, "at least one device")
	f(Config{All: true, Devices: []string{"x"}}, "not both")
	f(Config{All: true, Level: "loud"}, `level "loud"`)
	f(Config{All: true, Grep: "("}, "regular expression")
	f(Config{All: true, Color: "blue"}, `"blue"`)
	f(Config{All: true, Server: "ftp://x"}, "URL")
	f(Config{All: true, Server: "http://"}, "URL")
}

func TestAllFollowsDevicesThatComeLater(t *testing.T) {
	s := newServer(t)
	r := start(t, s, Config{All: true, Level: "info", Tag: "wifi", Grep: "^[a-z]+$"})
	r.err.wait(t, "no devices yet")
	s.ready(t, 0)
	s.mu.Lock()
	s.fleet = append(s.fleet, lamp(), dev(7, "cccc4444", "Mute", ""))
	s.mu.Unlock()
	s.ready(t, 2)
	s.say(5, "first")
	s.say(7, "second")
	r.out.wait(t, "second")
	s.mu.Lock()
	s.fleet = append(s.fleet, door())
	s.mu.Unlock()
	s.say(6, "third")
	s.say(6, "fourth")
	r.out.wait(t, "fourth")
	r.stop(t)
	for _, want := range []string{" Lamp | first\n", " Mute | second\n", " Front door | third\n"} {
		if got := r.out.String(); !strings.Contains(got, want) {
			t.Errorf("Out has %q, without %q", got, want)
		}
	}
	want := subscription{RequestID: s.openings()[0].requestID, All: true, lineFilter: lineFilter{Level: "info", Tag: "wifi", Regex: "^[a-z]+$"}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists != 3 || len(s.subscribed) != 1 {
		t.Errorf("%d lists and %d subscriptions; want one of each, and a list for each time that somebody new was heard", s.lists, len(s.subscribed))
	}
	if diff := cmp.Diff(want, s.subscribed[0], cmp.AllowUnexported(subscription{})); diff != "" {
		t.Error(diff)
	}
}

// A session that is over ends the tail, which says why and does not try again.
func TestSessionEnds(t *testing.T) {
	f := func(payload, why string) {
		t.Run(why, func(t *testing.T) {
			s := newServer(t, lamp(), door())
			s.onOpen = func(n int, w http.ResponseWriter, _ *http.Request) bool {
				script(w, string(sse.Event("session-expiring", "", []byte(`{"expires_at":"2026-07-04T08:00:00.000000Z"}`)).Block()), string(sse.Event("session-ended", "", []byte(payload)).Block()))
				return true
			}
			r := start(t, s, Config{All: true})
			if err := r.end(t); fleet.KindOf(err) != fleet.Unauthenticated || err.Error() != "The server has ended the session of the token: "+why {
				t.Errorf("ended with %v", err)
			}
			if n := len(s.openings()); n != 1 {
				t.Errorf("%d streams were opened", n)
			}
			r.err.wait(t, "--- the session of the token ends at 2026-07-04 08:00:00, unless it is renewed ---\n")
		})
	}
	f(`{"reason":"expired"}`, "its time is over")
	f(`{"reason":"revoked"}`, "it was revoked, or you may not follow devices any more")
	f(`{"reason":"logout"}`, "it was logged out")
	f(`{"reason":"\u001b[2J"}`, escape("\x1b[2J"))
	f(`7`, "it does not say why")
}

// A device that may not be seen any more is told; without the last one there is
// nothing to wait for.
func TestSubscriptionEnds(t *testing.T) {
	event := func(id int64) string {
		return string(sse.Event("subscription-ended", "", fmt.Appendf(nil, `{"device_entity_id":"x","device_id":%d,"reason":"forbidden"}`, id)).Block())
	}
	for _, all := range []bool{false, true} {
		s := newServer(t, lamp(), door())
		s.onOpen = func(_ int, w http.ResponseWriter, r *http.Request) bool {
			script(w, event(5), event(6))
			<-r.Context().Done()
			return true
		}
		cfg := Config{Devices: []string{"lamp", "door"}}
		if all {
			cfg = Config{All: true}
		}
		r := start(t, s, cfg)
		r.err.wait(t, "--- Lamp is followed no more: you may not see it any longer ---\n")
		r.err.wait(t, "--- Front door is followed no more: you may not see it any longer ---\n")
		if all {
			r.stop(t)
		} else if err := r.end(t); fleet.KindOf(err) != fleet.Forbidden || !strings.Contains(err.Error(), "nothing left to follow") {
			t.Error(err)
		}
	}
}

// A device that is deleted is told; without the last one there is nothing to
// wait for.
func TestDeletedDevices(t *testing.T) {
	drop := func(s *server, id int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fleet = slices.DeleteFunc(slices.Clone(s.fleet), func(d device) bool { return d.ID == id })
	}
	event := func(id int64) string {
		return string(sse.Event("device-deleted", "", fmt.Appendf(nil, `{"device_entity_id":"x","device_id":%d}`, id)).Block())
	}
	f := func(name string, cfg Config, onOpen func(s *server, n int, w http.ResponseWriter, r *http.Request) bool) {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp(), door())
			s.onOpen = func(n int, w http.ResponseWriter, r *http.Request) bool { return onOpen(s, n, w, r) }
			r := start(t, s, cfg)
			r.err.wait(t, "--- Lamp was deleted ---\n")
			if !cfg.All {
				err := r.end(t)
				if fleet.KindOf(err) != fleet.NotFound || !strings.Contains(err.Error(), "nothing left to follow") {
					t.Error(err)
				}
			}
			r.err.wait(t, "--- Front door was deleted ---\n")
			if cfg.All {
				r.stop(t)
			}
		})
	}
	told := func(_ *server, _ int, w http.ResponseWriter, r *http.Request) bool {
		script(w, event(5), event(6))
		<-r.Context().Done()
		return true
	}
	f("told", Config{Devices: []string{"lamp", "door"}}, told)
	f("told, all", Config{All: true}, told)
	f("found when asking again", Config{Devices: []string{"lamp", "door"}}, func(s *server, n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			drop(s, 5) // that of the first refusal
		} else {
			drop(s, 6)
		}
		script(w, readyEvent)
		for n == 1 { // until the other one is followed
			s.mu.Lock()
			followed, changed := s.conn.devices[6], s.changed
			s.mu.Unlock()
			if followed {
				return true
			}
			<-changed
		}
		<-r.Context().Done()
		return true
	})
}

func TestCancelLeavesNothingBehind(t *testing.T) {
	f := func(name string, prepare func(*server), until func(*testing.T, *server, *running)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s := newServer(t, lamp())
			if prepare != nil {
				prepare(s)
			}
			before := goleak.IgnoreCurrent()
			r := start(t, s, Config{Devices: []string{"lamp"}})
			until(t, s, r)
			begin := time.Now()
			r.stop(t)
			if d := time.Since(begin); d > 2*time.Second {
				t.Errorf("took %v", d)
			}
			s.Close()
			goleak.VerifyNone(t, before)
		})
	}
	f("following", nil, func(t *testing.T, s *server, _ *running) { s.ready(t, 1) })
	f("waiting to reconnect", func(s *server) {
		s.onOpen = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "100")
			problem(w, 503, "down")
			return true
		}
	}, func(t *testing.T, _ *server, r *running) { r.err.wait(t, "down") })
	asked := make(chan struct{})
	f("subscribing", func(s *server) {
		s.onSubscribe = func(_ int, _ int64, w http.ResponseWriter) bool {
			defer close(asked)
			w.Header().Set("Retry-After", "100")
			problem(w, 503, "down")
			return true
		}
	}, func(*testing.T, *server, *running) { <-asked })
}

func TestClosedOutputEndsQuietly(t *testing.T) {
	s := newServer(t, lamp())
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	read.Close()
	r := start(t, s, Config{Devices: []string{"lamp"}, Out: write})
	s.ready(t, 1)
	s.say(5, "nobody reads this")
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}

func TestFailingOutputIsAnError(t *testing.T) {
	s := newServer(t, lamp())
	out := newSink()
	out.fail = syscall.ENOSPC
	r := start(t, s, Config{Devices: []string{"lamp"}, Out: out})
	s.ready(t, 1)
	s.say(5, "too much")
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "Cannot write the output") {
		t.Error(err)
	}
}
