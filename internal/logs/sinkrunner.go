package logs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"signalbox/internal/fleet"
)

const (
	sinkMaxLines     = 1000
	sinkMaxBytes     = 4 << 20
	sinkMinBytes     = 16 << 10 // a request is not made smaller than this, unless by halving
	sinkLineOverhead = 256      // what a sink may add to a line
	sinkGrowAfter    = 64       // requests that must succeed before they get larger again
	sinkMinDelay     = time.Second
	sinkMaxDelay     = time.Minute
	sinkTick         = time.Second // between two looks at position and metrics
	sinkStoreTimeout = 5 * time.Second
)

// SinkOptions are the parts of a SinkRunner; all but the delays are needed.
type SinkOptions struct {
	Sink        Sink
	Journal     Journal
	Positions   Positions
	DeadLetters DeadLetters
	Metrics     *SinkMetrics
	Log         *slog.Logger

	MinDelay, MaxDelay time.Duration // between two attempts; 0: one second and one minute
}

// SinkRunner brings the journal's lines to one sink, each at least once and
// under an id that never changes. It reads the journal when the sink has taken
// what was read before, so that a sink that is down costs a place in the
// journal and nothing else.
type SinkRunner struct {
	SinkOptions
	name string

	// Of Run's goroutine.
	queue    []queued // what was read and is not settled, in order
	taken    uint64   // the last sequence that was read
	counting bool     // a sequence missing after taken is a loss
	limit    int      // bytes of one request
	streak   int      // requests that succeeded since limit changed
	lines    []SinkLine
	accepted uint64            // lines the sink has taken
	doubtful map[string]uint64 // lines that were refused alone, by id: what accepted was then
	delay    time.Duration     // before the next attempt; 0: none has failed
	troubled time.Time         // when the sink began to fail; zero: it works
	told     time.Time         // when that was last logged
	why      error             // what the round could not settle all lines for
	refused  uint64            // lines refused for good
	tellAt   uint64            // the next of them that is logged
	missed   []Lost            // what the sink does not get of what is not settled yet

	settled atomic.Uint64 // every line up to this sequence is settled
	oldest  atomic.Int64  // Unix nanoseconds of the oldest line in the queue; 0: none
	held    atomic.Uint64

	mu    sync.Mutex
	lost  losses // what the sink did not get of what is settled
	noted bool   // lost is stored
}

type queued struct {
	SinkLine
	settled bool
}

// OpenSink finds the place where the sink's last process stopped, or the
// journal's oldest record if that is of no use. Nothing may be appended to the
// journal between its opening and this call.
func OpenSink(ctx context.Context, o SinkOptions) (*SinkRunner, error) {
	r := &SinkRunner{SinkOptions: o, name: o.Sink.Name(), limit: sinkMaxBytes, doubtful: map[string]uint64{}}
	if r.MinDelay == 0 {
		r.MinDelay, r.MaxDelay = sinkMinDelay, sinkMaxDelay
	}
	r.Log = o.Log.With("sink", r.name)
	p, err := o.Positions.Position(ctx, r.name)
	if err != nil {
		return nil, err
	}
	oldest, newest, err := o.Journal.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Epoch != o.Journal.Epoch():
		if p.Epoch != "" {
			r.Log.Warn("the journal was made anew: the sink starts at its beginning")
		}
		r.taken = oldest - 1
	case p.Seq > newest:
		// The end of the journal was lost with the kernel or the power. Its
		// numbers must not be given again.
		if err := o.Journal.Advance(ctx, p.Seq); err != nil {
			return nil, err
		}
		fallthrough
	default:
		r.taken, r.counting = p.Seq, true
	}
	r.lost, r.noted = p.Lost, true
	r.settled.Store(r.taken)
	r.held.Store(r.taken)
	o.Metrics.lines.WithLabelValues(r.name)
	o.Metrics.lost.WithLabelValues(r.name)
	for _, k := range []fleet.Kind{fleet.Invalid, fleet.TooLarge} {
		o.Metrics.refused.WithLabelValues(r.name, k.String())
	}
	return r, nil
}

// Held returns the sequence up to which the sink needs nothing more of the
// journal, whatever happens to this process.
func (r *SinkRunner) Held() uint64 { return r.held.Load() }

// Lost returns what the sink did not get: what it refused for good, and what the
// journal gave up before.
func (r *SinkRunner) Lost() []Lost {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lost)
}

// found is called when a line that was refused has been taken after all.
func (r *SinkRunner) found(l *SinkLine) {
	epoch, _, _ := strings.Cut(l.ID, "-")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost.found(epoch, l)
	r.noted = false
}

// Settled returns the sequence up to which every line is in the sink or among
// the dead letters.
func (r *SinkRunner) Settled() uint64 { return r.settled.Load() }

var (
	errTrouble = errors.New("the sink is in trouble")
	errEnough  = errors.New("enough was read")
)

// Run works until ctx ends, and returns nil. What is under way then is given
// up, and written again by the next process.
func (r *SinkRunner) Run(ctx context.Context) error {
	var keeper sync.WaitGroup
	keeper.Go(func() { r.keep(ctx) })
	for ctx.Err() == nil {
		if r.delay > 0 {
			r.tryAgain(ctx)
			continue
		}
		err := r.Journal.Consume(ctx, r.taken, nil, func(page []Record) error {
			r.take(ctx, page)
			return r.round(ctx)
		})
		if err != nil && !errors.Is(err, errTrouble) && ctx.Err() == nil {
			r.Log.Warn("the sink cannot read the journal", "err", err)
			wait(ctx, r.MinDelay)
		}
	}
	keeper.Wait()
	r.store(context.WithoutCancel(ctx))
	return nil
}

// take puts the lines of the page in the queue.
func (r *SinkRunner) take(ctx context.Context, page []Record) {
	for _, rec := range page {
		if rec.Seq <= r.taken {
			continue
		}
		if lost := rec.Seq - r.taken - 1; lost > 0 && r.counting {
			r.Metrics.lost.WithLabelValues(r.name).Add(float64(lost))
			r.Log.ErrorContext(ctx, "the journal gave up records before the sink had them", "records", lost, "from_seq", r.taken+1)
			r.missed = append(r.missed, Lost{Epoch: r.Journal.Epoch(), From: r.taken, To: rec.Seq - 1, Reason: LostJournal})
		}
		r.taken, r.counting = rec.Seq, true
		if rec.ofCut() {
			if n := len(r.missed); n > 0 && r.missed[n-1].Reason == LostReset && r.missed[n-1].To == rec.Seq-1 {
				r.missed[n-1].To = rec.Seq
			} else {
				r.missed = append(r.missed, Lost{Epoch: r.Journal.Epoch(), From: rec.Seq - 1, To: rec.Seq, Reason: LostReset})
			}
			continue
		}
		lines, ok := sinkLines(r.lines[:0], r.Journal.Epoch(), rec)
		if !ok {
			r.Log.ErrorContext(ctx, "a record of the journal cannot be read as a batch", "seq", rec.Seq)
		}
		for _, l := range lines {
			r.queue = append(r.queue, queued{SinkLine: l})
		}
		r.lines = lines
	}
	r.note()
}

// note tells the other goroutines what the queue says.
func (r *SinkRunner) note() {
	at, oldest := r.taken, int64(0)
	if len(r.queue) > 0 {
		at = r.queue[0].Seq - 1
		if received := r.queue[0].Received; !received.IsZero() {
			oldest = received.UnixNano()
		}
	}
	if len(r.missed) > 0 { // before settled says that all is there
		r.mu.Lock()
		r.missed = slices.DeleteFunc(r.missed, func(l Lost) bool {
			if l.To <= at {
				r.lost.add(l)
				r.noted = false
			}
			return l.To <= at
		})
		r.mu.Unlock()
	}
	r.settled.Store(at)
	r.oldest.Store(oldest)
}

// round offers what is in the queue to the sink and removes what that settles.
// It returns nil when the queue is empty.
func (r *SinkRunner) round(ctx context.Context) error {
	before := r.accepted
	r.why = nil
	var fresh, doubtful []int
	for i := range r.queue {
		if _, ok := r.doubtful[r.queue[i].ID]; ok {
			doubtful = append(doubtful, i)
		} else {
			fresh = append(fresh, i)
		}
	}
	err := r.offerAll(ctx, fresh)
	if err == nil && len(doubtful) > 0 {
		if !slices.ContainsFunc(doubtful, r.ripe) {
			// The sink has taken nothing since: these lines may be good and the
			// sink at fault. One of them shows whether that has changed.
			err = r.offer(ctx, doubtful[:1])
			doubtful = doubtful[1:]
		}
		if err == nil {
			err = r.offerAll(ctx, slices.DeleteFunc(doubtful, func(i int) bool { return !r.ripe(i) }))
		}
	}
	clear(r.lines[:cap(r.lines)]) // holds on to records otherwise
	r.queue = slices.DeleteFunc(r.queue, func(q queued) bool {
		if q.settled {
			delete(r.doubtful, q.ID)
		}
		return q.settled
	})
	if len(r.queue) == 0 && cap(r.queue) > 4*sinkMaxLines {
		r.queue = nil
	}
	r.note()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(r.queue) > 0 {
		if err != nil {
			r.why = err
		}
		r.trouble(r.accepted > before)
		return errTrouble
	}
	r.well()
	return nil
}

// offerAll offers the lines with these indices, in requests of the allowed
// size. It stops at an error that is about the sink.
func (r *SinkRunner) offerAll(ctx context.Context, at []int) error {
	for len(at) > 0 {
		n, bytes := 0, 0
		for n < len(at) && n < sinkMaxLines {
			bytes += r.queue[at[n]].size()
			if n > 0 && bytes > r.limit {
				break
			}
			n++
		}
		if err := r.offer(ctx, at[:n]); err != nil {
			return err
		}
		at = at[n:]
	}
	return nil
}

// offer offers the lines with these indices in one request, and in ever
// smaller ones if it is the request that the sink does not take. Its error is
// about the sink. A line that may be taken later is left unsettled.
func (r *SinkRunner) offer(ctx context.Context, at []int) error {
	lines, bytes := r.lines[:0], 0
	for _, i := range at {
		lines = append(lines, r.queue[i].SinkLine)
		bytes += r.queue[i].size()
	}
	r.lines = lines
	refused, err := r.Sink.Write(ctx, lines)
	no := map[int]bool{} // not taken, by index in lines
	for _, f := range refused {
		if f.Index < 0 || f.Index >= len(at) || no[f.Index] {
			continue
		}
		no[f.Index] = true
		if !final(f.Kind) {
			r.why = fleet.E(f.Kind, nil, "a line was refused for now: %s", f.Reason)
		} else if e := r.refuse(ctx, at[f.Index], f.Kind, f.Reason); e != nil {
			r.why = e
		}
	}
	switch kind := fleet.KindOf(err); {
	case err == nil:
		taken := 0
		for n, i := range at {
			if !no[n] {
				r.queue[i].settled = true
				taken++
			}
		}
		r.accepted += uint64(taken)
		r.Metrics.lines.WithLabelValues(r.name).Add(float64(taken))
		if r.streak++; r.streak >= sinkGrowAfter {
			r.streak, r.limit = 0, min(2*r.limit, sinkMaxBytes)
		}
		if taken == 0 {
			return r.why // nil if all were refused for good
		}
		return nil // round sees what is left
	case ctx.Err() != nil:
		return ctx.Err()
	case final(kind):
		if kind == fleet.TooLarge {
			r.shrink(bytes)
		}
		at = slices.DeleteFunc(slices.Clone(at), func(i int) bool { return r.queue[i].settled })
		switch half := len(at) / 2; {
		case len(at) > 1:
			if err := r.offer(ctx, at[:half]); err != nil {
				return err
			}
			return r.offer(ctx, at[half:])
		case len(at) == 1:
			return r.doubt(ctx, at[0], kind, err)
		}
		return nil
	default:
		if errors.Is(err, context.DeadlineExceeded) {
			r.shrink(bytes)
		}
		return err
	}
}

// shrink makes requests smaller than one of that many bytes was.
func (r *SinkRunner) shrink(bytes int) {
	r.streak, r.limit = 0, max(sinkMinBytes, min(r.limit, bytes/2))
}

// ripe reports whether the sink has taken another line since the doubtful line
// with this index was refused.
func (r *SinkRunner) ripe(i int) bool { return r.accepted > r.doubtful[r.queue[i].ID] }

// doubt is called for a line that the sink did not take although it was sent
// alone. The line is refused for good when that happens again after the sink
// has taken another one. Otherwise a sink that refuses everything, because of
// a proxy before it say, would turn the whole log into dead letters.
func (r *SinkRunner) doubt(ctx context.Context, i int, kind fleet.Kind, err error) error {
	id := r.queue[i].ID
	_, again := r.doubtful[id]
	if again && r.ripe(i) {
		return r.refuse(ctx, i, kind, err.Error())
	}
	if !again {
		r.doubtful[id] = r.accepted
	}
	r.why = err
	return nil
}

// refuse makes a dead letter of the line and settles it with that.
func (r *SinkRunner) refuse(ctx context.Context, i int, kind fleet.Kind, reason string) error {
	q := &r.queue[i]
	store, cancel := context.WithTimeout(ctx, sinkStoreTimeout)
	defer cancel()
	if err := r.DeadLetters.Refuse(store, r.name, q.SinkLine, reason); err != nil {
		return err
	}
	q.settled = true
	if q.Device != "" { // what is of no device nobody asks for
		l := Lost{Device: q.Device, Epoch: r.Journal.Epoch(), From: q.Seq - 1, To: q.Seq, Lines: 1, Reason: LostRejected}
		if !q.Received.IsZero() {
			l.Least, l.Most = q.Received, q.Received
		}
		r.missed = append(r.missed, l)
	}
	r.Metrics.refused.WithLabelValues(r.name, kind.String()).Inc()
	if r.refused++; r.refused >= r.tellAt { // fewer and fewer
		r.tellAt = r.refused + max(1, r.refused/10)
		r.Log.WarnContext(ctx, "the sink refused a line for good", "line", q.ID, "device", q.Device, "kind", kind.String(), "reason", reason, "count", r.refused)
	}
	return nil
}

// trouble sets the time until the next attempt.
func (r *SinkRunner) trouble(progress bool) {
	if r.delay == 0 || progress {
		r.delay = r.MinDelay
	} else {
		r.delay = min(2*r.delay, r.MaxDelay)
	}
	now := time.Now()
	if r.troubled.IsZero() {
		r.troubled = now
	}
	if now.Sub(r.told) >= time.Minute {
		r.told = now
		r.Log.Warn("lines wait for the sink", "err", r.why, "lines", len(r.queue), "retry_seconds", r.delay.Seconds(), "for_seconds", now.Sub(r.troubled).Seconds())
	}
	r.Metrics.delay.Set(r.delay.Seconds())
}

// well ends the trouble.
func (r *SinkRunner) well() {
	if r.troubled.IsZero() {
		return
	}
	r.Log.Info("the sink takes lines again", "after_seconds", time.Since(r.troubled).Seconds())
	r.delay, r.troubled, r.told = 0, time.Time{}, time.Time{}
	r.Metrics.delay.Set(0)
}

// tryAgain waits and offers the queue again. While only doubtful lines are left
// in it, the next one to come decides about them and ends the wait.
func (r *SinkRunner) tryAgain(ctx context.Context) {
	// Never longer than the delay, and not at one moment with others.
	pause, cancel := context.WithTimeout(ctx, time.Duration(float64(r.delay)*(0.75+rand.Float64()/4)))
	defer cancel()
	var err error
	if len(r.queue) < sinkMaxLines && len(r.doubtful) == len(r.queue) {
		err = r.Journal.Consume(pause, r.taken, nil, func(page []Record) error {
			r.take(ctx, page)
			return errEnough
		})
	}
	if !errors.Is(err, errEnough) {
		<-pause.Done()
	}
	if ctx.Err() == nil {
		_ = r.round(ctx) // what it says is in r.delay
	}
}

func wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// keep stores the position and sets the gauges, now and then.
func (r *SinkRunner) keep(ctx context.Context) {
	tick := time.NewTicker(sinkTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.store(ctx)
			r.measure(ctx)
		}
	}
}

func (r *SinkRunner) store(ctx context.Context) {
	r.mu.Lock()
	at := r.settled.Load() // what is lost up to here is in lost
	p := Progress{r.Journal.Epoch(), at, slices.Clone(r.lost)}
	same := r.noted && at == r.held.Load()
	r.noted = true
	r.mu.Unlock()
	if same {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sinkStoreTimeout)
	defer cancel()
	if err := r.Positions.SetPosition(ctx, r.name, p); err != nil {
		r.mu.Lock()
		r.noted = false
		r.mu.Unlock()
		r.Log.Warn("the sink's position was not stored", "err", err)
		return
	}
	r.held.Store(at)
}

func (r *SinkRunner) measure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sinkStoreTimeout)
	defer cancel()
	if _, newest, err := r.Journal.Bounds(ctx); err == nil {
		r.Metrics.depth.Set(float64(newest - min(newest, r.settled.Load())))
	}
	lag := 0.0
	if oldest := r.oldest.Load(); oldest != 0 {
		lag = max(0, time.Since(time.Unix(0, oldest)).Seconds())
	}
	r.Metrics.lag.WithLabelValues(r.name).Set(lag)
}
