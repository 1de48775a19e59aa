package web

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
	"signalbox/internal/registry"
)

// scope is the part of the fleet that the sender of a request has to do with.
// Every handler that shows, reads or changes devices, models or what devices
// said asks it: what is not in it is as if it did not exist.
type scope struct {
	directory *registry.Directory
	who       access.Principal
	known     bool // there is a principal; without one nothing is in the scope
}

func (s *Server) scope(r *http.Request) scope {
	sc := scope{directory: s.registry.Directory()}
	sc.who, sc.known = access.FromContext(r.Context())
	return sc
}

// still returns the scope of a request as it is by now, for an answer that takes
// its time, or why the right to it is over. When the proof that came with the
// request ends is not looked at: a browser gets another one meanwhile.
func (s *Server) still(r *http.Request, n right) (scope, error) {
	sc := s.scope(r)
	if !sc.known || s.identity.Accounts == nil {
		return sc, nil
	}
	p := sc.who
	p.Expires = time.Time{}
	p, err := s.identity.check(p)
	if err != nil {
		return scope{}, err
	}
	sc.who = p
	return sc, n.check(p)
}

// within returns those of the keys that are of devices in the scope; nil is all.
func (sc scope) within(keys []string) []string {
	switch {
	case sc.whole():
		return keys
	case keys == nil:
		return sc.keys()
	}
	in := []string{}
	for _, key := range keys {
		if d, ok := sc.directory.ByKey(key); ok && sc.sees(d) {
			in = append(in, key)
		}
	}
	return in
}

// whole reports whether it is the whole fleet, with what is left of devices
// that were deleted.
func (sc scope) whole() bool { return sc.known && sc.who.Limit.None() }

// needWhole is the error of what is about everything, for those who do not have to do
// with everything.
func (sc scope) needWhole() error {
	if sc.whole() {
		return nil
	}
	return errLimited
}

var errLimited = fleet.E(fleet.Forbidden, nil, "Insufficient permissions - your access is limited to a part of the devices")

func (sc scope) sees(d fleet.DeviceRef) bool { return sc.known && sc.who.May(d) }

// device returns a device; fleet.NotFound as well for those that are out of the scope.
func (sc scope) device(id int64) (fleet.DeviceRef, error) {
	d, ok := sc.directory.ByID(id)
	if !ok || !sc.sees(d) {
		return fleet.DeviceRef{}, fleet.ErrNotFound("Device", id)
	}
	return d, nil
}

// devices returns all devices, oldest first.
func (sc scope) devices() []fleet.DeviceRef {
	all := sc.directory.All()
	if sc.whole() {
		return all
	}
	return slices.DeleteFunc(all, func(d fleet.DeviceRef) bool { return !sc.sees(d) })
}

// keys returns the keys of the devices that a query of the history is about,
// nil for all, of whatever there are and were.
func (sc scope) keys() []string {
	if sc.whole() {
		return nil
	}
	keys := []string{}
	for _, d := range sc.devices() {
		keys = append(keys, d.Key)
	}
	return keys
}

// counts returns how many devices each model has, by its id.
func (sc scope) counts() map[int64]int {
	n := map[int64]int{}
	for _, d := range sc.devices() {
		n[d.ModelID]++
	}
	return n
}

// models returns those that are in the scope, by themselves or for a device of
// theirs, with the number of devices that are.
func (sc scope) models(all []fleet.Model) []fleet.Model {
	if sc.whole() {
		return all
	}
	counts, seen := sc.counts(), []fleet.Model{}
	for _, m := range all {
		if m.DeviceCount = counts[m.ID]; sc.known && (m.DeviceCount > 0 || sc.who.Limit.AllowsModel(m.Code)) {
			seen = append(seen, m)
		}
	}
	return seen
}

// seesModel returns nil if a model is in the scope, and else that it was not found.
func (sc scope) seesModel(ctx context.Context, s *registry.Service, id int64) error {
	if sc.whole() {
		return nil
	}
	m, err := s.Model(ctx, id)
	if err != nil {
		return err
	}
	if len(sc.models([]fleet.Model{m})) == 0 {
		return fleet.ErrNotFound("DeviceModel", id)
	}
	return nil
}

// mayChangeModel returns nil if everything of the model is in the scope.
func (sc scope) mayChangeModel(ctx context.Context, s *registry.Service, id int64) error {
	if err := sc.seesModel(ctx, s, id); err != nil || sc.whole() {
		return err
	}
	m, err := s.Model(ctx, id)
	if err == nil && !sc.who.Limit.AllowsModel(m.Code) {
		err = fleet.E(fleet.Forbidden, nil, "Insufficient permissions - the model has to do with devices beyond your access")
	}
	return err
}

// changing returns a context for changes of devices: none is made of a device
// that is not in the scope, nor one that would take it out.
func (sc scope) changing(ctx context.Context) context.Context {
	if sc.whole() {
		return ctx
	}
	return registry.Allow(ctx, func(ch registry.Change) error {
		if ch.Kind != registry.Created && !sc.sees(ch.Before) {
			return fleet.ErrNotFound("Device", ch.Before.ID)
		}
		if ch.Kind != registry.Deleted && !sc.sees(ch.After) {
			return fleet.E(fleet.Invalid, nil, "The device would be beyond your access, which is limited to %s", sc.limits())
		}
		return nil
	})
}

// limits says them to the one who has them.
func (sc scope) limits() string {
	var parts []string
	for name, list := range map[string][]string{"models": sc.who.Limit.Models, "tags": sc.who.Limit.Tags} {
		if len(list) > 0 {
			parts = append(parts, "the "+name+" "+strings.Join(list, ", "))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " and ")
}

// mark tells the tokens of one scope from those of another; "" is the whole fleet.
func (sc scope) mark() string {
	if sc.whole() {
		return ""
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", sc.who.Limit.Models, sc.who.Limit.Tags)
	return fmt.Sprintf("~%x", h.Sum64())
}
