package elastictest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// query is the part of the query language that Signalbox uses.
type query struct {
	Bool     *boolean
	All      *struct{} `json:"match_all"`
	Term     map[string]string
	Terms    map[string][]string
	Exists   *struct{ Field string }
	Range    map[string]bounds
	Wildcard map[string]struct {
		Value string
		Any   bool `json:"case_insensitive"`
	}
}

type boolean struct {
	Must    []query `json:"must"`
	Filter  []query `json:"filter"`
	MustNot []query `json:"must_not"`
	Should  []query `json:"should"`
	Minimum *int    `json:"minimum_should_match"`
}

// bounds are numbers or times.
type bounds struct{ Gt, Gte, Lt, Lte any }

type found struct {
	item Item
	doc  map[string]any
	sort []int64
}

// selected returns the documents that a search finds.
func (s *Server) selected(pattern string, q query) (hits []found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := matching{s.TextFields}
	for _, d := range s.docs {
		if ok, err := path.Match(pattern, d.item.Index); err == nil && ok && d.found && d.doc != nil && m.match(q, d.doc) {
			hits = append(hits, found{item: d.item, doc: d.doc})
		}
	}
	return hits
}

func decode(w http.ResponseWriter, content []byte, into any) bool {
	strict := json.NewDecoder(bytes.NewReader(content))
	strict.DisallowUnknownFields()
	if err := strict.Decode(into); err != nil {
		complain(w, http.StatusBadRequest, "parsing_exception", err.Error())
		return false
	}
	return true
}

// count answers how many documents there are.
func (s *Server) count(w http.ResponseWriter, pattern string, content []byte) {
	var ask struct{ Query query }
	if decode(w, content, &ask) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"count":%d,"_shards":{"total":1,"successful":1,"skipped":0,"failed":0}}`, len(s.selected(pattern, ask.Query)))
	}
}

// refresh makes everything be found.
func (s *Server) refresh(w http.ResponseWriter) {
	if s.NoRefresh {
		complain(w, http.StatusForbidden, "security_exception", "action [indices:admin/refresh] is unauthorized")
		return
	}
	s.mu.Lock()
	for id, d := range s.docs {
		d.found = true
		s.docs[id] = d
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"_shards":{"total":2,"successful":1,"failed":0}}`)
}

// fieldCaps answers how fields are mapped.
func (s *Server) fieldCaps(w http.ResponseWriter, names string) {
	answer := map[string]any{}
	for name := range strings.SplitSeq(names, ",") {
		kind := "keyword"
		if slices.Contains(s.TextFields, name) {
			kind = "text"
		}
		answer[name] = map[string]any{kind: map[string]any{"type": kind, "searchable": true, "aggregatable": kind != "text"}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"indices": []string{}, "fields": answer}) // the client may have gone
}

// search answers in the order that was asked for. Documents with equal sort
// values come in another order each time, as they may from many shards.
func (s *Server) search(w http.ResponseWriter, pattern string, content []byte) {
	s.searches.Add(1)
	var ask struct {
		Query query
		Sort  []map[string]struct {
			Order    string
			Unmapped string `json:"unmapped_type"`
		}
		Size  int
		Track bool    `json:"track_total_hits"`
		After []int64 `json:"search_after"`
	}
	if !decode(w, content, &ask) {
		return
	}
	if ask.Size > 10_000 {
		complain(w, http.StatusBadRequest, "illegal_argument_exception", "result window is too large")
		return
	}
	if len(ask.After) > 0 && len(ask.After) != len(ask.Sort) {
		complain(w, http.StatusBadRequest, "illegal_argument_exception", "search_after has another number of values than sort")
		return
	}
	if s.Pause > 0 {
		time.Sleep(s.Pause)
	}
	// compare orders by the keys that were asked for.
	compare := func(a, b []int64) int {
		for i, by := range ask.Sort {
			for _, o := range by {
				c := cmp.Compare(a[i], b[i])
				if o.Order == "desc" {
					c = -c
				}
				if c != 0 {
					return c
				}
			}
		}
		return 0
	}
	hits := s.selected(pattern, ask.Query)
	for i := range hits {
		for _, by := range ask.Sort {
			for field, o := range by {
				hits[i].sort = append(hits[i].sort, sortValue(hits[i].doc, field, o.Order))
			}
		}
	}
	total := len(hits)
	if len(ask.After) > 0 {
		hits = slices.DeleteFunc(hits, func(f found) bool { return compare(f.sort, ask.After) <= 0 })
	}
	rand.Shuffle(len(hits), func(i, j int) { hits[i], hits[j] = hits[j], hits[i] })
	slices.SortStableFunc(hits, func(a, b found) int { return compare(a.sort, b.sort) })
	hits = hits[:min(len(hits), ask.Size)]
	var list []string
	for _, f := range hits {
		values, _ := json.Marshal(f.sort) // numbers always marshal
		list = append(list, fmt.Sprintf(`{"_index":%q,"_id":%q,"_score":null,"_source":%s,"sort":%s}`, f.item.Index, f.item.ID, f.item.Doc, values))
	}
	count := ""
	if ask.Track {
		count = fmt.Sprintf(`"total":{"value":%d,"relation":"eq"},`, total)
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"took":1,"timed_out":false,"_shards":{"total":1,"successful":1,"skipped":0,"failed":0},"hits":{%s"max_score":null,"hits":[%s]}}`, count, strings.Join(list, ","))
}

// value returns the value of a field, whose name may have dots.
func value(doc map[string]any, field string) any {
	head, rest, more := strings.Cut(field, ".")
	if !more {
		return doc[head]
	}
	inner, _ := doc[head].(map[string]any)
	return value(inner, rest)
}

// sortValue is a number as the server sorts by: times are milliseconds, and
// what is missing comes last.
func sortValue(doc map[string]any, field, order string) int64 {
	if n, err := number(value(doc, field)); err == nil {
		return n
	}
	if order == "desc" {
		return math.MinInt64
	}
	return math.MaxInt64
}

func millis(s string) (int64, bool) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UnixMilli(), true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

var errNoNumber = errors.New("no number")

// number is a number, or a time in milliseconds.
func number(v any) (int64, error) {
	switch v := v.(type) {
	case float64:
		return int64(v), nil
	case string:
		if t, ok := millis(v); ok {
			return t, nil
		}
	}
	return 0, errNoNumber
}

// matching is how fields are searched.
type matching struct{ text []string }

// terms returns what of a field is in the index: all of it, or the words of a
// text.
func (m matching) terms(doc map[string]any, field string) []string {
	v, ok := value(doc, field).(string)
	if !ok {
		return nil
	}
	if slices.Contains(m.text, field) {
		return strings.FieldsFunc(strings.ToLower(v), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' })
	}
	return []string{v}
}

func (m matching) match(q query, doc map[string]any) bool {
	yes := func(q query) bool { return m.match(q, doc) }
	no := func(q query) bool { return !m.match(q, doc) }
	if b := q.Bool; b != nil {
		least := 0
		if len(b.Should) > 0 && len(b.Must)+len(b.Filter) == 0 {
			least = 1
		}
		if b.Minimum != nil {
			least = *b.Minimum
		}
		fit := 0
		for _, q := range b.Should {
			if yes(q) {
				fit++
			}
		}
		if slices.ContainsFunc(b.Must, no) || slices.ContainsFunc(b.Filter, no) || slices.ContainsFunc(b.MustNot, yes) || fit < least ||
			len(b.Must)+len(b.Filter)+len(b.MustNot)+len(b.Should) == 0 {
			return false
		}
	}
	for field, want := range q.Term {
		if !slices.Contains(m.terms(doc, field), want) {
			return false
		}
	}
	for field, want := range q.Terms {
		if !slices.ContainsFunc(m.terms(doc, field), func(v string) bool { return slices.Contains(want, v) }) {
			return false
		}
	}
	if q.Exists != nil && value(doc, q.Exists.Field) == nil {
		return false
	}
	for field, b := range q.Range {
		at, err := number(value(doc, field))
		if err != nil {
			return false
		}
		beyond := func(bound any, wrong func(int) bool) bool {
			n, err := number(bound)
			return err == nil && wrong(cmp.Compare(at, n))
		}
		if beyond(b.Gte, func(c int) bool { return c < 0 }) || beyond(b.Gt, func(c int) bool { return c <= 0 }) ||
			beyond(b.Lte, func(c int) bool { return c > 0 }) || beyond(b.Lt, func(c int) bool { return c >= 0 }) {
			return false
		}
	}
	for field, w := range q.Wildcard {
		fits := func(text string) bool { return wildcard(w.Value, text, w.Any) }
		if !slices.ContainsFunc(m.terms(doc, field), fits) {
			return false
		}
	}
	return true
}

// lower is what case_insensitive looks at: it is about ASCII only.
func lower(r rune) rune {
	if 'A' <= r && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

// wildcard reports whether all of text fits the pattern, in which \ takes the
// next character as it is.
func wildcard(pattern, text string, anyCase bool) bool {
	s, p := []rune(text), []rune(pattern)
	fits := make([]bool, len(s)+1) // of what was seen of the pattern, by length of text
	fits[0] = true
	for at := 0; at < len(p); at++ {
		c, special := p[at], p[at] == '*' || p[at] == '?'
		if c == '\\' && at+1 < len(p) {
			at++
			c = p[at]
		}
		next := make([]bool, len(s)+1)
		next[0] = fits[0] && special && c == '*'
		for i := range s {
			switch {
			case special && c == '*':
				next[i+1] = fits[i+1] || next[i]
			default:
				next[i+1] = fits[i] && (special || c == s[i] || anyCase && lower(c) == lower(s[i]))
			}
		}
		fits = next
	}
	return fits[len(s)]
}
