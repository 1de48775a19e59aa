package web

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const defaultLetters = 100

type deadLettersAnswer struct {
	DeadLetters []deadLetter `json:"dead_letters"`
	HasMore     bool         `json:"has_more"`
	Next        *string      `json:"next"` // the next page: cursor=
}

type deadLetter struct {
	ID       string `json:"id"`
	Time     string `json:"time"` // when it was refused
	Sink     string `json:"sink"`
	Reason   string `json:"reason"`
	Cursor   string `json:"cursor"`   // the line's
	Received string `json:"received"` // when the line was
	historyDevice
	Document json.RawMessage `json:"document"`
}

// listDeadLetters answers which lines sinks refused for good:
// ?sink=&order=newest|oldest&cursor=&limit=.
func (s *Server) listDeadLetters(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	v := r.URL.Query()
	p := params{values: v}
	q := logs.DeadQuery{Sink: v.Get("sink"), Newest: true, Limit: p.number("limit", defaultLetters, 1, logs.MaxDeadLetters), After: p.letter("cursor")}
	switch v.Get("order") {
	case "", "newest":
	case "oldest":
		q.Newest = false
	default:
		p.fault("order", "enum", "Input should be 'newest' or 'oldest'")
	}
	if q.Sink != "" && !sinkName(q.Sink) {
		p.fault("sink", "value_error", "Value error, not the name of a sink")
	}
	if len(p.faults) > 0 {
		return p.faults
	}
	a := deadLettersAnswer{DeadLetters: []deadLetter{}}
	if s.undelivered == nil {
		s.write(w, r, http.StatusOK, a)
		return nil
	}
	letters, more, err := s.undelivered.List(r.Context(), q)
	if err != nil {
		return err
	}
	for _, l := range letters {
		d := s.historyDevice(l.Line.Device)
		a.DeadLetters = append(a.DeadLetters, deadLetter{
			ID: strconv.FormatUint(l.Number, 10), Time: timestamp(l.Refused), Sink: l.Sink, Reason: l.Reason, Cursor: l.Line.ID,
			Received: timestamp(l.Line.Received), historyDevice: d, Document: l.Line.Doc,
		})
	}
	if a.HasMore = more; more && len(letters) > 0 {
		a.Next = &a.DeadLetters[len(letters)-1].ID
	}
	s.write(w, r, http.StatusOK, a)
	return nil
}

// retryDeadLetters hands some letters of a sink to it again, the oldest first:
// ?sink=&cursor=.
func (s *Server) retryDeadLetters(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	v := r.URL.Query()
	p := params{values: v}
	after := p.letter("cursor")
	if len(p.faults) > 0 {
		return p.faults
	}
	if s.undelivered == nil {
		return fleet.ErrNotFound("Sink", v.Get("sink"))
	}
	got, err := s.undelivered.Retry(r.Context(), v.Get("sink"), after)
	if err != nil {
		return err
	}
	a := struct {
		Taken   int     `json:"taken"`
		Refused int     `json:"refused"`
		HasMore bool    `json:"has_more"`
		Next    *string `json:"next"`
	}{Taken: got.Taken, Refused: got.Refused, HasMore: got.More}
	if got.More {
		a.Next = new(strconv.FormatUint(got.Last, 10))
	}
	s.write(w, r, http.StatusOK, a)
	return nil
}

// purgeDeadLetters removes the letters of a sink: ?sink=&through=.
func (s *Server) purgeDeadLetters(w http.ResponseWriter, r *http.Request) error {
	if err := s.scope(r).needWhole(); err != nil {
		return err
	}
	v := r.URL.Query()
	p := params{values: v}
	through := p.letter("through")
	if len(p.faults) > 0 {
		return p.faults
	}
	if through == 0 {
		through = math.MaxUint64
	}
	if s.undelivered == nil {
		return fleet.ErrNotFound("Sink", v.Get("sink"))
	}
	n, err := s.undelivered.Purge(r.Context(), v.Get("sink"), through)
	if err != nil {
		return err
	}
	s.write(w, r, http.StatusOK, struct {
		Removed int `json:"removed"`
	}{n})
	return nil
}

// letter reads the number of a dead letter; 0 if there is none.
func (p *params) letter(name string) uint64 {
	text := p.values.Get(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		p.fault(name, "value_error", "Value error, not the id of a dead letter")
	}
	return n
}

// sinkName reports whether text has the form of a sink's name.
func sinkName(text string) bool {
	for _, c := range []byte(text) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(text) <= 64
}
