package logs

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// Hub fans the journal's new records out to the readers of this process. Each
// record is encoded once, whoever reads it, and costs nothing when nobody does.
//
// A Reader follows devices and is either live, fed by the hub, or lagging, fed
// from the journal by its own goroutine (tail.go). The hub may drop a reader
// from live to lagging at any time; it never drops a line.
type Hub struct {
	journal Journal
	past    Replayer
	ledger  *Ledger
	metrics *Metrics
	log     *slog.Logger

	// mu orders everything: a record is dispatched to all its readers, and a
	// reader joins or leaves, under it. Taken before Reader.mu.
	mu     sync.Mutex
	topics map[string]*topic // by device key; a topic has at least one user
	seen   uint64            // every record of every topic up to here was dispatched
}

// topic is one followed device.
type topic struct {
	key   string
	label atomic.Pointer[label] // what the device is called; replaced as a whole

	users  int           // follows, and calls of Follow on their way
	opened chan struct{} // closed when the journal watches the device, or refused to
	err    error         // why it refused; set before opened is closed

	last    uint64 // the last record dispatched; 0 before the first
	follows []*follow
	lagging int      // how many of them are replaying
	recent  []Record // what was dispatched of late while any was, for them to join by
	bytes   int      // size of recent
}

// label is what events say of their device.
type label struct {
	device fleet.DeviceRef
	prefix []byte // the payload of device-logs up to the batch's own members
}

// The most that a topic keeps in recent.
const (
	recentRecords = 512
	recentBytes   = 1 << 20
)

// Replayer gives what was before now: the journal alone, or with the history
// behind it.
type Replayer interface {
	// Replay is as in Journal.
	Replay(ctx context.Context, devices []string, after uint64, emit func(Page) error) (upTo uint64, err error)
}

// NewHub returns a Hub over the journal, whose newest sequence is newest. What
// a reader has missed it gets from past.
func NewHub(journal Journal, past Replayer, newest uint64, ledger *Ledger, m *Metrics, log *slog.Logger) *Hub {
	return &Hub{journal: journal, past: past, ledger: ledger, metrics: m, log: log, topics: map[string]*topic{}, seen: newest}
}

// Run dispatches new records until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	return h.journal.Live(ctx, h.dispatch, h.lost)
}

// Update tells the hub that a device changed: events from now on carry its
// new entity id.
func (h *Hub) Update(device fleet.DeviceRef) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[device.Key]; t != nil {
		t.name(device)
	}
}

func (t *topic) name(device fleet.DeviceRef) {
	t.label.Store(&label{device, payloadPrefix(device)})
}

// dispatch gives one record to the device's readers.
func (h *Hub) dispatch(rec Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = max(h.seen, rec.Seq)
	t := h.topics[rec.Device]
	if t == nil || rec.Seq <= t.last {
		return
	}
	if t.last != 0 && rec.Prev != t.last {
		// Something before this record did not come, or is gone already. Each
		// reader looks it up from the last record it had of this device.
		t.forget()
		for _, f := range t.follows {
			f.reader.miss(f)
		}
	}
	t.last = rec.Seq
	if t.lagging > 0 {
		t.remember(rec)
	}
	var shared *sse.Frame
	for _, f := range t.follows {
		if f.live && f.filter == nil && shared == nil { // live changes under h.mu only
			shared = t.frame(part{Record: rec}, Position{Cursor: Cursor{h.journal.Epoch(), rec.Seq}})
			shared.Received = rec.Body.Received()
		}
		if f.live {
			f.reader.offer(f, rec, shared)
		}
	}
}

// lost sends every live reader back to the journal.
func (h *Hub) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log.Warn("live delivery was interrupted; readers go back to the journal")
	for _, t := range h.topics {
		t.last = 0
		t.forget()
		for _, f := range t.follows {
			f.reader.interrupt(f)
		}
	}
}

// open returns the devices' topics, watched by the journal, each with one more
// user. After an error none has.
func (h *Hub) open(ctx context.Context, devices []fleet.DeviceRef) ([]*topic, error) {
	topics := make([]*topic, len(devices))
	var fresh []*topic
	var keys []string
	h.mu.Lock()
	for i, device := range devices {
		t := h.topics[device.Key]
		if t == nil {
			t = &topic{key: device.Key, opened: make(chan struct{})}
			h.topics[device.Key] = t
			fresh, keys = append(fresh, t), append(keys, device.Key)
		}
		t.users++
		t.name(device)
		topics[i] = t
	}
	h.mu.Unlock()

	if len(fresh) > 0 {
		// Others may wait for these watches, so they do not end with this caller.
		err := h.journal.Watch(context.WithoutCancel(ctx), keys...)
		if err != nil {
			err = fleet.E(fleet.Unavailable, err, "The log journal is not available")
			h.mu.Lock()
			for _, t := range fresh {
				t.err = err
				delete(h.topics, t.key)
			}
			h.mu.Unlock()
		}
		for _, t := range fresh {
			close(t.opened)
		}
	}
	for _, t := range topics {
		var err error
		select {
		case <-t.opened:
			err = t.err
		case <-ctx.Done():
			err = fleet.E(fleet.Unavailable, ctx.Err(), "The log journal did not answer in time")
		}
		if err != nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, t := range topics {
				h.drop(t)
			}
			return nil, err
		}
	}
	return topics, nil
}

func (h *Hub) drop(t *topic) {
	if t.users--; t.users == 0 && h.topics[t.key] == t {
		delete(h.topics, t.key)
		h.journal.Unwatch(t.key)
	}
}

// remember keeps rec for the followers that are about to join.
func (t *topic) remember(rec Record) {
	t.recent = append(t.recent, rec)
	t.bytes += len(rec.Body)
	for len(t.recent) > recentRecords || t.bytes > recentBytes {
		t.bytes -= len(t.recent[0].Body)
		t.recent[0] = Record{}
		t.recent = t.recent[1:]
	}
}

// since returns the records dispatched after seq, and whether they are all
// at hand.
func (t *topic) since(seq uint64) ([]Record, bool) {
	if t.last <= seq {
		return nil, true
	}
	for i, rec := range t.recent {
		if rec.Seq > seq {
			return t.recent[i:], rec.Prev <= seq && rec.Prev != 0 || i > 0
		}
	}
	return nil, false
}

// lag notes that one more follow is replaying, or one fewer.
func (t *topic) lag(n int) {
	if t.lagging += n; t.lagging == 0 {
		t.forget()
	}
}

func (t *topic) forget() { t.recent, t.bytes = nil, 0 }

// frame encodes a record as the event that readers receive. It names its lines
// as a query of the history does: by the batch's cursor and their places in it.
func (t *topic) frame(rec part, at Position) *sse.Frame {
	place := append(make([]byte, 0, 64), `"cursor":"`...)
	place = append(append(place, Cursor{at.Epoch, rec.Seq}.String()...), `",`...)
	if len(rec.picked) > 0 {
		place = append(place, `"indices":`...)
		for i, n := range rec.picked {
			place = strconv.AppendInt(append(place, "[,"[min(i, 1)]), int64(n), 10)
		}
		place = append(place, `],`...)
	}
	f := sse.Event("device-logs", at.String(), t.label.Load().prefix, place, rec.Body.fields())
	f.Lines = rec.Body.Lines()
	return f
}
