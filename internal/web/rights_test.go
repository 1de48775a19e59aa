package web_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/sse"
)

// follower is a client that reads a stream.
type follower struct {
	t    *testing.T
	body io.ReadCloser
	dec  *sse.Decoder
}

// follow opens a stream as somebody.
func follow(t *testing.T, server *httptest.Server, who, id string) *follower {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/sse/stream?request_id="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Who", who)
	res, err := server.Client().Do(r) //nolint:bodyclose // the follower has it, and closes it in the end
	if err != nil {
		t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "text/event-stream" {
		t.Fatalf("%s: %s %s", who, res.Status, ct)
	}
	f := &follower{t, res.Body, sse.NewDecoder(res.Body, "")}
	t.Cleanup(func() { f.body.Close() })
	return f
}

// next returns the next event; "end" is the stream's.
func (f *follower) next() string {
	f.t.Helper()
	m, err := f.dec.Next()
	if err != nil {
		return "end"
	}
	return strings.TrimSpace(m.Name + " " + string(m.Data))
}

func (f *follower) want(events ...string) {
	f.t.Helper()
	for _, want := range events {
		if got := f.next(); got != want {
			f.t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func (e *estate) serve() *httptest.Server {
	s := httptest.NewServer(e.Handler())
	e.t.Cleanup(s.Close)
	return s
}

func (e *estate) counter(name, label string) (n int) {
	e.t.Helper()
	families, err := e.metrics.Gather()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				n += int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	return n
}

// Who may not have a stream is told so in one, and nothing is opened.
func TestRejectedInStream(t *testing.T) {
	e := newEstate(t)
	server := e.serve()
	unauthorized, forbidden := `rejected {"status":401,"message":"Unauthorized"}`, `rejected {"status":403,"message":"Forbidden"}`
	failed := 0
	f := func(who, id, want string) {
		t.Helper()
		follow(t, server, who, id).want(want, "end")
		if failed++; e.counter("sse_identity_binding_total", "failed") != failed {
			t.Errorf("%s: %d failed bindings are counted, want %d", who, e.counter("sse_identity_binding_total", "failed"), failed)
		}
	}
	f("", "r1", unauthorized)
	f("a stranger", "r1", unauthorized)
	f("nobody in particular", "r1", forbidden)
	f("viewer of all", "a:b", `rejected {"status":400,"message":"Bad Request"}`)
	e.standing = func(p access.Principal) (access.Principal, error) { return p, access.Deny(access.Revoked, nil) }
	f("viewer of all", "r1", unauthorized)
	e.standing = func(p access.Principal) (access.Principal, error) { return p, access.Deny(access.Expired, nil) }
	f("viewer of all", "r1", unauthorized)
	if n := e.counter("sse_gateway_active_connections", ""); n != 0 {
		t.Errorf("%d streams are open", n)
	}
	// Other routes say so with a status.
	if w := e.do("", "GET", "/api/devices", ""); w.Code != 401 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// A server that is busy is worth asking again.
	e.Drain()
	if w := e.do("", "GET", "/api/sse/stream?request_id=r1", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A request_id is of no use to anybody but who opened the stream (as CONTRACT
// D2 tells of the system before, where it was a key to all of it).
func TestForeignRequestID(t *testing.T) {
	e := newEstate(t)
	e.who["ann"] = access.Principal{Kind: access.Person, Subject: "ann", Roles: []string{"editor"}, Session: "s1"}
	e.who["ann elsewhere"] = access.Principal{Kind: access.Person, Subject: "ann", Roles: []string{"editor"}, Session: "s2"}
	e.who["ann's script"] = access.Principal{Kind: access.Token, Subject: "ann", Roles: []string{"editor"}, Session: "t1", Limit: access.Limit{Tags: []string{"lab"}}}
	e.who["bob"] = access.Principal{Kind: access.Person, Subject: "bob", Roles: []string{"editor", "admin"}, Session: "s3"}
	server := e.serve()
	anns := follow(t, server, "ann", "anns")
	anns.want("ready")

	const (
		unbound  = "No identity binding for this SSE connection"
		mismatch = "Identity mismatch for SSE connection"
	)
	f := func(who, action, body string, status int, text string) {
		t.Helper()
		w := e.do(who, "POST", "/api/device-logs/"+action, body)
		if w.Code != status || !strings.Contains(w.Body.String(), text) || status == 403 && !strings.Contains(w.Body.String(), `"code":"AUTHORIZATION_FAILED"`) {
			t.Errorf("%s: %s %s: %d %s; want %d %s", who, action, body, w.Code, w.Body, status, text)
		}
	}
	one, several, all := `{"request_id": "anns", "device_id": 1}`, `{"request_id": "anns", "device_ids": [1, 2]}`, `{"request_id": "anns", "all": true}`
	f("ann", "subscribe", one, 200, `"device_entity_id":"shared"`)
	for _, action := range []string{"subscribe", "unsubscribe"} {
		for _, body := range []string{one, several, all, `{"request_id": "anns", "model_id": 1}`} {
			f("bob", action, body, 403, mismatch)
			f("", action, body, 401, "No valid token provided")
			f("bob", action, strings.Replace(body, "anns", "bobs", 1), 403, unbound)
		}
		f("ann", action, `{"request_id": "anns", "device_id": 99}`, 404, "Device 99 was not found")
		f("ann", action, `{"request_id": "anns", "device_id": 1, "subject": "bob"}`, 400, "extra_forbidden")
	}
	follow(t, server, "bob", "anns").want(`rejected {"status":403,"message":"Forbidden"}`, "end")
	e.connections.Broadcast(sse.Control("still", "here"))
	anns.want("still here")
	if subs := e.connections.Subscriptions(nil); len(subs) != 1 || subs[0].Subject != "ann" {
		t.Errorf("%+v", subs)
	}

	// A script with less of ann's rights can have her stream follow nothing that
	// the script may not see, and learns nothing of it.
	f("ann's script", "subscribe", `{"request_id": "anns", "device_id": 777001}`, 404, "Device 777001 was not found")
	f("ann's script", "subscribe", `{"request_id": "anns", "device_ids": [2, 777002]}`, 404, "Device 777002 was not found")
	f("ann's script", "subscribe", all, 200, `"count":1,"devices":[{"device_id":2,`)

	// Ann's next connection takes the place of the first, and inherits nothing.
	script := follow(t, server, "ann's script", "anns")
	script.want("ready")
	anns.want("end")
	if subs := e.connections.Subscriptions(nil); len(subs) != 0 {
		t.Errorf("inherited %+v", subs)
	}
	f("ann", "subscribe", `{"request_id": "anns", "device_id": 777001}`, 404, "Device 777001 was not found") // the stream is the script's now
	elsewhere := follow(t, server, "ann elsewhere", "anns")
	elsewhere.want("ready")
	script.want("end")
	elsewhere.body.Close()
	eventually(t, func() bool { return e.counter("sse_gateway_active_connections", "") == 0 })
	bobs := follow(t, server, "bob", "anns")
	bobs.want("ready")
	f("ann", "unsubscribe", one, 403, mismatch)
	if subs := e.connections.Subscriptions(nil); len(subs) != 0 {
		t.Errorf("inherited %+v", subs)
	}
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it does not happen")
		}
	}
}

// The list of who follows what has only what the asker may see.
func TestSubscriptionsAreLimited(t *testing.T) {
	e := newEstate(t)
	server := e.serve()
	follow(t, server, "editor of all", "r1").want("ready")
	follow(t, server, "editor of a tag", "r2").want("ready")
	for who, id := range map[string]string{"editor of all": "r1", "editor of a tag": "r2"} {
		if w := e.do(who, "POST", "/api/device-logs/subscribe", `{"request_id": "`+id+`", "all": true}`); w.Code != 200 {
			t.Fatal(w.Body)
		}
	}
	f := func(who, query string, want int) {
		t.Helper()
		if w := e.do(who, "GET", "/api/device-logs/subscriptions"+query, ""); !strings.Contains(w.Body.String(), fmt.Sprintf(`"count":%d`, want)) {
			t.Errorf("%s %s: want %d: %s", who, query, want, w.Body)
		}
	}
	f("viewer of all", "", 5)
	f("viewer of all", "?device_id=2", 2)
	f("viewer of a tag", "", 2)
	f("viewer of a tag", "?device_id=2", 2)
	f("viewer of a model", "", 1)
	f("viewer of nothing", "", 0)
}

// Streams end and are told why: when the session was revoked, when it is over,
// and when somebody logged out; a role that is lost is as good as none.
func TestStreamsEndWithTheirRight(t *testing.T) {
	e := newEstate(t)
	now := make(chan func(access.Principal) (access.Principal, error), 1)
	now <- func(p access.Principal) (access.Principal, error) { return p, nil }
	e.standing = func(p access.Principal) (access.Principal, error) {
		f := <-now
		now <- f
		return f(p)
	}
	set := func(f func(access.Principal) (access.Principal, error)) {
		<-now
		now <- f
		e.connections.RecheckSoon()
	}
	add := func(name string, change func(*access.Principal)) access.Principal {
		p := access.Principal{Kind: access.Person, Subject: name, Roles: []string{"editor"}, Session: "s-" + name}
		change(&p)
		e.who[name] = p
		return p
	}
	ann := add("ann", func(*access.Principal) {})
	add("bob", func(*access.Principal) {})
	add("cid", func(p *access.Principal) { p.Expires = time.Now().Add(1200 * time.Millisecond) })
	dora := add("dora", func(p *access.Principal) { p.Session = ""; p.Expires = time.Now().Add(1200 * time.Millisecond) })
	add("eve", func(*access.Principal) {})
	server := e.serve()
	open := map[string]*follower{}
	for _, name := range []string{"ann", "bob", "cid", "dora", "eve"} {
		open[name] = follow(t, server, name, name)
		open[name].want("ready")
	}
	ended := func(reason string) string { return `{"type":"session-ended","payload":{"reason":"` + reason + `"}}` }
	within := func(f func()) {
		t.Helper()
		start := time.Now()
		f()
		if took := time.Since(start); took > 5*time.Second { // meant to be well under one, on a machine that does nothing else
			t.Errorf("it took %v", took)
		}
	}

	e.streams.LogOut(ann)
	within(func() { open["ann"].want(ended("logout"), "end") })

	set(func(p access.Principal) (access.Principal, error) {
		switch p.Subject {
		case "bob":
			return p, access.Deny(access.Revoked, nil)
		case "eve":
			p.Roles = []string{"pipeline"}
		}
		return p, nil
	})
	within(func() { open["bob"].want(ended("revoked"), "end") })
	within(func() { open["eve"].want(ended("revoked"), "end") })

	dora.Expires = dora.Expires.Add(time.Hour) // a new token
	e.streams.Extend(dora)
	if got := open["cid"].next(); !strings.HasPrefix(got, `{"type":"session-expiring","payload":{"expires_at":"`+e.who["cid"].Expires.UTC().Format("2006-01-02T15:04:05.")) {
		t.Errorf("got %s", got)
	}
	open["cid"].want(ended("expired"), "end")
	if late := time.Since(e.who["cid"].Expires); late < 0 || late > 5*time.Second {
		t.Errorf("it ended %v after its time", late)
	}
	e.connections.Broadcast(sse.Control("still", "here"))
	open["dora"].want("still here")
	for reason, n := range map[string]int{"logout": 1, "revoked": 2, "expired": 1} {
		if got := e.counter("sse_streams_ended_total", reason); got != n {
			t.Errorf("%d ended as %s", got, reason)
		}
	}
}

// A reader that takes nothing is not spared, whatever waits for it, and nothing
// of that is delivered any more.
func TestStalledStreamEnds(t *testing.T) {
	for name, open := range map[string]func(*testing.T, *estate) (rest func() []byte){
		"HTTP/1.1": func(t *testing.T, e *estate) func() []byte {
			server := e.serve()
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			fmt.Fprint(c, "GET /api/sse/stream?request_id=r1 HTTP/1.1\r\nHost: x\r\nWho: viewer of all\r\n\r\n")
			return func() []byte { b, _ := io.ReadAll(c); return b }
		},
		"HTTP/2": func(t *testing.T, e *estate) func() []byte {
			server := httptest.NewUnstartedServer(e.Handler())
			server.EnableHTTP2 = true
			server.StartTLS()
			t.Cleanup(server.Close)
			r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/api/sse/stream?request_id=r1", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Who", "viewer of all")
			res, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if res.ProtoMajor != 2 {
				t.Fatal(res.Proto)
			}
			t.Cleanup(func() { res.Body.Close() })
			return func() []byte { b, _ := io.ReadAll(res.Body); return b }
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstate(t)
			rest := open(t, e)
			eventually(t, func() bool { return len(e.streams.Outboxes()) == 1 })
			// Until a write hangs, and more waits than a socket takes.
			big := sse.Control("big", strings.Repeat("x", 30_000))
			out := e.streams.Outboxes()[0]
			eventually(t, func() bool {
				for out.OfferControl(big) {
				}
				before := out.Bytes()
				time.Sleep(50 * time.Millisecond)
				return out.Bytes() == before
			})
			waiting := out.Bytes()
			start := time.Now()
			e.streams.LogOut(e.who["viewer of all"])
			if n := len(e.connections.Subscriptions(nil)); n != 0 || waiting < 1<<20 {
				t.Errorf("%d subscriptions, %d bytes wait", n, waiting)
			}
			eventually(t, func() bool {
				return len(e.streams.Outboxes()) == 0
			})
			if took := time.Since(start); took > 5*time.Second { // meant to be well under one, on a machine that does nothing else
				t.Errorf("it took %v", took)
			}
			if n := e.counter("sse_streams_ended_total", "logout"); n != 1 {
				t.Errorf("%d counted", n)
			}
			rest()
		})
	}
}

// Whoever is in time hears the reason, though much was waiting.
func TestExpelDropsWhatWaits(t *testing.T) {
	e := newEstate(t)
	server := e.serve()
	f := follow(t, server, "viewer of all", "r1")
	f.want("ready")
	e.streams.Outboxes()[0].Finish(sse.Control("last", "words"), sse.End())
	f.want("last words", "end")
}

// A provider says in each new token what somebody may by now: their streams go on
// with that, and not with what the token said that they were opened with.
func TestStreamsFollowNewTokens(t *testing.T) {
	e := newEstate(t)
	ann := access.Principal{Kind: access.Person, Subject: "ann", Roles: []string{"viewer"}, Session: "s1", Expires: time.Now().Add(time.Hour)}
	e.who["ann"] = ann
	other := ann
	other.Session = "s2"
	e.who["ann elsewhere"] = other
	server := e.serve()
	here, there := follow(t, server, "ann", "here"), follow(t, server, "ann elsewhere", "there")
	here.want("ready")
	there.want("ready")
	if w := e.do("ann", "POST", "/api/device-logs/subscribe", `{"request_id": "here", "device_id": 1}`); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	ann.Expires = ann.Expires.Add(time.Minute)
	ann.Limit = access.Limit{Tags: []string{"lab"}}
	e.streams.Extend(ann)
	here.want(`{"type":"subscription-ended","payload":{"device_entity_id":"shared","device_id":1,"reason":"forbidden"}}`)
	if w := e.do("ann", "POST", "/api/device-logs/subscribe", `{"request_id": "here", "device_id": 1}`); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	ann.Roles = nil
	e.streams.Extend(ann)
	here.want(`{"type":"session-ended","payload":{"reason":"revoked"}}`, "end")
	e.connections.Broadcast(sse.Control("still", "here"))
	there.want("still here") // another session has a token of its own
}
