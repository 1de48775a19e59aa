package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"signalbox/internal/fleet"
)

// PublisherOptions say where events are published. URL and Log are needed.
type PublisherOptions struct {
	URL        string // amqp:// or amqps://
	Prefix     string // of the names of the exchange and the queues; "" is none
	AutoDelete bool   // the exchange is neither durable nor kept when nothing is bound to it
	Log        *slog.Logger
}

// Publisher is the backend's side of RabbitMQ: it publishes the events of a
// stream under the routing key of its request id, and waits for RabbitMQ to
// confirm each. Run keeps the connection.
type Publisher struct {
	opts     PublisherOptions
	exchange string

	mu    sync.Mutex
	now   *publishing   // nil: there is no connection
	ready chan struct{} // closed when there is one again
}

// publishing is one connection.
type publishing struct {
	conn    *broker
	channel *amqp.Channel // in confirm mode

	mu       sync.Mutex
	closed   bool // see run
	parts    sync.WaitGroup
	returned map[string]bool    // ids of messages that are waited for: whether no queue took them
	gone     chan struct{}      // closed when it is no longer p.now
	over     chan struct{}      // closed when nothing comes back any more
	removals chan *amqp.Channel // for those; nil is one that is yet to be opened, as a queue that is not there closes the channel
	settled  chan chan struct{} // what is sent here is closed once all that came back is in returned
}

const (
	removalsAtOnce    = 16
	patienceForBroker = 30 * time.Second      // that an event waits for a connection
	unroutedPause     = 50 * time.Millisecond // before a message is tried again that no queue took; twice as long each time
	unroutedPauses    = 5 * time.Second       // and at most that: of many streams that wait all take the time of the one whose queue is being made
	unroutedPatience  = time.Minute           // RabbitMQ makes some hundred queues a second, and some thousand streams may come at once
)

// errUnrouted is of a message that no queue took.
var errUnrouted = errors.New("gateway: no queue takes the event")

// errSilenced is of an event of a stream that another one has replaced.
var errSilenced = errors.New("gateway: the stream was replaced")

// NewPublisher returns a Publisher without a connection. Its error says nothing of
// the URL, which holds a password.
func NewPublisher(o PublisherOptions) (*Publisher, error) {
	if err := checkBroker(o.URL); err != nil {
		return nil, err
	}
	p := &Publisher{opts: o, exchange: "sse.events", ready: make(chan struct{})}
	if o.Prefix != "" {
		p.exchange = o.Prefix + "." + p.exchange
	}
	return p, nil
}

// Bindings returns the routing keys that a gateway binds the queue of a request
// id with. Errors: fleet.Invalid for an id that would be a pattern of keys: its
// queue would get what others are sent.
func (p *Publisher) Bindings(requestID string) ([]string, error) {
	if strings.ContainsAny(requestID, "*#") {
		return nil, fleet.E(fleet.Invalid, nil, "Invalid request_id format")
	}
	return []string{keyOf(requestID)}, nil
}

func keyOf(requestID string) string { return "connection." + requestID }

// Connected reports whether there is a connection to RabbitMQ now.
func (p *Publisher) Connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now != nil && !p.now.conn.IsClosed()
}

// Run keeps a connection to RabbitMQ until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	stayConnected(ctx, p.opts.Log, p.dial, p.hold)
	return nil
}

// dial connects, declares the exchange and opens a channel with confirms.
func (p *Publisher) dial(ctx context.Context) (*publishing, error) {
	conn, err := dialBroker(ctx, p.opts.URL, "signalbox")
	if err != nil {
		return nil, err
	}
	s := &publishing{conn: conn, returned: map[string]bool{}, settled: make(chan chan struct{}), gone: make(chan struct{}), removals: make(chan *amqp.Channel, removalsAtOnce)}
	for range removalsAtOnce {
		s.removals <- nil
	}
	if s.channel, err = conn.Channel(); err == nil {
		if err = declareExchange(s.channel, p.exchange, p.opts.AutoDelete); err == nil {
			err = s.channel.Confirm(false)
		}
	}
	if err != nil {
		conn.leave()
		return nil, err
	}
	return s, nil
}

// hold lets events be published over s until it is lost or ctx ends.
func (p *Publisher) hold(ctx context.Context, s *publishing) {
	lost := make(chan *amqp.Error, 2)
	s.conn.NotifyClose(lost)
	channelLost := make(chan *amqp.Error, 2)
	s.channel.NotifyClose(channelLost)
	returns := make(chan amqp.Return) // without room: what was sent was taken
	s.channel.NotifyReturn(returns)
	done := make(chan struct{})
	go func() { // ends with the channel
		defer close(done)
		for {
			select {
			case r, ok := <-returns:
				if !ok {
					return
				}
				s.mu.Lock()
				if _, awaited := s.returned[r.MessageId]; awaited {
					s.returned[r.MessageId] = true
				}
				s.mu.Unlock()
			case asked := <-s.settled:
				close(asked)
			}
		}
	}()
	s.over = done
	p.mu.Lock()
	p.now = s
	close(p.ready)
	p.mu.Unlock()
	select {
	case <-ctx.Done():
	case err := <-lost:
		p.opts.Log.Warn("the connection to RabbitMQ was lost", "err", err)
	case err := <-channelLost:
		p.opts.Log.Warn("the channel of RabbitMQ was closed", "err", err)
	}
	p.mu.Lock()
	p.now, p.ready = nil, make(chan struct{})
	p.mu.Unlock()
	close(s.gone)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.conn.leave()
	<-done
	s.parts.Wait()
}

// run runs f beside its caller, unless the connection is being closed.
func (s *publishing) run(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errNoBroker
	}
	s.parts.Go(f)
	return nil
}

// session returns the connection that there is, or waits for one.
func (p *Publisher) session(ctx context.Context, quit <-chan struct{}) (*publishing, error) {
	patience := time.NewTimer(patienceForBroker)
	defer patience.Stop()
	for {
		p.mu.Lock()
		s, ready := p.now, p.ready
		p.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-ready:
		case <-patience.C:
			return nil, errNoBroker
		case <-quit:
			return nil, errSilenced
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// publish publishes an event of a request id. The gateway sets the queue up once
// the callback is answered: until then no queue takes it, and it is tried again.
// Once quit is closed it begins nothing more, but waits for what becomes of what it
// has sent, and fails with errSilenced if that is nothing.
func (p *Publisher) publish(ctx context.Context, quit <-chan struct{}, requestID string, e sentEvent) error {
	body := e.message()
	for {
		s, err := p.session(ctx, quit)
		if err != nil {
			return err
		}
		if err = s.persist(ctx, quit, p.exchange, keyOf(requestID), body); !errors.Is(err, amqp.ErrClosed) {
			return err
		}
		select { // nothing was sent: the connection was lost just now
		case <-s.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// persist publishes until a queue takes the message.
func (s *publishing) persist(ctx context.Context, quit <-chan struct{}, exchange, key string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, unroutedPatience)
	defer cancel()
	for pause := unroutedPause; ; pause = min(2*pause, unroutedPauses) {
		if err := s.publish(ctx, exchange, key, body); !errors.Is(err, errUnrouted) {
			return err
		}
		select {
		case <-ctx.Done():
			return errUnrouted
		case <-quit:
			return errSilenced
		case <-time.After(pause/2 + mathrand.N(pause)):
		}
	}
}

func (s *publishing) publish(ctx context.Context, exchange, key string, body []byte) error {
	id := rand.Text()
	s.mu.Lock()
	s.returned[id] = false
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.returned, id)
		s.mu.Unlock()
	}()
	// It is persistent, and confirmed when it is on disk: a stream stays open while
	// RabbitMQ is restarted, and what it was to get must not be lost with that.
	confirmed, err := s.channel.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, MessageId: id, Timestamp: time.Now(), Body: body,
	})
	if err != nil {
		return err
	}
	ok, err := confirmed.WaitContext(ctx)
	asked := make(chan struct{})
	select {
	case s.settled <- asked:
		<-asked
	case <-s.over:
	}
	s.mu.Lock()
	returned := s.returned[id] // a message that no queue takes comes back before it is confirmed
	s.mu.Unlock()
	switch {
	case err != nil:
		return err
	case !ok:
		return errors.New("gateway: RabbitMQ refused the event")
	case returned:
		return errUnrouted
	}
	return nil
}

// Forget removes what is left in the queues of a request id: its client tells
// itself how far it came, and would get those twice. A gateway that still reads a
// queue ends that stream, which this one replaces.
func (p *Publisher) Forget(ctx context.Context, requestID string) error {
	p.mu.Lock()
	s := p.now
	p.mu.Unlock()
	if s == nil {
		return errNoBroker
	}
	names := []string{"sse.conn." + requestID} // as the gateway of the reference system calls it
	if p.opts.Prefix != "" {
		names = append(names, p.opts.Prefix+"."+names[0])
	}
	var ch *amqp.Channel
	select {
	case ch = <-s.removals:
	case <-s.gone:
		return errNoBroker
	case <-ctx.Done():
		return ctx.Err()
	}
	// The library waits for an answer for as long as the connection lives.
	done := make(chan error, 1)
	err := s.run(func() {
		var err error
		for _, name := range names {
			if ch, err = s.empty(ch, name, len(names) == 1); err != nil {
				break
			}
		}
		s.removals <- ch
		done <- err
	})
	if err != nil {
		return err // the connection has ended, and with it the channel
	}
	select {
	case err := <-done:
		return errors.Join(err, ctx.Err())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// empty has nothing left in a queue. One that is read is deleted, which ends the
// reading. Else it stays if that is asked for: it will be wanted at once, and to
// delete and make one takes RabbitMQ ten times as long as all the rest. Where it has
// another name it would only take what is for that one. The channel that empty
// returns is nil if it is of no use any more.
func (s *publishing) empty(ch *amqp.Channel, name string, stays bool) (_ *amqp.Channel, err error) {
	if ch == nil || ch.IsClosed() {
		if ch, err = s.conn.Channel(); err != nil {
			return nil, err
		}
	}
	queue, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
	switch {
	case err == nil && (queue.Consumers > 0 || !stays):
		_, err = ch.QueueDelete(name, false, false, false)
	case err == nil && queue.Messages > 0:
		_, err = ch.QueuePurge(name, false)
	}
	if e, ok := errors.AsType[*amqp.Error](err); ok && e.Code == amqp.NotFound {
		return nil, nil
	}
	return ch, err
}
