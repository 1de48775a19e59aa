package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

// event is what the audit will say of a request. The route gives the action, the
// path the target; a handler says what it knows better.
type event struct {
	action  string // "": the route's
	target  string // "": that of the path
	label   string // what the target is called
	details map[string]any
	actor   access.Principal // zero: the caller
	silent  bool             // nothing happened
}

type eventKey struct{}

// audited returns the event of a request, for its handler to fill in. There is
// always one, if only to be thrown away.
func audited(ctx context.Context) *event {
	if e, ok := ctx.Value(eventKey{}).(*event); ok {
		return e
	}
	return new(event)
}

// about says what it is about, such as device 12, and what that is called.
func (e *event) about(kind string, id any, label string) {
	e.target, e.label = fmt.Sprintf("%s/%v", kind, id), label
}

// by says who did it, where that is not known when the request comes.
func (e *event) by(p access.Principal) { e.actor = p }

// detail adds what else there is to know; never a secret.
func (e *event) detail(name string, value any) {
	if e.details == nil {
		e.details = map[string]any{}
	}
	e.details[name] = value
}

// Actions that more is to be said about than that they are those of a route.
const (
	actionRead   = "logs.read"
	actionConfig = "config.read"
	actionExport = "logs.export"
	actionSecret = "secret.read"
	loginFailed  = "login.failed"
)

// begin returns the event of a request before it is handled: what it is about
// may not be there any more when it was.
func (s *Server) begin(rt route, r *http.Request) *event {
	e := new(event)
	if rt.audit == "" {
		return e
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return e
	}
	kind, label := kindOf(rt.pattern), ""
	if kind == "device" {
		if d, ok := s.registry.Directory().ByID(id); ok {
			label = cmp.Or(d.Name, d.EntityID, d.Key)
		}
	}
	e.about(kind, id, label)
	return e
}

// record writes the event of a request to the audit. What failed is recorded
// where it would have changed something or shown a secret, and if it is known who tried: who is
// nobody can make as many failures as they like. Wrong passwords are recorded as
// well; how many of them there can be is limited where they are checked.
func (s *Server) record(rt route, r *http.Request, who access.Principal, e *event, err error) {
	if rt.audit == "" || e.silent || s.identity.Accounts == nil {
		return
	}
	action := cmp.Or(e.action, rt.audit)
	if e.actor.Kind != "" {
		who = e.actor
	}
	if err != nil {
		reads := rt.method == http.MethodGet && action != actionExport && action != loginFailed && action != actionSecret
		if reads || who.Subject == "" && rt.pattern != loginPath {
			return
		}
		if _, limited := errors.AsType[*access.TooManyAttempts](err); limited {
			return
		}
	}
	out := access.Event{
		Actor: who.Subject, Name: cmp.Or(who.Name, who.Email), Kind: who.Kind, Action: action, Target: e.target, Label: e.label,
		Outcome: outcome(err), Address: s.identity.Address(r),
	}
	if e.details != nil {
		text, err := json.Marshal(e.details)
		if err != nil {
			panic(err) // of texts and numbers
		}
		out.Detail = string(text)
	}
	// A device asks as often as it likes, and so its row stands for the same of the
	// next minutes as well.
	often := action == actionRead || action == actionConfig || who.Kind == access.Device
	if often && !s.reads.due(action+"\n"+out.Actor+"\n"+out.Target+"\n"+out.Detail+"\n"+out.Outcome, time.Now()) {
		return
	}
	s.identity.Accounts.Record(context.WithoutCancel(r.Context()), out)
}

// kindOf returns what the {id} of a pattern is of.
func kindOf(pattern string) string {
	before, _, _ := strings.Cut(pattern, "/{id}")
	switch before[strings.LastIndexByte(before, '/')+1:] {
	case "devices":
		return "device"
	case "device-models":
		return "model"
	case "people":
		return "person"
	case "tokens":
		return "token"
	case "sessions":
		return "session"
	case "campaigns":
		return "campaign"
	}
	return "thing"
}

// outcome is how something went, in a word.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	if reason, ok := access.ReasonOf(err); ok {
		return reason.String()
	}
	if _, ok := errors.AsType[violations](err); ok {
		return fleet.Invalid.String()
	}
	if _, ok := errors.AsType[*routeError](err); ok {
		return fleet.NotFound.String()
	}
	return fleet.KindOf(err).String()
}

// reads remembers who read what of late: a page that is scrolled asks for many
// pieces of one log.
type reads struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	readsAge = 10 * time.Minute // within which reading on is the same reading
	maxReads = 10_000
)

// due reports whether reading this is to be recorded, and remembers that it was.
func (r *reads) due(what string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.last[what]; ok && now.Sub(at) < readsAge {
		return false
	}
	if len(r.last) >= maxReads {
		for old, at := range r.last {
			if now.Sub(at) >= readsAge {
				delete(r.last, old)
			}
		}
		if len(r.last) >= maxReads {
			clear(r.last) // then some are recorded twice
		}
	}
	if r.last == nil {
		r.last = map[string]time.Time{}
	}
	r.last[what] = now
	return true
}
