package ui

import (
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	pageText   = "<!doctype html><title>Signalbox</title>"
	scriptPath = "/assets/index-abc123.js"
)

var scriptText = "export const text = '" + strings.Repeat("signalbox ", 500) + "'"

// page returns the handler of a small page; what it does not know is 404.
func page() http.Handler {
	return handler(fstest.MapFS{
		"index.html":       {Data: []byte(pageText)},
		"icon.svg":         {Data: []byte("<svg/>")},
		".vite/x.json":     {Data: []byte("{}")},
		".hidden":          {Data: []byte("x")},
		scriptPath[1:]:     {Data: []byte(scriptText)},
		"assets/f-1.woff2": {Data: []byte("\x00\x01")},
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
}

func ask(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func TestPaths(t *testing.T) {
	h := page()
	const html = "text/html; charset=utf-8"
	f := func(method, path, accept string, status int, media string) {
		t.Helper()
		w := ask(h, method, path, "Accept", accept)
		if w.Code != status || w.Header().Get("Content-Type") != media {
			t.Errorf("%s %s: status %d, type %q", method, path, w.Code, w.Header().Get("Content-Type"))
		}
		if method == "HEAD" && w.Body.Len() > 0 {
			t.Errorf("HEAD %s has a body", path)
		}
	}
	for _, method := range []string{"GET", "HEAD"} {
		f(method, "/", browser, 200, html)
		f(method, "/", "", 200, html)
		f(method, "/", "*/*", 200, html)
		f(method, "/index.html", "", 200, html)
		f(method, "/devices/7", browser, 200, html)
		f(method, "/devices/7", "*/*", 404, "")
		f(method, "/devices/7", "application/json", 404, "")
		f(method, "/devices/7", "text/html;q=0, */*", 404, "")
		f(method, "/icon.svg", "image/*", 200, "image/svg+xml")
		f(method, scriptPath, "*/*", 200, "text/javascript; charset=utf-8")
		f(method, "/assets/f-1.woff2", "*/*", 200, "font/woff2")
		f(method, "/assets/gone-1.js", "*/*", 404, "")
		f(method, "/assets/gone-1.js", browser, 404, "")
		f(method, "/assets/", browser, 404, "")
		f(method, "/.hidden", "*/*", 404, "")
		f(method, "/../ui.go", "*/*", 404, "")
	}
	f("POST", "/", browser, 404, "")
	f("DELETE", scriptPath, browser, 404, "")
}

func TestHeaders(t *testing.T) {
	h := page()
	const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
		"worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	f := func(path, cache string) {
		t.Helper()
		w := ask(h, "GET", path, "Accept", browser)
		for name, want := range map[string]string{
			"Content-Security-Policy":    policy,
			"Referrer-Policy":            "no-referrer",
			"X-Content-Type-Options":     "nosniff",
			"Cross-Origin-Opener-Policy": "same-origin",
			"Cache-Control":              cache,
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
	f("/", "no-cache")
	f("/devices/7", "no-cache")
	f("/icon.svg", "no-cache")
	f(scriptPath, "public, max-age=31536000, immutable")
}

func TestUnchanged(t *testing.T) {
	h := page()
	plain := ask(h, "GET", scriptPath).Header().Get("ETag")
	small := ask(h, "GET", scriptPath, "Accept-Encoding", "gzip").Header().Get("ETag")
	if plain == "" || plain == small {
		t.Errorf("the tags of two representations are %s and %s", plain, small)
	}
	f := func(encoding, tag string, status int) {
		t.Helper()
		w := ask(h, "GET", scriptPath, "Accept-Encoding", encoding, "If-None-Match", tag)
		if w.Code != status || status == 304 && w.Body.Len() > 0 {
			t.Errorf("%s, %s: status %d, %d bytes", encoding, tag, w.Code, w.Body.Len())
		}
	}
	f("", plain, 304)
	f("gzip", small, 304)
	f("gzip", plain, 200)
	f("", `"other"`, 200)
}

func TestGzip(t *testing.T) {
	h := page()
	f := func(path, encoding string, packed bool) {
		t.Helper()
		w := ask(h, "GET", path, "Accept-Encoding", encoding)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed {
			t.Errorf("%s with %q: packed is %v", path, encoding, got)
		}
		if !strings.Contains(strings.Join(w.Header()["Vary"], ","), "Accept-Encoding") {
			t.Errorf("%s: Vary is %q", path, w.Header()["Vary"])
		}
	}
	f(scriptPath, "gzip, deflate, br", true)
	f(scriptPath, "deflate, GZIP;q=0.5", true)
	f(scriptPath, "br, gzip;q=0", false)
	f(scriptPath, "", false)
	f("/assets/f-1.woff2", "gzip", false)

	w := ask(h, "GET", scriptPath, "Accept-Encoding", "gzip")
	if got := w.Result().ContentLength; got != int64(w.Body.Len()) {
		t.Errorf("Content-Length is %d of %d", got, w.Body.Len())
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != scriptText {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// The page that is in the program must work under its own policy and with the
// files that are there.
func TestBuiltPage(t *testing.T) {
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		t.Fatal(err)
	}
	files := load(root)
	index := files[indexFile]
	if index == nil {
		t.Fatal("there is no index.html")
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllSubmatch(index.body, -1) {
		if name, local := strings.CutPrefix(string(m[1]), "/"); !local || files[name] == nil {
			t.Errorf("index.html names %q, which is not there", m[1])
		}
	}
	for _, inline := range []string{`<style`, `style="`, `<script>`, `onload=`} {
		if strings.Contains(string(index.body), inline) {
			t.Errorf("index.html has %s, which the policy forbids", inline)
		}
	}
}
