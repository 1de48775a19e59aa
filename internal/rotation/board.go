package rotation

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

// reloadEvery is how often the board is made anew, to forget deleted devices.
const reloadEvery = 15 * time.Minute

// board has where each device stands in memory, so that to look costs no more
// than what changed since.
type board struct {
	mu     sync.Mutex
	loaded bool
	seen   int64 // the last change that is on it
	all    []Standing
	at     map[int64]int // in all
}

// put adds what was read.
func (b *board) put(rows []Standing) {
	for _, s := range rows {
		b.seen = max(b.seen, s.Change)
		if i, ok := b.at[s.Device]; ok {
			b.all[i] = s
			continue
		}
		b.at[s.Device] = len(b.all)
		b.all = append(b.all, s)
	}
}

// read brings the board up to date, and has f look at it.
func (b *board) read(ctx context.Context, store FleetStore, f func([]Standing)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	after := b.seen
	if !b.loaded {
		after, b.at = -1, map[int64]int{}
	}
	rows, err := store.RotationStandings(ctx, after)
	if err != nil {
		return err
	}
	b.put(rows)
	b.loaded = true
	f(b.all)
	return nil
}

// reload makes the board anew. Whoever reads it meanwhile does not wait.
func (b *board) reload(ctx context.Context, store FleetStore) error {
	rows, err := store.RotationStandings(ctx, -1)
	if err != nil {
		return err
	}
	fresh := board{at: make(map[int64]int, len(rows))}
	fresh.put(rows)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loaded, b.seen, b.all, b.at = true, fresh.seen, fresh.all, fresh.at
	return nil
}

// Standings returns where each device stands, in no order. Devices that were
// deleted of late may be among them.
func (f *Fleet) Standings(ctx context.Context) (list []Standing, err error) {
	err = f.board.read(ctx, f.opts.Store, func(all []Standing) { list = append(list, all...) })
	return list, err
}

// ages is a prometheus.Collector of what is counted for the whole fleet. Only
// the process that runs the timers has the figures, so that a sum over all processes is right.
type ages struct{ last atomic.Pointer[counted] }

// ageLimits are the ages, in days, by which devices are counted.
var ageLimits = [...]int{7, 30, 90, 365}

type counted struct {
	younger       [len(ageLimits)]int // devices whose secret is, and that are in none before
	older         int
	oldest        time.Duration
	queued, stuck int
}

// refresh counts if this process runs the timers, and reports whether it does.
func (a *ages) refresh(ctx context.Context, f *Fleet) bool {
	r := f.opts.Runner
	now := r.now()
	leader, err := f.opts.Store.RotationLeader(ctx, now)
	var c counted
	if err == nil && leader == r.holder {
		err = f.board.read(ctx, f.opts.Store, func(all []Standing) { c = countAges(all, now) })
	}
	if err != nil || leader != r.holder { // none is better than an old one
		a.last.Store(nil)
		return false
	}
	a.last.Store(&c)
	return true
}

func countAges(all []Standing, now time.Time) (c counted) {
	for i := range all {
		s := &all[i]
		if s.Wire == fleet.RotationQueued {
			c.queued++
		}
		if s.Stuck {
			c.stuck++
		}
		if !s.takesPart() || s.SecretAt.IsZero() {
			continue
		}
		age := max(0, now.Sub(s.SecretAt))
		c.oldest = max(c.oldest, age)
		n := 0
		for n < len(ageLimits) && age >= time.Duration(ageLimits[n])*24*time.Hour {
			n++
		}
		if n == len(ageLimits) {
			c.older++
		} else {
			c.younger[n]++
		}
	}
	return c
}

// Describe implements prometheus.Collector. It does not say what there is: there
// may be nothing.
func (a *ages) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (a *ages) Collect(out chan<- prometheus.Metric) {
	c := a.last.Load()
	if c == nil {
		return
	}
	gauge := func(name, help string, value float64) {
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, value)
	}
	gauge("iot_rotation_secret_age_seconds", "Age of the oldest secret of a device that takes part in rotation.", c.oldest.Seconds())
	gauge("iot_rotation_queue", "Devices that wait for an attempt.", float64(c.queued))
	gauge("iot_rotation_stuck", "Devices for which something failed so often that a person ought to look at it.", float64(c.stuck))
	devices := prometheus.NewDesc("iot_rotation_secret_age_devices", "Devices that take part in rotation, by the age of their secret.", []string{"age"}, nil)
	by := func(age string, n int) {
		out <- prometheus.MustNewConstMetric(devices, prometheus.GaugeValue, float64(n), age)
	}
	for i, n := range c.younger {
		by("<"+strconv.Itoa(ageLimits[i])+"d", n)
	}
	by(">="+strconv.Itoa(ageLimits[len(ageLimits)-1])+"d", c.older)
}

var _ prometheus.Collector = (*ages)(nil)
