package access

import (
	"context"
	"encoding/json"
	"iter"
	"sync"
	"time"
)

// Bounds of the audit.
const (
	recordWithin = 2 * time.Second // how long a request waits for its event to be stored
	maxDetail    = 4 << 10         // bytes
	maxEventText = 255             // bytes, of each other text
	eventsAtOnce = 500             // that are read, and deleted, in one go
)

// Event is one row of the audit.
type Event struct {
	ID      int64
	At      time.Time
	Actor   string // subject of the principal; "" for the program itself
	Name    string // of the actor, as it was known then
	Kind    Kind   // of the actor
	Action  string // such as device.update, login, logs.watch, secret.read
	Target  string // such as device/12; "" if it is about nothing in particular
	Label   string // what the target was called then
	Outcome string // "ok", or the kind or reason of the error
	Address string // of the client
	Detail  string // JSON object, at most 4 KiB, without secrets; "" for none
}

// EventFilter selects events; zero fields select all.
type EventFilter struct {
	Actor, Action, Target string // exact; an Action or Target that ends with * is a prefix
	Since, Until          time.Time
	Before                int64 // only events with a smaller id
}

// Record adds an event; ID and a zero At are filled in. It waits for the store,
// whether ctx ends or not, but for two seconds at most. What could not be stored
// by then is counted and logged, and Run stores it as soon as it can; of a store
// that stays away, some ten thousand events are kept.
func (s *Service) Record(ctx context.Context, e Event) {
	if e.At.IsZero() {
		e.At = s.now()
	}
	for _, text := range []*string{&e.Actor, &e.Name, &e.Action, &e.Target, &e.Label, &e.Outcome, &e.Address} {
		*text = clean(*text, maxEventText)
	}
	e.Kind = Kind(clean(string(e.Kind), maxEventText))
	if e.Detail = clean(e.Detail, len(e.Detail)); len(e.Detail) > maxDetail || e.Detail != "" && !json.Valid([]byte(e.Detail)) {
		e.Detail = `{"omitted":"too long"}`
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
	defer cancel()
	if err := s.opts.Store.InsertEvent(ctx, e); err != nil {
		s.metrics.failures.Inc()
		kept := s.late.put(e)
		s.log.Error("an event could not be recorded in the audit", "actor", e.Actor, "action", e.Action, "target", e.Target, "outcome", e.Outcome, "later", kept, "err", err)
	}
}

// late is the events that the store did not take so far.
type late struct {
	mu     sync.Mutex
	events []Event
}

// maxLate bounds them.
const maxLate = 10_000

// put keeps an event, and reports whether there was room.
func (l *late) put(e Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) >= maxLate {
		return false
	}
	l.events = append(l.events, e)
	return true
}

// recordLate stores what was kept, in its order. Only Run calls it.
func (s *Service) recordLate(ctx context.Context) {
	for {
		s.late.mu.Lock()
		if len(s.late.events) == 0 {
			s.late.mu.Unlock()
			return
		}
		e := s.late.events[0]
		s.late.mu.Unlock()
		try, cancel := context.WithTimeout(ctx, recordWithin)
		err := s.opts.Store.InsertEvent(try, e)
		cancel()
		if err != nil {
			return
		}
		s.late.mu.Lock()
		s.late.events = s.late.events[1:]
		if len(s.late.events) == 0 {
			s.late.events = nil
		}
		s.late.mu.Unlock()
	}
}

// Events returns the events that pass, the newest first, as they are read from
// the store: some hundred at a time, however many there are.
func (s *Service) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			page, err := s.opts.Store.EventPage(ctx, f, eventsAtOnce)
			if err != nil {
				yield(Event{}, unavailable(err))
				return
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if len(page) < eventsAtOnce {
				return
			}
			f.Before = page[len(page)-1].ID
		}
	}
}

// forgetEvents deletes events that are too old, a few at a time.
func (s *Service) forgetEvents(ctx context.Context) error {
	if s.opts.AuditMaxAge <= 0 {
		return nil
	}
	for {
		n, err := s.opts.Store.DeleteEvents(ctx, s.now().Add(-s.opts.AuditMaxAge), eventsAtOnce)
		if err != nil || n < eventsAtOnce {
			return unavailable(err)
		}
	}
}
