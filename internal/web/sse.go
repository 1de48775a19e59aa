package web

import (
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

// Streams serves the event streams of the registry's connections.
type Streams struct {
	opts    StreamOptions
	metrics streamMetrics
	*sse.Streams

	mu      sync.Mutex
	readers map[*reader]struct{} // of the open streams
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

// reconnect is how long a client waits before it connects again.
const reconnect = 2 * time.Second

// NewStreams returns a Streams without streams.
func NewStreams(o StreamOptions) *Streams {
	s := &Streams{
		opts: o, readers: map[*reader]struct{}{},
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
	s.Streams = sse.NewStreams(sse.Options{Heartbeat: o.Heartbeat, Buffer: o.Buffer, WriteTimeout: o.WriteTimeout, Wrote: s.Observe})
	m := &s.metrics
	o.Registerer.MustRegister(m.events, m.logs, m.lines, m.duration, m.latency, m.dropped)
	m.eventsOfLogs, m.logsSent = m.events.WithLabelValues(deviceLogs, "success"), m.logs.WithLabelValues("success")
	m.durationOfLogs = m.duration.WithLabelValues(deviceLogs)
	return s
}

// reader is the owner of a stream: one connection of the registry.
type reader struct {
	streams *Streams
	conn    *stream.Connection

	mu  sync.Mutex
	who access.Principal // who opened it, with the rights of by now
}

// principal returns who reads, with the rights of by now.
func (r *reader) principal() access.Principal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.who
}

// Beat implements sse.Owner.
func (r *reader) Beat() { r.conn.Advance() }

// Closed implements sse.Owner.
func (r *reader) Closed(error) { r.leave() }

// leave takes the reader out of every list.
func (r *reader) leave() {
	r.streams.opts.Registry.Disconnect(r.conn)
	r.streams.mu.Lock()
	delete(r.streams.readers, r)
	r.streams.mu.Unlock()
}

// serve is the handler of the stream route.
func (s *Streams) serve(w http.ResponseWriter, r *http.Request, who access.Principal) error {
	st := s.New()
	st.Out().OfferControl(sse.Retry(reconnect))
	reading, err := s.connect(st, r, who)
	if err != nil {
		return s.refuse(w, err)
	}
	st.Out().OfferControl(sse.Control("ready", ""))
	if err := st.Serve(w, r, reading); err != nil {
		reading.leave()
		if errors.Is(err, sse.ErrClosed) {
			return fleet.E(fleet.Unavailable, nil, "The server is shutting down")
		}
		// Otherwise the client went away.
	}
	return nil
}

// target is where the events of a connection go.
type target interface {
	Out() *sse.Outbox
	End(*sse.Frame)
	Expel(*sse.Frame)
}

// connect opens a connection of the registry for the request of a client, and
// returns who is to be told of its end.
func (s *Streams) connect(to target, r *http.Request, who access.Principal) (*reader, error) {
	reading := &reader{streams: s, who: who}
	last := r.Header.Get("Last-Event-ID")
	if last == "" {
		last = r.URL.Query().Get("last_event_id")
	}
	conn, err := s.opts.Registry.Connect(stream.Request{
		ID: r.URL.Query().Get("request_id"), Subject: who.Subject, LastEventID: last, Out: to.Out(), End: to.End,
		Cut: to.Expel, Check: s.checkOf(reading.principal),
	})
	if err != nil {
		return nil, err
	}
	reading.conn = conn
	s.mu.Lock()
	s.readers[reading] = struct{}{}
	s.mu.Unlock()
	return reading, nil
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
	sse.Reject(w, code, http.StatusText(code))
	return nil
}

// deviceLogs is the name, and the metric label, of an event with log lines.
const deviceLogs = "device-logs"

// Observe counts one write to a stream, which began at start, wherever the stream
// is carried.
func (s *Streams) Observe(frames []*sse.Frame, start time.Time, err error) {
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
