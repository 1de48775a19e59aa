package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"signalbox/internal/sse"
	"signalbox/internal/stream"
)

// frontend knows the version of the web page and tells it to every new stream,
// so that an open page learns that there is a newer one. A page that is
// deployed apart is asked for its version now and then, never while a stream
// waits for it.
type frontend struct {
	url    string
	client http.Client
	log    *slog.Logger
	event  atomic.Pointer[sse.Frame]
}

// How often the page's version is read, and the bounds of one reading.
const (
	versionEvery   = 15 * time.Second
	versionTimeout = 5 * time.Second
	versionBytes   = 64 << 10
)

func newFrontend(url, version string, log *slog.Logger) *frontend {
	f := &frontend{url: url, client: http.Client{Timeout: versionTimeout}, log: log}
	body := map[string]string{"version": version}
	if url != "" {
		body = map[string]string{"version": "unknown", "error": "not read yet"}
	}
	text, _ := json.Marshal(body) // strings always marshal
	f.event.Store(sse.Event("version", "", text))
	return f
}

// announce is a stream.Observer.
func (f *frontend) announce(c *stream.Connection) { c.Send(f.event.Load()) }

// Run reads the version until ctx ends.
func (f *frontend) Run(ctx context.Context) error {
	if f.url == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(versionEvery)
	defer tick.Stop()
	known := false
	for {
		text, err := f.read(ctx)
		switch {
		case err == nil:
			known = true
		case ctx.Err() != nil:
			return nil
		default:
			f.log.Warn("the web page's version cannot be read", "err", err)
			text, _ = json.Marshal(map[string]string{"version": "unknown", "error": "version could not be read"})
		}
		if err == nil || !known { // a page that is told of "unknown" takes what follows for a newer one
			f.event.Store(sse.Event("version", "", text))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// read returns the version document, as one line of JSON.
func (f *frontend) read(ctx context.Context) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, err
	}
	a, err := f.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", a.StatusCode)
	}
	var doc map[string]any
	if err := json.NewDecoder(io.LimitReader(a.Body, versionBytes)).Decode(&doc); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}
