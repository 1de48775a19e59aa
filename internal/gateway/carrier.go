package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// CarrierOptions configure a Carrier. URLs, Log and Registerer are needed.
type CarrierOptions struct {
	URLs    []string      // of the gateways, without a slash at the end
	Secret  string        // bearer token that goes with every request to them; "" is none
	Buffer  int           // bytes that may wait for one stream; 0 is 1 MiB
	MaxBody int           // bytes of one request; a longer batch of lines is split; 0 is 96 kB
	Timeout time.Duration // of one request; 0 is 5 s
	Probe   time.Duration // between two looks at each gateway; 0 is 2 s
	Young   time.Duration // age at which a stream is first asked about; 0 is 10 s, longer than a callback
	Beat    time.Duration // between two calls of an owner's Beat; 0 is a minute

	// Publisher publishes events at RabbitMQ, which the gateways take them from.
	// Nil: they are posted to the gateways.
	Publisher *Publisher

	// Memory is a file that remembers which streams are open, so that those which a
	// killed process left at a gateway are closed by the next one. "" is none.
	Memory string

	// Wrote is told of every event: the frame, when its sending began and how it
	// ended. It must be quick. Nil: nobody is.
	Wrote func(frames []*sse.Frame, start time.Time, err error)

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Carrier is the other end of Server: it sends what a backend has for its streams
// to the gateways that hold them. The events of one stream are sent in their
// order, those of different streams at the same time. What cannot be sent in time
// ends that stream and no other; its client comes back with the id of the last
// event that it had.
type Carrier struct {
	opts     CarrierOptions
	log      *slog.Logger
	metrics  carrierMetrics
	gateways []*remote
	memory   *memory
	ctx      context.Context // of all requests
	cancel   context.CancelFunc

	mu     sync.Mutex
	open   map[string]*Carried // by token
	closed bool                // no stream is begun any more
	all    sync.WaitGroup      // the goroutines of all streams and gateways

	fewer chan struct{} // has room for one: there may be less to wait for, see Run
}

type carrierMetrics struct {
	sends *prometheus.CounterVec
	up    *prometheus.GaugeVec
	lost  *prometheus.CounterVec
}

// Why a stream ended at the gateway and not here.
var (
	// ErrGone is of a stream that its gateway does not know.
	ErrGone = errors.New("gateway: the stream is not open there")
	// ErrLost is of a stream whose gateway does not answer any more.
	ErrLost = errors.New("gateway: it does not answer")
)

// NewCarrier returns a Carrier without streams. What a process before left open
// is closed while Run runs. It panics when its metrics are registered already.
func NewCarrier(o CarrierOptions) (*Carrier, error) {
	if o.Buffer == 0 {
		o.Buffer = 1 << 20
	}
	if o.MaxBody == 0 {
		o.MaxBody = 96_000
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Probe == 0 {
		o.Probe = 2 * time.Second
	}
	if o.Young == 0 {
		o.Young = 10 * time.Second
	}
	if o.Beat == 0 {
		o.Beat = time.Minute
	}
	if o.Wrote == nil {
		o.Wrote = func([]*sse.Frame, time.Time, error) {}
	}
	c := &Carrier{opts: o, log: o.Log, open: map[string]*Carried{}, fewer: make(chan struct{}, 1)}
	c.metrics = carrierMetrics{
		sends: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_gateway_requests_total", Help: "Requests to SSE gateways, by what they were for and what became of them."}, []string{"kind", "result"}),
		up:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sse_gateway_up", Help: "Whether each SSE gateway, numbered from 1, answers."}, []string{"gateway"}),
		lost:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_gateway_streams_lost_total", Help: "Streams that ended without their client or us having ended them, by why."}, []string{"reason"}),
	}
	o.Registerer.MustRegister(c.metrics.sends, c.metrics.up, c.metrics.lost)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for n, url := range o.URLs {
		c.gateways = append(c.gateways, newRemote(c, n+1, strings.TrimRight(url, "/")))
	}
	var left []farewell
	var err error
	if c.memory, left, err = openMemory(o.Memory); err != nil {
		return nil, err
	}
	for _, f := range left {
		if f.gateway > 0 && f.gateway <= len(c.gateways) {
			c.gateways[f.gateway-1].farewell(f.token)
			continue
		}
		for _, g := range c.gateways { // it was not known which one
			g.farewell(f.token)
		}
	}
	return c, nil
}

// Gateway returns the number of the gateway that a callback is from, by what the
// callback says of itself: that number or the gateway's URL. 0: it is not known,
// and found out with the first event.
func (c *Carrier) Gateway(name string) int {
	if len(c.gateways) == 1 {
		return 1
	}
	for _, g := range c.gateways {
		if name == strconv.Itoa(g.number) || name != "" && strings.TrimRight(name, "/") == g.url {
			return g.number
		}
	}
	return 0
}

// Up reports whether a gateway answered when it was last looked at.
func (c *Carrier) Up() bool {
	for _, g := range c.gateways {
		g.mu.Lock()
		up := g.seen && g.missed == 0
		g.mu.Unlock()
		if up {
			return true
		}
	}
	return false
}

// Run looks after the gateways until ctx ends, and then waits until every stream
// has ended; their owners tell them to. Streams that are still open after grace
// are given up.
func (c *Carrier) Run(ctx context.Context, grace time.Duration) error {
	probes, stop := context.WithCancel(context.WithoutCancel(ctx))
	var looks sync.WaitGroup
	for _, g := range c.gateways {
		looks.Go(func() { g.run(probes) })
	}
	looks.Go(func() { c.beat(probes) })
	<-ctx.Done()
	end := time.NewTimer(grace)
	defer end.Stop()
	for waiting := c.left() > 0; waiting; waiting = waiting && c.left() > 0 {
		select {
		case <-c.fewer:
		case <-end.C:
			waiting = false
		}
	}
	c.mu.Lock()
	c.closed = true
	open := make([]*Carried, 0, len(c.open))
	for _, s := range c.open {
		open = append(open, s)
	}
	c.mu.Unlock()
	for _, s := range open {
		s.fail(ErrLost)
	}
	stop()
	c.cancel()
	looks.Wait()
	c.all.Wait()
	return c.memory.close()
}

// beatSlots spreads the beats of the streams over the interval.
const beatSlots = 16

// beat has the owners of the streams say how far they are, until ctx ends.
func (c *Carrier) beat(ctx context.Context) {
	tick := time.NewTicker(c.opts.Beat / beatSlots)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, owner := range c.due(now) {
				owner.Beat()
			}
		}
	}
}

// due returns the owners whose beat is due now.
func (c *Carrier) due(now time.Time) (owners []sse.Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		s.mu.Lock()
		if s.owner != nil && now.Sub(s.beaten) >= c.opts.Beat {
			s.beaten = now
			owners = append(owners, s.owner)
		}
		s.mu.Unlock()
	}
	return owners
}

// left returns how many streams are open, or are to be closed at a gateway that
// answers.
func (c *Carrier) left() int {
	c.mu.Lock()
	left := len(c.open)
	c.mu.Unlock()
	for _, g := range c.gateways {
		left += g.owed()
	}
	return left
}

// lessLeft has Run look again at what is left.
func (c *Carrier) lessLeft() {
	select {
	case c.fewer <- struct{}{}:
	default:
	}
}

// Outboxes returns those of the open streams.
func (c *Carrier) Outboxes() (boxes []*sse.Outbox) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		boxes = append(boxes, s.out)
	}
	return boxes
}

// Disconnected takes the word of a gateway that a stream has ended. One that is
// not known was replaced, or ended here before.
func (c *Carrier) Disconnected(token string) {
	c.mu.Lock()
	s := c.open[token]
	c.mu.Unlock()
	if s != nil {
		s.close(nil, false)
	}
}

// Silence has the streams of a request id publish nothing any more, and waits until
// what they were publishing is in a queue or refused. A stream that follows them
// under the same id would get it amid its own events, and its client would take it
// for where it is. Without a Publisher there is nothing to do: events are posted to
// one token.
func (c *Carrier) Silence(ctx context.Context, requestID string) error {
	if c.opts.Publisher == nil {
		return nil
	}
	var list []*Carried
	c.mu.Lock()
	for _, s := range c.open {
		if s.requestID == requestID {
			list = append(list, s)
		}
	}
	c.mu.Unlock()
	for _, s := range list {
		s.mu.Lock()
		if !s.silent {
			s.silent = true
			close(s.quit)
		}
		s.mu.Unlock()
		s.out.Finish(sse.End())
		select {
		case s.turn <- struct{}{}:
			<-s.turn
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

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

// remote is one gateway.
type remote struct {
	carrier *Carrier
	number  int
	url     string
	client  *http.Client
	slots   chan struct{} // tokens: requests under way at once
	wakeup  chan struct{} // has room for one: there are farewells

	mu       sync.Mutex
	failures int           // requests in a row that had no answer
	shut     chan struct{} // nil: requests are let through; else closed when they are again
	seen     bool          // it was looked at
	missed   int           // looks in a row that had no answer
	lost     bool          // so many that its streams were given up
	goodbyes map[string]struct{}
	next     []*Carried // whose turn to be looked at comes
}

const (
	requestsAtOnce = 256 // to one gateway
	breakAfter     = 8   // requests without an answer; then they wait until it answers again
	loseAfter      = 3   // looks without an answer; then its streams are given up
	lookTimeout    = 2 * time.Second
	goodbyesAtOnce = 32

	// idleConnection is shorter than the 5 s after which the gateway of the
	// reference system closes a connection: a request that crosses with that is lost.
	idleConnection = 3 * time.Second
	maxGoodbyes    = 100_000
)

func newRemote(c *Carrier, number int, url string) *remote {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DisableCompression = nil, true // it is named by the settings, and close by
	t.MaxIdleConnsPerHost, t.MaxIdleConns = requestsAtOnce, requestsAtOnce
	t.IdleConnTimeout = idleConnection
	g := &remote{
		carrier: c, number: number, url: url, slots: make(chan struct{}, requestsAtOnce), wakeup: make(chan struct{}, 1), goodbyes: map[string]struct{}{},
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	c.metrics.up.WithLabelValues(strconv.Itoa(number)).Set(0)
	return g
}

// post posts a body to /internal/send. It returns ErrGone for a stream that the
// gateway does not know. While the gateway does not answer anybody it waits until
// it does, or is given up.
func (g *remote) post(ctx context.Context, kind string, body []byte) (err error) {
	defer func() { g.carrier.metrics.sends.WithLabelValues(kind, resultOfSend(err)).Inc() }()
	if err := g.admitted(ctx); err != nil {
		return err
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return g.try(ctx, body)
}

// admitted waits until requests are let through.
func (g *remote) admitted(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut, lost := g.shut, g.lost
		g.mu.Unlock()
		switch {
		case shut == nil:
			return nil
		case lost:
			return ErrLost
		}
		select {
		case <-shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try posts once.
func (g *remote) try(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, g.carrier.opts.Timeout)
	defer cancel()
	answer, _, err := g.request(ctx, http.MethodPost, "/internal/send", body)
	if err != nil {
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			g.unanswered()
		}
		return err
	}
	g.answered()
	switch {
	case answer == http.StatusOK:
		return nil
	case answer == http.StatusNotFound:
		return ErrGone
	}
	return fmt.Errorf("gateway: it answered with status %d", answer)
}

// request sends a request and returns the status of its answer, and which instance
// of the gateway it is from, if it says so. An error says nothing of the URL.
func (g *remote) request(ctx context.Context, method, path string, body []byte) (status int, instance string, err error) {
	r, err := http.NewRequestWithContext(ctx, method, g.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", withoutURL(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if g.carrier.opts.Secret != "" {
		r.Header.Set("Authorization", "Bearer "+g.carrier.opts.Secret)
	}
	answer, err := g.client.Do(r)
	if err != nil {
		return 0, "", withoutURL(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // so that the connection is used again
	return answer.StatusCode, answer.Header.Get(instanceHeader), nil
}

func (g *remote) unanswered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failures++; g.failures >= breakAfter && g.shut == nil && !g.lost {
		g.shut = make(chan struct{})
	}
}

// answered lets requests through again.
func (g *remote) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failures = 0
	if g.shut != nil && !g.lost { // one that was given up is let in again by a look
		close(g.shut)
		g.shut = nil
	}
}

// farewell notes that a stream is to be closed at the gateway. It reports false
// when so many are that this one is left to the gateway, whose own write fails in
// time.
func (g *remote) farewell(token string) bool {
	g.mu.Lock()
	noted := len(g.goodbyes) < maxGoodbyes
	if noted {
		g.goodbyes[token] = struct{}{}
	}
	g.mu.Unlock()
	select {
	case g.wakeup <- struct{}{}:
	default:
	}
	return noted
}

// owed returns how many streams are still to be closed, while the gateway answers.
func (g *remote) owed() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.missed > 0 {
		return 0
	}
	return len(g.goodbyes)
}

// run looks after the gateway until ctx ends.
func (g *remote) run(ctx context.Context) {
	defer g.client.CloseIdleConnections()
	tick := time.NewTicker(g.carrier.opts.Probe)
	defer tick.Stop()
	g.look(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.wakeup:
			g.sayGoodbyes(ctx)
		case <-tick.C:
			g.look(ctx)
		}
	}
}

// look asks the gateway whether it is there, and whether it still knows its
// streams: after a restart it knows none.
func (g *remote) look(ctx context.Context) {
	probe, cancel := context.WithTimeout(ctx, lookTimeout)
	had := g.streams(0)
	_, instance, err := g.request(probe, http.MethodGet, "/healthz", nil)
	cancel()
	if ctx.Err() != nil {
		return
	}
	up := g.carrier.metrics.up.WithLabelValues(strconv.Itoa(g.number))
	g.mu.Lock()
	g.seen = true
	if err != nil {
		g.carrier.lessLeft() // what is owed to it is not waited for
		g.missed++
		giveUp := g.missed >= loseAfter && !g.lost
		if giveUp {
			g.lost = true
			if g.shut != nil { // who waits is told
				close(g.shut)
			}
			g.shut = make(chan struct{})
			close(g.shut)
		}
		g.mu.Unlock()
		up.Set(0)
		if giveUp {
			streams := g.streams(0)
			g.carrier.log.Error("a gateway does not answer; its streams are given up", "gateway", g.number, "streams", len(streams), "err", err)
			for _, s := range streams {
				if !s.elsewhere() {
					s.fail(ErrLost)
				}
			}
		}
		return
	}
	back := g.lost
	g.missed, g.lost = 0, false
	g.failures, g.shut = 0, reopened(g.shut, back)
	g.mu.Unlock()
	up.Set(1)
	if back {
		g.carrier.log.Info("a gateway answers again", "gateway", g.number)
	}
	if instance != "" {
		g.compare(instance, had)
	}
	g.sayGoodbyes(ctx)
	g.sample(ctx)
}

// compare ends the streams that an earlier instance of the gateway had, and notes
// whose the others are.
func (g *remote) compare(instance string, streams []*Carried) {
	for _, s := range streams {
		s.mu.Lock()
		here := s.gateway == g.number
		s.mu.Unlock()
		switch {
		case s.instance == instance:
			s.at(g.number)
		case s.instance != "" && here:
			s.fail(ErrGone)
		}
	}
}

// reopened closes what others wait for, if it is not closed.
func reopened(shut chan struct{}, closed bool) chan struct{} {
	if shut != nil && !closed {
		close(shut)
	}
	return nil
}

// streams returns the streams of the gateway that are at least that old.
func (g *remote) streams(age time.Duration) (list []*Carried) {
	c := g.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		s.mu.Lock()
		if (s.gateway == g.number || s.gateway == 0 && age == 0) && time.Since(s.opened) >= age {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

// sample asks about one stream, and about all if that one is unknown, and about
// those that were never asked about: a client that left while its callback was
// under way is told of by nobody. A stream whose callback may still be under way is
// not asked about: the protocol has asking be an empty event then.
func (g *remote) sample(ctx context.Context) {
	for len(g.next) > 0 && g.next[0].isOver() {
		g.next = g.next[1:]
	}
	if len(g.next) == 0 {
		g.next = g.streams(g.carrier.opts.Young)
	}
	if len(g.next) > 0 {
		s := g.next[0]
		g.next = g.next[1:]
		switch known, err := g.knows(ctx, s); {
		case err != nil:
			return // the next look says more
		case !known:
			g.next = nil
			each(ctx, g.streams(g.carrier.opts.Young), g.ask)
			return
		}
	}
	each(ctx, g.unseen(), g.ask)
}

// each calls f for some at a time, until one call fails.
func each[T any](ctx context.Context, list []T, f func(context.Context, T) error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	room := make(chan struct{}, goodbyesAtOnce)
	for _, it := range list {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		calls.Go(func() {
			defer func() { <-room }()
			if f(ctx, it) != nil {
				stop() // a gateway that does not answer one would keep us for all
			}
		})
	}
}

// unseen returns the streams that the gateway has or may have, and was not yet
// asked about.
func (g *remote) unseen() (list []*Carried) {
	c := g.carrier
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.open {
		s.mu.Lock()
		if (s.gateway == g.number && !s.seen || s.gateway == 0 && !s.denied[g.number]) && time.Since(s.opened) >= c.opts.Young {
			list = append(list, s)
		}
		s.mu.Unlock()
	}
	return list
}

// ask is knows without its answer.
func (g *remote) ask(ctx context.Context, s *Carried) error {
	_, err := g.knows(ctx, s)
	return err
}

// knows asks whether the gateway has a stream, and ends it here if no gateway has.
// It does not wait for the gateway to be let in again, which only a look does.
func (g *remote) knows(ctx context.Context, s *Carried) (bool, error) {
	err := g.try(ctx, encode(sendBody{Token: s.token}))
	g.carrier.metrics.sends.WithLabelValues("probe", resultOfSend(err)).Inc()
	switch {
	case err == nil:
		s.mu.Lock()
		s.seen, s.gateway, s.denied = true, g.number, nil
		s.mu.Unlock()
		return true, nil
	case !errors.Is(err, ErrGone):
		return false, err
	}
	s.mu.Lock()
	if s.gateway == 0 {
		if s.denied == nil {
			s.denied = map[int]bool{}
		}
		s.denied[g.number] = true
	}
	own, unknown := s.gateway == g.number, s.gateway == 0
	s.mu.Unlock()
	switch {
	case own:
		s.close(ErrGone, false)
	case unknown && !s.elsewhere():
		s.fail(ErrGone) // one that was lost may have it when it is back
	}
	return false, nil
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

func (g *remote) isLost() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lost
}

// sayGoodbyes closes what is to be closed, until the gateway does not answer; the
// rest is for the next look.
func (g *remote) sayGoodbyes(ctx context.Context) {
	g.mu.Lock()
	tokens := make([]string, 0, len(g.goodbyes))
	for t := range g.goodbyes {
		tokens = append(tokens, t)
	}
	g.mu.Unlock()
	rand.Shuffle(len(tokens), func(i, j int) { tokens[i], tokens[j] = tokens[j], tokens[i] })
	each(ctx, tokens, func(ctx context.Context, token string) error {
		err := g.try(ctx, encode(sendBody{Token: token, Close: true}))
		g.carrier.metrics.sends.WithLabelValues("close", resultOfSend(err)).Inc()
		if err != nil && !errors.Is(err, ErrGone) {
			return err
		}
		g.mu.Lock()
		delete(g.goodbyes, token)
		g.mu.Unlock()
		g.carrier.memory.remove(token)
		g.carrier.lessLeft()
		return nil
	})
}

// resultOfSend is the metric label of a request.
func resultOfSend(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrGone):
		return "unknown"
	case errors.Is(err, ErrLost):
		return "lost"
	case isTimeout(err):
		return "timeout"
	}
	return "error"
}
