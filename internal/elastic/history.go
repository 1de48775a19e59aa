package elastic

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// Devices is what a History asks of the registry: the documents of other
// programs name no device, only an entity id.
type Devices interface {
	ByKey(key string) (fleet.DeviceRef, bool)
	ByEntity(entityID string) []fleet.DeviceRef
	All() []fleet.DeviceRef
}

// HistoryOptions are the parts of a History; all are needed.
type HistoryOptions struct {
	Client  *Client
	Journal logs.Journal
	Settled func() uint64      // the sequence up to which the server was given everything
	Lost    func() []logs.Lost // but this
	Devices Devices
	Log     *slog.Logger
}

// History is logs.History on what Client has written, and on the documents of
// other programs in the same indices. These stand before all lines of ours, in
// order of time.
//
// A server takes a while until it finds what it was given. Up to a place that
// it was made to find everything before, lines come from there, and all later
// ones from the journal: so each is read at once, and once.
type History struct {
	HistoryOptions

	visible atomic.Uint64 // the server finds everything up to here

	advancing sync.Mutex
	known     atomic.Bool // visible was found by this process
	waits     uint64      // what it was given at the time of since
	since     time.Time

	looking sync.Mutex
	looked  time.Time // when the following was found
	epochs  []string  // of former journals, oldest first
	plain   fields    // which fields can be searched for text
}

// fields says which fields the server compares as a whole: mapped to keyword or
// wildcard. A search for text in any other finds too little.
type fields struct{ message, tag bool }

const (
	refreshTick   = 5 * time.Second
	refreshMargin = time.Minute // after which everything is taken to be found if the server may not be asked to
	lookAgain     = time.Minute
	searchTime    = 10 * time.Second // how long one Read searches before it answers with what it has
	foreignEpoch  = "elasticsearch"  // in cursors of documents of other programs; no journal's epoch is that long
)

// NewHistory returns a History. It does not connect.
func NewHistory(o HistoryOptions) *History { return &History{HistoryOptions: o} }

// Held returns the sequence up to which the History needs nothing more of the
// journal.
func (h *History) Held() uint64 { return h.visible.Load() }

// Run makes the server find what it is given, now and then, until ctx ends.
func (h *History) Run(ctx context.Context) error {
	tick := time.NewTicker(refreshTick)
	defer tick.Stop()
	failed := false
	for {
		err := h.advance(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !failed {
			h.Log.Warn("Elasticsearch does not make new lines searchable; they are read from the journal", "err", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// advance moves visible on to what the server has been given.
func (h *History) advance(ctx context.Context) error {
	h.advancing.Lock()
	defer h.advancing.Unlock()
	settled := h.Settled()
	if settled <= h.visible.Load() {
		h.known.Store(true)
		return nil
	}
	err := h.Client.refresh(ctx)
	switch {
	case err == nil:
		h.visible.Store(settled)
		h.known.Store(true)
	case fleet.KindOf(err) != fleet.External:
	case h.since.IsZero():
		h.waits, h.since = settled, time.Now()
	case time.Since(h.since) >= refreshMargin:
		// The server does not let us: it does so by itself, mostly each second.
		h.visible.Store(max(h.visible.Load(), h.waits))
		h.known.Store(true)
		h.waits, h.since = settled, time.Now()
	}
	return err
}

// refresh makes the server find everything that it has been given.
func (c *Client) refresh(ctx context.Context) error {
	var said struct {
		Shards struct{ Failed int } `json:"_shards"`
	}
	return c.ask(ctx, "refresh", "/_refresh", nil, nil, &said, func() error {
		if said.Shards.Failed > 0 {
			return fleet.E(fleet.Unavailable, nil, "A part of the server did not answer")
		}
		return nil
	})
}

// look returns the epochs of former journals, oldest first, and how the fields
// are mapped.
func (h *History) look(ctx context.Context) ([]string, fields, error) {
	h.looking.Lock()
	defer h.looking.Unlock()
	if !h.looked.IsZero() && time.Since(h.looked) < lookAgain {
		return h.epochs, h.plain, nil
	}
	not := []string{h.Journal.Epoch()}
	var epochs []string
	for {
		// The earliest line of an epoch that is not known yet.
		said, err := h.Client.find(ctx, object{
			"query": object{"bool": object{
				"filter":   []any{exists(ownField + ".epoch"), exists(ownField + ".device")},
				"must_not": []any{object{"terms": object{ownField + ".epoch": not}}},
			}},
			"sort": []any{sortBy("@timestamp", "date", "asc")}, "size": 1, "track_total_hits": false,
		})
		if err != nil {
			return nil, fields{}, err
		}
		if len(said.Hits.Hits) == 0 {
			break
		}
		cursor, err := logs.ParseLineCursor(h.Client.line(said.Hits.Hits[0]).Cursor)
		if err != nil || slices.Contains(not, cursor.Epoch) {
			return nil, fields{}, fleet.E(fleet.External, err, "A document is not what Signalbox wrote")
		}
		epochs, not = append(epochs, cursor.Epoch), append(not, cursor.Epoch)
	}
	plain, err := h.Client.plainFields(ctx)
	if err != nil {
		return nil, fields{}, err
	}
	h.epochs, h.plain, h.looked = epochs, plain, time.Now()
	return epochs, plain, nil
}

// plainFields asks how the fields are mapped.
func (c *Client) plainFields(ctx context.Context) (fields, error) {
	const message, tag = "message", ownField + ".tag"
	var said struct {
		Fields map[string]map[string]json.RawMessage // field, type
	}
	err := c.ask(ctx, "field_caps", "/_field_caps", url.Values{"fields": {message + "," + tag}}, nil, &said, nil)
	if fleet.KindOf(err) == fleet.External {
		return fields{}, nil // one that cannot say it is not relied on
	}
	plain := func(field string) bool {
		for kind := range said.Fields[field] {
			if kind != "keyword" && kind != "wildcard" {
				return false
			}
		}
		return true
	}
	return fields{plain(message), plain(tag)}, err
}

func exists(field string) object { return object{"exists": object{"field": field}} }

func not(o object) object { return object{"bool": object{"must_not": []any{o}}} }

func either(of ...any) object {
	return object{"bool": object{"should": of, "minimum_should_match": 1}}
}

func sortBy(field, kind, order string) object {
	return object{field: object{"order": order, "unmapped_type": kind}}
}

// failure gives an error of the server the words that the API promises.
func failure(err error) error {
	e, ok := errors.AsType[*fleet.Error](err)
	switch {
	case !ok:
		return err
	case e.Kind == fleet.Unavailable:
		return &fleet.Error{Kind: e.Kind, Msg: "Elasticsearch is currently unavailable: " + e.Msg, Cause: e.Cause}
	case e.Kind == fleet.External:
		return &fleet.Error{Kind: e.Kind, Msg: "Cannot query logs because external service failed: " + e.Msg, Cause: e.Cause}
	}
	return err
}

// Count implements logs.History.
func (h *History) Count(ctx context.Context, q logs.Query) (int64, error) {
	r, err := h.newReading(ctx, q)
	if err != nil || q.Devices != nil && len(q.Devices) == 0 {
		return 0, err
	}
	former, _, err := h.look(ctx)
	if err != nil {
		return 0, failure(err)
	}
	bounds, _ := r.conditions(fields{})
	r.q.Filter = logs.Filter{}
	var parts []any
	for i, name := range append(slices.Clone(former), h.Journal.Epoch()) {
		if number := i - len(former); r.part(number) {
			parts = append(parts, object{"bool": object{"filter": append(r.seqs(name, number), r.ownConditions(fields{})...)}})
		}
	}
	if entities, ok := r.entities(); ok && r.part(foreign) {
		parts = append(parts, object{"bool": object{"filter": []any{entities, not(exists(ownField + ".cursor"))}}})
	}
	var said struct{ Count *int64 }
	err = h.Client.ask(ctx, "count_logs", "/_count", nil, object{"query": object{"bool": object{"filter": append(bounds, either(parts...))}}}, &said, func() error {
		if said.Count == nil {
			return fleet.E(fleet.External, nil, "The answer to a count has none")
		}
		return nil
	})
	if err != nil {
		return 0, failure(err)
	}
	lines := *said.Count
	if r.part(0) {
		_, err = h.Journal.Replay(ctx, q.Devices, r.visible, func(p logs.Page) error {
			for _, rec := range p.Records {
				lines += int64(rec.Body.Lines())
			}
			return nil
		})
	}
	return lines, err
}
