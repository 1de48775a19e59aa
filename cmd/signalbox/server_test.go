package main

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// silentServer accepts requests and never answers them.
type silentServer struct {
	url   string
	asked chan struct{}
}

func newSilentServer(t *testing.T) *silentServer {
	s := &silentServer{asked: make(chan struct{})}
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(s.asked) })
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// waitForRequest returns when the first request has come.
func (s *silentServer) waitForRequest() { <-s.asked }
