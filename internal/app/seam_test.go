package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/nats"
	"signalbox/internal/sqlstore"
	"signalbox/internal/sse"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is the whole path of lines behind ingest, with a journal that gives up
// what is sealed as soon as it can.
type rig struct {
	t       *testing.T
	journal *nats.Journal
	store   *logs.Store
	hub     *logs.Hub
	said    [devices]atomic.Int64 // lines that the journal has acknowledged
}

const devices = 4

func ref(i int) fleet.DeviceRef {
	return fleet.DeviceRef{ID: int64(i + 1), Key: fmt.Sprintf("dev0000%d", i), EntityID: fmt.Sprintf("e%d", i)}
}

func newRig(t *testing.T) *rig {
	quiet := slog.New(slog.DiscardHandler)
	server, err := nats.StartServer(nats.ServerOptions{Dir: t.TempDir(), Sync: time.Minute, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	r := &rig{t: t}
	if r.journal, err = nats.OpenJournal(t.Context(), server, nats.JournalOptions{Log: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.journal.Close)
	chunks, err := sqlstore.OpenHistory(t.Context(), filepath.Join(t.TempDir(), "history.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = chunks.Close() })
	warn := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	sealer := logs.NewSealer(r.journal, chunks, logs.SealerOptions{MaxLines: 64, MaxAge: 50 * time.Millisecond}, prometheus.NewRegistry(), warn)
	r.store = logs.NewStore(r.journal, chunks, sealer, prometheus.NewRegistry(), warn)
	r.hub = logs.NewHub(r.journal, r.store, 0, logs.NewLedger(0), logs.NewMetrics(prometheus.NewRegistry()), warn)

	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = sealer.Run(ctx) })
	group.Go(func() { _ = r.hub.Run(ctx) })
	group.Go(func() {
		for ctx.Err() == nil {
			if err := r.journal.Keep(ctx, 20_000, 0, sealer.Held()); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	return r
}

// talk says lines of all devices until stop is closed.
func (r *rig) talk(stop <-chan struct{}) {
	var next [devices]int
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		d := i % devices
		n := 1 + rand.IntN(3)
		if i%1000 == 0 {
			n = 300
		}
		var payload []byte
		for range n {
			payload = fmt.Appendf(payload, `{"entity_id":"e","message":"%d"}`+"\n", next[d])
			next[d]++
		}
		at := time.Now()
		entries := logs.NewDecoder("entity_id").Decode(nil, payload, at, func(logs.Reason) {})
		upTo := int64(next[d])
		r.journal.Append(logs.Batch{Device: ref(d).Key, Body: logs.EncodeBody(at, entries)}, func(_ uint64, err error) {
			if err != nil {
				r.t.Error(err)
			}
			r.said[d].Store(upTo)
		})
		time.Sleep(time.Millisecond)
	}
}

// listen reads a stream until each device has said its number of lines, and
// returns what it heard, by device.
func listen(t *testing.T, out *sse.Outbox, woken <-chan struct{}, until func(heard [devices][]int) bool) (heard [devices][]int) {
	timeout := time.After(30 * time.Second)
	for !until(heard) {
		frames := out.Take(nil, 1<<20)
		for _, f := range frames {
			d := sse.NewDecoder(bytes.NewReader(f.Block()), "")
			for {
				e, err := d.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return heard
				}
				var event struct {
					Type    string
					Payload struct {
						DeviceID int64 `json:"device_id"`
						Logs     []struct{ Message string }
						Reason   string
					}
				}
				if len(e.Data) == 0 {
					continue
				}
				if err := json.Unmarshal([]byte(e.Data), &event); err != nil {
					t.Errorf("%s: %v", e.Data, err)
				}
				if event.Type == "log-gap" {
					t.Errorf("a gap: %s", e.Data)
				}
				for _, l := range event.Payload.Logs {
					var n int
					if _, err := fmt.Sscan(l.Message, &n); err != nil {
						t.Error(err)
					}
					heard[event.Payload.DeviceID-1] = append(heard[event.Payload.DeviceID-1], n)
				}
			}
		}
		if len(frames) > 0 {
			continue
		}
		select {
		case <-woken:
		case <-timeout:
			t.Error("the lines did not come")
			return heard
		}
	}
	return heard
}

// At whatever moment somebody reads a device's history and goes on live from
// where that is complete, both together hold every line once: from the newest
// page, and from a place that the journal has given up long ago.
func TestSeam(t *testing.T) {
	r := newRig(t)
	stop := make(chan struct{})
	var talking, joins sync.WaitGroup
	talking.Go(func() { r.talk(stop) })
	// On a busy machine joins take longer, and are to be as many.
	const atOnce, least = 8, 200
	start := time.Now()
	joined, old := atomic.Int64{}, atomic.Int64{}
	enough := func() bool {
		took := time.Since(start)
		return took > 6*time.Second && joined.Load() >= least || took > 90*time.Second
	}
	for range atOnce {
		joins.Go(func() {
			for !enough() {
				time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
				if rand.IntN(3) == 0 {
					old.Add(1)
				}
				r.join(rand.IntN(3) == 0)
				joined.Add(1)
			}
		})
	}
	joins.Wait()
	close(stop)
	talking.Wait()
	oldest, newest, err := r.journal.Bounds(t.Context())
	if err != nil || oldest < 100 {
		t.Errorf("the journal holds %d to %d, %v: it was to have given up much", oldest, newest, err)
	}
	t.Logf("%d joins; the journal holds %d to %d", joined.Load(), oldest, newest)
	if joined.Load() < least/2 {
		t.Error("too few joins to say anything")
	}
}

// join reads a device's history and follows it for a while. With old it
// follows from a line in the middle of it instead of its end.
func (r *rig) join(old bool) {
	t, d := r.t, rand.IntN(devices)
	before := r.said[d].Load()
	found, err := r.store.Read(t.Context(), logs.Query{Devices: []string{ref(d).Key}, Backward: true, Limit: 1 + rand.IntN(logs.MaxQuery)})
	if err != nil {
		t.Error(err)
		return
	}
	lines, after := found.Lines, found.Complete
	if old && len(lines) > 0 {
		cut := rand.IntN(len(lines))
		lines, after = lines[:cut+1], lines[cut].Cursor
	}
	woken := make(chan struct{}, 1)
	out := sse.NewOutbox(1<<20, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	reader := r.hub.NewReader(out, nil, nil)
	defer reader.Close()
	if err := reader.Follow(t.Context(), []fleet.DeviceRef{ref(d)}, logs.Want{After: after}); err != nil {
		t.Error(err)
		return
	}
	var got []int
	for _, l := range lines {
		var n int
		if _, err := fmt.Sscan(string(l.Message), &n); err != nil {
			t.Error(err)
		}
		got = append(got, n)
	}
	goal := int(r.said[d].Load()) + 5
	heard := listen(t, out, woken, func(heard [devices][]int) bool { return len(heard[d]) > 0 && slices.Max(heard[d]) >= goal })
	got = append(got, heard[d]...)
	for i := 1; i < len(got); i++ {
		if got[i] != got[i-1]+1 {
			t.Errorf("line %d of device %d is followed by %d; the history had %d lines up to %v, old %v", got[i-1], d, got[i], len(lines), after, old)
			return
		}
	}
	if len(lines) > 0 && !old && int64(got[len(lines)-1]) < before-1 {
		t.Errorf("the history ends with %d although %d lines were acknowledged before", got[len(lines)-1], before)
	}
}
