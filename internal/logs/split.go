package logs

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// Line is one log line as it is read again.
type Line struct {
	Cursor    LineCursor
	Device    string // the device's key
	Received  time.Time
	Level     Level
	Tag       string
	Uptime    time.Duration // the device's time since boot, if HasUptime
	HasUptime bool
	Message   []byte // valid until the next line is asked for
	template         // the document around the message
}

// AppendDoc appends the line's document, as Entry.Doc was, to dst.
func (l *Line) AppendDoc(dst []byte) []byte {
	dst = append(dst, docStamp...)
	dst = l.Received.UTC().AppendFormat(dst, TimeLayout)
	dst = append(append(dst, '"'), l.prefix...)
	dst = appendQuoted(dst, l.Message)
	return append(dst, l.suffix...)
}

const (
	docStamp = `{"@timestamp":"`
	docHead  = len(docStamp) + len(TimeLayout) + len(`"`)
)

// splitter reads the lines of bodies; it keeps its memory between them.
type splitter struct {
	docs   [][]byte
	metas  [][]byte
	text   []byte // the message of the line, unquoted
	around template
	line   Line              // the line
	tags   map[string]string // seen before, by their JSON: few, and in nearly every line
}

// maxTags bounds splitter.tags.
const maxTags = 256

// split calls f for each line of b, in order; Cursor.Line is its index. What
// the line holds is valid during the call. It reports false for what is no Body.
func (s *splitter) split(device string, at Cursor, b Body, f func(*Line)) bool {
	received := b.Received()
	if received.IsZero() {
		return false
	}
	var ok bool
	if s.docs, s.metas, ok = splitBody(b, s.docs[:0], s.metas[:0]); !ok {
		return false
	}
	l := &s.line
	for n, doc := range s.docs {
		*l = Line{Cursor: LineCursor{at, n}, Device: device, Received: received}
		if l.template, ok = s.cutMessage(doc); !ok {
			return false
		}
		l.Message = s.text
		if len(s.metas) > 0 && !s.readMeta(s.metas[n], l) {
			return false
		}
		f(l)
	}
	return true
}

// splitBody appends the documents of a Body to docs, and what is known of each,
// if anything is, to metas, as parts of it. It relies on what EncodeBody writes
// and looks for no faults within the documents.
func splitBody(b Body, docs, metas [][]byte) ([][]byte, [][]byte, bool) {
	n := b.Lines()
	if n == 0 {
		return nil, nil, false
	}
	at := len(bodyReceived) + len(TimeLayout) + len(bodyLines)
	at += bytes.IndexByte(b[at:], ',')
	rest, ok := bytes.CutPrefix(b[at:], []byte(bodyLogs))
	if !ok {
		return nil, nil, false
	}
	docs, rest, ok = splitArray(docs, rest)
	if meta, has := bytes.CutPrefix(rest, []byte(`,"meta":[`)); ok && has {
		metas, rest, ok = splitArray(metas, meta)
		ok = ok && len(metas) == n
	}
	return docs, metas, ok && len(docs) == n && string(rest) == "}"
}

// splitArray appends the values of the JSON array whose "[" stands before b to
// values, and returns what follows its "]".
func splitArray(values [][]byte, b []byte) (_ [][]byte, rest []byte, ok bool) {
	for i := 0; i < len(b); {
		end := skipValue(b, i)
		if end <= i || end >= len(b) {
			break
		}
		values = append(values, b[i:end:end])
		switch b[end] {
		case ',':
			i = end + 1
		case ']':
			return values, b[end+1:], true
		default:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// pick returns b with those lines only that keep wants, and their indices in b;
// no Body if there is none, and no indices if all are wanted.
func (s *splitter) pick(b Body, keep func(*Line) bool) (Body, []int) {
	var entries []Entry
	var picked []int
	whole := true
	ok := s.split("", Cursor{}, b, func(l *Line) {
		if keep(l) {
			entries = append(entries, Entry{Doc: s.docs[l.Cursor.Line], Level: l.Level, Tag: l.Tag, Uptime: l.Uptime, HasUptime: l.HasUptime})
			picked = append(picked, l.Cursor.Line)
		} else {
			whole = false
		}
	})
	switch {
	case !ok || whole:
		return b, nil
	case entries == nil:
		return nil, nil
	}
	return EncodeBody(b.Received(), entries), picked
}

// cutMessage puts a document's message into s.text and returns what is around
// it, without the time stamp.
func (s *splitter) cutMessage(doc []byte) (around template, ok bool) {
	start, end, ok := findMessage(doc)
	if !ok {
		return around, false
	}
	s.text, ok = appendUnquoted(s.text[:0], doc[start:end])
	prefix, suffix := doc[docHead:start], doc[end:]
	if string(prefix) != s.around.prefix || string(suffix) != s.around.suffix { // mostly as the line before
		s.around = template{string(prefix), string(suffix)}
	}
	return s.around, ok
}

// findMessage returns where in a document the JSON string of its message stands.
func findMessage(doc []byte) (start, end int, ok bool) {
	if len(doc) < docHead || string(doc[:len(docStamp)]) != docStamp {
		return 0, 0, false
	}
	for i := docHead; i+1 < len(doc) && doc[i] == ','; {
		key := i + 1
		colon := skipValue(doc, key)
		if colon < 0 || colon >= len(doc) || doc[colon] != ':' {
			return 0, 0, false
		}
		end := skipValue(doc, colon+1)
		if end < 0 {
			return 0, 0, false
		}
		if string(doc[key:colon]) == `"message"` {
			return colon + 1, end, true
		}
		i = end
	}
	return 0, 0, false
}

// skipValue returns the end of the compact JSON value that begins at b[i], or -1.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch c := b[i]; c {
		case '"':
			for i++; ; i++ {
				n := bytes.IndexByte(b[i:], '"')
				if n < 0 {
					return -1
				}
				i += n
				slashes := 0
				for b[i-1-slashes] == '\\' {
					slashes++
				}
				if slashes%2 == 0 {
					break
				}
			}
			i++
			if depth == 0 {
				return i
			}
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i // the end of a number or a word
			}
			depth--
			i++
			if depth == 0 {
				return i
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
			i++
		default:
			i++
		}
	}
	if depth > 0 {
		return -1
	}
	return i
}

// appendUnquoted appends the text of the JSON string q, as appendQuoted wrote
// it, to dst.
func appendUnquoted(dst, q []byte) ([]byte, bool) {
	if len(q) < 2 || q[0] != '"' || q[len(q)-1] != '"' {
		return dst, false
	}
	q = q[1 : len(q)-1]
	if bytes.IndexByte(q, '\\') < 0 {
		return append(dst, q...), true
	}
	for len(q) > 0 {
		if q[0] != '\\' {
			n := bytes.IndexByte(q, '\\')
			if n < 0 {
				n = len(q)
			}
			dst = append(dst, q[:n]...)
			q = q[n:]
			continue
		}
		if len(q) < 2 {
			return dst, false
		}
		switch q[1] {
		case '"', '\\', '/':
			dst = append(dst, q[1])
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, ok := unicodeEscape(q)
			if !ok {
				return dst, false
			}
			dst = append(dst, string(r)...)
			q = q[len(`u0000`)-1:]
		default:
			return dst, false
		}
		q = q[2:]
	}
	return dst, true
}

// readMeta reads what appendMeta wrote.
func (s *splitter) readMeta(b []byte, l *Line) bool {
	for i := 1; i < len(b)-1; {
		colon := skipValue(b, i)
		if colon < 0 || colon >= len(b) || b[colon] != ':' {
			return false
		}
		end := skipValue(b, colon+1)
		if end < 0 || end >= len(b) {
			return false
		}
		value := b[colon+1 : end]
		switch string(b[i:colon]) {
		case `"level"`:
			if len(value) < 2 {
				return false
			}
			l.Level, _ = parseLevel(value[1 : len(value)-1])
		case `"tag"`:
			tag, ok := s.tags[string(value)]
			if !ok {
				if json.Unmarshal(value, &tag) != nil {
					return false
				}
				if s.tags == nil || len(s.tags) >= maxTags {
					s.tags = map[string]string{}
				}
				s.tags[string(value)] = tag
			}
			l.Tag = tag
		case `"uptime_ms"`:
			ms, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil || ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
				return false
			}
			l.Uptime, l.HasUptime = time.Duration(ms)*time.Millisecond, true
		}
		i = end + 1
	}
	return true
}
