package stream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// The devices of the random test: the lasting ones are never deleted, so that
// a worker knows exactly what its connections follow of them. The mortal ones
// are deleted and their entity ids cleared while others subscribe.
const (
	lasting = 20
	mortal  = 20
	workers = 24
)

// worker opens, uses and drops connections under request ids of its own, and
// keeps a model of them.
type worker struct {
	*world
	rnd     *rand.Rand
	name    string
	clients map[string]*client        // by request id
	model   map[string]map[int64]bool // the lasting devices each follows
	made    *atomic.Int64             // subscriptions, over all workers
	next    *atomic.Int64             // id of the next mortal device
}

func (w *worker) id() string { return fmt.Sprintf("%s-%d", w.name, w.rnd.IntN(5)) }

// mortalID returns one of the newest mortal devices; some are deleted.
func (w *worker) mortalID() int64 { return w.next.Load() - w.rnd.Int64N(mortal) }

func (w *worker) step() {
	id := w.id()
	c := w.clients[id]
	switch p := w.rnd.IntN(100); {
	case p < 12: // connect, or replace
		fresh, err := w.connect(w.name, id, "")
		if err != nil {
			w.t.Errorf("connect %s: %v", id, err)
			return
		}
		if c != nil && len(c.ended()) != 1 {
			w.t.Errorf("%s was replaced and ended %d times", id, len(c.ended()))
		}
		w.clients[id], w.model[id] = fresh, map[int64]bool{}
	case p < 18 && c != nil: // disconnect
		w.registry.Disconnect(c.Connection)
		delete(w.clients, id)
		delete(w.model, id)
	case p < 20: // somebody else tries
		if c != nil {
			_, err := w.connect("mallory", id, "")
			w.want(err, fleet.Forbidden, "This request_id belongs to another connection")
			w.want(w.registry.Unsubscribe(context.Background(), "mallory", id, 1), fleet.Forbidden, "Identity mismatch for SSE connection")
		}
	case p < 60: // subscribe to a lasting device
		device := 1 + w.rnd.Int64N(lasting)
		entity, err := w.registry.Subscribe(context.Background(), w.name, id, device, Want{})
		if c == nil {
			w.want(err, fleet.Forbidden, "No identity binding for this SSE connection")
			return
		}
		if err != nil || entity != fmt.Sprintf("e%d", device) {
			w.t.Errorf("%s, device %d: %q, %v", id, device, entity, err)
			return
		}
		if !w.model[id][device] {
			w.made.Add(1)
		}
		w.model[id][device] = true
	case p < 75: // unsubscribe
		device := 1 + w.rnd.Int64N(lasting)
		err := w.registry.Unsubscribe(context.Background(), w.name, id, device)
		switch {
		case c == nil:
			w.want(err, fleet.Forbidden, "No identity binding for this SSE connection")
		case !w.model[id][device]:
			w.want(err, fleet.NotFound, fmt.Sprintf("Subscription e%d was not found", device))
		case err != nil:
			w.t.Errorf("%s, device %d: %v", id, device, err)
		default:
			delete(w.model[id], device)
		}
	case p < 88: // the same with devices that may go at any moment
		if _, err := w.registry.Subscribe(context.Background(), w.name, id, w.mortalID(), Want{}); err == nil {
			w.made.Add(1)
		} else if kind := fleet.KindOf(err); kind != fleet.NotFound && (kind != fleet.Forbidden || c != nil) {
			w.t.Errorf("%s: %v", id, err)
		}
	case p < 93:
		if err := w.registry.Unsubscribe(context.Background(), w.name, id, w.mortalID()); err != nil {
			if kind := fleet.KindOf(err); kind != fleet.NotFound && (kind != fleet.Forbidden || c != nil) {
				w.t.Errorf("%s: %v", id, err)
			}
		}
	case p < 95: // a device is deleted, and another made
		if d, ok := w.devices.drop(w.mortalID()); ok {
			w.registry.DeviceDeleted(d)
		}
		w.devices.set(device(w.next.Add(1)))
	case p < 96: // an entity id is cleared
		if d, ok := w.devices.drop(w.mortalID()); ok {
			d.EntityID = ""
			w.devices.set(d)
		}
	case p < 99: // many at once on the same few connections
		w.crowd()
	default: // who reads the list sees no harm
		w.registry.Subscriptions(nil)
		w.registry.Broadcast(sse.Heartbeat())
	}
}

// crowd does things to connections that all workers share.
func (w *worker) crowd() {
	const subject = "crowd"
	id := fmt.Sprintf("crowd-%d", w.rnd.IntN(2))
	c, err := w.connect(subject, id, "")
	if err != nil {
		w.t.Error(err)
		return
	}
	for range 20 {
		device := 1 + w.rnd.Int64N(3)
		if w.rnd.IntN(3) == 0 {
			err = w.registry.Unsubscribe(context.Background(), subject, id, device)
		} else if _, err = w.registry.Subscribe(context.Background(), subject, id, device, Want{}); err == nil {
			w.made.Add(1)
		}
		if kind := fleet.KindOf(err); err != nil && kind != fleet.NotFound && kind != fleet.Forbidden {
			w.t.Error(err)
		}
	}
	if w.rnd.IntN(2) == 0 {
		w.registry.Disconnect(c.Connection)
	}
}

func TestRandomSubscriptions(t *testing.T) {
	const subscriptions = 10_000
	w := newWorld(t, lasting+mortal, nil)
	var made, next atomic.Int64
	next.Store(lasting + mortal)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all []*worker
	for i := range workers {
		all = append(all, &worker{
			world: w, rnd: rand.New(rand.NewPCG(seed, uint64(i))), name: fmt.Sprintf("w%d", i), made: &made, next: &next,
			clients: map[string]*client{}, model: map[string]map[int64]bool{},
		})
	}
	// In rounds, with a look at everything between two of them.
	for round := 1; made.Load() < subscriptions && !t.Failed(); round++ {
		var wg sync.WaitGroup
		for _, worker := range all {
			wg.Go(func() {
				for range 100 {
					worker.step()
				}
			})
		}
		wg.Wait()
		w.check()
		for _, worker := range all {
			worker.checkModel()
		}
	}
	var wg sync.WaitGroup
	for _, worker := range all {
		wg.Go(func() {
			for _, c := range worker.clients {
				w.registry.Disconnect(c.Connection)
			}
		})
	}
	wg.Wait()
	r := w.registry
	for _, c := range r.connections() { // the crowd's
		r.Disconnect(c)
	}
	w.check()
	if len(r.byRequest)+len(r.bySubject)+len(r.followers) != 0 || w.value("sse_device_log_subscriptions_active", "") != 0 || w.value("sse_gateway_active_connections", "") != 0 {
		t.Errorf("something is left: %d connections, %d subjects, %d devices", len(r.byRequest), len(r.bySubject), len(r.followers))
	}
}

// checkModel compares what the worker's connections follow of the lasting
// devices with what they should.
func (w *worker) checkModel() {
	w.t.Helper()
	got := map[string][]int64{}
	for _, s := range w.registry.Subscriptions(nil) {
		if s.Subject == w.name && s.Device.ID <= lasting {
			got[s.RequestID] = append(got[s.RequestID], s.Device.ID)
		}
	}
	want := map[string][]int64{}
	for id, devices := range w.model {
		if len(devices) > 0 {
			want[id] = slices.Sorted(maps.Keys(devices))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s follows (-want +got):\n%s", w.name, diff)
	}
}
