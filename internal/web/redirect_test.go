package web

import (
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"signalbox/internal/access"
)

const base = "https://signalbox.example:8443"

func TestOwnPath(t *testing.T) {
	f := func(redirect, want string) {
		t.Helper()
		got, err := ownPath(redirect, base)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q leads to %q, %v; want %q", redirect, got, err, want)
		}
	}
	f("/", "/")
	f("/devices/1?tab=log&q=a%20b#line", "/devices/1?tab=log&q=a%20b#line")
	f("/a//b", "/a//b")
	f("/?next=https://elsewhere.example", "/?next=https://elsewhere.example")
	f(base, "/")
	f(base+"/logs?x=1", "/logs?x=1")
	f("HTTPS://SIGNALBOX.example:8443/logs", "/logs")
	f("/%5cevil.example", "/%5cevil.example") // stays a path of ours
	f("/ä", "/%C3%A4")

	for _, bad := range []string{
		"", "devices", "?x", "#x", ".", "..//evil.example",
		"https://evil.example", "https://evil.example/", "http://signalbox.example:8443/", "https://signalbox.example/", "https://signalbox.example:8443.evil.example/",
		"https://signalbox.example:8443@evil.example/", "https://user@signalbox.example:8443/", "https:evil.example", "https:/evil.example", "https:///evil.example",
		"//evil.example", "///evil.example", "////evil.example", "/\\evil.example", "\\/evil.example", "\\\\evil.example", "/\\/evil.example", "https:\\\\evil.example",
		"/\t/evil.example", "/\n/evil.example", "\t//evil.example", " //evil.example", " https://evil.example", "/\x00/evil.example", "/a\r\nSet-Cookie: x=y", "/\x7f",
		"javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "mailto:a@b", "//signalbox.example:8443@evil.example", base + "//evil.example", base + "/\\evil.example",
		"http://[::1", "/%zz", "/a b", "/\xff", "/" + strings.Repeat("x", maxRedirect),
	} {
		f(bad, "")
	}
}

// Whatever is let through, a browser stays on our own origin.
func FuzzOwnPath(f *testing.F) {
	for _, seed := range []string{"/", "//evil", "/\\evil", base + "//evil", "https://evil", "/%2f/evil", "/..//evil", "/.//evil", "/a/..//..//evil", "///", "/?//", "/#//"} {
		f.Add(seed)
	}
	own, err := url.Parse(base)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, redirect string) {
		got, err := ownPath(redirect, base)
		if err != nil {
			return
		}
		if !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\t\r\n\x00") {
			t.Fatalf("%q leads to %q", redirect, got)
		}
		to, err := own.Parse(got)
		if err != nil || to.Host != own.Host || to.Scheme != own.Scheme {
			t.Fatalf("%q leads to %v, %v", redirect, to, err)
		}
		w := httptest.NewRecorder()
		redirectTo(w, got)
		if w.Header().Get("Location") != got {
			t.Fatalf("Location %q", w.Header().Get("Location"))
		}
	})
}

func TestAddress(t *testing.T) {
	i := newIdentity(&Identity{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}}, nil, nil)
	f := func(peer, want string, forwarded ...string) {
		t.Helper()
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr, r.Header["X-Forwarded-For"] = peer, forwarded
		if got := i.Address(r); got != want {
			t.Errorf("%s, %q: %s, want %s", peer, forwarded, got, want)
		}
	}
	f("192.0.2.1:5", "192.0.2.1")
	f("[2001:db8::1]:5", "2001:db8::1")
	f("[::ffff:192.0.2.1]:5", "192.0.2.1")
	f("192.0.2.1:5", "192.0.2.1", "198.51.100.7") // who says so is nobody to be trusted
	f("127.0.0.1:5", "198.51.100.7", "198.51.100.7")
	f("127.0.0.1:5", "198.51.100.7", "203.0.113.9, 198.51.100.7") // the first is what the client says
	f("127.0.0.1:5", "198.51.100.7", "203.0.113.9", "198.51.100.7, 10.1.1.1")
	f("127.0.0.1:5", "127.0.0.1", "unknown")
	f("127.0.0.1:5", "10.1.1.1", "rubbish, 10.1.1.1")
	f("127.0.0.1:5", "10.1.1.2", "10.1.1.2")
	f("@", "@")
}

func TestExpiryOf(t *testing.T) {
	f := func(token string, want int64) {
		t.Helper()
		at, ok := expiryOf(token)
		if ok != (want != 0) || ok && at.Unix() != want {
			t.Errorf("%s: %v %v", token, at, ok)
		}
	}
	f("opaque", 0)
	f("a.b.c", 0)
	f("a.eyJleHAiOjE3MDAwMDAwMDB9.c", 1700000000)
	f("a.eyJleHAiOjB9.c", 0)
	f("a.eyJleHAiOjFlMzAwfQ.c", 0)
	f("a.e30.c", 0)
}

func TestCookieAge(t *testing.T) {
	i := newIdentity(nil, nil, nil)
	f := func(age time.Duration, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		i.setCookie(w, "x", "y", age)
		if got := w.Result().Cookies()[0].MaxAge; got != want {
			t.Errorf("%v: %d", age, got)
		}
	}
	f(90*time.Second, 90)
	f(-time.Hour, 1)
	f(0, 1)
	f(math.MaxInt64, 400*24*3600)
}

func TestReadsAreCoalesced(t *testing.T) {
	var r reads
	now := time.Now()
	f := func(what string, after time.Duration, want bool) {
		t.Helper()
		if got := r.due(what, now.Add(after)); got != want {
			t.Errorf("%s after %s: %v", what, after, got)
		}
	}
	f("a", 0, true)
	f("a", time.Minute, false)
	f("b", time.Minute, true)
	f("a", readsAge-1, false)
	f("a", readsAge, true)
	for n := range 2 * maxReads {
		r.due(strings.Repeat("x", n%100)+string(rune(n)), now)
	}
	if len(r.last) > maxReads {
		t.Errorf("%d are remembered", len(r.last))
	}
}

func TestCell(t *testing.T) {
	for text, want := range map[string]string{"": "", "a=1": "a=1", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@x": "'@x", "\tx": "'\tx", "\rx": "'\rx", "{}": "{}"} {
		if got := cell(text); got != want {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// A logout token is good once.
func TestOnce(t *testing.T) {
	var o once
	now := time.Now()
	if !o.first("a", now) || o.first("a", now) || !o.first("b", now.Add(-2*time.Hour)) {
		t.Error("what came is not remembered")
	}
	if !o.first("c", now) || len(o.seen) != 2 {
		t.Errorf("what is over is remembered: %v", o.seen)
	}
	o.forget("a")
	if !o.first("a", now) {
		t.Error("not forgotten")
	}
}

func TestCrossOriginTrust(t *testing.T) {
	c := newCrossOrigin("https://own.example/prefix", []string{"*", "https://page.example"})
	f := func(method, origin, site string, ok bool) {
		t.Helper()
		r := httptest.NewRequest(method, "http://internal:3101/api/devices", nil)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if site != "" {
			r.Header.Set("Sec-Fetch-Site", site)
		}
		if err := c.Check(r); (err == nil) != ok {
			t.Errorf("%s from %q, %q: %v", method, origin, site, err)
		}
	}
	f(http.MethodPost, "", "", true) // a program
	f(http.MethodPost, "https://own.example", "same-origin", true)
	f(http.MethodPost, "https://own.example", "", true) // an old browser, behind a proxy
	f(http.MethodPost, "https://page.example", "cross-site", true)
	f(http.MethodPost, "https://evil.example", "cross-site", false)
	f(http.MethodPost, "https://evil.example", "", false)
	f(http.MethodPost, "https://other.own.example", "same-site", false)
	f(http.MethodPost, "null", "cross-site", false)
	f(http.MethodDelete, "", "cross-site", false)
	f(http.MethodGet, "https://evil.example", "cross-site", true)
}

func TestOwnName(t *testing.T) {
	i := newIdentity(&Identity{Accounts: new(access.Service), BaseURL: "https://signalbox.example:8443"}, nil, nil)
	f := func(host string, want bool) {
		t.Helper()
		if i.ownName(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:3101", "127.0.0.1:3101", "127.1.2.3", "[::1]:3101", "[::ffff:127.0.0.1]", "signalbox.example", "signalbox.example:1", "backend:3101", ""} {
		f(host, true)
	}
	for _, host := range []string{"evil.example:3101", "localhost.evil.example", "127.0.0.1.nip.io", "192.0.2.1", "evil.example.", "a b", "x@localhost/"} {
		f(host, false)
	}
	i.Insecure = true
	f("evil.example", true)
}
