package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// HistoryUnderTest is a history and the way in.
type HistoryUnderTest struct {
	logs.History
	Epoch string
	// Write stores batches, in order, and returns their sequences. What it has
	// returned can be read.
	Write func(batches ...logs.Batch) []uint64
	// Settle moves what was written to where it stays, as time would.
	Settle func()
}

// History checks that what open returns is a logs.History. Each call of open
// gives an empty one, which ends with the test.
func History(t *testing.T, open func(*testing.T) HistoryUnderTest) {
	t.Run("an empty history is empty and complete", func(t *testing.T) {
		h := open(t)
		r, err := h.Read(t.Context(), logs.Query{Devices: []string{"aaaaaaaa"}, Backward: true, Limit: 10})
		must(t, err)
		if len(r.Lines) != 0 || r.More || len(r.Lost) != 0 || r.Complete.Epoch != h.Epoch || r.Complete.Line != logs.WholeBatch {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("a line is read as soon as it is written, whole", func(t *testing.T) {
		h := open(t)
		for i := range 50 {
			m := said{device: device(i % 3), at: day.Add(time.Duration(i) * time.Second), messages: []string{fmt.Sprintf("W (%d) wifi: number \"%d\"\n\u2028é😀\\", i, i)}}
			seq := h.Write(m.batch())[0]
			if i%20 == 7 {
				h.Settle()
			}
			r, err := h.Read(t.Context(), logs.Query{Devices: []string{m.device}, Backward: true, Limit: 1})
			must(t, err)
			if len(r.Lines) != 1 {
				t.Fatalf("line %d is not there", i)
			}
			l := r.Lines[0]
			want := m.entries()[0]
			if got := string(l.AppendDoc(nil)); got != string(want.Doc) {
				t.Errorf("document %s\nwant %s", got, want.Doc)
			}
			if l.Level != logs.Warn || l.Tag != "wifi" || !l.HasUptime || l.Uptime != time.Duration(i)*time.Millisecond || !l.Received.Equal(m.at) ||
				l.Cursor != (logs.LineCursor{Cursor: logs.Cursor{Epoch: h.Epoch, Seq: seq}, Line: 0}) || l.Device != m.device || r.More != (i >= 3) {
				t.Errorf("got %+v, more %v", l, r.More)
			}
			if r.Complete.Seq < seq {
				t.Errorf("complete to %v, which is before %d", r.Complete, seq)
			}
		}
	})
	t.Run("bad queries", func(t *testing.T) {
		h := open(t)
		for name, q := range map[string]logs.Query{
			"no limit":       {},
			"too many":       {Limit: logs.MaxQuery + 1},
			"regex":          {Limit: 1, Filter: logs.Filter{Regex: "("}},
			"long pattern":   {Limit: 1, Filter: logs.Filter{Pattern: strings.Repeat("x", 2000)}},
			"foreign cursor": {Limit: 1, After: logs.LineCursor{Cursor: logs.Cursor{Epoch: "zzz", Seq: 1}, Line: 0}},
		} {
			if _, err := h.Read(t.Context(), q); fleet.KindOf(err) != fleet.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("queries give what a naive filter gives", func(t *testing.T) {
		h := open(t)
		all := fill(h)
		rapid.Check(t, func(t *rapid.T) {
			q, naive := drawQuery(t, h.Epoch, all)
			r, err := h.Read(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			want, more := naive(all)
			if diff := cmp.Diff(names(want), namesOf(r.Lines)); diff != "" || r.More != more {
				t.Fatalf("%+v\nmore %v, want %v (-want +got)\n%s", q, r.More, more, diff)
			}
			for i, l := range r.Lines {
				if string(l.Message) != want[i].message || !l.Received.Equal(want[i].at) || l.Device != want[i].device || l.Level != want[i].level || l.Tag != want[i].tag {
					t.Fatalf("got %+v %s, want %+v", l, l.Message, want[i])
				}
			}
		})
	})
	t.Run("many queries at once get what each would alone", func(t *testing.T) {
		h := open(t)
		said := map[string]string{}
		for _, l := range fill(h) {
			said[l.name()] = l.message
		}
		h.Settle()
		var all sync.WaitGroup
		for n := range 4 {
			all.Go(func() {
				for i := range 50 {
					q := logs.Query{Limit: 1000, Backward: (n+i)%2 == 0}
					if n%2 == 0 {
						q.Devices = []string{device(i % 4)}
					}
					r, err := h.Read(t.Context(), q)
					if err != nil || len(r.Lines) == 0 {
						t.Errorf("%d lines, %v", len(r.Lines), err)
						return
					}
					for _, l := range r.Lines {
						if want := said[l.Cursor.String()]; string(l.Message) != want {
							t.Errorf("%s says %q, want %q", l.Cursor, l.Message, want)
							return
						}
					}
				}
			})
		}
		all.Wait()
	})
	t.Run("pages by cursor neither skip nor repeat", func(t *testing.T) {
		h := open(t)
		all := fill(h)
		for _, limit := range []int{1, 7, 100} {
			for _, devices := range [][]string{{device(1)}, {device(0), device(3)}, nil} {
				var want []string
				for _, l := range all {
					if devices == nil || slices.Contains(devices, l.device) {
						want = append(want, l.name())
					}
				}
				want = want[len(want)-min(len(want), 40*limit):]
				q := logs.Query{Devices: devices, Limit: limit, Backward: true}
				var got []string
				for len(got) < len(want) {
					r, err := h.Read(t.Context(), q)
					must(t, err)
					got = append(namesOf(r.Lines), got...)
					q.Before = r.Reached
					if !r.More {
						break
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("backwards by %d: %s", limit, diff)
				}
				q = logs.Query{Devices: devices, Limit: limit}
				var err error
				q.After, err = logs.ParseLineCursor(want[0])
				must(t, err)
				got = got[:1]
				for {
					r, err := h.Read(t.Context(), q)
					must(t, err)
					got = append(got, namesOf(r.Lines)...)
					q.After = r.Reached
					if !r.More {
						break
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("forwards by %d: %s", limit, diff)
				}
			}
		}
	})
}

var day = time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)

// said is one message of one device.
type said struct {
	device   string
	at       time.Time
	messages []string
}

func (s said) entries() []logs.Entry {
	var payload []byte
	for _, m := range s.messages {
		payload = append(payload, fmt.Sprintf(`{"entity_id":"e-%s","message":%s}`+"\n", s.device, quote(m))...)
	}
	return logs.NewDecoder("entity_id").Decode(nil, payload, s.at, func(r logs.Reason) { panic(r) })
}

func (s said) batch() logs.Batch {
	return logs.Batch{Device: s.device, Body: logs.EncodeBody(s.at, s.entries())}
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < ' ' || r == '"' || r == '\\' {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// line is a line as it must be read.
type line struct {
	device  string
	cursor  logs.LineCursor
	at      time.Time
	message string
	level   logs.Level
	tag     string
}

func (l line) name() string { return l.cursor.String() }

func names(lines []line) (n []string) {
	for _, l := range lines {
		n = append(n, l.name())
	}
	return n
}

func namesOf(lines []logs.Line) (n []string) {
	for _, l := range lines {
		n = append(n, l.Cursor.String())
	}
	return n
}

// words is what the test's devices say: few, so that queries find some.
var words = []string{"timeout", "Timeout", "timeouts", "beacon", "wifi_timeout", "x-ray", "RÉSUMÉ", "résumé", "0x3f", "ß", "a.b", "İ", "error", "*", "?", "日本"}

// fill writes a few thousand lines of some devices, of which many have the
// same time and some a time that goes back.
func fill(h HistoryUnderTest) []line {
	random := rand.New(rand.NewPCG(1, 2))
	var all []line
	at := day
	for range 30 {
		var batches []logs.Batch
		var what []said
		for range 1 + random.IntN(30) {
			if random.IntN(3) > 0 {
				at = at.Add(time.Duration(random.IntN(5)-1) * 300 * time.Microsecond)
			}
			s := said{device: device(random.IntN(5)), at: at}
			for range 1 + random.IntN(12) {
				m := []string{"", "E (12) ota: ", "W (7) wifi: ", "I (1) Main: ", "D (3) wifi: "}[random.IntN(5)]
				for range random.IntN(4) {
					m += words[random.IntN(len(words))] + []string{" ", ", ", ""}[random.IntN(3)]
				}
				s.messages = append(s.messages, m)
			}
			what = append(what, s)
			batches = append(batches, s.batch())
		}
		for i, seq := range h.Write(batches...) {
			for n, e := range what[i].entries() {
				l := line{what[i].device, logs.LineCursor{Cursor: logs.Cursor{Epoch: h.Epoch, Seq: seq}, Line: n}, what[i].at, what[i].messages[n], e.Level, e.Tag}
				all = append(all, l)
			}
		}
		if random.IntN(3) == 0 {
			h.Settle()
		}
	}
	return all
}

// drawQuery draws a query, and the same as a function over all lines.
func drawQuery(t *rapid.T, epoch string, all []line) (logs.Query, func([]line) ([]line, bool)) {
	maybe := rapid.IntRange(0, 2)
	q := logs.Query{Limit: rapid.SampledFrom([]int{1, 3, 10, 100, 1000, 10_000}).Draw(t, "limit"), Backward: rapid.Bool().Draw(t, "backward")}
	switch maybe.Draw(t, "devices") {
	case 1:
		q.Devices = []string{device(rapid.IntRange(0, 5).Draw(t, "device"))}
	case 2:
		for i := range 6 {
			if rapid.Bool().Draw(t, "one of them") {
				q.Devices = append(q.Devices, device(i))
			}
		}
	}
	somewhere := rapid.IntRange(0, len(all)-1)
	cursor := func(name string) logs.LineCursor {
		c := all[somewhere.Draw(t, name)].cursor
		if rapid.IntRange(0, 3).Draw(t, "whole") == 0 {
			c.Line = logs.WholeBatch
		}
		return c
	}
	if maybe.Draw(t, "after") == 0 {
		q.After = cursor("place")
	}
	if maybe.Draw(t, "before") == 0 {
		q.Before = cursor("place")
	}
	if maybe.Draw(t, "start") == 0 {
		q.Start = all[somewhere.Draw(t, "place")].at
	}
	if maybe.Draw(t, "end") == 0 {
		q.End = all[somewhere.Draw(t, "place")].at
	}
	f := &q.Filter
	if maybe.Draw(t, "level") == 0 {
		f.Level = logs.Level(rapid.IntRange(1, 5).Draw(t, "least level"))
	}
	if maybe.Draw(t, "tag") == 0 {
		f.Tag = rapid.SampledFrom([]string{"wifi", "WIFI", "ota", "main", "none"}).Draw(t, "which tag")
	}
	if maybe.Draw(t, "pattern") == 0 {
		part := rapid.SampledFrom(append([]string{"*", "?", " ", ", ", "eout", "time", `\*`, `\?`}, words...))
		f.Pattern = strings.Join(rapid.SliceOfN(part, 0, 4).Draw(t, "parts"), "")
	}
	if maybe.Draw(t, "regex") == 0 {
		f.Regex = rapid.SampledFrom([]string{"time", "(?i)TIME", "^$", `\d+x`, "s$"}).Draw(t, "which regex")
	}
	var regex *regexp.Regexp
	if f.Regex != "" {
		regex = regexp.MustCompile(f.Regex)
	}
	return q, func(all []line) (selected []line, more bool) {
		for _, l := range all {
			ok := q.Devices == nil || slices.Contains(q.Devices, l.device)
			ok = ok && (q.After == (logs.LineCursor{}) || beyond(l.cursor, q.After))
			ok = ok && (q.Before == (logs.LineCursor{}) || l.cursor.Seq < q.Before.Seq || l.cursor.Seq == q.Before.Seq && q.Before.Line != logs.WholeBatch && l.cursor.Line < q.Before.Line)
			ok = ok && (q.Start.IsZero() || !l.at.Before(q.Start)) && (q.End.IsZero() || !l.at.After(q.End))
			ok = ok && (f.Level == logs.Unknown || l.level <= f.Level)
			ok = ok && (f.Tag == "" || strings.EqualFold(l.tag, f.Tag))
			ok = ok && (regex == nil || regex.MatchString(l.message)) && naivePattern(f.Pattern, l.message)
			if ok {
				selected = append(selected, l)
			}
		}
		if n := len(selected); n > q.Limit {
			more = true
			if q.Backward {
				selected = selected[n-q.Limit:]
			} else {
				selected = selected[:q.Limit]
			}
		}
		return selected, more
	}
}

func beyond(c, after logs.LineCursor) bool {
	return c.Seq > after.Seq || c.Seq == after.Seq && after.Line != logs.WholeBatch && c.Line > after.Line
}

// naivePattern tries the pattern at every place.
func naivePattern(pattern, text string) bool {
	lower := strings.ToLower(text)
	var ends func(p, s string) []int // what of s may be left
	ends = func(p, s string) []int {
		if p == "" {
			return []int{len(s)}
		}
		r, n := utf8.DecodeRuneInString(p)
		if r == '*' {
			var all []int
			for i := 0; i <= len(s); i++ {
				if i == len(s) || utf8.RuneStart(s[i]) {
					all = append(all, ends(p[n:], s[i:])...)
				}
			}
			return all
		}
		if s == "" {
			return nil
		}
		c, m := utf8.DecodeRuneInString(s)
		if r == '?' {
			return ends(p[n:], s[m:])
		}
		if r == '\\' && len(p) > n {
			p = p[n:]
			r, n = utf8.DecodeRuneInString(p)
		}
		low := strings.ToLower(string(r))
		if lr, _ := utf8.DecodeRuneInString(low); lr != c || len(low) != m {
			if !strings.HasPrefix(s, low) {
				return nil
			}
			m = len(low)
		}
		return ends(p[n:], s[m:])
	}
	word := func(i int) bool {
		c := lower[i]
		return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c >= 0x80
	}
	edge := func(i int) bool { return i == 0 || i == len(lower) || !word(i-1) || !word(i) }
	for i := 0; i <= len(lower); i++ {
		if i < len(lower) && !utf8.RuneStart(lower[i]) || !strings.HasPrefix(pattern, "*") && !edge(i) {
			continue
		}
		for _, left := range ends(pattern, lower[i:]) {
			if strings.HasSuffix(pattern, "*") && !strings.HasSuffix(pattern, `\*`) || edge(len(lower)-left) {
				return true
			}
		}
	}
	return false
}
