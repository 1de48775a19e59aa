package tail

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/fleet"
)

func TestPick(t *testing.T) {
	devices := []device{
		dev(1, "aaaa2222", "Kitchen lamp", "kitchen"),
		dev(2, "bbbb3333", "Hall lamp", "hall"),
		dev(3, "cccc4444", "Pump", "pump_1"),
		dev(4, "dddd5555", "Pump", "pump_2"),
		dev(5, "eeee6666", "", "twin"),
		dev(6, "ffff7777", "twin", ""),
		dev(7, "gggg2222", "aaaa2222", "HALL"),
		dev(8, "hhhh2222", "bad\x1b[2Jname", "bad\nname"),
		dev(9, "iiii2222", "bad\x1b[2Jname", ""),
	}
	f := func(names string, want ...int64) {
		t.Helper()
		picked, err := pick(devices, strings.Split(names, ","))
		if err != nil {
			t.Error(err)
			return
		}
		var got []int64
		for _, d := range picked {
			got = append(got, d.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", names, diff)
		}
	}
	f("cccc4444", 3)
	f("kitchen", 1)
	f("Kitchen lamp", 1)
	f("kitchen LAMP", 1)
	f("hall", 2)     // in the exact case
	f("HALL", 7)     // likewise
	f("aaaa2222", 1) // the key goes before another's name
	f("pump_2,kitchen,dddd5555,Hall lamp", 4, 1, 2)

	fails := func(name string, kind fleet.Kind, want string) {
		t.Helper()
		_, err := pick(devices, []string{name})
		if fleet.KindOf(err) != kind || err.Error() != want {
			t.Errorf("%s: %v: %v", name, fleet.KindOf(err), err)
		}
	}
	fails("Pump", fleet.Invalid, "\"Pump\" is the name of 2 devices; use the key of one:\n  cccc4444 \"Pump\" (entity id pump_1)\n  dddd5555 \"Pump\" (entity id pump_2)")
	fails("twin", fleet.Invalid, "\"twin\" is the name of 2 devices; use the key of one:\n  eeee6666 (entity id twin)\n  ffff7777 \"twin\"")
	fails("Hall", fleet.Invalid, "\"Hall\" is the name of 2 devices; use the key of one:\n  bbbb3333 \"Hall lamp\" (entity id hall)\n  gggg2222 \"aaaa2222\" (entity id HALL)")
	fails("bad\x1b[2Jname", fleet.Invalid, "\"bad\\x1b[2Jname\" is the name of 2 devices; use the key of one:\n  hhhh2222 \"bad\\x1b[2Jname\" (entity id bad\\nname)\n  iiii2222 \"bad\\x1b[2Jname\"")
	fails("kitchn", fleet.NotFound, `There is no device "kitchn"; did you mean kitchen?`)
	fails("lamp", fleet.NotFound, `There is no device "lamp"; did you mean Hall lamp, Kitchen lamp?`)
	fails("pump_3", fleet.NotFound, `There is no device "pump_3"; did you mean pump_1, pump_2?`)
	fails("aaab2222", fleet.NotFound, `There is no device "aaab2222"; did you mean aaaa2222?`)
	fails("something else", fleet.NotFound, `There is no device "something else"`)
	fails("", fleet.NotFound, `There is no device ""`)
}

func TestEdits(t *testing.T) {
	f := func(a, b string, want int) {
		t.Helper()
		if got := edits(a, b); got != want {
			t.Errorf("%q to %q: %d, want %d", a, b, got, want)
		}
	}
	f("", "", 0)
	f("", "abc", 3)
	f("abc", "", 3)
	f("kitten", "sitting", 3)
	f("größe", "grosse", 3)
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	f := func(header string, want time.Duration) {
		t.Helper()
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	f("", 0)
	f("7", 7*time.Second)
	f("-7", 0)
	f("soon", 0)
	f("300", maxAsked)
	f("301", maxAsked)
	f(now.Add(9*time.Second).Format(http.TimeFormat), 9*time.Second)
	f(now.Add(-9*time.Second).Format(http.TimeFormat), 0)
	f(now.Add(24*time.Hour).Format(http.TimeFormat), maxAsked)
}

func TestBackoff(t *testing.T) {
	p := defaultPace
	f := func(attempt int, most time.Duration) {
		t.Helper()
		for range 100 {
			if d := p.backoff(attempt); d < most/2 || d > most {
				t.Fatalf("attempt %d waits %v", attempt, d)
			}
		}
	}
	f(0, 500*time.Millisecond)
	f(1, time.Second)
	f(4, 8*time.Second)
	f(5, 15*time.Second)
	f(1_000_000, 15*time.Second)
}
