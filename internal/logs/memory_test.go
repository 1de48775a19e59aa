package logs_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"signalbox/internal/conformance"
	"signalbox/internal/logs"
)

// memory is a journal that forgets when told to.
type memory struct {
	mu      sync.Mutex
	records []logs.Record // in order; Prev set
	newest  uint64
	oldest  uint64 // everything below was given up
	last    map[string]uint64
	watched map[string]bool
	live    chan logs.Record
	lost    chan struct{}
	page    int // records per page
	origins []string
	cuts    []logs.Cut
}

func newMemory() *memory {
	return &memory{oldest: 1, last: map[string]uint64{}, watched: map[string]bool{}, live: make(chan logs.Record, 1<<16), lost: make(chan struct{}, 1), page: 16}
}

func (m *memory) Epoch() string { return "mem" }

func (m *memory) Append(b logs.Batch, done func(uint64, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.newest++
	r := logs.Record{Seq: m.newest, Prev: m.last[b.Device], Device: b.Device, Body: b.Body}
	m.last[b.Device] = r.Seq
	m.origins = append(m.origins, b.Origin)
	m.records = append(m.records, r)
	done(r.Seq, nil)
	if m.watched[b.Device] {
		m.live <- r
	}
}

func (m *memory) Bounds(context.Context) (uint64, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.oldest, m.newest, nil
}

func (m *memory) Newest(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest, nil
}

// forget gives up everything before seq.
func (m *memory) forget(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.oldest = max(m.oldest, min(seq, m.newest+1))
	m.records = slices.DeleteFunc(m.records, func(r logs.Record) bool { return r.Seq < m.oldest })
}

func (m *memory) Replay(ctx context.Context, devices []string, after uint64, emit func(logs.Page) error) (uint64, error) {
	m.mu.Lock()
	upTo := m.newest
	m.mu.Unlock()
	for at, first := after, true; at < upTo || first; first = false {
		m.mu.Lock()
		p := logs.Page{Oldest: m.oldest}
		end := upTo
		for _, r := range m.records {
			if r.Seq > at && r.Seq <= upTo && (slices.Contains(devices, r.Device) || devices == nil && r.Device != "") {
				p.Records = append(p.Records, logs.Record{Seq: r.Seq, Device: r.Device, Body: r.Body})
				if len(p.Records) == m.page {
					end = r.Seq
					break
				}
			}
		}
		cuts := slices.Clone(m.cuts)
		m.mu.Unlock()
		if err := logs.WithCuts("mem", cuts, at, end, p, emit); err != nil {
			return 0, err
		}
		at = end
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	return upTo, nil
}

func (m *memory) Consume(ctx context.Context, after uint64, _ <-chan struct{}, emit func([]logs.Record) error) error {
	for {
		m.mu.Lock()
		var page []logs.Record
		for _, r := range m.records {
			if r.Seq > after && len(page) < m.page {
				page = append(page, logs.Record{Seq: r.Seq, Device: r.Device, Body: r.Body})
			}
		}
		m.mu.Unlock()
		if len(page) > 0 {
			if err := emit(page); err != nil {
				return err
			}
			after = page[len(page)-1].Seq
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

func (m *memory) Trim(_ context.Context, below uint64) error {
	m.forget(below)
	return nil
}

func (m *memory) Advance(_ context.Context, beyond uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.newest < beyond {
		m.cuts = append(m.cuts, logs.Cut{From: m.newest, To: beyond})
	}
	for m.newest < beyond {
		m.newest++
		m.records = append(m.records, logs.Record{Seq: m.newest})
	}
	return nil
}

func (m *memory) Origins(_ context.Context, n int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var origins []string
	for _, o := range m.origins[max(0, len(m.origins)-n):] {
		if o != "" {
			origins = append(origins, o)
		}
	}
	return origins, nil
}

func (m *memory) Watch(_ context.Context, devices ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, device := range devices {
		m.watched[device] = true
	}
	return nil
}

func (m *memory) Unwatch(device string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watched, device)
}

func (m *memory) Live(ctx context.Context, deliver func(logs.Record), lost func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.lost:
			for range len(m.live) {
				<-m.live
			}
			lost()
		case r := <-m.live:
			deliver(r)
		}
	}
}

func TestMemory(t *testing.T) {
	conformance.Journal(t, func(*testing.T) logs.Journal { return newMemory() })
}
