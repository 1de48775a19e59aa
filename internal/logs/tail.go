package logs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
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
//
// The id of every event says how far all follows have come (Position). So that
// it is short and quickly made for ten thousand of them, nearly all stand with
// others at one common place, and only the rest have a place of their own.
type Reader struct {
	hub    *Hub
	out    *sse.Outbox
	resume *Position // where the last connection ended; nil: a new stream
	known  bool      // whether missing began complete
	opened time.Time
	again  chan struct{} // has room for one: a follow was added
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // catchUp and unmute

	mu      sync.Mutex
	closed  bool
	follows map[string]*follow            // by device key
	stands  [standings]map[string]*follow // the same, by where they stand
	resumed map[string]struct{}           // the devices that took their place from resume
	missing map[string]uint64             // the places of devices that the last connection followed and this one does not yet
	latest  time.Time                     // when the last follow was added
	base    uint64                        // every live follow was offered everything up to here
	lagging int                           // follows that are not live
	running bool                          // the replay goroutine exists
	round   uint64                        // how far its present reading of the journal has come
	more    bool                          // a follow began to lag after that reading began
	sent    uint64                        // the last id that was queued, if it was a plain cursor
	split   splitter

	// The rate of the follows that are bounded: a token bucket that holds the
	// lines of one second. When it is empty all of them are muted for a while.
	rate    float64
	tokens  float64
	filled  time.Time
	muted   bool
	mutedAt uint64 // base at that time
	telling bool   // what was muted is being told
}

// standing says by what the place of a follow is known.
type standing uint8

const (
	alone    standing = iota // by its own after, which is beyond that of the others
	replayed                 // by Reader.round
	flowing                  // by Reader.base
	limited                  // likewise, or by Reader.mutedAt while that mutes it
	standings
)

// follow is one device of one reader. Its fields change under Hub.mu and
// Reader.mu both, except that after, reading, standing, doubt and owed need
// Reader.mu alone.
type follow struct {
	reader   *Reader
	topic    *topic
	index    int // in topic.follows
	live     bool
	reading  bool // part of the reader's present round
	standing standing
	after    uint64  // everything of the device up to here was offered
	reset    *Cursor // the journal is not the one this cursor speaks of; to be told
	doubt    uint64  // of the lines after after and up to here nobody knows whether the client had them; 0: none
	strange  bool    // nobody knows what the client had before after; to be told

	filter  *matcher   // nil: every line
	skip    LineCursor // the lines up to this one are known already
	bounded bool       // lines over the reader's rate are told as a gap
	owed    debt       // lines that were not sent; to be told
}

// debt is a gap that grows until it is told.
type debt struct {
	from, to uint64
	lines    int
}

func (d *debt) add(from, seq uint64, lines int) {
	if d.lines == 0 {
		d.from = from
	}
	d.to = seq
	d.lines += lines
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
	// Made says that the device was made just now and no line of it can have been
	// stored yet: wherever the last connection ended, this is its beginning.
	Made bool
}

// errRound ends one reading of the journal so that the next includes a follow
// that began to lag in the meantime.
var errRound = errors.New("another follow lags")

// NewReader returns a Reader that queues events in out. With resume, the first
// follow of each device goes on from there; the zero Position is an id that
// could not be read. before names the devices that the last connection
// followed, as far as that is known: until they are followed again, or have not
// been for a while, the ids on the stream keep their places.
func (h *Hub) NewReader(out *sse.Outbox, resume *Position, before []string) *Reader {
	r := &Reader{hub: h, out: out, resume: resume, follows: map[string]*follow{}, known: before != nil, opened: time.Now(), sent: unsent}
	for i := range r.stands {
		r.stands[i] = map[string]*follow{}
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if resume != nil {
		r.again = make(chan struct{}, 1)
		if resume.Epoch == h.journal.Epoch() && !resume.Vague {
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

// Follow adds devices, all at once: no event of the stream speaks for only some
// of them. When it returns nil, every wanted line that is stored from then on
// will be delivered; after an error none of them was added. Of a device that is
// followed already only the Filter and Bounded change. Errors are fleet.Invalid
// for a filter that cannot be, and fleet.Unavailable.
func (r *Reader) Follow(ctx context.Context, devices []fleet.DeviceRef, want Want) error {
	h := r.hub
	var filter *matcher // one for all: it is only used under r.mu
	if want.Filter != (Filter{}) {
		var err error
		if filter, err = want.Filter.compile(); err != nil {
			return err
		}
	}
	topics, err := h.open(ctx, devices)
	if err != nil {
		return err
	}
	_, end, err := h.journal.Bounds(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || r.closed {
		for _, t := range topics {
			h.drop(t)
		}
		return err
	}
	// What the journal held when all were watched is the past, also for the hub,
	// which may not have come across that yet.
	now := max(h.seen, end)
	if len(r.follows) == r.lagging {
		r.base = now
	}
	fromNow := false
	for _, t := range topics {
		if f := r.follows[t.key]; f != nil {
			h.drop(t)
			f.filter, f.bounded = filter, want.Bounded && r.rate > 0
			if f.standing == flowing || f.standing == limited && !r.muted {
				r.stand(f)
			}
			continue
		}
		f := &follow{reader: r, topic: t, index: len(t.follows), live: true, after: now, filter: filter, bounded: want.Bounded && r.rate > 0}
		t.follows = append(t.follows, f)
		r.follows[t.key] = f
		r.stand(f)
		f.begin(want, now)
		fromNow = fromNow || f.live
	}
	r.settle()
	if fromNow { // what goes on from somewhere else is not all followed yet, perhaps
		r.mark()
	}
	return nil
}

// begin finds the place of a new follow. Both locks are held.
func (f *follow) begin(want Want, now uint64) {
	r, key := f.reader, f.topic.key
	if want.Made {
		delete(r.missing, key)
		r.noteResumed(key)
		return
	}
	_, before := r.missing[key]
	if want.After != (LineCursor{}) && !(r.known && before) {
		delete(r.missing, key)
		p := want.After
		if p.Line != WholeBatch && p.Seq > 0 {
			f.skip = p
			p.Seq-- // its batch has to be read again
		}
		f.goBackTo(Position{Cursor: p.Cursor}, now)
		return
	}
	if _, used := r.resumed[key]; r.resume != nil && !used {
		r.noteResumed(key)
		delete(r.missing, key)
		r.latest = time.Now()
		select {
		case r.again <- struct{}{}:
		default:
		}
		f.goBackTo(*r.resume, now)
	}
}

// noteResumed notes that the device is not to take its place from resume again.
func (r *Reader) noteResumed(key string) {
	if r.resume == nil {
		return
	}
	if r.resumed == nil {
		r.resumed = map[string]struct{}{}
	}
	r.resumed[key] = struct{}{}
}

// settle moves base to what the hub has seen. Both locks are held, so every
// live follow has had that.
func (r *Reader) settle() { r.base = max(r.base, r.hub.seen) }

// stand finds where a follow stands now. r.mu is held.
func (r *Reader) stand(f *follow) {
	s := alone
	switch {
	case f.live && f.after <= r.base:
		if s = flowing; f.bounded && !r.muted {
			s = limited
		}
	case f.reading && f.after <= r.round && f.doubt == 0:
		s = replayed
	}
	r.put(f, s)
}

func (r *Reader) put(f *follow, s standing) {
	delete(r.stands[f.standing], f.topic.key)
	f.standing = s
	r.stands[s][f.topic.key] = f
}

// goBackTo makes a new follow lag from a place. now is the newest one.
func (f *follow) goBackTo(p Position, now uint64) {
	switch epoch := f.reader.hub.journal.Epoch(); {
	case p.Epoch == "":
		f.strange, f.after = true, now
	case p.Epoch != epoch:
		f.reset = &Cursor{p.Epoch, p.Of(f.topic.key)}
		f.after = 0 // every line of this journal is new to the reader
	default:
		f.after = p.Of(f.topic.key)
		switch {
		case p.Seq > now && p.Vague, f.after > now:
			// The journal lost its end, which only a power failure can do to it.
			f.reset = &Cursor{p.Epoch, f.after}
			f.after = now
		case p.Vague && f.after < p.Seq:
			f.doubt = p.Seq
		}
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
	r.work.Wait()
}

func (r *Reader) remove(f *follow) {
	t := f.topic
	last := len(t.follows) - 1
	t.follows[f.index] = t.follows[last]
	t.follows[f.index].index = f.index
	t.follows[last] = nil
	t.follows = t.follows[:last]
	delete(r.follows, t.key)
	if !f.live {
		r.caughtUp(f)
	}
	delete(r.stands[f.standing], t.key)
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
	r.base = max(r.base, rec.Seq-1) // the hub goes by the sequence
	if f.standing == alone {
		r.stand(f)
	}
	left, shared := f.cut(rec, shared)
	if left.Body == nil {
		f.pass(rec.Seq)
		return
	}
	if n := left.Body.Lines(); f.standing == limited && !r.take(n) {
		f.owed.add(r.mutedAt, rec.Seq, n)
		f.pass(rec.Seq)
		return
	}
	if !r.queue(f, left, shared) {
		r.fallBehind()
	}
}

// cut leaves of a record the lines that f wants, and of shared, its frame,
// nothing if that holds others too. Without such lines the Body is nil. r.mu is held.
func (f *follow) cut(rec Record, shared *sse.Frame) (part, *sse.Frame) {
	left := part{Record: rec}
	if f.filter == nil && f.skip.Seq != rec.Seq {
		return left, shared
	}
	left.Body, left.picked = f.reader.split.pick(rec.Body, func(l *Line) bool {
		if rec.Seq == f.skip.Seq && l.Cursor.Line <= f.skip.Line {
			return false
		}
		return f.filter == nil || f.filter.match(l.Level, l.Tag, l.Message, nil)
	})
	return left, nil
}

// part is a record of which some lines may be left out.
type part struct {
	Record
	picked []int // the indices in the batch of those it still has; nil: all
}

// queue offers one record of f, as cut left it, and moves f behind it if that
// succeeds. A shared frame is used where its id, the record's own cursor, is right.
func (r *Reader) queue(f *follow, rec part, shared *sse.Frame) bool {
	after, base, round := f.after, r.base, r.round
	f.pass(rec.Seq)
	frame, at := shared, Position{Cursor: Cursor{Seq: rec.Seq}}
	if shared == nil || !r.together() {
		at = r.position()
		if frame == nil || !at.plain() || at.Seq != rec.Seq {
			frame = f.topic.frame(rec, at)
		}
	}
	if !r.out.Offer(frame) {
		f.after, r.base, r.round = after, base, round
		return false
	}
	r.noteSent(at)
	for _, f := range r.stands[alone] {
		r.stand(f) // the others may have caught up with it
	}
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

// Limit sets how many lines a second the follows that are bounded may have
// together; 0 does not limit. It is for follows that are added later.
func (r *Reader) Limit(lines int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate, r.tokens, r.filled = float64(lines), float64(lines), time.Now()
}

// take asks for n lines of the rate. If there are none left, it mutes what is
// limited: all of it at once, which leaves all of it at one place. r.mu is held.
func (r *Reader) take(n int) bool {
	if r.muted {
		return false
	}
	now := time.Now()
	r.tokens = min(r.rate, r.tokens+now.Sub(r.filled).Seconds()*r.rate)
	r.filled = now
	if r.tokens <= 0 { // one batch may be over it
		r.muted, r.mutedAt = true, r.base
		r.work.Go(r.unmute)
		return false
	}
	r.tokens -= float64(n)
	return true
}

// unmute tells, some time after the rate was exceeded, what the limited follows
// miss because of that, and lets them go on from now.
func (r *Reader) unmute() {
	const pause = time.Second / 2
	select {
	case <-time.After(pause):
	case <-r.ctx.Done():
		return
	}
	for r.out.Room(r.ctx) == nil && !r.tellMuted() {
	}
}

// tellMuted tells as much of that as there is room for, and reports whether
// that was all.
func (r *Reader) tellMuted() bool {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settle()
	r.telling = true
	for _, f := range r.stands[limited] {
		if f.owed.lines == 0 {
			r.stand(f) // not as a limited one while r.muted
		}
	}
	for _, f := range r.stands[limited] {
		r.stand(f)
		if !r.tellOwed(f, LostRate) {
			r.put(f, limited)
			return false
		}
	}
	r.muted, r.telling = false, false
	for _, f := range r.stands[flowing] {
		r.stand(f)
	}
	r.mark()
	return true
}

// tellOwed tells the lines of f that were not sent. r.mu is held.
func (r *Reader) tellOwed(f *follow, reason string) bool {
	epoch, owed := r.hub.journal.Epoch(), f.owed
	if owed.lines > 0 && !r.tell(f, Cursor{epoch, owed.from}, Cursor{epoch, owed.to}, &owed.lines, reason) {
		return false
	}
	f.owed = debt{}
	return true
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
		f.stopReading()
	}
}

// fallBehind sends all live follows back to the journal, except the muted ones,
// for which nothing is queued. Both locks are held.
func (r *Reader) fallBehind() {
	for _, f := range r.follows {
		if f.live && !(r.muted && f.standing == limited) {
			f.after = max(f.after, r.base)
			f.lag()
		}
	}
}

// lag hands a follow to the replay goroutine. Both locks are held.
func (f *follow) lag() {
	r := f.reader
	if f.owed.lines > 0 { // it was muted, and what it missed may not be all that was counted
		f.after, f.owed = min(f.after, r.mutedAt), debt{}
	}
	f.live = false
	r.put(f, alone)
	f.topic.lag(1)
	if r.lagging++; r.lagging == 1 {
		r.hub.metrics.behind.Inc()
	}
	r.more = true
	if !r.running {
		r.running = true
		r.work.Go(r.catchUp)
	}
}

// caughtUp undoes lag. Both locks are held.
func (r *Reader) caughtUp(f *follow) {
	f.live, f.reading = true, false
	r.stand(f)
	f.topic.lag(-1)
	if r.lagging--; r.lagging == 0 {
		r.hub.metrics.behind.Dec()
	}
}

// stopReading takes f out of the present round. r.mu is held.
func (f *follow) stopReading() {
	f.after, f.reading = f.place(), false
	f.reader.put(f, alone)
}

// place is how far f has come. r.mu is held.
func (f *follow) place() uint64 {
	switch r := f.reader; {
	case f.standing == limited && r.muted:
		return r.mutedAt
	case f.live:
		return max(f.after, r.base)
	case f.reading && f.doubt == 0:
		return max(f.after, r.round)
	}
	return f.after
}

// together reports whether all that the ids speak for is at base. r.mu is held.
func (r *Reader) together() bool {
	return r.lagging == 0 && len(r.stands[alone]) == 0 && len(r.missing) == 0 && !(r.muted && len(r.stands[limited]) > 0)
}

// The most devices that an id names. Beyond it the id is vague; while a gap is
// told to one device after the other it is so earlier, since each of these
// events would name nearly the same ones.
const (
	maxApart        = 1000
	maxApartTelling = 32
)

// position is how far the reader has come. r.mu is held.
func (r *Reader) position() Position {
	p := Position{Cursor: Cursor{Epoch: r.hub.journal.Epoch()}}
	count := map[uint64]int{} // devices by place
	total, low, high := 0, ^uint64(0), uint64(0)
	add := func(at uint64, n int) {
		if n > 0 {
			count[at] += n
			total, low, high = total+n, min(low, at), max(high, at)
		}
	}
	limitedAt := r.base
	if r.muted {
		limitedAt = r.mutedAt
	}
	places := [standings]uint64{replayed: r.round, flowing: r.base, limited: limitedAt}
	for s := replayed; s < standings; s++ {
		add(places[s], len(r.stands[s]))
	}
	for _, f := range r.stands[alone] {
		add(f.place(), 1)
	}
	for _, at := range r.missing {
		add(at, 1)
	}
	// The place of the most, so that the fewest have to be named.
	for at, n := range count {
		if n > count[p.Seq] || n == count[p.Seq] && at > p.Seq {
			p.Seq = at
		}
	}
	most := maxApart
	if r.telling {
		most = maxApartTelling
	}
	switch others := total - count[p.Seq]; {
	case others == 0:
		return p
	case others > most:
		p.Seq, p.Vague, p.Low = high, true, low
		return p
	}
	p.Apart = map[string]uint64{}
	for s := replayed; s < standings; s++ {
		if places[s] != p.Seq {
			for key := range r.stands[s] {
				p.Apart[key] = places[s]
			}
		}
	}
	for key, f := range r.stands[alone] {
		if at := f.place(); at != p.Seq {
			p.Apart[key] = at
		}
	}
	for key, at := range r.missing {
		if at != p.Seq {
			p.Apart[key] = at
		}
	}
	return p
}

// mark queues the position alone, if the reader does not have it yet.
func (r *Reader) mark() {
	at := r.position()
	if at.plain() && at.Seq == r.sent {
		return
	}
	if r.out.OfferControl(sse.Mark(at.String())) {
		r.noteSent(at)
	}
}

func (r *Reader) noteSent(at Position) {
	if r.sent = at.Seq; !at.plain() {
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
		devices, from, ok := r.begin()
		if !ok {
			return
		}
		upTo, err := r.hub.past.Replay(r.ctx, devices, from, r.page)
		if err == nil {
			err = r.tellDoubts()
		}
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

// most devices that are asked for by name; to read all and take what is wanted
// is cheaper than more, since the journal compares each name with each other.
const maxNamed = 512

// begin starts a round over all lagging follows, or ends the goroutine. devices
// is nil if they are too many to be named.
func (r *Reader) begin() (devices []string, from uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lagging == 0 || r.closed {
		r.running = false
		return nil, 0, false
	}
	from = ^uint64(0)
	for key, f := range r.follows {
		if f.live {
			continue
		}
		if f.reading { // keep what the last round came to
			f.stopReading()
		}
		f.reading = true
		devices = append(devices, key)
		from = min(from, max(f.after, f.owed.to))
	}
	r.round, r.more = from, false
	for _, key := range devices {
		r.stand(r.follows[key])
	}
	if len(devices) > maxNamed {
		devices = nil
	}
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
			if queued = r.replayRecord(rec); queued {
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

// replayRecord queues a record for the follow that reads it, if there is one,
// and reports false if there was no room. r.mu is held.
func (r *Reader) replayRecord(rec Record) bool {
	f := r.follows[rec.Device]
	if f == nil || f.live || !f.reading || rec.Seq <= f.after {
		return true
	}
	if f.doubt > 0 && rec.Seq <= f.doubt {
		if body, _ := f.cut(rec, nil); body.Body != nil && rec.Seq > f.owed.to {
			f.owed.add(f.after, rec.Seq, body.Body.Lines())
		}
		return true
	}
	if f.doubt > 0 && !r.tellDoubt(f) {
		return false
	}
	left, _ := f.cut(rec, nil)
	if left.Body == nil {
		f.pass(rec.Seq)
		return true
	}
	if !r.queue(f, left, nil) {
		return false
	}
	r.hub.metrics.replayed.Add(float64(left.Body.Lines()))
	return true
}

// tellDoubt says which lines of f the client may have missed, since its last id
// was vague, and ends the doubt. r.mu is held.
func (r *Reader) tellDoubt(f *follow) bool {
	after, doubt := f.after, f.doubt
	f.after, f.doubt = doubt, 0
	r.stand(f)
	if !r.tellOwed(f, LostPosition) {
		f.after, f.doubt = after, doubt
		r.stand(f)
		return false
	}
	return true
}

// tellDoubts does so for all that have read everything.
func (r *Reader) tellDoubts() error {
	for {
		if err := r.out.Room(r.ctx); err != nil {
			return err
		}
		r.mu.Lock()
		told := true
		for _, f := range r.stands[alone] {
			if told && f.reading && f.doubt > 0 {
				told = r.tellDoubt(f)
			}
		}
		r.mu.Unlock()
		if told {
			return nil
		}
	}
}

// join makes live what has read everything the journal had up to there.
func (r *Reader) join(upTo uint64) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round = max(r.round, upTo)
	var read []*follow
	var recent []Record
	for _, f := range r.follows {
		if !f.reading {
			continue
		}
		r.stand(f)
		f.after = f.place()
		records, complete := f.topic.since(f.after)
		if !complete {
			f.stopReading()
			continue
		}
		read = append(read, f)
		recent = append(recent, records...)
	}
	// In the order of the journal: so all of them stay at one place.
	slices.SortFunc(recent, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, rec := range recent {
		if !r.replayRecord(rec) {
			for _, f := range read {
				f.stopReading()
			}
			return
		}
	}
	// They have what the hub has dispatched, and may have more; those that are
	// live already may have yet more.
	place := max(r.round, h.seen)
	if len(r.follows) == r.lagging {
		r.base = place
	} else if r.settle(); r.base > place {
		r.base = place
		for _, s := range []standing{flowing, limited} {
			for _, f := range r.stands[s] {
				if !(r.muted && s == limited) {
					r.stand(f)
				}
			}
		}
	}
	for _, f := range read {
		f.after = max(f.after, place)
		r.caughtUp(f)
	}
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
				told = r.tellStrange(f) && r.tellReset(f, p.Oldest) && r.tellRetention(key, f, p) && r.tellLost(key, f, p.Lost)
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

// tellStrange says that the client came with an id that could not be read, so
// that nobody knows what it had.
func (r *Reader) tellStrange(f *follow) bool {
	if !f.strange {
		return true
	}
	epoch := r.hub.journal.Epoch()
	if !r.tell(f, Cursor{epoch, 0}, Cursor{epoch, f.after}, nil, LostPosition) {
		return false
	}
	f.strange = false
	return true
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
	after, doubt := f.after, f.doubt
	if f.after = max(after, to.Seq); f.after >= doubt {
		f.doubt = 0
	}
	r.restand(f)
	if !r.out.Offer(sse.Event("log-gap", r.position().String(), payload)) {
		f.after, f.doubt = after, doubt
		r.restand(f)
		return false
	}
	r.sent = unsent // the next mark repeats the id, which does no harm
	r.hub.metrics.gaps.WithLabelValues(reason).Inc()
	if count != nil {
		r.hub.metrics.gapLines.Add(float64(*count))
	}
	return true
}

// restand finds where a follow stands after its own place has changed. r.mu is held.
func (r *Reader) restand(f *follow) {
	if f.standing != limited {
		r.stand(f)
	}
}

// payloadPrefix is what stands before a batch's own members in the event.
func payloadPrefix(d fleet.DeviceRef) []byte {
	entity, _ := json.Marshal(d.EntityID) // a string always marshals
	b := append([]byte(`{"device_entity_id":`), entity...)
	b = append(b, `,"device_id":`...)
	return append(strconv.AppendInt(b, d.ID, 10), ',')
}
