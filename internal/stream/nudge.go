package stream

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// nudgePause is the least time between two broadcasts of a Nudger.
const nudgePause = 250 * time.Millisecond

// Nudger broadcasts rotation-updated, which tells every page to look again. A
// burst becomes two broadcasts: one at once, and one after it.
type Nudger struct {
	registry *Registry
	sources  *prometheus.CounterVec

	mu      sync.Mutex
	stopped bool
	pending chan struct{} // has room for one
}

// NewNudger returns a Nudger. It broadcasts while Run runs.
func NewNudger(r *Registry, reg prometheus.Registerer) *Nudger {
	n := &Nudger{
		registry: r, pending: make(chan struct{}, 1),
		sources: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sse_rotation_nudge_broadcast_total", Help: "Requests to tell all pages that rotation moved on, by who asked."}, []string{"source"}),
	}
	reg.MustRegister(n.sources)
	for _, source := range []string{"web", "cronjob"} {
		n.sources.WithLabelValues(source)
	}
	return n
}

// Nudge asks for a broadcast. source, a metric label, is "web" or "cronjob".
// It does not wait. After Run has ended its error is Unavailable.
func (n *Nudger) Nudge(source string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return fleet.E(fleet.Unavailable, nil, "The server is shutting down")
	}
	n.sources.WithLabelValues(source).Inc()
	n.Echo()
	return nil
}

// Echo asks for a broadcast of what another process committed, which counts it.
// It does not wait.
func (n *Nudger) Echo() {
	select {
	case n.pending <- struct{}{}:
	default: // one is on its way already
	}
}

// Run broadcasts until ctx ends.
func (n *Nudger) Run(ctx context.Context) error {
	frame := sse.Event("rotation-updated", "", []byte("{}"))
	defer func() {
		n.mu.Lock()
		n.stopped = true
		n.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.pending:
			n.registry.Broadcast(frame)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(nudgePause):
		}
	}
}
