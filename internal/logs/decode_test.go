package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var testTime = time.Date(2026, 2, 10, 8, 30, 0, 123456789, time.FixedZone("", 3600))

const stamped = `{"@timestamp":"2026-02-10T07:30:00.123456Z"`

// decode decodes payload with a fresh Decoder.
func decode(payload string) ([]Entry, map[Reason]int) {
	counts := map[Reason]int{}
	entries := NewDecoder("entity_id").Decode(nil, []byte(payload), testTime, func(r Reason) { counts[r]++ })
	return entries, counts
}

func TestDecodeDocument(t *testing.T) {
	// f decodes one line and compares the document after its @timestamp.
	f := func(line, want string, reasons ...Reason) {
		t.Helper()
		entries, counts := decode(line)
		if len(entries) != 1 {
			t.Fatalf("%q: %d entries, want 1 (%v)", line, len(entries), counts)
		}
		got := string(entries[0].Doc)
		if got != stamped+want {
			t.Errorf("%q:\n got %s\nwant %s", line, got, stamped+want)
		}
		wantCounts := map[Reason]int{}
		for _, r := range reasons {
			wantCounts[r]++
		}
		if diff := cmp.Diff(wantCounts, counts); diff != "" {
			t.Errorf("%q: counts (-want +got)\n%s", line, diff)
		}
	}

	// What is changed.
	f(`{"message":"hi"}`, `,"message":"hi"}`)
	f(`{}`, `,"message":""}`)
	f(`{"a":1}`, `,"a":1,"message":""}`)
	f(`{"@timestamp":"x","message":"hi","@timestamp":5}`, `,"message":"hi"}`)
	f(`{"\u0040timestamp":"x","message":"hi"}`, `,"message":"hi"}`)
	f(`{"message":"hi","relative_time":7,"z":1}`, `,"message":"hi","z":1}`)
	f(" \t{ \"message\" :\t\"hi\" , \"a\" : [ 1 , { } ] } \r", `,"message":"hi","a":[1,{}]}`)

	// What is not.
	f(`{"z":1.50,"a":-0,"message":"m","n":12345678901234567890.10,"e":1E+2,"t":true,"f":false,"x":null}`,
		`,"z":1.50,"a":-0,"message":"m","n":12345678901234567890.10,"e":1E+2,"t":true,"f":false,"x":null}`)
	f(`{"message":"m","o":{"message":"\u001b[1mx","relative_time":1,"@timestamp":2}}`,
		`,"message":"m","o":{"message":"\u001b[1mx","relative_time":1,"@timestamp":2}}`)
	f(`{"message":"21.5 °C Ünïcödé 🚀 \ud83d\ude80"}`, `,"message":"21.5 °C Ünïcödé 🚀 🚀"}`)

	// A message that is not a string.
	f(`{"message":{"a":[1, "x\n"]}}`, `,"message":"{\"a\":[1,\"x\\n\"]}"}`)
	f(`{"message":null}`, `,"message":"null"}`)
	f(`{"message":1.50}`, `,"message":"1.50"}`)

	// What JSON's grammar allows and no reader can hold.
	f(`{"message":"m","n":1e999,"d":[-1e999,1e-999]}`, `,"message":"m","n":"1e999","d":["-1e999",1e-999]}`)
	f(`{"message":"a","k":1,"message":"b","o":{"x":1,"x":2}}`, `,"k":1,"message":"b","o":{"x":2}}`)
	f(`{"message":"\ud800x","\udc00":"\\ud800"}`, `,"message":"�x","�":"\\ud800"}`, ReasonBadUTF8)
	f(`{"message":"\uD83D\u0041"}`, `,"message":"�A"}`, ReasonBadUTF8)
	f("{\"message\":\"a\xff\xfeb\",\"\xc3\":1}", `,"message":"a�b","�":1}`, ReasonBadUTF8)

	// Control characters.
	f(`{"message":"a\u0000b\u0007\tc\u007f"}`, `,"message":"a\u0000b\u0007\tc\u007f"}`)
	f(`{"message":"a\u0085b\u2028c\u2029"}`, `,"message":"a\u0085b\u2028c\u2029"}`)
	f("{\"k\u2028\":\"\u0085\",\"message\":\"a\u2028b\"}", `,"k\u2028":"\u0085","message":"a\u2028b"}`)
	f(`{"\u0001":"\/\b\f\"\\","message":"line\r\n\n"}`, `,"\u0001":"/\u0008\u000c\"\\","message":"line"}`)
	f(`{"message":"\u001b[0;32mI (1) a: b\u001b[0m\r\n"}`, `,"message":"I (1) a: b"}`)

	// Depth.
	deep := strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1)
	f(`{"a":`+deep+`,"message":"[[["}`, `,"a":`+deep+`,"message":"[[["}`)
	many := strings.Repeat(`[[]],`, maxDepth) + `"]"`
	f(`{"a":[`+many+`]}`, `,"a":[`+many+`],"message":""}`)
}

func TestDecodeManyFields(t *testing.T) {
	var in, want strings.Builder
	for i := range 40 {
		fmt.Fprintf(&in, `"k%d":0,`, i%20)
		if i >= 20 {
			fmt.Fprintf(&want, `,"k%d":0`, i%20)
		}
	}
	entries, _ := decode("{" + in.String() + `"o":{` + in.String() + `"z":1},"message":""}`)
	if got, want := string(entries[0].Doc), stamped+want.String()+`,"o":{`+want.String()[1:]+`,"z":1},"message":""}`; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestDecodeLines(t *testing.T) {
	f := func(payload string, want []string, reasons map[Reason]int) {
		t.Helper()
		entries, counts := decode(payload)
		var got []string
		for _, e := range entries {
			got = append(got, message(t, e.Doc))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: messages (-want +got)\n%s", payload, diff)
		}
		if diff := cmp.Diff(reasons, counts); diff != "" {
			t.Errorf("%q: counts (-want +got)\n%s", payload, diff)
		}
	}
	none := map[Reason]int{}

	f("", nil, none)
	f("\n\r\n \t\n", nil, none)
	f("{\"message\":\"a\"}\r\n\n{\"message\":\"b\"}\n", []string{"a", "b"}, none)
	f("{\"message\":\"a\u2028b\u0085c\"}\n{\"message\":\"d\"}", []string{"a\u2028b\u0085c", "d"}, none)
	f("{\"message\":\"a\"}\n{\"message\":\n{\"message\":\"b\"}", []string{"a", "b"}, map[Reason]int{ReasonNotJSON: 1})
	f("[]\n1\n\"x\"\nnull\n{\"message\":\"a\"}", []string{"a"}, map[Reason]int{ReasonNotObject: 4})
	f("{\"message\":\"\xff\"}\n{\"message\":\"\xfe\"}\n{\"message\":\"ok\"}", []string{"\uFFFD", "\uFFFD", "ok"}, map[Reason]int{ReasonBadUTF8: 2})
	f("\xff\n{\"message\":\"ok\"}", []string{"ok"}, map[Reason]int{ReasonNotJSON: 1})

	bad := func(line string) {
		t.Helper()
		f("{\"message\":\"a\"}\n"+line+"\n{\"message\":\"b\"}", []string{"a", "b"}, map[Reason]int{ReasonNotJSON: 1})
	}
	bad(`{"message":"m"`)
	bad(`{"message":"m"}}`)
	bad(`{"message":"m"} {"message":"n"}`)
	bad(`{"a":01}`)
	bad(`{"a":NaN}`)
	bad(`{"a":.5}`)
	bad(`{"a":"\x41"}`)
	bad(`{"a":"\u12"}`)
	bad(`{"a":"` + "\t" + `"}`)
	bad(`{"a":"` + "\t" + `\n"}`) // fastjson alone lets this pass
	bad(`{"a` + "\x01" + `\n":1}`)
	bad(`{a:1}`)
	bad(`{"a":1,}`)
	bad(strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1))
	bad(`{"a":"\"",` + `"b":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`)
	bad(strings.Repeat(`{"a":`, 100_000))
	bad(strings.Repeat(`[`, 500_000))
}

func TestDecodeEntry(t *testing.T) {
	f := func(line string, want Entry) {
		t.Helper()
		entries, _ := decode(line)
		if len(entries) != 1 {
			t.Fatalf("%q: %d entries", line, len(entries))
		}
		got := entries[0]
		got.Doc = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got)\n%s", line, diff)
		}
	}
	ms := time.Millisecond

	f(`{"message":"x"}`, Entry{})
	f(`{"message":"x","entity_id":"e"}`, Entry{EntityID: "e"})
	f(`{"message":"x","entity_id":"a","entity_id":"b"}`, Entry{EntityID: "b"})
	f(`{"message":"x","entity_id":"a","entity_id":7}`, Entry{})
	f(`{"message":"x","entity_id":""}`, Entry{})

	f(`{"message":"I (1234) wifi: x"}`, Entry{Level: Info, Tag: "wifi", Uptime: 1234 * ms, HasUptime: true})
	f(`{"message":"\u001b[0;31mE (1) a b:x\u001b[0m"}`, Entry{Level: Error, Tag: "a b", Uptime: ms, HasUptime: true})
	f(`{"message":"I (1234) wifi: x","level":"W","tag":"net","relative_time":9}`, Entry{Level: Warn, Tag: "net", Uptime: 9 * ms, HasUptime: true})
	f(`{"message":"x","level":3}`, Entry{Level: Error})
	f(`{"message":"x","level":"7"}`, Entry{Level: Debug})
	f(`{"message":"x","level":8}`, Entry{})
	f(`{"message":"I (1) a: x","level":"loud","tag":{}}`, Entry{Level: Info, Tag: "a", Uptime: ms, HasUptime: true})
	f(`{"message":"I (1) a: x","level":["e"],"tag":"`+strings.Repeat("t", maxTag+1)+`"}`, Entry{Level: Info, Tag: "a", Uptime: ms, HasUptime: true})
	f(`{"message":"x","tag":"`+strings.Repeat("t", maxTag)+`"}`, Entry{Tag: strings.Repeat("t", maxTag)})

	f(`{"message":"x","relative_time":"1234"}`, Entry{Uptime: 1234 * ms, HasUptime: true})
	f(`{"message":"x","relative_time":12.5}`, Entry{Uptime: 12*ms + 500*time.Microsecond, HasUptime: true})
	f(`{"message":"x","relative_time":0}`, Entry{HasUptime: true})
	f(`{"message":"x","relative_time":"01:02:03.456"}`, Entry{Uptime: time.Hour + 2*time.Minute + 3456*ms, HasUptime: true})
	f(`{"message":"x","relative_time":999999999999}`, Entry{Uptime: 999999999999 * ms, HasUptime: true})
	f(`{"message":"x","relative_time":1770000000000}`, Entry{}) // a Unix time
	f(`{"message":"x","relative_time":-1}`, Entry{})
	f(`{"message":"x","relative_time":null}`, Entry{})
	f(`{"message":"x","relative_time":"soon"}`, Entry{})
	f(`{"message":"x","relative_time":99999999999999999999999}`, Entry{})
}

func TestDecodeEntityField(t *testing.T) {
	// Also a field that has a meaning of its own.
	f := func(field, line, want string) {
		t.Helper()
		got := NewDecoder(field).Decode(nil, []byte(line), testTime, func(Reason) {})
		if len(got) != 1 || got[0].EntityID != want || len(got[0].Doc) > MaxDoc || !json.Valid(got[0].Doc) {
			t.Errorf("%s: entity %q", field, got[0].EntityID)
		}
	}
	f("device", `{"device":"d","entity_id":"e"}`, "d")
	f("message", `{"message":"I am"}`, "I am")
	big := strings.Repeat("x", MaxLine)
	f("message", `{"message":"`+big+`"}`, big)
	f("truncated", `{"truncated":"`+big+`"}`, big)
	f("tag", `{"tag":"`+big+`"}`, big)
}

func TestDecodeBounds(t *testing.T) {
	line := func(n int) string { // a line of n bytes
		return `{"message":"` + strings.Repeat("x", n-len(`{"message":""}`)) + `"}`
	}
	f := func(payload string, entries, truncated int, reasons map[Reason]int) {
		t.Helper()
		got, counts := decode(payload)
		n := 0
		for _, e := range got {
			if e.Truncated {
				n++
			}
		}
		if len(got) != entries || n != truncated {
			t.Errorf("%d entries, %d truncated; want %d and %d", len(got), n, entries, truncated)
		}
		if diff := cmp.Diff(reasons, counts); diff != "" {
			t.Errorf("counts (-want +got)\n%s", diff)
		}
	}
	none := map[Reason]int{}

	f(line(MaxLine), 1, 0, none)
	f(line(MaxLine+1), 1, 1, map[Reason]int{ReasonLineTooLong: 1})
	f(line(MaxLine+1)+"\n{}", 2, 1, map[Reason]int{ReasonLineTooLong: 1})

	f(strings.Repeat("{}\n", MaxLines), MaxLines, 0, none)
	f(strings.Repeat("{}\n\n", MaxLines)+"{}", MaxLines, 0, map[Reason]int{ReasonTooManyLines: 1})
	f(strings.Repeat("x\n", MaxLines)+"{}\n{}\n\n", 0, 0, map[Reason]int{ReasonNotJSON: MaxLines, ReasonTooManyLines: 2})

	f("{}"+strings.Repeat("\n", MaxMessage-2), 1, 0, none)
	f("{}"+strings.Repeat("\n", MaxMessage-1), 0, 0, map[Reason]int{ReasonMessageTooLong: 1})
	f(`{"message":"`+strings.Repeat("y", MaxMessage-14)+`"}`, 1, 1, map[Reason]int{ReasonLineTooLong: 1})
}

func TestDecodeTruncated(t *testing.T) {
	// f decodes one long line and returns its document.
	f := func(line string) map[string]any {
		t.Helper()
		entries, counts := decode(line)
		if len(entries) != 1 || !entries[0].Truncated || counts[ReasonLineTooLong] != 1 {
			t.Fatalf("%d entries, %v", len(entries), counts)
		}
		doc := entries[0].Doc
		if len(doc) > MaxDoc || !utf8.Valid(doc) {
			t.Fatalf("%d bytes, valid UTF-8: %v", len(doc), utf8.Valid(doc))
		}
		var m map[string]any
		if err := json.Unmarshal(doc, &m); err != nil {
			t.Fatal(err)
		}
		if m["truncated"] != true {
			t.Errorf("truncated is %v", m["truncated"])
		}
		return m
	}
	keys := func(m map[string]any) int { return len(m) }
	long := func(unit string, n int) string { return strings.Repeat(unit, n/len(unit)) }

	// The message is cut between characters, whatever they take.
	for _, unit := range []string{"x", "ü", "€", "🚀", `\n`, `\u0001`, `\"`, "x🚀", `ü\u0000`} {
		for pad := range 7 {
			m := f(`{"entity_id":"e","message":"` + long("x", pad) + long(unit, 2*MaxLine) + `!","n":1}`)
			text := m["message"].(string)
			if strings.ContainsRune(text, utf8.RuneError) || m["entity_id"] != "e" || m["n"] != 1.0 {
				t.Errorf("%q: %v", unit, keys(m))
			}
			encoded, _ := json.Marshal(text)
			if unit == "x" && len(encoded) < MaxLine-150 {
				t.Errorf("only %d bytes of the message are left", len(encoded))
			}
		}
	}

	// Another field that is what is too long goes; the message stays whole.
	m := f(`{"entity_id":"e","message":"short","dump":"` + long("z", MaxLine) + `","n":1,"truncated":"no"}`)
	if m["message"] != "short" || m["n"] != 1.0 || m["entity_id"] != "e" || keys(m) != 5 {
		t.Errorf("%v", m)
	}
	m = f(`{"message":"` + long("m", MaxLine/4) + `","a":"` + long("a", MaxLine/2) + `","b":"` + long("b", MaxLine/3) + `"}`)
	if len(m["message"].(string)) != MaxLine/4 || m["a"] != nil || m["b"] == nil {
		t.Errorf("kept %d fields", keys(m))
	}

	// Both are too long: the message keeps half.
	m = f(`{"message":"` + long("m", MaxLine) + `","a":"` + long("a", MaxLine) + `","entity_id":"e"}`)
	if n := len(m["message"].(string)); n < MaxLine-200 || m["a"] != nil || m["entity_id"] != "e" {
		t.Errorf("message %d, %d fields", n, keys(m))
	}

	// Many small fields: the entity is not among those that go.
	var b strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&b, `"k%d":"v",`, i)
	}
	m = f(`{` + b.String() + `"entity_id":"` + long("e", 1000) + `","message":"m"}`)
	if m["message"] != "m" || m["entity_id"] == nil || keys(m) < 4000 {
		t.Errorf("%d fields", keys(m))
	}

	// An absurd entity id is not spared in the document.
	m = f(`{"entity_id":"` + long("e", MaxLine) + `","message":"m"}`)
	if m["message"] != "m" || m["entity_id"] != nil {
		t.Errorf("%d fields", keys(m))
	}

	// Level, tag and uptime are those of the whole line.
	entries, _ := decode(`{"message":"W (5) big: ` + long("x", MaxLine) + `","tag":"` + long("t", 40) + `","level":"e"}`)
	if e := entries[0]; e.Level != Error || e.Tag != long("t", 40) || e.Uptime != 5*time.Millisecond {
		t.Errorf("%v %q %v", e.Level, e.Tag, e.Uptime)
	}
}

func TestDecoderReuse(t *testing.T) {
	d := NewDecoder("entity_id")
	count := func(Reason) {}
	payload := []byte(strings.Repeat(`{"message":"I (1) wifi: \u001b[31mx","entity_id":"sim-0001","a":{"b":[1]},"relative_time":5}`+"\n", 50))
	first := d.Decode(nil, payload, testTime, count)
	for i := range first {
		if !bytes.Equal(first[i].Doc, first[0].Doc) {
			t.Fatalf("document %d differs: its memory was used again", i)
		}
	}
	entries := first[:0]
	if n := testing.AllocsPerRun(100, func() { entries = d.Decode(entries[:0], payload, testTime, count) }); n != 0 {
		t.Errorf("%v allocations for 50 lines", n)
	}

	// The entries are appended, and the memory of a flood of tags is bounded.
	if got := d.Decode(entries[:3:3], []byte("{}"), testTime, count); len(got) != 4 || string(got[3].Doc) != stamped+`,"message":""}` {
		t.Errorf("got %d entries", len(got))
	}
	for i := range 3 * maxInterned {
		e := d.Decode(nil, fmt.Appendf(nil, `{"tag":"t%d"}`, i), testTime, count)
		if e[0].Tag != fmt.Sprint("t", i) {
			t.Fatalf("tag %q", e[0].Tag)
		}
	}
	if len(d.interned) > maxInterned {
		t.Errorf("%d strings remembered", len(d.interned))
	}
}

func message(t *testing.T, doc []byte) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal(doc, &m); err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return m.Message
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"message":"I (12) wifi: x","entity_id":"e","relative_time":12}`, "{\"message\":\"\xff\"}\n{}\r\n\n[]",
		`{"message":"\ud800\udc00\ud800\u001b[1m","@timestamp":1,"@timestamp":2,"\u0040timestamp":3}`, `{"a":1e999,"a":[{"b":-1E400,"b":1}]}`,
		`{"message":{"a":"\u009b31m\u0000"}}`, "{\"a\":\"\t\\n\"}", `{"message":"\u001b]0;Ü","truncated":1,"level":4,"tag":"x"}`,
		`{"` + strings.Repeat(`a":1,"`, 20) + `b":2}`, strings.Repeat("[", 40) + strings.Repeat("]", 40), "{\"\u2028\":\"\u0085\\ud8\"}",
	} {
		f.Add([]byte(s))
	}
	d := NewDecoder("entity_id")
	const before, after = `{"message":"before"}`, `{"message":"after"}`
	f.Fuzz(func(t *testing.T, payload []byte) {
		lines := bytes.Count(payload, []byte{'\n'}) + 1
		counted := 0
		whole := append(append([]byte(before+"\n"), payload...), "\n"+after...)
		if len(whole) > MaxMessage || lines > MaxLines-2 {
			return
		}
		entries := d.Decode(nil, whole, testTime, func(Reason) { counted++ })
		if len(entries) > lines+2 || len(entries)+counted < 2 || counted > 2*lines {
			t.Fatalf("%d entries and %d counts of %d lines", len(entries), counted, lines)
		}
		first, last := string(entries[0].Doc), string(entries[len(entries)-1].Doc)
		if first != stamped+`,"message":"before"}` || last != stamped+`,"message":"after"}` {
			t.Fatalf("neighbours changed:\n%s\n%s", first, last)
		}
		for _, e := range entries {
			checkDoc(t, e)
		}
		for line := range bytes.SplitSeq(payload, []byte{'\n'}) {
			if line = trim(line); !isDeep(line) && isJSON(line) != json.Valid(line) {
				t.Fatalf("isJSON(%q) is %v", line, isJSON(line))
			}
		}
	})
}

// checkDoc checks what is promised of every entry.
func checkDoc(t *testing.T, e Entry) {
	t.Helper()
	doc := e.Doc
	if len(doc) > MaxDoc || !utf8.Valid(doc) || !bytes.HasPrefix(doc, []byte(stamped+",")) {
		t.Fatalf("%d bytes: %q", len(doc), doc)
	}
	for _, r := range string(doc) {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r == 0x2028 || r == 0x2029 {
			t.Fatalf("control character %U in %q", r, doc)
		}
	}
	var m map[string]any
	if err := json.Unmarshal(doc, &m); err != nil {
		t.Fatalf("%q: %v", doc, err)
	}
	text, ok := m["message"].(string)
	if !ok || strings.ContainsRune(text, 0x1b) || m["@timestamp"] != "2026-02-10T07:30:00.123456Z" {
		t.Fatalf("%q", doc)
	}
	if _, ok := m["relative_time"]; ok {
		t.Fatalf("relative_time in %q", doc)
	}
	// Every name once, at the top as below.
	dec := json.NewDecoder(bytes.NewReader(doc))
	var names []map[string]bool
	var isKey []bool
	for {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		top := len(names) - 1
		switch tok := tok.(type) {
		case json.Delim:
			switch tok {
			case '{':
				names, isKey = append(names, map[string]bool{}), append(isKey, true)
			case '[':
				names, isKey = append(names, nil), append(isKey, false)
			default:
				names, isKey = names[:top], isKey[:top]
				if top--; top >= 0 && names[top] != nil {
					isKey[top] = true
				}
			}
			continue
		case string:
			if top >= 0 && isKey[top] {
				if names[top][tok] {
					t.Fatalf("%q twice in %q", tok, doc)
				}
				names[top][tok], isKey[top] = true, false
				continue
			}
		}
		if top >= 0 && names[top] != nil {
			isKey[top] = true
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	const line = `{"message":"\u001b[0;32mI (123456) sensor_hub: temperature 21.53 C humidity 45.2 % pressure 1013.25 hPa, battery 3.98 V\u001b[0m","entity_id":"sim-0001","relative_time":123456,"seq":1234,"heap":182344}` + "\n"
	payload := []byte(strings.Repeat(line, 20))
	d := NewDecoder("entity_id")
	var entries []Entry
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		entries = d.Decode(entries[:0], payload, testTime, func(Reason) {})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20, "ns/line")
}
