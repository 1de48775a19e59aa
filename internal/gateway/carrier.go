package gateway

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
