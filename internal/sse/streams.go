package sse

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// ErrClosed says that the streams are being shut down: none is opened any more.
var ErrClosed = errors.New("sse: shutting down")

// Options configure Streams; all but Wrote are needed.
type Options struct {
	Heartbeat    time.Duration // between two heartbeats
	Buffer       int           // bytes that may wait for one reader
	WriteTimeout time.Duration // for one write; a reader that takes longer is dropped

	// Wrote is told of every write: the frames, when it began and how it ended.
	// It must be quick and keep none of the frames.
	Wrote func(frames []*Frame, start time.Time, err error)
}

// Owner is who a stream belongs to. Its methods must not wait for the stream.
type Owner interface {
	// Beat is called before each heartbeat of the stream.
	Beat()
	// Closed is called when the stream has ended, exactly once if Serve
	// returned nil and otherwise never. err is of the write that failed; it is
	// nil when the client went away or the stream was ended.
	Closed(err error)
}

// Streams serves event streams. At most one goroutine writes to a stream at a
// time, and none waits for an idle one: it is started when frames are queued
// and ends when all are written. On HTTP/1.1 the connection is taken over from
// net/http, which frees the buffers and the goroutine that the request needed;
// one small goroutine waits there for the client to go.
type Streams struct {
	opts      Options
	buffers   sync.Pool // of *batch
	heartbeat *Frame

	mu     sync.Mutex
	slot   int // the heartbeat slot of now
	open   map[*Stream]struct{}
	closed bool
	all    sync.WaitGroup // the goroutines of all streams
}

// maxWrite is the most bytes gathered into one write; a longer frame is
// written by itself.
const maxWrite = 32 << 10

// batch is what one turn of writing needs.
type batch struct {
	frames []*Frame
	bytes  []byte
}

// NewStreams returns a Streams without streams.
func NewStreams(o Options) *Streams {
	if o.Wrote == nil {
		o.Wrote = func([]*Frame, time.Time, error) {}
	}
	return &Streams{
		opts: o, open: map[*Stream]struct{}{}, heartbeat: Heartbeat(),
		buffers: sync.Pool{New: func() any { return &batch{bytes: make([]byte, 0, maxWrite)} }},
	}
}

// Run sends heartbeats until ctx ends, and then waits until every stream has
// ended; their owners tell them to. Streams that are still open after grace are
// cut off.
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
	var due []*Stream
	s.mu.Lock()
	s.slot = (s.slot + 1) % heartbeatSlots
	for st := range s.open {
		if st.slot == s.slot && now.Sub(st.opened) > s.opts.Heartbeat/2 {
			due = append(due, st)
		}
	}
	s.mu.Unlock()
	for _, st := range due {
		st.owner.Beat()
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
		st.cut(nil)
	}
	s.mu.Unlock()
	<-ended
}

// Outboxes returns those of the open streams.
func (s *Streams) Outboxes() (boxes []*Outbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.open {
		boxes = append(boxes, st.out)
	}
	return boxes
}

// Stream is one event stream: a queue, and where it is written. Frames can be
// queued from the beginning; they are written once it is served.
type Stream struct {
	streams *Streams
	out     *Outbox
	owner   Owner
	opened  time.Time
	slot    int // see heartbeatSlots

	mu      sync.Mutex
	started bool
	over    bool      // nothing is written any more
	failed  error     // of the write that ended it
	until   time.Time // when writing must have ended; zero: never

	// One of the two is set when the stream starts.
	socket   net.Conn                 // HTTP/1.1: ours
	head     []byte                   // what is still to be written before the first frame
	raw      bool                     // HTTP/1.0: no chunks
	deadline time.Time                // of writing to socket; only the writer looks at it
	kick     chan struct{}            // HTTP/2: the handler writes when kicked
	control  *http.ResponseController // likewise, while the handler runs
}

// New returns a stream that nobody reads yet.
func (s *Streams) New() *Stream {
	st := &Stream{streams: s}
	st.out = NewOutbox(s.opts.Buffer, st.wake)
	st.out.busy = true // Serve starts the first writer, whether or not there are frames
	return st
}

// Out returns the queue of the stream.
func (st *Stream) Out() *Outbox { return st.out }

// Serve makes the stream the answer to a request, with the headers that w has
// and those of a stream. Over HTTP/1 it returns at once, and the stream goes
// on; over HTTP/2 it returns when the stream has ended. It fails with ErrClosed,
// and has answered nothing, when the streams are being shut down, and with
// another error when the client went away.
func (st *Stream) Serve(w http.ResponseWriter, r *http.Request, owner Owner) error {
	s := st.streams
	st.owner, st.opened = owner, time.Now()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.all.Add(1)
	st.slot = s.slot
	s.open[st] = struct{}{}
	s.mu.Unlock()

	SetHeaders(w.Header())
	if r.ProtoMajor == 1 {
		socket, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			// What the client may have sent behind its request stays unread in
			// net/http's buffer: no request follows on an endless response.
			st.serveSocket(socket, w.Header(), r.ProtoAtLeast(1, 1))
			return nil
		}
		if !errors.Is(err, http.ErrNotSupported) {
			st.cut(err)
			st.forget()
			s.all.Done()
			return err
		}
	}
	st.serveHandler(w, r)
	return nil
}

// SetHeaders sets the headers of an event stream.
func SetHeaders(h http.Header) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
}

// Reject answers a stream that is not opened with a stream that says why and
// ends: a browser does not show the body of a failed event stream to the page.
func Reject(w http.ResponseWriter, status int, message string) {
	data := strconv.AppendInt([]byte(`{"status":`), int64(status), 10)
	data = append(appendQuoted(append(data, `,"message":`...), message), '}')
	SetHeaders(w.Header())
	w.WriteHeader(http.StatusOK)
	// An error means that the client went away.
	_, _ = w.Write(Control("rejected", string(data)).Block())
}

// serveSocket takes over an HTTP/1.1 connection. It returns at once.
func (st *Stream) serveSocket(socket net.Conn, header http.Header, chunked bool) {
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
	go st.awaitClient(socket) // counted in Streams.all by Serve
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
func (st *Stream) awaitClient(socket net.Conn) {
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
func (st *Stream) wake() {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.over:
	case !st.started: // Serve starts it
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
func (st *Stream) write() {
	s := st.streams
	b := s.buffers.Get().(*batch)
	defer func() {
		clear(b.frames)
		s.buffers.Put(b)
	}()
	if st.head != nil && st.out.Bytes() == 0 { // the client need not wait for the first event
		err := st.extend(time.Now())
		if err == nil {
			_, err = st.socket.Write(st.head)
		}
		if st.head = nil; err != nil {
			st.cut(err)
			return
		}
	}
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
		s.opts.Wrote(b.frames, start, err)
		if cap(b.bytes) > 4*maxWrite {
			b.bytes = make([]byte, 0, maxWrite)
		}
		if err != nil || b.frames[len(b.frames)-1].Last {
			st.cut(err)
			return
		}
	}
}

// extend gives the next write its time. A deadline that is nearly as far away
// as a new one would be is left alone: moving it costs as much as a tenth of
// the write.
func (st *Stream) extend(now time.Time) error {
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
func (st *Stream) earlier(deadline time.Time) time.Time {
	if !st.until.IsZero() && st.until.Before(deadline) {
		return st.until
	}
	return deadline
}

// serveHandler writes the stream from the handler, as HTTP/2 wants it.
func (st *Stream) serveHandler(w http.ResponseWriter, r *http.Request) {
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
	if err := rc.Flush(); err != nil {
		st.cut(err)
		return
	}
	var frames []*Frame
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
			s.opts.Wrote(frames, start, err)
			if err != nil || frames[len(frames)-1].Last {
				st.cut(err)
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

// End closes the stream once everything queued, and f, is written.
func (st *Stream) End(f *Frame) {
	if f != nil {
		st.out.OfferControl(f)
	}
	if !st.out.OfferControl(End()) {
		st.Cut()
	}
}

// lastWrite is how long a stream whose right is over may take for what is being
// written and for the reason.
const lastWrite = 300 * time.Millisecond

// Expel closes the stream now: f is the last that is written, if the client
// takes it in time.
func (st *Stream) Expel(f *Frame) {
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
	st.out.Finish(f, End())
}

// Cut closes the stream at once; what was waiting is not written.
func (st *Stream) Cut() { st.cut(nil) }

func (st *Stream) cut(err error) {
	st.out.Close()
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.over {
		st.over, st.failed = true, err
	}
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

// close cuts the stream, takes it out of the list and tells its owner.
func (st *Stream) close() {
	st.cut(nil)
	st.forget()
	st.mu.Lock()
	err := st.failed
	st.mu.Unlock()
	st.owner.Closed(err)
}

func (st *Stream) forget() {
	s := st.streams
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
}
