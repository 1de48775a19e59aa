package app

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"signalbox/internal/fleet"
	"signalbox/internal/nats"
	"signalbox/internal/registry"
	"signalbox/internal/rotation"
)

// The times of reminders.
const (
	remindPause  = 10 * time.Second // between two of one device
	remindHeard  = time.Minute      // after the last notice a device that is heard of is reminded
	remindListen = 20 * time.Second // for which a device that came has time to subscribe
	remindLook   = 250 * time.Millisecond
	remindAtOnce = 16
	remindSync   = 30 * time.Second // how often it is asked what other processes changed
)

// reminders sends the notice again to devices that come back while they have
// something to fetch. Of these there are few: what the others do costs nothing.
type reminders struct {
	remind  func(ctx context.Context, device int64) error
	list    func(context.Context) ([]fleet.Device, error)               // those that are PENDING
	listens func(connection uint64, topic string) (listens, there bool) // at the embedded broker
	log     *slog.Logger

	some atomic.Bool // pending is not empty
	wake chan struct{}

	mu       sync.Mutex
	pending  map[int64]*awaited
	byClient map[string]int64
}

// awaited is a device that is to fetch its secret.
type awaited struct {
	clientID   string
	told       time.Time // of the last notice
	reminded   time.Time // zero: it was not
	heard      bool      // it is to be reminded, as it was heard of
	came       bool      // it is to be reminded when it listens
	connection uint64    // by which it came last
	until      time.Time // then nobody waits for it to listen any more
}

func newReminders(log *slog.Logger) *reminders {
	return &reminders{log: log, wake: make(chan struct{}, 1), pending: map[int64]*awaited{}, byClient: map[string]int64{}}
}

// observe hears of changes of rotations.
func (r *reminders) observe(n rotation.News) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.To == fleet.RotationPending {
		r.addLocked(n.Device, n.ClientID)
	} else {
		r.removeLocked(n.Device)
	}
}

func (r *reminders) addLocked(device int64, clientID string) {
	if r.pending[device] == nil {
		r.pending[device] = &awaited{clientID: clientID, told: time.Now()}
		r.byClient[clientID] = device
		r.some.Store(true)
	}
}

func (r *reminders) removeLocked(device int64) {
	if a := r.pending[device]; a != nil {
		if r.byClient[a.clientID] == device { // else it was deleted, and another one has its client id
			delete(r.byClient, a.clientID)
		}
		delete(r.pending, device)
		r.some.Store(len(r.pending) > 0)
	}
}

// heard says that a device is there, by whatever way. It does not wait.
func (r *reminders) heard(clientID string) {
	if !r.some.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.pending[r.byClient[clientID]]
	if a == nil || a.heard || time.Since(a.told) < remindHeard {
		return
	}
	a.heard = true
	r.hurry()
}

// arrived says that a client came to the embedded broker. It does not wait.
func (r *reminders) arrived(clientID string, connection uint64) {
	if !r.some.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.pending[r.byClient[clientID]]; a != nil {
		a.came, a.connection, a.until = true, connection, time.Now().Add(remindListen)
		r.hurry()
	}
}

func (r *reminders) hurry() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run reminds until ctx ends.
func (r *reminders) Run(ctx context.Context) error {
	if err := r.sync(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("which devices have a secret to fetch is not known", "err", err)
	}
	every := time.NewTicker(remindSync)
	defer every.Stop()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := r.sync(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("which devices have a secret to fetch is not known", "err", err)
			}
			continue
		case <-r.wake:
		case <-look.C:
		}
		due, more := r.due(time.Now())
		var all errgroup.Group // a broker that is away keeps some of them waiting
		all.SetLimit(remindAtOnce)
		for _, device := range due {
			all.Go(func() error {
				if err := r.remind(ctx, device); err != nil && ctx.Err() == nil && fleet.KindOf(err) != fleet.NotFound {
					r.log.Warn("a device was not reminded of its new secret", "device", device, "err", err)
				}
				return nil
			})
		}
		_ = all.Wait() // there is no error
		if more {
			look.Reset(remindLook)
		}
	}
}

// due returns who is to be reminded now, and whether somebody else will be.
func (r *reminders) due(now time.Time) (due []int64, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, a := range r.pending {
		switch {
		case !a.heard && !a.came:
			continue
		case now.Sub(a.reminded) < remindPause:
			more = true
			continue
		case a.heard:
		default:
			listens, there := r.listens(a.connection, provisioningTopic)
			if !there || !listens && now.After(a.until) { // it gets what lies there for it, or not even that
				a.came = false
				continue
			}
			if !listens {
				more = true
				continue
			}
		}
		a.heard, a.came = false, false
		a.told, a.reminded = now, now
		due = append(due, id)
	}
	return due, more
}

// sync learns what was there before, and what other processes changed.
func (r *reminders) sync(ctx context.Context) error {
	began := time.Now()
	devices, err := r.list(ctx)
	if err != nil {
		return err
	}
	there := make(map[int64]bool, len(devices))
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range devices {
		there[devices[i].ID] = true
		r.addLocked(devices[i].ID, devices[i].ClientID())
	}
	for id, a := range r.pending {
		if !there[id] && a.told.Before(began) { // else it is newer than the list
			r.removeLocked(id)
		}
	}
	return nil
}

// pendingDevices returns what lists the devices that have a secret to fetch.
func pendingDevices(devices *registry.Service) func(context.Context) ([]fleet.Device, error) {
	return func(ctx context.Context) ([]fleet.Device, error) {
		state := fleet.RotationPending
		return devices.Devices(ctx, registry.DeviceFilter{Rotation: &state})
	}
}

// openReminders returns what is to be run to remind devices.
func (a *app) openReminders(server *nats.Server, devices *registry.Service, runner *rotation.Runner) unit {
	a.reminders.remind, a.reminders.list, a.reminders.listens = runner.Remind, pendingDevices(devices), server.Listens
	return unit{"reminders of devices", a.reminders.Run}
}
