package elastictest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// query is the part of the query language that Signalbox uses.
type query struct {
	Bool *struct {
		Must    []query `json:"must"`
		MustNot []query `json:"must_not"`
		Should  []query `json:"should"`
		Minimum int     `json:"minimum_should_match"`
	}
	All      *struct{} `json:"match_all"`
	Term     map[string]string
	Exists   *struct{ Field string }
	Range    map[string]struct{ Gte, Lte string }
	Wildcard map[string]struct {
		Value string
		Any   bool `json:"case_insensitive"`
	}
}

type found struct {
	item Item
	doc  map[string]any
	sort []int64
}

// search answers in the order that was asked for. Documents with equal sort
// values come in another order each time, as they may from many shards.
func (s *Server) search(w http.ResponseWriter, pattern string, content []byte) {
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
	strict := json.NewDecoder(bytes.NewReader(content))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&ask); err != nil {
		complain(w, http.StatusBadRequest, "parsing_exception", err.Error())
		return
	}
	if ask.Size > 10_000 {
		complain(w, http.StatusBadRequest, "illegal_argument_exception", "result window is too large")
		return
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
	var hits []found
	for _, item := range s.Docs() {
		f := found{item: item}
		if ok, err := path.Match(pattern, item.Index); err != nil || !ok || json.Unmarshal(item.Doc, &f.doc) != nil || !ask.Query.match(f.doc) {
			continue
		}
		for _, by := range ask.Sort {
			for field, o := range by {
				f.sort = append(f.sort, sortValue(f.doc, field, o.Order))
			}
		}
		hits = append(hits, f)
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
	switch v := value(doc, field).(type) {
	case float64:
		return int64(v)
	case string:
		if t, ok := millis(v); ok {
			return t
		}
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

func (q query) match(doc map[string]any) bool {
	if b := q.Bool; b != nil {
		matches := func(q query) bool { return q.match(doc) }
		if slices.ContainsFunc(b.Must, func(q query) bool { return !q.match(doc) }) || slices.ContainsFunc(b.MustNot, matches) ||
			len(b.Must)+len(b.MustNot)+len(b.Should) == 0 || b.Minimum > 0 && !slices.ContainsFunc(b.Should, matches) {
			return false
		}
	}
	for field, want := range q.Term {
		if value(doc, field) != any(want) {
			return false
		}
	}
	if q.Exists != nil && value(doc, q.Exists.Field) == nil {
		return false
	}
	for field, bounds := range q.Range {
		text, _ := value(doc, field).(string)
		at, ok := millis(text)
		if !ok {
			return false
		}
		if from, ok := millis(bounds.Gte); ok && at < from {
			return false
		}
		if to, ok := millis(bounds.Lte); ok && at > to {
			return false
		}
	}
	for field, w := range q.Wildcard {
		text, _ := value(doc, field).(string)
		pattern := w.Value
		if w.Any {
			text, pattern = strings.ToLower(text), strings.ToLower(pattern)
		}
		if !wildcard(pattern, text) {
			return false
		}
	}
	return true
}

// wildcard reports whether all of text fits the pattern of * and ?.
func wildcard(pattern, text string) bool {
	s := []rune(text)
	fits := make([]bool, len(s)+1) // of what was seen of the pattern, by length of text
	fits[0] = true
	for _, c := range pattern {
		next := make([]bool, len(s)+1)
		next[0] = fits[0] && c == '*'
		for i := range s {
			switch {
			case c == '*':
				next[i+1] = fits[i+1] || next[i]
			default:
				next[i+1] = fits[i] && (c == '?' || c == s[i])
			}
		}
		fits = next
	}
	return fits[len(s)]
}
