package tail

import (
	"strings"
	"testing"
	"time"

	"signalbox/internal/fleet"
)

func TestParseMoment(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 2, 1, 14, 30, 0, 0, zone)
	f := func(s, want string) {
		t.Helper()
		got, err := Moment("since", s, now)
		if err != nil || stampOf(got) != want {
			t.Errorf("%q is %v, %v; want %s", s, stampOf(got), err, want)
		}
	}
	f("2026-02-01T10:00:00Z", "2026-02-01T10:00:00.000000Z")
	f("2026-02-01t10:00:00z", "2026-02-01T10:00:00.000000Z")
	f("2026-02-01 10:00:00.123456789Z", "2026-02-01T10:00:00.123456Z")
	f("2026-02-01T10:00:00+05:30", "2026-02-01T04:30:00.000000Z")
	f("2026-02-01T10:00Z", "2026-02-01T10:00:00.000000Z")
	f("2026-02-01T10:00:00", "2026-02-01T08:00:00.000000Z") // here
	f("2026-02-01 10:00", "2026-02-01T08:00:00.000000Z")
	f("2026-02-01", "2026-01-31T22:00:00.000000Z")
	f("10:15", "2026-02-01T08:15:00.000000Z") // today
	f("10:15:07.5", "2026-02-01T08:15:07.500000Z")
	f("00:00", "2026-01-31T22:00:00.000000Z")
	f("2h", "2026-02-01T10:30:00.000000Z") // ago
	f("30m", "2026-02-01T12:00:00.000000Z")
	f("90s", "2026-02-01T12:28:30.000000Z")
	f("1h30m", "2026-02-01T11:00:00.000000Z")
	f("1.5h", "2026-02-01T11:00:00.000000Z")
	f("7d", "2026-01-25T12:30:00.000000Z")
	f("1w1d", "2026-01-24T12:30:00.000000Z")
	f("0s", "2026-02-01T12:30:00.000000Z")
	f("36500d", "1926-02-26T12:30:00.000000Z")

	for _, s := range []string{
		"", " ", "yesterday", "2026", "2026-13-01", "25:00", "10", "-2h", "2", "2y", "h", "2h30", "..h", "36501d", "36500d1s", "1e9d", "9999999999999999999999h",
		"2026-02-01T10:00:00Zebra", strings.Repeat("1d", 40_000),
	} {
		if got, err := Moment("since", s, now); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("%.40q is %v, %v", s, got, err)
		}
	}
	_, err := Moment("until", "soon", now)
	if want := `--until "soon" is no time: use one like 2026-02-01T14:30:00Z, 2026-02-01, 14:30, or a time ago like 2h, 30m or 7d`; err.Error() != want {
		t.Error(err)
	}
}

func FuzzParseMoment(f *testing.F) {
	for _, s := range []string{"2h", "1w2d3h4m5s", "2026-02-01", "2026-02-01T10:00:00+05:30", "10:15", "1.5h"} {
		f.Add(s)
	}
	now := time.Date(2026, 2, 1, 14, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Moment("since", s, now)
		if err != nil {
			if fleet.KindOf(err) != fleet.Invalid {
				t.Error(err)
			}
			return
		}
		again, err := Moment("since", stampOf(got), now)
		if err != nil || !again.Equal(got.Truncate(time.Microsecond)) {
			t.Errorf("%q is %v, written %v", s, got, again)
		}
	})
}
