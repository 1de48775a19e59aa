package tail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"signalbox/internal/fleet"
)

// device is a device as the server lists it.
type device struct {
	ID       int64   `json:"id"`
	Key      string  `json:"key"`
	Name     *string `json:"device_name"`
	EntityID *string `json:"device_entity_id"`
}

// label is what a person calls the device.
func (d device) label() string {
	return cmp.Or(text(d.Name), text(d.EntityID), d.Key)
}

// String describes the device in a list of candidates.
func (d device) String() string {
	s := d.Key
	if d.Name != nil {
		s += ` "` + escape(*d.Name) + `"`
	}
	if d.EntityID != nil {
		s += " (entity id " + escape(*d.EntityID) + ")"
	}
	return s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// pick finds the devices that are meant by names, each once. A key names one
// device, whatever others are called; entity ids and names need not be unique,
// and their case matters only if that decides.
func pick(devices []device, names []string) ([]device, error) {
	var picked []device
	seen := map[int64]bool{}
	for _, name := range names {
		d, err := find(devices, name)
		if err != nil {
			return nil, err
		}
		if !seen[d.ID] {
			seen[d.ID] = true
			picked = append(picked, d)
		}
	}
	return picked, nil
}

func find(devices []device, name string) (device, error) {
	rules := []func(device) bool{
		func(d device) bool { return d.Key == name },
		func(d device) bool { return name != "" && (text(d.EntityID) == name || text(d.Name) == name) },
		func(d device) bool {
			return name != "" && (strings.EqualFold(text(d.EntityID), name) || strings.EqualFold(text(d.Name), name))
		},
	}
	for _, matches := range rules {
		var found []device
		for _, d := range devices {
			if matches(d) {
				found = append(found, d)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			list := make([]string, len(found))
			for i, d := range found {
				list[i] = "\n  " + d.String()
			}
			return device{}, fleet.E(fleet.Invalid, nil, "%q is the name of %d devices; use the key of one:%s", name, len(found), strings.Join(list, ""))
		}
	}
	msg := fmt.Sprintf("There is no device %q", name)
	if near := nearest(devices, name); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return device{}, fleet.E(fleet.NotFound, nil, "%s", msg)
}

// findModel returns the id of the device model with the code.
func findModel(models []model, code string) (int64, error) {
	codes := make([]device, len(models))
	for i, m := range models {
		if m.Code == code {
			return m.ID, nil
		}
		codes[i].Key = m.Code
	}
	msg := fmt.Sprintf("There is no device model %q", code)
	if near := nearest(codes, code); len(near) > 0 {
		msg += "; did you mean " + strings.Join(near, ", ") + "?"
	}
	return 0, fleet.E(fleet.NotFound, nil, "%s", msg)
}

// nearest returns up to three names that could have been meant, one for a device.
func nearest(devices []device, name string) []string {
	wanted := strings.ToLower(name)
	if wanted == "" {
		return nil
	}
	far := max(1, len([]rune(wanted))/3) + 1
	distances := map[string]int{}
	for _, d := range devices {
		best, least := "", far
		for _, candidate := range []string{d.Key, text(d.EntityID), text(d.Name)} {
			lower := strings.ToLower(candidate)
			distance := edits(lower, wanted)
			if strings.Contains(lower, wanted) {
				distance = min(distance, 1)
			}
			// A name whose every letter differs is not near, however short.
			if distance < least && distance < len([]rune(lower)) {
				best, least = candidate, distance
			}
		}
		if best != "" {
			distances[escape(best)] = least
		}
	}
	near := slices.SortedFunc(maps.Keys(distances), func(a, b string) int {
		return cmp.Or(cmp.Compare(distances[a], distances[b]), cmp.Compare(a, b))
	})
	return near[:min(len(near), 3)]
}

// edits returns the Levenshtein distance of a and b.
func edits(a, b string) int {
	from, to := []rune(a), []rune(b)
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range from {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range to {
			change := diagonal
			if x != y {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(to)]
}

const (
	subscribers = 8 // subscribe requests under way at a time
	tooManyAsks = 5 // refusals for being too many, until we believe them
)

// follower keeps a stream subscribed to the devices it should carry. It lives
// as long as the tail; one connection after the other uses it.
type follower struct {
	api       *api
	requestID string
	all       bool  // also the devices that come later
	model     int64 // with all: only those of that model; 0: of any
	pace      pace

	wanted []device
	// followed are the devices whose lines the stream may have carried already.
	followed map[int64]bool
	told     map[int64]bool // a notice that the device is not followed was given
	doubted  map[int64]bool // the last attempt was forbidden
	// forbidden is the last refusal of that kind that was more than a doubt.
	forbidden *refused
}

func newFollower(a *api, requestID string, all bool, p pace) *follower {
	return &follower{
		api: a, requestID: requestID, all: all, pace: p,
		followed: map[int64]bool{}, told: map[int64]bool{}, doubted: map[int64]bool{},
	}
}

// report is what a follower tells the connection it works for.
type report struct {
	settled bool     // what was followed before is followed again
	devices []device // all devices, when they were listed anew
	notice  string
}

// run subscribes the stream: first to the devices that were followed before,
// then to the others, and with all to those that come later. It returns when
// there is nothing more to do, when ctx ends (nil), or with an error after which this
// connection is of no use: a *lost if another may do better.
func (f *follower) run(ctx context.Context, send func(report)) error {
	var again, fresh []device
	for _, d := range f.wanted {
		if f.followed[d.ID] {
			again = append(again, d)
		} else {
			fresh = append(fresh, d)
		}
	}
	if err := f.subscribe(ctx, again, send); err != nil || ctx.Err() != nil {
		return err
	}
	send(report{settled: true})
	if err := f.subscribe(ctx, fresh, send); err != nil || ctx.Err() != nil {
		return err
	}
	switch {
	case len(f.followed) == 0 && f.forbidden != nil:
		return f.forbidden
	case len(f.followed) == 0 && !f.all:
		return fleet.E(fleet.NotFound, nil, "There is nothing to follow: no device that was named can be followed")
	case !f.all:
		return nil
	}
	for sleep(ctx, f.pause()) == nil {
		if err := f.refresh(ctx, send); err != nil {
			return err
		}
	}
	return nil
}

// pause returns how long to wait before the next look for new devices. Who has
// none yet is making the first, and looks for its lines.
func (f *follower) pause() time.Duration {
	if len(f.followed) == 0 {
		return f.pace.first
	}
	return f.pace.relist
}

// refresh looks for devices that came, went or can be followed by now.
func (f *follower) refresh(ctx context.Context, send func(report)) error {
	devices, err := f.api.devices(ctx, f.model)
	switch kind := fleet.KindOf(err); {
	case err == nil:
	case kind == fleet.Unauthenticated, kind == fleet.Forbidden:
		return err
	default:
		return nil // it is tried again soon, and the stream tells if the server is gone
	}
	f.wanted = devices
	send(report{devices: devices})
	exists := map[int64]bool{}
	var fresh []device
	for _, d := range devices {
		exists[d.ID] = true
		if !f.followed[d.ID] {
			fresh = append(fresh, d)
		}
	}
	maps.DeleteFunc(f.followed, func(id int64, _ bool) bool { return !exists[id] })
	return f.subscribe(ctx, fresh, send)
}

// subscribe subscribes to devices, some at a time, and returns when each has
// its answer or ctx has ended.
func (f *follower) subscribe(ctx context.Context, devices []device, send func(report)) error {
	results := make([]error, len(devices))
	var group errgroup.Group
	group.SetLimit(subscribers)
	for i, d := range devices {
		group.Go(func() error {
			results[i] = f.ask(ctx, d.ID)
			return nil
		})
	}
	_ = group.Wait()

	var end error
	var skipped skips
	for i, d := range devices {
		err := results[i]
		r, answered := errors.AsType[*refused](err)
		if !answered {
			// No answer is no refusal: the server may have done it.
			f.followed[d.ID] = true
			if err == nil {
				delete(f.told, d.ID)
				delete(f.doubted, d.ID)
				f.forbidden = nil
			} else if fleet.KindOf(err) != fleet.Unavailable && ctx.Err() == nil {
				end = err
			}
			continue
		}
		switch {
		case ctx.Err() != nil:
			// The connection ended while we were asking. What it was refused
			// does not count: a server that restarts knows none of our streams.
		case r.status == http.StatusForbidden && !f.doubted[d.ID]:
			// Forbidden also means that the server does not know the stream,
			// because it ended without our having noticed.
			f.doubted[d.ID] = true
			if end == nil {
				end = &lost{why: r.Error()}
			}
		case r.status == http.StatusNotFound, f.all && (r.status == http.StatusForbidden || r.status == http.StatusTooManyRequests):
			delete(f.followed, d.ID)
			if r.status == http.StatusForbidden {
				f.forbidden = r
			}
			if !f.told[d.ID] {
				f.told[d.ID] = true
				skipped.add(d, r)
			}
		default:
			end = err
		}
	}
	for _, s := range skipped {
		send(report{notice: s.String()})
	}
	return end
}

// skips are devices that are not followed, by reason.
type skips []*skip

type skip struct {
	why    string
	labels []string
}

func (s *skips) add(d device, r *refused) {
	why := r.Error()
	if r.status == http.StatusNotFound && d.EntityID == nil {
		why = "no entity id"
	}
	for _, have := range *s {
		if have.why == why {
			have.labels = append(have.labels, d.label())
			return
		}
	}
	*s = append(*s, &skip{why, []string{d.label()}})
}

// String is the notice of it.
func (s *skip) String() string {
	const shown = 5
	list, more := s.labels, ""
	if n := len(list); n > shown {
		list, more = list[:shown], fmt.Sprintf(" and %d more", n-shown)
	}
	return fmt.Sprintf("--- not followed (%s): %s%s ---", s.why, strings.Join(list, ", "), more)
}

// ask subscribes to one device. What may succeed later it tries again, until ctx ends.
func (f *follower) ask(ctx context.Context, id int64) error {
	for attempt := 0; ; attempt++ {
		err := f.api.subscribe(ctx, f.requestID, id)
		var after time.Duration
		if r, ok := errors.AsType[*refused](err); ok {
			if !r.transient() || r.status == http.StatusTooManyRequests && attempt+1 == tooManyAsks {
				return err
			}
			after = r.after
		} else if fleet.KindOf(err) != fleet.Unavailable {
			return err
		}
		if sleep(ctx, max(after, f.pace.backoff(attempt))) != nil {
			return err
		}
	}
}
