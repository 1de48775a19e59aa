package mqtt

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// delivery is one message from the broker. Its fields below mu belong to
// inflight's lock; the others do not change.
type delivery struct {
	id       uint16 // the packet identifier, 0 with QoS 0
	qos      byte
	dup      bool
	topic    string
	sum      uint64 // of topic and payload
	session  int    // of the broker's sessions, the one it came in
	received time.Time

	// mu
	payload []byte // until it is handed over
	stage   stage
	link    *link // the newest connection it came by; nil once acknowledged there
}

// stage is how far a delivery has come.
type stage uint8

const (
	waiting   stage = iota // in the queue
	handed                 // with the consumer
	done                   // safe: to be acknowledged
	refused                // the consumer could not keep it: to be delivered again
	forgotten              // never handed over, so that it comes again behind a refused one
)

// inflight remembers the messages that the broker has not seen acknowledged,
// across connections. A broker repeats these under their packet identifiers
// when the session is resumed [MQTT-4.4.0-1], and so a message that is already
// here is recognized and handed over once, however often the connection breaks.
// Only a restart of this process loses that memory; what comes twice because of
// it has Dup set.
type inflight struct {
	max  int // unacknowledged messages of one connection
	seed maphash.Seed

	mu      sync.Mutex
	current *link // the newest connection
	session int   // counts the sessions that the broker has begun for us
	byID    map[uint16]*delivery
	acked   []*delivery   // the last ones acknowledged, oldest first: the broker may not have heard
	queue   []*delivery   // to hand over, in order
	more    chan struct{} // holds a token when queue is not empty
}

func newInflight(limit int) *inflight {
	return &inflight{max: limit, seed: maphash.MakeSeed(), byID: map[uint16]*delivery{}, more: make(chan struct{}, 1)}
}

// begin says that a connection is up, before any message of it arrives, and
// whether the broker resumed the session. If not, it begins to number anew and
// will repeat nothing.
func (f *inflight) begin(l *link, resumed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = l
	if !resumed {
		f.session++
		clear(f.byID)
		f.acked = nil
	}
}

// arrival is a PUBLISH packet.
type arrival struct {
	id      uint16
	qos     byte
	dup     bool
	old     bool // retained, and sent because we subscribed: to be acknowledged only
	topic   string
	payload []byte
}

// arrive takes a message that came by l into the queue, unless it is there or
// has been. It reports false for a QoS 0 message that finds the queue full and
// is dropped. Otherwise it waits while l has its maximum of messages, which only
// happens with a broker that was not told of it or does not keep to it; the
// wait ends with l. One goroutine per connection calls it.
func (f *inflight) arrive(l *link, a arrival) bool {
	d := &delivery{id: a.id, qos: a.qos, dup: a.dup, topic: a.topic, payload: a.payload, received: time.Now(), link: l}
	if a.qos == 0 {
		if a.old {
			return true
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.queue) >= 2*f.max {
			return false
		}
		f.enqueue(d)
		return true
	}
	d.sum = f.checksum(a)
	select {
	case l.room <- struct{}{}:
	case <-l.lost:
		return true
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	if l.deaf {
		return true // it comes again, behind the one that was refused
	}
	d.session = f.session
	known := f.byID[a.id]
	switch {
	case a.old:
		d.payload, d.stage = nil, done
		l.arrived = append(l.arrived, d)
		l.wake()
	case !a.dup || known == nil || known.sum != d.sum || known.stage == refused || known.stage == forgotten:
		f.byID[a.id] = d
		l.arrived = append(l.arrived, d)
		f.enqueue(d)
	case known.link == l:
		<-l.room // the broker is impatient: the message is here, and not yet acknowledged
	default:
		known.link = l
		l.arrived = append(l.arrived, known)
		if known.stage == done {
			l.wake()
		}
	}
	return true
}

func (f *inflight) checksum(a arrival) uint64 {
	var h maphash.Hash
	h.SetSeed(f.seed)
	h.WriteString(a.topic)
	h.WriteByte(0) // a topic has no such byte [MQTT-3.3.2-1]
	h.Write(a.payload)
	return h.Sum64()
}

// enqueue is called with mu held.
func (f *inflight) enqueue(d *delivery) {
	f.queue = append(f.queue, d)
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// take waits for the next message to hand over. It returns nil when one of the
// contexts has ended, whatever is in the queue.
func (f *inflight) take(ctx, closed context.Context) (*delivery, []byte) {
	for {
		if ctx.Err() != nil || closed.Err() != nil {
			return nil, nil
		}
		if d, payload := f.pop(); d != nil {
			return d, payload
		}
		select {
		case <-f.more:
		case <-ctx.Done():
		case <-closed.Done():
		}
	}
}

func (f *inflight) pop() (*delivery, []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) == 0 {
		f.queue = nil // gives back what a burst needed
		return nil, nil
	}
	d := f.queue[0]
	f.queue[0] = nil
	f.queue = f.queue[1:]
	payload := d.payload
	d.payload, d.stage = nil, handed
	return d, payload
}

// done records the outcome of a message that was handed over, the first time it
// is told. If the broker has to deliver the message again, it returns the
// connection to give up for that, or nil with gone set if the broker has lost
// the session and the message with it.
//
// What arrived behind a refused message and is not handed over yet is forgotten
// and comes again as well, behind it: a device's messages keep their order.
func (f *inflight) done(d *delivery, err error) (giveUp *link, gone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.qos == 0 || d.stage != handed {
		return nil, false
	}
	if err == nil {
		d.stage = done
		d.link.wake()
		return nil, false
	}
	d.stage = refused
	if d.session != f.session {
		return nil, true
	}
	kept := f.queue[:0]
	for _, q := range f.queue {
		if q.qos == 0 || q.session != f.session {
			kept = append(kept, q)
			continue
		}
		q.stage, q.payload = forgotten, nil
	}
	clear(f.queue[len(kept):])
	f.queue = kept
	f.current.deaf = true
	return f.current, false
}

// remembered is how many acknowledged messages are kept in mind in case the
// broker has not heard. A broker that keeps to the Receive Maximum can have
// missed that many; Mosquitto sends beyond it after a reconnect.
const remembered = 8192

// due takes the messages from l that can be acknowledged now: in the order of
// their arrival [MQTT-4.6.0-2], up to the first that is not safe yet. It appends
// their packet identifiers to ids.
func (f *inflight) due(l *link, ids []uint16) []uint16 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for ; n < len(l.arrived) && l.arrived[n].stage == done; n++ {
		d := l.arrived[n]
		d.link = nil
		ids = append(ids, d.id)
		f.acked = append(f.acked, d)
	}
	clear(l.arrived[:n])
	l.arrived = l.arrived[n:]
	if len(l.arrived) == 0 {
		l.arrived = nil
	}
	if extra := len(f.acked) - max(remembered, 2*f.max); extra > 0 {
		for _, old := range f.acked[:extra] {
			if f.byID[old.id] == old && old.link == nil {
				delete(f.byID, old.id)
			}
		}
		clear(f.acked[:extra])
		f.acked = f.acked[extra:]
	}
	return ids
}
