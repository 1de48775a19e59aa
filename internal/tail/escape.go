package tail

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Devices choose what is printed here, so nothing of it may drive the
// terminal or deceive its reader: control characters (C0, DEL and C1, which
// begin escape sequences), invisible format characters (among them those that
// turn the direction of writing), line and paragraph separators.
func hostile(r rune) bool {
	switch {
	case r >= ' ' && r < 0x7f, r == '\t':
		return false
	case r == '\u200c', r == '\u200d': // the joiners, which scripts and emoji need
		return false
	default:
		return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
	}
}

// escape returns s as text that a terminal only shows: what is hostile appears
// as in a Go string, what is not UTF-8 as U+FFFD.
func escape(s string) string {
	return replaceHostile(s, func(r rune) string {
		switch {
		case r == '\n':
			return `\n`
		case r == '\r':
			return `\r`
		case r < 0x80:
			return fmt.Sprintf(`\x%02x`, r)
		case r < 0x10000:
			return fmt.Sprintf(`\u%04x`, r)
		default:
			return fmt.Sprintf(`\U%08x`, r)
		}
	})
}

// escapeJSON does the same to a line of JSON, which remains the same value:
// outside of strings JSON has nothing hostile.
func escapeJSON(s string) string {
	return replaceHostile(s, func(r rune) string {
		if r < 0x10000 {
			return fmt.Sprintf(`\u%04x`, r)
		}
		high, low := utf16.EncodeRune(r)
		return fmt.Sprintf(`\u%04x\u%04x`, high, low)
	})
}

func replaceHostile(s string, replace func(rune) string) string {
	var b strings.Builder
	clean := 0 // s[clean:i] needs no change
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			b.WriteString(s[clean:i])
			b.WriteRune(utf8.RuneError)
			clean = i + size
		} else if hostile(r) {
			b.WriteString(s[clean:i])
			b.WriteString(replace(r))
			clean = i + size
		}
		i += size
	}
	if clean == 0 {
		return s
	}
	b.WriteString(s[clean:])
	return b.String()
}
