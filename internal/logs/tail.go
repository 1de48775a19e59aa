package logs

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"sync"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/sse"
)

// Reader gives one stream the lines of the devices it follows: every line
// once, each device's in order, and what is missing is said in the stream.
//
// A follow starts from where the stream's last connection ended, or from now.
// While it lags, the reader's one replay goroutine reads it from the journal;
// when the journal has no more, the follow joins the hub's live delivery under
// the hub's lock, so that there is no moment between the two. When the stream's
// queue is full, all its live follows lag again, from where they are.
type Reader struct {
	hub    *Hub
	out    *sse.Outbox
	resume *Position // where the last connection ended; nil: a new stream
	known  bool      // whether missing began complete
	opened time.Time
	again  chan struct{} // has room for one: a follow was added
	ctx    context.Context
	cancel context.CancelFunc
	replay sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	follows map[string]*follow  // by device key
	resumed map[string]struct{} // the devices that took their place from resume
	missing map[string]uint64   // the places of devices that the last connection followed and this one does not yet
	latest  time.Time           // when the last follow was added
	base    uint64              // every live follow was offered everything up to here
	apart   bool                // a live follow may be further than base
	lagging int                 // follows that are not live
	running bool                // the replay goroutine exists
	round   uint64              // how far its present reading of the journal has come
	more    bool                // a follow began to lag after that reading began
	sent    uint64              // the last id that was queued, if it was a plain cursor
	split   splitter

	// The rate of the follows that are bounded: a token bucket that holds the
	// lines of one second.
	rate   float64
	tokens float64
	filled time.Time
}

// follow is one device of one reader. Its fields change under Hub.mu and
// Reader.mu both, except after and reading, which need Reader.mu alone.
type follow struct {
	reader  *Reader
	topic   *topic
	at      int // index in topic.follows
	live    bool
	reading bool    // part of the reader's present round
	after   uint64  // everything of the device up to here was offered
	reset   *Cursor // the journal is not the one this cursor speaks of; to be told

	filter  *matcher   // nil: every line
	skip    LineCursor // the lines up to this one are known already
	bounded bool       // lines over the reader's rate are told as a gap
	muted   bool       // it lags because of that
}

// Want says which lines of a device a reader wants.
type Want struct {
	// After is the place to go on from, instead of now or of where the last
	// connection ended. It has no effect on a device that the last connection is
	// known to have followed. The zero LineCursor is none.
	After  LineCursor
	Filter Filter
	// Bounded makes the device share the reader's rate with all others that are.
	Bounded bool
}

// errRound ends one reading of the journal so that the next includes a follow
// that began to lag in the meantime.
var errRound = errors.New("another follow lags")

// NewReader returns a Reader that queues events in out. With resume, the first
// follow of each device goes on from there. before names the devices that the
// last connection followed, as far as that is known: until they are followed
// again, or have not been for a while, the ids on the stream keep their places.
func (h *Hub) NewReader(out *sse.Outbox, resume *Position, before []string) *Reader {
	r := &Reader{hub: h, out: out, resume: resume, follows: map[string]*follow{}, known: before != nil, opened: time.Now(), sent: unsent}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if resume != nil {
		r.again = make(chan struct{}, 1)
		if resume.Epoch == h.journal.Epoch() {
			if before == nil { // at least what the id itself names
				r.missing = maps.Clone(resume.Apart)
			} else if len(before) > 0 {
				r.missing = map[string]uint64{}
			}
			for _, device := range before {
				r.missing[device] = resume.Of(device)
			}
		}
	}
	return r
}

// unsent is the value of Reader.sent while no plain id was queued last.
const unsent = ^uint64(0)

// How long a resuming reader waits for the devices to be followed again before
// it begins to replay. The id of the first replayed event speaks for all
// devices, so those that come later must be known by then.
const (
	gatherPause = 200 * time.Millisecond // since the last one
	gatherMost  = 2 * time.Second        // in all
	missingMost = time.Minute            // then it is no longer expected
)

// gather waits for the follows that the last connection had.
func (r *Reader) gather() {
	for {
		r.mu.Lock()
		complete := r.known && len(r.missing) == 0
		wait := min(time.Until(r.latest.Add(gatherPause)), time.Until(r.opened.Add(gatherMost)))
		r.mu.Unlock()
		if complete || wait <= 0 {
			return
		}
		select {
		case <-r.again:
		case <-time.After(wait):
		case <-r.ctx.Done():
			return
		}
	}
}

// Follow adds a device. When it returns nil, every wanted line that is stored
// from then on will be delivered. Following twice is following once. Errors are
// fleet.Invalid for a filter that cannot be, and fleet.Unavailable.
func (r *Reader) Follow(ctx context.Context, device fleet.DeviceRef, want Want) error {
	h := r.hub
	var filter *matcher
	if want.Filter != (Filter{}) {
		var err error
		if filter, err = want.Filter.compile(); err != nil {
			return err
		}
	}
	t, err := h.open(ctx, device)
	if err != nil {
		return err
	}
	var end uint64 // of the journal
	if r.resume != nil || want.After != (LineCursor{}) {
		if _, end, err = h.journal.Bounds(ctx); err != nil {
			h.release(t)
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.follows[device.Key]; twice || r.closed {
		h.drop(t)
		return nil
	}
	f := &follow{reader: r, topic: t, at: len(t.follows), live: true, filter: filter, bounded: want.Bounded && r.rate > 0}
	f.after = max(h.seen, t.start)
	t.follows = append(t.follows, f)
	r.follows[device.Key] = f
	r.settle()
	_, before := r.missing[device.Key]
	if want.After != (LineCursor{}) && !(r.known && before) {
		delete(r.missing, device.Key)
		p := want.After
		if p.Line != WholeBatch && p.Seq > 0 {
			f.skip = p
			p.Seq-- // its batch has to be read again
		}
		f.goBackTo(Position{Cursor: p.Cursor}, end)
		return nil
	}
	if r.resume != nil {
		if _, used := r.resumed[device.Key]; !used {
			if r.resumed == nil {
				r.resumed = map[string]struct{}{}
			}
			r.resumed[device.Key] = struct{}{}
			delete(r.missing, device.Key)
			r.latest = time.Now()
			select {
			case r.again <- struct{}{}:
			default:
			}
			f.goBackTo(*r.resume, end)
			return nil
		}
	}
	r.mark()
	return nil
}

// settle finds base anew after a follow became live. Both locks are held, so
// every live follow has had what the hub has seen.
func (r *Reader) settle() {
	r.base, r.apart = r.hub.seen, false
	for _, f := range r.follows {
		r.apart = r.apart || f.live && f.after > r.base
	}
}

// goBackTo makes a new follow lag from a place. end is that of the journal.
func (f *follow) goBackTo(p Position, end uint64) {
	newest := max(f.after, end)
	f.after = p.Of(f.topic.key)
	if p.Epoch != f.reader.hub.journal.Epoch() {
		f.reset = &Cursor{p.Epoch, f.after}
		f.after = 0 // every line of this journal is new to the reader
	} else if f.after > newest {
		// The journal lost its end, which only a power failure can do to it.
		f.reset = &Cursor{p.Epoch, f.after}
		f.after = newest
	}
	f.lag()
}

// Unfollow ends the following of a device and reports whether there was one.
func (r *Reader) Unfollow(device string) bool {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.follows[device]
	if f == nil {
		return false
	}
	r.remove(f)
	return true
}

// Close ends all following. It returns when nothing more will be offered.
func (r *Reader) Close() {
	r.hub.mu.Lock()
	r.mu.Lock()
	r.closed = true
	for _, f := range r.follows {
		r.remove(f)
	}
	r.mu.Unlock()
	r.hub.mu.Unlock()
	r.cancel()
	r.replay.Wait()
}

func (r *Reader) remove(f *follow) {
	t := f.topic
	last := len(t.follows) - 1
	t.follows[f.at] = t.follows[last]
	t.follows[f.at].at = f.at
	t.follows[last] = nil
	t.follows = t.follows[:last]
	delete(r.follows, t.key)
	if !f.live {
		r.caughtUp(f)
	}
	r.hub.drop(t)
}

// Advance tells the stream how far it has come although nothing was to be
// said, so that a quiet device's reader does not hold on to a place that the
// journal gives up.
func (r *Reader) Advance() {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.lagging > 0 || len(r.follows) == 0 {
		return
	}
	if time.Since(r.opened) > missingMost {
		r.missing = nil
	}
	r.settle()
	r.mark()
}

// offer queues a live record. Hub.mu is held.
func (r *Reader) offer(f *follow, rec Record, shared *sse.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.Seq <= f.after {
		return
	}
	if f.bounded && !r.take(rec.Body.Lines()) {
		f.after = max(f.after, r.base)
		f.muted = true
		f.lag()
		return
	}
	if !r.queue(f, rec, shared) {
		r.fallBehind()
	}
}

// queue offers one record of f, and moves f behind it if that succeeds. A
// shared frame is used where its id, the record's own cursor, is right.
func (r *Reader) queue(f *follow, rec Record, shared *sse.Frame) bool {
	if f.filter != nil || f.skip.Seq == rec.Seq {
		if rec.Body = f.pick(rec); rec.Body == nil {
			f.pass(rec.Seq)
			return true
		}
		shared = nil
	}
	after, base, round := f.after, r.base, r.round
	f.pass(rec.Seq)
	frame, at := shared, Position{Cursor: Cursor{Seq: rec.Seq}}
	if shared == nil || r.lagging > 0 || r.apart || len(r.missing) > 0 {
		at = r.position()
		if frame == nil || at.Apart != nil || at.Seq != rec.Seq {
			frame = f.topic.frame(rec, at)
		}
	}
	if !r.out.Offer(frame) {
		f.after, r.base, r.round = after, base, round
		return false
	}
	r.noteSent(at)
	r.apart = r.apart && at.Apart != nil
	return true
}

// pass moves f behind a record. r.mu is held.
func (f *follow) pass(seq uint64) {
	f.after = seq
	if f.live {
		f.reader.base = seq
	} else if f.reading {
		f.reader.round = seq
	}
}

// pick returns the lines of a record that f wants. r.mu is held.
func (f *follow) pick(rec Record) Body {
	return f.reader.split.pick(rec.Body, func(l *Line) bool {
		if rec.Seq == f.skip.Seq && l.Cursor.Line <= f.skip.Line {
			return false
		}
		return f.filter == nil || f.filter.match(l.Level, l.Tag, l.Message)
	})
}

// Limit sets how many lines a second the follows that are bounded may have
// together; 0 does not limit. It is for follows that are added later.
func (r *Reader) Limit(lines int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate, r.tokens, r.filled = float64(lines), float64(lines), time.Now()
}

// take asks for n lines of the rate. r.mu is held.
func (r *Reader) take(n int) bool {
	now := time.Now()
	r.tokens = min(r.rate, r.tokens+now.Sub(r.filled).Seconds()*r.rate)
	r.filled = now
	if r.tokens <= 0 { // one batch may be over it
		return false
	}
	r.tokens -= float64(n)
	return true
}

// unmute tells, some time after the rate was exceeded, what the bounded follows
// miss because of that, and moves them to where the journal is now.
func (r *Reader) unmute() {
	const pause = time.Second / 2
	r.mu.Lock()
	muted := false
	for _, f := range r.follows {
		muted = muted || f.muted
	}
	r.mu.Unlock()
	if !muted {
		return
	}
	select {
	case <-time.After(pause):
	case <-r.ctx.Done():
		return
	}
	for told := false; !told; {
		if r.out.Room(r.ctx) != nil {
			return
		}
		r.hub.mu.Lock()
		r.mu.Lock()
		told = true
		for key, f := range r.follows {
			if !f.muted {
				continue
			}
			to := max(f.after, r.hub.seen)
			var count *int
			if lines, known := r.hub.ledger.Lines(key, f.after, to); known {
				count = &lines
			}
			epoch := r.hub.journal.Epoch()
			if told = r.tell(f, Cursor{epoch, f.after}, Cursor{epoch, to}, count, LostRate); !told {
				break
			}
			f.muted = false
		}
		r.mu.Unlock()
		r.hub.mu.Unlock()
	}
}

// miss sends one live follow back to its own last record. Hub.mu is held.
func (r *Reader) miss(f *follow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.live {
		f.lag()
	}
}

// interrupt sends a follow back to the journal, to begin reading it after this
// moment. Hub.mu is held.
func (r *Reader) interrupt(f *follow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case f.live:
		f.after = max(f.after, r.base)
		f.lag()
	case f.reading: // not to join by a reading that began before
		f.after, f.reading = f.place(), false
	}
}

// fallBehind sends all live follows back to the journal. Both locks are held.
func (r *Reader) fallBehind() {
	for _, f := range r.follows {
		if f.live {
			f.after = max(f.after, r.base)
			f.lag()
		}
	}
}

// lag hands a follow to the replay goroutine. Both locks are held.
func (f *follow) lag() {
	r := f.reader
	f.live = false
	f.topic.lag(1)
	if r.lagging++; r.lagging == 1 {
		r.hub.metrics.behind.Inc()
	}
	r.more = true
	if !r.running {
		r.running = true
		r.replay.Go(r.catchUp)
	}
}

// caughtUp undoes lag. Both locks are held.
func (r *Reader) caughtUp(f *follow) {
	f.live, f.reading = true, false
	f.topic.lag(-1)
	if r.lagging--; r.lagging == 0 {
		r.hub.metrics.behind.Dec()
	}
}

// place is how far f has come. r.mu is held.
func (f *follow) place() uint64 {
	switch {
	case f.live:
		return max(f.after, f.reader.base)
	case f.reading:
		return max(f.after, f.reader.round)
	}
	return f.after
}

// position is how far the reader has come. r.mu is held.
func (r *Reader) position() Position {
	p := Position{Cursor: Cursor{Epoch: r.hub.journal.Epoch()}}
	uniform, first := true, true
	compare := func(at uint64) {
		uniform = uniform && (first || at == p.Seq)
		p.Seq, first = max(p.Seq, at), false
	}
	for _, f := range r.follows {
		compare(f.place())
	}
	for _, at := range r.missing {
		compare(at)
	}
	if uniform {
		return p
	}
	if len(r.follows) > r.lagging { // some are live
		p.Seq = r.base
	}
	p.Apart = map[string]uint64{}
	for key, f := range r.follows {
		p.Apart[key] = f.place()
	}
	maps.Copy(p.Apart, r.missing)
	maps.DeleteFunc(p.Apart, func(_ string, at uint64) bool { return at == p.Seq })
	return p
}

// mark queues the position alone, if the reader does not have it yet.
func (r *Reader) mark() {
	at := r.position()
	if at.Apart == nil && at.Seq == r.sent {
		return
	}
	if r.out.OfferControl(sse.Mark(at.String())) {
		r.noteSent(at)
	}
}

func (r *Reader) noteSent(at Position) {
	if r.sent = at.Seq; at.Apart != nil {
		r.sent = unsent
	}
}

// catchUp is the replay goroutine. It ends when no follow lags.
func (r *Reader) catchUp() {
	const shortest, longest = 50 * time.Millisecond, 5 * time.Second
	wait := shortest
	if r.resume != nil {
		r.gather()
	}
	for {
		r.unmute()
		devices, from, ok := r.begin()
		if !ok {
			return
		}
		if len(devices) == 0 { // all are muted
			continue
		}
		upTo, err := r.hub.past.Replay(r.ctx, devices, from, r.page)
		switch {
		case err == nil:
			wait = shortest
			r.join(upTo)
		case errors.Is(err, errRound):
		case r.ctx.Err() != nil: // closed; begin will see it
		default:
			r.hub.log.Warn("reading the journal for a stream failed; trying again", "err", err, "wait", wait)
			select {
			case <-time.After(wait):
			case <-r.ctx.Done():
			}
			wait = min(2*wait, longest)
		}
	}
}

// begin starts a round over all lagging follows, or ends the goroutine.
func (r *Reader) begin() (devices []string, from uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lagging == 0 || r.closed {
		r.running = false
		return nil, 0, false
	}
	first := true
	for key, f := range r.follows {
		if f.live || f.muted {
			continue
		}
		if f.reading { // keep what the last round came to
			f.after = max(f.after, r.round)
		}
		devices = append(devices, key)
		if first || f.after < from {
			from, first = f.after, false
		}
	}
	for _, key := range devices {
		r.follows[key].reading = true
	}
	r.round, r.more = from, false
	return devices, from, true
}

// page queues what one page of the journal holds for the lagging follows.
func (r *Reader) page(p Page) error {
	if err := r.tellGaps(p); err != nil {
		return err
	}
	for _, rec := range p.Records {
		for queued := false; !queued; {
			if err := r.out.Room(r.ctx); err != nil {
				return err
			}
			r.mu.Lock()
			f := r.follows[rec.Device]
			if f == nil || f.live || !f.reading || rec.Seq <= f.after {
				queued = true
			} else if queued = r.queue(f, rec, nil); queued {
				r.hub.metrics.replayed.Add(float64(rec.Body.Lines()))
			}
			if queued {
				r.round = max(r.round, rec.Seq)
			}
			r.mu.Unlock()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.more {
		return errRound
	}
	return r.ctx.Err()
}

// join makes live what has read everything the journal had.
func (r *Reader) join(upTo uint64) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	var read []*follow
	for _, f := range r.follows {
		if f.reading {
			f.after, f.reading = max(f.after, r.round, upTo), false
			read = append(read, f)
		}
	}
	for _, f := range read {
		records, complete := f.topic.since(f.after)
		for _, rec := range records {
			if complete = complete && r.queue(f, rec, nil); !complete {
				break
			}
		}
		if complete {
			r.caughtUp(f)
		}
	}
	r.settle()
	if r.lagging == 0 {
		r.mark()
	}
}

// gap is the payload of a log-gap event: the device's lines after From, up to
// and including To, will not come.
type gap struct {
	EntityID string `json:"device_entity_id"`
	DeviceID int64  `json:"device_id"`
	From     string `json:"from"`
	To       string `json:"to"`
	Count    *int   `json:"count"` // lines; null if it is not known
	Reason   string `json:"reason"`
}

// tellGaps says what the page, and the one before it, cannot hold any more.
func (r *Reader) tellGaps(p Page) error {
	for {
		if err := r.out.Room(r.ctx); err != nil {
			return err
		}
		r.mu.Lock()
		told := true
		for key, f := range r.follows {
			if f.reading && told {
				told = r.tellReset(f, p.Oldest) && r.tellRetention(key, f, p) && r.tellLost(key, f, p.Lost)
			}
		}
		if told && len(p.Records) == 0 && p.Oldest > 0 {
			r.round = max(r.round, p.Oldest-1)
		}
		r.mu.Unlock()
		if told {
			return nil
		}
	}
}

func (r *Reader) tellReset(f *follow, oldest uint64) bool {
	if f.reset == nil {
		return true
	}
	if oldest > 0 { // what the new journal has given up already is part of it
		f.after = max(f.after, oldest-1)
	}
	to := Cursor{r.hub.journal.Epoch(), f.after}
	if !r.tell(f, *f.reset, to, nil, LostReset) {
		return false
	}
	f.reset = nil
	return true
}

// tellLost says what the history has not any more of what f is to read.
func (r *Reader) tellLost(device string, f *follow, lost []Lost) bool {
	for _, l := range lost {
		from := max(f.place(), l.From)
		if l.Device != "" && l.Device != device || l.To <= from {
			continue
		}
		var count *int
		if lines, known := r.hub.ledger.Lines(device, from, l.To); known {
			if lines == 0 {
				continue
			}
			count = &lines
		} else if from == l.From && l.Device != "" && l.Lines > 0 {
			count = &l.Lines
		}
		if !r.tell(f, Cursor{l.Epoch, from}, Cursor{l.Epoch, l.To}, count, l.Reason) {
			return false
		}
	}
	return true
}

func (r *Reader) tellRetention(device string, f *follow, p Page) bool {
	from := f.place()
	if p.Oldest <= from+1 {
		return true
	}
	got, to, upTo := 0, p.Oldest-1, p.Oldest-1
	first := true
	for _, rec := range p.Records {
		upTo = rec.Seq
		if rec.Device == device && rec.Seq > from {
			got += rec.Body.Lines()
			if first && rec.Seq-1 > from {
				to = min(to, rec.Seq-1)
			}
			first = false
		}
	}
	lines, known := r.hub.ledger.Lines(device, from, upTo)
	if known && lines <= got {
		return true
	}
	var count *int
	if known {
		missing := lines - got
		count = &missing
	}
	epoch := r.hub.journal.Epoch()
	return r.tell(f, Cursor{epoch, from}, Cursor{epoch, to}, count, LostRetention)
}

// tell queues a log-gap event and moves f behind the gap.
func (r *Reader) tell(f *follow, from, to Cursor, count *int, reason string) bool {
	d := f.topic.label.Load().device
	payload, err := json.Marshal(gap{d.EntityID, d.ID, from.String(), to.String(), count, reason})
	if err != nil {
		panic("logs: gap: " + err.Error() + " for device " + strconv.FormatInt(d.ID, 10)) // cannot be: only strings and numbers
	}
	after := f.after
	f.after = max(after, to.Seq)
	if !r.out.Offer(sse.Event("log-gap", r.position().String(), payload)) {
		f.after = after
		return false
	}
	r.sent = unsent // the next mark repeats the id, which does no harm
	r.hub.metrics.gaps.WithLabelValues(reason).Inc()
	if count != nil {
		r.hub.metrics.gapLines.Add(float64(*count))
	}
	return true
}

// payloadPrefix is what stands before a batch's own members in the event.
func payloadPrefix(d fleet.DeviceRef) []byte {
	entity, _ := json.Marshal(d.EntityID) // a string always marshals
	b := append([]byte(`{"device_entity_id":`), entity...)
	b = append(b, `,"device_id":`...)
	return append(strconv.AppendInt(b, d.ID, 10), ',')
}
