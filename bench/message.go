//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A mark is the only thing that is looked for in what a server delivers. It is
// in the text of every line, so that it survives whatever is made of the line:
//
//	#sb<16 hex digits: when it was due, Unix ns><4: device><8: number of the line at that device>
type mark struct {
	due    int64
	device int
	seq    int
}

const (
	markStart = "#sb"
	markLen   = len(markStart) + 16 + 4 + 8
	lineLen   = 200 // bytes of the JSON of a line
)

func putMark(dst []byte, m mark) {
	dst = dst[copy(dst, markStart):]
	putHex(dst[:16], uint64(m.due))
	putHex(dst[16:20], uint64(m.device))
	putHex(dst[20:28], uint64(m.seq))
}

func putHex(dst []byte, v uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = "0123456789abcdef"[v&15]
		v >>= 4
	}
}

// hex reads what putHex wrote.
func hex(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		switch {
		case c-'0' < 10:
			c -= '0'
		case c-'a' < 6:
			c -= 'a' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint64(c)
	}
	return v, true
}

// appendMarks appends the marks in b.
func appendMarks(marks []mark, b []byte) []mark {
	for {
		i := bytes.Index(b, []byte(markStart))
		if i < 0 || len(b)-i < markLen {
			return marks
		}
		b = b[i+len(markStart):]
		due, ok1 := hex(b[:16])
		device, ok2 := hex(b[16:20])
		seq, ok3 := hex(b[20:28])
		if ok1 && ok2 && ok3 {
			marks = append(marks, mark{int64(due), int(device), int(seq)})
		}
	}
}

// entity is the entity id of a device. All have the same length, so that all
// messages have.
func entity(device int) string { return fmt.Sprintf("bench-%04d", device) }

// line is the JSON of one line as a device sends it.
func line(m mark) []byte {
	text := make([]byte, markLen)
	putMark(text, m)
	b := fmt.Appendf(nil, `{"entity_id":%q,"message":"I (81234) bench: %s `, entity(m.device), text)
	const filler = "wifi station rssi -67 dBm, heap free 183244 bytes, sensor 3 reads 21.75, task stack 1832 words left. "
	b = append(b, strings.Repeat(filler, 2)[:lineLen-len(b)-2]...)
	return append(b, `"}`...)
}

// protocol says how lines are published to a server.
type protocol struct {
	conns   int                                             // connections to publish on
	window  int                                             // messages on a connection that may await their answer
	hello   func(conn int) []byte                           // what a connection begins with; nil for nothing
	wrap    func(device int, line []byte) (packet []byte)   // one message; its length does not depend on the device
	id      int                                             // where in a packet its 16-bit number is; 0 when it has none
	answers func(r *bufio.Reader, answered func(int)) error // reads the answers until there are no more
}

var errRefused = errors.New("a message was refused")

// mqtt publishes to Signalbox: MQTT 3.1.1, QoS 1.
func mqtt(run string) protocol {
	const topic = "iotsupport/logsink"
	return protocol{
		conns: 8, window: 256,
		hello: func(conn int) []byte {
			name := fmt.Sprintf("bench-%s-%d", run, conn)
			b := append([]byte{0x10, byte(12 + len(name)), 0, 4}, "MQTT\x04\x02\x00\x00"...) // clean session, no keep-alive
			return append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...)
		},
		wrap: func(_ int, line []byte) []byte {
			b := binary.AppendUvarint([]byte{0x32}, uint64(2+len(topic)+2+len(line)))
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
			return append(append(b, 0, 0), line...)
		},
		id: 1 + 2 + 2 + len(topic),
		answers: func(r *bufio.Reader, answered func(int)) error {
			var b [4]byte
			for {
				if _, err := io.ReadFull(r, b[:]); err != nil {
					return err
				}
				switch {
				case b[0] == 0x20 && b[3] == 0: // CONNACK
				case b[0] == 0x40: // PUBACK
					answered(1)
				default:
					return fmt.Errorf("MQTT packet % x: %w", b, errRefused)
				}
			}
		},
	}
}

// posts publishes to the floor: one POST after another on each connection.
func posts() protocol {
	return protocol{
		conns: 32, window: 1,
		wrap: func(device int, line []byte) []byte {
			return fmt.Appendf(nil, "POST /publish?topic=%s HTTP/1.1\r\nHost: floor\r\nContent-Length: %d\r\n\r\n%s", entity(device), len(line), line)
		},
		answers: func(r *bufio.Reader, answered func(int)) error {
			for {
				switch l, err := r.ReadSlice('\n'); {
				case err != nil:
					return err
				case bytes.HasPrefix(l, []byte("HTTP/")) && !bytes.Contains(l, []byte(" 204 ")):
					return fmt.Errorf("%s: %w", bytes.TrimSpace(l), errRefused)
				case len(l) == 2:
					answered(1)
				}
			}
		},
	}
}

// packets makes the messages of one protocol quickly, from one example.
type packets struct {
	like     []byte
	entities []int // where the digits of a device are
	mark, id int
}

func newPackets(p protocol) *packets {
	k := &packets{like: p.wrap(0, line(mark{})), id: p.id}
	for i := 0; ; i += 4 {
		at := bytes.Index(k.like[i:], []byte(entity(0)))
		if at < 0 {
			break
		}
		i += at + len("bench-")
		k.entities = append(k.entities, i)
	}
	k.mark = bytes.Index(k.like, []byte(markStart))
	return k
}

// append appends the message with mark m and, where the protocol has one, the number id.
func (k *packets) append(dst []byte, m mark, id uint16) []byte {
	at := len(dst)
	dst = append(dst, k.like...)
	b := dst[at:]
	for _, i := range k.entities {
		d := m.device
		for j := 3; j >= 0; j-- {
			b[i+j] = byte('0' + d%10)
			d /= 10
		}
	}
	putMark(b[k.mark:], m)
	if k.id > 0 {
		binary.BigEndian.PutUint16(b[k.id:], id)
	}
	return dst
}
