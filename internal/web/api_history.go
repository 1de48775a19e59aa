package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

const (
	defaultLines = 1000
	exportPage   = 5000             // lines read at a time
	exportWrite  = 30 * time.Second // for a client to take that
	maxDevices   = 1000             // named in one request
)

// deviceHistory answers what one device said before.
func (s *Server) deviceHistory(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	d, err := s.scope(r).device(id)
	if err != nil {
		return err
	}
	return s.answerHistory(w, r, []string{d.Key})
}

// fleetHistory does the same for several devices: ?device_ids=1,2, ?model_id=3,
// or all.
func (s *Server) fleetHistory(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	devices, err := selectedDevices(s.scope(r), query)
	if err != nil {
		return err
	}
	e := audited(r.Context())
	for _, name := range []string{"device_ids", "model_id"} {
		if text := strings.Join(query[name], ","); text != "" {
			e.detail(name, text[:min(len(text), 1000)])
		}
	}
	return s.answerHistory(w, r, devices)
}

// selectedDevices returns the keys of the devices that a query names, nil for all.
func selectedDevices(sc scope, query url.Values) ([]string, error) {
	named, err := namedDevices(sc, query, maxDevices)
	if err != nil {
		return nil, err
	}
	if len(named) == 0 && query.Get("model_id") == "" {
		return sc.keys(), nil
	}
	var keys []string
	for _, ref := range named {
		keys = append(keys, ref.Key)
	}
	if text := query.Get("model_id"); text != "" {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || keys != nil {
			return nil, fleet.E(fleet.Invalid, nil, "model_id must be a number, and not be used with device_ids")
		}
		keys = []string{}
		for _, ref := range sc.devices() {
			if ref.ModelID == id {
				keys = append(keys, ref.Key)
			}
		}
	}
	return keys, nil
}

// namedDevices returns the devices of device_ids, at most that many.
func namedDevices(sc scope, query url.Values, most int) (devices []fleet.DeviceRef, err error) {
	for _, list := range query["device_ids"] {
		for text := range strings.SplitSeq(list, ",") {
			id, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				return nil, fleet.E(fleet.Invalid, nil, "device_ids must be numbers, separated by commas")
			}
			ref, err := sc.device(id)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(devices, ref) {
				devices = append(devices, ref)
			}
			if len(devices) > most {
				return nil, fleet.E(fleet.Invalid, nil, "At most %d devices can be named", most)
			}
		}
	}
	return devices, nil
}

// answerHistory answers a query, in the form that the client accepts.
func (s *Server) answerHistory(w http.ResponseWriter, r *http.Request, devices []string) error {
	q, window, err := historyQuery(r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	q.Devices = devices
	documents, err := withDocuments(r.URL.Query())
	if err != nil {
		return err
	}
	switch export := exportFormat(r.Header.Get("Accept"), asText); {
	case export != "":
		audited(r.Context()).action = actionExport
		return s.export(w, r, q, export, r.URL.Query().Has("limit"))
	case s.history == nil:
		s.write(w, r, http.StatusOK, historyAnswer{Logs: []historyLine{}, Gaps: []historyGap{}})
		return nil
	}
	found, err := s.history.Read(r.Context(), q)
	if err != nil {
		return err
	}
	if window && found.More {
		found.Lines = wholeInstants(found.Lines, q.Backward)
	}
	a := s.historyAnswer(q, found)
	if documents {
		for i := range a.Logs {
			a.Logs[i].Document = found.Lines[i].AppendDoc(nil)
		}
	}
	s.write(w, r, http.StatusOK, a)
	return nil
}

// withDocuments reports whether each line shall come with its document:
// ?documents=true.
func withDocuments(v url.Values) (bool, error) {
	switch v.Get("documents") {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, fleet.E(fleet.Invalid, nil, "documents must be true or false")
	}
}

// wholeInstants drops the lines at the open end of a page that have the same
// time, unless that is all: the next page is asked for by time, and would
// otherwise begin behind the rest of them, or with them again.
func wholeInstants(lines []logs.Line, backward bool) []logs.Line {
	if len(lines) == 0 {
		return lines
	}
	if backward {
		for i, l := range lines {
			if !l.Received.Equal(lines[0].Received) {
				return lines[i:]
			}
		}
		return lines
	}
	last := len(lines) - 1
	for i := last; i >= 0; i-- {
		if !lines[i].Received.Equal(lines[last].Received) {
			return lines[:i+1]
		}
	}
	return lines
}

// historyAnswer is a page of the history. The fields up to WindowEnd are those
// of the reference system.
type historyAnswer struct {
	Logs        []historyLine `json:"logs"`
	HasMore     bool          `json:"has_more"`
	WindowStart *string       `json:"window_start"`
	WindowEnd   *string       `json:"window_end"`

	FirstCursor *string      `json:"first_cursor"` // the next page back: before=
	LastCursor  *string      `json:"last_cursor"`  // the next page on: after=
	CompleteTo  *string      `json:"complete_to"`  // where a subscription goes on without a seam
	Gaps        []historyGap `json:"gaps"`
}

type historyLine struct {
	Timestamp string  `json:"timestamp"`
	Message   string  `json:"message"`
	Cursor    string  `json:"cursor"`
	Level     *string `json:"level"`
	Tag       *string `json:"tag"`
	UptimeMS  *int64  `json:"uptime_ms"`
	historyDevice
	Document json.RawMessage `json:"document,omitempty"` // as the device-logs event has it; where it is asked for
}

type historyDevice struct {
	DeviceID       *int64  `json:"device_id"`
	DeviceKey      string  `json:"device_key"`
	DeviceEntityID *string `json:"device_entity_id"`
}

// historyGap says that lines are gone. It has the fields of the log-gap event.
type historyGap struct {
	historyDevice
	From   string  `json:"from"`
	To     string  `json:"to"`
	Since  *string `json:"since"` // when the lines were received, if known
	Until  *string `json:"until"`
	Count  *int    `json:"count"`
	Reason string  `json:"reason"`
}

func (s *Server) historyAnswer(q logs.Query, found logs.Result) historyAnswer {
	a := historyAnswer{Logs: make([]historyLine, 0, len(found.Lines)), HasMore: found.More, Gaps: []historyGap{}}
	text := func(c logs.LineCursor) *string {
		t := c.String()
		return &t
	}
	for i := range found.Lines {
		a.Logs = append(a.Logs, s.historyLine(&found.Lines[i]))
	}
	for _, l := range found.Lost {
		a.Gaps = append(a.Gaps, s.historyGap(l))
	}
	a.CompleteTo = text(found.Complete)
	if n := len(found.Lines); n > 0 {
		first, last := found.Lines[0], found.Lines[n-1]
		a.FirstCursor, a.LastCursor = text(first.Cursor), text(last.Cursor)
		// A page that is asked for by the end of this one's window has no line of
		// this one and misses none: that is 1 µs, the resolution of the times.
		if q.Backward {
			a.WindowStart, a.WindowEnd = new(timestamp(first.Received.Add(-time.Microsecond))), new(timestamp(last.Received))
		} else {
			a.WindowStart, a.WindowEnd = new(timestamp(first.Received)), new(timestamp(last.Received.Add(time.Microsecond)))
		}
	}
	if found.More && len(found.Lines) == 0 { // the time for the search was up
		if q.Backward {
			a.FirstCursor = text(found.Reached)
		} else {
			a.LastCursor = text(found.Reached)
		}
	}
	return a
}

func (s *Server) historyDevice(key string) historyDevice {
	d := historyDevice{DeviceKey: key}
	if ref, ok := s.registry.Directory().ByKey(key); ok {
		d.DeviceID, d.DeviceEntityID = &ref.ID, textOrNull(ref.EntityID)
	}
	return d
}

func (s *Server) historyLine(l *logs.Line) historyLine {
	h := historyLine{
		Timestamp: timestamp(l.Received), Message: string(l.Message), Cursor: l.Cursor.String(),
		Level: textOrNull(l.Level.String()), Tag: textOrNull(l.Tag), historyDevice: s.historyDevice(l.Device),
	}
	if l.HasUptime {
		h.UptimeMS = new(l.Uptime.Milliseconds())
	}
	return h
}

func (s *Server) historyGap(l logs.Lost) historyGap {
	g := historyGap{
		historyDevice: s.historyDevice(l.Device), Reason: l.Reason,
		From: logs.Cursor{Epoch: l.Epoch, Seq: l.From}.String(), To: logs.Cursor{Epoch: l.Epoch, Seq: l.To}.String(),
	}
	if l.Lines > 0 {
		g.Count = &l.Lines
	}
	if !l.Most.IsZero() {
		g.Since, g.Until = timestampOrNull(&l.Least), timestampOrNull(&l.Most)
	}
	return g
}

// historyQuery reads the parameters of a query. window says that the next page
// will be asked for by time, as the reference page does.
func historyQuery(v url.Values, now time.Time) (q logs.Query, window bool, err error) {
	p := params{values: v}
	q = logs.Query{
		After: p.cursor("after"), Before: p.cursor("before"), Start: p.time("start"), End: p.time("end"),
		Limit:  p.number("limit", defaultLines, 1, logs.MaxQuery),
		Filter: logs.Filter{Level: p.level("level"), Tag: v.Get("tag"), Pattern: v.Get("query"), Regex: v.Get("regex")},
	}
	switch {
	case v.Get("before") != "" || v.Get("after") != "":
		q.Backward = v.Get("after") == ""
	case q.Start.IsZero() && !q.End.IsZero():
		q.Backward, window = true, true
	default:
		window = true
		if q.Start.IsZero() {
			q.Start = now.Add(-time.Hour)
		}
		if q.End.IsZero() {
			q.End = now
		}
	}
	if len(p.faults) > 0 {
		return q, false, p.faults
	}
	return q, window, nil
}

// params reads query parameters and gathers what is wrong with them.
type params struct {
	values url.Values
	faults violations
}

func (p *params) fault(name, kind, msg string) {
	p.faults = append(p.faults, violation{kind, []any{name}, msg, p.values.Get(name), violationURL + kind})
}

func (p *params) cursor(name string) (c logs.LineCursor) {
	text := p.values.Get(name)
	if text == "" {
		return c
	}
	c, err := logs.ParseLineCursor(text)
	if err != nil {
		p.fault(name, "value_error", "Value error, not a cursor")
	}
	return c
}

func (p *params) level(name string) logs.Level {
	text := p.values.Get(name)
	if text == "" {
		return logs.Unknown
	}
	l, ok := logs.ParseLevel(text)
	if !ok {
		p.fault(name, "enum", "Input should be 'error', 'warn', 'info', 'debug' or 'verbose'")
	}
	return l
}

func (p *params) number(name string, absent, least, most int) int {
	text := p.values.Get(name)
	if text == "" {
		return absent
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	switch {
	case err != nil:
		p.fault(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
	case n < least:
		p.fault(name, "greater_than_equal", fmt.Sprintf("Input should be greater than or equal to %d", least))
	case n > most:
		p.fault(name, "less_than_equal", fmt.Sprintf("Input should be less than or equal to %d", most))
	}
	return n
}

func (p *params) time(name string) time.Time {
	text := p.values.Get(name)
	if text == "" {
		return time.Time{}
	}
	t, ok := parseTime(text)
	if !ok {
		p.fault(name, "datetime_from_date_parsing", "Input should be a valid datetime or date")
	}
	return t
}

// parseTime reads a time as the reference system does: ISO 8601, UTC unless it
// says otherwise, with T, t, _ or a space in the middle, to the minute or finer;
// a date; or a number of seconds since 1970, or of milliseconds if it is large.
func parseTime(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		const watershed = 2e10
		if n > watershed || n < -watershed {
			n /= 1000
		}
		if n > 253402300799 || n < -62135596800 || n != n { // years 1 to 9999
			return time.Time{}, false
		}
		return time.UnixMicro(int64(n * 1e6)).UTC(), true
	}
	if len(text) > 10 && strings.ContainsRune("tT_ ", rune(text[10])) {
		text = text[:10] + "T" + text[11:]
	}
	text = strings.Replace(text, "z", "Z", 1)
	for _, layout := range []string{
		"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02",
	} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC().Truncate(time.Microsecond), true
		}
	}
	return time.Time{}, false
}

// The forms of an export.
const (
	asLines = "application/x-ndjson"
	asText  = "text/plain"
)

// exportFormat returns the export that an Accept header asks for, "" for none:
// lines of JSON, or the other format that there is.
func exportFormat(accept, other string) string {
	for part := range strings.SplitSeq(accept, ",") {
		media, _, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		switch media {
		case asLines, "application/ndjson", "application/jsonl":
			return asLines
		case other:
			return other
		case "application/json", "*/*":
			return ""
		}
	}
	return ""
}

// export streams every selected line, oldest first, a page at a time. With
// limited it ends after q.Limit lines.
func (s *Server) export(w http.ResponseWriter, r *http.Request, q logs.Query, format string, limited bool) error {
	ctx, rc := r.Context(), http.NewResponseController(w)
	left := q.Limit
	if !limited {
		left = int(^uint(0) >> 1)
	}
	q.Backward = false
	if s.history == nil {
		q.Limit = 0
	} else if total, err := s.history.Count(ctx, q); err != nil {
		return err
	} else if total >= 0 {
		if limited {
			total = min(total, int64(left))
		}
		// Before text filters: what the export will have looked at in the end.
		w.Header().Set("X-Total-Lines", strconv.FormatInt(total, 10))
	}
	name := "logs.txt"
	if format == asLines {
		name = "logs.ndjson"
	}
	w.Header().Set("Content-Type", format+"; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	w.Header().Set("Cache-Control", "no-store")
	var b bytes.Buffer
	var told []logs.Lost // by the page before: a gap can be in several
	for more := s.history != nil; more && left > 0; {
		q.Limit = min(left, exportPage)
		sc, err := s.still(r, viewer)
		if err != nil {
			return err
		}
		q.Devices = sc.within(q.Devices)
		found, err := s.history.Read(ctx, q)
		if err != nil {
			return err
		}
		b.Reset()
		gaps := slices.DeleteFunc(slices.Clone(found.Lost), func(l logs.Lost) bool { return slices.Contains(told, l) })
		told = found.Lost
		for i := range found.Lines {
			l := &found.Lines[i]
			for len(gaps) > 0 && gaps[0].Epoch == l.Cursor.Epoch && gaps[0].From < l.Cursor.Seq {
				s.exportGap(&b, format, gaps[0])
				gaps = gaps[1:]
			}
			s.exportLine(&b, format, l)
		}
		for _, g := range gaps {
			s.exportGap(&b, format, g)
		}
		if err := rc.SetWriteDeadline(time.Now().Add(exportWrite)); err != nil {
			return err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return nil // the client has gone
		}
		if err := rc.Flush(); err != nil {
			return nil
		}
		left -= len(found.Lines)
		q.After, more = found.Reached, found.More
	}
	return rc.SetWriteDeadline(time.Time{})
}

func (s *Server) exportLine(b *bytes.Buffer, format string, l *logs.Line) {
	if format == asText {
		d := s.historyDevice(l.Device)
		name := l.Device
		if d.DeviceEntityID != nil {
			name = *d.DeviceEntityID
		}
		b.WriteString(timestamp(l.Received))
		b.WriteByte(' ')
		b.WriteString(name)
		b.WriteString(" | ")
		b.Write(bytes.ReplaceAll(l.Message, []byte("\n"), []byte("\n    ")))
		b.WriteByte('\n')
		return
	}
	row := s.historyLine(l)
	row.Document = l.AppendDoc(nil)
	exportJSON(b, row)
}

func (s *Server) exportGap(b *bytes.Buffer, format string, l logs.Lost) {
	g := s.historyGap(l)
	if format == asText {
		count := "an unknown number of"
		if g.Count != nil {
			count = strconv.Itoa(*g.Count)
		}
		fmt.Fprintf(b, "--- %s lines are gone here (%s)\n", count, g.Reason)
		return
	}
	exportJSON(b, map[string]any{"gap": g})
}

func exportJSON(b *bytes.Buffer, v any) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Errorf("encode export: %w", err)) // of our own types
	}
}
