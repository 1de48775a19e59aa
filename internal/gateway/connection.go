package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/google/uuid"

	"signalbox/internal/sse"
)

// connection is one client, from when the backend is asked about it until its
// stream has ended.
type connection struct {
	server  *Server
	token   string
	request json.RawMessage // for the callbacks
	stream  *sse.Stream

	mu      sync.Mutex
	open    bool   // the backend has agreed
	closing string // why it is to end once it is open; "": it is not
	ended   bool   // it is in no list, and the backend has been told or is being told
	binding *binding
}

// connect opens a stream, if the backend wants it.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.opts.CallbackURL == "":
		s.metrics.connects.WithLabelValues("not_configured").Inc()
		refuse(w, errNotConfigured)
		return
	case s.opts.Queues != nil && !s.opts.Queues.connected():
		s.metrics.connects.WithLabelValues("rabbitmq_unavailable").Inc()
		refuse(w, errNoQueues)
		return
	}
	c := &connection{server: s, token: uuid.NewString(), request: requestOf(r), stream: s.streams.New()}
	if p := s.add(c); p != nil {
		s.metrics.connects.WithLabelValues("refused").Inc()
		refuse(w, p)
		return
	}
	v, err := s.backend.connected(c)
	if r.Context().Err() != nil { // the client has gone
		s.metrics.connects.WithLabelValues("client_gone").Inc()
		c.end()
		return
	}
	if err != nil {
		s.log.Warn("the backend was not reached", "err", err)
		c.end()
		p := errNoBackend
		if isTimeout(err) {
			p = errTimeout
		}
		s.metrics.connects.WithLabelValues(resultOf(0, err)).Inc()
		refuse(w, p)
		return
	}
	s.metrics.connects.WithLabelValues(resultOf(v.status, nil)).Inc()
	switch {
	case v.status >= 200 && v.status < 300:
		c.begin(w, r, v)
	case v.status == http.StatusBadRequest, v.status == http.StatusUnauthorized, v.status == http.StatusForbidden:
		c.end()
		if v.phrase == "" {
			v.phrase = http.StatusText(v.status)
		}
		if r.ProtoAtLeast(1, 1) && r.ProtoMajor == 1 {
			w.Header().Set("Connection", "keep-alive") // as any stream has it
		}
		sse.Reject(w, v.status, v.phrase)
		_ = http.NewResponseController(w).Flush() // so that it comes in chunks, as a stream; it fails when the client went away
	default:
		s.log.Warn("the backend did not answer about a stream", "status", v.status)
		c.end()
		p := &problem{v.status, "BACKEND_ERROR", fmt.Sprintf("Backend returned %d", v.status)}
		if v.status < 300 || v.status > 999 { // no status to end an answer with
			p.status = http.StatusBadGateway
		}
		refuse(w, p)
	}
}

// begin makes the stream the answer.
func (c *connection) begin(w http.ResponseWriter, r *http.Request, v verdict) {
	s := c.server
	c.mu.Lock()
	overflowed, closing := c.ended, c.closing
	c.open = true
	c.mu.Unlock()
	switch {
	case overflowed: // and so the backend was not told yet
		c.tell(failed)
		refuse(w, errOverflow)
		return
	case s.isClosing():
		if c.end() {
			c.tell(serverClosed)
		}
		refuse(w, errShuttingDown)
		return
	case closing != "":
		// It ends with what was sent before.
	case s.opts.Queues != nil && v.RequestID != "" && v.Bindings != nil:
		s.all.Go(func() {
			if err := s.opts.Queues.bind(c, v.RequestID, v.Bindings); err != nil {
				s.log.Error("a stream got no queue", "request_id", v.RequestID, "err", err)
				c.giveUp()
			}
		})
	default:
		c.ready()
	}
	if err := c.stream.Serve(w, r, c); err != nil {
		reason := clientClosed
		if errors.Is(err, sse.ErrClosed) {
			reason = serverClosed
			refuse(w, errShuttingDown)
		}
		if c.end() {
			c.tell(reason)
		}
		return
	}
	if closing != "" && c.end() {
		c.tell(closing)
		c.stream.End(nil)
	}
}

// ready tells the client that everything is set up.
func (c *connection) ready() { c.stream.Out().OfferControl(sse.Control("ready", "")) }

// put queues what the backend sent, and reports whether the connection is still
// being asked about.
func (c *connection) put(cmd command) (buffered bool, p *problem) {
	c.mu.Lock()
	ended, open := c.ended, c.open
	fits := cmd.frame == nil || ended || c.closing != "" || c.stream.Out().Offer(cmd.frame)
	if !ended && !open && c.closing == "" {
		switch {
		case cmd.unwritable: // which shows when it is written
			c.closing = failed
		case fits && cmd.close:
			c.closing = serverClosed
		}
	}
	c.mu.Unlock()
	switch {
	case ended:
		return false, errNoToken
	case !fits:
		// A reader that is so far behind would not get well by waiting, and
		// what it is not told it would never know.
		c.server.metrics.overflows.Inc()
		c.fail()
		return false, errWrite
	case open && cmd.unwritable:
		c.fail()
		return false, errWrite
	case !open:
		return true, nil
	}
	if cmd.close && c.end() {
		c.tell(serverClosed)
		c.stream.End(nil)
	}
	return false, nil
}

// leave ends the connection because the server is being shut down. One that the
// backend is being asked about ends when that answers.
func (c *connection) leave() {
	c.mu.Lock()
	open := c.open
	c.mu.Unlock()
	if !open || !c.end() {
		return
	}
	c.stream.Out().OfferControl(comeBack())
	c.tell(serverClosed)
	c.stream.End(nil)
}

// fail ends the connection because something cannot be written.
func (c *connection) fail() {
	c.drop()
	c.stream.Cut()
}

// giveUp ends the connection because there is nothing to come. Its answer may not have
// begun yet; it is whole, as a proxy would make an error of it otherwise, with which a
// browser does not come back.
func (c *connection) giveUp() {
	c.drop()
	c.stream.End(nil)
}

// drop takes the connection out of every list, and has the backend told.
func (c *connection) drop() {
	// One that the backend is still being asked about tells it in begin.
	if first, open := c.finish(); first && open {
		c.server.all.Go(func() { c.tell(failed) })
	}
}

// end takes the connection out of every list. It reports true the first time:
// the caller then tells the backend.
func (c *connection) end() bool {
	first, _ := c.finish()
	return first
}

// finish is end, and reports besides whether the backend had agreed.
func (c *connection) finish() (first, open bool) {
	c.mu.Lock()
	first, open = !c.ended, c.open
	c.ended = true
	bound := c.binding
	c.binding = nil
	c.mu.Unlock()
	if first {
		c.server.remove(c)
	}
	if bound != nil {
		bound.release()
	}
	return first, open
}

// tell tells the backend why the connection ended.
func (c *connection) tell(reason string) {
	c.server.metrics.disconnects.WithLabelValues(reason).Inc()
	if err := c.server.backend.disconnected(c, reason); err != nil {
		c.server.log.Warn("the backend was not told of the end of a stream", "reason", reason, "err", err)
	}
}

// Beat implements sse.Owner.
func (c *connection) Beat() {}

// Closed implements sse.Owner.
func (c *connection) Closed(err error) {
	if !c.end() {
		return
	}
	reason := clientClosed
	if err != nil {
		reason = failed
	}
	c.server.all.Go(func() { c.tell(reason) })
}
