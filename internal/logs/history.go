package logs

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
)

// History answers what devices said before. Safe for concurrent use.
type History interface {
	// Read returns lines in the order of the journal. Its errors are
	// fleet.Invalid for a query that cannot be, and fleet.Unavailable.
	Read(ctx context.Context, q Query) (Result, error)
	// Count returns about how many lines are in the part of the history that q
	// bounds, whatever its Filter and Limit say: how long a reading of it is. It
	// is -1 if that cannot be known.
	Count(ctx context.Context, q Query) (int64, error)
}

// Query selects lines of the history.
type Query struct {
	Devices []string // their keys; nil: of all devices
	// After and Before bound the lines; both are exclusive, and the zero
	// LineCursor is no bound. A cursor without a line excludes its whole batch.
	After, Before LineCursor
	// Start and End bound the receive time; both are inclusive, and the zero
	// time is no bound.
	Start, End time.Time
	Filter     Filter
	Backward   bool // the newest lines that are selected, not the oldest
	Limit      int  // of lines; 1..MaxQuery
}

// MaxQuery is the most lines that one Query gives.
const MaxQuery = 10_000

// Result is what Read found.
type Result struct {
	Lines []Line // in order, oldest first, also of a backward query
	More  bool   // there are, or may be, more selected lines beyond them
	// Reached is how far the search has come: with More, the next query goes on
	// after it, or before it if Backward.
	Reached LineCursor
	// Complete is the place up to which no selected line is missing: where a
	// subscription can go on.
	Complete LineCursor
	// Lost is what is gone of the part of the history that was searched.
	Lost []Lost
}

// Store is History over the chunks that the sealer stores, what the sealer has
// not stored yet, and the journal's newest records.
type Store struct {
	journal Journal
	chunks  Chunks
	sealer  *Sealer
	log     *slog.Logger
	damaged prometheus.Counter

	mu    sync.Mutex
	known map[int64]struct{} // the damaged chunks that were counted, by ID

	blocks sync.Pool // of *block: decoded, and done with
}

// NewStore returns a Store.
func NewStore(j Journal, c Chunks, s *Sealer, reg prometheus.Registerer, log *slog.Logger) *Store {
	store := &Store{
		journal: j, chunks: c, sealer: s, log: log, known: map[int64]struct{}{},
		damaged: prometheus.NewCounter(prometheus.CounterOpts{Name: "iot_history_chunks_damaged_total", Help: "Chunks of the history that were found not to be readable. Their lines are told as a gap."}),
	}
	reg.MustRegister(store.damaged)
	return store
}

// maxKnownDamaged bounds what is remembered of damaged chunks. Beyond it, some
// are counted and logged again.
const maxKnownDamaged = 1 << 14

// noteDamaged counts and logs a chunk that cannot be read, once.
func (s *Store) noteDamaged(c *ChunkInfo, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[c.ID]; ok {
		return
	}
	if len(s.known) >= maxKnownDamaged {
		clear(s.known)
	}
	s.known[c.ID] = struct{}{}
	s.damaged.Inc()
	s.log.Error("a chunk of the history is damaged; its lines are told as a gap", "chunk", c.ID, "device", c.Device,
		"epoch", c.Epoch, "from_seq", c.First, "to_seq", c.Last, "lines", c.Lines, "err", err)
}

// searchTime is how long one Read searches before it answers with what it has.
const searchTime = 10 * time.Second

// loadedBytes bounds the blocks that one Read holds in memory.
const loadedBytes = 64 << 20

// Read implements History.
func (s *Store) Read(ctx context.Context, q Query) (Result, error) {
	m, err := q.Matcher()
	if err != nil {
		return Result{}, err
	}
	// First what is newest and then what is stored: what is stored in between is
	// found twice, and nothing is missed.
	newest, err := s.journal.Newest(ctx)
	if err != nil {
		return Result{}, err
	}
	recent, err := s.recent(ctx, q.Devices, newest)
	if err != nil {
		return Result{}, err
	}
	var r Result
	err = s.chunks.View(ctx, func(v ChunkView) (err error) {
		r, err = s.search(ctx, v, q, m.m, recent, newest, time.Now().Add(searchTime))
		return err
	})
	return r, err
}

// Count implements History.
func (s *Store) Count(ctx context.Context, q Query) (lines int64, err error) {
	newest, err := s.journal.Newest(ctx)
	if err != nil {
		return 0, err
	}
	recent, err := s.recent(ctx, q.Devices, newest)
	if err != nil {
		return 0, err
	}
	for _, b := range recent {
		if (q.Start.IsZero() || b.most >= q.Start.UnixMicro()) && (q.End.IsZero() || b.least <= q.End.UnixMicro()) {
			lines += int64(b.lines())
		}
	}
	err = s.chunks.View(ctx, func(v ChunkView) error {
		epochs, err := v.Epochs(ctx)
		if err != nil {
			return err
		}
		cq := ChunkQuery{Devices: q.Devices, Start: q.Start, End: q.End}
		if number, ok := epochs[q.After.Epoch]; ok {
			cq.From = &Place{number, q.After.Seq}
		}
		stored, err := v.Count(ctx, cq)
		lines += stored
		return err
	})
	return lines, err
}

// recent returns what the journal has of the devices and the store may not.
func (s *Store) recent(ctx context.Context, devices []string, newest uint64) ([]*block, error) {
	views, upTo := s.sealer.unsealed(ctx, devices, newest)
	if upTo >= newest {
		return views, nil
	}
	// The sealer is behind, because the store is down or slow.
	var split splitter
	builders, size := map[string]*builder{}, 0
	_, err := s.journal.Replay(ctx, devices, upTo, func(p Page) error {
		for _, rec := range p.Records {
			b := builders[rec.Device]
			if b == nil {
				b = newBuilder(s.journal.Epoch(), rec.Device)
				builders[rec.Device] = b
			}
			split.split(rec.Device, Cursor{s.journal.Epoch(), rec.Seq}, rec.Body, b.add) // what is no batch the sealer counts
			size += len(rec.Body)
		}
		if size > loadedBytes {
			return fleet.E(fleet.Unavailable, nil, "The history is too far behind to be read")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, b := range builders {
		if b.lines() > 0 {
			views = append(views, &b.block)
		}
	}
	return views, nil
}

// place orders lines over all epochs.
type place struct {
	epoch int64
	seq   uint64
	line  int
}

func (p place) compare(o place) int {
	if c := cmp.Compare(p.epoch, o.epoch); c != 0 {
		return c
	}
	if c := cmp.Compare(p.seq, o.seq); c != 0 {
		return c
	}
	return cmp.Compare(p.line, o.line)
}

// search is one reading of the history in one view of the store.
type search struct {
	view    ChunkView
	q       Query
	m       *matcher
	epochs  map[string]int64
	after   place // lines from after here
	before  place // up to before here
	start   int64 // and received in this time, in microseconds
	end     int64
	heap    itemHeap
	loaded  int // bytes of the blocks in the heap
	reached *place
	damaged []Lost // the chunks that it met and could not read
	note    func(*ChunkInfo, error)

	blocks   *sync.Pool
	decoding sync.WaitGroup // the goroutines of begin; search waits for them
	seen     int            // lines that were looked at
	found    int            // those of them that were selected
	text     []byte         // memory for the messages of the result
	spent    *block         // it has the line that next returned last, and no more

	more  bool      // the store may have more chunks
	page  int       // how many to ask it for next
	last  *Place    // where the last page ended
	until time.Time // zero: however long it takes
}

func (s *Store) search(ctx context.Context, v ChunkView, q Query, m *matcher, recent []*block, newest uint64, until time.Time) (r Result, err error) {
	h := search{
		view: v, q: q, m: m, more: true, page: 16, until: until,
		after: place{math.MinInt64, 0, 0}, before: place{math.MaxInt64, 0, 0}, start: math.MinInt64, end: math.MaxInt64,
		heap: itemHeap{backward: q.Backward}, note: s.noteDamaged, blocks: &s.blocks,
	}
	defer h.release()
	if h.epochs, err = v.Epochs(ctx); err != nil {
		return r, err
	}
	if _, ok := h.epochs[s.journal.Epoch()]; !ok { // the sealer has not begun yet
		next := int64(1)
		for _, n := range h.epochs {
			next = max(next, n+1)
		}
		h.epochs[s.journal.Epoch()] = next
	}
	if q.After != (LineCursor{}) {
		if h.after, err = h.bound(q.After, math.MaxInt); err != nil {
			return r, err
		}
	}
	if q.Before != (LineCursor{}) {
		if h.before, err = h.bound(q.Before, -1); err != nil {
			return r, err
		}
	}
	// What came after the question would be in the answer of some devices and not
	// of others: Complete is one place for all of them.
	if end := (place{h.epochs[s.journal.Epoch()], newest + 1, -1}); end.compare(h.before) < 0 {
		h.before = end
	}
	if !q.Start.IsZero() {
		h.start = q.Start.UnixMicro()
	}
	if !q.End.IsZero() {
		h.end = q.End.UnixMicro()
	}
	for _, b := range recent {
		h.push(&item{block: b, fixed: true, info: ChunkInfo{Device: b.device, Epoch: b.epoch, EpochNumber: h.epochs[b.epoch], First: b.first(), Last: b.last(), Lines: b.lines()}})
	}
	r.Complete = LineCursor{Cursor{s.journal.Epoch(), newest}, WholeBatch}
	var lastPlace place
	for {
		l, at, ok, err := h.next(ctx)
		if err != nil {
			return r, err
		}
		if !ok {
			break
		}
		if len(r.Lines) > 0 && at == lastPlace {
			continue // sealed while we looked
		}
		if len(r.Lines) == q.Limit {
			r.More = true
			break
		}
		l.Message = h.keep(l.Message)
		if len(r.Lines) == cap(r.Lines) {
			r.Lines = slices.Grow(r.Lines, min(q.Limit-len(r.Lines), max(64, 3*len(r.Lines))))
		}
		r.Lines = append(r.Lines, l)
		h.found = len(r.Lines)
		lastPlace = at
	}
	if h.reached != nil { // the time was up
		r.More = true
		r.Reached = h.cursor(*h.reached)
	} else if n := len(r.Lines); n > 0 {
		r.Reached = r.Lines[n-1].Cursor
	}
	if q.Backward {
		slices.Reverse(r.Lines)
	} else if r.More {
		r.Complete = r.Reached
	}
	r.Lost, err = h.lost(ctx, r)
	return r, err
}

// bound returns the place of a cursor; whole is the line that stands for the
// whole batch.
func (h *search) bound(c LineCursor, whole int) (place, error) {
	epoch, ok := h.epochs[c.Epoch]
	if !ok {
		return place{}, fleet.E(fleet.Invalid, nil, "The cursor is not of this history")
	}
	if c.Line != WholeBatch {
		whole = c.Line
	}
	return place{epoch, c.Seq, whole}, nil
}

// cursor is the reverse of bound.
func (h *search) cursor(p place) LineCursor {
	for epoch, n := range h.epochs {
		if n == p.epoch {
			return LineCursor{Cursor{epoch, p.seq}, p.line}
		}
	}
	return LineCursor{}
}

// next returns the next selected line in the order of the search. Its message is
// good until the next call.
func (h *search) next(ctx context.Context) (l Line, at place, ok bool, err error) {
	h.reuse()
	for {
		if err := h.fetch(ctx); err != nil {
			return l, at, false, err
		}
		if len(h.heap.items) == 0 {
			return l, at, false, nil
		}
		it := h.heap.items[0]
		if it.block == nil {
			if !h.until.IsZero() && time.Now().After(h.until) {
				h.reached = &it.key
				return l, at, false, nil
			}
			switch err := h.load(ctx, it); {
			case errors.Is(err, errBlock):
				h.lose(it, err)
				continue
			case err != nil:
				return l, at, false, err
			}
			// Its key moves to its first selected line.
			if h.seek(it) {
				heap.Fix(&h.heap, 0)
			} else {
				h.drop(it)
			}
			continue
		}
		it.block.line(it.at, it.mark, &l)
		at = it.key
		it.at += h.step()
		if h.seek(it) {
			heap.Fix(&h.heap, 0)
		} else {
			h.spend(it)
		}
		return l, at, true, nil
	}
}

// keep returns a copy of a message, whose block is to be used again. Copies share
// pieces of memory: a result is mostly kept as a whole.
func (h *search) keep(message []byte) []byte {
	const least, most = 4 << 10, 128 << 10
	if cap(h.text)-len(h.text) < len(message) {
		h.text = make([]byte, 0, max(len(message), min(most, max(least, 2*cap(h.text)))))
	}
	start := len(h.text)
	h.text = append(h.text, message...)
	return h.text[start:len(h.text):len(h.text)]
}

func (h *search) step() int {
	if h.q.Backward {
		return -1
	}
	return 1
}

// drop takes the first item from the heap.
func (h *search) drop(it *item) {
	h.unload(it)
	heap.Pop(&h.heap)
}

// unload lets go of the block of an item.
func (h *search) unload(it *item) {
	if it.block == nil || it.fixed {
		return
	}
	h.loaded -= it.block.size()
	h.recycle(it.block)
	it.block = nil
}

// spend takes the first item, whose last line is being returned, from the heap.
// That line is in its block, which nobody else may have before it was copied.
func (h *search) spend(it *item) {
	if !it.fixed {
		h.loaded -= it.block.size()
		h.spent, it.block = it.block, nil
	}
	h.drop(it)
}

// reuse lets go of the block of the line that was returned last.
func (h *search) reuse() {
	if h.spent != nil {
		h.recycle(h.spent)
		h.spent = nil
	}
}

// recycle keeps the memory of a block for another.
func (h *search) recycle(b *block) {
	if cap(b.messages) <= keptBlock {
		h.blocks.Put(b)
	}
}

// release waits for what is under way and lets go of everything.
func (h *search) release() {
	h.decoding.Wait()
	h.reuse()
	for _, it := range h.heap.items {
		h.unload(it)
		if it.coming != nil {
			h.recycle(it.coming.block)
		}
	}
}

// push adds a block or a chunk, if it may hold selected lines.
func (h *search) push(it *item) {
	first, last := place{it.info.EpochNumber, it.info.First, 0}, place{it.info.EpochNumber, it.info.Last, math.MaxInt}
	if last.compare(h.after) <= 0 || first.compare(h.before) >= 0 {
		return
	}
	it.key, it.at = first, 0
	if h.q.Backward {
		it.key, it.at = last, it.info.Lines-1
	}
	if it.block != nil && (!h.m.mayMatch(it.block) || !h.seek(it)) {
		return
	}
	heap.Push(&h.heap, it)
}

// fetch asks the store for chunks until those it has not told of yet are all
// behind the first item of the heap.
func (h *search) fetch(ctx context.Context) error {
	for h.more {
		if len(h.heap.items) > 0 && h.last != nil {
			first := h.heap.items[0].key
			known := place{h.last.EpochNumber, h.last.Seq, 0}
			if c := first.compare(known); h.q.Backward && c > 0 || !h.q.Backward && c < 0 {
				return nil
			}
		}
		cq := ChunkQuery{
			Devices: h.q.Devices, Backward: h.q.Backward, Behind: h.last, Start: h.q.Start, End: h.q.End, Levels: h.m.mask(), Filters: len(h.m.keys) > 0,
		}
		switch {
		case h.q.Backward && h.before.epoch != math.MaxInt64:
			cq.From = &Place{h.before.epoch, h.before.seq}
		case !h.q.Backward && h.after.epoch != math.MinInt64:
			cq.From = &Place{h.after.epoch, h.after.seq}
		}
		chunks, err := h.view.List(ctx, cq, h.page)
		if err != nil {
			return err
		}
		h.more = len(chunks) == h.page
		h.page = min(2*h.page, 512)
		for i := range chunks {
			c := &chunks[i]
			h.last = &Place{c.EpochNumber, c.First}
			if h.q.Backward {
				h.last.Seq = c.Last
			}
			if mayHold(c.Filter, h.m.keys) {
				h.push(&item{info: c.ChunkInfo})
			}
		}
	}
	return nil
}

// readChunk reads the lines of a chunk. Its error is errBlock if they are not
// those that were stored.
func readChunk(ctx context.Context, v ChunkView, c *ChunkInfo) (*block, error) {
	data, err := v.Data(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	b := &block{}
	if err := b.decodeChunk(c, data); err != nil {
		return nil, err
	}
	return b, nil
}

// decodeChunk decodes the data of a chunk into b; its error is that of readChunk.
func (b *block) decodeChunk(c *ChunkInfo, data []byte) error {
	if err := b.decode(c.Epoch, c.Device, data); err != nil {
		return err
	}
	if b.first() != c.First || b.last() != c.Last || b.lines() != c.Lines {
		return errBlock // those of another chunk
	}
	return nil
}

// lose takes the first item, a chunk that cannot be read, from the heap. The
// lines around it are found all the same.
func (h *search) lose(it *item, err error) {
	c := &it.info
	h.note(c, err)
	h.damaged = append(h.damaged, Lost{
		Device: c.Device, Epoch: c.Epoch, EpochNumber: c.EpochNumber, From: c.First - 1, To: c.Last,
		Least: c.Least, Most: c.Most, Lines: c.Lines, Reason: LostDamaged,
	})
	h.drop(it)
}

// load reads the lines of the first chunk, and begins with those that will be
// wanted after it, so that all processors decode.
func (h *search) load(ctx context.Context, it *item) error {
	if it.coming == nil {
		ahead := h.ahead(it)
		if err := h.begin(ctx, it, ahead != nil); err != nil {
			return err
		}
		for n := runtime.GOMAXPROCS(0) - 1; n > 0 && ahead != nil; n-- {
			if err := h.begin(ctx, ahead, true); err != nil {
				return err
			}
			ahead = h.ahead(it)
		}
	}
	<-it.coming.done
	d := it.coming
	it.coming = nil
	if d.err != nil {
		return d.err
	}
	if !d.may {
		it.at = -1 // seek will find nothing
		if !h.q.Backward {
			it.at = d.block.lines()
		}
	}
	it.block = d.block
	h.loaded += it.block.size()
	for h.loaded > loadedBytes {
		far := h.heap.farthest()
		if far == nil || far == it {
			break
		}
		h.unload(far)
	}
	return nil
}

// decoded is a chunk that is being decoded. The fields below done are for those
// who have seen it closed.
type decoded struct {
	done  chan struct{}
	block *block
	may   bool // it may hold selected lines
	err   error
}

// begin decodes a chunk, apart or at once.
func (h *search) begin(ctx context.Context, it *item, apart bool) error {
	data, err := h.view.Data(ctx, it.info.ID)
	if err != nil {
		return err
	}
	d := &decoded{done: make(chan struct{})}
	if d.block, _ = h.blocks.Get().(*block); d.block == nil {
		d.block = &block{}
	}
	it.coming = d
	decode := func() {
		defer close(d.done)
		if d.err = d.block.decodeChunk(&it.info, data); d.err == nil {
			d.may = h.m.mayMatch(d.block)
		}
	}
	if apart {
		h.decoding.Go(decode)
	} else {
		decode()
	}
	return nil
}

// ahead returns the chunk that will be wanted first of those that nobody has
// begun with, it aside; nil if the search will probably end before.
func (h *search) ahead(it *item) *item {
	if len(h.q.Devices) == 1 {
		// Of the lines in hand as many will be selected as of those before.
		lines := it.info.Lines
		for _, other := range h.heap.items {
			if other.coming != nil {
				lines += other.info.Lines
			}
		}
		if h.m.all {
			h.seen = h.found
		}
		if lines*(h.found+1) > (h.q.Limit-h.found)*(h.seen+1) && (h.m.all || h.seen > 0) {
			return nil
		}
	}
	var first *item
	for _, other := range h.heap.items {
		if other == it || other.block != nil || other.coming != nil {
			continue
		}
		if first == nil || h.heap.before(other, first) {
			first = other
		}
	}
	return first
}

// seek moves an item, whose block is loaded, to the next selected line at or
// behind it.at, and reports whether there is one.
func (h *search) seek(it *item) bool {
	b, step := it.block, h.step()
	for ; it.at >= 0 && it.at < b.lines(); it.at += step {
		it.mark = b.markOf(it.at, it.mark)
		m := &b.batches[it.mark]
		it.key = place{it.info.EpochNumber, m.seq, it.at - m.first + m.skip}
		switch {
		case h.q.Backward && it.key.compare(h.after) <= 0, !h.q.Backward && it.key.compare(h.before) >= 0:
			return false
		case h.q.Backward && it.key.compare(h.before) >= 0, !h.q.Backward && it.key.compare(h.after) <= 0:
			continue
		case m.at < h.start || m.at > h.end:
			continue
		}
		start, end := uint32(0), b.ends[it.at]
		if it.at > 0 {
			start = b.ends[it.at-1]
		}
		var lower []byte
		if len(b.lower) > 0 {
			lower = b.lower[start:end]
		}
		h.seen++
		if h.m.match(b.level[it.at], b.tags[b.tag[it.at]], b.messages[start:end], lower) {
			return true
		}
	}
	return false
}

// markOf returns the batch of line i; near is one that is not far from it.
func (b *block) markOf(i, near int) int {
	if near < 0 || near >= len(b.batches) {
		near = 0
	}
	if d := b.batches[near].first - i; d > 64 || d < -4096 {
		near, _ = slices.BinarySearchFunc(b.batches, i, func(m batchMark, i int) int { return cmp.Compare(m.first, i) })
		near = min(near, len(b.batches)-1)
	}
	for b.batches[near].first > i {
		near--
	}
	for near+1 < len(b.batches) && b.batches[near+1].first <= i {
		near++
	}
	return near
}

// lost returns what is gone of the part that was searched.
func (h *search) lost(ctx context.Context, r Result) ([]Lost, error) {
	all, err := h.view.Lost(ctx, h.q.Devices)
	if err != nil {
		return nil, err
	}
	if len(h.damaged) > 0 {
		all = append(all, h.damaged...)
		slices.SortStableFunc(all, func(a, b Lost) int {
			return cmp.Or(cmp.Compare(a.EpochNumber, b.EpochNumber), cmp.Compare(a.From, b.From), cmp.Compare(a.Device, b.Device))
		})
	}
	if len(all) == 0 {
		return nil, nil
	}
	from, to := h.after, h.before
	if r.More {
		reached, err := h.bound(r.Reached, 0)
		if err != nil {
			return nil, err
		}
		if h.q.Backward {
			from = reached
		} else {
			to = reached
		}
	}
	var lost []Lost
	for _, l := range all {
		if !l.Most.IsZero() && (l.Most.UnixMicro() < h.start || l.Least.UnixMicro() > h.end) {
			continue
		}
		if (place{l.EpochNumber, l.To, math.MaxInt}).compare(from) > 0 && (place{l.EpochNumber, l.From + 1, 0}).compare(to) < 0 {
			lost = append(lost, l)
		}
	}
	return lost, nil
}

// item is a block, or a chunk that is not read yet, in the order of the search.
type item struct {
	info  ChunkInfo
	key   place  // of its next line; of a chunk not read, a bound for it
	block *block // nil: not loaded
	fixed bool   // the block is the sealer's, not to be dropped and loaded again
	at    int    // its next line
	mark  int    // the batch of that, or one near it

	coming *decoded // it will be block
}

// itemHeap implements heap.Interface.
type itemHeap struct {
	items    []*item
	backward bool
}

func (h *itemHeap) Len() int { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool {
	return h.before(h.items[i], h.items[j])
}

// before reports whether a comes before b in the order of the search.
func (h *itemHeap) before(a, b *item) bool {
	c := a.key.compare(b.key)
	return h.backward && c > 0 || !h.backward && c < 0
}
func (h *itemHeap) Swap(i, j int) { h.items[i], h.items[j] = h.items[j], h.items[i] }
func (h *itemHeap) Push(x any)    { h.items = append(h.items, x.(*item)) }
func (h *itemHeap) Pop() any {
	n := len(h.items) - 1
	it := h.items[n]
	h.items[n] = nil
	h.items = h.items[:n]
	return it
}

// farthest returns the loaded item that will be needed last.
func (h *itemHeap) farthest() *item {
	var far *item
	for _, it := range h.items {
		if it.block == nil || it.fixed {
			continue
		}
		if far == nil || h.backward == (it.key.compare(far.key) < 0) {
			far = it
		}
	}
	return far
}

var errOvertaken = errors.New("the journal gave up what was to be read")

// Replay is Journal.Replay for as far as the history reaches, not only the
// journal. What is gone comes as Page.Lost, in its place; Page.Oldest is 0.
func (s *Store) Replay(ctx context.Context, devices []string, after uint64, emit func(Page) error) (uint64, error) {
	for {
		oldest, newest, err := s.journal.Bounds(ctx)
		if err != nil {
			return 0, err
		}
		if oldest <= after+1 || newest <= after {
			upTo, err := s.journal.Replay(ctx, devices, after, func(p Page) error {
				if p.Oldest > after+1 {
					return errOvertaken
				}
				if n := len(p.Records); n > 0 {
					after = p.Records[n-1].Seq
				}
				return emit(Page{Records: p.Records, Lost: p.Lost})
			})
			if !errors.Is(err, errOvertaken) {
				return upTo, err
			}
			continue
		}
		if after, err = s.replayChunks(ctx, devices, after, oldest, emit); err != nil {
			return 0, err
		}
	}
}

// replayLines is how many lines a page of the history has: more than one batch
// can have, so that a page holds a whole one.
const replayLines = MaxLines + maxNotices + 1

// replayChunks emits what the store has of the devices after the sequence, as
// far as everything is stored, and returns how far that is. What the journal
// gave up before it was stored, up to before oldest, is told as lost.
func (s *Store) replayChunks(ctx context.Context, devices []string, after, oldest uint64, emit func(Page) error) (uint64, error) {
	epoch := s.journal.Epoch()
	sealed, _, err := s.chunks.Sealed(ctx, epoch)
	if err != nil {
		return 0, err
	}
	told := map[Lost]bool{}
	tell := func(lost []Lost, upTo uint64) error {
		var p Page
		for _, l := range lost {
			if l.Epoch == epoch && l.From < upTo && l.To > after && !told[l] {
				told[l] = true
				p.Lost = append(p.Lost, l)
			}
		}
		if len(p.Lost) == 0 {
			return nil
		}
		return emit(p)
	}
	for from := (LineCursor{Cursor{epoch, after}, WholeBatch}); ; {
		q := Query{Devices: devices, After: from, Limit: replayLines}
		var r Result
		err := s.chunks.View(ctx, func(v ChunkView) (err error) {
			r, err = s.search(ctx, v, q, &matcher{all: true}, nil, sealed, time.Time{})
			return err
		})
		if err != nil {
			return 0, err
		}
		slices.SortFunc(r.Lost, func(a, b Lost) int { return cmp.Compare(a.From, b.From) })
		records := recordsOf(r.Lines, r.More)
		for at := 0; at < len(records); {
			if err := tell(r.Lost, records[at].Seq); err != nil {
				return 0, err
			}
			end := at + 1
			for end < len(records) && !slices.ContainsFunc(r.Lost, func(l Lost) bool { return !told[l] && l.From < records[end].Seq }) {
				end++
			}
			if err := emit(Page{Records: records[at:end]}); err != nil {
				return 0, err
			}
			from = LineCursor{Cursor{epoch, records[end-1].Seq}, WholeBatch}
			at = end
		}
		if !r.More || len(records) == 0 {
			if err := tell(r.Lost, math.MaxUint64); err != nil {
				return 0, err
			}
			break
		}
	}
	upTo := max(after, sealed)
	if upTo+1 < oldest {
		lost := Lost{Epoch: epoch, From: upTo, To: oldest - 1, Reason: LostJournal}
		if err := emit(Page{Lost: []Lost{lost}}); err != nil {
			return 0, err
		}
		upTo = oldest - 1
	}
	return upTo, nil
}

// recordsOf makes the journal's records of lines again. If more lines follow, the
// last batch may not be whole, and is left out.
func recordsOf(lines []Line, more bool) []Record {
	var records []Record
	var entries []Entry
	for at := 0; at < len(lines); {
		end := at + 1
		for end < len(lines) && lines[end].Cursor.Seq == lines[at].Cursor.Seq {
			end++
		}
		if end == len(lines) && more {
			break
		}
		entries = entries[:0]
		for i := at; i < end; i++ {
			l := &lines[i]
			entries = append(entries, Entry{Doc: l.AppendDoc(nil), Level: l.Level, Tag: l.Tag, Uptime: l.Uptime, HasUptime: l.HasUptime})
		}
		records = append(records, Record{Seq: lines[at].Cursor.Seq, Device: lines[at].Device, Body: EncodeBody(lines[at].Received, entries)})
		at = end
	}
	return records
}
