package logs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
	"signalbox/internal/sse"
)

// heard is one event of a stream.
type heard struct {
	Type    string
	ID      string
	Payload struct {
		DeviceID int64 `json:"device_id"`
		Logs     []struct {
			N       int
			Message string
		}
		Count  *int
		From   string
		To     string
		Reason string
	}
}

// events takes everything that waits on a stream, when nothing more comes, and
// returns the last id with it.
func events(t *testing.T, out *sse.Outbox) (all []heard, id string) {
	t.Helper()
	for {
		synctest.Wait()
		frames := out.Take(nil, 1<<16)
		if len(frames) == 0 {
			return all, id
		}
		for _, f := range frames {
			dec := sse.NewDecoder(bytes.NewReader(f.Block()), id)
			m, err := dec.Next()
			id = dec.LastID()
			if errors.Is(err, io.EOF) {
				continue
			}
			var e heard
			if err := json.Unmarshal(m.Data, &e); err != nil {
				t.Fatalf("%s: %v", m.Data, err)
			}
			e.ID = id
			all = append(all, e)
		}
	}
}

// many returns n devices, the first of them number from.
func many(from, n int) (devices []fleet.DeviceRef) {
	for i := from; i < from+n; i++ {
		devices = append(devices, fleet.DeviceRef{ID: int64(i), Key: fmt.Sprintf("dev%05d", i), EntityID: fmt.Sprintf("e%d", i)})
	}
	return devices
}

func (w *world) reader(resume string) (*logs.Reader, *sse.Outbox) {
	w.t.Helper()
	var at *logs.Position
	if resume != "" {
		p, err := logs.ParsePosition(resume)
		if err != nil {
			w.t.Fatal(err)
		}
		at = &p
	}
	out := sse.NewOutbox(1<<16, func() {})
	r := w.hub.NewReader(out, at, nil)
	w.t.Cleanup(r.Close)
	return r, out
}

func (w *world) followAll(r *logs.Reader, devices []fleet.DeviceRef, want logs.Want) {
	w.t.Helper()
	if err := r.Follow(w.t.Context(), devices, want); err != nil {
		w.t.Fatal(err)
	}
}

// A set is followed as one: whatever an event says of it is true of all its
// devices, before and after a connection was lost, and the ids stay short.
func TestSetResumesExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		const n = 2000
		devices := many(0, n)
		for _, d := range devices[:100] {
			w.line(d) // the past
		}
		r, out := w.reader("")
		w.followAll(r, devices, logs.Want{})
		next := map[int64]int{}
		for _, d := range devices {
			next[d.ID] = w.sent[d.Key]
		}
		id := ""
		check := func() {
			t.Helper()
			all, last := events(t, out)
			if last != "" {
				id = last
			}
			for _, e := range all {
				if len(e.ID) > 40 || e.Type != "device-logs" {
					t.Fatalf("%s %s with %d lines, %.200s", e.Type, e.Payload.Reason, len(e.Payload.Logs), e.ID)
				}
				for _, l := range e.Payload.Logs {
					if l.N != next[e.Payload.DeviceID] {
						t.Fatalf("device %d: line %d, want %d", e.Payload.DeviceID, l.N, next[e.Payload.DeviceID])
					}
					next[e.Payload.DeviceID]++
				}
			}
		}
		for range 3 {
			for i := range 2000 {
				w.line(devices[w.rnd.IntN(n)])
				if i%50 == 0 {
					check()
				}
			}
			check()
			r.Close() // what is queued from here on is lost with the connection
			for range 500 {
				w.line(devices[w.rnd.IntN(n)])
			}
			r, out = w.reader(id)
			w.followAll(r, devices, logs.Want{})
			for range 500 { // while it is replayed
				w.line(devices[w.rnd.IntN(n)])
			}
			time.Sleep(time.Second)
			check()
		}
		for _, d := range devices {
			if next[d.ID] != w.sent[d.Key] {
				t.Fatalf("device %d: %d lines, want %d", d.ID, next[d.ID], w.sent[d.Key])
			}
		}
	})
}

// When more devices are apart than an id can name, the id is vague; who comes
// back with it is told the lines that it may have missed, and nothing is sent twice.
func TestVagueIDIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		left, right := many(0, 1200), many(1200, 1200)
		for _, d := range right {
			w.line(d)
		}
		r, out := w.reader("")
		w.followAll(r, left, logs.Want{})
		start := logs.LineCursor{Cursor: logs.Cursor{Epoch: "mem"}, Line: logs.WholeBatch}
		w.followAll(r, right, logs.Want{After: start})
		vague := ""
		for vague == "" { // while the right ones are replayed
			synctest.Wait()
			for _, f := range out.Take(nil, 1) {
				dec := sse.NewDecoder(bytes.NewReader(f.Block()), "")
				if _, err := dec.Next(); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if id := dec.LastID(); strings.HasSuffix(id, ".*") {
					vague = id
				}
			}
			if out.Bytes() == 0 {
				t.Fatal("no id was vague")
			}
		}
		r.Close()
		p, err := logs.ParsePosition(vague)
		if err != nil || !p.Vague || p.String() != vague || p.Low >= p.Seq || p.Seq != 1200 {
			t.Fatalf("%q: %+v, %v", vague, p, err)
		}
		for _, d := range right[:10] {
			w.line(d)
		}
		r, out = w.reader(vague)
		w.followAll(r, append(left, right...), logs.Want{})
		time.Sleep(5 * time.Second)
		all, id := events(t, out)
		told, lines := map[int64]int{}, 0
		for _, e := range all {
			switch {
			case e.Type == "log-gap" && e.Payload.Reason == "position" && e.Payload.Count != nil:
				told[e.Payload.DeviceID] += *e.Payload.Count
			case e.Type == "device-logs" && e.Payload.DeviceID < 1210:
				lines += len(e.Payload.Logs)
			default:
				t.Fatalf("%+v", e)
			}
		}
		possible, later := 0, 0
		for i, d := range right {
			if i < 10 {
				later += w.sent[d.Key]
			}
			possible += w.sent[d.Key]
		}
		if n := 1200 - int(p.Low); len(told) != n || lines >= later || id != "mem-1210" {
			t.Errorf("%d devices told, want %d; %d of %d later lines; %s", len(told), n, lines, later, id)
		}
		sum := lines
		for _, n := range told {
			sum += n
		}
		if sum > possible {
			t.Errorf("%d lines told and sent, of %d", sum, possible)
		}
	})
}

// A client that comes with an id which nobody can read is told so.
func TestUnreadableIDIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.line(ref(1))
		out := sse.NewOutbox(1<<16, func() {})
		r := w.hub.NewReader(out, &logs.Position{}, nil)
		defer r.Close()
		w.followAll(r, []fleet.DeviceRef{ref(1), ref(2)}, logs.Want{})
		w.followAll(r, []fleet.DeviceRef{ref(3)}, logs.Want{Made: true})
		time.Sleep(3 * time.Second)
		w.line(ref(1))
		all, id := events(t, out)
		gaps := 0
		for _, e := range all {
			if e.Type == "log-gap" {
				gaps++
				if p := e.Payload; p.Reason != "position" || p.From != "mem-0" || p.To != "mem-1" || p.Count != nil || p.DeviceID == 3 {
					t.Errorf("%+v", e)
				}
			}
		}
		if gaps != 2 || len(all) != 3 || id != "mem-2" {
			t.Errorf("%d gaps in %d events, at %s", gaps, len(all), id)
		}
	})
}

// Only lines that would have been sent use up the rate, and only those are
// counted in its gaps.
func TestRateCountsWantedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		r, out := w.reader("")
		r.Limit(10)
		w.followAll(r, []fleet.DeviceRef{ref(1), ref(2)}, logs.Want{Bounded: true, Filter: logs.Filter{Pattern: "wanted"}})
		say := func(d fleet.DeviceRef, message string) {
			entries := logs.NewDecoder("entity_id").Decode(nil, fmt.Appendf(nil, `{"entity_id":"e","message":%q}`, message), time.Now(), func(logs.Reason) {})
			w.journal.Append(logs.Batch{Device: d.Key, Body: logs.EncodeBody(time.Now(), entries)}, func(seq uint64, _ error) { w.ledger.Add(seq, d.Key, 1) })
		}
		for range 5 { // five wanted lines among a thousand others
			say(ref(1), "wanted")
			for range 100 {
				say(ref(1), "noise")
				say(ref(2), "noise")
			}
		}
		if all, _ := events(t, out); len(all) != 5 {
			t.Errorf("%d events, want the 5 that are within the rate", len(all))
		}
		for range 20 {
			say(ref(1), "wanted")
			say(ref(1), "noise")
		}
		time.Sleep(time.Second)
		got, told := 0, 0
		all, _ := events(t, out)
		for _, e := range all {
			if e.Payload.Count != nil {
				told += *e.Payload.Count
			}
			got += len(e.Payload.Logs)
		}
		if got+told != 20 || told == 0 {
			t.Errorf("%d lines sent and %d told, of 20", got, told)
		}
		say(ref(2), "wanted")
		if all, id := events(t, out); len(all) != 1 || strings.Contains(id, "~") {
			t.Errorf("after the gap: %+v at %s", all, id)
		}
	})
}

// BenchmarkFollowSet is a set joining a stream; it must be linear in the devices.
func BenchmarkFollowSet(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			devices := many(0, n)
			journal := newMemory()
			hub := logs.NewHub(journal, journal, 0, logs.NewLedger(0), logs.NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
			for b.Loop() {
				r := hub.NewReader(sse.NewOutbox(1<<20, func() {}), nil, nil)
				if err := r.Follow(context.Background(), devices, logs.Want{}); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/device")
		})
	}
}
