package rotation_test

import (
	"testing"
	"time"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

func TestSchedule(t *testing.T) {
	const form = "2006-01-02T15:04Z07:00"
	f := func(cron, zone, after string, want ...string) {
		t.Helper()
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		s, err := rotation.ParseSchedule(cron, location)
		if err != nil {
			t.Fatalf("%q: %v", cron, err)
		}
		at, err := time.Parse(form, after)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if at = s.Next(at); at.Format(form) != w {
				t.Fatalf("%q in %s: %s, want %s", cron, zone, at.Format(form), w)
			}
		}
	}
	// The first Saturday of each month.
	f("0 8 * * 6#1", "UTC", "2026-07-01T00:00Z", "2026-07-04T08:00Z", "2026-08-01T08:00Z", "2026-09-05T08:00Z")
	f("0 8 * * 6#1", "UTC", "2026-07-04T07:59Z", "2026-07-04T08:00Z")
	f("0 8 * * 6#1", "UTC", "2026-07-04T08:00Z", "2026-08-01T08:00Z")
	f("0 8 * * sat#1", "UTC", "2026-07-01T00:00Z", "2026-07-04T08:00Z")
	f("*/20 * * * *", "UTC", "2026-01-01T00:00Z", "2026-01-01T00:20Z", "2026-01-01T00:40Z", "2026-01-01T01:00Z")
	f("30 3 1,15 * *", "UTC", "2026-01-01T03:30Z", "2026-01-15T03:30Z", "2026-02-01T03:30Z")
	f("0 0 13 * 5", "UTC", "2026-11-01T00:00Z", "2026-11-06T00:00Z", "2026-11-13T00:00Z", "2026-11-20T00:00Z", "2026-11-27T00:00Z", "2026-12-04T00:00Z", "2026-12-11T00:00Z", "2026-12-13T00:00Z") // either day
	f("0 12 * jan,jul mon-fri", "UTC", "2026-01-30T12:00Z", "2026-07-01T12:00Z")
	f("0 0 29 2 *", "UTC", "2026-03-01T00:00Z", "2028-02-29T00:00Z", "2032-02-29T00:00Z")
	f("0 0 * * 0", "UTC", "2026-01-01T00:00Z", "2026-01-04T00:00Z")
	f("0 0 * * 7", "UTC", "2026-01-01T00:00Z", "2026-01-04T00:00Z")
	f("@monthly", "UTC", "2026-01-01T00:00Z", "2026-02-01T00:00Z")
	// Clocks that change: at 2:00 to 3:00 on 29 March 2026, at 3:00 back to 2:00 on 25 October.
	f("30 2 * * *", "Europe/Amsterdam", "2026-03-28T00:00Z", "2026-03-28T01:30Z", "2026-03-29T01:30Z", "2026-03-30T00:30Z")
	f("30 2 * * *", "Europe/Amsterdam", "2026-10-24T00:00Z", "2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z")
	f("0 8 * * *", "Asia/Kathmandu", "2026-01-01T00:00Z", "2026-01-01T02:15Z")

	never, err := rotation.ParseSchedule("  ", time.UTC)
	if err != nil || !never.Never() || !never.Next(time.Now()).IsZero() {
		t.Errorf("no expression: %v", err)
	}
}

func TestScheduleRefuses(t *testing.T) {
	for _, cron := range []string{"0 8 * *", "0 8 * * * *", "x", "61 * * * *", "0 24 * * *", "0 0 31 2 *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "* * * * 6#6", "@never", "0 0 * * 6#"} {
		if s, err := rotation.ParseSchedule(cron, time.UTC); fleet.KindOf(err) != fleet.Invalid {
			t.Errorf("%q: %v, next %v", cron, err, s.Next(time.Now()))
		}
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("0 8 * * 6#1")
	f.Add("*/5 1-3 ? jan L")
	f.Fuzz(func(t *testing.T, cron string) {
		s, err := rotation.ParseSchedule(cron, time.UTC)
		if err != nil || s.Never() {
			return
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		if next := s.Next(now); !next.After(now) {
			t.Errorf("%q: %v is not after %v", cron, next, now)
		}
	})
}
