//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// publishers sends messages on a fixed schedule, whether the server keeps up or
// not: what cannot be sent yet waits in a queue and keeps the time it was due,
// so a stall shows as latency of everything behind it.
type publishers struct {
	conns []*pubConn
	all   sync.WaitGroup
}

type pubConn struct {
	socket  net.Conn
	window  int
	packets *packets

	mu       sync.Mutex
	queue    []byte // whole messages, not yet written
	unsent   int    // how many
	inFlight int    // written, not yet answered
	id       uint16
	err      error
	closing  bool
}

func dialPublishers(ctx context.Context, addr string, p protocol) (*publishers, error) {
	pub := &publishers{}
	for i := range p.conns {
		var d net.Dialer
		socket, err := d.DialContext(ctx, "tcp", addr)
		if err == nil && p.hello != nil {
			_, err = socket.Write(p.hello(i))
		}
		if err != nil {
			pub.close()
			return nil, fmt.Errorf("publisher: %w", err)
		}
		c := &pubConn{socket: socket, window: p.window, packets: newPackets(p)}
		pub.conns = append(pub.conns, c)
		pub.all.Go(func() {
			err := p.answers(bufio.NewReaderSize(socket, 4<<10), c.answered)
			c.mu.Lock()
			defer c.mu.Unlock()
			if !c.closing {
				c.err = errors.Join(c.err, err)
			}
		})
	}
	return pub, nil
}

// offer queues one message. Nothing is written before flush.
func (c *pubConn) offer(m mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.id = max(c.id+1, 1) // 0 is not allowed
	c.queue = c.packets.append(c.queue, m, c.id)
	c.unsent++
}

// flush writes what the window has room for.
func (c *pubConn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write()
}

func (c *pubConn) answered(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight -= n
	c.write()
}

// write needs mu. The window is small enough for the socket to take it all, so
// that it does not block.
func (c *pubConn) write() {
	n := min(c.unsent, c.window-c.inFlight)
	if n <= 0 || c.err != nil {
		return
	}
	size := n * len(c.packets.like)
	_, c.err = c.socket.Write(c.queue[:size])
	c.queue = append(c.queue[:0], c.queue[size:]...)
	c.unsent -= n
	c.inFlight += n
}

// state returns how many messages wait to be sent, how many for an answer, and
// what went wrong.
func (p *publishers) state() (unsent, inFlight int, err error) {
	for _, c := range p.conns {
		c.mu.Lock()
		unsent += c.unsent
		inFlight += c.inFlight
		err = errors.Join(err, c.err)
		c.mu.Unlock()
	}
	return unsent, inFlight, err
}

func (p *publishers) close() {
	for _, c := range p.conns {
		c.mu.Lock()
		c.closing = true
		c.mu.Unlock()
		c.socket.Close()
	}
	p.all.Wait()
}

// schedule is the messages of a trial: message i is due at start + i/rate and
// is for device i mod devices.
type schedule struct {
	start   time.Time
	rate    float64 // messages a second
	count   int
	devices int
}

func (s schedule) due(i int) int64 { return s.start.UnixNano() + int64(float64(i)*1e9/s.rate) }

func (s schedule) mark(i int) mark { return mark{s.due(i), i % s.devices, i / s.devices} }

// sent returns how many of the first n messages are for a device.
func (s schedule) sent(n, device int) int {
	return (n - device + s.devices - 1) / s.devices
}

// coarse is the rate above which messages are sent in small groups: waking up
// for each costs more than the group adds to the latency.
const coarse, group = 2500.0, 500 * time.Microsecond

// pace offers the messages of s as they become due and returns how many it
// offered: fewer than there are when ctx ended, a publisher failed or half a
// second's messages wait. lag gets how late each was offered.
func (p *publishers) pace(ctx context.Context, s schedule, lag *histogram) (offered int) {
	runtime.LockOSThread() // for nanosleep: the runtime's own timers are late by up to 1 ms
	defer runtime.UnlockOSThread()
	const prSetTimerSlack = 29
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0) // a refusal costs only precision
	touched, look := make([]bool, len(p.conns)), int64(0)
	for i := 0; ctx.Err() == nil; {
		now := time.Now().UnixNano()
		for ; i < s.count && s.due(i) <= now; i++ {
			m := s.mark(i)
			lag.add(now - m.due)
			n := m.device % len(p.conns) // one device stays on one connection, in order
			p.conns[n].offer(m)
			touched[n] = true
		}
		for n, t := range touched {
			if t {
				p.conns[n].flush()
				touched[n] = false
			}
		}
		if i == s.count {
			return i
		}
		if now > look {
			look = now + int64(50*time.Millisecond)
			if unsent, _, err := p.state(); err != nil || unsent > max(int(s.rate/2), 64) {
				return i
			}
		}
		wake := s.due(i)
		if s.rate > coarse {
			wake = max(wake, now+int64(group))
		}
		if wait := min(wake-time.Now().UnixNano(), int64(20*time.Millisecond)); wait > 0 {
			ts := syscall.NsecToTimespec(wait)
			syscall.Nanosleep(&ts, nil) // woken early: the loop looks at the clock again
		}
		offered = i
	}
	return offered
}
