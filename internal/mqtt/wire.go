package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"signalbox/internal/logs"
)

// maxPacket is the largest PUBLISH packet that is passed on whole, in bytes
// after the fixed header. It leaves a message of logs.MaxMessage bytes as much
// room again for topic and properties.
//
// It is not announced to the broker as the Maximum Packet Size: a broker drops
// what is larger without a word to anybody [MQTT-3.1.2-25]. Instead the end of
// a larger message is cut off here, which costs no memory, and the decoder finds
// it over its bound and counts it.
const maxPacket = 2 * logs.MaxMessage

// writeTimeout bounds one write. A broker that takes nothing for so long is
// gone, whatever TCP thinks.
const writeTimeout = 10 * time.Second

// conn is the connection below the protocol library. It reads in large pieces,
// bounds packets, and lets goroutines write at the same time.
type conn struct {
	net.Conn
	in frames
	mu sync.Mutex // held for one write
}

func newConn(c net.Conn, level byte) *conn {
	return &conn{Conn: c, in: frames{r: bufio.NewReaderSize(c, 64<<10), level: level}}
}

// Read returns bytes of the packets that frames passes on. After Close its error
// is io.ErrUnexpectedEOF: the 3.1.1 library takes net.ErrClosed for its own doing
// and would not tell that the connection is gone.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, net.ErrClosed) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Write writes one whole packet or several.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(p)
}

// write is Write with mu held. A part of a packet cannot be taken back, so that
// an error is the end of the connection.
func (c *conn) write(p []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // if this fails, so does the write
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.Conn.Close() // the reader notices
	}
	return n, err
}

// gathered is a conn for a library that locks the connection, writes a packet
// piece by piece and unlocks it: the packet goes out in one write.
type gathered struct {
	*conn
	buf bytes.Buffer // with mu held
}

// Lock begins a packet.
func (g *gathered) Lock() { g.mu.Lock() }

// Write adds to the packet. Call it between Lock and Unlock.
func (g *gathered) Write(p []byte) (int, error) { return g.buf.Write(p) }

// Unlock sends the packet. Its error shows at the reader.
func (g *gathered) Unlock() {
	_, _ = g.write(g.buf.Bytes())
	if g.buf.Reset(); g.buf.Cap() > 64<<10 {
		g.buf = bytes.Buffer{}
	}
	g.mu.Unlock()
}

// packet types, in the upper half of a packet's first byte.
const (
	typeConnack = 2
	typePublish = 3
)

// frames passes the packets of a broker through and cuts off the end of PUBLISH
// packets over maxPacket. One goroutine may read at a time.
type frames struct {
	r     *bufio.Reader
	level byte // the protocol level that we asked for: 5, or 4 for MQTT 3.1.1

	begun atomic.Bool // a packet has begun; safe for concurrent use, as is
	old   atomic.Bool // the first was a CONNACK of MQTT 3.1.1 or older

	head []byte // made here, to be returned first
	skip int    // then bytes to leave out
	pass int    // then bytes to pass on
	tail int    // then bytes to leave out
}

// Read implements io.Reader.
func (f *frames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch {
		case len(f.head) > 0:
			n := copy(p, f.head)
			f.head = f.head[n:]
			return n, nil
		case f.skip > 0:
			if err := f.discard(&f.skip); err != nil {
				return 0, err
			}
		case f.pass > 0:
			n, err := f.r.Read(p[:min(len(p), f.pass)])
			f.pass -= n
			return n, err
		case f.tail > 0:
			if err := f.discard(&f.tail); err != nil {
				return 0, err
			}
		default:
			if err := f.next(); err != nil {
				return 0, err
			}
		}
	}
}

func (f *frames) discard(n *int) error {
	done, err := f.r.Discard(*n)
	*n -= done
	return err
}

// next reads the fixed header of a packet. The error is io.EOF only between
// packets.
func (f *frames) next() error {
	first, err := f.r.ReadByte()
	if err != nil {
		return err
	}
	size, raw, err := f.varint()
	if err != nil {
		return err
	}
	if !f.begun.Swap(true) {
		// Since MQTT 5 a CONNACK has at least three bytes.
		f.old.Store(first>>4 == typeConnack && size == 2)
	}
	if first>>4 == typePublish && size > maxPacket {
		return f.cut(first, size)
	}
	f.head = append(append(f.head[:0], first), raw...)
	f.pass = size
	return nil
}

// errMalformed is a packet whose parts are longer than the packet.
var errMalformed = errors.New("malformed packet")

// cut passes on a PUBLISH packet of size bytes without its properties, which
// nobody here looks at, and with one byte of payload more than is allowed.
func (f *frames) cut(first byte, size int) error {
	var n [2]byte
	if _, err := io.ReadFull(f.r, n[:]); err != nil {
		return unexpected(err)
	}
	length := 2 + int(binary.BigEndian.Uint16(n[:])) // of the topic
	if qos := first >> 1 & 3; qos > 0 {
		length += 2 // the packet identifier
	}
	vary := make([]byte, length, length+1)
	copy(vary, n[:])
	if _, err := io.ReadFull(f.r, vary[2:]); err != nil {
		return unexpected(err)
	}
	size -= len(vary)
	if f.level >= 5 {
		props, raw, err := f.varint()
		if err != nil {
			return err
		}
		size -= len(raw) + props
		f.skip = props
		vary = append(vary, 0) // no properties
	}
	if size < 0 {
		return errMalformed
	}
	f.pass = min(size, logs.MaxMessage+1)
	f.tail = size - f.pass
	f.head = append(f.head[:0], first)
	f.head = binary.AppendUvarint(f.head, uint64(len(vary)+f.pass)) // the encoding is the same
	f.head = append(f.head, vary...)
	return nil
}

// varint reads a variable byte integer and also returns it as it was written.
func (f *frames) varint() (n int, raw []byte, err error) {
	var buf [4]byte
	for i := range buf {
		b, err := f.r.ReadByte()
		if err != nil {
			return 0, nil, unexpected(err)
		}
		buf[i] = b
		n |= int(b&0x7f) << (7 * i)
		if b < 0x80 {
			return n, buf[:i+1], nil
		}
	}
	return 0, nil, errMalformed
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// dial opens the network connection, without a word of MQTT.
func (s *Source) dial(ctx context.Context) (net.Conn, error) {
	if s.endpoint.websocket {
		return dialWebSocket(ctx, s.endpoint, s.tls)
	}
	if s.endpoint.tls {
		d := tls.Dialer{Config: s.tls}
		return d.DialContext(ctx, "tcp", s.endpoint.host)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.endpoint.host)
}

func dialWebSocket(ctx context.Context, e endpoint, tlsConfig *tls.Config) (net.Conn, error) {
	d := websocket.Dialer{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: tlsConfig,
		Subprotocols:    []string{"mqtt"}, // [MQTT-6.0.0-3]
	}
	ws, resp, err := d.DialContext(ctx, e.String(), nil)
	if resp != nil {
		_ = resp.Body.Close() // what the library leaves of it is in memory
	}
	if err != nil {
		return nil, err
	}
	return &webSocketConn{Conn: ws}, nil
}

// webSocketConn is a WebSocket as a stream of bytes. MQTT packets need not keep
// to the borders of its messages [MQTT-6.0.0-2].
type webSocketConn struct {
	*websocket.Conn
	message io.Reader // the one being read, nil between messages
}

// Read implements io.Reader. One goroutine may call it at a time.
func (c *webSocketConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, r, err := c.NextReader()
			if err != nil {
				return 0, endOfStream(err)
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// endOfStream turns a WebSocket's end into that of a stream.
func endOfStream(err error) error {
	if _, ok := errors.AsType[*websocket.CloseError](err); ok {
		return io.EOF
	}
	return err
}

// Write sends p as one message. One goroutine may call it at a time.
func (c *webSocketConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline implements net.Conn.
func (c *webSocketConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
