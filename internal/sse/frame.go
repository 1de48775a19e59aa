// Package sse is the wire of Server-Sent Events (WHATWG HTML, section 9.2),
// both ends: Frame and Outbox for who writes a stream, Decoder for who reads one.
package sse

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// Frame is one piece of a stream, encoded once and shared by every stream that
// carries it. It never changes after it was built.
type Frame struct {
	// Name is the event's type as the application knows it ("device-logs"),
	// or a control name; it labels metrics.
	Name string
	// Lines is how many log lines the frame carries.
	Lines int
	// Received is when the content of a live frame reached this program; zero
	// for all others. Set by who builds the frame, before it is queued.
	Received time.Time
	// Last is set on the frame that ends the stream.
	Last bool

	buf     []byte // one HTTP/1.1 chunk (RFC 9112, section 7.1) around the block
	head    int    // where the chunk begins in buf
	block   int    // where the block begins in buf
	payload [2]int // the payload of an application event within buf
	idText  [2]int // its id within buf
}

// sizeRoom is what a chunk header can take: 8 hex digits and CRLF.
const sizeRoom = 10

// Chunk returns the frame as one HTTP/1.1 chunk.
func (f *Frame) Chunk() []byte { return f.buf[f.head:] }

// Block returns the frame's bytes on the stream.
func (f *Frame) Block() []byte { return f.buf[f.block : len(f.buf)-2] }

// Payload returns the JSON text of an application event's payload.
func (f *Frame) Payload() []byte { return f.buf[f.payload[0]:f.payload[1]] }

// IsEvent reports whether the frame is an application event, with a Name, a
// Payload and perhaps an ID: those are what a carrier needs that has a form of its
// own for events. Everything else is of the stream itself.
func (f *Frame) IsEvent() bool { return f.payload[1] > 0 }

// ID returns the id of an event, "" if it has none.
func (f *Frame) ID() string { return string(f.buf[f.idText[0]:f.idText[1]]) }

// Size is what the frame counts for in an Outbox, in bytes.
func (f *Frame) Size() int { return len(f.buf) }

// Event builds an application event: an unnamed event whose data is
// {"type":<name>,"payload":<payload>}. The payload is the concatenation of
// parts, which together must be valid JSON on a single line. With a non-empty
// id the block carries an id field; id must hold no newline and no NUL.
func Event(name, id string, parts ...[]byte) *Frame {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	f := newFrame(name, n+len(name)+len(id)+48)
	f.id(id)
	f.buf = append(f.buf, `data: {"type":`...)
	f.buf = appendQuoted(f.buf, name)
	f.buf = append(f.buf, `,"payload":`...)
	f.payload[0] = len(f.buf)
	for _, p := range parts {
		f.buf = append(f.buf, p...)
	}
	f.payload[1] = len(f.buf)
	f.buf = append(f.buf, "}\n\n"...)
	return f.seal()
}

// Text builds an unnamed event whose data is the text, a data line for each
// of its lines. A carriage return ends a line too, as it does for the reader.
// The id is as for Event.
func Text(id, text string) *Frame {
	f := newFrame("text", len(id)+len(text)+32)
	f.id(id)
	for more := true; more; {
		line := text
		i := strings.IndexAny(text, "\r\n")
		if more = i >= 0; more {
			line = text[:i]
			if strings.HasPrefix(text[i:], "\r\n") {
				i++
			}
			text = text[i+1:]
		}
		f.buf = append(append(append(f.buf, "data: "...), line...), '\n')
	}
	f.buf = append(f.buf, '\n')
	return f.seal()
}

// Control builds a named event, which the application's default handler does
// not see. Empty data is an empty data line.
func Control(name, data string) *Frame {
	f := newFrame(name, len(name)+len(data)+24)
	f.buf = append(append(append(f.buf, "event: "...), name...), "\ndata:"...)
	if data != "" {
		f.buf = append(append(f.buf, ' '), data...)
	}
	f.buf = append(f.buf, "\n\n"...)
	return f.seal()
}

// Heartbeat is a comment that keeps the connection from looking idle.
func Heartbeat() *Frame {
	f := newFrame("heartbeat", 16)
	f.buf = append(f.buf, ": heartbeat\n\n"...)
	return f.seal()
}

// Mark is a block with an id alone: it moves the reader's last event id and
// dispatches nothing (section 9.2.6: an empty data buffer).
func Mark(id string) *Frame {
	f := newFrame("mark", len(id)+8)
	f.id(id)
	f.buf = append(f.buf, '\n')
	return f.seal()
}

// Retry tells the client how long to wait before it connects again.
func Retry(d time.Duration) *Frame {
	f := newFrame("retry", 32)
	f.buf = append(f.buf, "retry: "...)
	f.buf = strconv.AppendInt(f.buf, d.Milliseconds(), 10)
	f.buf = append(f.buf, "\n\n"...)
	return f.seal()
}

// End ends the stream: the writer closes it after this frame. As a chunk it is
// the last one.
func End() *Frame {
	return &Frame{Name: "end", Last: true, buf: []byte("0\r\n\r\n"), block: 3}
}

func newFrame(name string, room int) *Frame {
	return &Frame{Name: name, block: sizeRoom, buf: make([]byte, sizeRoom, sizeRoom+room+2)}
}

func (f *Frame) id(id string) {
	if id != "" {
		f.buf = append(f.buf, "id: "...)
		f.idText[0] = len(f.buf)
		f.buf = append(f.buf, id...)
		f.idText[1] = len(f.buf)
		f.buf = append(f.buf, '\n')
	}
}

// seal closes the chunk and writes its size in front of the block.
func (f *Frame) seal() *Frame {
	var size [sizeRoom]byte
	head := strconv.AppendInt(size[:0], int64(len(f.buf)-f.block), 16)
	head = append(head, '\r', '\n')
	f.head = f.block - len(head)
	copy(f.buf[f.head:], head)
	f.buf = append(f.buf, '\r', '\n')
	return f
}

func appendQuoted(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			var q bytes.Buffer
			e := json.NewEncoder(&q)
			e.SetEscapeHTML(false)
			_ = e.Encode(s) // a string always encodes
			return append(b, bytes.TrimRight(q.Bytes(), "\n")...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
