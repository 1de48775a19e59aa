package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/sse"
)

// locked is an owner that needs a lock to hear of the end.
type locked struct {
	mu    *sync.Mutex
	ended chan struct{}
}

func (l locked) Beat() {}
func (l locked) Closed(error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.ended)
}

// Who ends a stream may hold the lock that its owner needs, also when there is no
// room left in the queue: the registry does.
func TestEndWithoutRoom(t *testing.T) {
	hold := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-hold
		}
	}))
	defer server.Close()
	c, err := NewCarrier(CarrierOptions{URLs: []string{server.URL}, Buffer: 1000, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := contextOf(t)
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx, time.Second) }()
	defer func() { stop(); <-done }()
	var mu sync.Mutex
	own := locked{&mu, make(chan struct{})}
	s := c.New("token", "r", 1, nil)
	if err := s.Begin(own); err != nil {
		t.Fatal(err)
	}
	s.Out().Offer(sse.Event("n", "", []byte("1")))
	for s.Out().Bytes() > 0 { // it is on its way
		time.Sleep(time.Millisecond)
	}
	s.Out().Offer(sse.Event("n", "", []byte("2")))
	s.Out().Offer(sse.Event("n", "", []byte(`"`+strings.Repeat("x", 200_000)+`"`))) // any size fits a queue that is not half full
	ended := make(chan struct{})
	mu.Lock()
	go func() { defer close(ended); s.End(nil) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the lock of the owner is waited for")
	}
	mu.Unlock()
	close(hold)
	select {
	case <-own.ended:
	case <-time.After(soon):
		t.Error("the owner was not told")
	}
}

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

// The memory holds the streams that are open or to be closed, and no others.
func TestMemoryForgets(t *testing.T) {
	c, err := NewCarrier(CarrierOptions{URLs: []string{"http://127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 { // one that ends while it begins
		token := fmt.Sprint("token-", n)
		c.memory.mu.Lock()
		var begun sync.WaitGroup
		begun.Go(func() { _ = c.New(token, "r", 1, nil).Begin(nobody{}) })
		for len(c.Outboxes()) == 0 {
			time.Sleep(time.Microsecond)
		}
		time.Sleep(100 * time.Microsecond) // it waits for the memory now, which most often who runs gets before it
		c.memory.mu.Unlock()
		c.Disconnected(token)
		begun.Wait()
	}
	if len(c.memory.open) > 0 {
		t.Errorf("%d streams are remembered", len(c.memory.open))
	}
	for n := range maxGoodbyes {
		c.gateways[0].goodbyes[fmt.Sprint(n)] = struct{}{}
	}
	s := c.New("one more", "r", 1, nil)
	if err := s.Begin(nobody{}); err != nil {
		t.Fatal(err)
	}
	s.fail(nil)
	if len(c.memory.open) > 0 {
		t.Errorf("%d streams are remembered", len(c.memory.open))
	}
	c.gateways[0].goodbyes = nil
	ctx, cancel := contextOf(t)
	cancel()
	if err := c.Run(ctx, 0); err != nil {
		t.Error(err)
	}
}
