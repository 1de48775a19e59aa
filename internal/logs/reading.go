package logs

import (
	"strings"
	"time"
	"unicode/utf8"

	"signalbox/internal/fleet"
)

// What a History that stands elsewhere, and a client, need to give the same lines.

// Matcher is a Filter made ready. Not safe for concurrent use.
type Matcher struct{ m *matcher }

// Matcher makes f ready. Its error is fleet.Invalid.
func (f Filter) Matcher() (*Matcher, error) {
	m, err := f.compile()
	if err != nil {
		return nil, err
	}
	return &Matcher{m}, nil
}

// Matcher checks q and makes its Filter ready. Its error is fleet.Invalid.
func (q *Query) Matcher() (*Matcher, error) {
	m, err := q.Filter.Matcher()
	if err != nil {
		return nil, err
	}
	if q.Limit < 1 || q.Limit > MaxQuery {
		return nil, fleet.E(fleet.Invalid, nil, "The limit must be from 1 to %d", MaxQuery)
	}
	return m, nil
}

// All reports whether every line is selected.
func (m *Matcher) All() bool { return m.m.all }

// Match reports whether a line is selected.
func (m *Matcher) Match(level Level, tag string, message []byte) bool {
	return m.m.match(level, tag, message, nil)
}

// Glob returns a pattern that the whole message, in lower case, of every
// selected line fits: * is any text, ? any one character, \ takes the next one
// as it is. Characters that keep does not want are ?. It is "" if it would fit
// everything.
func (m *Matcher) Glob(keep func(rune) bool) string {
	if len(m.m.segments) == 0 {
		return ""
	}
	var b strings.Builder
	for _, s := range m.m.segments {
		b.WriteByte('*')
		for i := 0; i < len(s.text); {
			r, size := utf8.DecodeRune(s.text[i:])
			switch {
			case s.wild[i] || !keep(r):
				b.WriteByte('?')
			case r == '*' || r == '?' || r == '\\':
				b.WriteByte('\\')
				fallthrough
			default:
				b.WriteRune(r)
			}
			i += size
		}
	}
	b.WriteByte('*')
	return b.String()
}

// Line returns the entry as a line that is read again. It holds on to nothing
// of the entry. It reports false for a Doc that is none.
func (e *Entry) Line(at LineCursor, device string, received time.Time) (Line, bool) {
	var s splitter
	around, ok := s.cutMessage(e.Doc)
	return Line{
		Cursor: at, Device: device, Received: received.UTC(), Level: e.Level, Tag: e.Tag, Uptime: e.Uptime, HasUptime: e.HasUptime,
		Message: s.text, template: around,
	}, ok
}

// Lines calls f for each line of the record; what it holds is valid during the
// call. It reports false for a record whose Body is none.
func (r *Record) Lines(epoch string, f func(*Line)) bool {
	var s splitter
	return s.split(r.Device, Cursor{epoch, r.Seq}, r.Body, f)
}
