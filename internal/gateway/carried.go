package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// Carried is one stream that a gateway holds. Events can be queued from the
// beginning; they are sent once it is begun.
type Carried struct {
	carrier   *Carrier
	token     string
	requestID string
	marks     bool   // its gateway takes an id without an event
	instance  string // of its gateway; "": it does not say
	out       *sse.Outbox

	// With a Publisher: who publishes has put something into turn. Once quit is
	// closed nobody begins to.
	turn chan struct{}
	quit chan struct{}

	mu      sync.Mutex
	gateway int // 0: not known yet
	opened  time.Time
	beaten  time.Time    // when Beat was last called
	seen    bool         // its gateway was asked about it when it was no longer young
	denied  map[int]bool // gateways that do not know it, while its own is not known
	owner   sse.Owner
	over    bool
	abort   context.CancelFunc // of the request that is under way
	silent  bool               // quit is closed
	until   time.Time          // when sending must have ended, once it was expelled
	reason  *sse.Frame         // then the last event that is sent
}

// New returns a stream that a gateway asked about: its token there, the client's
// request id, the number of the gateway, and the headers of its callback. One of the
// same token is over here: the callback came twice, as a proxy may send it again. Who
// begins the new one must not end that first, since the gateway would close the new one.
func (c *Carrier) New(token, requestID string, gateway int, callback http.Header) *Carried {
	c.Disconnected(token)
	now := time.Now()
	s := &Carried{
		carrier: c, token: token, requestID: requestID, gateway: gateway, opened: now, beaten: now,
		marks: callback.Get(acceptsHeader) == acceptsID, instance: callback.Get(instanceHeader),
	}
	s.out = sse.NewOutbox(c.opts.Buffer, s.wake)
	if c.opts.Publisher != nil {
		s.turn, s.quit = make(chan struct{}, 1), make(chan struct{})
	}
	s.out.OfferControl(sse.Heartbeat()) // from now on the outbox waits for the sender that Begin starts
	return s
}

// Out returns the queue of the stream.
func (s *Carried) Out() *sse.Outbox { return s.out }

// Begin has the stream sent. owner is told when it ends, exactly once. It fails
// with sse.ErrClosed, and tells nobody, when the carrier is being shut down.
func (s *Carried) Begin(owner sse.Owner) error {
	c := s.carrier
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return sse.ErrClosed
	}
	old := c.open[s.token]
	c.open[s.token] = s
	c.mu.Unlock()
	if old != nil { // both at the same time
		old.close(nil, false)
	}
	c.memory.add(s.token, s.gateway)
	s.mu.Lock()
	s.owner = owner
	over := s.over
	s.mu.Unlock()
	if over {
		c.memory.remove(s.token) // it was perhaps noted after its end
		s.finish(nil)
		return nil
	}
	s.wake() // for what was queued before
	return nil
}

// End closes the stream once everything queued, and f, is sent. What has no room
// for that is dropped. It tells nobody itself: its caller may hold the locks of the
// owner.
func (s *Carried) End(f *sse.Frame) {
	if f != nil {
		s.out.OfferControl(f)
	}
	if !s.out.OfferControl(sse.End()) {
		s.out.Finish(sse.End())
	}
}

// Once the right to a stream is over, lastSend is how long what is under way may
// take, and lastWord the reason and the closing together.
const (
	lastSend = 300 * time.Millisecond
	lastWord = 2 * time.Second
)

// Expel closes the stream now: f is the last that is sent. What is under way is
// given up if it takes longer than a fraction of a second.
func (s *Carried) Expel(f *sse.Frame) {
	s.mu.Lock()
	s.until, s.reason = time.Now().Add(lastWord), f
	abort := s.abort
	s.mu.Unlock()
	if abort != nil {
		time.AfterFunc(lastSend, abort)
	}
	s.out.Finish(f, sse.End())
}

// fail closes the stream here, and at the gateway as soon as that can be told.
func (s *Carried) fail(err error) { s.close(err, true) }

// close ends the stream. tell says that its gateway does not know that yet.
func (s *Carried) close(err error, tell bool) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	begun, gateway := s.owner != nil, s.gateway
	if s.abort != nil { // what is under way is of no use any more
		s.abort()
	}
	s.mu.Unlock()
	s.out.Close()
	told := false
	for _, g := range s.carrier.gateways {
		if tell && (gateway == 0 || gateway == g.number) {
			told = g.farewell(s.token) || told
		}
	}
	if !told { // nobody will take it out of the memory
		s.carrier.memory.remove(s.token)
	}
	if begun {
		s.finish(err)
	}
}

func (s *Carried) finish(err error) {
	c := s.carrier
	c.mu.Lock()
	if c.open[s.token] == s {
		delete(c.open, s.token)
	}
	c.mu.Unlock()
	c.lessLeft()
	switch {
	case errors.Is(err, ErrGone):
		c.metrics.lost.WithLabelValues("unknown").Inc()
	case errors.Is(err, ErrLost):
		c.metrics.lost.WithLabelValues("gateway").Inc()
	case err != nil:
		c.metrics.lost.WithLabelValues("failed").Inc()
	}
	s.owner.Closed(err)
}

// wake starts a sender. The outbox calls it when there is none.
func (s *Carried) wake() {
	c := s.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[s.token] != s || c.closed { // not begun yet, or over
		return
	}
	c.all.Go(s.send)
}

// send sends what is queued until the queue is empty.
func (s *Carried) send() {
	c := s.carrier
	var frames []*sse.Frame
	for {
		frames = s.out.Take(frames[:0], c.opts.MaxBody)
		if len(frames) == 0 {
			return
		}
		for n, f := range frames {
			if f.Last {
				s.sendClose(nil)
				return
			}
			mark := !f.IsEvent()
			if mark && (!s.marks || f.ID() == "" || !isLastID(frames[n:])) { // heartbeats and the like are the gateway's own
				continue
			}
			expelled := s.expelled()
			if expelled && !s.isReason(f) {
				break // it was taken before
			}
			if expelled && c.opts.Publisher != nil { // what is published the closing would overtake
				s.sendClose(f)
				return
			}
			start := time.Now()
			err := s.sendEvent(f)
			if s.isOver() {
				return
			}
			if now := s.expelled(); now && err != nil {
				s.fail(nil) // the gateway is told to close it, and the reason is lost
				return
			} else if now && !expelled || errors.Is(err, errSilenced) {
				break // the rest of what was taken is not for this reader any more
			}
			if !mark {
				c.opts.Wrote([]*sse.Frame{f}, start, err)
			}
			switch {
			case err == nil:
			case errors.Is(err, ErrGone):
				s.close(err, false)
				return
			default:
				c.log.Warn("an event was not sent to a gateway in time; its stream is ended, and its client comes back", "request_id", s.requestID, "err", err)
				s.fail(err)
				return
			}
		}
	}
}

// isLastID reports whether none of the frames after the first has an id.
func isLastID(frames []*sse.Frame) bool {
	return !slices.ContainsFunc(frames[1:], func(f *sse.Frame) bool { return f.ID() != "" })
}

func (s *Carried) expelled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.until.IsZero()
}

func (s *Carried) isReason(f *sse.Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason == f
}

func (s *Carried) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// sendEvent sends one event, in more than one piece if it is too long.
func (s *Carried) sendEvent(f *sse.Frame) error {
	for _, p := range pieces(f, s.carrier.opts.MaxBody-len(s.token)-envelope) {
		if err := s.deliver(p); err != nil {
			return err
		}
	}
	return nil
}

// envelope is what a body has besides the token, the name, the id and the data.
const envelope = 128

// deliver sends one piece.
func (s *Carried) deliver(e sentEvent) error {
	c := s.carrier
	ctx, cancel := s.begin()
	defer cancel()
	if c.opts.Publisher != nil {
		s.turn <- struct{}{}
		err := errSilenced
		select {
		case <-s.quit:
		default:
			err = c.opts.Publisher.publish(ctx, s.quit, s.requestID, e)
		}
		<-s.turn
		c.metrics.sends.WithLabelValues("publish", resultOfSend(err)).Inc()
		return err
	}
	if e.isMark() {
		return s.each(ctx, sendBody{Token: s.token, ID: e.ID})
	}
	return s.each(ctx, sendBody{Token: s.token, Event: &e})
}

// begin returns the context of a request of the stream.
func (s *Carried) begin() (context.Context, context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithCancel(s.carrier.ctx)
	if !s.until.IsZero() {
		ctx, cancel = context.WithDeadline(s.carrier.ctx, s.until)
	}
	if s.over { // nothing is of use any more
		cancel()
	}
	s.abort = cancel
	return ctx, cancel
}

// each sends to the gateway of the stream, or to all until one knows it: one that
// is stuck is not waited for when another has it.
func (s *Carried) each(ctx context.Context, body sendBody) error {
	s.mu.Lock()
	number := s.gateway
	s.mu.Unlock()
	text := encode(body)
	if number > 0 {
		return s.carrier.gateways[number-1].post(ctx, "event", text)
	}
	type result struct {
		number int
		err    error
	}
	results := make(chan result, len(s.carrier.gateways))
	var posts sync.WaitGroup
	defer posts.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, g := range s.carrier.gateways {
		posts.Go(func() { results <- result{g.number, g.post(ctx, "event", text)} })
	}
	last := ErrGone
	for range s.carrier.gateways {
		r := <-results
		if r.err == nil {
			s.at(r.number)
			return nil
		}
		if !errors.Is(r.err, ErrGone) {
			last = r.err
		}
	}
	return last
}

// elsewhere reports whether a gateway may have the stream, of which it is not known
// which one has: one that answers and was not asked yet.
func (s *Carried) elsewhere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.carrier.gateways {
		if s.gateway == 0 && !s.denied[g.number] && !g.isLost() {
			return true
		}
	}
	return false
}

// at notes which gateway has the stream.
func (s *Carried) at(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gateway, s.denied = number, nil
}

// sendClose has the gateway close the stream, after the event of a frame if it is
// not nil.
func (s *Carried) sendClose(f *sse.Frame) {
	ctx, cancel := s.begin()
	defer cancel()
	body := sendBody{Token: s.token, Close: true}
	if f != nil {
		body.Event = &sentEvent{Name: f.Name, Data: string(f.Payload()), ID: f.ID()}
	}
	start := time.Now()
	err := s.each(ctx, body)
	if f != nil {
		s.carrier.opts.Wrote([]*sse.Frame{f}, start, err)
	}
	if err != nil && !errors.Is(err, ErrGone) {
		s.fail(nil) // it is told later
		return
	}
	s.close(nil, false)
}

// sendBody is a body of /internal/send as it is sent.
type sendBody struct {
	Token string     `json:"token"`
	Event *sentEvent `json:"event,omitempty"`
	ID    string     `json:"id,omitempty"` // of the stream, without an event
	Close bool       `json:"close,omitempty"`
}

// sentEvent is an event on its way to a gateway, or an id alone.
type sentEvent struct {
	Name string `json:"name"`
	Data string `json:"data"`
	ID   string `json:"id,omitempty"`
}

func (e sentEvent) isMark() bool { return e.Name == "" && e.Data == "" }

// message returns the event as a message of RabbitMQ.
func (e sentEvent) message() []byte {
	if e.isMark() {
		return encode(struct {
			ID string `json:"id"`
		}{e.ID})
	}
	return encode(struct {
		Event string `json:"event"`
		Data  string `json:"data"`
		ID    string `json:"id,omitempty"`
	}{e.Name, e.Data, e.ID})
}

// pieces returns the event of a frame, or several that together say the same if
// it is longer than most bytes and has lines. A line that is longer than that alone
// is cut: the gateway would refuse it, however often its reader came back.
func pieces(f *sse.Frame, most int) []sentEvent {
	if !f.IsEvent() {
		return []sentEvent{{ID: f.ID()}}
	}
	whole := sentEvent{Name: f.Name, Data: string(f.Payload()), ID: f.ID()}
	if size(whole) <= most || f.Lines < 1 {
		return []sentEvent{whole}
	}
	parts, err := logs.SplitEvent(f.Payload(), func(part []byte) bool { return size(sentEvent{f.Name, string(part), f.ID()}) <= most })
	if err != nil {
		return []sentEvent{whole}
	}
	out := make([]sentEvent, len(parts))
	for n, part := range parts {
		out[n] = sentEvent{Name: f.Name, Data: string(part)}
	}
	out[len(out)-1].ID = f.ID() // it is of all of it
	return out
}

func size(e sentEvent) int { return len(encode(e)) }
