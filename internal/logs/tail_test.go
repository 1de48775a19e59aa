package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// world is a journal, a hub and a client whose connection breaks.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	journal *memory
	ledger  *logs.Ledger
	hub     *logs.Hub
	sent    map[string]int // device key -> lines appended

	client struct {
		out     *sse.Outbox
		reader  *logs.Reader
		lastID  string
		follows map[string]*followed
	}
}

// followed is what the client knows of a device.
type followed struct {
	since int  // the line that was next when the device was followed
	began bool // something was received
	next  int  // the line that must come next
	gap   bool // lines were said to be missing, of unknown number
}

func ref(i int) fleet.DeviceRef {
	return fleet.DeviceRef{ID: int64(i), Key: fmt.Sprintf("dev0000%d", i), EntityID: fmt.Sprintf("e%d", i)}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), journal: newMemory(), ledger: logs.NewLedger(0), sent: map[string]int{}}
	w.hub = logs.NewHub(w.journal, w.journal, 0, w.ledger, logs.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.hub.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	w.client.follows = map[string]*followed{}
	return w
}

// line appends one batch of a device, of one to three lines.
func (w *world) line(d fleet.DeviceRef) {
	n := 1 + w.rnd.IntN(3)
	var entries []logs.Entry
	for range n {
		entries = append(entries, logs.Entry{Doc: fmt.Appendf(nil, `{"n":%d,"pad":"%080d"}`, w.sent[d.Key], 0)})
		w.sent[d.Key]++
	}
	w.journal.Append(logs.Batch{Device: d.Key, Body: logs.EncodeBody(time.Now(), entries)}, func(seq uint64, err error) {
		w.ledger.Add(seq, d.Key, n)
	})
}

func (w *world) connect(buffer int) {
	c := &w.client
	c.out = sse.NewOutbox(buffer, func() {})
	var resume *logs.Position
	if c.lastID != "" {
		p, err := logs.ParsePosition(c.lastID)
		if err != nil {
			w.t.Fatalf("%q: %v", c.lastID, err)
		}
		if p.String() != c.lastID {
			w.t.Fatalf("position %q reads as %q", c.lastID, p)
		}
		resume = &p
	}
	var before []string
	if w.rnd.IntN(2) == 0 {
		before = slices.Collect(maps.Keys(c.follows))
	}
	c.reader = w.hub.NewReader(c.out, resume, before)
}

func (w *world) follow(d fleet.DeviceRef) {
	c := &w.client
	if err := c.reader.Follow(w.t.Context(), []fleet.DeviceRef{d}, logs.Want{}); err != nil {
		w.t.Fatal(err)
	}
	if c.follows[d.Key] == nil {
		c.follows[d.Key] = &followed{since: w.sent[d.Key]}
	}
}

// receive takes up to n frames off the stream.
func (w *world) receive(n int) {
	c := &w.client
	var stream bytes.Buffer
	for range n {
		frames := c.out.Take(nil, 1)
		if len(frames) == 0 {
			break
		}
		stream.Write(frames[0].Block())
		if testing.Verbose() {
			w.t.Logf("<- %.100s", frames[0].Block())
		}
		synctest.Wait() // a replay may have waited for the room
	}
	dec := sse.NewDecoder(&stream, c.lastID)
	for {
		m, err := dec.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.event(m.Data)
	}
	c.lastID = dec.LastID()
}

func (w *world) event(data []byte) {
	var e struct {
		Type    string
		Payload struct {
			ID    int64 `json:"device_id"`
			Logs  []struct{ N int }
			Count *int
			From  string
			To    string
		}
	}
	if err := json.Unmarshal(data, &e); err != nil {
		w.t.Fatalf("%s: %v", data, err)
	}
	key := ref(int(e.Payload.ID)).Key
	f := w.client.follows[key]
	if f == nil {
		return // unfollowed since
	}
	switch e.Type {
	case "log-gap":
		if e.Payload.Count == nil {
			f.gap = true
		} else if f.began {
			f.next += *e.Payload.Count
		} else {
			f.began, f.next = true, -*e.Payload.Count // lines before the first one received
			f.gap = true
		}
	case "device-logs":
		for _, l := range e.Payload.Logs {
			switch {
			case !f.began:
				if l.N > f.since && !f.gap {
					w.t.Fatalf("%s: first line is %d; want at most %d", key, l.N, f.since)
				}
			case f.gap:
				if l.N < f.next {
					w.t.Fatalf("%s: line %d after %d", key, l.N, f.next-1)
				}
			case l.N != f.next:
				w.t.Fatalf("%s: line %d; want %d (at %s)", key, l.N, f.next, data)
			}
			f.began, f.gap, f.next = true, false, l.N+1
		}
	default:
		w.t.Fatalf("event %s", data)
	}
}

// settle drains the stream until nothing more comes, and checks that the
// client has everything.
func (w *world) settle() {
	for {
		time.Sleep(3 * time.Second)
		synctest.Wait()
		before := w.client.lastID
		w.receive(1 << 20)
		synctest.Wait()
		if w.client.out.Bytes() == 0 && before == w.client.lastID {
			break
		}
	}
	for key, f := range w.client.follows {
		if f.began && !f.gap && f.next != w.sent[key] || !f.began && f.since != w.sent[key] {
			w.t.Fatalf("%s: %+v, but %d lines were sent (last id %s)", key, *f, w.sent[key], w.client.lastID)
		}
	}
}

// TestReader drives one client through random histories: devices log, the
// client follows and leaves, reads slowly, loses its connection and comes
// back, live delivery is interrupted, the journal forgets. After each, every
// line was received once and in order, or told to be missing by the number.
func TestReader(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { history(newWorld(t, seed)) })
		})
	}
}

func history(w *world) {
	const devices = 4
	buffer := []int{400, 4000, 1 << 20}[w.rnd.IntN(3)]
	forgets := w.rnd.IntN(3) == 0
	w.connect(buffer)
	c := &w.client
	for range 150 + w.rnd.IntN(150) {
		d := ref(w.rnd.IntN(devices))
		op := w.rnd.IntN(24)
		if testing.Verbose() {
			w.t.Logf("op %d dev %s sent %v last %s", op, d.Key, w.sent, c.lastID)
		}
		switch op {
		case 0, 1:
			w.follow(d)
		case 2:
			if c.reader.Unfollow(d.Key) {
				delete(c.follows, d.Key)
				w.receive(1 << 20)
				// What was queued of it is received, and then it is over: a
				// later follow begins at its own time.
			}
		case 3:
			c.reader.Close() // the connection breaks; what was queued is lost
			w.connect(buffer)
			again := slices.Collect(func(yield func(int) bool) {
				for i := range devices {
					if c.follows[ref(i).Key] != nil && !yield(i) {
						return
					}
				}
			})
			w.rnd.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
			for _, i := range again {
				if c.lastID == "" { // it knows of nothing to go on from
					delete(c.follows, ref(i).Key)
				}
				w.follow(ref(i))
				if w.rnd.IntN(2) == 0 {
					synctest.Wait()
				}
				if w.rnd.IntN(4) == 0 {
					time.Sleep(100 * time.Millisecond)
				}
				if w.rnd.IntN(3) == 0 {
					w.line(ref(w.rnd.IntN(devices)))
				}
			}
		case 4:
			c.reader.Advance()
		case 5:
			if w.rnd.IntN(4) == 0 {
				w.journal.lost <- struct{}{}
			}
		case 6:
			if forgets {
				_, newest, _ := w.journal.Bounds(context.Background())
				w.journal.forget(newest - uint64(w.rnd.IntN(10)))
			}
		case 7, 8, 9, 10, 11:
			w.receive(1 + w.rnd.IntN(5))
		case 12:
			synctest.Wait()
		default:
			w.line(d)
		}
	}
	w.settle()
	c.reader.Close()
	w.receive(1)
}

// A follow with a filter gets the lines that it wants, and the ids of the
// stream still say how far it has come.
func TestFilteredFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.connect(1 << 20)
		say := func(d fleet.DeviceRef, messages ...string) {
			var payload []byte
			for _, m := range messages {
				payload = fmt.Appendf(payload, `{"entity_id":"e","message":%q}`+"\n", m)
			}
			entries := logs.NewDecoder("entity_id").Decode(nil, payload, time.Now(), func(r logs.Reason) { t.Error(r) })
			w.journal.Append(logs.Batch{Device: d.Key, Body: logs.EncodeBody(time.Now(), entries)}, func(uint64, error) {})
			synctest.Wait()
		}
		var cursors []string // of the lines that were heard
		heard := func() (messages []string, id string) {
			cursors = nil
			for _, f := range w.client.out.Take(nil, 1<<20) {
				dec := sse.NewDecoder(bytes.NewReader(f.Block()), "")
				e, err := dec.Next()
				id = dec.LastID()
				if err != nil || len(e.Data) == 0 {
					continue
				}
				var event struct {
					Payload struct {
						Cursor  string
						Indices []int
						Logs    []struct{ Message string }
					}
				}
				if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
					t.Error(err)
				}
				for i, l := range event.Payload.Logs {
					messages = append(messages, l.Message)
					if event.Payload.Indices != nil {
						i = event.Payload.Indices[i]
					}
					cursors = append(cursors, fmt.Sprintf("%s.%d", event.Payload.Cursor, i))
				}
			}
			return messages, id
		}
		say(ref(1), "before")
		want := logs.Want{Filter: logs.Filter{Level: logs.Warn, Pattern: "*o*"}, After: logs.LineCursor{Cursor: logs.Cursor{Epoch: "mem", Seq: 0}, Line: logs.WholeBatch}}
		if err := w.client.reader.Follow(t.Context(), []fleet.DeviceRef{ref(1)}, want); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		say(ref(1), "W (1) a: no", "I (2) a: no", "E (3) a: yes", "E (4) a: oh")
		say(ref(1), "I (5) a: no")
		w.client.reader.Advance()
		got, id := heard()
		if diff := slices.Compare([]string{"before", "W (1) a: no", "E (4) a: oh"}, got); diff != 0 || id != "mem-3" {
			t.Errorf("heard %q up to %s", got, id)
		}
		if !slices.Equal(cursors, []string{"mem-1.0", "mem-2.0", "mem-2.3"}) {
			t.Errorf("heard lines %q", cursors)
		}
		bad := logs.Want{Filter: logs.Filter{Regex: "("}}
		if err := w.client.reader.Follow(t.Context(), []fleet.DeviceRef{ref(2)}, bad); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("a bad regex: %v", err)
		}
		// From the middle of a batch.
		half := logs.Want{After: logs.LineCursor{Cursor: logs.Cursor{Epoch: "mem", Seq: 2}, Line: 1}}
		w.client.reader.Unfollow(ref(1).Key)
		if err := w.client.reader.Follow(t.Context(), []fleet.DeviceRef{ref(1)}, half); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, _ := heard(); slices.Compare([]string{"E (3) a: yes", "E (4) a: oh", "I (5) a: no"}, got) != 0 {
			t.Errorf("after line 1 of a batch: %q", got)
		}
		if !slices.Equal(cursors, []string{"mem-2.2", "mem-2.3", "mem-3.0"}) {
			t.Errorf("heard lines %q", cursors)
		}
		w.client.reader.Close()
	})
}

// Bounded follows get no more lines than the rate, and are told exactly what
// they miss; others on the stream are not held up.
func TestBoundedFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.connect(1 << 20)
		w.client.reader.Limit(100)
		for i := range 3 {
			if err := w.client.reader.Follow(t.Context(), []fleet.DeviceRef{ref(i)}, logs.Want{Bounded: i > 0}); err != nil {
				t.Fatal(err)
			}
		}
		received, missing := map[int64]int{}, map[int64]int{}
		collect := func() {
			synctest.Wait()
			for _, f := range w.client.out.Take(nil, 1<<30) {
				var event struct {
					Type    string
					Payload struct {
						DeviceID int64 `json:"device_id"`
						Logs     []json.RawMessage
						Count    *int
						Reason   string
					}
				}
				if f.Name != "device-logs" && f.Name != "log-gap" {
					continue
				}
				e, err := sse.NewDecoder(bytes.NewReader(f.Block()), "").Next()
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
					t.Fatal(err)
				}
				p := event.Payload
				received[p.DeviceID] += len(p.Logs)
				if event.Type == "log-gap" {
					if p.Reason != "rate" || p.Count == nil {
						t.Fatalf("told %s", e.Data)
					}
					missing[p.DeviceID] += *p.Count
				}
			}
		}
		const seconds = 20
		for range seconds * 100 {
			for i := range 3 {
				w.line(ref(i))
			}
			time.Sleep(10 * time.Millisecond)
			collect()
		}
		time.Sleep(5 * time.Second)
		collect()
		for i := range 3 {
			d := ref(i)
			t.Logf("device %d: %d said, %d received, %d missing", i, w.sent[d.Key], received[d.ID], missing[d.ID])
			if received[d.ID]+missing[d.ID] != w.sent[d.Key] || i == 0 && missing[d.ID] > 0 {
				t.Errorf("device %d: %d said, %d received, %d missing", i, w.sent[d.Key], received[d.ID], missing[d.ID])
			}
		}
		if n := received[1] + received[2]; n > 100*(seconds+2) || n < 100*seconds/3 {
			t.Errorf("%d lines in %d s at 100 a second", n, seconds)
		}
		w.client.reader.Close()
	})
}
