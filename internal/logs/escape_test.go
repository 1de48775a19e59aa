package logs

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

func strip(s string) string {
	d := NewDecoder("")
	if !hasEscapes([]byte(s)) {
		return s
	}
	return string(d.stripEscapes(nil, []byte(s)))
}

func TestStripEscapes(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		if got := strip(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
	f("plain °C ü", "plain °C ü")
	f("\x1b[0;32mgreen\x1b[0m", "green")
	f("\x1b[mx\x1b[38;2;1;2;3my\x1b[38:2::1:2:3mz", "xyz")
	f("a\x1b[2Kb\x1b[?25lc\x1b[1;1Hd\x1b[ qe\x1b[!pf", "abcdef")
	f("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab")
	f("\x1b]0;Ümlaut Û\x07text", "text") // both letters have bytes that end or begin sequences in 8-bit codes
	f("\x1bPq#0Ü\x1b\\a\x1bXsos\x1b\\b\x1b^pm\x1b\\c\x1b_apc\x1b\\d", "abcd")
	f("\x1b(Ba\x1b)0b\x1b#8c\x1bcd\x1b=e\x1b7f\x1bDg", "abcdefg")
	f("\x1b Xa\x1b(Pb\x1b$)Cc\x1b( éd\x1b(", "abcéd")
	f("\u009b31ma\u009d0;t\u009cb\u0090q\u009cc\u0084d", "abcd")
	f("a\u0085b", "a\u0085b")
	f("a\x1b", "a")
	f("a\x1b[31", "a")
	f("a\x1b]0;no end", "a")
	f("\x1b\x1b[31ma\x1b[\x1b[0mb", "ab")
	f("\x1b[3éa", "éa") // not a sequence: the letters stay
	f("\x1b[31Ü\x1b[0m", "Ü")
	f("\x1b[1\x18a\nb\x00", "\x18a\nb\x00")
}

func FuzzStripEscapes(f *testing.F) {
	for _, s := range []string{"", "\x1b[0;32mI (1) a: b\x1b[0m", "\x1b]0;Ü\x07x", "\u009b31m\u0085", "\x1bPq\x1b\\", "\x1b\x1b", "°\x1b(Bü", "\u009d\u009c\u009b", "\x1b[Ü", "a\u0085\u0090Ü\x18\x1a", "\x1b X0", "\x1b\x010", "\x1b[ 0m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "\uFFFD")
		got := strip(s)
		if !utf8.ValidString(got) {
			t.Fatalf("%q: %q is not valid UTF-8", s, got)
		}
		for _, r := range got {
			if r == 0x1b || r >= 0x80 && r <= 0x9f && r != 0x85 {
				t.Fatalf("%q: %U left in %q", s, r, got)
			}
		}
		if again := strip(got); again != got {
			t.Fatalf("%q: %q, then %q", s, got, again)
		}
		// In ASCII this is the library's own function.
		if strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 && ansi.Strip(s) != got {
			t.Fatalf("%q: %q, the library says %q", s, got, ansi.Strip(s))
		}
	})
}

func TestCutQuoted(t *testing.T) {
	f := func(s string, max int, want string) {
		t.Helper()
		if got := string(cutQuoted(appendQuoted(nil, []byte(s)), max)); got != want {
			t.Errorf("%q at %d: got %s, want %s", s, max, got, want)
		}
	}
	f("abc", 5, `"abc"`)
	f("abc", 4, `"ab"`)
	f("abc", 2, `""`)
	f("aü", 5, `"aü"`)
	f("aü", 4, `"a"`)
	f("\n\n", 6, `"\n\n"`)
	f("\n\n", 5, `"\n"`)
	f("\x00\x00", 14, `"\u0000\u0000"`)
	f("\x00\x00", 13, `"\u0000"`)
	f("\\u", 4, `"\\"`)
}
