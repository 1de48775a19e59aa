package sse

import (
	"context"
	"sync"
)

// Outbox is the bounded queue between those who have something for a stream
// and the one goroutine that writes it. Producers never block in Offer; one
// that can wait uses Room.
type Outbox struct {
	limit int
	wake  func()

	mu     sync.Mutex
	queue  []*Frame
	bytes  int
	busy   bool          // the writer was woken and has not found the queue empty since
	room   chan struct{} // closed when the queue falls to half; nil if nobody waits
	ended  bool          // the Last frame was queued: nothing may follow it
	closed bool
}

// NewOutbox returns an empty Outbox that takes frames up to limit bytes. wake
// is called, without locks held, whenever frames are waiting and the writer is
// not at work: after it, the writer must call Take until Take returns nothing.
func NewOutbox(limit int, wake func()) *Outbox {
	return &Outbox{limit: limit, wake: wake}
}

// Offer queues f. It reports false, and queues nothing, when f does not fit; a
// frame of any size fits a queue that is at most half full. A closed Outbox, and
// one that holds the frame that ends the stream, swallows everything and
// reports true: there is no reader left to fall behind.
func (o *Outbox) Offer(f *Frame) bool { return o.offer(f, o.limit) }

// OfferControl is Offer for the few small frames that must not be lost to a
// queue full of log lines: they have room of their own.
func (o *Outbox) OfferControl(f *Frame) bool { return o.offer(f, o.limit+controlRoom) }

const controlRoom = 64 << 10

func (o *Outbox) offer(f *Frame, limit int) bool {
	o.mu.Lock()
	if o.closed || o.ended {
		o.mu.Unlock()
		return true
	}
	if o.bytes > o.limit/2 && o.bytes+f.Size() > limit {
		o.mu.Unlock()
		return false
	}
	o.queue = append(o.queue, f)
	o.bytes += f.Size()
	o.ended = f.Last
	wake := !o.busy
	o.busy = true
	o.mu.Unlock()
	if wake {
		o.wake()
	}
	return true
}

// Take appends the waiting frames, at least one and then up to max bytes, to
// dst. When there are none it returns dst as it was, and the next Offer will
// wake the writer again.
func (o *Outbox) Take(dst []*Frame, max int) []*Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, size := 0, 0
	for n < len(o.queue) && (n == 0 || size+o.queue[n].Size() <= max) {
		size += o.queue[n].Size()
		n++
	}
	if n == 0 {
		o.busy = false
		return dst
	}
	dst = append(dst, o.queue[:n]...)
	if n == len(o.queue) {
		clear(o.queue)
		if cap(o.queue) > 64 { // what a burst needed is not kept for an idle stream
			o.queue = nil
		} else {
			o.queue = o.queue[:0]
		}
	} else {
		// A long queue is taken in many pieces: moving the start costs
		// nothing, and append moves the rest to a new array in time.
		clear(o.queue[:n])
		o.queue = o.queue[n:]
	}
	o.bytes -= size
	o.signal()
	return dst
}

// Room waits until the queue is at most half full, the Outbox is closed or ctx
// ends; only the last is an error.
func (o *Outbox) Room(ctx context.Context) error {
	for {
		o.mu.Lock()
		if o.closed || o.bytes <= o.limit/2 {
			o.mu.Unlock()
			return ctx.Err()
		}
		if o.room == nil {
			o.room = make(chan struct{})
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Finish drops what is queued and queues frames instead, the last of which must
// be the one that ends the stream. A closed Outbox stays as it is.
func (o *Outbox) Finish(frames ...*Frame) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.queue, o.bytes, o.ended = nil, 0, true
	for _, f := range frames {
		o.queue = append(o.queue, f)
		o.bytes += f.Size()
	}
	o.signal()
	wake := !o.busy
	o.busy = true
	o.mu.Unlock()
	if wake {
		o.wake()
	}
}

// Close drops what is queued and everything that comes later.
func (o *Outbox) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.queue, o.bytes = nil, 0
	o.signal()
}

// Over reports whether nothing that is offered will be written any more.
func (o *Outbox) Over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed || o.ended
}

// Bytes returns the size of what is waiting.
func (o *Outbox) Bytes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes
}

func (o *Outbox) signal() {
	if o.room != nil && (o.closed || o.bytes <= o.limit/2) {
		close(o.room)
		o.room = nil
	}
}
