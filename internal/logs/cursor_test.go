package logs_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

func TestCursor(t *testing.T) {
	good := func(text, epoch string, seq uint64) {
		t.Helper()
		c, err := logs.ParseCursor(text)
		if err != nil || c.Epoch != epoch || c.Seq != seq || c.String() != text {
			t.Errorf("%q: %+v, %v, again %q", text, c, err, c)
		}
	}
	good("a-0", "a", 0)
	good("z9-1", "z9", 1)
	good("0-18446744073709551615", "0", 1<<64-1)
	good(strings.Repeat("x", 32)+"-10", strings.Repeat("x", 32), 10)

	bad := func(text string) {
		t.Helper()
		if c, err := logs.ParseCursor(text); fleet.KindOf(err) != fleet.Invalid || c != (logs.Cursor{}) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	for _, text := range []string{
		"", "-", "a", "a-", "-1", "a-01", "a-00", "a-+1", "a--1", "a- 1", "a-1 ", "a-1_0", "a-0x1", "a-1.5", "a-1-2", "A-1", "ä-1", "a b-1",
		"a-18446744073709551616", strings.Repeat("x", 33) + "-1", "a-1~2.b", "a-1\x00", "a-1\n",
	} {
		bad(text)
	}
}

func TestPosition(t *testing.T) {
	f := func(text string, seq uint64, apart map[string]uint64) {
		t.Helper()
		want := logs.Position{Cursor: logs.Cursor{Epoch: "e", Seq: seq}, Apart: apart}
		p, err := logs.ParsePosition(text)
		if diff := cmp.Diff(want, p); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
		if got := want.String(); got != text {
			t.Errorf("%+v: text %q, want %q", want, got, text)
		}
		for device, at := range apart {
			if p.Of(device) != at {
				t.Errorf("%q: %s is at %d, want %d", text, device, p.Of(device), at)
			}
		}
		if p.Of("other") != seq {
			t.Errorf("%q: others are at %d, want %d", text, p.Of("other"), seq)
		}
	}
	f("e-7", 7, nil)
	f("e-7~0.a", 7, map[string]uint64{"a": 0})
	f("e-7~3.a.b", 7, map[string]uint64{"b": 3, "a": 3})
	f("e-7~3.b~5.a~10.c", 7, map[string]uint64{"a": 5, "b": 3, "c": 10}) // by number, not by text
	f("e-7~7.a", 7, map[string]uint64{"a": 7})
	f("e-0~18446744073709551615.a", 0, map[string]uint64{"a": 1<<64 - 1})

	for _, text := range []string{
		"", "e", "~", "e-7~", "e-7~3", "e-7~3.", "e-7~.a", "e-7~03.a", "e-7~3.A", "e-7~3.a..b", "e-7~3.a.", "e-7~3.a~", "e-7~~3.a", "e-7.a", "e-7~+3.a",
		"e-7~-3.a", "e-7~3.a ", "e-7~3." + strings.Repeat("a", 33), "e-7~18446744073709551616.a", "~3.a",
	} {
		if p, err := logs.ParsePosition(text); fleet.KindOf(err) != fleet.Invalid || p.Epoch != "" || p.Apart != nil {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
}

// The text of a thousand devices apart is well within the bound, and a text
// over the bound is refused.
func TestPositionBound(t *testing.T) {
	p := logs.Position{Cursor: logs.Cursor{Epoch: "abcdefgh", Seq: 1 << 60}, Apart: map[string]uint64{}}
	for i := range 1000 {
		p.Apart[fmt.Sprintf("dev%05d", i)] = 1<<60 + uint64(i)
	}
	got, err := logs.ParsePosition(p.String())
	if diff := cmp.Diff(p, got); err != nil || diff != "" {
		t.Errorf("1000 devices, each at its own place: %v\n%s", err, diff)
	}
	const bound = 32 << 10
	fill := func(n int) string { // n bytes
		s := "e-1~1" + strings.Repeat(".aaaaaaa", (n-len("e-1~1"))/8)
		return s + "." + strings.Repeat("b", n-len(s)-1)
	}
	if _, err := logs.ParsePosition(fill(bound)); err != nil {
		t.Errorf("at the bound: %v", err)
	}
	if _, err := logs.ParsePosition(fill(bound + 1)); fleet.KindOf(err) != fleet.Invalid {
		t.Errorf("over the bound: %v", err)
	}
}

// Equal positions have equal texts, and a text says all of its position.
func TestPositionRoundTrip(t *testing.T) {
	key := rapid.StringMatching(`[a-z0-9]{1,32}`)
	seq := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 12))
	rapid.Check(t, func(t *rapid.T) {
		p := logs.Position{Cursor: logs.Cursor{Epoch: key.Draw(t, "epoch"), Seq: seq.Draw(t, "seq")}}
		if apart := rapid.MapOfN(key, seq, 0, 20).Draw(t, "apart"); len(apart) > 0 {
			p.Apart = apart
		}
		got, err := logs.ParsePosition(p.String())
		if diff := cmp.Diff(p, got); err != nil || diff != "" {
			t.Fatalf("%s: %v\n%s", p, err, diff)
		}
		if again := (logs.Position{Cursor: p.Cursor, Apart: maps.Clone(p.Apart)}); again.String() != p.String() {
			t.Fatalf("%s and %s are equal", again, p)
		}
	})
}

func FuzzParseCursor(f *testing.F) {
	f.Add("a-1")
	f.Add("a-18446744073709551616")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := logs.ParseCursor(text)
		if err == nil && c.String() != text {
			t.Fatalf("%q became %q", text, c)
		}
		if p, perr := logs.ParsePosition(text); err == nil && (perr != nil || p.Cursor != c || p.Apart != nil) {
			t.Fatalf("%q: a cursor, but as a position %+v, %v", text, p, perr)
		}
	})
}

func FuzzParsePosition(f *testing.F) {
	for _, text := range []string{"a-1", "a-1~2.b.c~3.d", "a-1~3.d~2.d", "a-1~2.c.b", "a-1~"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := logs.ParsePosition(text)
		if err != nil {
			return
		}
		canonical := p.String()
		again, err := logs.ParsePosition(canonical)
		if diff := cmp.Diff(p, again); err != nil || diff != "" || again.String() != canonical {
			t.Fatalf("%q became %q: %v\n%s", text, canonical, err, diff)
		}
	})
}

func TestLineCursor(t *testing.T) {
	f := func(text string, ok bool) {
		t.Helper()
		c, err := logs.ParseLineCursor(text)
		switch {
		case ok && (err != nil || c.String() != text):
			t.Errorf("%q reads as %v, %v", text, c, err)
		case !ok && fleet.KindOf(err) != fleet.Invalid:
			t.Errorf("%q reads as %v, %v", text, c, err)
		}
	}
	f("e-1", true)
	f("e-1.0", true)
	f("e-18446744073709551615.10000", true)
	f("e-1.", false)
	f("e-1.00", false)
	f("e-1.-1", false)
	f("e-1.99999", false)
	f("e-1.1.1", false)
	f(".1", false)
	f("", false)
}

func FuzzParseLineCursor(f *testing.F) {
	f.Add("e-1.0")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := logs.ParseLineCursor(text); err == nil && c.String() != text {
			t.Errorf("%q reads as %v", text, c)
		}
	})
}
