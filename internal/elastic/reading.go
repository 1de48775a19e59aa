package elastic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

var (
	errEnough    = errors.New("enough was read")
	errOvertaken = errors.New("the journal gave up what the server finds by now")
)

// place orders lines. The present journal's epoch is 0, and former ones are
// negative.
type place struct {
	epoch int
	seq   uint64
	line  int
}

const (
	foreign = math.MinInt + 1 // the epoch of documents of other programs
	nowhere = math.MinInt
	forever = math.MaxInt
)

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.epoch, o.epoch), cmp.Compare(p.seq, o.seq), cmp.Compare(p.line, o.line))
}

// reading is one reading of the History.
type reading struct {
	h       *History
	q       logs.Query
	m       *logs.Matcher
	decode  *logs.Decoder
	after   place // lines from after here
	before  place // up to before here
	until   time.Time
	visible uint64 // the server is asked for lines of the present journal up to here
	newest  uint64 // and the journal for those up to here

	lines   []logs.Line // in the order of the search
	full    bool        // there are more
	reached *logs.LineCursor
}

// Read implements logs.History. Its errors are also fleet.External: the server
// answers, and not as it should.
func (h *History) Read(ctx context.Context, q logs.Query) (logs.Result, error) {
	m, err := q.Matcher()
	if err != nil {
		return logs.Result{}, err
	}
	var r *reading
	var lost []logs.Lost
	for until := time.Now().Add(searchTime); r == nil || errors.Is(err, errOvertaken); {
		if r, err = h.newReading(ctx, q); err != nil {
			return logs.Result{}, err
		}
		r.m, r.until = m, until
		lost, err = r.all(ctx)
	}
	if err != nil {
		return logs.Result{}, err
	}
	result := logs.Result{Lines: r.lines, More: r.full || r.reached != nil, Complete: logs.LineCursor{Cursor: logs.Cursor{Epoch: h.Journal.Epoch(), Seq: r.newest}, Line: logs.WholeBatch}, Lost: lost}
	if n := len(r.lines); r.reached != nil {
		result.Reached = *r.reached
	} else if n > 0 {
		result.Reached = r.lines[n-1].Cursor
	}
	if q.Backward {
		slices.Reverse(result.Lines)
	} else if result.More {
		result.Complete = result.Reached
	}
	missing, err := r.missing(ctx, result)
	if err != nil {
		return logs.Result{}, err
	}
	result.Lost = append(missing, result.Lost...)
	return result, nil
}

// missing returns what the server was never given of the part that was searched
// there.
func (r *reading) missing(ctx context.Context, found logs.Result) (missing []logs.Lost, err error) {
	from, to := r.after, r.before
	if found.More {
		epoch, err := r.h.number(ctx, found.Reached.Epoch)
		if err != nil {
			return nil, err
		}
		if at := (place{epoch, found.Reached.Seq, 0}); r.q.Backward {
			from = at
		} else {
			to = at
		}
	}
	for _, l := range r.h.Lost() {
		epoch, err := r.h.number(ctx, l.Epoch)
		switch {
		case err != nil && fleet.KindOf(err) == fleet.Invalid: // a journal of which the server has nothing any more
			continue
		case err != nil:
			return nil, err
		case l.Device != "" && r.q.Devices != nil && !slices.Contains(r.q.Devices, l.Device),
			epoch == 0 && l.From >= r.visible, // read from the journal, which has it
			!l.Most.IsZero() && (!r.q.Start.IsZero() && l.Most.Before(r.q.Start) || !r.q.End.IsZero() && l.Least.After(r.q.End)),
			place{epoch, l.To, math.MaxInt}.compare(from) <= 0 || place{epoch, l.From + 1, 0}.compare(to) >= 0:
			continue
		}
		missing = append(missing, l)
	}
	return missing, nil
}

func (h *History) newReading(ctx context.Context, q logs.Query) (*reading, error) {
	if !h.known.Load() {
		if err := h.advance(ctx); err != nil && fleet.KindOf(err) != fleet.External {
			return nil, failure(err)
		}
	}
	// First what is found and then what there is: what comes in between is in the
	// journal too.
	r := &reading{h: h, q: q, visible: h.visible.Load(), decode: logs.NewDecoder(h.Client.entityField), after: place{epoch: nowhere}, before: place{epoch: forever}}
	var err error
	if r.newest, err = h.Journal.Newest(ctx); err != nil {
		return nil, err
	}
	bound := func(to *place, c logs.LineCursor, whole int) error {
		if c == (logs.LineCursor{}) {
			return nil
		}
		if c.Line != logs.WholeBatch {
			whole = c.Line
		}
		epoch, err := h.number(ctx, c.Epoch)
		*to = place{epoch, c.Seq, whole}
		return err
	}
	return r, errors.Join(bound(&r.after, q.After, math.MaxInt), bound(&r.before, q.Before, -1))
}

// number returns the number of the epoch in the order of places.
func (h *History) number(ctx context.Context, epoch string) (int, error) {
	switch epoch {
	case h.Journal.Epoch():
		return 0, nil
	case foreignEpoch:
		return foreign, nil
	}
	epochs, _, err := h.look(ctx)
	if err != nil {
		return 0, failure(err)
	}
	i := slices.Index(epochs, epoch)
	if i < 0 {
		return 0, fleet.E(fleet.Invalid, nil, "The cursor is not of this history")
	}
	return i - len(epochs), nil
}

// done reports whether nothing more is to be looked for.
func (r *reading) done() bool { return r.full || r.reached != nil }

// part reports whether lines with that epoch may be selected.
func (r *reading) part(epoch int) bool {
	return r.after.epoch <= epoch && epoch <= r.before.epoch && !r.done()
}

// all reads every part, in the order of the search.
func (r *reading) all(ctx context.Context) (lost []logs.Lost, err error) {
	if r.q.Devices != nil && len(r.q.Devices) == 0 {
		return nil, nil
	}
	if r.q.Backward && r.part(0) {
		if lost, err = r.journal(ctx); err != nil {
			return nil, err
		}
	}
	if r.done() || r.after.compare(place{0, r.visible, math.MaxInt}) >= 0 {
		if !r.q.Backward && r.part(0) {
			return r.journal(ctx)
		}
		return lost, nil
	}
	former, plain, err := r.h.look(ctx)
	if err != nil {
		return nil, failure(err)
	}
	parts := []func() error{func() error { return r.foreign(ctx, plain) }}
	for i, name := range append(slices.Clone(former), r.h.Journal.Epoch()) {
		parts = append(parts, func() error { return r.epoch(ctx, name, i-len(former), plain) })
	}
	if r.q.Backward {
		slices.Reverse(parts)
	}
	for _, read := range parts {
		if err := read(); err != nil {
			return nil, failure(err)
		}
	}
	if !r.q.Backward && r.part(0) {
		return r.journal(ctx)
	}
	return lost, nil
}

// take adds the line, if it is selected. What it holds may be used again.
func (r *reading) take(l *logs.Line, at place) {
	if at.compare(r.after) <= 0 || at.compare(r.before) >= 0 || !r.q.Start.IsZero() && l.Received.Before(r.q.Start) ||
		!r.q.End.IsZero() && l.Received.After(r.q.End) || r.full || !r.m.Match(l.Level, l.Tag, l.Message) {
		return
	}
	again := len(r.lines) > 0 && r.lines[len(r.lines)-1].Cursor == l.Cursor
	switch {
	case again && at.epoch != foreign:
		return // a copy that somebody made
	case !again && len(r.lines) >= r.q.Limit: // about again see foreignPlace
		r.full = true
		return
	}
	r.lines = append(r.lines, *l)
	last := &r.lines[len(r.lines)-1]
	last.Message = bytes.Clone(last.Message)
}

// size is how many documents are asked for next.
func (r *reading) size(server bool) int {
	want := r.q.Limit + 1 - len(r.lines)
	if !server {
		want = max(want, 1000) // many of them may be dropped here
	}
	return min(max(want, 10), MaxPage)
}

// conditions are what the server is to look at: at least what is selected.
func (r *reading) conditions(plain fields) (conditions []any, exact bool) {
	bounds := object{}
	if !r.q.Start.IsZero() {
		bounds["gte"] = r.q.Start.UTC().Format(logs.TimeLayout)
	}
	if !r.q.End.IsZero() {
		bounds["lte"] = r.q.End.UTC().Format(logs.TimeLayout)
	}
	if len(bounds) > 0 {
		conditions = append(conditions, object{"range": object{"@timestamp": bounds}})
	}
	if r.m == nil {
		return conditions, true
	}
	if glob := r.m.Glob(sameCase); glob != "" && plain.message {
		// What is too long for an index is in no field, and looked at here.
		conditions = append(conditions, either(wildcard("message", glob), not(exists("message"))))
	}
	return conditions, r.m.All()
}

func wildcard(field, pattern string) object {
	return object{"wildcard": object{field: object{"value": pattern, "case_insensitive": true}}}
}

// sameCase reports whether the server and we agree on the upper and lower case
// of a letter: of ASCII it knows nothing but ASCII, and we hold the Kelvin sign
// for a k, the long s for an s and the dotted capital I for an i.
func sameCase(r rune) bool { return r < 0x80 && r != 'i' && r != 'k' && r != 's' }

// ownConditions are more of them, for lines of ours.
func (r *reading) ownConditions(plain fields) (conditions []any) {
	if r.q.Devices == nil {
		conditions = append(conditions, exists(ownField+".device"))
	} else {
		conditions = append(conditions, object{"terms": object{ownField + ".device": r.q.Devices}})
	}
	if r.q.Filter.Level != logs.Unknown {
		var names []string
		for l := logs.Error; l <= min(r.q.Filter.Level, logs.Verbose); l++ {
			names = append(names, l.String())
		}
		level := ownField + ".level"
		conditions = append(conditions, either(object{"terms": object{level: names}}, not(exists(level))))
	}
	if tag := r.q.Filter.Tag; tag != "" && plain.tag {
		pattern := strings.Map(func(c rune) rune {
			if !sameCase(unicode.ToLower(c)) || strings.ContainsRune(`*?\`, c) {
				return '?'
			}
			return c
		}, tag)
		conditions = append(conditions, wildcard(ownField+".tag", pattern))
	}
	return conditions
}

// epoch reads what the server has of one journal.
func (r *reading) epoch(ctx context.Context, name string, number int, plain fields) error {
	if !r.part(number) {
		return nil
	}
	filter, exact := r.conditions(plain)
	filter = append(filter, r.ownConditions(plain)...)
	filter = append(filter, r.seqs(name, number)...)
	order := "asc"
	if r.q.Backward {
		order = "desc"
	}
	var next Place
	for most := MaxPage; ; {
		size := min(r.size(exact), most)
		body := object{
			"query": object{"bool": object{"filter": filter}}, "size": size, "track_total_hits": false,
			"sort": []any{sortBy(ownField+".seq", "long", order), sortBy(ownField+".line", "long", order)},
		}
		if next != nil {
			body["search_after"] = next
		}
		said, err := r.h.Client.find(ctx, body)
		if errors.Is(err, errTooLong) && size > 10 {
			most = size / 4
			continue
		}
		if err != nil {
			return err
		}
		hits := said.Hits.Hits
		var last logs.LineCursor
		for _, raw := range hits {
			hit := Hit{ID: raw.ID, Source: raw.Source, Line: r.h.Client.line(raw)}
			last = logs.LineCursor{Cursor: logs.Cursor{Epoch: name, Seq: hit.Seq}, Line: hit.N}
			if l, ok := r.line(hit, last, hit.Device); ok {
				r.take(&l, place{number, hit.Seq, hit.N})
			}
		}
		if r.done() || len(hits) < size {
			return nil
		}
		if next = hits[len(hits)-1].Sort; len(next) == 0 {
			return fleet.E(fleet.External, nil, "The server does not sort")
		}
		if time.Now().After(r.until) {
			r.reached = &last
			return nil
		}
	}
}

// seqs are the conditions for the lines of one journal within the bounds.
func (r *reading) seqs(name string, number int) []any {
	conditions := []any{object{"term": object{ownField + ".epoch": name}}}
	seqs := func(bound string, seq uint64) {
		conditions = append(conditions, object{"range": object{ownField + ".seq": object{bound: seq}}})
	}
	if number == 0 {
		seqs("lte", r.visible)
	}
	switch {
	case r.after.epoch == number && r.after.line == math.MaxInt:
		seqs("gt", r.after.seq)
	case r.after.epoch == number:
		seqs("gte", r.after.seq)
	}
	switch {
	case r.before.epoch == number && r.before.line < 0:
		seqs("lt", r.before.seq)
	case r.before.epoch == number:
		seqs("lte", r.before.seq)
	}
	return conditions
}

// line makes the line of a document.
func (r *reading) line(hit Hit, at logs.LineCursor, device string) (logs.Line, bool) {
	e, ok := hit.Entry(r.decode)
	if !ok {
		return logs.Line{}, false
	}
	return e.Line(at, device, hit.Time)
}

// Entry returns the document as it would have been journalled. It is valid until
// the decoder is used again. It reports false for what is no document.
func (h *Hit) Entry(d *logs.Decoder) (logs.Entry, bool) {
	doc, ok := withoutOwn(h.Source)
	if !ok {
		return logs.Entry{}, false
	}
	entries := d.Decode(nil, doc, h.Time, func(logs.Reason) {})
	if len(entries) != 1 {
		return logs.Entry{}, false
	}
	e := entries[0]
	if h.Cursor != "" { // what was recognised then
		e.Level, _ = logs.ParseLevel(h.Level)
		e.Tag, e.Uptime, e.HasUptime = h.Tag, 0, h.Uptime != nil
		if e.HasUptime {
			e.Uptime = *h.Uptime
		}
	}
	return e, true
}

// withoutOwn returns a document as the device sent it, on one line.
func withoutOwn(source json.RawMessage) ([]byte, bool) {
	d := json.NewDecoder(bytes.NewReader(source))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	b := make([]byte, 0, len(source))
	b = append(b, '{')
	for d.More() {
		key, err := d.Token()
		name, ok := key.(string)
		if err != nil || !ok {
			return nil, false
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return nil, false
		}
		switch name {
		case ownField:
			if value[0] == '{' {
				continue
			}
		case sentField:
			name = ownField
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, false
		}
		b = append(append(append(b, quoted...), ':'), value...)
	}
	var line bytes.Buffer
	if json.Compact(&line, append(b, '}')) != nil {
		return nil, false
	}
	return line.Bytes(), true
}

// journal reads what the server may not find yet.
func (r *reading) journal(ctx context.Context) (lost []logs.Lost, err error) {
	from := r.visible
	if r.after.epoch == 0 && r.after.seq > 0 {
		from = max(from, r.after.seq-1)
	}
	if from >= r.newest || r.before.epoch < 0 || r.before.epoch == 0 && r.before.seq <= from {
		return nil, nil
	}
	epoch := r.h.Journal.Epoch()
	limit := r.q.Limit
	if r.q.Backward { // the newest are found last
		r.q.Limit = math.MaxInt
		defer func() { r.q.Limit = limit }()
	}
	read := from
	missing := func(oldest uint64) error {
		switch {
		case oldest <= read+1:
			return nil
		case r.h.visible.Load() > r.visible:
			return errOvertaken
		}
		lost = append(lost, logs.Lost{Epoch: epoch, From: read, To: oldest - 1, Reason: logs.LostJournal})
		read = oldest - 1
		return nil
	}
	_, err = r.h.Journal.Replay(ctx, r.q.Devices, from, func(p logs.Page) error {
		if err := missing(p.Oldest); err != nil {
			return err
		}
		for _, l := range p.Lost {
			if l.From < r.newest && l.To > from {
				lost = append(lost, l)
			}
		}
		for i := range p.Records {
			rec := &p.Records[i]
			if rec.Seq > r.newest || r.before.epoch == 0 && rec.Seq > r.before.seq {
				return errEnough
			}
			read = max(read, rec.Seq)
			rec.Lines(epoch, func(l *logs.Line) { r.take(l, place{0, l.Cursor.Seq, l.Cursor.Line}) })
			switch {
			case r.full:
				return errEnough
			case r.q.Backward && len(r.lines) > 2*(limit+1):
				r.lines = slices.Delete(r.lines, 0, len(r.lines)-limit-1)
			}
		}
		if time.Now().After(r.until) {
			if r.q.Backward {
				return fleet.E(fleet.Unavailable, nil, "Elasticsearch is too far behind to be read")
			}
			r.reached = &logs.LineCursor{Cursor: logs.Cursor{Epoch: epoch, Seq: read}, Line: logs.WholeBatch}
			return errEnough
		}
		return nil
	})
	if err == nil { // what was given up before there was a page
		var oldest uint64
		if oldest, _, err = r.h.Journal.Bounds(ctx); err == nil {
			err = missing(oldest)
		}
	}
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	if r.q.Backward {
		slices.Reverse(r.lines)
		if r.full = len(r.lines) > limit; r.full {
			r.lines = r.lines[:limit]
		}
	}
	return lost, nil
}

// foreign reads the documents of other programs.
func (r *reading) foreign(ctx context.Context, plain fields) error {
	if !r.part(foreign) {
		return nil
	}
	entities, ok := r.entities()
	if !ok {
		return nil
	}
	filter, exact := r.conditions(plain)
	filter = append(filter, entities, not(exists(ownField+".cursor")))
	at := func(seq uint64) string { return foreignTime(seq).Format(logs.TimeLayout) }
	if r.after.epoch == foreign {
		filter = append(filter, object{"range": object{"@timestamp": object{"gte": at(r.after.seq)}}})
	}
	if r.before.epoch == foreign {
		filter = append(filter, object{"range": object{"@timestamp": object{"lte": at(r.before.seq)}}})
	}
	q := SearchQuery{Descending: r.q.Backward, where: filter}
	for {
		q.Size = r.size(exact)
		page, err := r.h.Client.Search(ctx, q)
		if err != nil {
			return err
		}
		type foreignHit struct {
			Hit
			at place
		}
		hits := make([]foreignHit, len(page.Hits))
		for i, h := range page.Hits {
			hits[i] = foreignHit{h, foreignPlace(h)}
		}
		slices.SortStableFunc(hits, func(a, b foreignHit) int {
			if r.q.Backward {
				return b.at.compare(a.at)
			}
			return a.at.compare(b.at)
		})
		for i := range hits {
			h := &hits[i]
			cursor := logs.LineCursor{Cursor: logs.Cursor{Epoch: foreignEpoch, Seq: h.at.seq}, Line: h.at.line}
			device, ok := r.owner(h.Entity)
			if !ok {
				continue
			}
			if l, ok := r.line(h.Hit, cursor, device); ok {
				r.take(&l, h.at)
			}
		}
		if q.After = page.Next; r.done() || !page.More {
			return nil
		}
		if time.Now().After(r.until) && len(hits) > 0 {
			last := hits[len(hits)-1].at
			r.reached = &logs.LineCursor{Cursor: logs.Cursor{Epoch: foreignEpoch, Seq: last.seq}, Line: last.line}
			return nil
		}
	}
}

// A document of another program has its place by its time, in microseconds, and
// by 25 bits of a digest of its id: 12 in the sequence, the others in the line.
// Two of one microsecond that have the same ones are never parted, so that even
// then pages neither skip nor repeat any.
const (
	foreignBits  = 12
	foreignLines = 1 << 13 // fewer than a batch may have
)

func foreignPlace(h Hit) place {
	digest := fnv.New64a()
	digest.Write([]byte(h.ID)) // a hash takes everything
	sum := digest.Sum64()
	sum ^= sum >> 32
	return place{foreign, uint64(max(0, h.Time.UnixMicro()))<<foreignBits | sum>>13&(1<<foreignBits-1), int(sum % foreignLines)}
}

func foreignTime(seq uint64) time.Time { return time.UnixMicro(int64(seq >> foreignBits)).UTC() }

// maxEntities is how many entity ids a query names. Where there are more, all
// documents are looked at.
const maxEntities = 10_000

// entities is the condition for documents of other programs, false if there can
// be none.
func (r *reading) entities() (object, bool) {
	var names []string
	if r.q.Devices == nil {
		for _, d := range r.h.Devices.All() {
			names = append(names, d.EntityID)
		}
	}
	for _, key := range r.q.Devices {
		if d, ok := r.h.Devices.ByKey(key); ok {
			names = append(names, d.EntityID)
		}
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(s string) bool { return s == "" })
	if len(names) > maxEntities {
		return exists(r.h.Client.entityField), true
	}
	return object{"terms": object{r.h.Client.entityField: names}}, len(names) > 0
}

// owner returns the device that a document of another program is shown for: of
// those that share its entity id, the first that is asked for.
func (r *reading) owner(entity string) (string, bool) {
	for _, d := range r.h.Devices.ByEntity(entity) {
		if r.q.Devices == nil || slices.Contains(r.q.Devices, d.Key) {
			return d.Key, true
		}
	}
	return "", false
}
