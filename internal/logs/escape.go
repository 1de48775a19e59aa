package logs

import (
	"bytes"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi/parser"
)

// hasEscapes reports whether s, valid UTF-8, has an escape character or a C1
// control. U+0085 is not one of them: it is a line break, and no sequence
// begins with it.
func hasEscapes(s []byte) bool {
	return bytes.IndexByte(s, 0x1b) >= 0 || hasC1(s)
}

func hasC1(s []byte) bool {
	for {
		i := bytes.IndexByte(s, 0xc2)
		if i < 0 || i+1 >= len(s) {
			return false
		}
		if c := s[i+1]; c <= 0x9f && c != 0x85 {
			return true
		}
		s = s[i+2:]
	}
}

// stripEscapes appends s without its terminal escape sequences to dst: CSI, OSC,
// DCS and the other strings, charset selections and single functions, whether
// begun by ESC or by a C1 control. s is valid UTF-8 and so is what is appended.
// A sequence cut off by the end of s goes too; a control character in the middle
// of one stays, as a terminal obeys it.
//
// The library's table is that of a terminal of eight-bit codes, so it is asked
// about ASCII only: of a letter such as "Ü" it would take the second byte for
// the end of a string.
func (d *Decoder) stripEscapes(dst, s []byte) []byte {
	if hasC1(s) {
		d.c1 = rewriteC1(d.c1[:0], s)
		s = d.c1
	}
	state := parser.GroundState
	for i := 0; i < len(s); {
		if state == parser.GroundState {
			n := bytes.IndexByte(s[i:], 0x1b)
			if n < 0 {
				return append(dst, s[i:]...)
			}
			dst = append(dst, s[i:i+n]...)
			i += n
		}
		if s[i] < utf8.RuneSelf {
			var action parser.Action
			state, action = parser.Table.Transition(state, s[i])
			if action == parser.PrintAction || action == parser.ExecuteAction {
				dst = append(dst, s[i])
			}
			i++
			continue
		}
		switch state {
		case parser.OscStringState, parser.DcsStringState, parser.SosStringState, parser.PmStringState, parser.ApcStringState:
			i++ // a part of the string
		default:
			state = parser.GroundState // not in any sequence: it is text
		}
	}
	return dst
}

// rewriteC1 appends s to dst with its C1 controls in their form of seven bits:
// U+009B is ESC [ (ECMA-48, section 5.3).
func rewriteC1(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == 0xc2 && s[i+1] <= 0x9f && s[i+1] != 0x85 {
			i++
			dst = append(dst, 0x1b, s[i]-0x40)
			continue
		}
		dst = append(dst, s[i])
	}
	return dst
}

// repairSurrogates appends line to dst with every \u escape of a lone surrogate
// replaced by \ufffd. Such an escape is to JSON text what an invalid byte is to
// UTF-8: grammatical, and no character. The result says whether there was one.
func repairSurrogates(dst, line []byte) ([]byte, bool) {
	repaired := false
	for {
		i := bytes.IndexByte(line, '\\')
		if i < 0 || i+1 >= len(line) {
			return append(dst, line...), repaired
		}
		dst = append(dst, line[:i]...)
		line = line[i:]
		r, ok := unicodeEscape(line)
		switch {
		case !ok:
			dst, line = append(dst, line[:2]...), line[2:]
			continue
		case r >= 0xd800 && r <= 0xdbff:
			if low, ok := unicodeEscape(line[6:]); ok && low >= 0xdc00 && low <= 0xdfff {
				dst, line = append(dst, line[:12]...), line[12:]
				continue
			}
			fallthrough
		case r >= 0xdc00 && r <= 0xdfff:
			dst = append(dst, `\ufffd`...)
			repaired = true
		default:
			dst = append(dst, line[:6]...)
		}
		line = line[6:]
	}
}

// unicodeEscape reads the \uXXXX at the beginning of s.
func unicodeEscape(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range s[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

const hex = "0123456789abcdef"

// appendQuoted appends s, valid UTF-8, as a JSON string. Besides what JSON asks
// for it escapes DEL, the C1 controls and the two Unicode line separators, so
// that the text is one line to every reader and harmless in a terminal.
func appendQuoted(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(append(dst, s[from:i]...), '\\', c)
		case c == '\n':
			dst = append(append(dst, s[from:i]...), '\\', 'n')
		case c == '\r':
			dst = append(append(dst, s[from:i]...), '\\', 'r')
		case c == '\t':
			dst = append(append(dst, s[from:i]...), '\\', 't')
		case c <= 0x7f:
			dst = append(append(dst, s[from:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c == 0xc2 && s[i+1] <= 0x9f:
			i++
			dst = append(append(dst, s[from:i-1]...), '\\', 'u', '0', '0', hex[s[i]>>4], hex[s[i]&15])
		case c == 0xe2 && s[i+1] == 0x80 && s[i+2]&^1 == 0xa8:
			i += 2
			dst = append(append(dst, s[from:i-2]...), '\\', 'u', '2', '0', '2', hex[s[i]&15])
		default:
			continue
		}
		from = i + 1
	}
	return append(append(dst, s[from:]...), '"')
}

// cutQuoted cuts q, a JSON string that appendQuoted wrote, to at most max bytes
// with its quotes and between two characters. max is at least 2.
func cutQuoted(q []byte, max int) []byte {
	if len(q) <= max {
		return q
	}
	end := 1
	for end < len(q)-1 {
		n := 1
		switch {
		case q[end] == '\\' && q[end+1] == 'u':
			n = len(`\u0000`)
		case q[end] == '\\':
			n = len(`\n`)
		case q[end] >= utf8.RuneSelf:
			_, n = utf8.DecodeRune(q[end:])
		}
		if end+n+1 > max {
			break
		}
		end += n
	}
	q = q[:end+1]
	q[end] = '"'
	return q
}
