package logs

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

// Activity knows of each device the last line and how many lines and errors it
// sent in each of the last 60 minutes. Safe for concurrent use.
//
// It counts the lines that this process has journalled, from the moment the
// journal has them, and those that were stored before it began (Fill). What other
// processes on the same journal take, it does not know.
//
// A device takes about 700 bytes and its last message, at most 1 KB: 10 000
// devices take 8 MB, and never more than 17.
type Activity struct {
	epoch   string // of the journal
	process string // names this process in tokens
	find    func(key string) (fleet.DeviceRef, bool)
	began   time.Time

	mu      sync.Mutex
	devices map[string]*activity // by key
	changes uint64               // how often any of them changed
	filled  bool
}

// ActivityMinutes is how many minutes are counted, the current one included.
const ActivityMinutes = 60

const lastMessage = 256 // characters of the last line's message

// activity is what is known of one device.
type activity struct {
	id     int64
	change uint64 // the number of its last change
	last   LastLine
	minute int64 // of the newest counts, in minutes since 1970
	// Counts by minute modulo 60, from minute-59 to minute.
	lines, errors [ActivityMinutes]uint32
}

// LastLine is the last line of a device; Received is zero if there is none.
type LastLine struct {
	Received time.Time
	Message  string // its first 256 characters
	Level    Level
	Cursor   LineCursor
}

// NewActivity returns an Activity that knows nothing yet. epoch is the
// journal's. Only what is said of devices that find knows is kept: a line may
// come after its device was deleted.
func NewActivity(epoch string, find func(key string) (fleet.DeviceRef, bool)) *Activity {
	return &Activity{epoch: epoch, process: strings.ToLower(rand.Text()), find: find, began: time.Now(), devices: map[string]*activity{}}
}

// Created enters a new device, whether or not it can be found already.
func (a *Activity) Created(d fleet.DeviceRef) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.devices[d.Key] == nil {
		a.devices[d.Key] = &activity{id: d.ID}
	}
	a.of(d.Key)
}

// Touch makes a device one that changed.
func (a *Activity) Touch(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(key)
}

// Forget drops what is known of a device, which cannot be found any more.
func (a *Activity) Forget(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.devices, key)
}

// of returns a device that changes now, nil if there is none. a.mu is held.
func (a *Activity) of(key string) *activity {
	d := a.devices[key]
	if d == nil {
		found, ok := a.find(key)
		if !ok {
			return nil
		}
		d = &activity{id: found.ID}
		a.devices[key] = d
	}
	a.changes++
	d.change = a.changes
	return d
}

// heard is what a batch says of its device.
type heard struct {
	received      time.Time
	level         Level // of the last line
	line          int   // its index
	message       string
	lines, errors uint32
}

// hear looks at the entries of a batch, of which there is at least one.
func hear(received time.Time, entries []Entry) heard {
	last := len(entries) - 1
	h := heard{received: received, level: entries[last].Level, line: last, lines: uint32(len(entries))}
	for i := range entries {
		if entries[i].Level == Error {
			h.errors++
		}
	}
	if start, end, ok := findMessage(entries[last].Doc); ok {
		quoted := entries[last].Doc[start:end]
		// A character has at most twelve bytes: \ud83d\ude00.
		if most := 12*lastMessage + len(`""`); len(quoted) > most {
			quoted = cutQuoted(bytes.Clone(quoted[:most+8]), most)
		}
		var room [512]byte
		if text, ok := appendUnquoted(room[:0], quoted); ok {
			h.message = string(firstCharacters(text, lastMessage))
		}
	}
	return h
}

func firstCharacters(text []byte, most int) []byte {
	if len(text) <= most {
		return text
	}
	for i := range string(text) {
		if most--; most < 0 {
			return text[:i]
		}
	}
	return text
}

// add notes a batch that the journal has taken. Sequences must rise.
func (a *Activity) add(key string, seq uint64, h *heard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.of(key)
	if d == nil {
		return
	}
	d.last = LastLine{h.received, h.message, h.level, LineCursor{Cursor{a.epoch, seq}, h.line}}
	minute := minuteOf(h.received)
	if minute <= d.minute-ActivityMinutes { // the clock was set back, and what is counted is of the future
		d.minute, d.lines, d.errors = minute, [ActivityMinutes]uint32{}, [ActivityMinutes]uint32{}
	}
	d.count(minute, h.lines, h.errors)
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// count adds to a minute, unless it is too long ago.
func (d *activity) count(minute int64, lines, errors uint32) {
	if minute > d.minute {
		for m := max(d.minute+1, minute-ActivityMinutes+1); m <= minute; m++ {
			d.lines[m%ActivityMinutes], d.errors[m%ActivityMinutes] = 0, 0
		}
		d.minute = minute
	}
	if minute > d.minute-ActivityMinutes {
		d.lines[minute%ActivityMinutes] += lines
		d.errors[minute%ActivityMinutes] += errors
	}
}

// at returns the counts of a minute.
func (d *activity) at(minute int64) (lines, errors uint32) {
	if minute > d.minute || minute <= d.minute-ActivityMinutes {
		return 0, 0
	}
	return d.lines[minute%ActivityMinutes], d.errors[minute%ActivityMinutes]
}

// Changes says which devices changed since a token, which it gave before.
type Changes struct {
	Token string // for the next time
	// All says that they are not known one by one: the token is none, or another
	// process's. A token does not tell of devices that were deleted.
	All     bool
	Devices []int64 // their ids
	// Filled says that the numbers count what was said before the process began.
	Filled bool
}

// Changes returns the devices that changed since the token, which may be "".
// That minutes pass changes those that said something an hour ago.
func (a *Activity) Changes(token string, now time.Time) Changes {
	minute := minuteOf(now)
	a.mu.Lock()
	defer a.mu.Unlock()
	c := Changes{
		Token:  fmt.Sprintf("%s-%d-%d", a.process, a.changes, minute),
		Filled: a.filled || now.Sub(a.began) >= ActivityMinutes*time.Minute,
	}
	since, before, ok := a.parse(token)
	if !ok || before > minute || before <= minute-ActivityMinutes {
		c.All = true
		return c
	}
	for _, d := range a.devices {
		changed := d.change > since
		for m := before; m < minute && !changed; m++ { // those that have left the hour since
			lines, _ := d.at(m - ActivityMinutes + 1)
			changed = lines > 0
		}
		if changed {
			c.Devices = append(c.Devices, d.id)
		}
	}
	return c
}

func (a *Activity) parse(token string) (change uint64, minute int64, ok bool) {
	rest, ok := strings.CutPrefix(token, a.process+"-")
	first, second, both := strings.Cut(rest, "-")
	change, err := strconv.ParseUint(first, 10, 64)
	minute, err2 := strconv.ParseInt(second, 10, 64)
	return change, minute, ok && both && err == nil && err2 == nil
}

// Recent is what a device said of late.
type Recent struct {
	Last          LastLine
	Lines, Errors int // of the last 60 minutes
}

// Recent returns what the devices with the keys said, in their order.
func (a *Activity) Recent(keys []string, now time.Time) []Recent {
	minute := minuteOf(now)
	all := make([]Recent, len(keys))
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, key := range keys {
		d := a.devices[key]
		if d == nil {
			continue
		}
		all[i].Last = d.last
		for m := max(minute, d.minute) - ActivityMinutes + 1; m <= min(minute, d.minute); m++ {
			all[i].Lines += int(d.lines[m%ActivityMinutes])
			all[i].Errors += int(d.errors[m%ActivityMinutes])
		}
	}
	return all
}

// Minutes returns the lines and errors of a device in each of the last 60
// minutes, the oldest first.
func (a *Activity) Minutes(key string, now time.Time) (lines, errors [ActivityMinutes]int) {
	first := minuteOf(now) - ActivityMinutes + 1
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := a.devices[key]; d != nil {
		for i := range lines {
			l, e := d.at(first + int64(i))
			lines[i], errors[i] = int(l), int(e)
		}
	}
	return lines, errors
}

// FillOptions say what an Activity is filled from.
type FillOptions struct {
	Devices func() []fleet.DeviceRef
	History History // nil: what the journal still has
	Journal Journal
	UpTo    uint64 // what has a later sequence is counted as it comes
	Log     *slog.Logger
}

// Bounds of Fill. On one core, 10 000 devices that said something in the last
// hour take two seconds, and each that did not a millisecond more.
const (
	fillLines   = 2_000_000 // of the last hour, from the history
	fillBatches = 200_000   // from the journal, if there is no history
	fillDevices = 64        // of which the last hour is read together
	fillPause   = 5 * time.Second
)

// Fill adds what was stored before the process began: of each device the lines
// of the last hour, and the last line however long ago that was. When the last
// hour is more than can be read, what is left out is missing until an hour has
// passed. Fill returns when it is done or ctx has ended.
func (a *Activity) Fill(ctx context.Context, o FillOptions) {
	began := time.Now()
	fill := a.fillFromJournal
	if o.History != nil {
		fill = a.fillFromHistory
	}
	whole, err := fill(ctx, o)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		o.Log.Warn("what devices said in the last hour is not known", "err", err)
		return
	}
	a.mu.Lock()
	a.filled = whole
	a.mu.Unlock()
	o.Log.Info("what devices said in the last hour was read", "seconds", time.Since(began).Seconds(), "whole", whole)
}

// tally is what was found of one device.
type tally struct {
	last    LastLine
	minutes map[int64][2]uint32 // lines and errors
}

// add counts a line, the newest so far or else older than the one before.
func (t *tally) add(l *Line, newest bool) {
	if newest || t.last.Received.IsZero() {
		t.last = LastLine{l.Received, string(firstCharacters(l.Message, lastMessage)), l.Level, l.Cursor}
	}
	if t.minutes == nil {
		t.minutes = map[int64][2]uint32{}
	}
	m := t.minutes[minuteOf(l.Received)]
	m[0]++
	if l.Level == Error {
		m[1]++
	}
	t.minutes[minuteOf(l.Received)] = m
}

// put adds what was found to a device, whose last line it only is if none came
// since.
func (a *Activity) put(key string, t *tally) {
	if t.last.Received.IsZero() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.of(key)
	if d == nil {
		return
	}
	if d.last.Received.IsZero() {
		d.last = t.last
	}
	// The newest first, so that none is taken to be too old before all are there.
	newest := int64(math.MinInt64)
	for m := range t.minutes {
		newest = max(newest, m)
	}
	if newest > d.minute {
		d.count(newest, 0, 0)
	}
	for m, n := range t.minutes {
		d.count(m, n[0], n[1])
	}
}

// fillFromHistory reads the last hour of some devices at a time: each reading
// costs something by itself, and one of all devices would hold a chunk of each in
// memory. Those that were silent for longer are then read one by one.
func (a *Activity) fillFromHistory(ctx context.Context, o FillOptions) (whole bool, err error) {
	whole, left := true, fillLines
	for devices := range slices.Chunk(o.Devices(), fillDevices) {
		keys := make([]string, len(devices))
		for i, d := range devices {
			keys[i] = d.Key
		}
		for {
			var ok bool
			ok, err = a.fillDevices(ctx, o, keys, &left)
			if fleet.KindOf(err) != fleet.Unavailable {
				whole = whole && ok && err == nil
				break
			}
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-time.After(fillPause):
			}
		}
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil: // of these devices alone, such as a damaged chunk
			o.Log.Warn("what some devices said in the last hour cannot be read", "devices", keys, "err", err)
		}
	}
	return whole, nil
}

func (a *Activity) fillDevices(ctx context.Context, o FillOptions, keys []string, left *int) (whole bool, err error) {
	found := make(map[string]*tally, len(keys))
	for _, key := range keys {
		found[key] = &tally{}
	}
	add := func(r Result) {
		for i := len(r.Lines) - 1; i >= 0; i-- {
			if l := &r.Lines[i]; l.Cursor.Epoch != a.epoch || l.Cursor.Seq <= o.UpTo {
				found[l.Device].add(l, false)
			}
		}
	}
	q := Query{Devices: keys, Start: time.Now().Add(-ActivityMinutes * time.Minute), Backward: true, Limit: MaxQuery}
	whole = *left > 0
	for more := whole; more; {
		r, err := o.History.Read(ctx, q)
		if err != nil {
			return false, err
		}
		add(r)
		*left -= len(r.Lines)
		more, q.Before = r.More && *left > 0, r.Reached
		whole = whole && (more || !r.More)
	}
	for _, key := range keys {
		if found[key].last.Received.IsZero() {
			r, err := o.History.Read(ctx, Query{Devices: []string{key}, Backward: true, Limit: 1})
			if err != nil {
				return false, err
			}
			add(r)
		}
	}
	for key, t := range found { // at last, so that nothing is counted twice when an error makes it begin anew
		a.put(key, t)
	}
	return whole, nil
}

func (a *Activity) fillFromJournal(ctx context.Context, o FillOptions) (whole bool, err error) {
	oldest, _, err := o.Journal.Bounds(ctx)
	if err != nil {
		return false, err
	}
	after := max(oldest, 1) - 1
	whole = o.UpTo <= fillBatches || after >= o.UpTo-fillBatches
	if !whole {
		after = o.UpTo - fillBatches
	}
	hour := time.Now().Add(-ActivityMinutes * time.Minute)
	found := map[string]*tally{}
	var lines splitter
	_, err = o.Journal.Replay(ctx, nil, after, func(p Page) error {
		for _, rec := range p.Records {
			if rec.Seq > o.UpTo {
				continue
			}
			t := found[rec.Device]
			if t == nil {
				t = &tally{}
				found[rec.Device] = t
			}
			lines.split(rec.Device, Cursor{a.epoch, rec.Seq}, rec.Body, func(l *Line) {
				whole = whole || l.Received.Before(hour)
				t.add(l, true)
			})
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for key, t := range found {
		a.put(key, t)
	}
	return whole, nil
}
