package logs

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"signalbox/internal/fleet"
)

// Filter selects lines by what they say. The zero Filter selects all.
type Filter struct {
	// Level is the least severe level that is selected; Unknown: any. Lines
	// without a level, such as those of a backtrace, are always selected.
	Level Level
	// Tag is the exact tag, in any case; "" is any.
	Tag string
	// Pattern is what the message must hold, in any case, as whole words: * is
	// any text, ? any one character, \ takes the next one as it is. So "timeout"
	// is the word, "time*" a word that begins so, "*meou*" that text anywhere,
	// and "beacon timeout" the two words together. "" is anything.
	Pattern string
	// Regex is a regular expression (RE2) that the message must hold; "" is none.
	Regex string
}

// maxPattern bounds Filter.Pattern and Filter.Regex, in bytes.
const maxPattern = 1024

// matcher is a Filter made ready. Not safe for concurrent use.
type matcher struct {
	level    Level
	tag      string
	regex    *regexp.Regexp
	segments []segment // of the pattern, between its stars
	open     bool      // the pattern begins with a star
	openEnd  bool      // the pattern ends with one
	keys     []uint64  // tokens and tags that a block must hold
	longest  []byte    // the longest text that the lower-case message must hold
	lower    []byte
	all      bool // everything matches
}

// segment is a part of a pattern without stars, in lower case.
type segment struct {
	text []byte // in it, wild stands for any one character
	wild []bool // for each byte, whether it is any one character
	any  bool   // some of it is
}

// compile makes f ready. Its error is fleet.Invalid.
func (f Filter) compile() (*matcher, error) {
	m := &matcher{level: f.Level, tag: f.Tag}
	if len(f.Pattern) > maxPattern || len(f.Regex) > maxPattern {
		return nil, fleet.E(fleet.Invalid, nil, "A query or a regex has at most %d bytes", maxPattern)
	}
	if f.Regex != "" {
		var err error
		if m.regex, err = regexp.Compile(f.Regex); err != nil {
			return nil, fleet.E(fleet.Invalid, err, "The regex is not valid (RE2 syntax)")
		}
	}
	if f.Tag != "" {
		m.keys = append(m.keys, tagKey(f.Tag))
	}
	m.pattern(f.Pattern)
	m.all = f.Level == Unknown && f.Tag == "" && m.regex == nil && len(m.segments) == 0
	return m, nil
}

// pattern parses a pattern.
func (m *matcher) pattern(p string) {
	p = strings.ToValidUTF8(p, "\uFFFD")
	m.open, m.openEnd = strings.HasPrefix(p, "*"), false
	var s segment
	flush := func() {
		if len(s.text) > 0 {
			m.segments = append(m.segments, s)
		}
		s = segment{}
	}
	for i := 0; i < len(p); {
		_, size := utf8.DecodeRuneInString(p[i:])
		c := p[i : i+size]
		m.openEnd = false
		switch {
		case c == "*":
			flush()
			m.openEnd = true
		case c == "?":
			s.text, s.wild, s.any = append(s.text, '?'), append(s.wild, true), true
		default:
			if c == `\` && i+size < len(p) {
				i += size
				_, size = utf8.DecodeRuneInString(p[i:])
				c = p[i : i+size]
			}
			lower := strings.ToLower(c)
			s.text = append(s.text, lower...)
			for range len(lower) {
				s.wild = append(s.wild, false)
			}
		}
		i += size
	}
	flush()
	for i := range m.segments {
		m.require(i)
	}
}

// require notes what a message must hold because of segment i.
func (m *matcher) require(i int) {
	s := &m.segments[i]
	bounded := func(at int, edge bool) bool { // whether a token ends at that side of s
		if at < 0 || at >= len(s.text) {
			return edge
		}
		return !s.wild[at] && !isTokenByte(s.text[at])
	}
	first, last := i == 0 && !m.open, i == len(m.segments)-1 && !m.openEnd
	for at := 0; at < len(s.text); {
		end := at
		for end < len(s.text) && !s.wild[end] && isTokenByte(s.text[end]) {
			end++
		}
		if end > at && bounded(at-1, first) && bounded(end, last) {
			m.keys = append(m.keys, xxhash.Sum64(s.text[at:end]))
		}
		at = max(end, at+1)
	}
	for at := 0; at < len(s.text); {
		end := at
		for end < len(s.text) && !s.wild[end] {
			end++
		}
		if end-at > len(m.longest) {
			m.longest = s.text[at:end]
		}
		at = end + 1
	}
}

// match reports whether a line is selected. lower is the message in lower case,
// or nil if that is not known.
func (m *matcher) match(level Level, tag string, message, lower []byte) bool {
	if m.all {
		return true
	}
	if m.level != Unknown && level > m.level { // Unknown is the lowest
		return false
	}
	if m.tag != "" && !strings.EqualFold(tag, m.tag) {
		return false
	}
	if len(m.segments) > 0 {
		if lower == nil {
			m.lower = appendLower(m.lower[:0], message)
			lower = m.lower
		}
		if !m.matchPattern(lower) {
			return false
		}
	}
	return m.regex == nil || m.regex.Match(message)
}

// matchPattern matches text, in lower case, with the segments. The first one is
// found as early as it can be and the others each as early as they can be after
// it; what comes later can only lose room by another choice.
func (m *matcher) matchPattern(text []byte) bool {
	at := 0
	for i := range m.segments {
		s := &m.segments[i]
		first, last := i == 0 && !m.open, i == len(m.segments)-1 && !m.openEnd
		for {
			start, end := s.find(text, at)
			if start < 0 {
				return false
			}
			if (!first || isBoundary(text, start)) && (!last || isBoundary(text, end)) {
				at = end
				break
			}
			_, size := utf8.DecodeRune(text[start:])
			at = start + size
		}
	}
	return true
}

// isBoundary reports whether no token goes across text[at].
func isBoundary(text []byte, at int) bool {
	return at == 0 || at == len(text) || !isTokenByte(text[at-1]) || !isTokenByte(text[at])
}

// find returns the first place of s in text at or after from, or -1.
func (s *segment) find(text []byte, from int) (start, end int) {
	if from > len(text) {
		return -1, -1
	}
	if !s.any {
		i := bytes.Index(text[from:], s.text)
		if i < 0 {
			return -1, -1
		}
		return from + i, from + i + len(s.text)
	}
	for start = from; start < len(text); {
		if end, ok := s.here(text, start); ok {
			return start, end
		}
		_, size := utf8.DecodeRune(text[start:])
		start += size
	}
	return -1, -1
}

func (s *segment) here(text []byte, at int) (end int, ok bool) {
	for i := range s.text {
		if at >= len(text) {
			return 0, false
		}
		switch {
		case s.wild[i]:
			_, size := utf8.DecodeRune(text[at:])
			at += size
		case text[at] != s.text[i]:
			return 0, false
		default:
			at++
		}
	}
	return at, true
}

// mayMatch reports whether any line of the block may be selected. It is much
// cheaper than to ask each. The block must be the caller's own; m may be in use.
func (m *matcher) mayMatch(b *block) bool {
	if m.level != Unknown && b.levels&(m.mask()) == 0 {
		return false
	}
	if len(m.segments) > 0 {
		var aligned bool
		if b.lower, aligned = lower(b.lower[:0], b.messages); !aligned {
			// The end of one message and the beginning of the next look like one
			// text: more matches, never fewer. But no line is found in it.
			defer func() { b.lower = b.lower[:0] }()
		}
		return bytes.Contains(b.lower, m.longest)
	}
	return true
}

// mask has the levels that are selected; 0 is any.
func (m *matcher) mask() LevelMask {
	if m.level == Unknown {
		return 0
	}
	return 1<<(m.level+1) - 1
}
