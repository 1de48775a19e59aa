package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// readings is what one reading after the other gets; "" is a failure.
type readings []string

func (r *readings) RoundTrip(*http.Request) (*http.Response, error) {
	text := (*r)[0]
	*r = (*r)[1:]
	if text == "" {
		return nil, errors.New("down")
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(text))}, nil
}

// A page is told the last version that could be read: one that cannot be read now
// is no other version.
func TestFrontend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFrontend("http://page/version.json", "", slog.New(slog.DiscardHandler))
		f.client.Transport = &readings{"", ` {"version": "1",
			"at": 5}`, "", "{", `{"version":"2"}`}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		for n, want := range []string{
			`{"error":"version could not be read","version":"unknown"}`, `{"at":5,"version":"1"}`, `{"at":5,"version":"1"}`, `{"at":5,"version":"1"}`, `{"version":"2"}`,
		} {
			synctest.Wait()
			if got := string(f.event.Load().Payload()); got != want {
				t.Errorf("after reading %d: %s, want %s", n+1, got, want)
			}
			if n < 4 {
				time.Sleep(versionEvery)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
