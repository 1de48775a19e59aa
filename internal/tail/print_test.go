package tail

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// parsed returns the event of an application event's data.
func parsed(kind, payload string) event {
	var ev event
	ev.parse(sse.Message{Data: fmt.Appendf(nil, `{"type":%q,"payload":%s}`, kind, payload)})
	return ev
}

func lines(device int64, body string) event {
	return parsed("device-logs", fmt.Sprintf(`{"device_id":%d,"device_entity_id":"x",%s}`, device, body))
}

func gap(payload string) event { return parsed("log-gap", payload) }

// shows is a filter that is known to be good.
func shows(f logs.Filter) func(logs.Level, string, []byte) bool {
	m, err := f.Matcher()
	if err != nil {
		panic(err)
	}
	return m.Match
}

func newPrinter(devices ...device) *printer {
	p := &printer{shows: shows(logs.Filter{}), zone: time.UTC}
	p.know(devices, false)
	return p
}

func TestRender(t *testing.T) {
	f := func(p *printer, ev event, want string) {
		t.Helper()
		if diff := cmp.Diff(want, string(p.render(ev))); diff != "" {
			t.Error(diff)
		}
	}
	one := newPrinter(lamp())
	two := newPrinter(lamp(), door())
	const clock = "14:43:27.948"

	f(one, lines(5, batch("info", "a")), clock+" Lamp | a\n")
	f(two, lines(5, batch("info", "a")), clock+" Lamp       | a\n")
	f(two, lines(6, batch("info", "a")), clock+" Front door | a\n")
	f(two, lines(99, batch("info", "a")), clock+" x          | a\n")
	f(one, parsed("device-logs", `{"device_entity_id":"lamp_entity",`+batch("", "a")+`}`), clock+" Lamp | a\n")
	f(one, parsed("device-logs", `{"device_entity_id":"lamp_entity","logs":[{"message":"old"}]}`), "--:--:--.--- Lamp | old\n")
	f(one, lines(5, `"received":"`+stamp+`","logs":[{"message":{"a":1}},7,{"Message":"x","message":"y"}]`),
		clock+" Lamp | {\"a\":1}\n"+clock+" Lamp | 7\n"+clock+" Lamp | y\n")
	f(one, parsed("version", `{"version":"1"}`), "")

	f(one, gap(`{"device_id":5,"count":123,"reason":"retention"}`), "--- 123 lines missing (retention) ---\n")
	f(one, gap(`{"device_id":5,"count":1,"reason":""}`), "--- 1 line missing ---\n")
	f(one, gap(`{"device_id":5,"count":null,"reason":"retention"}`), "--- some lines missing (retention) ---\n")
	f(two, gap(`{"device_id":6,"count":2,"reason":"a\u001bb"}`), "--- Front door: 2 lines missing (a\\x1bb) ---\n")

	twins := newPrinter(lamp(), dev(9, "zzzz9999", "Lamp", ""))
	f(twins, lines(5, batch("", "a")), clock+" Lamp/aaaa2222 | a\n")
	f(twins, lines(9, batch("", "a")), clock+" Lamp/zzzz9999 | a\n")

	wide := newPrinter(dev(5, "aaaa2222", "温度計", ""), dev(6, "bbbb3333", strings.Repeat("n", 40), ""))
	f(wide, lines(5, batch("", "a")), clock+" 温度計"+strings.Repeat(" ", 18)+" | a\n")
	f(wide, lines(6, batch("", "a")), clock+" "+strings.Repeat("n", 23)+"… | a\n")

	zoned := newPrinter(lamp())
	zoned.zone = time.FixedZone("", 3600)
	f(zoned, lines(5, batch("", "a")), "15:43:27.948 Lamp | a\n")
}

func TestFilters(t *testing.T) {
	f := func(filter logs.Filter, want string) {
		t.Helper()
		p := newPrinter(lamp())
		p.shows = shows(filter)
		var got []string
		for _, level := range []string{"error", "warn", "info", "debug", "verbose", "", "odd"} {
			for line := range strings.Lines(string(p.render(lines(5, batch(level, "m"+level))))) {
				_, message, _ := strings.Cut(strings.TrimSpace(line), "| ")
				got = append(got, message)
			}
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Error(diff)
		}
	}
	f(logs.Filter{}, "merror mwarn minfo mdebug mverbose m modd")
	f(logs.Filter{Level: logs.Warn}, "merror mwarn m modd")
	f(logs.Filter{Level: logs.Error}, "merror m modd")
	f(logs.Filter{Regex: "^m(warn|o)"}, "mwarn modd")
	f(logs.Filter{Level: logs.Info, Regex: "g$"}, "")
	f(logs.Filter{Pattern: "*VER*"}, "mverbose")
	f(logs.Filter{Tag: "WiFi", Level: logs.Error}, "merror modd")
	f(logs.Filter{Tag: "mqtt"}, "")
}

func TestRenderJSON(t *testing.T) {
	f := func(ev event, want string) {
		t.Helper()
		p := newPrinter(lamp(), dev(6, "bbbb3333", "", "door"))
		p.json, p.color = true, true
		if diff := cmp.Diff(want, string(p.render(ev))); diff != "" {
			t.Error(diff)
		}
	}
	f(lines(5, batch("warn", "a<b")), `{"device_id":5,"device_entity_id":"x","device_key":"aaaa2222","device_name":"Lamp",`+
		`"timestamp":"`+stamp+`","message":"a<b","level":"warn","tag":"wifi","uptime_ms":1234,`+
		`"doc":{"@timestamp":"`+stamp+`","entity_id":"x","message":"a\u003cb"}}`+"\n")
	f(lines(6, `"received":"`+stamp+`","logs":[{"message":"a"},{ "message" : "\u001b[2J`+"\u009b\u202e\x7f\U000e0041"+`" }]`),
		`{"device_id":6,"device_entity_id":"x","device_key":"bbbb3333","device_name":null,"timestamp":"`+stamp+`",`+
			`"message":"a","level":null,"tag":null,"uptime_ms":null,"doc":{"message":"a"}}`+"\n"+
			`{"device_id":6,"device_entity_id":"x","device_key":"bbbb3333","device_name":null,"timestamp":"`+stamp+`",`+
			`"message":"\u001b[2J\u009b\u202e\u007f\udb40\udc41","level":null,"tag":null,"uptime_ms":null,`+
			`"doc":{"message":"\u001b[2J\u009b\u202e\u007f\udb40\udc41"}}`+"\n")
	f(gap(`{"device_id":5,"device_entity_id":"x","from":"e-1","to":"e-9","count":null,"reason":"retention"}`),
		`{"gap":{"device_id":5,"device_entity_id":"x","device_key":"aaaa2222","device_name":"Lamp","from":"e-1","to":"e-9","count":null,"reason":"retention"}}`+"\n")
}

func TestBadEventsAreToldAndPassed(t *testing.T) {
	s := newServer(t, lamp())
	s.append(record{device: 5, body: `"logs":7`})
	s.onSubscribe = func(int, int64, http.ResponseWriter) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conn.place.Seq = 0
		return false
	}
	r := start(t, s, Config{Devices: []string{"lamp"}})
	s.ready(t, 1)
	s.say(5, "good")
	r.out.wait(t, "good")
	r.stop(t)
	if !strings.Contains(r.err.String(), "--- an event could not be read: ") {
		t.Errorf("Err has %q", r.err)
	}
}

func TestEscape(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if diff := cmp.Diff(want, escape(in)); diff != "" {
			t.Error(diff)
		}
	}
	f("plain\ttext, größe, 温度, 👩‍🚒", "plain\ttext, größe, 温度, 👩‍🚒")
	f("\x1b]0;title\a", `\x1b]0;title\x07`)
	f("\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`)
	f("a\nb\rc\x00\x7f", `a\nb\rc\x00\x7f`)
	f("\u009b2J\u0085", `\u009b2J\u0085`)
	f("abc\u202etxt.exe\u2066\u2069\u061c\u200e", `abc\u202etxt.exe\u2066\u2069\u061c\u200e`)
	f("\u2028\u2029\ufeff\U000e0041", `\u2028\u2029\ufeff\U000e0041`)
	f("\x9b2J\xff", "\ufffd2J\ufffd")
}

func TestEscapedTextIsHarmless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		for _, r := range escape(s) {
			if hostile(r) {
				t.Fatalf("%q remains in %q", r, escape(s))
			}
		}
		doc, _ := json.Marshal(s)
		var back string
		if err := json.Unmarshal([]byte(escapeJSON(string(doc))), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && back != fixed(s) {
			t.Fatalf("%q came back as %q, %v", s, back, err)
		}
	})
}

// fixed is s with one U+FFFD for each byte that is not UTF-8.
func fixed(s string) string { return string([]rune(s)) }

func TestColor(t *testing.T) {
	f := func(level, want string) {
		t.Helper()
		p := newPrinter(lamp())
		p.color = true
		got := string(p.render(lines(5, batch(level, "m"))))
		if diff := cmp.Diff("\x1b[38;5;244m14:43:27.948\x1b[0m Lamp \x1b[38;5;244m|\x1b[0m "+want+"\n", got); diff != "" {
			t.Error(diff)
		}
	}
	f("error", "\x1b[1;38;5;160mm\x1b[0m")
	f("warn", "\x1b[38;5;136mm\x1b[0m")
	f("info", "m")
	f("", "m")
	f("debug", "\x1b[38;5;244mm\x1b[0m")
	f("verbose", "\x1b[38;5;244mm\x1b[0m")

	two := newPrinter(lamp(), door())
	two.color = true
	got := string(two.render(lines(5, batch("", "m"))))
	if want := labelColor("aaaa2222") + "Lamp" + reset + "       "; !strings.Contains(got, want) {
		t.Errorf("%q lacks %q", got, want)
	}
}

func TestUseColor(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a character device, like a terminal
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := func(mode string, w io.Writer, noColor, term string, want bool) {
		t.Helper()
		t.Setenv("NO_COLOR", noColor)
		t.Setenv("TERM", term)
		if got, err := useColor(mode, w); got != want || err != nil {
			t.Errorf("%q: %v, %v", mode, got, err)
		}
	}
	f("auto", null, "", "xterm", true)
	f("", null, "", "xterm", true)
	f("auto", null, "1", "xterm", false)
	f("auto", null, "", "dumb", false)
	f("auto", file, "", "xterm", false)
	f("auto", io.Discard, "", "xterm", false)
	f("always", io.Discard, "1", "dumb", true)
	f("never", null, "", "xterm", false)
	if _, err := useColor("blue", null); fleet.KindOf(err) != fleet.Invalid {
		t.Error(err)
	}
}

// Every colour has a contrast of at least 3:1 on black and on white (WCAG 2.2, 1.4.11).
func TestColorsAreLegible(t *testing.T) {
	colors := map[string]bool{dim: true, warning: true, failure: true}
	for i := range 1000 {
		colors[labelColor(strconv.Itoa(i))] = true
	}
	linear := func(level int) float64 {
		c := float64(level) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	for color := range colors {
		n, err := strconv.Atoi(regexp.MustCompile(`38;5;(\d+)m`).FindStringSubmatch(color)[1])
		if err != nil {
			t.Fatal(err)
		}
		cube := func(i int) int { return []int{0, 95, 135, 175, 215, 255}[i] }
		r, g, b := 8+10*(n-232), 8+10*(n-232), 8+10*(n-232)
		if n < 232 {
			r, g, b = cube((n-16)/36), cube((n-16)/6%6), cube((n-16)%6)
		}
		light := 0.2126*linear(r) + 0.7152*linear(g) + 0.0722*linear(b)
		if onBlack, onWhite := (light+0.05)/0.05, 1.05/(light+0.05); onBlack < 3 || onWhite < 3 {
			t.Errorf("colour %d: %.1f on black, %.1f on white", n, onBlack, onWhite)
		}
	}
}
