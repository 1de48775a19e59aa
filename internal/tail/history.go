package tail

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// HistoryConfig says which part of the history to print. Of the Config, All and
// Model mean the devices that there are; Grep has at most 1024 bytes.
type HistoryConfig struct {
	Config

	Since string // the earliest time, in a form of Moment; "" for no bound
	Until string // the latest; "" for none
	Lines *int   // the newest so many lines, 0 for all; nil: 100, or all with Since

	Follow bool // then go on as Run does, without a seam

	page int   // lines of a page; 0 is pageLines
	most int64 // bytes of an answer; 0 is maxAnswer
}

const (
	defaultNewest = 100
	pageLines     = 5000
	// The API takes a search without these bounds for one of the last hour.
	earliest = "1970-01-01T00:00:00Z"
	latest   = "9999-12-31T23:59:59Z"
)

// History prints what devices said before, oldest first, and returns nil at its
// end. Otherwise it ends as Run does; Unavailable is also the server that keeps
// no history.
func History(ctx context.Context, cfg HistoryConfig) error {
	h, err := newHistory(cfg, time.Now())
	if err != nil {
		return err
	}
	defer h.api.close()
	return outcome(ctx, h.run(ctx))
}

// history is one run of History.
type history struct {
	*tail
	start, end string // the bounds in time, as the API reads them
	newest     int    // how many lines; 0: all
	follows    bool
	filter     url.Values
	limit      int       // lines of a page
	told       []pastGap // those of the last page that was printed
}

// page is an answer to a query of the history.
type page struct {
	Logs        []pastLine `json:"logs"`
	HasMore     bool       `json:"has_more"`
	FirstCursor string     `json:"first_cursor"`
	LastCursor  string     `json:"last_cursor"`
	CompleteTo  string     `json:"complete_to"`
	Gaps        []pastGap  `json:"gaps"`
}

// pastLine is one line. What is null is empty here: the ids of a device that
// was deleted.
type pastLine struct {
	lineMeta
	DeviceID  int64           `json:"device_id"`
	DeviceKey string          `json:"device_key"`
	EntityID  string          `json:"device_entity_id"`
	Timestamp string          `json:"timestamp"`
	Message   string          `json:"message"`
	Cursor    string          `json:"cursor"`
	Document  json.RawMessage `json:"document"`
}

// pastGap is what is gone. Without a device it is of any.
type pastGap struct {
	gapPayload
	Until string `json:"until"` // when the last of it was received; "" if that is not known
}

// is reports whether both tell of the same lines.
func (g *pastGap) is(o *pastGap) bool {
	return g.DeviceKey == o.DeviceKey && g.From == o.From && g.To == o.To && g.Reason == o.Reason
}

func newHistory(cfg HistoryConfig, now time.Time) (*history, error) {
	t, err := newTail(cfg.Config)
	if err != nil {
		return nil, err
	}
	h := &history{tail: t, start: earliest, end: latest, newest: defaultNewest, follows: cfg.Follow, limit: cmp.Or(cfg.page, pageLines), filter: url.Values{}}
	h.api.most = cmp.Or(cfg.most, maxAnswer)
	now = now.In(t.printer.zone)
	var since, until time.Time
	if cfg.Since != "" {
		if since, err = Moment("since", cfg.Since, now); err != nil {
			return nil, err
		}
		if len(cfg.Since) < len("2006-01-02") && since.After(now) {
			return nil, fleet.E(fleet.Invalid, nil, "--since %s is still to come today: give the date too", cfg.Since)
		}
		h.start, h.newest = stampOf(since), 0
	}
	if cfg.Until != "" {
		if until, err = Moment("until", cfg.Until, now); err != nil {
			return nil, err
		}
		h.end = stampOf(until)
	}
	if cfg.Lines != nil {
		h.newest = *cfg.Lines
	}
	switch {
	case h.newest < 0:
		return nil, fleet.E(fleet.Invalid, nil, "The number of lines must be at least 0, which means all")
	case cfg.Follow && cfg.Until != "":
		return nil, fleet.E(fleet.Invalid, nil, "What is followed has no end: use --until or --follow, not both")
	case cfg.Since != "" && cfg.Until != "" && since.After(until):
		return nil, fleet.E(fleet.Invalid, nil, "--since %s is later than --until %s", cfg.Since, cfg.Until)
	}
	set := func(name, value string) {
		if value != "" {
			h.filter.Set(name, value)
		}
	}
	set("level", cfg.Level)
	set("tag", cfg.Tag)
	set("query", cfg.Word)
	set("regex", cfg.Grep)
	if cfg.JSON {
		set("documents", "true")
	}
	return h, nil
}

// stampOf returns t as the API reads it.
func stampOf(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

func (h *history) run(ctx context.Context) error {
	if err := h.choose(ctx); err != nil {
		return err
	}
	switch {
	case h.follow.model != 0:
		h.filter.Set("model_id", strconv.FormatInt(h.follow.model, 10))
	case !h.follow.all:
		ids := make([]string, len(h.follow.wanted))
		for i, d := range h.follow.wanted {
			ids[i] = strconv.FormatInt(d.ID, 10)
		}
		h.filter.Set("device_ids", strings.Join(ids, ","))
	}
	read := h.printAll
	if h.newest > 0 {
		read = h.printNewest
	}
	complete, err := read(ctx)
	if err != nil {
		return err
	}
	if !h.follows {
		return nil
	}
	h.goOn(complete)
	return h.tail.run(ctx)
}

// printAll prints what is selected, page by page. complete is where a
// subscription goes on, which is the zero LineCursor without a history.
func (h *history) printAll(ctx context.Context) (complete logs.LineCursor, err error) {
	for after := ""; ; {
		p, err := h.page(ctx, "after", after, h.limit, h.filter)
		if err != nil {
			return complete, err
		}
		if complete, err = h.completeTo(p); err != nil {
			return complete, err
		}
		if err := h.print(p); err != nil {
			return complete, err
		}
		if !p.HasMore {
			return complete, nil
		}
		if after, err = h.next(after, p.LastCursor); err != nil {
			return complete, err
		}
	}
}

// printNewest prints the newest lines of what is selected. It reads them
// backwards, from a place that it asks for first: complete is that place, since
// the pages say nothing of what came while they were read.
func (h *history) printNewest(ctx context.Context) (complete logs.LineCursor, err error) {
	nothing := maps.Clone(h.filter)
	nothing.Set("start", latest)
	p, err := h.page(ctx, "after", "", 1, nothing)
	if err != nil {
		return complete, err
	}
	if complete, err = h.completeTo(p); err != nil || complete == (logs.LineCursor{}) {
		return complete, err
	}
	before := logs.LineCursor{Cursor: logs.Cursor{Epoch: complete.Epoch, Seq: complete.Seq + 1}, Line: logs.WholeBatch}.String()
	var pages []page
	for left := h.newest; ; {
		p, err := h.page(ctx, "before", before, min(left, h.limit), h.filter)
		if err != nil {
			return complete, err
		}
		pages = append(pages, p)
		if left -= len(p.Logs); left <= 0 || !p.HasMore {
			break
		}
		if before, err = h.next(before, p.FirstCursor); err != nil {
			return complete, err
		}
	}
	for _, p := range slices.Backward(pages) {
		if err := h.print(p); err != nil {
			return complete, err
		}
	}
	return complete, nil
}

// page asks for one page of lines, beyond a cursor if that is not "". When the
// answer is longer than it may be, it asks for fewer lines, from then on.
func (h *history) page(ctx context.Context, way, cursor string, limit int, filter url.Values) (page, error) {
	query := url.Values{"start": {h.start}, "end": {h.end}}
	maps.Copy(query, filter)
	if cursor != "" {
		query.Set(way, cursor)
	}
	for {
		query.Set("limit", strconv.Itoa(limit))
		var p page
		err := h.insist(ctx, true, func() error {
			p = page{}
			return h.api.get(ctx, "api/logs", query, h.pace.page, &p)
		})
		if !errors.Is(err, errTooLong) || limit == 1 {
			return p, err
		}
		limit /= 2
		h.limit = limit
	}
}

// completeTo reads where a page says that it is complete to.
func (h *history) completeTo(p page) (logs.LineCursor, error) {
	if p.CompleteTo == "" {
		if h.follows {
			h.note("--- the server keeps no history ---")
			return logs.LineCursor{}, nil
		}
		return logs.LineCursor{}, fleet.E(fleet.Unavailable, nil, "The server keeps no history")
	}
	c, err := logs.ParseLineCursor(p.CompleteTo)
	if err != nil {
		return c, h.api.stranger(err)
	}
	return c, nil
}

// next returns the cursor of the page after one that has more.
func (h *history) next(last, cursor string) (string, error) {
	if cursor == "" || cursor == last {
		return "", h.api.stranger(errors.New("has_more without a new cursor"))
	}
	return cursor, nil
}

// print prints a page.
func (h *history) print(p page) error {
	h.printer.buf.Reset()
	var gaps []pastGap
	for _, g := range p.Gaps {
		// One that reaches over the end of a page comes with the next again.
		if !slices.ContainsFunc(h.told, func(o pastGap) bool { return g.is(&o) }) {
			gaps = append(gaps, g)
		}
	}
	h.told = p.Gaps
	at := make([]int, len(gaps)) // the line that each stands before
	for i := range gaps {
		at[i] = gaps[i].before(&p)
	}
	for i := 0; i <= len(p.Logs); i++ {
		for j := range gaps {
			if at[j] == i {
				h.printer.gap(&gaps[j].gapPayload)
			}
		}
		if i < len(p.Logs) {
			l := &p.Logs[i]
			h.printer.entry(h.printer.name(l.DeviceID, l.DeviceKey, l.EntityID), entry{l.lineMeta, l.EntityID, l.Timestamp, l.Message, l.Document})
		}
	}
	return h.write(h.printer.buf.Bytes())
}

// before returns the index of the line of a page that the gap stands before.
func (g *pastGap) before(p *page) int {
	from, err := logs.ParseCursor(g.From)
	if err != nil {
		return 0
	}
	at := slices.IndexFunc(p.Logs, func(l pastLine) bool {
		c, err := logs.ParseLineCursor(l.Cursor)
		return err == nil && c.Epoch == from.Epoch && c.Seq > from.Seq
	})
	if at >= 0 {
		return at
	}
	// Of lines of another journal only the times tell which were earlier.
	at = slices.IndexFunc(p.Logs, func(l pastLine) bool {
		c, err := logs.ParseLineCursor(l.Cursor)
		return err == nil && c.Epoch != from.Epoch && g.Until != "" && l.Timestamp > g.Until
	})
	if at >= 0 {
		return at
	}
	return len(p.Logs)
}

// goOn makes the tail resume as if it had followed the devices up to complete
// and lost its connection there. So there is no seam, whatever happens to the
// connections.
func (h *history) goOn(complete logs.LineCursor) {
	if complete != (logs.LineCursor{}) {
		h.lastID = complete.Cursor.String()
	}
}
