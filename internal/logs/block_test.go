package logs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawBody draws a batch as ingest makes it.
func drawBody(t *rapid.T, at time.Time) (Body, []Entry) {
	var payload []byte
	for range rapid.IntRange(1, 5).Draw(t, "lines") {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			payload = fmt.Appendf(payload, `{"message":%q,"entity_id":"e","heap":%d}`, rapid.StringMatching(`[ -~é☃]{0,30}`).Draw(t, "text"), rapid.Int().Draw(t, "heap"))
		case 1:
			payload = fmt.Appendf(payload, `{"entity_id":"e","message":"I (%d) wifi:no space"}`, rapid.IntRange(0, 99999).Draw(t, "uptime"))
		case 2:
			payload = fmt.Appendf(payload, `{"level":"debug","tag":%q,"relative_time":77,"message":"E (5) other: it says something else"}`, rapid.StringMatching(`[a-z]{0,5}`).Draw(t, "tag"))
		case 3:
			payload = fmt.Appendf(payload, `{"a":{"message":"inner"},"message":"\u0000\u007f\u0085\u2028\ud83d\ude00\\\"\n","z":[{"message":1}]}`)
		case 4:
			payload = fmt.Appendf(payload, `{"message":"%s","x":1}`, strings.Repeat("y", rapid.IntRange(0, 70_000).Draw(t, "long")))
		default:
			payload = fmt.Appendf(payload, `{"entity_id":"e","message":"W (%d) mqtt_client: lost"}`, rapid.IntRange(0, 1<<40).Draw(t, "uptime"))
		}
		payload = append(payload, '\n')
	}
	entries := NewDecoder("entity_id").Decode(nil, payload, at, func(Reason) {})
	return EncodeBody(at, entries), entries
}

// What goes through a block and back is the same, to the byte.
func TestBlockKeepsLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBuilder("e", "dev00001")
		var want []string
		var split splitter
		at, seq := time.Unix(1_800_000_000, 0), uint64(0)
		for range rapid.IntRange(1, 6).Draw(t, "batches") {
			at = at.Add(time.Duration(rapid.IntRange(-5, 1000).Draw(t, "later")) * time.Microsecond)
			seq += rapid.Uint64Range(1, 1<<40).Draw(t, "seq")
			body, entries := drawBody(t, at)
			if !split.split("dev00001", Cursor{"e", seq}, body, b.add) {
				t.Fatalf("not a body: %s", body)
			}
			for i, e := range entries {
				up := int64(-1)
				if e.HasUptime {
					up = e.Uptime.Milliseconds()
				}
				want = append(want, fmt.Sprintf("%d.%d %s %s %q %d %s", seq, i, at.UTC().Format(TimeLayout), e.Level, e.Tag, up, e.Doc))
			}
		}
		show := func(b *block) (lines []string) {
			var l Line
			mark := 0
			for i := range b.lines() {
				mark = b.markOf(i, mark)
				b.line(i, mark, &l)
				up := int64(-1)
				if l.HasUptime {
					up = l.Uptime.Milliseconds()
				}
				lines = append(lines, fmt.Sprintf("%d.%d %s %s %q %d %s", l.Cursor.Seq, l.Cursor.Line, l.Received.Format(TimeLayout), l.Level, l.Tag, up, l.AppendDoc(nil)))
			}
			return lines
		}
		if diff := cmp.Diff(want, show(&b.block)); diff != "" {
			t.Fatalf("in memory: %s", diff)
		}
		back, err := decodeBlock("e", "dev00001", b.encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, show(back)); diff != "" {
			t.Fatalf("stored: %s", diff)
		}
		if back.levels != b.levels || back.least != b.least || back.most != b.most {
			t.Fatalf("levels %b, times %d to %d; want %b, %d to %d", back.levels, back.least, back.most, b.levels, b.least, b.most)
		}
		joined := newBuilder("e", "dev00001")
		joined.addBlock(back)
		if diff := cmp.Diff(want, show(&joined.block)); diff != "" {
			t.Fatalf("joined: %s", diff)
		}
	})
}

// A filter excludes no token that is there, and nearly every one that is not.
func TestFilterHoldsItsTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	b := newBuilder("e", "d")
	var there [][]byte
	for i := range 500 {
		token := fmt.Sprintf("token%x", r.Uint64())
		there = append(there, []byte(token))
		b.add(&Line{Cursor: LineCursor{Cursor{"e", uint64(i + 1)}, 0}, Message: []byte("Some " + strings.ToUpper(token) + ", \x00İ"), Tag: "Wifi"})
	}
	var m filterMaker
	for range 2 { // its memory is used again
		filter := m.make(&b.block)
		keysOf := func(pattern string) []uint64 {
			m, err := Filter{Pattern: pattern}.compile()
			if err != nil {
				t.Fatal(err)
			}
			if len(m.keys) == 0 {
				t.Fatalf("%q requires nothing", pattern)
			}
			return m.keys
		}
		for _, token := range there {
			if !mayHold(filter, keysOf(string(token))) {
				t.Errorf("%s is excluded", token)
			}
		}
		if !mayHold(filter, []uint64{tagKey("WIFI")}) || !mayHold(filter, keysOf("* some *")) || !mayHold(filter, keysOf("i")) {
			t.Error("a tag, a word or a letter is excluded")
		}
		wrong := 0
		for range 10_000 {
			if mayHold(filter, keysOf(fmt.Sprintf("absent%x", r.Uint64()))) {
				wrong++
			}
		}
		if wrong > 100 {
			t.Errorf("%d of 10000 absent tokens are not excluded", wrong)
		}
	}
	for _, damaged := range [][]byte{nil, {1}, make([]byte, 16), bytes.Repeat([]byte{0xff}, 40)} {
		if !mayHold(damaged, []uint64{1}) {
			t.Errorf("a damaged filter of %d bytes excludes something", len(damaged))
		}
	}
}

// Text in lower case is what the standard library makes of it, and said to be
// aligned only if each letter is: one that shrinks may make up for one that grows.
func TestLower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(rapid.StringMatching(`([@-\[`+"`"+`-{ -~]{0,20}[ÉİȺ☃\x{fffd}]{0,3}){0,5}`).Draw(t, "text"))
		if rapid.Bool().Draw(t, "damaged") && len(text) > 0 {
			text = text[:len(text)-1]
		}
		got, aligned := lower([]byte("x"), text)
		if want := "x" + strings.ToLower(string(text)); string(got) != want {
			t.Fatalf("lower(%q) = %q, not %q", text, got, want)
		}
		moves := func(r rune) bool { return utf8.RuneLen(unicode.ToLower(r)) != utf8.RuneLen(r) }
		if utf8.Valid(text) && aligned == bytes.ContainsFunc(text, moves) {
			t.Fatalf("lower(%q) says %t", text, aligned)
		}
	})
}

// Words beside letters that have another length in lower case are found.
func TestFilterOfMovingLetters(t *testing.T) {
	b := newBuilder("e", "d")
	for i, message := range []string{"İ one", "two Ⱥ", "three"} {
		b.add(&Line{Cursor: LineCursor{Cursor{"e", uint64(i + 1)}, 0}, Message: []byte(message)})
	}
	var filters filterMaker
	filter := filters.make(&b.block)
	for _, word := range []string{"one", "two", "three", "ⱥ"} {
		m, err := Filter{Pattern: word}.compile()
		if err != nil {
			t.Fatal(err)
		}
		if !mayHold(filter, m.keys) || !m.mayMatch(&b.block) {
			t.Errorf("%q is excluded", word)
		}
	}
}

func FuzzDecodeBlock(f *testing.F) {
	b := newBuilder("e", "d")
	for i := range 5 {
		b.add(&Line{Cursor: LineCursor{Cursor{"e", uint64(i + 1)}, 0}, Message: []byte("I (7) wifi: x"), Level: Info, Tag: "wifi", Uptime: 7 * time.Millisecond, HasUptime: true, template: template{"a", "b"}})
	}
	f.Add(b.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, data := range [][]byte{raw, sharedCodecs().enc.EncodeAll(raw, nil)} {
			b, err := decodeBlock("e", "d", data)
			if err != nil {
				continue
			}
			var l Line
			mark := 0
			for i := range b.lines() {
				mark = b.markOf(i, mark)
				b.line(i, mark, &l)
			}
		}
	})
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(EncodeBody(time.Unix(0, 0), []Entry{{Doc: []byte(`{"@timestamp":"1970-01-01T00:00:00.000000Z","message":"a\"\\"}`), Level: Warn, Tag: "t", HasUptime: true}})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s splitter
		b := newBuilder("e", "d")
		if s.split("d", Cursor{"e", 1}, raw, b.add) && b.lines() > 0 {
			if _, err := decodeBlock("e", "d", b.encode()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("a*b?c\\*", "xa b1c*")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		m, err := Filter{Pattern: pattern}.compile()
		if err != nil {
			return
		}
		b := newBuilder("e", "d")
		b.add(&Line{Cursor: LineCursor{Cursor{"e", 1}, 0}, Message: []byte(strings.ToValidUTF8(text, "?"))})
		if !m.match(Unknown, "", b.messages, nil) {
			return
		}
		var filters filterMaker
		if !m.mayMatch(&b.block) || !mayHold(filters.make(&b.block), m.keys) {
			t.Errorf("%q matches %q, and the block that holds it is passed over", pattern, text)
		}
	})
}

// decodeBlock decodes into a new block.
func decodeBlock(epoch, device string, data []byte) (*block, error) {
	b := &block{}
	return b, b.decode(epoch, device, data)
}
