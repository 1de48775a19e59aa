package logs

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Sealer turns the journal into chunks. It gathers each device's lines in a
// block in memory, and stores the blocks that are full, old or too many,
// together with its own position in the journal, in one transaction: a crash at
// any moment neither loses a line nor stores one twice.
//
// What it has read and not stored yet can be read from it, so that a line is
// found as soon as the journal has it.
type Sealer struct {
	journal Journal
	chunks  Chunks
	opts    SealerOptions
	metrics sealerMetrics
	log     *slog.Logger

	mu       sync.Mutex
	builders map[string]*builder // growing, by device key
	full     []*builder          // to be stored, each device's in order
	sealing  []*builder          // being stored; before those in full
	bytes    int                 // size of all
	consumed uint64              // everything up to here was read
	position uint64              // everything up to here is stored
	advanced chan struct{}       // closed when consumed or position grows, and then replaced

	hurry chan struct{} // has room for one: somebody waits for what is new

	// Only the goroutine of Run looks at these.
	beyond map[string]uint64 // what of a device is stored although position is before it
	lost   []Lost            // to be stored with the next chunks
	cut    Cut               // the last one that was met
	split  splitter
}

// SealerOptions bound what a Sealer keeps in memory. Zero values are replaced
// by defaults.
type SealerOptions struct {
	MaxLines int           // of one chunk; a batch is never divided
	MaxBytes int           // of one chunk's messages
	MaxAge   time.Duration // of a line that is not stored
	Memory   int           // bytes, in all; then the oldest blocks are stored
}

const (
	sealLines  = 1024
	sealBytes  = 256 << 10
	sealAge    = 5 * time.Minute
	sealMemory = 64 << 20

	sealTick   = 250 * time.Millisecond
	sealChunks = 128 // in one transaction
)

type sealerMetrics struct {
	lines    prometheus.Counter
	chunks   prometheus.Counter
	bytes    prometheus.Counter
	failures prometheus.Counter
	damaged  prometheus.Counter
	lost     prometheus.Counter
	duration prometheus.Histogram
}

// NewSealer returns a Sealer from the journal to the store.
func NewSealer(j Journal, c Chunks, o SealerOptions, reg prometheus.Registerer, log *slog.Logger) *Sealer {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxLines, sealLines)
	def(&o.MaxBytes, sealBytes)
	def(&o.Memory, sealMemory)
	if o.MaxAge == 0 {
		o.MaxAge = sealAge
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	s := &Sealer{
		journal: j, chunks: c, opts: o, log: log, builders: map[string]*builder{}, advanced: make(chan struct{}), hurry: make(chan struct{}, 1),
		metrics: sealerMetrics{
			lines:    counter("iot_history_lines_sealed_total", "Log lines moved from the journal to the history."),
			chunks:   counter("iot_history_chunks_sealed_total", "Chunks of log lines written to the history."),
			bytes:    counter("iot_history_bytes_sealed_total", "Bytes of chunks written to the history."),
			failures: counter("iot_history_seal_failures_total", "Transactions that could not be stored and are tried again."),
			damaged:  counter("iot_history_batches_damaged_total", "Batches in the journal that cannot be read."),
			lost:     counter("iot_history_batches_lost_total", "Batches that the journal gave up before they were in the history."),
			duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "iot_history_seal_duration_seconds", Help: "Duration of one transaction of chunks.",
				Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}}),
		},
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	reg.MustRegister(s.metrics.duration)
	gauge("iot_history_unsealed_bytes", "Bytes of lines in memory that are not in the history yet.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.bytes)
	})
	gauge("iot_history_lag_seconds", "Age of the oldest line that is not in the history yet.", func() float64 {
		if t := s.Oldest(); !t.IsZero() {
			return time.Since(t).Seconds()
		}
		return 0
	})
	return s
}

// Held returns the sequence up to which the history has everything: the journal
// may give up no more than that.
func (s *Sealer) Held() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// Oldest returns when the oldest line was received that is not stored yet, or
// the zero time.
func (s *Sealer) Oldest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest int64
	for b := range s.all() {
		oldest = older(oldest, b.least)
	}
	if oldest == 0 {
		return time.Time{}
	}
	return time.UnixMicro(oldest)
}

// all goes over all blocks, each device's in order. s.mu is held.
func (s *Sealer) all() iter.Seq[*builder] {
	return func(yield func(*builder) bool) {
		for _, some := range [][]*builder{s.sealing, s.full} {
			for _, b := range some {
				if !yield(b) {
					return
				}
			}
		}
		for _, b := range s.builders {
			if !yield(b) {
				return
			}
		}
	}
}

func older(a, b int64) int64 {
	if a == 0 || b < a {
		return b
	}
	return a
}

// Run seals until ctx ends. What is in memory then is read from the journal
// again by the next Run.
func (s *Sealer) Run(ctx context.Context) error {
	const shortest, longest = 200 * time.Millisecond, 10 * time.Second
	wait := shortest
	for ctx.Err() == nil {
		before := s.Held()
		err := s.run(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case s.Held() > before:
			wait = shortest
		}
		s.log.Warn("the history cannot take log lines; trying again", "err", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, longest)
	}
	return nil
}

// Align makes the journal go on behind everything that is stored, if its end was
// lost. It has to come before the first record that is appended.
func (s *Sealer) Align(ctx context.Context) error {
	position, beyond, err := s.chunks.Sealed(ctx, s.journal.Epoch())
	if err != nil {
		return err
	}
	return s.align(ctx, position, beyond)
}

func (s *Sealer) align(ctx context.Context, position uint64, beyond map[string]uint64) error {
	for _, seq := range beyond {
		position = max(position, seq)
	}
	return s.journal.Advance(ctx, position)
}

// run seals until something fails.
func (s *Sealer) run(ctx context.Context) error {
	position, beyond, err := s.chunks.Sealed(ctx, s.journal.Epoch())
	if err != nil {
		return err
	}
	if err := s.align(ctx, position, beyond); err != nil {
		return err
	}
	s.beyond, s.lost, s.cut = beyond, nil, Cut{}
	s.mu.Lock()
	clear(s.builders)
	s.full, s.sealing, s.bytes = nil, nil, 0
	s.consumed, s.position = position, position
	s.advance()
	s.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan []Record)
	group.Go(func() error {
		defer cancel()
		return s.journal.Consume(ctx, position, s.hurry, func(page []Record) error {
			select {
			case pages <- page:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	group.Go(func() error {
		defer cancel()
		return s.gather(ctx, pages)
	})
	return group.Wait()
}

// gather puts records into blocks and stores blocks, one transaction at a time.
func (s *Sealer) gather(ctx context.Context, pages <-chan []Record) error {
	const shortest, longest = 100 * time.Millisecond, 10 * time.Second
	tick := time.NewTicker(sealTick)
	defer tick.Stop()
	stored := make(chan error, 1)
	var storing sync.WaitGroup
	defer storing.Wait()       // whether or not it succeeds, the next run finds out
	var busy bool              // a transaction is under way
	var retry <-chan time.Time // one failed
	wait := shortest
	var work sealWork
	begin := func() {
		busy = true
		storing.Go(func() { stored <- s.store(ctx, work) })
	}
	for {
		in := pages
		if s.size() >= s.opts.Memory && (busy || retry != nil) {
			in = nil // the journal keeps what does not fit
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case page := <-in:
			s.add(page)
			if !busy && retry == nil {
				if work = s.due(false); len(work.builders) > 0 {
					begin()
				}
			}
		case <-tick.C:
			if !busy && retry == nil {
				if work = s.due(true); len(work.builders) > 0 || len(work.lost) > 0 {
					begin()
				}
			}
		case <-retry:
			retry = nil
			begin()
		case err := <-stored:
			busy = false
			if err == nil {
				wait = shortest
				s.done(work)
				continue
			}
			s.metrics.failures.Inc()
			s.log.Warn("storing log lines in the history failed; trying again", "chunks", len(work.builders), "err", err, "wait", wait)
			retry = time.After(wait)
			wait = min(2*wait, longest)
		}
	}
}

func (s *Sealer) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// advance wakes those who wait for it. s.mu is held.
func (s *Sealer) advance() {
	close(s.advanced)
	s.advanced = make(chan struct{})
}

// add puts a page of records into the blocks of their devices.
func (s *Sealer) add(page []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range page {
		if rec.Seq > s.consumed+1 {
			s.lost = append(s.lost, Lost{Epoch: s.journal.Epoch(), From: s.consumed, To: rec.Seq - 1, Reason: LostJournal})
			s.metrics.lost.Add(float64(rec.Seq - 1 - s.consumed))
			s.log.Error("the journal gave up lines before they were in the history", "after", s.consumed, "before", rec.Seq)
		}
		s.consumed = rec.Seq
		if rec.ofCut() {
			s.addCut(rec.Seq)
			continue
		}
		if rec.Device == "" || rec.Seq <= s.beyond[rec.Device] {
			continue
		}
		b := s.builders[rec.Device]
		if b == nil {
			b = newBuilder(s.journal.Epoch(), rec.Device)
		}
		before := b.size()
		if !s.split.split(rec.Device, Cursor{s.journal.Epoch(), rec.Seq}, rec.Body, b.add) {
			s.metrics.damaged.Inc()
			s.log.Error("a batch in the journal cannot be read", "seq", rec.Seq, "device", rec.Device)
		}
		s.bytes += b.size() - before
		switch {
		case b.lines() >= s.opts.MaxLines || len(b.messages) >= s.opts.MaxBytes:
			delete(s.builders, rec.Device)
			s.full = append(s.full, b)
		case b.lines() > 0:
			s.builders[rec.Device] = b
		}
	}
	s.advance()
}

// addCut notes a sequence of a cut. s.mu is held.
func (s *Sealer) addCut(seq uint64) {
	if s.cut.To == 0 || s.cut.To != seq-1 {
		s.cut = Cut{From: seq - 1}
	}
	s.cut.To = seq
	if n := len(s.lost); n > 0 && s.lost[n-1].Reason == LostReset && s.lost[n-1].From == s.cut.From {
		s.lost[n-1].To = seq
		return
	}
	s.lost = append(s.lost, Lost{Epoch: s.journal.Epoch(), From: s.cut.From, To: seq, Reason: LostReset})
}

// sealWork is what one transaction stores.
type sealWork struct {
	builders []*builder
	lost     []Lost
	upTo     uint64
}

// due takes the blocks that are to be stored now. Unless it is time, only a
// good number of them is worth a transaction.
func (s *Sealer) due(now bool) (w sealWork) {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := s.bytes >= s.opts.Memory
	if !now && !over && len(s.full) < sealChunks/4 {
		return w
	}
	if len(s.full) < sealChunks && (now || over) {
		var old []*builder
		for _, b := range s.builders {
			if over || time.Since(b.since) >= s.opts.MaxAge {
				old = append(old, b)
			}
		}
		slices.SortFunc(old, func(a, b *builder) int { return a.since.Compare(b.since) })
		for _, b := range old[:min(len(old), sealChunks-len(s.full))] {
			delete(s.builders, b.device)
			s.full = append(s.full, b)
		}
	}
	n := min(len(s.full), sealChunks)
	if n == 0 && len(s.lost) == 0 {
		return w
	}
	w = sealWork{builders: s.full[:n:n], lost: s.lost, upTo: s.consumed}
	s.sealing, s.full, s.lost = w.builders, slices.Clone(s.full[n:]), nil
	for _, b := range s.full {
		w.upTo = min(w.upTo, b.first()-1)
	}
	for _, b := range s.builders {
		w.upTo = min(w.upTo, b.first()-1)
	}
	return w
}

// done forgets what is stored.
func (s *Sealer) done(w sealWork) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range w.builders {
		s.bytes -= b.size()
	}
	s.sealing = nil
	s.position = max(s.position, w.upTo)
	s.advance()
}

// store writes the blocks.
func (s *Sealer) store(ctx context.Context, w sealWork) error {
	start := time.Now()
	chunks, err := chunksOf(ctx, s.chunks, w.builders, s.opts.MaxLines, s.opts.MaxBytes)
	if err != nil {
		return err
	}
	if err := s.chunks.Seal(ctx, s.journal.Epoch(), w.upTo, chunks, w.lost); err != nil {
		return err
	}
	for i := range chunks {
		s.metrics.bytes.Add(float64(len(chunks[i].Data) + len(chunks[i].Filter)))
	}
	for _, b := range w.builders {
		s.metrics.lines.Add(float64(b.lines()))
	}
	s.metrics.chunks.Add(float64(len(chunks)))
	s.metrics.duration.Observe(time.Since(start).Seconds())
	return nil
}

// unsealed returns what was read of the devices, or of all if nil, and is not
// stored, and the sequence up to which everything was read. It waits a moment
// for that to reach newest.
func (s *Sealer) unsealed(ctx context.Context, devices []string, newest uint64) (views []*block, upTo uint64) {
	wait := time.NewTimer(sealWait)
	defer wait.Stop()
	for {
		s.mu.Lock()
		if s.consumed >= newest {
			break
		}
		advanced := s.advanced
		s.mu.Unlock()
		select {
		case s.hurry <- struct{}{}:
		default:
		}
		select {
		case <-advanced:
			continue
		case <-wait.C:
		case <-ctx.Done():
		}
		s.mu.Lock()
		break
	}
	defer s.mu.Unlock()
	view := func(b *builder) {
		v := b.block
		views = append(views, &v)
	}
	for _, some := range [][]*builder{s.sealing, s.full} {
		for _, b := range some {
			if devices == nil || slices.Contains(devices, b.device) {
				view(b)
			}
		}
	}
	if devices == nil {
		for _, b := range s.builders {
			view(b)
		}
	}
	for _, d := range devices {
		if b := s.builders[d]; b != nil {
			view(b)
		}
	}
	return views, s.consumed
}

// sealWait is how long a reader waits for the sealer to have read what the
// journal has. It mostly takes less than a millisecond.
const sealWait = 50 * time.Millisecond
