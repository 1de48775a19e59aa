package tail

import (
	"strconv"
	"strings"
	"time"

	"signalbox/internal/fleet"
)

// Moment reads a point in time as a person writes it, in the zone of now:
// RFC 3339, a date and mostly a time of it, a time of today, or how long ago.
// Its error is fleet.Invalid.
func Moment(option, s string, now time.Time) (time.Time, error) {
	if ago, ok := parseAgo(s); ok {
		return now.Add(-ago), nil
	}
	text := s
	if len(text) > 10 && strings.ContainsRune("tT_ ", rune(text[10])) {
		text = text[:10] + "T" + text[11:]
	}
	for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, strings.Replace(text, "z", "Z", 1)); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			year, month, day := now.Date()
			return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location()), nil
		}
	}
	return time.Time{}, fleet.E(fleet.Invalid, nil,
		"--%s %q is no time: use one like 2026-02-01T14:30:00Z, 2026-02-01, 14:30, or a time ago like 2h, 30m or 7d", option, s)
}

// longAgo bounds a duration.
const longAgo = 100 * 365 * 24 * time.Hour

// parseAgo reads a duration such as 90s, 1h30m, 7d or 2w.
func parseAgo(s string) (time.Duration, bool) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	var sum time.Duration
	for rest := s; rest != ""; {
		end := strings.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if end < 1 {
			return 0, false
		}
		n, err := strconv.ParseFloat(rest[:end], 64)
		unit, ok := units[rest[end]]
		if err != nil || !ok || n*float64(unit) > float64(longAgo) {
			return 0, false
		}
		if sum += time.Duration(n * float64(unit)); sum > longAgo {
			return 0, false
		}
		rest = rest[end+1:]
	}
	return sum, s != ""
}
