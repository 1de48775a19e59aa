//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// floor is the least that net/http needs to broadcast events. It keeps nothing
// and knows nobody; what Signalbox does beyond that shows in the ratio to it.
//
//	GET  /events?topic=T   an event stream
//	POST /publish?topic=T  the body becomes the data of one event
type floor struct {
	mu     sync.RWMutex
	topics map[string]map[chan []byte]bool
}

func (f *floor) events(w http.ResponseWriter, r *http.Request) {
	topic, queue := r.URL.Query().Get("topic"), make(chan []byte, 256)
	f.mu.Lock()
	if f.topics[topic] == nil {
		f.topics[topic] = map[chan []byte]bool{}
	}
	f.topics[topic][queue] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.topics[topic], queue)
		f.mu.Unlock()
	}()

	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	for out.Flush() == nil {
		select {
		case <-r.Context().Done():
			return
		case event := <-queue:
			w.Write(event) // Flush reports the error
		}
		for range len(queue) {
			w.Write(<-queue)
		}
	}
}

func (f *floor) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	event := fmt.Appendf(nil, "data: %s\n\n", body)
	f.mu.RLock()
	for queue := range f.topics[r.URL.Query().Get("topic")] {
		select {
		case queue <- event:
		default: // this reader is 256 events behind and loses it
		}
	}
	f.mu.RUnlock()
	w.WriteHeader(http.StatusNoContent)
}

func (f *floor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /events", f.events)
	mux.HandleFunc("POST /publish", f.publish)
	return mux
}

// serveFloor prints its address and serves until SIGTERM.
func serveFloor() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	fmt.Fprintln(os.Stdout, listener.Addr())
	return http.Serve(listener, (&floor{topics: map[string]map[chan []byte]bool{}}).handler())
}
