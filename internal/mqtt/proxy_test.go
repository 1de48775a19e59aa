package mqtt_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy forwards connections to a broker, as far as it likes.
type proxy struct {
	addr     string
	accepted atomic.Int32 // connections
	refused  atomic.Int32 // CONNECT packets of level 5 that were not forwarded

	mu    sync.Mutex
	conns map[net.Conn]bool
	down  bool // close each new connection
}

// policy says what a proxy does with a CONNECT packet of protocol level 5.
type policy int

const (
	forward policy = iota
	refuse5        // CONNACK with return code 1, unacceptable protocol version
	hangup5        // close the connection
)

// startProxy starts a proxy that ends with the test.
func startProxy(t *testing.T, target string, p policy) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x.accepted.Add(1)
			wg.Go(func() { x.serve(c, target, p) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		x.cut(true)
		wg.Wait()
	})
	return x
}

// cut breaks all connections; with down set, new ones as well until cut(false).
func (x *proxy) cut(down bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.down = down
	for c := range x.conns {
		_ = c.Close()
	}
}

// track reports false if c cannot be used.
func (x *proxy) track(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.down {
		x.conns[c] = true
	}
	return !x.down
}

func (x *proxy) serve(c net.Conn, target string, p policy) {
	defer c.Close()
	if !x.track(c) {
		return
	}
	r := bufio.NewReader(c)
	if p != forward {
		level, err := connectLevel(r)
		if err != nil {
			return
		}
		if level == 5 {
			x.refused.Add(1)
			if p == refuse5 {
				_, _ = c.Write([]byte{2 << 4, 2, 0, 1})
			}
			return
		}
	}
	b, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer b.Close()
	if !x.track(b) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, b)
		_ = c.Close()
	}()
	_, _ = io.Copy(b, r)
	_ = b.(*net.TCPConn).CloseWrite() // what it has sent is still to be read
	<-done
}

// connectLevel looks at the protocol level of the CONNECT packet that is next.
func connectLevel(r *bufio.Reader) (byte, error) {
	for n := 2; ; n++ {
		head, err := r.Peek(n)
		if err != nil {
			return 0, err
		}
		if head[n-1] < 0x80 { // the end of the remaining length
			head, err = r.Peek(n + 2)
			if err != nil {
				return 0, err
			}
			name := int(binary.BigEndian.Uint16(head[n:]))
			head, err = r.Peek(n + 2 + name + 1)
			if err != nil {
				return 0, err
			}
			return head[n+2+name], nil
		}
	}
}

// logTo returns a logger that writes to the test's log, while it runs.
func logTo(t *testing.T) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended = true
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type testWriter struct {
	t     *testing.T
	mu    sync.Mutex
	ended bool
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}
