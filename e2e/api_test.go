package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/sse"
)

// problem is the body of an error.
type problem struct {
	Error   string `json:"error"`
	Details struct {
		Message string `json:"message"`
	} `json:"details"`
	Code          string `json:"code"`
	CorrelationID string `json:"correlationId"`
}

const (
	subscribePath   = "/api/device-logs/subscribe"
	unsubscribePath = "/api/device-logs/unsubscribe"
)

func pair(requestID string, d int64) map[string]any {
	return map[string]any{"request_id": requestID, "device_id": d}
}

// refused makes a request and checks the whole of the error that it gets.
func (s *server) refused(method, path string, body any, status int, code, message, text string) {
	s.t.Helper()
	r := s.want(status, method, path, body)
	var got problem
	r.into(s.t, &got)
	if got.Error != text || got.Code != code || got.Details.Message != message || got.CorrelationID == "" {
		s.t.Errorf("%s %s %v: %s, want %q with code %s", method, path, body, r.body, text, code)
	}
}

// Every answer of subscribe and unsubscribe, word for word.
func TestSubscriptionAnswers(t *testing.T) {
	s := start(t)
	d, mute := s.device("entity"), s.device("")
	next(t, s.curl("me"), "ready")
	notFound := func(path string, body any, text string) {
		t.Helper()
		s.refused("POST", path, body, 404, "RECORD_NOT_FOUND", "The requested resource could not be found", text)
	}
	forbidden := func(path string, body any, text string) {
		t.Helper()
		s.refused("POST", path, body, 403, "AUTHORIZATION_FAILED", "Insufficient permissions to access this resource", text)
	}
	ok := func(path string, body any, want map[string]any) {
		t.Helper()
		var got map[string]any
		s.want(200, "POST", path, body).into(t, &got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	subscribed := map[string]any{"status": "subscribed", "device_entity_id": "entity"}
	unsubscribed := map[string]any{"status": "unsubscribed"}

	notFound(unsubscribePath, pair("me", d.ID), "Subscription entity was not found")
	ok(subscribePath, pair("me", d.ID), subscribed)
	ok(subscribePath, pair("me", d.ID), subscribed) // once is enough, twice does no harm
	if got := s.metric("sse_device_log_subscriptions_active"); got != 1 {
		t.Errorf("%v subscriptions are counted, want 1", got)
	}
	ok(unsubscribePath, pair("me", d.ID), unsubscribed)
	notFound(unsubscribePath, pair("me", d.ID), "Subscription entity was not found")

	for _, path := range []string{subscribePath, unsubscribePath} {
		notFound(path, pair("me", 999), "Device 999 was not found")
		notFound(path, pair("me", mute.ID), fmt.Sprintf("Device entity ID %d was not found", mute.ID))
		notFound(path, pair("nobody", 999), "Device 999 was not found")
		forbidden(path, pair("nobody", d.ID), "No identity binding for this SSE connection")

		f := func(body any, wantType string, wantLoc ...any) {
			t.Helper()
			var got []struct {
				Type string `json:"type"`
				Loc  []any  `json:"loc"`
				Msg  string `json:"msg"`
			}
			r := s.want(400, "POST", path, body)
			r.into(t, &got)
			for _, g := range got {
				if g.Type == wantType && cmp.Equal(g.Loc, wantLoc) && g.Msg != "" {
					return
				}
			}
			t.Errorf("%s %v: %s, want an array with %s at %v", path, body, r.body, wantType, wantLoc)
		}
		f(map[string]any{"request_id": "me", "device_id": d.ID, "more": 1}, "extra_forbidden", "more")
		f(map[string]any{"request_id": "me"}, "missing", "device_id")
		f(map[string]any{"device_id": d.ID}, "missing", "request_id")
		f(map[string]any{"request_id": 5, "device_id": d.ID}, "string_type", "request_id")
		f(map[string]any{"request_id": "me", "device_id": "x"}, "int_parsing", "device_id")
		f("no JSON", "missing", "request_id")
		f("", "missing", "device_id")
	}
	if got := s.metric("sse_device_log_subscriptions_active"); got != 0 {
		t.Errorf("%v subscriptions are left", got)
	}
}

// What the server lists as followed.
type listed struct {
	Subscriptions []struct {
		DeviceID  int64   `json:"device_id"`
		Key       string  `json:"device_key"`
		Entity    *string `json:"device_entity_id"`
		RequestID string  `json:"request_id"`
		Subject   string  `json:"subject"`
	} `json:"subscriptions"`
	Count int `json:"count"`
}

func (s *server) listed(query string) (l listed) {
	s.t.Helper()
	s.want(200, "GET", "/api/device-logs/subscriptions"+query, nil).into(s.t, &l)
	return l
}

// A subscription belongs to the device, not to what the device calls itself:
// it follows a change of the entity id, can be ended when there is none any
// more, and ends with the device.
func TestSubscriptionFollowsDevice(t *testing.T) {
	s := start(t)
	d, e := s.device("before"), s.device("other")
	r := s.follow("r", d, e)
	b := s.board(d)
	b.say(1)
	r.waitFor(d, 1)

	s.rename(d, "after")
	stranger := s.device("before") // has the old name now, and not our reader
	s.board(stranger).say(1)
	b.device.Entity = "after"
	b.say(1)
	r.waitFor(d, 2)
	r.mu.Lock()
	if r.entity[d.ID] != "after" {
		t.Errorf("events say %q, want the new entity id", r.entity[d.ID])
	}
	if len(r.lines[stranger.ID]) > 0 {
		t.Error("the reader received lines of the device that took the old entity id")
	}
	r.mu.Unlock()

	l := s.listed("")
	if l.Count != 2 || len(l.Subscriptions) != 2 || l.Subscriptions[0].DeviceID != d.ID || *l.Subscriptions[0].Entity != "after" ||
		l.Subscriptions[0].Key != d.Key || l.Subscriptions[0].RequestID != "r" || l.Subscriptions[0].Subject != "local-user" {
		t.Errorf("listed %+v", l)
	}
	if l := s.listed(fmt.Sprintf("?device_id=%d", e.ID)); l.Count != 1 || l.Subscriptions[0].DeviceID != e.ID {
		t.Errorf("of one device listed %+v", l)
	}
	if l := s.listed(fmt.Sprintf("?device_id=%d", stranger.ID)); l.Count != 0 || l.Subscriptions == nil {
		t.Errorf("of a device that nobody follows listed %+v", l)
	}

	s.rename(d, "")
	s.want(200, "POST", unsubscribePath, pair("r", d.ID))
	s.refused("POST", unsubscribePath, pair("r", d.ID), 404, "RECORD_NOT_FOUND", "The requested resource could not be found", fmt.Sprintf("Device entity ID %d was not found", d.ID))
	if l := s.listed(""); l.Count != 1 {
		t.Errorf("after unsubscribing listed %+v", l)
	}

	s.want(204, "DELETE", fmt.Sprintf("/api/devices/%d", e.ID), nil)
	if l := s.listed(""); l.Count != 0 {
		t.Errorf("after the deletion listed %+v", l)
	}
	if got := s.metric("sse_device_log_subscriptions_active"); got != 0 {
		t.Errorf("%v subscriptions are counted", got)
	}
	s.refused("POST", unsubscribePath, pair("r", e.ID), 404, "RECORD_NOT_FOUND", "The requested resource could not be found", fmt.Sprintf("Device %d was not found", e.ID))
	r.check()
}

// Two devices that claim one entity id both get the lines of the shared topic,
// and the server says that this is doubtful; the topic of one is its alone.
func TestSharedEntity(t *testing.T) {
	s := start(t)
	a, b := s.device("twin"), s.device("twin")
	for _, d := range []device{a, b} {
		var got device
		s.want(200, "GET", fmt.Sprintf("/api/devices/%d", d.ID), nil).into(t, &got)
		other := a
		if d.ID == a.ID {
			other = b
		}
		if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], other.Key) {
			t.Errorf("warnings of %s: %q, want one that names %s", d.Key, got.Warnings, other.Key)
		}
	}
	ra, rb := s.follow("ra", a), s.follow("rb", b)
	voice := s.board(a)
	voice.say(1)
	ra.waitFor(a, 1)
	rb.waitFor(b, 1)
	voice.topic += "/" + a.ClientID
	voice.say(1)
	ra.waitFor(a, 2)
	voice.topic = sharedTopic
	voice.say(1)
	ra.waitFor(a, 3)
	rb.waitFor(b, 3)
	if got := rb.numbers(b); !cmp.Equal(got, []int{1, 3}) {
		t.Errorf("the second device has lines %v, want 1 and 3", got)
	}
	if got := s.metric("iot_logsink_lines_shared_total"); got != 2 {
		t.Errorf("%v shared lines are counted, want 2", got)
	}
	s.rename(b, "single")
	var got device
	s.want(200, "GET", fmt.Sprintf("/api/devices/%d", a.ID), nil).into(t, &got)
	if len(got.Warnings) != 0 {
		t.Errorf("warnings %q are left", got.Warnings)
	}
}

// The limits of streams and subscriptions are answered with 429, and what is
// open already goes on.
func TestLimits(t *testing.T) {
	s := start(t, "MAX_STREAMS=2", "MAX_SUBSCRIPTIONS_PER_STREAM=2")
	a, b, c := s.device("a"), s.device("b"), s.device("c")
	r := s.follow("one", a, b)
	s.follow("two")
	s.refused("GET", "/api/sse/stream?request_id=three", nil, 429, "TOO_MANY_REQUESTS", "A limit is reached", "The server has reached its limit of 2 event streams")
	s.refused("POST", subscribePath, pair("one", c.ID), 429, "TOO_MANY_REQUESTS", "A limit is reached", "A connection can follow at most 2 devices")
	s.subscribe("one", b) // it does so already
	s.want(200, "POST", unsubscribePath, pair("one", b.ID))
	s.subscribe("one", c)
	s.board(c).say(1)
	r.waitFor(c, 1)
	// Who comes back under the same request_id needs no place of its own.
	next(t, s.curl("two"), "ready")
}

// A second stream with the same request_id takes the place of the first, which
// ends, and does not follow what that followed.
func TestReplacement(t *testing.T) {
	s := start(t)
	d := s.device("d")
	first := s.curl("same")
	next(t, first, "ready")
	s.subscribe("same", d)
	second := s.curl("same")
	next(t, second, "ready")
	for {
		if _, err := first.Next(); err != nil {
			break
		}
	}
	if l := s.listed(""); l.Count != 0 {
		t.Errorf("the second stream inherited %+v", l)
	}
	if got := s.metric("sse_gateway_active_connections"); got != 1 {
		t.Errorf("%v streams are open, want 1", got)
	}
	b := s.board(d)
	b.say(1) // to nobody
	s.subscribe("same", d)
	b.say(1)
	var got batch
	if err := json.Unmarshal(next(t, second, "device-logs"), &got); err != nil || got.Logs[0].N != 2 {
		t.Errorf("the second stream brought %+v, want line 2 first", got)
	}
}

// A request_id that cannot be is rejected in the stream, where a page can see it.
func TestRejected(t *testing.T) {
	s := start(t)
	for _, id := range []string{"", "a:b", "%20", "%C3%A4", strings.Repeat("x", 129)} {
		r := s.want(200, "GET", "/api/sse/stream?request_id="+id, nil)
		want := "event: rejected\ndata: {\"status\":400,\"message\":\"Bad Request\"}\n\n"
		if got := string(r.body); got != want || r.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("request_id %q: %q as %s, want %q", id, got, r.header.Get("Content-Type"), want)
		}
	}
	if got := s.metric(`sse_identity_binding_total{status="failed"}`); got != 5 {
		t.Errorf("%v failed bindings are counted, want 5", got)
	}
	next(t, s.curl(strings.Repeat("x", 128)), "ready") // the longest
}

// Where a reader goes on is said by the header or, on the first connect of an
// EventSource, which cannot set one, by the query; what is no id is as good as
// none.
func TestLastEventID(t *testing.T) {
	s := start(t)
	d := s.device("d")
	b := s.board(d)
	first := s.follow("first", d)
	b.say(1)
	first.waitFor(d, 1)
	first.stop()
	id := first.last()
	b.say(2)

	open := func(requestID, query, header string) *sse.Decoder {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "GET", s.url("/api/sse/stream?request_id="+requestID+query), nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			q.Header.Set("Last-Event-ID", header)
		}
		a, err := s.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Body.Close() })
		dec := sse.NewDecoder(a.Body, "")
		next(t, dec, "ready")
		s.subscribe(requestID, d)
		return dec
	}
	firstLine := func(dec *sse.Decoder) int {
		t.Helper()
		var got batch
		if err := json.Unmarshal(next(t, dec, "device-logs"), &got); err != nil {
			t.Fatal(err)
		}
		return got.Logs[0].N
	}
	if got := firstLine(open("header", "", id)); got != 2 {
		t.Errorf("with the header the stream begins with line %d, want 2", got)
	}
	if got := firstLine(open("query", "&last_event_id="+id, "")); got != 2 {
		t.Errorf("with the query the stream begins with line %d, want 2", got)
	}
	if got := firstLine(open("both", "&last_event_id=rubbish", id)); got != 2 {
		t.Errorf("with both the stream begins with line %d, want 2, which the header says", got)
	}
	var fresh []*sse.Decoder
	for i, bad := range []string{"", "rubbish", "-", "1", "abc-", "abc-x", "abc-18446744073709551616", strings.Repeat("9", 40_000), id + "~", id + "~x.y", id + "~1.A"} {
		fresh = append(fresh, open(fmt.Sprintf("bad-%d", i), "", bad))
	}
	b.say(1)
	for i, dec := range fresh {
		if got := firstLine(dec); got != 4 {
			t.Errorf("bad id %d: the stream begins with line %d, want 4, the one said since", i, got)
		}
	}
}

// A line of the history comes with its document where that is asked for.
func TestHistoryDocuments(t *testing.T) {
	s := start(t)
	d := s.device("d")
	s.board(d).send([]byte(`{"entity_id":"d","message":"I (7) wifi: <up>","rssi":-60}`))
	ask := func(query string) (logs []map[string]any) {
		var a struct{ Logs []map[string]any }
		s.want(http.StatusOK, "GET", "/api/logs"+query, nil).into(t, &a)
		if len(a.Logs) != 1 {
			t.Fatalf("%s: %d lines", query, len(a.Logs))
		}
		return a.Logs
	}
	for _, query := range []string{"", "?documents=false"} {
		if l := ask(query)[0]; l["document"] != nil || l["message"] != "I (7) wifi: <up>" {
			t.Errorf("%s: %v", query, l)
		}
	}
	l := ask("?documents=true")[0]
	want := map[string]any{"@timestamp": l["timestamp"], "message": "I (7) wifi: <up>", "entity_id": "d", "rssi": -60.0}
	if diff := cmp.Diff(want, l["document"]); diff != "" {
		t.Error(diff)
	}
	s.refused("GET", "/api/logs?documents=maybe", nil, http.StatusBadRequest, "VALIDATION_FAILED", "Validation failed", "documents must be true or false")
}
