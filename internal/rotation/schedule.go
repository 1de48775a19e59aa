package rotation

import (
	"sort"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"signalbox/internal/fleet"
)

// Schedule says when the whole fleet is rotated. The zero Schedule is never.
type Schedule struct {
	expression string
	zone       *time.Location
}

// scheduleSpan is how far ahead a schedule must have a date: every leap day and
// every fifth Monday of a month is in it.
const scheduleSpan = 12 * 366 * 24 * time.Hour

// ParseSchedule reads a cron expression of five fields: minute, hour, day of the
// month, month, day of the week, in the zone given. A day of the week may be
// numbered as in 6#1, the first Saturday of a month; where both days are given,
// either will do. "" is never. Errors are fleet.Invalid, also for an expression
// that no date ever fits.
func ParseSchedule(text string, zone *time.Location) (Schedule, error) {
	if strings.TrimSpace(text) == "" {
		return Schedule{}, nil
	}
	s := Schedule{strings.Join(strings.Fields(text), " "), zone}
	fields := strings.Fields(text)
	if len(text) > 200 || len(fields) != 5 && !(len(fields) == 1 && strings.HasPrefix(fields[0], "@")) {
		return Schedule{}, fleet.E(fleet.Invalid, nil, "a cron expression has five fields: minute, hour, day of the month, month, day of the week")
	}
	// Asking for a date finds what gronx's own check lets pass.
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if next, ok := s.find(from); !ok || next.Sub(from) > scheduleSpan {
		return Schedule{}, fleet.E(fleet.Invalid, nil, "%q is not a cron expression that a date fits", text)
	}
	return s, nil
}

// Never reports whether there is no date at all.
func (s Schedule) Never() bool { return s.expression == "" }

// Next returns the first date after t, in UTC; zero if there is none. A time
// of day that a change of the clocks leaves out is taken as much later as it
// leaves out; one that comes twice is taken the first time.
func (s Schedule) Next(t time.Time) time.Time {
	if s.Never() {
		return time.Time{}
	}
	next, ok := s.find(t)
	if !ok {
		return time.Time{}
	}
	return next
}

// find looks for the date on a clock that never changes, and then for the
// moment at which the zone's clocks show it.
func (s Schedule) find(t time.Time) (time.Time, bool) {
	// Dates are compared by what the clocks on the wall show, and the wall may
	// show the same twice: begin early, and pass over what is not after t.
	wall := onWall(t.In(s.zone)).Add(-3 * time.Hour)
	for range 1000 {
		next, err := gronx.NextTickAfter(s.expression, wall, false)
		if err != nil || next.Sub(wall) > scheduleSpan {
			return time.Time{}, false
		}
		if at := s.offWall(next); at.After(t) {
			return at, true
		}
		wall = next
	}
	return time.Time{}, false
}

// offWall returns when the clocks first show what is on the wall, in UTC.
func (s Schedule) offWall(wall time.Time) time.Time {
	at := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, s.zone)
	_, before := at.Add(-3 * time.Hour).Zone()
	if first := wall.Add(-time.Duration(before) * time.Second); onWall(first.In(s.zone)).Equal(wall) {
		return first
	}
	return at.UTC()
}

// onWall returns what the clocks show at t as if it were UTC.
func onWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// Last returns the last date that is not after t, in UTC; zero if there is none.
func (s Schedule) Last(t time.Time) time.Time {
	if s.Never() {
		return time.Time{}
	}
	// The later one begins to look, the later is the first date that one finds.
	minutes := sort.Search(int(scheduleSpan/time.Minute), func(minutes int) bool {
		next := s.Next(t.Add(-time.Duration(minutes+1) * time.Minute))
		return !next.IsZero() && !next.After(t)
	})
	if last := s.Next(t.Add(-time.Duration(minutes+1) * time.Minute)); !last.After(t) {
		return last
	}
	return time.Time{}
}

// String returns the expression and the zone; "" for never.
func (s Schedule) String() string {
	if s.Never() {
		return ""
	}
	return s.expression + " " + s.zone.String()
}

// Expression returns the cron expression; "" for never.
func (s Schedule) Expression() string { return s.expression }

// Zone returns the name of the zone that the expression is of; "" for never.
func (s Schedule) Zone() string {
	if s.Never() {
		return ""
	}
	return s.zone.String()
}
