//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// parser finds the marks in an HTTP/1.1 event stream behind its head, whatever
// the pieces it comes in. A mark counts when the blank line that ends its event
// has come, as in a browser.
type parser struct {
	chunked bool
	left    int    // bytes of the chunk still to come, with its CRLF
	size    []byte // part of a chunk's size line
	line    []byte // part of a line
	marks   []mark // of the event so far
}

var errEnded = errors.New("the server ended the stream")

// feed calls found for every mark whose event is whole.
func (p *parser) feed(b []byte, found func(mark)) error {
	if !p.chunked {
		p.text(b, found)
		return nil
	}
	for len(b) > 0 {
		if p.left > 0 {
			n := min(len(b), p.left)
			if text := min(n, p.left-2); text > 0 {
				p.text(b[:text], found)
			}
			p.left -= n
			b = b[n:]
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			p.size = append(p.size, b...)
			return nil
		}
		size := append(p.size, b[:end]...)
		b = b[end+1:]
		n, err := strconv.ParseUint(string(bytes.TrimRight(size, "\r")), 16, 31)
		if err != nil {
			return fmt.Errorf("chunk size: %w", err)
		}
		if n == 0 {
			return errEnded
		}
		p.size, p.left = size[:0], int(n)+2
	}
	return nil
}

func (p *parser) text(b []byte, found func(mark)) {
	for {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			p.line = append(p.line, b...)
			return
		}
		line := b[:end]
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line = p.line
		}
		switch {
		case len(line) == 0:
			for _, m := range p.marks {
				found(m)
			}
			p.marks = p.marks[:0]
		case bytes.HasPrefix(line, []byte("data:")):
			p.marks = appendMarks(p.marks, line)
		}
		p.line = p.line[:0]
		b = b[end+1:]
	}
}

// reader is one open stream and what it received. It belongs to the goroutine
// of its readers until they are closed.
type reader struct {
	fd     int
	device int // whose lines it expects; -1: none
	parser parser

	seen       []uint64 // a bit for each line of its device
	got        int
	next       int // the line after the last
	duplicates int
	misrouted  int
	disordered int
}

func (r *reader) take(m mark) (fresh bool) {
	if m.device != r.device {
		r.misrouted++
		return false
	}
	word, bit := m.seq/64, uint64(1)<<(m.seq%64)
	for len(r.seen) <= word {
		r.seen = append(r.seen, 0)
	}
	if r.seen[word]&bit != 0 {
		r.duplicates++
		return false
	}
	r.seen[word] |= bit
	if m.seq < r.next {
		r.disordered++
	}
	r.next = m.seq + 1
	r.got++
	return true
}

// readers reads many streams with one goroutine: a goroutine for each would
// cost the processors more than some of the servers that are measured.
type readers struct {
	epoll     int
	list      []*reader
	from      atomic.Int64 // lines due earlier belong to another trial
	measure   atomic.Int64 // lines due from here on are measured
	delivered atomic.Int64 // fresh lines
	lost      atomic.Int64 // streams that ended
	stop      atomic.Bool
	done      chan struct{}

	latency histogram // of measured lines, ns
	last    int64     // when the last one came
}

const never = int64(1) << 62

// openReaders opens n streams, some at a time. Stream i expects the lines of
// device(i); open, called when a stream is there, subscribes it.
func openReaders(ctx context.Context, addr string, n int, device func(i int) int, request func(i int) string, open func(i int) error) (*readers, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	rs := &readers{list: make([]*reader, n), done: make(chan struct{})}
	if rs.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	rs.from.Store(never)
	rs.measure.Store(never)
	go rs.loop()

	var (
		openers sync.WaitGroup
		next    atomic.Int64
		mu      sync.Mutex
		failed  error
	)
	for range 32 {
		openers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				mu.Lock()
				over := i >= n || failed != nil || ctx.Err() != nil
				mu.Unlock()
				if over {
					return
				}
				r := &reader{fd: -1, device: device(i)}
				rs.list[i] = r
				err := r.connect(to, i, request(i))
				if err == nil {
					err = open(i)
				}
				if err == nil {
					err = syscall.EpollCtl(rs.epoll, syscall.EPOLL_CTL_ADD, r.fd, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(i)})
				}
				if err != nil {
					mu.Lock()
					failed = fmt.Errorf("stream %d: %w", i, err)
					mu.Unlock()
				}
			}
		})
	}
	openers.Wait()
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		rs.close()
		return nil, failed
	}
	return rs, nil
}

// connect opens a stream and reads the head of the answer. Streams come from
// several addresses of this machine, because each has only 28 000 ports.
func (r *reader) connect(to netip.AddrPort, i int, request string) (err error) {
	r.fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	patience := syscall.Timeval{Sec: 20}
	head, buf := []byte(nil), make([]byte, 4<<10)
	err = errors.Join(
		syscall.SetsockoptTimeval(r.fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience),
		syscall.Bind(r.fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + i%16)}}),
	)
	if err == nil {
		err = syscall.Connect(r.fd, &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err == nil {
		_, err = syscall.Write(r.fd, []byte(request))
	}
	for err == nil {
		var n int
		n, err = syscall.Read(r.fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR):
			err = nil
			continue
		case err == nil && n <= 0:
			return errEnded
		case err != nil:
			return err
		}
		head = append(head, buf[:n]...)
		if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 {
			if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
				return fmt.Errorf("answer %q", head)
			}
			r.parser.chunked = bytes.Contains(bytes.ToLower(head[:end]), []byte("transfer-encoding: chunked"))
			return r.parser.feed(head[end+4:], func(mark) {}) // none is ours yet
		}
	}
	return err
}

func (rs *readers) loop() {
	defer close(rs.done)
	events := make([]syscall.EpollEvent, 512)
	buf := make([]byte, 64<<10)
	var now, fresh int64
	var r *reader
	from, measure := never, never
	found := func(m mark) {
		if m.due < from || !r.take(m) {
			return
		}
		fresh++
		if m.due >= measure {
			rs.latency.add(now - m.due)
			rs.last = now
		}
	}
	for !rs.stop.Load() {
		n, err := syscall.EpollWait(rs.epoll, events, 50)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
		from, measure = rs.from.Load(), rs.measure.Load()
		for _, e := range events[:max(n, 0)] {
			r = rs.list[e.Fd]
			n, err := syscall.Read(r.fd, buf) // ready, and nobody else reads it: does not block
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			now = time.Now().UnixNano()
			if n <= 0 || r.parser.feed(buf[:n], found) != nil {
				rs.lost.Add(1)
				syscall.EpollCtl(rs.epoll, syscall.EPOLL_CTL_DEL, r.fd, nil) // cannot fail for a descriptor that is in it
			}
		}
		if fresh > 0 {
			rs.delivered.Add(fresh)
			fresh = 0
		}
	}
}

// close ends the reading; afterwards the readers may be looked at.
func (rs *readers) close() {
	rs.stop.Store(true)
	<-rs.done
	for _, r := range rs.list {
		if r != nil && r.fd >= 0 {
			syscall.Close(r.fd)
		}
	}
	syscall.Close(rs.epoll)
}
