package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	someJWT   = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1g"
	someToken = "abcdefgh.IJKL-0123~+/=="
)

// redact applies a Redactor to a text and returns what it counted, by rule.
func redact(r *Redactor, text string) (string, map[string]int) {
	c := redaction{Redactor: r}
	got, _ := c.clean([]byte(text))
	counts := map[string]int{}
	for rule, n := range c.counts {
		if n > 0 {
			counts[ruleNames[rule]] = n
		}
	}
	return string(got), counts
}

func TestRedact(t *testing.T) {
	r := NewRedactor(true, nil)
	// f takes a text with the secrets in angle brackets, and the rules in order.
	f := func(text string, rules ...string) {
		t.Helper()
		sent := strings.NewReplacer("«", "", "»", "").Replace(text)
		want := regexp.MustCompile(`«[^»]*»`).ReplaceAllString(text, redacted)
		got, counts := redact(r, sent)
		wantCounts := map[string]int{}
		for _, rule := range rules {
			wantCounts[rule]++
		}
		if diff := cmp.Diff(wantCounts, counts); got != want || diff != "" {
			t.Errorf("%q\n got %q\nwant %q\n%s", sent, got, want, diff)
		}
		if again, counts := redact(r, got); again != got || len(counts) > 0 {
			t.Errorf("%q becomes %q when it is redacted again", got, again)
		}
	}

	f("")
	f("I (123) wifi: beacon timeout")
	f("GET http://host:8080/a?b=c&d=e HTTP/1.1")

	// Bearer tokens.
	f("Authorization: Bearer «"+someToken+"»", "bearer")
	f("authorization:bearer  «"+someToken+"», next", "bearer")
	f("BEARER=«"+someToken+"»", "bearer")
	f(`{\"auth\":\"Bearer «`+someToken+`»\"}`, "bearer")
	f("header Bearer%20«"+someToken+"»", "bearer")
	f("bearer «1234567890123456» bearer «6543210987654321»", "bearer", "bearer")
	f("bearer 123456789012345")
	f("the bearer of this message is known")
	f("bearer1234567890123456")
	f("bearer")
	f("Bearer ")

	// JSON Web Tokens by themselves.
	f("got «"+someJWT+"»", "jwt")
	f("got «"+someJWT+"».", "jwt")
	f("t=«"+someJWT+"»&u=1", "jwt")
	f("«"+someJWT+".abc.def» five parts", "jwt")
	f("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ")
	f("eyJ eyJ. eyJ.. J yJ heyJude.")

	// Passwords in URLs.
	f("connect mqtt://user:«p4ss»@broker:1883/x", "url")
	f("mqtt://user:«p@ss»@broker", "url")
	f("mqtt://user:«pa/ss#?»@broker", "url")
	f("redis://:«p4ss»@host", "url")
	f(`"url":"https:\/\/user:«p4ss»@host\/a"`, "url")
	f("a://b:«c»@d and e://f:«g»@h", "url", "url")
	f("mqtt://user@broker:1883")
	f("http://host:80/path@x")
	f("http://host:80/?mail=a@b")
	f("http://[::1]:80/x")
	f("std::string x://y")
	f("://a:b@c")
	f("mqtt://user:@broker")
	f("http://host:abc end a@b")

	// Wi-Fi keys and passwords.
	f("password: «hunter2»", "password")
	f("Password:«hunter2»", "password")
	f("PASSWORD = «hunter2»", "password")
	f("passphrase=«hunter2»", "password")
	f("Passphrase (7): «hunter2»", "password")
	f("psk=«hunter2»", "password")
	f("wpa_psk=«hunter2», next", "password")
	f("ssid: home password: «secret»", "password")
	f("wifi_init_sta finished. connected to ap SSID:home password:«secret»", "password")
	f("wifi_init_softap finished. SSID:esp password:«secret» channel:1", "password")
	f("ssid=home,password=«sec,ret»,channel=6", "password")
	f("ssid=home;password=«sec;ret»;channel=6", "password")
	f("password: '«it's mine»' fine", "password")
	f(`password: "«two words»", next`, "password")
	f(`password: "«a\"b»" end`, "password")
	f(`password: "«never closed`+"»", "password")
	f("(password: «hunter2»)", "password")
	f("password: «hunter2».", "password")
	f(`wifi_password":"«xxx»"`, "password")
	f(`{"ssid":"home","wifi_password":"«x y»","n":1}`, "password")
	f(`{\"wifi_password\":\"«x y»\",\"n\":1}`, "password")
	f(`{\"psk\":\"«x\\\"y»\",\"n\":1}`, "password")
	f(`{\\\"psk\\\":\\\"«x»\\\",\\\"n\\\":1}`, "password")
	f(`{"psk":«12345678»,"n":1}`, "password")
	f(`{"psk":null,"password":true,"passwd":""}`)
	f(`{"token":"«x»","secret":"«y»","client_secret":"«z»","api_key":"«k»"}`, "password", "password", "password", "password")
	f("config['password'] = '«x»'", "password")
	f("password => «x»", "password")
	f("pwd:«x»", "password")
	f("wifiPassword=«x» WiFi-Password=«y» Wi-Fi key: «z» WIFI_PASS=«w»", "password", "password", "password", "password")
	f("GET /t?access_token=«abc»&ssid=x", "password")
	f("a=1&password=«abc»&ssid=x", "password")
	f("password=«a&b» c", "password")
	f("password: «pässwörd» ü", "password")
	f("the password is wrong")
	f("unexpected token: } at 5, secret: none")
	f("password:")
	f("password: ")
	f("Password::check failed, psk")
	f("password:\nnext line")
	f("passwords: 3, tokens: 4, keys: 5, task: 6, state: 7, count: 8, high_pass: 9")
	f("= : =: := k: d= : :")

	// One beginning in another: neither survives.
	f("password: «Bearer» «"+someToken+"»", "password", "bearer")
	f("psk= «password:» «hunter2»", "password", "password")
	f("password: «mqtt://u:p@h» x", "password")
	f("Bearer «aaaaaaaaaaaaaaaaBearer» «"+someToken+"»", "bearer", "bearer")
	f("password: [redacted], psk=[redacted] mqtt://a:[redacted]@b bearer [redacted]")
}

func TestRedactOwn(t *testing.T) {
	f := func(builtIn bool, text, want string, counts map[string]int, patterns ...string) {
		t.Helper()
		var own []*regexp.Regexp
		for _, p := range patterns {
			own = append(own, regexp.MustCompile(p))
		}
		got, n := redact(NewRedactor(builtIn, own), text)
		if diff := cmp.Diff(counts, n); got != want || diff != "" {
			t.Errorf("%q: %q, want %q\n%s", text, got, want, diff)
		}
	}
	f(false, "pin 1234 and 5678, password: x", "[redacted] and 5678, password: x", map[string]int{"own": 1}, `pin \d+`)
	f(false, "pin 1234 pin 5678", "pin [redacted] pin [redacted]", map[string]int{"own": 2}, `pin (\d+)`)
	f(false, "a1b", "a[redacted]b", map[string]int{"own": 1}, `a(\d)(b)`)
	f(false, "ab", "ab", map[string]int{}, `a(\d)?b`, `x*`, `()b`)
	f(true, "pin 1234 password: x", "pin [redacted] password: [redacted]", map[string]int{"own": 1, "password": 1}, `pin (\d+)`)
	f(false, "one two", "[redacted] [redacted]", map[string]int{"own": 2}, `one`, `two`)
	if NewRedactor(false, nil) != nil {
		t.Error("a Redactor of nothing")
	}
}

// decodeRedacted decodes one line and returns its document and what was counted.
func decodeRedacted(t *testing.T, entityField, line string, r *Redactor) (Entry, [ruleCount]int) {
	t.Helper()
	d := NewDecoder(entityField)
	d.Redactor = r
	entries := d.Decode(nil, []byte(line), testTime, func(Reason) {})
	if len(entries) != 1 {
		t.Fatalf("%d entries of %s", len(entries), line)
	}
	return entries[0], d.redaction.counts
}

func TestDecodeRedacts(t *testing.T) {
	r := NewRedactor(true, []*regexp.Regexp{regexp.MustCompile(`2026|zebra`)})
	f := func(line, want string, fields int) {
		t.Helper()
		e, counts := decodeRedacted(t, "entity_id", line, r)
		if got := string(e.Doc); got != stamped+","+want || counts[ruleField] != fields {
			t.Errorf("%s\n got %s\nwant %s\n%d fields counted, want %d", line, got, stamped+","+want, counts[ruleField], fields)
		}
		if off, counts := decodeRedacted(t, "entity_id", line, nil); strings.Contains(string(off.Doc), redacted) != strings.Contains(line, redacted) || counts != [ruleCount]int{} {
			t.Errorf("redacted without a Redactor: %s", off.Doc)
		}
	}
	f(`{"message":"psk=hunter2 x"}`, `"message":"psk=[redacted] x"}`, 0)
	f(`{"message":"psk=\u001b[1mhunter2\u001b[0m x"}`, `"message":"psk=[redacted] x"}`, 0)
	f(`{"message":"p\u0073k=hunter2"}`, `"message":"psk=[redacted]"}`, 0)
	f(`{"x":"psk=hunter2 x","a":["zebra",{"b":"c://d:e@f"}],"message":"m"}`, `"x":"psk=[redacted] x","a":["[redacted]",{"b":"c://d:[redacted]@f"}],"message":"m"}`, 0)
	f(`{"message":{"password":"a","n":1,"t":"psk=b"}}`, `"message":"{\"password\":\"[redacted]\",\"n\":1,\"t\":\"psk=[redacted]\"}"}`, 1)
	f(`{"message":"m","a":{"Client-Secret":"a","b":[{"apiKey":["b",{"c":"d"}]}]}}`,
		`"message":"m","a":{"Client-Secret":"[redacted]","b":[{"apiKey":["[redacted]",{"c":"[redacted]"}]}]}}`, 3)
	f(`{"psk":12345678,"token":1e999,"secret":null,"passwd":true,"password":"","message":"m"}`,
		`"psk":"[redacted]","token":"[redacted]","secret":null,"passwd":true,"password":"","message":"m"}`, 2)
	f(`{"password":"[redacted]","message":"m"}`, `"password":"[redacted]","message":"m"}`, 0)
	for _, name := range []string{"password", "passwd", "secret", "client_secret", "token", "access_token", "refresh_token", "api_key", "psk", "wifi_password", "WIFI_PASSWORD"} {
		f(`{"message":"m","`+name+`":"x\"y"}`, `"message":"m","`+name+`":"[redacted]"}`, 1)
	}
	// The time and the entity are as they are.
	f(`{"@timestamp":"2026","entity_id":"zebra psk=x","message":"m"}`, `"entity_id":"zebra psk=x","message":"m"}`, 0)

	// What is recognised in a line has no secret either.
	e, _ := decodeRedacted(t, "entity_id", `{"message":"I (5) wifi: psk=hunter2","tag":"psk=hunter2"}`, r)
	if e.Tag != "wifi" || e.Level != Info || e.Uptime != 5*time.Millisecond || bytes.Contains(e.Doc, []byte("hunter2")) {
		t.Errorf("tag %q, %s, %s", e.Tag, e.Level, e.Doc)
	}
	for _, field := range []string{"password", "message", "tag"} {
		e, _ := decodeRedacted(t, field, `{"`+field+`":"psk=abc"}`, r)
		if e.EntityID != "psk=abc" || !bytes.Contains(e.Doc, []byte(`"`+field+`":"psk=abc"`)) {
			t.Errorf("entity %q, %s", e.EntityID, e.Doc)
		}
	}
}

// A secret goes before a long line is cut, so that no part of it is left.
func TestDecodeRedactsBeforeCutting(t *testing.T) {
	r := NewRedactor(true, nil)
	for pad := MaxLine/2 - 200; pad < MaxLine; pad += 17 {
		line := `{"message":"` + strings.Repeat("x", pad) + ` ` + someJWT + ` ` + strings.Repeat("y", MaxLine) + `"}`
		if e, _ := decodeRedacted(t, "entity_id", line, r); bytes.Contains(e.Doc, []byte("eyJ")) || !e.Truncated {
			t.Fatalf("a part of the secret behind %d bytes is left", pad)
		}
	}
}

// The search is linear in what a device sends, whatever that is.
func TestRedactTime(t *testing.T) {
	r := redaction{Redactor: NewRedactor(true, nil)}
	for _, unit := range []string{
		"psk:", "psk=", "psk:'", `psk:"`, `psk:\"`, `psk:"a`, "psk:,", "psk:,a", `"psk":"`, "psk: ", "(1):", "psk(1):", ":", " :", "wifi pass :",
		"eyJ", "eyJ.", "eyJ.a", "J", "a://", "a://b:", "a://b:@", "a://b:c/@", "http:\\/\\/a:b", "bearer ", "bearer:", "bearer=a", "bearer aaaaaaaaaaaaaaaa",
		"?psk=a&", "psk=a&", `psk:'a"`, `psk:\\'`, "bB", "\u00fc=", `psk:'x psk:"x psk:\'x`, "psk:`x",
	} {
		// 32 times the text takes 32 times as long, or 1024 times if the search is
		// quadratic. The fastest of several tells, on a busy machine.
		const times = 32
		long := []byte(strings.Repeat(unit, MaxLine/len(unit)))
		short := long[:len(long)/times/len(unit)*len(unit)]
		var fastest [2]time.Duration
		grows := func() float64 {
			for i, text := range [][]byte{short, long} {
				start := time.Now()
				r.clean(text)
				if took := time.Since(start); fastest[i] == 0 || took < fastest[i] {
					fastest[i] = took
				}
			}
			return float64(fastest[1]) / float64(fastest[0])
		}
		for try := 1; grows() > 4*times; try++ {
			if try == 100 {
				t.Errorf("%q again and again: %v for %d bytes, %v for %d", unit, fastest[0], len(short), fastest[1], len(long))
				break
			}
		}
	}
}

func TestDecodeRedactsWithoutAllocating(t *testing.T) {
	d := NewDecoder("entity_id")
	d.Redactor = NewRedactor(true, nil)
	payload := []byte(strings.Repeat(`{"message":"I (1) wifi: password: x and mqtt://a:b@c","entity_id":"sim-0001","psk":"y"}`+"\n", 50))
	entries := d.Decode(nil, payload, testTime, func(Reason) {})
	if n := testing.AllocsPerRun(100, func() { entries = d.Decode(entries[:0], payload, testTime, func(Reason) {}) }); n != 0 {
		t.Errorf("%v allocations for 50 lines", n)
	}
}

// FuzzRedact plants a secret, in each form that is promised, behind and before
// any text, in any field.
func FuzzRedact(f *testing.F) {
	const secret = "S3cr3tPlanted0123456789"
	forms := []string{
		"Authorization: Bearer " + secret, "bearer " + secret, "eyJhbGciOi." + "eyJ" + secret + ".sig-" + secret,
		"mqtt://user:" + secret + "@host", "https://u:" + secret + "@h:1/p?q", "password: " + secret, "passphrase=" + secret, "psk=" + secret,
		`wifi_password":"` + secret + `"`, `{"password":"` + secret + `"}`, "ssid: home password: " + secret, "PSK = '" + secret + "'",
	}
	names := []string{"password", "passwd", "secret", "client_secret", "token", "access_token", "refresh_token", "api_key", "psk", "wifi_password"}
	for i := range forms {
		f.Add("I (12) wifi: ", " done", "x", byte(i))
	}
	for _, s := range []string{"password:", `psk="`, "bearer ", "eyJ", "eyJa.b", "a://b:", "a://b:c/", "\\", `\"`, "'", "ü=", "token\":", "[redacted]", "psk:\\\\'"} {
		f.Add(s, s, s, byte(len(s)))
		f.Add(s+s, "@"+s, s, byte(3))
	}
	d := NewDecoder("entity_id")
	d.Redactor = NewRedactor(true, nil)
	f.Fuzz(func(t *testing.T, before, after, key string, which byte) {
		if strings.Contains(before+after+key, secret) || len(before)+len(after)+len(key) > 8000 || key == "@timestamp" || key == "relative_time" || key == "entity_id" {
			return
		}
		if before = strings.ToValidUTF8(before, "?"); hasEscapes([]byte(before)) {
			return // its end may take a letter of what follows
		}
		text := before + " " + forms[int(which)%len(forms)] + " " + after
		line := func(v any) []byte {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		name := names[int(which)%len(names)]
		for _, l := range [][]byte{
			line(map[string]any{"message": text, "entity_id": "e"}),
			line(map[string]any{"message": "m", "tag": text}),
			line(map[string]any{"message": "m", key: []any{map[string]any{key: text}}}),
			line(map[string]any{"message": map[string]any{key: text}}),
			line(map[string]any{"message": string(line(map[string]any{name: secret, "a": before, "z": after}))}),
			line(map[string]any{key + "x": map[string]any{name: []any{before, map[string]any{after: secret}}}}),
		} {
			for _, e := range d.Decode(nil, l, testTime, func(Reason) {}) {
				checkDoc(t, e)
				if bytes.Contains(e.Doc, []byte(secret)) || strings.Contains(e.Tag, secret) {
					t.Fatalf("%s\nleft the secret in %s, tag %q", l, e.Doc, e.Tag)
				}
			}
		}
		// A sample of what is not JSON.
		s := sampler{redactor: d.Redactor}
		if got := s.shown([]byte(text)); strings.Contains(got, secret) {
			t.Fatalf("%q is shown as %q", text, got)
		}
		// Nothing is lost of a line without a secret.
		if c := (redaction{Redactor: d.Redactor}); !c.has([]byte(before)) {
			if got, changed := c.clean([]byte(before)); changed || string(got) != before {
				t.Fatalf("%q became %q", before, got)
			}
		}
	})
}

// BenchmarkRedact decodes ordinary lines without and with redaction and reports
// what that costs.
func BenchmarkRedact(b *testing.B) {
	lines := map[string]string{
		"idf":   `{"message":"\u001b[0;32mI (123456) sensor_hub: temperature 21.53 C humidity 45.2 % pressure 1013.25 hPa, battery 3.98 V\u001b[0m","entity_id":"sim-0001","relative_time":123456,"seq":1234,"heap":182344}`,
		"short": `{"message":"W (81234) wifi: beacon timeout","entity_id":"kitchen"}`,
		"pairs": `{"message":"state: connected ssid=home bssid: 1a:2b:3c:4d:5e:6f channel=6 rssi=-61 count=3 retries: 0","entity_id":"kitchen","fw":"2.4.1","task":"main"}`,
	}
	for name, line := range lines {
		payload := []byte(strings.Repeat(line+"\n", 20))
		run := func(r *Redactor, n int) time.Duration {
			d := NewDecoder("entity_id")
			d.Redactor = r
			var entries []Entry
			start := time.Now()
			for range n {
				entries = d.Decode(entries[:0], payload, testTime, func(Reason) {})
			}
			return time.Since(start)
		}
		b.Run(name, func(b *testing.B) {
			r := NewRedactor(true, nil)
			var without, with time.Duration
			n := 0
			for b.Loop() { // taking turns, for the machine is not quiet
				without += run(nil, 50)
				with += run(r, 50)
				n += 50 * 20
			}
			b.ReportMetric(float64(without.Nanoseconds())/float64(n), "ns/line-without")
			b.ReportMetric(float64((with-without).Nanoseconds())/float64(n), "ns/line-more")
			b.ReportMetric(float64(with)/float64(without), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func ExampleRedactor() {
	d := NewDecoder("entity_id")
	d.Redactor = NewRedactor(true, nil)
	for _, e := range d.Decode(nil, []byte(`{"message":"connected to mqtt://bob:hunter2@broker"}`), time.Unix(0, 0), func(Reason) {}) {
		fmt.Println(string(e.Doc))
	}
	// Output: {"@timestamp":"1970-01-01T00:00:00.000000Z","message":"connected to mqtt://bob:[redacted]@broker"}
}
