package keycloaktest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"time"
)

// Transport answers requests without a network, so that a test can have time
// run as it likes (testing/synctest).
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ s *Server }

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.Body = io.NopCloser(bytes.NewReader(content))
	type result struct {
		answer *http.Response
		err    error
	}
	done := make(chan result, 1)
	go func() {
		w := httptest.NewRecorder()
		cut := false
		func() {
			defer func() {
				if p := recover(); p != nil {
					if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
						panic(p)
					}
					cut = true
				}
			}()
			t.s.ServeHTTP(w, in)
		}()
		if cut && !w.Flushed {
			done <- result{err: syscall.ECONNRESET}
			return
		}
		a := w.Result()
		if a.Header.Get("Date") == "" { // as a server adds it
			a.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
		}
		a.Request = r
		if cut {
			a.Body = io.NopCloser(io.MultiReader(w.Body, broken{}))
		}
		done <- result{answer: a}
	}()
	select {
	case got := <-done:
		return got.answer, got.err
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// broken is the rest of a body whose connection was cut.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
