package sse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"time"
)

// MaxEvent bounds one line and the data of one event that a Decoder accepts.
const MaxEvent = 16 << 20

// ErrTooLong is returned by Decoder.Next for an event over MaxEvent.
var ErrTooLong = errors.New("sse: event too long")

// Message is one dispatched event.
type Message struct {
	Name string // the event field; "" is an unnamed event
	Data []byte // data lines joined by newlines; valid until the next call of Next
}

// Decoder reads an event stream as a browser does (section 9.2.6), with two
// differences: it also dispatches named events with empty data, which Signalbox
// uses as control events, and a lone CR does not end a line.
type Decoder struct {
	r     *bufio.Reader
	data  []byte
	first bool

	lastID string
	retry  time.Duration
}

// NewDecoder returns a Decoder on r. lastID is the last event id of the
// connection before this one, or "".
func NewDecoder(r io.Reader, lastID string) *Decoder {
	return &Decoder{r: bufio.NewReaderSize(r, 32<<10), lastID: lastID, first: true}
}

// LastID returns the last event id: what to send as Last-Event-ID.
func (d *Decoder) LastID() string { return d.lastID }

// Retry returns the last reconnection time the stream asked for, or 0.
func (d *Decoder) Retry() time.Duration { return d.retry }

// Next returns the next event. At the end of the stream it returns io.EOF, and
// drops an event that was not complete.
func (d *Decoder) Next() (Message, error) {
	var m Message
	d.data = d.data[:0]
	hasData, id, hasID := false, "", false
	for {
		line, err := d.line()
		if err != nil {
			return Message{}, err
		}
		if len(line) == 0 { // end of the block
			if hasID {
				d.lastID = id
			}
			if hasData && (len(d.data) > 1 || m.Name != "") {
				m.Data = d.data[:len(d.data)-1]
				return m, nil
			}
			m, hasData, hasID = Message{}, false, false
			d.data = d.data[:0]
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if len(d.data)+len(value) > MaxEvent {
				return Message{}, ErrTooLong
			}
			d.data = append(append(d.data, value...), '\n')
			hasData = true
		case "event":
			m.Name = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				id, hasID = string(value), true
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				d.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end: LF or CR LF.
func (d *Decoder) line() ([]byte, error) {
	var long []byte
	for {
		part, err := d.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err // also io.EOF: a line without an end is no line
		}
		if d.first && len(part) > 0 {
			d.first = false
			part = bytes.TrimPrefix(part, []byte("\xef\xbb\xbf"))
		}
		if err == nil && long == nil {
			return trimEnd(part), nil
		}
		if len(long)+len(part) > MaxEvent {
			return nil, ErrTooLong
		}
		long = append(long, part...)
		if err == nil {
			return trimEnd(long), nil
		}
	}
}

func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
}
