package mqtt

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// protocol is a client library that is connected.
type protocol interface {
	// subscribe asks for filters with QoS 1 and returns, for each, whether it
	// was granted.
	subscribe(ctx context.Context, filters []string) ([]bool, error)
	// publish returns once the broker has acknowledged a QoS 1 message.
	publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) error
	// ended is closed when the connection has ended and the library has
	// cleaned up, publishers that wait included.
	ended() <-chan struct{}
}

// link is one connection to the broker.
type link struct {
	conn     *conn
	protocol protocol
	resumed  bool // the broker had our session

	ready  chan struct{} // closed when messages may be taken
	lost   chan struct{} // closed when the connection is of no use any more
	lose1  sync.Once
	left   chan struct{} // closed when it is not the source's link any more
	reason error         // why it was lost; read it after lost
	room   chan struct{} // holds a token for each message in arrived

	acks chan struct{} // holds a token when there may be something to acknowledge

	// With inflight.mu:
	arrived []*delivery // not acknowledged, in the order of their arrival
	deaf    bool        // given up: what arrives now comes again
}

func newLink(c *conn, limit int) *link {
	return &link{
		conn:  c,
		ready: make(chan struct{}),
		lost:  make(chan struct{}),
		left:  make(chan struct{}),
		room:  make(chan struct{}, limit),
		acks:  make(chan struct{}, 1),
	}
}

// lose gives the connection up without blocking and reports whether it was the
// first to do so.
func (l *link) lose(reason error) (first bool) {
	l.lose1.Do(func() {
		l.reason, first = reason, true
		close(l.lost)
	})
	return first
}

// leaveTimeout bounds the wait for the broker's end of a connection.
const leaveTimeout = time.Second

// leave says goodbye to the broker and waits until it has heard: if we closed
// first while something from it is unread here, TCP could lose our last
// acknowledgements. A DISCONNECT without a reason is the same two bytes in both
// versions; in MQTT 5 it keeps the session for its expiry.
func (l *link) leave() {
	if _, err := l.conn.Write([]byte{14 << 4, 0}); err != nil {
		return
	}
	t := time.NewTimer(leaveTimeout)
	defer t.Stop()
	select {
	case <-l.protocol.ended():
	case <-t.C:
	}
}

// wake says that there may be something to acknowledge. It does nothing for a
// nil link.
func (l *link) wake() {
	if l == nil {
		return
	}
	select {
	case l.acks <- struct{}{}:
	default:
	}
}

// receive is called by the library's goroutine for each message.
func (s *Source) receive(l *link, a arrival) {
	select {
	case <-l.ready:
	case <-l.lost:
		return
	}
	if !s.inflight.arrive(l, a) {
		s.metrics.dropped.Inc()
	}
}

// acknowledge sends the acknowledgements of l until it is lost.
func (s *Source) acknowledge(l *link) {
	for {
		select {
		case <-l.acks:
			s.flush(l)
		case <-l.lost:
			return
		}
	}
}

// flush sends the acknowledgements that are due, all in one write.
//
// It bypasses the libraries: one would send them every so many milliseconds,
// the other one at a time by a channel, and a PUBACK that reports success is the
// same four bytes in both versions of MQTT.
func (s *Source) flush(l *link) {
	ids := s.inflight.due(l, nil)
	if len(ids) == 0 {
		return
	}
	packets := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		packets = append(packets, 4<<4, 2)
		packets = binary.BigEndian.AppendUint16(packets, id)
	}
	if _, err := l.conn.Write(packets); err != nil {
		l.lose(err)
		return
	}
	for range ids {
		<-l.room
	}
}
