package logs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

// Limits bound what one device may log; 0 does not limit. Bytes are those of
// Entry.Doc.
type Limits struct {
	LinesPerSecond int64
	Burst          int64 // lines at once; below those of one second it is taken as them
	BytesPerSecond int64 // and ten seconds of it at once
	LinesPerDay    int64
	BytesPerDay    int64
}

// A limit is one token bucket of a device. They stand in the order in which
// they are named to the reader: the one that lasts longest first.
type limit uint8

const (
	bytesPerDay limit = iota
	linesPerDay
	bytesPerSecond
	linesPerSecond
	limitCount
)

const (
	dayLength = 24 * time.Hour
	// stillAfter is the time after which a cut that lasts is told again.
	stillAfter = time.Minute
	// sweepEvery is how often the quota looks for devices that are silent.
	sweepEvery = 10 * time.Second
	// skew is how far back a time may be without being a clock that was set
	// back: messages of two sources do not come in order.
	skew = time.Minute
	// maxBuckets bounds the devices that are remembered, at some 300 bytes each.
	maxBuckets = 1 << 18
)

// pool is the shape of one limit for the devices of a model.
type pool struct {
	limit int64   // in its own unit, as it is told; 0: none
	rate  float64 // tokens per second
	size  float64 // tokens of a full bucket
	rest  float64 // tokens at which a cut is over
}

func (p pool) limits() bool { return p.limit > 0 }

// pools are all limits for the devices of a model.
type pools [limitCount]pool

func newPools(l Limits) *pools {
	perSecond := func(limit, size int64) pool {
		return pool{limit: limit, rate: float64(limit), size: float64(size), rest: float64(limit) / 2}
	}
	perDay := func(limit int64) pool {
		// A cut of a day ends when the device has an hour's worth again, so that
		// it does not begin and end with every line that trickles through.
		return pool{limit: limit, rate: float64(limit) / dayLength.Seconds(), size: float64(limit), rest: float64(limit) / 24}
	}
	return &pools{
		bytesPerDay:    perDay(l.BytesPerDay),
		linesPerDay:    perDay(l.LinesPerDay),
		bytesPerSecond: perSecond(l.BytesPerSecond, 10*l.BytesPerSecond),
		linesPerSecond: perSecond(l.LinesPerSecond, max(l.LinesPerSecond, l.Burst)),
	}
}

func (p *pools) any() bool { return slices.ContainsFunc(p[:], pool.limits) }

// Quota limits what each device may log: token buckets for lines and bytes, of
// the second and of the day. They are full at first and refill evenly. A device
// that runs dry has an entry in its own log that says so, one a minute while
// that lasts, and one when it is within its quota again. Safe for concurrent use.
type Quota struct {
	all    *pools
	models map[string]*pools // by model code; others have all
	none   bool              // nothing is limited

	mu      sync.Mutex
	buckets map[string]*bucket // by device key
	swept   time.Time
	most    int // maxBuckets, but in tests
	// cutting is told when a cut begins (1) and ends (-1), with mu held.
	cutting func(change float64)
}

// bucket is what a device has left, and how it is being cut.
type bucket struct {
	device fleet.DeviceRef
	tokens [limitCount]float64 // below 0 after a line that is larger than a full bucket
	at     time.Time           // up to when they are refilled

	hit   [limitCount]bool // the limits that this cut was told of; none: there is no cut
	lines int64            // dropped in this cut
	bytes int64
	told  time.Time // when the cut was last told
}

// NewQuota returns a Quota of the limits for all devices but those of the
// models, by code, that have their own.
func NewQuota(all Limits, models map[string]Limits) *Quota {
	q := &Quota{all: newPools(all), models: map[string]*pools{}, buckets: map[string]*bucket{}, most: maxBuckets, cutting: func(float64) {}}
	q.none = !q.all.any()
	for code, limits := range models {
		p := newPools(limits)
		q.models[code] = p
		q.none = q.none && !p.any()
	}
	return q
}

func (q *Quota) of(model string) *pools {
	if p, ok := q.models[model]; ok {
		return p
	}
	return q.all
}

// verdict is the answer of a Quota.
type verdict struct {
	allowed int    // how many entries are within the quota, from the first on
	reason  Reason // why the others are not
	notice  *Entry // to be logged behind them, if not nil
}

// take asks for the entries of a device.
func (q *Quota) take(device fleet.DeviceRef, now time.Time, entries []Entry) verdict {
	p := q.of(device.ModelCode)
	if q.none || !p.any() {
		return verdict{allowed: len(entries)}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.buckets[device.Key]
	if b == nil {
		q.makeRoom()
		b = &bucket{at: now}
		for i := range p {
			b.tokens[i] = p[i].size
		}
		q.buckets[device.Key] = b
	}
	b.device = device
	b.refill(p, now)
	full := b.tokens // whether they have rested shows before the message, however large it is
	over, which := b.spend(p, entries)
	v := verdict{allowed: len(entries) - len(over)}
	if len(over) > 0 {
		if v.reason = ReasonOverRate; which <= linesPerDay {
			v.reason = ReasonOverDay
		}
		if !b.cut() {
			q.cutting(+1)
		}
		b.lines += int64(len(over))
		for i := range over {
			b.bytes += int64(len(over[i].Doc))
		}
		switch {
		case !b.hit[which]:
			v.notice = b.tell(now, "log quota of %s exceeded; lines are being dropped", p.name(which))
		case now.Sub(b.told) >= stillAfter:
			v.notice = b.tell(now, "log quota of %s still exceeded; %s dropped so far", p.name(which), b.dropped())
		}
		b.hit[which] = true
	} else if b.cut() && b.rested(p, full) {
		v.notice = q.end(b, now)
	}
	return v
}

// refill adds what has come in since the last time.
func (b *bucket) refill(p *pools, now time.Time) {
	gone := now.Sub(b.at)
	if gone <= 0 {
		if gone < -skew { // the clock was set back: that gives nothing, and costs nothing
			b.at, b.told = now, now
		}
		return
	}
	for i := range p {
		b.tokens[i] = min(p[i].size, b.tokens[i]+gone.Seconds()*p[i].rate)
	}
	b.at = now
}

// spend takes the entries, from the first, that are within all limits, and
// returns the others and the limit that was hit. A line that is larger than a
// full bucket is within it when the bucket is full, and is paid for afterwards.
func (b *bucket) spend(p *pools, entries []Entry) (over []Entry, which limit) {
	for n := range entries {
		size := float64(len(entries[n].Doc))
		cost := [limitCount]float64{bytesPerDay: size, linesPerDay: 1, bytesPerSecond: size, linesPerSecond: 1}
		for i := range p {
			if p[i].limits() && b.tokens[i] < min(cost[i], p[i].size) {
				return entries[n:], limit(i)
			}
		}
		for i := range p {
			if p[i].limits() {
				b.tokens[i] -= cost[i]
			}
		}
	}
	return nil, 0
}

func (b *bucket) cut() bool { return slices.Contains(b.hit[:], true) }

// rested reports whether every limit that was hit has rested, now or before.
func (b *bucket) rested(p *pools, before [limitCount]float64) bool {
	for i, hit := range b.hit {
		if hit && b.tokens[i] < p[i].rest && before[i] < p[i].size {
			return false
		}
	}
	return true
}

func (b *bucket) full(p *pools) bool {
	for i := range p {
		if p[i].limits() && b.tokens[i] < p[i].size {
			return false
		}
	}
	return true
}

// end ends the bucket's cut and returns what is to be told of it.
func (q *Quota) end(b *bucket, now time.Time) *Entry {
	q.cutting(-1)
	e := b.tell(now, "within the log quota again; %s were dropped", b.dropped())
	b.hit, b.lines, b.bytes = [limitCount]bool{}, 0, 0
	return e
}

func (b *bucket) dropped() string { return fmt.Sprintf("%d lines (%d bytes)", b.lines, b.bytes) }

func (p *pools) name(l limit) string {
	unit := [limitCount]string{bytesPerDay: "bytes/day", linesPerDay: "lines/day", bytesPerSecond: "bytes/s", linesPerSecond: "lines/s"}
	return fmt.Sprintf("%d %s", p[l].limit, unit[l])
}

func (b *bucket) tell(now time.Time, format string, args ...any) *Entry {
	b.told = now
	doc, _ := json.Marshal(map[string]string{ // strings always marshal
		"@timestamp": now.UTC().Format(TimeLayout), "message": "signalbox: " + fmt.Sprintf(format, args...),
		"level": Warn.String(), "tag": "signalbox",
	})
	return &Entry{Doc: doc, Level: Warn, Tag: "signalbox"}
}

// closing is a cut that ended while its device was silent.
type closing struct {
	device fleet.DeviceRef
	notice *Entry
}

// sweep forgets the devices that have been silent until their buckets were
// full, and returns the cuts that ended in silence. Called too often it does
// nothing.
func (q *Quota) sweep(now time.Time) (ended []closing) {
	if q.none {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if gone := now.Sub(q.swept); gone >= 0 && gone < sweepEvery {
		return nil
	}
	q.swept = now
	for key, b := range q.buckets {
		p := q.of(b.device.ModelCode)
		if silent := now.Sub(b.at); silent < sweepEvery {
			if silent < 0 {
				b.refill(p, now) // notices a clock that was set back
			}
			continue // busy: take will see to it
		}
		rested := *b // what take would find; it is for take to change it
		rested.refill(p, now)
		if b.cut() && rested.rested(p, rested.tokens) {
			ended = append(ended, closing{b.device, q.end(b, now)})
		}
		if rested.full(p) && !b.cut() {
			delete(q.buckets, key)
		}
	}
	return ended
}

// makeRoom forgets the eighth of the devices that has been silent for longest,
// those being cut last, when there are too many. q.mu is held.
func (q *Quota) makeRoom() {
	if len(q.buckets) < q.most {
		return
	}
	keys := slices.SortedFunc(maps.Keys(q.buckets), func(x, y string) int {
		a, b := q.buckets[x], q.buckets[y]
		if a.cut() != b.cut() {
			if b.cut() {
				return -1
			}
			return 1
		}
		return a.at.Compare(b.at)
	})
	for _, key := range keys[:max(1, len(keys)/8)] {
		if q.buckets[key].cut() {
			q.cutting(-1)
		}
		delete(q.buckets, key)
	}
}
