// Package ui is the web page: its source, and the built files, which are part
// of the program.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// dist is what Vite made of the source. The files below assets/ have a hash of
// their content in their names.
//
//go:embed all:dist
var dist embed.FS

const (
	indexFile  = "index.html"
	assetsPath = "assets/"
)

// securityPolicy lets the page use its own files and nothing else: a line of a
// device's log that became markup by mistake could still run nothing and send
// nothing away.
const securityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// Handler returns the handler of the page: its files under their names, and
// index.html for every other path that a browser goes to, since the page has
// addresses of its own. What is neither goes to notFound.
func Handler(notFound http.Handler) http.Handler {
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant
	}
	return handler(root, notFound)
}

func handler(root fs.FS, notFound http.Handler) http.Handler {
	files := load(root)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			notFound.ServeHTTP(w, r)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		f := files[name]
		if f == nil && isPage(name, r) {
			f = files[indexFile]
		}
		if f == nil {
			notFound.ServeHTTP(w, r)
			return
		}
		f.serve(w, r)
	})
}

// isPage reports whether somebody goes to an address of the page. A browser
// names text/html when it does, and not when a page of its asks for a script or
// for data; the root is the page for everybody.
func isPage(name string, r *http.Request) bool {
	return name == "" || !strings.HasPrefix(name, assetsPath) && accepts(r.Header["Accept"], "text/html")
}

// accepts reports whether a header of preferences (RFC 9110, section 12.5) names
// what is offered. Wildcards do not name it.
func accepts(header []string, offered string) bool {
	for item := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, parameters, _ := strings.Cut(item, ";")
		if !strings.EqualFold(strings.TrimSpace(name), offered) {
			continue
		}
		weight, has := strings.CutPrefix(strings.ToLower(strings.TrimSpace(parameters)), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		return !has || err == nil && q > 0
	}
	return false
}

// file is one file of the page. It never changes.
type file struct {
	name    string
	media   string
	body    []byte
	tag     string        // of the content, without quotes
	gzipped func() []byte // nil when that makes it no smaller
}

// load reads the files below root, by their paths.
func load(root fs.FS) map[string]*file {
	files := make(map[string]*file)
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Base(name)[0] == '.' {
			return err
		}
		body, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		f := &file{name: name, media: mediaType(name), body: body, tag: base64.RawURLEncoding.EncodeToString(sum[:12])}
		// Made when it is first asked for, and not while the program starts.
		f.gzipped = sync.OnceValue(func() []byte { return compress(body) })
		files[name] = f
		return nil
	})
	if err != nil {
		panic(err) // reading what is part of the program cannot fail
	}
	return files
}

// mediaType returns the type of a file by its name. Those of a page are said
// here, since the table of the machine may say anything.
func mediaType(name string) string {
	switch extension := path.Ext(name); extension {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json", ".map":
		return "application/json"
	case ".webmanifest":
		return "application/manifest+json"
	case ".woff2":
		return "font/woff2"
	default:
		if known := mime.TypeByExtension(extension); known != "" {
			return known
		}
		return "application/octet-stream"
	}
}

// compress returns the body in gzip, or nil when that saves less than a tenth,
// as of an image or a font.
func compress(body []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	if b.Len() > len(body)*9/10 {
		return nil
	}
	return b.Bytes()
}

// serve answers with the file, or with 304 when the client has it.
func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.media)
	h.Set("Content-Security-Policy", securityPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Add("Vary", "Accept-Encoding")
	switch {
	case strings.HasPrefix(f.name, assetsPath):
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	default:
		h.Set("Cache-Control", "no-cache")
		h.Add("Vary", "Accept") // another Accept may be told that there is no such thing
	}
	body, tag := f.body, f.tag
	if accepts(r.Header["Accept-Encoding"], "gzip") {
		if small := f.gzipped(); small != nil {
			// Other bytes have another tag (RFC 9110, section 8.8.3.3).
			body, tag = small, f.tag+"-gzip"
			h.Set("Content-Encoding", "gzip")
			h.Set("Content-Length", strconv.Itoa(len(small))) // ServeContent leaves it out of what is encoded
		}
	}
	h.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, f.name, time.Time{}, bytes.NewReader(body))
}
