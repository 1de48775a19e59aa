package config

import (
	"strings"
	"testing"
	"time"
)

func TestByteSize(t *testing.T) {
	f := func(text string, want int64, canonical string) {
		t.Helper()
		var s ByteSize
		err := s.UnmarshalText([]byte(text))
		if want < 0 {
			if err == nil {
				t.Errorf("%q is %d bytes, want an error", text, s)
			}
			return
		}
		if err != nil || int64(s) != want || s.String() != canonical {
			t.Errorf("%q: %d bytes %q (%v), want %d %q", text, s, s, err, want, canonical)
		}
	}
	f("0", 0, "0B")
	f("1", 1, "1B")
	f("512B", 512, "512B")
	f("1KiB", 1024, "1KiB")
	f("1 kib", 1024, "1KiB")
	f("1KB", 1000, "1000B")
	f("1.5GiB", 3<<29, "1536MiB")
	f("4GiB", 4<<30, "4GiB")
	f("2TB", 2e12, "1953125000KiB")
	f("8388607TiB", 8388607<<40, "8388607TiB")
	f("8388608TiB", -1, "")
	f("9223372036854775807", 1<<63-1, "9223372036854775807B")
	f("9223372036854775808", -1, "")
	for _, bad := range []string{"", "B", "KiB", "-1", "+1", "1e3", "0x10", "NaN", "Inf", "1_000", "1G", "4 4KiB", "1.2.3MB", "1KiBB"} {
		f(bad, -1, "")
	}
}

func TestDuration(t *testing.T) {
	f := func(text string, want time.Duration, canonical string) {
		t.Helper()
		var d Duration
		err := d.UnmarshalText([]byte(text))
		if want < 0 {
			if err == nil {
				t.Errorf("%q is %s, want an error", text, d)
			}
			return
		}
		if err != nil || time.Duration(d) != want || d.String() != canonical {
			t.Errorf("%q: %s (%v), want %s %s", text, d, err, want, canonical)
		}
	}
	f("0", 0, "0s")
	f("15", 15*time.Second, "15s")
	f("15s", 15*time.Second, "15s")
	f("90s", 90*time.Second, "1m30s")
	f("60", time.Minute, "1m")
	f("2h", 2*time.Hour, "2h")
	f("1.5h", 90*time.Minute, "1h30m")
	f("10h0m", 10*time.Hour, "10h")
	f("1h0m1s", time.Hour+time.Second, "1h0m1s")
	f("0d", 0, "0s")
	f("7d", 7*day, "7d")
	f("168h", 7*day, "7d")
	f("1d12h", 36*time.Hour, "1d12h")
	f("10ms", 10*time.Millisecond, "10ms")
	f("106751d", 106751*day, "106751d")
	f("106752d", -1, "")
	f("106751d24h", -1, "")
	f("9223372036", 9223372036*time.Second, "106751d23h47m16s")
	f("9223372037", -1, "")
	for _, bad := range []string{"", "d", "-1s", "+1s", "1d5", "1.5d", "1w", "1d-1s", "s", "1 s"} {
		f(bad, -1, "")
	}
}

func TestSync(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		s := Sync(1)
		if err := s.UnmarshalText([]byte(text)); (err != nil) != (want == "") || err == nil && s.String() != want {
			t.Errorf("%q: %s, %v", text, s, err)
		}
	}
	f("always", "always")
	f("10", "10s")
	f("500ms", "500ms")
	f("0", "")
	f("Always", "")
	f("never", "")
}

func TestSecretURL(t *testing.T) {
	f := func(text, shown string) {
		t.Helper()
		var u SecretURL
		if err := u.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		} else if u.String() != shown || u.Reveal() != strings.TrimRight(text, "/") {
			t.Errorf("%q: shows %q, holds %q", text, u, u.Reveal())
		}
	}
	f("", "")
	f("mqtt://broker:1883/", "mqtt://broker:1883")
	f("mqtt://user@broker", "mqtt://user@broker")
	f("mqtt://user:secret@broker", "mqtt://user:(hidden)@broker")
	f("postgres://u:p%40ss@h/d?sslmode=require", "postgres://u:(hidden)@h/d?sslmode=require")
	f("postgres:///d?host=/run&user=u&password=x", "postgres:///d?host=%2Frun&password=(hidden)&user=u")
	for _, bad := range []string{"broker", "broker:1883", "mqtt:broker", "://x", "mqtt://u:p ss@h", "http://[::1"} {
		var u SecretURL
		if err := u.UnmarshalText([]byte(bad)); err == nil || strings.Contains(err.Error(), "p ss") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOrigins(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var o Origins
		if err := o.UnmarshalText([]byte(text)); (err != nil) != (want == "") || err == nil && o.String() != want {
			t.Errorf("%s: %s, %v", text, o, err)
		}
	}
	f(`[]`, `[]`)
	f(`null`, `[]`)
	f(`["http://localhost:3100/", "https://x.org"]`, `["http://localhost:3100","https://x.org"]`)
	for _, bad := range []string{``, `http://x`, `[1]`, `["*"]`, `["x.org"]`, `["https://x.org/path"]`, `["https://u@x.org"]`, `["ftp://x"]`} {
		f(bad, "")
	}
}

func TestQuotas(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var q Quotas
		if err := q.UnmarshalText([]byte(text)); err != nil || q.String() != want {
			t.Errorf("%s: %s, %v", text, q, err)
		}
	}
	f(`{}`, `{}`)
	f(`{"b_2":{"burst":0}, "a":{}}`, `{"a":{},"b_2":{"burst":0}}`)
	all := `{"m":{"lines_per_second":1000000,"burst":100000000,"bytes_per_second":1099511627776,"lines_per_day":2000000000,"bytes_per_day":1125899906842624}}`
	f(all, all)

	bad := func(text, detail string) {
		t.Helper()
		var q Quotas
		if err := q.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), detail) {
			t.Errorf("%s: %v, want %q", text, err, detail)
		}
	}
	bad(``, "not JSON")
	bad(`null`, "an object")
	bad(`[]`, "an object")
	bad(`{} {}`, "not JSON")
	bad(`{"m":null}`, "m: not an object")
	bad(`{"m":5}`, "m: not an object")
	bad(`{"M":{}}`, `"M" is not a model's code`)
	bad(`{"":{}}`, `"" is not a model's code`)
	bad(`{"`+strings.Repeat("m", 51)+`":{}}`, "is not a model's code")
	bad(`{"m":{},"m":{}}`, `"m" stands there twice`)
	bad(`{"m":{"burst":1,"burst":2}}`, `"burst" stands there twice`)
	bad(`{"m":{"lines":1}}`, `m: "lines" is not known`)
	bad(`{"m":{"Burst":1}}`, `m: "Burst" is not known`)
	for _, value := range []string{`-1`, `1.5`, `1e3`, `"1"`, `null`, `true`, `[1]`, `{}`, `99999999999999999999`} {
		bad(`{"m":{"burst":`+value+`}}`, "m: burst is not a whole number from 0 to 100000000")
	}
	bad(`{"m":{"lines_per_second":1000001}}`, "m: lines_per_second is not a whole number from 0 to 1000000")
	bad(`{"m":{"bytes_per_second":1099511627777}}`, "bytes_per_second")
	bad(`{"m":{"lines_per_day":2000000001}}`, "lines_per_day")
	bad(`{"m":{"bytes_per_day":1125899906842625}}`, "bytes_per_day")
}

func TestPatterns(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		var p Patterns
		if err := p.UnmarshalText([]byte(text)); err != nil || p.String() != want || len(p.Compile()) != len(p) {
			t.Errorf("%s: %s, %v", text, p, err)
		}
	}
	f(`[]`, `[]`)
	f(`null`, `[]`)
	f(`["a(b)<c>&", "\\d+"]`, `["a(b)<c>&","\\d+"]`)
	list := func(n int, pattern string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`"`+pattern+`",`, n), ",") + "]"
	}
	f(list(100, "a"), list(100, "a"))
	f(list(1, strings.Repeat("a", 1000)), list(1, strings.Repeat("a", 1000)))

	bad := func(text, detail string) {
		t.Helper()
		var p Patterns
		if err := p.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), detail) {
			t.Errorf("%s: %v, want %q", text, err, detail)
		}
	}
	bad(``, "not a JSON list")
	bad(`a+`, "not a JSON list")
	bad(`[1]`, "not a JSON list")
	bad(`["a","("]`, "number 2: error parsing regexp: missing closing )")
	bad(`["(?=a)"]`, "number 1: ")
	bad(`["a",""]`, "number 2 has 0 characters")
	bad(list(101, "a"), "there are 101")
	bad(list(1, strings.Repeat("a", 1001)), "number 1 has 1001 characters")
}

// What a value prints reads back as the same value.
func FuzzRoundTrip(f *testing.F) {
	for _, seed := range []string{"4GiB", "1.5MB", "7d", "1d12h3ms", "90", "always", `["http://x"]`, "mqtt://h", `{"m":{"burst":1}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b, b2 ByteSize
		if b.UnmarshalText([]byte(text)) == nil && (b2.UnmarshalText([]byte(b.String())) != nil || b2 != b || b < 0) {
			t.Errorf("size %q: %d, again %d", text, b, b2)
		}
		var d, d2 Duration
		if d.UnmarshalText([]byte(text)) == nil && (d2.UnmarshalText([]byte(d.String())) != nil || d2 != d || d < 0) {
			t.Errorf("duration %q: %d, again %d", text, d, d2)
		}
		var s, s2 Sync
		if s.UnmarshalText([]byte(text)) == nil && (s2.UnmarshalText([]byte(s.String())) != nil || s2 != s || s < 0) {
			t.Errorf("sync %q: %d, again %d", text, s, s2)
		}
		var o, o2 Origins
		if o.UnmarshalText([]byte(text)) == nil && (o2.UnmarshalText([]byte(o.String())) != nil || o2.String() != o.String()) {
			t.Errorf("origins %q: %s, again %s", text, o, o2)
		}
		var q, q2 Quotas
		if q.UnmarshalText([]byte(text)) == nil && (q2.UnmarshalText([]byte(q.String())) != nil || q2.String() != q.String()) {
			t.Errorf("quotas %q: %s, again %s", text, q, q2)
		}
		var p, p2 Patterns
		if p.UnmarshalText([]byte(text)) == nil && (p2.UnmarshalText([]byte(p.String())) != nil || p2.String() != p.String()) {
			t.Errorf("patterns %q: %s, again %s", text, p, p2)
		}
		var u SecretURL
		if u.UnmarshalText([]byte(text)) == nil {
			if password, ok := u.parse().User.Password(); ok && len(password) > 8 && strings.Contains(u.String(), password) {
				t.Errorf("%q shows its password: %s", text, u)
			}
		}
	})
}

func FuzzDuration(f *testing.F) {
	f.Fuzz(func(t *testing.T, ns int64) {
		if ns < 0 {
			return
		}
		var d Duration
		if err := d.UnmarshalText([]byte(Duration(ns).String())); err != nil || int64(d) != ns {
			t.Errorf("%d: %q, again %d (%v)", ns, Duration(ns), d, err)
		}
	})
}
