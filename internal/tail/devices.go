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

// tooManyAsks is how many refusals for being too many we take until we believe them.
const tooManyAsks = 5

// follower keeps a stream subscribed to what it should carry. It lives as long
// as the tail; one connection after the other uses it.
type follower struct {
	api       *api
	requestID string
	all       bool  // every device, also those that come later
	model     int64 // with all: only those of that model; 0: of any
	filter    lineFilter
	pace      pace

	wanted  []device // that were named; with all: those there were at the start
	doubted bool     // the last attempt was forbidden
}

// report is what a follower tells the connection it works for.
type report struct {
	subscribed bool
	gone       []device // that were named and do not exist any more
}

// run subscribes the stream, in one request: so its events speak for all of
// the devices. It returns when that is done, when ctx ends (nil), or with an
// error after which this connection is of no use: a *lost if another may do better.
func (f *follower) run(ctx context.Context, send func(report)) error {
	for {
		err := f.ask(ctx)
		r, answered := errors.AsType[*refused](err)
		switch {
		case ctx.Err() != nil:
			// The connection ended while we were asking. What it was refused
			// does not count: a server that restarts knows none of our streams.
			return nil
		case err == nil:
			f.doubted = false
			send(report{subscribed: true})
			return nil
		case answered && r.status == http.StatusForbidden && !f.doubted:
			// Forbidden also means that the server does not know the stream,
			// because it ended without our having noticed.
			f.doubted = true
			return &lost{why: r.Error()}
		case !answered || r.status != http.StatusNotFound || f.all:
			return err
		}
		gone, err := f.leave(ctx)
		switch {
		case err != nil:
			return err
		case len(gone) > 0:
			send(report{gone: gone})
		}
		switch {
		case len(f.wanted) == 0:
			return errNothingLeft()
		case len(gone) == 0 && len(f.wanted) == 1 && f.wanted[0].EntityID == nil:
			return fleet.E(fleet.NotFound, nil, "%s has no entity id, so there is nothing to follow", f.wanted[0].label())
		case len(gone) == 0:
			return r
		}
	}
}

func errNothingLeft() error {
	return fleet.E(fleet.NotFound, nil, "There is nothing left to follow: what was named has been deleted")
}

// leave takes what does not exist any more from the devices that were named.
func (f *follower) leave(ctx context.Context) (gone []device, err error) {
	devices, err := f.api.devices(ctx, 0)
	if err != nil {
		if r, ok := errors.AsType[*refused](err); ok && r.transient() || fleet.KindOf(err) == fleet.Unavailable {
			return nil, &lost{why: err.Error()}
		}
		return nil, err
	}
	now := map[int64]device{}
	for _, d := range devices {
		now[d.ID] = d
	}
	var left []device
	for _, d := range f.wanted {
		if as, ok := now[d.ID]; ok {
			left = append(left, as)
		} else {
			gone = append(gone, d)
		}
	}
	f.wanted = left
	return gone, nil
}

// without takes out a device that the server says is gone, and reports whether
// something is left that may have lines.
func (f *follower) without(id int64) bool {
	f.wanted = slices.DeleteFunc(slices.Clone(f.wanted), func(d device) bool { return d.ID == id })
	return f.all || len(f.wanted) > 0
}

// ask makes the request. What may succeed later it tries again, until ctx ends.
func (f *follower) ask(ctx context.Context) error {
	s := subscription{RequestID: f.requestID, lineFilter: f.filter}
	switch {
	case f.model != 0:
		s.ModelID = f.model
	case f.all:
		s.All = true
	case len(f.wanted) == 1:
		s.DeviceID = f.wanted[0].ID
	default:
		for _, d := range f.wanted {
			s.DeviceIDs = append(s.DeviceIDs, d.ID)
		}
	}
	for attempt := 0; ; attempt++ {
		err := f.api.subscribe(ctx, s)
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
