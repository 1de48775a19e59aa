// Package overview keeps the figures of the last hours that a page shows of the
// whole program, for those who have no Prometheus. It reads them from the same
// metrics. They are this process's own and begin with it.
package overview

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What is kept: a figure every Step, for Length. That is 2160 points of each of
// 16 figures, in 280 KB.
const (
	Step   = 10 * time.Second
	Length = 6 * time.Hour
	points = int64(Length / Step)
)

// Recorder records the figures. Safe for concurrent use.
type Recorder struct {
	from    prometheus.Gatherer
	log     *slog.Logger
	figures []figure

	mu     sync.Mutex
	rows   []row // a ring: the row of a slot is at its number modulo points
	first  int64 // the oldest slot that is or was recorded, -1 before the first
	newest int64
	before snapshot
	at     time.Time // of before
}

// row is the figures of one moment, which is slot times Step since 1970.
type row struct {
	slot   int64
	values []float64 // NaN: none
}

// New returns a Recorder that has recorded nothing.
func New(from prometheus.Gatherer, log *slog.Logger) *Recorder {
	return &Recorder{from: from, log: log, figures: figures(), rows: make([]row, points), first: -1}
}

// Run records every Step until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		r.record(time.Now())
		now := time.Now()
		next := time.NewTimer(now.Truncate(Step).Add(Step).Sub(now))
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
		}
	}
}

// record reads the figures of now.
func (r *Recorder) record(now time.Time) {
	families, err := r.from.Gather()
	if err != nil { // what could be read comes all the same
		r.log.Warn("some metrics cannot be read", "err", err)
	}
	current := make(snapshot, len(families))
	for _, f := range families {
		current[f.GetName()] = f
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	slot := now.Add(Step/2).UnixNano() / int64(Step) // the nearest: a timer is never exact
	switch {
	case r.first < 0:
		r.first = slot
	case slot == r.newest:
		return
	case slot < r.newest: // the clock was set back, and what is kept would be of the future
		clear(r.rows)
		r.first = slot
	}
	r.newest = slot
	values := make([]float64, len(r.figures))
	for i, f := range r.figures {
		values[i] = f.read(r.before, current, now.Sub(r.at))
	}
	r.rows[slot%points] = row{slot, values}
	r.before, r.at = current, now
}

// Answer is the figures of some time.
type Answer struct {
	Step   int      `json:"step"`  // seconds from point to point
	Start  int64    `json:"start"` // seconds since 1970, of the first point
	Series []Series `json:"series"`
}

// Series is one figure.
type Series struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Points []Point `json:"points"` // all series have as many
}

// Point is a figure at one moment; NaN is none.
type Point float64

// MarshalJSON writes a number with six digits, or null.
func (p Point) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(p)) || math.IsInf(float64(p), 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(p), 'g', 6, 64), nil
}

// Since returns the points that are later than a time in seconds since 1970.
// The first is the oldest that is kept if that is later.
func (r *Recorder) Since(since float64) Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	step := Step.Seconds()
	a := Answer{Step: int(step), Series: make([]Series, len(r.figures))}
	from, to := r.first, r.newest+1
	if r.first < 0 {
		from, to = 0, 0
	}
	from = max(from, to-points)
	if later := math.Floor(since/step) + 1; later > float64(from) {
		from = int64(min(later, float64(to)))
	}
	a.Start = from * int64(step)
	for i, f := range r.figures {
		list := make([]Point, 0, to-from)
		for slot := from; slot < to; slot++ {
			v := math.NaN() // the machine slept, or was too busy
			if row := &r.rows[slot%points]; row.slot == slot && row.values != nil {
				v = row.values[i]
			}
			list = append(list, Point(v))
		}
		a.Series[i] = Series{f.name, f.unit, list}
	}
	return a
}
