package access_test

import (
	"testing"
	"time"

	"signalbox/internal/access"
	"signalbox/internal/fleet"
)

func TestThrottle(t *testing.T) {
	var th access.Throttle
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 100 { // what is no failure does not count
		if err := th.Begin("192.0.2.1", now); err != nil {
			t.Fatal(err)
		}
		th.Undo("192.0.2.1", now)
	}
	n := 0
	for ; th.Begin("192.0.2.1", now) == nil; n++ {
		if n > 100 {
			t.Fatal("nobody has to wait")
		}
	}
	if n != 20 {
		t.Errorf("%d guesses", n)
	}
	if err := th.Begin("192.0.2.1", now); fleet.KindOf(err) != fleet.TooMany {
		t.Error(err)
	}
	if err := th.Begin("192.0.2.2", now); err != nil {
		t.Error(err)
	}
	if err := th.Begin("192.0.2.1", now.Add(time.Second)); err != nil {
		t.Error(err)
	}
	if err := th.Begin("192.0.2.1", now.Add(2*time.Second)); err == nil {
		t.Error("the wait does not grow")
	}
}
