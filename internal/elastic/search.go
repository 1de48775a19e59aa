package elastic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// MaxPage is the largest size of a page. The servers' own bound for one
// request, index.max_result_window, is twice that.
const (
	MaxPage   = 5000
	maxWindow = 10_000
)

// SearchQuery says which documents are wanted. Its zero value is all of them.
type SearchQuery struct {
	// Device is the key of a device. Entity is the value of the entity field.
	// With both, documents that another program wrote, which know no device,
	// count by their entity.
	Device string
	Entity string

	From, To time.Time // of "@timestamp", both included, to the microsecond; zero: no bound
	Match    string    // a pattern with * and ? for the whole message, without regard to case; "" for any

	Descending bool // newest first
	Size       int  // documents of a page, 1..MaxPage
	After      Place
	Count      bool // fill in Page.Total

	where []any // more conditions
}

// Place is a place in the order of a query: the sort values of a document, as
// the server wrote them.
type Place []json.RawMessage

// Page is a run of documents in order of time in milliseconds, then of the
// journal, then of time in microseconds and of their ids.
type Page struct {
	Hits  []Hit
	Next  Place // for the After of the next page; that of this page if it is empty
	More  bool  // there is a next page
	Total int64 // documents on all pages, if asked for
}

// Hit is one document.
type Hit struct {
	ID     string
	Index  string
	Source json.RawMessage
	Line
}

// Line is what Signalbox knows of a document.
type Line struct {
	Time    time.Time
	Message string
	Entity  string
	// What follows is empty in documents of other programs.
	Device string
	Cursor string // the line's id
	Seq    uint64
	N      int // index within its batch
	Level  string
	Tag    string
	Uptime *time.Duration
}

// Search returns a page. Documents whose places are equal are never parted, so
// that going on with Next neither repeats nor skips one; for that a page may
// have more or fewer than Size. The error is of kind fleet.Unavailable without
// an answer and fleet.External for one that is of no use.
func (c *Client) Search(ctx context.Context, q SearchQuery) (Page, error) {
	if q.Size < 1 || q.Size > MaxPage {
		return Page{}, fleet.E(fleet.Invalid, nil, "The size of a page must be from 1 to %d", MaxPage)
	}
	page := Page{Next: q.After}
	for size := q.Size; ; size = min(2*size, maxWindow-1) {
		said, err := c.search(ctx, q, size+1)
		if err != nil {
			return Page{}, err
		}
		hits := said.Hits.Hits
		page.More = len(hits) > size
		if page.More {
			end := size
			for end > 0 && hits[end-1].Sort.equal(hits[size].Sort) {
				end--
			}
			if len(hits[size].Sort) == 0 || end == 0 && size == maxWindow-1 {
				return Page{}, fleet.E(fleet.External, nil, "The server cannot tell the lines of one moment apart")
			}
			if end == 0 {
				continue
			}
			hits = hits[:end]
		}
		if len(hits) > 0 {
			page.Next = hits[len(hits)-1].Sort
		}
		page.Hits = c.ordered(hits, q.Descending)
		// The server compares milliseconds.
		page.Hits = slices.DeleteFunc(page.Hits, func(h Hit) bool {
			return !h.Time.IsZero() && (!q.From.IsZero() && h.Time.Before(q.From) || !q.To.IsZero() && h.Time.After(q.To))
		})
		page.Total = int64(said.Hits.Total)
		return page, nil
	}
}

// ordered reads hits, and orders those that the server cannot tell apart by the
// time to the microsecond and by id.
func (c *Client) ordered(raw []rawHit, descending bool) []Hit {
	hits := make([]Hit, len(raw))
	for i := range raw {
		hits[i] = Hit{ID: raw[i].ID, Index: raw[i].Index, Source: raw[i].Source, Line: c.line(raw[i])}
	}
	for start := 0; start < len(hits); {
		end := start + 1
		for end < len(hits) && raw[end].Sort.equal(raw[start].Sort) {
			end++
		}
		slices.SortFunc(hits[start:end], func(a, b Hit) int {
			order := cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
			if descending {
				return -order
			}
			return order
		})
		start = end
	}
	return hits
}

func (p Place) equal(o Place) bool {
	return slices.EqualFunc(p, o, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}

type rawHit struct {
	ID     string          `json:"_id"`
	Index  string          `json:"_index"`
	Source json.RawMessage `json:"_source"`
	Sort   Place           `json:"sort"`
}

// count is a number, or an object with one as its value, as servers of today
// write it.
type count int64

func (n *count) UnmarshalJSON(text []byte) error {
	var of struct{ Value int64 }
	if json.Unmarshal(text, &of) == nil {
		*n = count(of.Value)
		return nil
	}
	return json.Unmarshal(text, (*int64)(n))
}

type searchAnswer struct {
	TimedOut bool `json:"timed_out"`
	Shards   struct {
		Failed   int
		Failures json.RawMessage
	} `json:"_shards"`
	Hits *struct {
		Total count
		Hits  []rawHit
	}
}

// search makes one request.
func (c *Client) search(ctx context.Context, q SearchQuery, size int) (searchAnswer, error) {
	return c.find(ctx, c.searchBody(q, size))
}

// find asks for documents.
func (c *Client) find(ctx context.Context, body object) (said searchAnswer, err error) {
	err = c.ask(ctx, "query_logs", "/_search", nil, body, &said, func() error {
		switch {
		case said.Hits == nil:
			return fleet.E(fleet.External, nil, "The answer to a search has no hits")
		case said.TimedOut || said.Shards.Failed > 0:
			// What it found may be only a part.
			return fleet.E(fleet.External, answer{body: said.Shards.Failures}.complaint(), "A part of the server did not answer")
		}
		return nil
	})
	return said, err
}

// ask makes one request about the indices that are read, and reads and checks
// the answer to it. A body that is nil is none.
func (c *Client) ask(ctx context.Context, operation, path string, query url.Values, body object, said any, check func() error) error {
	start := time.Now()
	err := c.askOnce(ctx, path, query, body, said)
	if err == nil && check != nil {
		err = check()
	}
	status := "success"
	if err != nil {
		status = "error"
	}
	c.metrics.searches.WithLabelValues(operation, status).Inc()
	c.metrics.searchTime.WithLabelValues(operation).Observe(time.Since(start).Seconds())
	return err
}

func (c *Client) askOnce(ctx context.Context, path string, query url.Values, body object, said any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fleet.E(fleet.Invalid, err, "The query cannot be asked")
		}
	}
	all := url.Values{"ignore_unavailable": {"true"}, "allow_no_indices": {"true"}}
	maps.Copy(all, query)
	a, _, err := c.post(ctx, searchTimeout, "/"+c.indexPattern+path, "application/json", all, text)
	if err != nil {
		return err
	}
	if a.status/100 != 2 {
		return a.failure(fleet.External)
	}
	if err := json.Unmarshal(a.body, said); err != nil {
		return fleet.E(fleet.External, err, "The answer to a search cannot be read")
	}
	return nil
}

type object = map[string]any

func (c *Client) searchBody(q SearchQuery, size int) object {
	must := slices.Clone(q.where)
	term := func(field, value string) object { return object{"term": object{field: value}} }
	device := ownField + ".device"
	switch {
	case q.Device != "" && q.Entity != "":
		must = append(must, object{"bool": object{"minimum_should_match": 1, "should": []any{
			term(device, q.Device),
			object{"bool": object{"must": []any{term(c.entityField, q.Entity)}, "must_not": []any{object{"exists": object{"field": ownField + ".cursor"}}}}},
		}}})
	case q.Device != "":
		must = append(must, term(device, q.Device))
	case q.Entity != "":
		must = append(must, term(c.entityField, q.Entity))
	}
	if bounds := (object{}); !q.From.IsZero() || !q.To.IsZero() {
		if !q.From.IsZero() {
			bounds["gte"] = q.From.UTC().Format(logs.TimeLayout)
		}
		if !q.To.IsZero() {
			bounds["lte"] = q.To.UTC().Format(logs.TimeLayout)
		}
		must = append(must, object{"range": object{"@timestamp": bounds}})
	}
	if q.Match != "" {
		must = append(must, object{"wildcard": object{"message": object{"value": q.Match, "case_insensitive": true}}})
	}
	if len(must) == 0 { // an empty list is everything, or nothing, as the server likes
		must = append(must, object{"match_all": object{}})
	}
	order := "asc"
	if q.Descending {
		order = "desc"
	}
	by := func(field, kind string) object {
		return object{field: object{"order": order, "unmapped_type": kind}}
	}
	body := object{
		"query":            object{"bool": object{"must": must}},
		"sort":             []any{by("@timestamp", "date"), by(ownField+".seq", "long"), by(ownField+".line", "long")},
		"size":             size,
		"track_total_hits": q.Count,
	}
	if len(q.After) > 0 {
		body["search_after"] = q.After
	}
	return body
}

// line reads what is known of the document. A field of another type than ours
// is as good as none.
func (c *Client) line(raw rawHit) (l Line) {
	var doc map[string]json.RawMessage
	if json.Unmarshal(raw.Source, &doc) != nil {
		return l
	}
	text := func(field string) (s string) {
		_ = json.Unmarshal(doc[field], &s) // see above
		return s
	}
	l.Message, l.Entity = text("message"), text(c.entityField)
	l.Time = parseTime(text("@timestamp"))
	var own struct {
		Device, Cursor, Level, Tag string
		Seq                        uint64
		Line                       int
		Uptime                     *int64 `json:"uptime_ms"`
	}
	if json.Unmarshal(doc[ownField], &own) == nil {
		l.Device, l.Cursor, l.Level, l.Tag, l.Seq, l.N = own.Device, own.Cursor, own.Level, own.Tag, own.Seq, own.Line
		if own.Uptime != nil {
			d := time.Duration(*own.Uptime) * time.Millisecond
			l.Uptime = &d
		}
	}
	if l.Time.IsZero() && len(raw.Sort) > 0 {
		var ms int64
		if json.Unmarshal(raw.Sort[0], &ms) == nil {
			l.Time = time.UnixMilli(ms).UTC()
		}
	}
	return l
}

// parseTime reads the forms that are found in logstash indices, with and
// without a zone, which is UTC then.
func parseTime(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil {
			return t.UTC().Round(time.Microsecond) // a server may have made a float of it
		}
	}
	return time.Time{}
}
