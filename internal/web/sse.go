package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/sse"
	"signalbox/internal/stream"
)

// StreamOptions configure Streams; all but Standing are needed.
type StreamOptions struct {
	Registry     *stream.Registry
	Log          *slog.Logger
	Registerer   prometheus.Registerer
	Heartbeat    time.Duration // between two heartbeats
	Buffer       int           // bytes that may wait for one reader
	WriteTimeout time.Duration // for one write; a reader that takes longer is dropped

	// Standing returns a principal as it is now, or why it is over (access.Deny).
	// It must be quick. Nil: it stays as it was when its stream was opened.
	Standing func(access.Principal) (access.Principal, error)
}

// Streams serves event streams. At most one goroutine writes to a stream at a
// time, and none waits for an idle one: it is started when frames are queued
// and ends when all are written. On HTTP/1.1 the connection is taken over from
// net/http, which frees the buffers and the goroutine that the request needed;
// one small goroutine waits there for the client to go.
type Streams struct {
	opts      StreamOptions
	metrics   streamMetrics
	buffers   sync.Pool // of *batch
	heartbeat *sse.Frame

	mu     sync.Mutex
	slot   int // the heartbeat slot of now
	open   map[*eventStream]struct{}
	closed bool
	all    sync.WaitGroup // the goroutines of all streams
}

type streamMetrics struct {
	events   *prometheus.CounterVec
	logs     *prometheus.CounterVec
	lines    prometheus.Counter
	duration *prometheus.HistogramVec
	latency  prometheus.Histogram
	dropped  prometheus.Counter

	// Of the vectors above, what nearly every write needs.
	eventsOfLogs, logsSent prometheus.Counter
	durationOfLogs         prometheus.Observer
}

// maxWrite is the most bytes gathered into one write; a longer frame is
// written by itself.
const maxWrite = 32 << 10

// reconnect is how long a client waits before it connects again.
const reconnect = 2 * time.Second

// batch is what one turn of writing needs.
type batch struct {
	frames []*sse.Frame
	bytes  []byte
}

// NewStreams returns a Streams without streams.
func NewStreams(o StreamOptions) *Streams {
	s := &Streams{
		opts: o, open: map[*eventStream]struct{}{}, heartbeat: sse.Heartbeat(),
		buffers: sync.Pool{New: func() any { return &batch{bytes: make([]byte, 0, maxWrite)} }},
		metrics: streamMetrics{
			events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_gateway_events_sent_total", Help: "Events written to event streams, by kind."}, []string{"service", "status"}),
			logs:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_device_log_events_sent_total", Help: "device-logs events written to event streams."}, []string{"status"}),
			lines:    prometheus.NewCounter(prometheus.CounterOpts{Name: "sse_device_log_lines_sent_total", Help: "Log lines written to event streams."}),
			duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sse_gateway_send_duration_seconds", Help: "Duration of one write to an event stream, by its kind.", Buckets: []float64{.00001, .0001, .001, .01, .1, 1, 10}}, []string{"service"}),
			latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sse_device_log_latency_seconds", Help: "From the receipt of a device's message to its being written to a stream; of each write, the oldest message that was live.",
				Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10}}),
			dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "sse_streams_dropped_total", Help: "Event streams closed because the reader took nothing for too long."}),
		},
	}
	m := &s.metrics
	o.Registerer.MustRegister(m.events, m.logs, m.lines, m.duration, m.latency, m.dropped)
	m.eventsOfLogs, m.logsSent = m.events.WithLabelValues(deviceLogs, "success"), m.logs.WithLabelValues("success")
	m.durationOfLogs = m.duration.WithLabelValues(deviceLogs)
	return s
}

// Run sends heartbeats until ctx ends, and then waits until every stream has
// ended; the registry's Close tells them to. Streams that are still open after
// grace are cut off.
func (s *Streams) Run(ctx context.Context, grace time.Duration) error {
	tick := time.NewTicker(s.opts.Heartbeat / heartbeatSlots)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.drain(grace)
			return nil
		case now := <-tick.C:
			s.beat(now)
		}
	}
}

// heartbeatSlots spreads the heartbeats of the streams over the interval, so
// that ten thousand of them do not come at once. A stream has the slot of its
// birth, so that its first heartbeat comes an interval after that.
const heartbeatSlots = 16

func (s *Streams) beat(now time.Time) {
	var due []*eventStream
	s.mu.Lock()
	s.slot = (s.slot + 1) % heartbeatSlots
	for st := range s.open {
		if st.slot == s.slot && now.Sub(st.conn.Opened) > s.opts.Heartbeat/2 {
			due = append(due, st)
		}
	}
	s.mu.Unlock()
	for _, st := range due {
		st.conn.Advance()
		st.out.OfferControl(s.heartbeat)
	}
}

// drain waits for the streams to end, but not for ever.
func (s *Streams) drain(grace time.Duration) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-time.After(grace):
	}
	s.mu.Lock()
	for st := range s.open {
		st.cut()
	}
	s.mu.Unlock()
	<-ended
}

// eventStream is one open stream: a queue, and where it is written.
type eventStream struct {
	streams *Streams
	out     *sse.Outbox
	conn    *stream.Connection
	slot    int // see heartbeatSlots

	mu      sync.Mutex
	who     access.Principal // who opened it, with the rights of by now
	started bool
	waiting bool      // frames were queued before the stream started
	over    bool      // nothing is written any more
	until   time.Time // when writing must have ended; zero: never

	// One of the two is set when the stream starts.
	socket   net.Conn                 // HTTP/1.1: ours
	head     []byte                   // what is still to be written before the first frame
	raw      bool                     // HTTP/1.0: no chunks
	deadline time.Time                // of writing to socket; only the writer looks at it
	kick     chan struct{}            // HTTP/2: the handler writes when kicked
	control  *http.ResponseController // likewise, while the handler runs
}

// serve is the handler of the stream route.
func (s *Streams) serve(w http.ResponseWriter, r *http.Request, who access.Principal) error {
	st := &eventStream{streams: s, who: who}
	st.out = sse.NewOutbox(s.opts.Buffer, st.wake)
	st.out.OfferControl(sse.Retry(reconnect))
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("last_event_id")
	}
	conn, err := s.opts.Registry.Connect(stream.Request{
		ID: r.URL.Query().Get("request_id"), Subject: who.Subject, LastEventID: last, Out: st.out, End: st.end,
		Cut: st.expel, Check: s.checkOf(st.principal),
	})
	if err != nil {
		return s.refuse(w, err)
	}
	st.conn = conn
	st.out.OfferControl(sse.Control("ready", ""))

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.opts.Registry.Disconnect(conn)
		return fleet.E(fleet.Unavailable, nil, "The server is shutting down")
	}
	s.all.Add(1)
	st.slot = s.slot
	s.open[st] = struct{}{}
	s.mu.Unlock()

	setStreamHeaders(w.Header())
	if r.ProtoMajor == 1 {
		socket, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			// What the client may have sent behind its request stays unread in
			// net/http's buffer: no request follows on an endless response.
			st.serveSocket(socket, w.Header(), r.ProtoAtLeast(1, 1))
			return nil
		}
		if !errors.Is(err, http.ErrNotSupported) {
			st.close()
			s.all.Done()
			return ignore(err) // the client went away
		}
	}
	st.serveHandler(w, r)
	return nil
}

func (st *eventStream) principal() access.Principal {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.who
}

// refuse answers a stream that was not opened. What the client cannot mend by
// trying again is said in the stream, as the SSE gateway does: a browser does
// not show the body of a failed event stream to the page.
func (s *Streams) refuse(w http.ResponseWriter, err error) error {
	code := 0
	switch fleet.KindOf(err) {
	case fleet.Invalid:
		code = http.StatusBadRequest
	case fleet.Unauthenticated:
		code = http.StatusUnauthorized
	case fleet.Forbidden:
		code = http.StatusForbidden
	default:
		return err
	}
	data, _ := json.Marshal(map[string]any{"status": code, "message": http.StatusText(code)}) // always marshals
	setStreamHeaders(w.Header())
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(sse.Control("rejected", string(data)).Block())
	return ignore(err)
}

// ignore drops an error of writing to a client that went away.
func ignore(error) error { return nil }

func setStreamHeaders(h http.Header) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
}

// serveSocket takes over an HTTP/1.1 connection. It returns at once.
func (st *eventStream) serveSocket(socket net.Conn, header http.Header, chunked bool) {
	head := []byte("HTTP/1.1 200 OK\r\n")
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	if chunked {
		header.Set("Connection", "keep-alive")
		header.Set("Transfer-Encoding", "chunked")
	} else {
		header.Set("Connection", "close")
	}
	for name, values := range header {
		for _, v := range values {
			head = append(append(append(append(head, name...), ": "...), v...), "\r\n"...)
		}
	}
	head = append(head, "\r\n"...)
	go st.awaitClient(socket) // counted in Streams.all by serve
	st.mu.Lock()
	st.socket, st.head, st.raw, st.started = socket, head, !chunked, true
	if st.over { // ended before it began
		socket.Close()
	} else {
		st.streams.all.Go(st.write)
	}
	st.mu.Unlock()
}

// awaitClient reads, and expects nothing, until the connection ends.
func (st *eventStream) awaitClient(socket net.Conn) {
	defer st.streams.all.Done()
	var b [64]byte
	for {
		if _, err := socket.Read(b[:]); err != nil {
			break
		}
	}
	st.close()
}

// wake starts a writer. The outbox calls it when there is none.
func (st *eventStream) wake() {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.over:
	case !st.started:
		st.waiting = true
	case st.kick != nil:
		select {
		case st.kick <- struct{}{}:
		default:
		}
	default:
		st.streams.all.Go(st.write)
	}
}

// write writes what is queued to the socket until the queue is empty.
func (st *eventStream) write() {
	s := st.streams
	b := s.buffers.Get().(*batch)
	defer func() {
		clear(b.frames)
		s.buffers.Put(b)
	}()
	for {
		b.frames = st.out.Take(b.frames[:0], maxWrite)
		if len(b.frames) == 0 {
			return
		}
		b.bytes = append(b.bytes[:0], st.head...)
		st.head = nil
		for _, f := range b.frames {
			part := f.Chunk()
			if st.raw {
				part = f.Block()
			}
			b.bytes = append(b.bytes, part...)
		}
		start := time.Now()
		err := st.extend(start)
		if err == nil {
			_, err = st.socket.Write(b.bytes)
		}
		s.observe(b.frames, start, err)
		if cap(b.bytes) > 4*maxWrite {
			b.bytes = make([]byte, 0, maxWrite)
		}
		if err != nil || b.frames[len(b.frames)-1].Last {
			st.cut()
			return
		}
	}
}

// extend gives the next write its time. A deadline that is nearly as far away
// as a new one would be is left alone: moving it costs as much as a tenth of
// the write.
func (st *eventStream) extend(now time.Time) error {
	timeout := st.streams.opts.WriteTimeout
	if st.deadline.Sub(now) > timeout-timeout/8 {
		return nil
	}
	st.deadline = now.Add(timeout)
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.socket.SetWriteDeadline(st.earlier(st.deadline))
}

// earlier returns the deadline, or st.until if that is before it. st.mu is held.
func (st *eventStream) earlier(deadline time.Time) time.Time {
	if !st.until.IsZero() && st.until.Before(deadline) {
		return st.until
	}
	return deadline
}

// serveHandler writes the stream from the handler, as HTTP/2 wants it.
func (st *eventStream) serveHandler(w http.ResponseWriter, r *http.Request) {
	s := st.streams
	defer s.all.Done()
	defer st.close()
	rc := http.NewResponseController(w)
	st.mu.Lock()
	st.kick, st.started, st.control = make(chan struct{}, 1), true, rc
	st.mu.Unlock()
	defer func() { // then nobody else may touch it
		st.mu.Lock()
		st.control = nil
		st.mu.Unlock()
	}()
	w.WriteHeader(http.StatusOK)
	var frames []*sse.Frame
	for {
		for frames = st.out.Take(frames[:0], maxWrite); len(frames) > 0; frames = st.out.Take(frames[:0], maxWrite) {
			start := time.Now()
			st.mu.Lock()
			err := rc.SetWriteDeadline(st.earlier(start.Add(s.opts.WriteTimeout)))
			st.mu.Unlock()
			for _, f := range frames {
				if err == nil {
					_, err = w.Write(f.Block())
				}
			}
			if err == nil {
				err = rc.Flush()
			}
			s.observe(frames, start, err)
			if err != nil || frames[len(frames)-1].Last {
				return
			}
		}
		select {
		case <-st.kick:
		case <-r.Context().Done():
			return
		}
		st.mu.Lock()
		over := st.over
		st.mu.Unlock()
		if over {
			return
		}
	}
}

// deviceLogs is the name, and the metric label, of an event with log lines.
const deviceLogs = "device-logs"

// observe counts one write.
func (s *Streams) observe(frames []*sse.Frame, start time.Time, err error) {
	m := &s.metrics
	now := time.Now()
	if err != nil {
		for _, f := range frames {
			m.events.WithLabelValues(service(f), "error").Inc()
			if f.Lines > 0 {
				m.logs.WithLabelValues("error").Inc()
			}
		}
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			m.dropped.Inc()
		}
		return
	}
	logs, lines := 0, 0
	var oldest time.Time
	for _, f := range frames {
		if f.Lines == 0 {
			m.events.WithLabelValues(service(f), "success").Inc()
			continue
		}
		if logs++; oldest.IsZero() {
			oldest = f.Received
		}
		lines += f.Lines
	}
	if logs == 0 {
		m.duration.WithLabelValues(service(frames[0])).Observe(now.Sub(start).Seconds())
		return
	}
	m.durationOfLogs.Observe(now.Sub(start).Seconds())
	m.eventsOfLogs.Add(float64(logs))
	m.logsSent.Add(float64(logs))
	m.lines.Add(float64(lines))
	if !oldest.IsZero() {
		m.latency.Observe(now.Sub(oldest).Seconds())
	}
}

// service is the metric label of a frame.
func service(f *sse.Frame) string {
	switch f.Name {
	case deviceLogs, "log-gap", "version":
		return f.Name
	case "rotation-updated":
		return "rotation"
	}
	return "control"
}

// end closes the stream once everything queued, and f, is written.
func (st *eventStream) end(f *sse.Frame) {
	if f != nil {
		st.out.OfferControl(f)
	}
	if !st.out.OfferControl(sse.End()) {
		st.cut()
	}
}

// lastWrite is how long a stream whose right is over may take for what is being
// written and for the reason.
const lastWrite = 300 * time.Millisecond

// expel closes the stream now: f is the last that is written, if the client
// takes it in time.
func (st *eventStream) expel(f *sse.Frame) {
	st.mu.Lock()
	st.until = time.Now().Add(lastWrite)
	// A write that is under way is hurried too. An error means that it has gone.
	switch {
	case st.socket != nil:
		_ = st.socket.SetWriteDeadline(st.until)
	case st.control != nil:
		_ = st.control.SetWriteDeadline(st.until)
	}
	st.mu.Unlock()
	st.out.Finish(f, sse.End())
}

// cut closes the stream at once; what was waiting is not written.
func (st *eventStream) cut() {
	st.out.Close()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.over = true
	if st.socket != nil {
		st.socket.Close() // wakes awaitClient, which does the rest
	}
	if st.kick != nil {
		select {
		case st.kick <- struct{}{}:
		default:
		}
	}
}

// close cuts the stream and takes it out of every list.
func (st *eventStream) close() {
	st.cut()
	s := st.streams
	s.opts.Registry.Disconnect(st.conn)
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
}
