package logs

import (
	"strings"
	"testing"
	"time"
)

func TestParseLine(t *testing.T) {
	const no = -1 // no uptime
	ms := time.Millisecond
	f := func(message string, level Level, tag string, uptime time.Duration) {
		t.Helper()
		l, g, u, ok := ParseLine(message)
		if !ok {
			u = no
		}
		if l != level || g != tag || u != uptime {
			t.Errorf("%q: got %v %q %v, want %v %q %v", message, l, g, u, level, tag, uptime)
		}
	}
	// ESP-IDF
	f("I (1234) wifi: text", Info, "wifi", 1234*ms)
	f("I (1234) wifi:mode : sta", Info, "wifi", 1234*ms)
	f("E (0) esp-tls: x", Error, "esp-tls", 0)
	f("W (4294967295) a: x", Warn, "a", 4294967295*ms)
	f("D (5) HTTP Server : x", Debug, "HTTP Server", 5*ms)
	f("V (5) a:", Verbose, "a", 5*ms)
	f("  \r\nI (1234) wifi: text", Info, "wifi", 1234*ms)
	f("I (12:34:56.789) wifi: text", Info, "wifi", no)
	f("I (2024-01-02 12:34:56.789) wifi: text", Info, "wifi", no)
	f("I (1770000000000) wifi: text", Unknown, "", no)
	f("I (12a) wifi: text", Unknown, "", no)
	f("I () wifi: text", Unknown, "", no)
	f("I (1234)wifi: text", Unknown, "", no)
	f("I (1234) no tag", Unknown, "", no)
	f("I (1234) : text", Unknown, "", no)
	f("I (1234) a\tb: text", Unknown, "", no)
	f("I (1234) "+strings.Repeat("t", maxTag)+": x", Info, strings.Repeat("t", maxTag), 1234*ms)
	f("I (1234) "+strings.Repeat("t", maxTag+1)+": x", Unknown, "", no)
	f("X (1234) wifi: text", Unknown, "", no)
	f("I am (1) wifi: text", Unknown, "", no)
	// Arduino-ESP32
	f("[  1234][E][file.cpp:12] fn(): text", Error, "file.cpp", 1234*ms)
	f("[123456789][V][WiFiGeneric.cpp:1040] fn(): x", Verbose, "WiFiGeneric.cpp", 123456789*ms)
	f("[   1][I][src/a/b.cpp:1] f(): x", Info, "b.cpp", ms)
	f(`[   1][W][C:\src\b.cpp:1] f(): x`, Unknown, "", no)
	f("[D][main.cpp:3] loop(): x", Debug, "main.cpp", no)
	f("[  1234][X][file.cpp:12] fn(): text", Unknown, "", no)
	f("[  1234][E][file.cpp] fn(): text", Unknown, "", no)
	f("[  1234][E][file.cpp:x] fn(): text", Unknown, "", no)
	f("[  -][E][file.cpp:12] fn(): text", Unknown, "", no)
	f("[1234567", Unknown, "", no)
	f("[  1234]", Unknown, "", no)
	f("[1][E][f:1", Unknown, "", no)
	// Zephyr
	f("[00:00:01.234,000] <wrn> mod: text", Warn, "mod", 1234*ms)
	f("[00:00:01.234,567] <inf> mod: text", Info, "mod", 1234567*time.Microsecond)
	f("[123:59:59.000,001] <dbg> a.b: x", Debug, "a.b", 124*time.Hour-time.Second+time.Microsecond)
	f("[00:00:01] <err> m: x", Error, "m", time.Second)
	f("[00:00:01.234,000] <bad> mod: text", Unknown, "", no)
	f("[00:61:01.234,000] <wrn> mod: text", Unknown, "", no)
	f("[00:00:01.23,000] <wrn> mod: text", Unknown, "", no)
	f("[00:00:01.234,000] <wrn>", Unknown, "", no)
	f("[00:00:01.234,000] <wrn> mod", Unknown, "", no)
	// Anything else
	f("", Unknown, "", no)
	f("I", Unknown, "", no)
	f("[", Unknown, "", no)
	f("Guru Meditation Error: Core  0 panic'ed (LoadProhibited)", Unknown, "", no)
	f("rst:0x1 (POWERON),boot:0x8", Unknown, "", no)
}

func TestParseLevel(t *testing.T) {
	f := func(want Level, names ...string) {
		t.Helper()
		for _, name := range names {
			if got, ok := ParseLevel(name); got != want || ok != (want != Unknown) {
				t.Errorf("%q: got %v, %v", name, got, ok)
			}
		}
	}
	f(Error, "E", "err", "ERROR", "Critical", "fatal", "emergency", "0", "3")
	f(Warn, "w", "wrn", "WARN", "warning", "4")
	f(Info, "I", "inf", "info", "INFORMATION", "notice", "5", "6")
	f(Debug, "d", "dbg", "Debug", "7")
	f(Verbose, "v", "Verbose", "trace")
	f(Unknown, "", "8", "loud", "informational message", "e ", "10")
	for l := Error; l <= Verbose; l++ {
		f(l, l.String())
	}
}

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{"I (1234) wifi: text", "I (12:34:56.789) a: b", "I (2024-01-02 12:34:56.789) a: b", "[  1234][E][file.cpp:12] fn(): text",
		"[D][a/b.cpp:3] x", "[00:00:01.234,567] <wrn> mod: text", "[1][E][f:1", "[        ", "E (1) a:", "[00:0", "[00:00:01.234,000] <wrn> m:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		level, tag, uptime, hasUptime := ParseLine(s)
		if (level == Unknown) != (tag == "") || level == Unknown && hasUptime {
			t.Fatalf("%q: %v %q %v", s, level, tag, hasUptime)
		}
		if !strings.Contains(s, tag) || len(tag) > maxTag || uptime < 0 || uptime >= maxUptime {
			t.Fatalf("%q: %q %v", s, tag, uptime)
		}
		l, b, u, ok := parseLine([]byte(s))
		if l != level || string(b) != tag || u != uptime || ok != hasUptime {
			t.Fatalf("%q: as bytes %v %q %v %v", s, l, b, u, ok)
		}
	})
}
