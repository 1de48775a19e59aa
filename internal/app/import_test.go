package app

import (
	"testing"
	"time"
)

func TestOverlaps(t *testing.T) {
	day := func(n int) time.Time {
		if n == 0 {
			return time.Time{}
		}
		return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC)
	}
	f := func(since, until, otherSince, otherUntil int, want bool) {
		t.Helper()
		a := importState{Origin: "x", Since: day(since), Until: day(until)}
		b := importState{Origin: "x", Since: day(otherSince), Until: day(otherUntil)}
		if a.overlaps(&b) != want || b.overlaps(&a) != want {
			t.Errorf("%d to %d and %d to %d: want %v", since, until, otherSince, otherUntil, want)
		}
		if b.Origin = "y"; a.overlaps(&b) {
			t.Error("imports from two places overlap")
		}
	}
	f(0, 0, 0, 0, true)
	f(0, 0, 3, 4, true)
	f(1, 3, 3, 4, true) // both bounds are included
	f(1, 2, 3, 4, false)
	f(0, 2, 3, 0, false)
	f(0, 4, 3, 0, true)
	f(5, 0, 3, 4, false)
}
