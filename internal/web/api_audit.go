package web

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/access"
)

const (
	defaultEvents = 100
	maxEvents     = 1000
)

type eventBody struct {
	ID      int64           `json:"id"`
	At      string          `json:"at"`
	Actor   *string         `json:"actor"`
	Name    *string         `json:"name"`
	Kind    *string         `json:"kind"`
	Action  string          `json:"action"`
	Target  *string         `json:"target"`
	Label   *string         `json:"label"`
	Outcome string          `json:"outcome"`
	Address *string         `json:"address"`
	Detail  json.RawMessage `json:"detail"`
}

func eventOf(e access.Event) eventBody {
	b := eventBody{
		ID: e.ID, At: timestamp(e.At), Actor: textOrNull(e.Actor), Name: textOrNull(e.Name), Kind: textOrNull(string(e.Kind)), Action: e.Action,
		Target: textOrNull(e.Target), Label: textOrNull(e.Label), Outcome: e.Outcome, Address: textOrNull(e.Address), Detail: json.RawMessage("null"),
	}
	if json.Valid([]byte(e.Detail)) {
		b.Detail = json.RawMessage(e.Detail)
	}
	return b
}

// listEvents answers who did what, the newest first: a page of it, or as NDJSON
// or CSV all that passes.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	a, err := s.accounts()
	if err != nil {
		return err
	}
	query := r.URL.Query()
	p := params{values: query}
	filter := access.EventFilter{
		Actor: query.Get("actor"), Action: query.Get("action"), Target: query.Get("target"),
		Since: p.time("since"), Until: p.time("until"),
	}
	if text := query.Get("before"); text != "" {
		if filter.Before, err = strconv.ParseInt(text, 10, 64); err != nil || filter.Before < 1 {
			p.fault("before", "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
		}
	}
	limit := p.number("limit", defaultEvents, 1, maxEvents)
	if len(p.faults) > 0 {
		return p.faults
	}
	if format := exportFormat(r.Header.Get("Accept"), asCSV); format != "" {
		return s.exportEvents(w, r, format, a.Events(r.Context(), filter))
	}
	audited(r.Context()).silent = true
	list := []eventBody{}
	var next *int64
	for e, err := range a.Events(r.Context(), filter) {
		if err != nil {
			return err
		}
		if len(list) == limit {
			next = new(list[limit-1].ID)
			break
		}
		list = append(list, eventOf(e))
	}
	s.write(w, r, http.StatusOK, map[string]any{"events": list, "next": next})
	return nil
}

const asCSV = "text/csv"

// exportEvents streams events, some at a time, for as long as the one who asked may
// see them.
func (s *Server) exportEvents(w http.ResponseWriter, r *http.Request, format string, events iter.Seq2[access.Event, error]) error {
	rc := http.NewResponseController(w)
	var b bytes.Buffer
	table := csv.NewWriter(&b)
	table.UseCRLF = true // RFC 4180, section 2
	name := "audit.ndjson"
	if format == asCSV {
		name = "audit.csv"
		_ = table.Write([]string{"id", "at", "actor", "name", "kind", "action", "target", "label", "outcome", "address", "detail"}) // a buffer takes everything
	}
	send := func() (open bool, err error) {
		table.Flush()
		if err := rc.SetWriteDeadline(time.Now().Add(exportWrite)); err != nil {
			return false, err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return false, nil // the client has gone
		}
		b.Reset()
		return rc.Flush() == nil, nil
	}
	started := false
	start := func() {
		started = true
		w.Header().Set("Content-Type", format+"; charset=utf-8")
		w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
		w.Header().Set("Cache-Control", "no-store")
	}
	const piece = 64 << 10
	for e, err := range events {
		if err != nil {
			return err
		}
		if !started {
			start()
		}
		if format == asLines {
			exportJSON(&b, eventOf(e))
		} else {
			_ = table.Write([]string{strconv.FormatInt(e.ID, 10), timestamp(e.At), cell(e.Actor), cell(e.Name), cell(string(e.Kind)), cell(e.Action),
				cell(e.Target), cell(e.Label), cell(e.Outcome), cell(e.Address), cell(e.Detail)})
		}
		if b.Len() < piece {
			continue
		}
		if _, err := s.still(r, admin); err != nil {
			return err
		}
		if open, err := send(); !open {
			return err
		}
	}
	if !started {
		start()
	}
	if _, err := send(); err != nil {
		return err
	}
	return rc.SetWriteDeadline(time.Time{})
}

// cell returns a text as a cell of a table that a spreadsheet takes for text and
// not for a formula, which could send away what is in the others: names are what
// their owners like.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}
