//go:build linux

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// load is what one trial puts on a server.
type load struct {
	devices int           // that send, in turn
	readers int           // streams; stream i follows device i mod devices
	silent  int           // further devices that are followed and send nothing
	rate    float64       // lines a second, over all devices
	warm    time.Duration // not measured
	window  time.Duration // measured
}

// result is what one trial showed.
type result struct {
	Server    string  `json:"server"`
	Rate      float64 `json:"rate"`
	Sent      int     `json:"sent"`
	Delivered int     `json:"delivered"`

	// What must not be. Lost lines are those that should have come and did not.
	Lost         int `json:"lost"`
	Duplicates   int `json:"duplicates"`
	Misrouted    int `json:"misrouted"`
	Disordered   int `json:"disordered"`
	Disconnected int `json:"disconnected"`
	Unanswered   int `json:"unanswered"` // published and not acknowledged
	// Late: so many lines could not be sent yet that the trial was cut short.
	Late bool `json:"late"`

	// Milliseconds from when a line was due to when its event was whole.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
	Lag float64 `json:"lag_p99_ms"` // how late this program itself was

	PerSecond  float64 `json:"deliveries_per_s"`
	CPU        float64 `json:"server_cpu_s"`
	CPUMillion float64 `json:"server_cpu_s_per_million"`
	ServerCPU  float64 `json:"server_cpu_pct"` // 100 is one processor
	BenchCPU   float64 `json:"bench_cpu_pct"`
	OtherCPU   float64 `json:"other_cpu_pct"` // of everything else on the machine
}

func (r *result) faults() int {
	return r.Lost + r.Duplicates + r.Misrouted + r.Disordered + r.Disconnected + r.Unanswered
}

// quietShare is the share of a processor that the rest of the machine may use
// without disturbing a trial.
const quietShare = 0.2

func (r *result) quiet() bool { return r.OtherCPU <= quietShare*100 }

const (
	settle   = 300 * time.Millisecond // between the last subscription and the first line
	patience = 3 * time.Second        // without any delivery before lines are given up
	drain    = 15 * time.Second       // for everything after the last line was due
)

// sharers is how many streams share the silent devices at a server whose
// streams can follow several.
const sharers = 20

// openLoad opens the streams of l.
func openLoad(ctx context.Context, s server, l load, run string) (*readers, error) {
	if err := s.prepare(ctx, l.devices+l.silent); err != nil {
		return nil, err
	}
	extra, share := l.silent, 1
	if s.shares() && l.silent > 0 {
		extra, share = sharers, max(1, l.silent/sharers)
	}
	// follows returns the devices of a stream.
	follows := func(i int) (first, count int) {
		if i < l.readers {
			return i % l.devices, 1
		}
		return l.devices + (i-l.readers)*share%l.silent, share
	}
	name := func(i int) string { return fmt.Sprintf("%s-%d", run, i) }
	return openReaders(ctx, s.streams(), l.readers+extra,
		func(i int) int { first, _ := follows(i); return first },
		func(i int) string { first, _ := follows(i); return s.request(name(i), first) },
		func(i int) error {
			first, count := follows(i)
			for d := range count {
				if err := s.follow(ctx, name(i), first+d); err != nil {
					return err
				}
			}
			return nil
		})
}

// try puts l on s, with streams and publishers of its own.
func try(ctx context.Context, s server, l load, run string) (*result, error) {
	rs, err := openLoad(ctx, s, l, run)
	if err != nil {
		return nil, err
	}
	addr, protocol := s.publishing(run)
	pub, err := dialPublishers(ctx, addr, protocol)
	if err != nil {
		rs.close()
		return nil, err
	}
	sleep(ctx, settle)
	before, err := readUsage(s.pid())
	if err != nil {
		rs.close()
		pub.close()
		return nil, err
	}

	sch := schedule{start: time.Now().Add(20 * time.Millisecond), rate: l.rate, count: int(l.rate * (l.warm + l.window).Seconds()), devices: l.devices}
	warmed := sch.start.Add(l.warm)
	rs.from.Store(sch.start.UnixNano())
	rs.measure.Store(warmed.UnixNano())
	measured := make(chan usage, 1)
	timer := time.AfterFunc(time.Until(warmed), func() {
		u, _ := readUsage(s.pid()) // an error comes again at the end
		measured <- u
	})
	var lag histogram
	offered := pub.pace(ctx, sch, &lag)
	if !timer.Stop() { // else it was cut short before it was warm
		before = <-measured
	}

	expected := 0
	for i := range l.readers {
		expected += sch.sent(offered, i%l.devices)
	}
	unanswered, pubErr := await(ctx, rs, pub, expected)
	after, err := readUsage(s.pid())
	rs.close()
	pub.close()
	if err = firstError(ctx.Err(), err, pubErr); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	}

	r := &result{Server: s.name(), Rate: l.rate, Sent: offered, Late: offered < sch.count, Unanswered: unanswered, Disconnected: int(rs.lost.Load())}
	for i, reader := range rs.list {
		if i < l.readers {
			r.Lost += sch.sent(offered, reader.device) - reader.got
		}
		r.Delivered += reader.got
		r.Duplicates += reader.duplicates
		r.Misrouted += reader.misrouted
		r.Disordered += reader.disordered
	}
	ms := func(ns int64) float64 { return float64(ns) / 1e6 }
	h := &rs.latency
	r.P50, r.P99, r.Max, r.Lag = ms(h.quantile(.5)), ms(h.quantile(.99)), ms(h.max), ms(lag.quantile(.99))
	if h.total > 0 {
		r.PerSecond = float64(h.total) / (float64(rs.last-warmed.UnixNano()) / 1e9)
	}
	wall := after.at.Sub(before.at).Seconds()
	r.CPU = after.server - before.server
	r.CPUMillion = r.CPU / max(float64(h.total), 1) * 1e6
	r.ServerCPU = r.CPU / wall * 100
	r.BenchCPU = (after.self - before.self) / wall * 100
	r.OtherCPU = max(0, (after.machine-before.machine)/wall*100-r.ServerCPU-r.BenchCPU)
	return r, nil
}

// await waits until everything sent was answered and delivered, or nothing
// moves any more.
func await(ctx context.Context, rs *readers, pub *publishers, expected int) (unanswered int, err error) {
	moved, last := time.Now(), int64(-1)
	for end := time.Now().Add(drain); ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		unsent, inFlight, err := pub.state()
		if err != nil {
			return 0, err
		}
		unanswered = unsent + inFlight
		delivered := rs.delivered.Load()
		if delivered != last {
			moved, last = time.Now(), delivered
		}
		if delivered >= int64(expected) && unanswered == 0 || time.Since(moved) > patience || time.Now().After(end) {
			break
		}
	}
	return unanswered, nil
}

func firstError(errs ...error) error {
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// search looks for the highest rate that a server stands: it doubles until a
// rate fails and then halves the gap until that is within ten percent. It only
// decides; somebody else makes the trials.
type search struct {
	next   float64 // to be tried
	limit  float64 // of the 99th percentile, ms
	passed float64
	failed float64 // 0: none yet
	best   *result // of passed

	misses, noise int // at next
}

// done reports whether the answer is known, or is below any sensible rate.
func (s *search) done() bool {
	return s.failed > 0 && s.failed <= s.passed*1.1 || s.next < 1
}

// learn takes the result of a trial at next. A rate has failed when it failed
// twice; up to three failures while the machine was busy do not count.
func (s *search) learn(r *result) {
	switch {
	case r.faults() == 0 && !r.Late && r.P99 < s.limit:
		s.passed, s.best = s.next, r
	case !r.quiet() && s.noise < 3:
		s.noise++
		return
	case s.misses == 0:
		s.misses++
		return
	default:
		s.failed = s.next
	}
	s.misses, s.noise = 0, 0
	switch {
	case s.failed == 0:
		s.next = s.passed * 2
	case s.passed == 0:
		s.next = s.failed / 2
	default:
		s.next = math.Round(math.Sqrt(s.passed * s.failed))
	}
}
