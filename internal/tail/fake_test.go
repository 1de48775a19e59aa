package tail

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server speaks the HTTP API as Signalbox does, over a journal in memory, with
// hooks for what can go wrong.
type server struct {
	*httptest.Server

	// The first four may answer the n-th request (from 1) themselves
	// and then return true; cut gives the bytes after which the n-th stream
	// breaks, 0 for never. They are set before the first request.
	onList      func(n int, w http.ResponseWriter) bool
	onOpen      func(n int, w http.ResponseWriter, r *http.Request) bool
	onSubscribe func(n int, device int64, w http.ResponseWriter) bool
	onPage      func(n int, w http.ResponseWriter, q url.Values) bool
	cut         func(n int) int

	mu         sync.Mutex
	fleet      []device
	modelOf    map[int64]int64 // by device; a device that is not in it is of model 1
	queries    []url.Values    // of the history
	journal    []record        // the sequence of a record is its index + 1
	conn       *conn
	lists      int
	opened     []opening
	subscribed []subscription
	changed    chan struct{} // closed with the next subscription
}

// record is one batch: its device and the payload after the device's names.
type record struct {
	device int64
	gap    bool
	body   string
}

type opening struct{ requestID, lastID, token string }

// conn is one open stream.
type conn struct {
	requestID string
	place     logs.Position // what the stream has had
	devices   map[int64]bool
	model     string // of which every device is followed; "" is any
	all       bool   // every device, or every one of model
	wake      chan struct{}
}

func dev(id int64, key, name, entityID string) device {
	d := device{ID: id, Key: key}
	if name != "" {
		d.Name = &name
	}
	if entityID != "" {
		d.EntityID = &entityID
	}
	return d
}

func newServer(t *testing.T, fleet ...device) *server {
	s := &server{fleet: fleet, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/devices", s.list)
	mux.HandleFunc("GET /api/device-models", s.models)
	mux.HandleFunc("GET /api/logs", s.history)
	mux.HandleFunc("GET /api/sse/stream", s.stream)
	mux.HandleFunc("POST /api/device-logs/subscribe", s.subscribe)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func problem(w http.ResponseWriter, status int, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"error": msg})
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if s.onList != nil && s.onList(s.lists, w) {
		return
	}
	fleet := slices.DeleteFunc(slices.Clone(s.fleet), func(d device) bool { return !s.isOf(d.ID, r.URL.Query().Get("model_id")) })
	json.NewEncoder(w).Encode(map[string]any{"devices": fleet, "count": len(fleet)})
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	id, last := r.URL.Query().Get("request_id"), r.Header.Get("Last-Event-ID")
	c := &conn{requestID: id, devices: map[int64]bool{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.opened = append(s.opened, opening{id, last, r.Header.Get("Authorization")})
	n := len(s.opened)
	s.conn = c
	c.place = logs.Position{Cursor: logs.Cursor{Epoch: "e", Seq: uint64(len(s.journal))}}
	s.mu.Unlock()
	if s.onOpen != nil && s.onOpen(n, w, r) {
		return
	}
	if last != "" {
		place, err := logs.ParsePosition(last)
		if err != nil {
			problem(w, http.StatusBadRequest, "Invalid last event id")
			return
		}
		c.place = place
	}
	left := -1
	if s.cut != nil {
		if n := s.cut(n); n > 0 {
			left = n
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	write := func(f *sse.Frame) {
		b := f.Block()
		if left >= 0 && len(b) > left {
			w.Write(b[:left])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		left = max(left-len(b), -1)
		w.Write(b)
		http.NewResponseController(w).Flush()
	}
	write(sse.Mark(c.place.String()))
	write(sse.Control("ready", ""))
	for {
		f := s.next(c)
		if f != nil {
			write(f)
			continue
		}
		select {
		case <-c.wake:
		case <-r.Context().Done():
			return
		}
	}
}

// next returns the oldest record that the stream should have and has not.
func (s *server) next(c *conn) *sse.Frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, rec := range s.journal {
		seq := uint64(i + 1)
		at := slices.IndexFunc(s.fleet, func(d device) bool { return d.ID == rec.device })
		if !s.carries(c, rec.device) || seq <= c.place.Of(s.fleet[at].Key) {
			continue
		}
		if c.place.Apart == nil {
			c.place.Apart = map[string]uint64{}
		}
		c.place.Apart[s.fleet[at].Key] = seq
		name := "device-logs"
		if rec.gap {
			name = "log-gap"
		}
		return sse.Event(name, c.place.String(), fmt.Appendf(nil, `{"device_entity_id":%q,"device_id":%d,%s}`, text(s.fleet[at].EntityID), rec.device, rec.body))
	}
	return nil
}

// carries reports whether the stream should have the device's lines.
func (s *server) carries(c *conn, device int64) bool {
	return c.devices[device] || c.all && s.isOf(device, c.model)
}

func (s *server) subscribe(w http.ResponseWriter, r *http.Request) {
	var in subscription
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		problem(w, http.StatusBadRequest, "bad body")
		return
	}
	s.mu.Lock()
	s.subscribed = append(s.subscribed, in)
	n := len(s.subscribed)
	s.mu.Unlock()
	if s.onSubscribe != nil && s.onSubscribe(n, in.DeviceID, w) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.conn.requestID != in.RequestID {
		problem(w, http.StatusForbidden, "No identity binding for this SSE connection")
		return
	}
	ids := in.DeviceIDs
	if in.DeviceID != 0 {
		ids = []int64{in.DeviceID}
	}
	for _, id := range ids {
		at := slices.IndexFunc(s.fleet, func(d device) bool { return d.ID == id })
		if at < 0 {
			problem(w, http.StatusNotFound, fmt.Sprintf("Device %d was not found", id))
			return
		}
		if in.DeviceID != 0 && s.fleet[at].EntityID == nil {
			problem(w, http.StatusNotFound, fmt.Sprintf("Device entity ID %d was not found", id))
			return
		}
	}
	for _, id := range ids {
		s.conn.devices[id] = true
	}
	if in.All || in.ModelID != 0 {
		s.conn.all = true
		if in.ModelID != 0 {
			s.conn.model = strconv.FormatInt(in.ModelID, 10)
		}
	}
	s.conn.signal()
	close(s.changed)
	s.changed = make(chan struct{})
	json.NewEncoder(w).Encode(map[string]string{"status": "subscribed"})
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// append puts a record into the journal.
func (s *server) append(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = append(s.journal, r)
	if s.conn != nil {
		s.conn.signal()
	}
}

// say makes a device log one batch of info lines.
func (s *server) say(device int64, messages ...string) {
	s.append(record{device: device, body: batch("info", messages...)})
}

func (s *server) openings() []opening {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.opened)
}

const stamp = "2026-02-01T14:43:27.948123Z"

// batch is the body of a batch, with a level unless that is "".
func batch(level string, messages ...string) string {
	var docs, meta []string
	for _, m := range messages {
		doc, _ := json.Marshal(map[string]string{"@timestamp": stamp, "message": m, "entity_id": "x"})
		docs = append(docs, string(doc))
		meta = append(meta, fmt.Sprintf(`{"level":%q,"tag":"wifi","uptime_ms":1234}`, level))
	}
	body := fmt.Sprintf(`"received":%q,"lines":%d,"logs":[%s]`, stamp, len(docs), strings.Join(docs, ","))
	if level != "" {
		body += `,"meta":[` + strings.Join(meta, ",") + `]`
	}
	return body
}

// sink collects what is written to it.
type sink struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{} // closed with the next write
	fail    error
}

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	s.text.Write(p)
	close(s.changed)
	s.changed = make(chan struct{})
	return len(p), nil
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// wait returns once what was written has the text in it.
func (s *sink) wait(t *testing.T, text string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		have, changed := s.text.String(), s.changed
		s.mu.Unlock()
		if strings.Contains(have, text) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("no %q in:\n%s", text, have)
		}
	}
}

// quick are waits short enough for a test.
var quick = pace{idle: 20 * time.Second, minWait: time.Millisecond, maxWait: 20 * time.Millisecond}

// running is a tail at work.
type running struct {
	out, err *sink
	cancel   context.CancelFunc
	done     chan error
}

func start(t *testing.T, s *server, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{out: newSink(), err: newSink(), cancel: cancel, done: make(chan error, 1)}
	cfg = r.connect(s, cfg)
	go func() { r.done <- Run(ctx, cfg) }()
	t.Cleanup(cancel)
	return r
}

// connect makes cfg one for the server and for r.
func (r *running) connect(s *server, cfg Config) Config {
	cfg.Server = s.URL
	if cfg.Out == nil {
		cfg.Out = r.out
	}
	cfg.Err = r.err
	if cfg.pace == (pace{}) {
		cfg.pace = quick
	}
	cfg.zone = time.UTC
	return cfg
}

// end waits for Run's own end.
func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("Run did not end; Err has:\n%s", r.err)
		return nil
	}
}

// stop ends the run as Ctrl-C does.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := r.end(t); err != nil {
		t.Fatalf("Run returned %v after its context ended", err)
	}
}
