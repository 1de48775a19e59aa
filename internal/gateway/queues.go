package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"signalbox/internal/sse"
)

// QueueOptions say where the queues are. URL, Log and Registerer are needed.
type QueueOptions struct {
	URL        string        // amqp:// or amqps://
	TTL        time.Duration // that a queue which nobody reads is kept; 0 is 5 minutes
	Prefix     string        // of the names of the exchange and the queues; "" is none
	AutoDelete bool          // the exchange is neither durable nor kept when nothing is bound to it
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Queues is the gateway's side of RabbitMQ. Each connection whose backend names
// a request id and routing keys has a queue of that id, which outlives the
// connection for a while: what is published meanwhile is not lost.
type Queues struct {
	opts       QueueOptions
	exchange   string
	prefix     string
	deliveries *prometheus.CounterVec

	mu    sync.Mutex
	now   *session            // nil: there is no connection to RabbitMQ
	bound map[string]*binding // by queue
}

const (
	prefetch       = 10               // messages under way to one stream
	brokerTimeout  = 5 * time.Second  // for connecting to RabbitMQ, and for leaving it
	brokerBeat     = 10 * time.Second // of the connection; a silent one is given up after two
	firstReconnect = time.Second
	lastReconnect  = 5 * time.Second // streams wait meanwhile

	// setUpsAtOnce is how many queues are declared at the same time. RabbitMQ waits for
	// its disk with each: it makes three times as many with four, and hardly more with
	// sixteen.
	setUpsAtOnce = 8
)

// NewQueues returns Queues without a connection; the Server that it is given to
// keeps one. Its error says nothing of the URL, which holds a password.
func NewQueues(o QueueOptions) (*Queues, error) {
	if err := checkBroker(o.URL); err != nil {
		return nil, err
	}
	if o.TTL == 0 {
		o.TTL = 5 * time.Minute
	}
	q := &Queues{opts: o, bound: map[string]*binding{}}
	if o.Prefix != "" {
		q.prefix = o.Prefix + "."
	}
	q.exchange = q.prefix + "sse.events"
	q.deliveries = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gateway_rabbitmq_deliveries_total", Help: "Messages that RabbitMQ delivered for streams, by what became of them."}, []string{"result"})
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "gateway_rabbitmq_connected", Help: "Whether there is a connection to RabbitMQ."}, func() float64 {
		if q.connected() {
			return 1
		}
		return 0
	})
	o.Registerer.MustRegister(q.deliveries, connected)
	return q, nil
}

// connected reports whether queues can be set up now.
func (q *Queues) connected() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.now != nil && !q.now.broken()
}

// session is one connection to RabbitMQ.
type session struct {
	queues *Queues
	conn   *broker
	ctx    context.Context // ends with the session
	over   context.CancelFunc

	// Answers on a channel are in the order of the questions, so that there is
	// one question at a time.
	rpc     sync.Mutex
	channel *amqp.Channel      // for deliveries
	setups  chan *amqp.Channel // for declarations; nil is one that is yet to be opened, as a mistake closes the channel

	mu      sync.Mutex
	closed  bool
	parts   sync.WaitGroup
	reading map[string]chan struct{} // by queue that is set up or read; closed when it is not any more
}

// run keeps a connection to RabbitMQ until ctx ends.
func (q *Queues) run(ctx context.Context) { stayConnected(ctx, q.opts.Log, q.dial, q.hold) }

// hold uses a session until it is lost or ctx ends.
func (q *Queues) hold(ctx context.Context, s *session) {
	lost := make(chan *amqp.Error, 3)
	s.conn.NotifyClose(notice(s, lost))
	s.channel.NotifyClose(notice(s, lost))
	q.mu.Lock()
	q.now = s
	again := make([]*binding, 0, len(q.bound))
	for _, b := range q.bound {
		again = append(again, b)
	}
	q.mu.Unlock()
	next := make(chan *binding, len(again))
	for _, b := range again {
		next <- b
	}
	close(next)
	for range setUpsAtOnce {
		s.run(func() {
			for b := range next {
				if s.ctx.Err() != nil {
					return
				}
				q.start(s, b)
			}
		})
	}
	select {
	case <-ctx.Done():
	case err := <-lost:
		q.opts.Log.Warn("the connection to RabbitMQ was lost", "err", err)
	}
	q.mu.Lock()
	q.now = nil
	q.mu.Unlock()
	s.close()
}

// notice returns what the library tells of an end, which it may not wait for.
func notice(s *session, lost chan<- *amqp.Error) chan *amqp.Error {
	told := make(chan *amqp.Error, 1)
	s.run(func() {
		select {
		case err := <-told:
			lost <- err
		case <-s.ctx.Done():
		}
	})
	return told
}

// dial connects to RabbitMQ and declares the exchange.
func (q *Queues) dial(ctx context.Context) (*session, error) {
	conn, err := dialBroker(ctx, q.opts.URL, "signalbox gateway")
	if err != nil {
		return nil, err
	}
	s := &session{queues: q, conn: conn, reading: map[string]chan struct{}{}, setups: make(chan *amqp.Channel, setUpsAtOnce)}
	for range setUpsAtOnce {
		s.setups <- nil
	}
	s.ctx, s.over = context.WithCancel(context.Background())
	if s.channel, err = conn.Channel(); err == nil {
		err = s.channel.Qos(prefetch, 0, false)
	}
	if err == nil {
		err = q.declare(s.channel)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// declare declares the exchange.
func (q *Queues) declare(ch *amqp.Channel) error {
	return declareExchange(ch, q.exchange, q.opts.AutoDelete)
}

func (s *session) broken() bool { return s.conn.IsClosed() || s.channel.IsClosed() }

// run runs f as a part of the session, unless that is over.
func (s *session) run(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.parts.Go(f)
	}
}

// close ends the session and waits until nothing of it runs.
func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.over()
	s.conn.leave()
	s.parts.Wait()
}

// binding is the queue of one connection.
type binding struct {
	queues     *Queues
	connection *connection
	queue      string
	keys       []string

	mu       sync.Mutex
	session  *session           // that it is read in
	stop     context.CancelFunc // ends the waiting for room in the stream
	released chan struct{}      // closed when nobody wants it any more

	// Ids of the messages that were written last, as many as may be under way: what
	// RabbitMQ delivers once more, since the ack of it was lost, is not written again.
	// Only the pump of the session looks at it, and there is one at a time.
	written [prefetch]string
	next    int
}

var errNoBroker = errors.New("there is no connection to RabbitMQ")

// bind gives a connection the queue of a request id, bound with the keys. A
// connection that had the queue before is ended.
func (q *Queues) bind(c *connection, id string, keys []string) error {
	b := &binding{queues: q, connection: c, queue: q.prefix + "sse.conn." + id, keys: keys, released: make(chan struct{})}
	c.mu.Lock()
	ended := c.ended
	if !ended {
		c.binding = b
	}
	c.mu.Unlock()
	if ended {
		return nil
	}
	q.mu.Lock()
	old, s := q.bound[b.queue], q.now
	switch {
	case b.isReleased(): // it ended meanwhile
		q.mu.Unlock()
		return nil
	case s != nil:
		q.bound[b.queue] = b
	}
	q.mu.Unlock()
	if s == nil {
		return errNoBroker
	}
	if old != nil {
		// What it had not written goes back into the queue, before the rest. It would
		// get nothing any more, and its client would not know.
		old.connection.fail()
	}
	q.start(s, b)
	return nil
}

// start reads a queue in a session, and tells the client that it is set up.
func (q *Queues) start(s *session, b *binding) {
	switch started, err := s.consume(b); {
	case err != nil:
		q.opts.Log.Error("a stream got no queue", "queue", b.queue, "err", err)
		b.connection.giveUp()
	case started:
		b.connection.ready()
	}
}

// consume declares the queue and begins to read it. It reports false when that
// was done, or is not wanted any more.
func (s *session) consume(b *binding) (started bool, err error) {
	done, ok := s.claim(b)
	if !ok {
		return false, nil
	}
	defer func() {
		if done != nil {
			done()
		}
	}()
	if err := s.setUp(b); err != nil {
		return false, err
	}
	s.rpc.Lock()
	defer s.rpc.Unlock()
	deliveries, err := s.channel.Consume(b.queue, b.connection.token, false, false, false, false, nil)
	if err != nil {
		return false, err
	}
	b.mu.Lock()
	b.session = s
	ctx, stop := context.WithCancel(s.ctx)
	b.stop = stop
	released := b.isReleased()
	if released {
		stop()
	}
	b.mu.Unlock()
	read := done
	done = nil
	s.run(func() {
		defer read()
		defer stop()
		b.pump(ctx, s, deliveries)
	})
	if released { // meanwhile
		return false, s.channel.Cancel(b.connection.token, false)
	}
	return true, nil
}

// claim makes the queue of b one that is read, as soon as nobody else reads it: what
// the reader before has not written goes back first, and behind what was read in
// between it would be out of order. It reports false if b is read, or is not wanted
// any more. done ends it.
func (s *session) claim(b *binding) (done func(), ok bool) {
	for {
		b.mu.Lock()
		not := b.isReleased() || b.session == s
		b.mu.Unlock()
		if not {
			return nil, false
		}
		s.mu.Lock()
		before := s.reading[b.queue]
		if before == nil {
			end := make(chan struct{})
			s.reading[b.queue] = end
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.reading, b.queue)
				s.mu.Unlock()
				close(end)
			}, true
		}
		s.mu.Unlock()
		select {
		case <-before:
		case <-b.released:
		case <-s.ctx.Done():
			return nil, false // it is started again in the next session
		}
	}
}

// setUp declares the queue and binds it.
func (s *session) setUp(b *binding) error {
	var ch *amqp.Channel
	select {
	case ch = <-s.setups:
	case <-s.ctx.Done():
		return errNoBroker
	}
	defer func() { s.setups <- ch }()
	if ch == nil || ch.IsClosed() {
		opened, err := s.conn.Channel()
		if err != nil {
			return err
		}
		ch = opened
	}
	q := s.queues
	if q.opts.AutoDelete { // it may have gone with its last queue
		if err := q.declare(ch); err != nil {
			return err
		}
	}
	if _, err := ch.QueueDeclare(b.queue, true, false, false, false, amqp.Table{"x-expires": q.opts.TTL.Milliseconds()}); err != nil {
		return err
	}
	for _, key := range b.keys {
		if err := ch.QueueBind(b.queue, key, q.exchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// release stops the reading of the queue, soon.
func (b *binding) release() {
	q := b.queues
	b.mu.Lock()
	s, first := b.session, !b.isReleased()
	if first {
		close(b.released)
	}
	if b.stop != nil {
		b.stop()
	}
	b.mu.Unlock()
	q.mu.Lock() // after that: bind looks at it before it enters b
	if q.bound[b.queue] == b {
		delete(q.bound, b.queue)
	}
	q.mu.Unlock()
	if s == nil || !first {
		return
	}
	s.run(func() {
		s.rpc.Lock()
		defer s.rpc.Unlock()
		if err := s.channel.Cancel(b.connection.token, false); err != nil && !s.broken() {
			q.opts.Log.Warn("a queue is still being read", "queue", b.queue, "err", err)
		}
	})
}

func (b *binding) isReleased() bool {
	select {
	case <-b.released:
		return true
	default:
		return false
	}
}

// pump writes what is in the queue to the stream. It waits for a slow reader:
// what does not fit stays in the queue.
func (b *binding) pump(ctx context.Context, s *session, deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		result, err := "success", error(nil)
		switch frame, ok := message(d.Body); {
		case !ok:
			result, err = "invalid", d.Nack(false, false)
			b.queues.opts.Log.Warn("a message has no form on a stream", "queue", b.queue, "bytes", len(d.Body))
		case d.Redelivered && d.MessageId != "" && slices.Contains(b.written[:], d.MessageId):
			result, err = "repeated", d.Ack(false)
		case b.isReleased() || !b.connection.deliver(ctx, frame):
			result, err = "returned", d.Nack(false, true)
		default:
			b.written[b.next] = d.MessageId
			b.next = (b.next + 1) % prefetch
			err = d.Ack(false)
		}
		if err != nil {
			result = "lost" // with the session; RabbitMQ delivers it again
		}
		b.queues.deliveries.WithLabelValues(result).Inc()
	}
	if !s.broken() && s.ctx.Err() == nil && !b.isReleased() {
		b.queues.opts.Log.Error("RabbitMQ ended the reading of a queue", "queue", b.queue)
		b.connection.fail()
	}
}

// message reads a message for a stream.
func message(body []byte) (command, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil {
		return command{}, false
	}
	var name, id string
	ok := true
	if raw, given := fields["id"]; given {
		id, ok = text(raw)
		ok = ok && validID(id)
	}
	if ok && id != "" && fields["data"] == nil && fields["event"] == nil {
		return command{frame: sse.Mark(id)}, true
	}
	data, has := text(fields["data"])
	ok = ok && has
	if raw, given := fields["event"]; ok && given && string(raw) != "null" {
		name, ok = text(raw)
	}
	if !ok {
		return command{}, false
	}
	frame, p := frameOf(name, data, id)
	return command{frame: frame}, p == nil && frame != nil
}

// deliver queues what came from a queue as soon as there is room. It reports
// false when the stream has ended.
func (c *connection) deliver(ctx context.Context, m command) bool {
	out := c.stream.Out()
	for {
		if out.Room(ctx) != nil {
			return false
		}
		if out.Offer(m.frame) {
			return !out.Over()
		}
	}
}
