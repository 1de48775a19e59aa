package logs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var midnight = time.Date(2026, 7, 4, 0, 0, 0, 0, time.UTC)

// after is a moment of a test.
func after(seconds float64) time.Time {
	return midnight.Add(time.Duration(seconds * float64(time.Second)))
}

func TestQuota(t *testing.T) {
	type step struct {
		at      float64 // seconds
		n       int
		allowed int
		notice  string // how its text begins
	}
	const (
		exceeded = "signalbox: log quota of 10 lines/s exceeded"
		within   = "signalbox: within the log quota again; "
	)
	f := func(name string, rate, burst int, steps ...step) {
		t.Helper()
		q := NewQuota(rate, burst)
		for _, s := range steps {
			allowed, notice := q.take("a", after(s.at), s.n)
			text := ""
			if notice != nil {
				var doc map[string]string
				if err := json.Unmarshal(notice.Doc, &doc); err != nil {
					t.Fatal(err)
				}
				text = doc["message"]
				want := map[string]string{"@timestamp": after(s.at).Format(TimeLayout), "message": text, "level": "warn", "tag": "signalbox"}
				if diff := cmp.Diff(want, doc); diff != "" || notice.Level != Warn || notice.Tag != "signalbox" {
					t.Errorf("%s: notice %+v\n%s", name, notice, diff)
				}
			}
			if allowed != s.allowed || !strings.HasPrefix(text, s.notice) || s.notice == "" && text != "" {
				t.Errorf("%s, after %gs: %d of %d allowed, notice %q; want %d, %q", name, s.at, allowed, s.n, text, s.allowed, s.notice)
			}
		}
	}
	f("no limit", 0, 0, step{0, 1 << 20, 1 << 20, ""}, step{0, 1 << 20, 1 << 20, ""})
	f("a burst", 10, 30, step{0, 30, 30, ""}, step{0, 1, 0, exceeded}, step{0.1, 1, 1, ""})
	f("a burst cut in the middle", 10, 30, step{0, 40, 30, exceeded}, step{0.05, 5, 0, ""})
	f("the rate, for ever", 10, 10, step{0, 10, 10, ""}, step{1, 10, 10, ""}, step{2, 10, 10, ""}, step{3, 11, 10, exceeded})
	f("no more than the burst is saved", 10, 30, step{0, 1, 1, ""}, step{1000, 31, 30, exceeded})
	f("a burst below the rate is the rate", 10, 1, step{0, 10, 10, ""}, step{0, 1, 0, exceeded})
	f("one notice a cut", 10, 10,
		step{0, 15, 10, exceeded}, step{0, 5, 0, ""}, step{0.5, 10, 5, ""}, step{0.5, 5, 0, ""},
		step{2, 1, 1, within + "20 lines"}, step{2, 1, 1, ""}, step{2, 9, 8, exceeded}, step{10, 1, 1, within + "1 lines"})
	f("a clock that jumps back", 10, 10,
		step{100, 10, 10, ""}, step{50, 1, 0, exceeded}, step{99, 1, 0, ""}, step{100.1, 2, 1, ""}, step{101.1, 1, 1, within + "3 lines"})
	f("full messages at a slow pace", 10, 10, step{0, 11, 10, exceeded}, step{60, 10, 10, within + "1 lines"}, step{120, 10, 10, ""}, step{120, 1, 0, exceeded})
	f("messages without a line", 10, 10, step{0, 0, 0, ""}, step{0, 11, 10, exceeded}, step{0, 0, 0, ""})
}

// Each device has its own quota.
func TestQuotaPerDevice(t *testing.T) {
	q := NewQuota(1, 5)
	for _, device := range []string{"a", "b"} {
		if n, _ := q.take(device, midnight, 9); n != 5 {
			t.Errorf("%s: %d allowed", device, n)
		}
	}
}

// Over any time, no more than the burst and the rate is let through, a device
// below its rate is never cut, and the notices alternate and count right.
func TestQuotaProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 50).Draw(t, "rate")
		burst := rapid.IntRange(0, 200).Draw(t, "burst")
		q := NewQuota(rate, burst)
		burst = max(rate, burst)
		type taken struct {
			at time.Time
			n  int
		}
		var all []taken
		now, newest := midnight, time.Time{}
		cut, dropped := false, 0
		for range rapid.IntRange(1, 60).Draw(t, "messages") {
			now = now.Add(time.Duration(rapid.Int64Range(-2000, 8000).Draw(t, "ms")) * time.Millisecond)
			if now.After(newest) {
				newest = now
			}
			n := rapid.IntRange(0, 2*burst).Draw(t, "lines")
			allowed, notice := q.take("a", now, n)
			if allowed < 0 || allowed > n {
				t.Fatalf("%d of %d allowed", allowed, n)
			}
			// The time that counts is the newest the quota has seen.
			all = append(all, taken{newest, allowed})
			sum := 0
			for i := len(all) - 1; i >= 0; i-- {
				sum += all[i].n
				if most := float64(burst) + float64(rate)*newest.Sub(all[i].at).Seconds(); float64(sum) > most+1e-6 {
					t.Fatalf("%d lines in %s", sum, newest.Sub(all[i].at))
				}
			}
			began := !cut && allowed < n
			dropped += n - allowed
			text := ""
			if notice != nil {
				var doc struct{ Message string }
				if err := json.Unmarshal(notice.Doc, &doc); err != nil {
					t.Fatal(err)
				}
				text = doc.Message
			}
			switch {
			case began != strings.Contains(text, "exceeded"):
				t.Fatalf("%d of %d allowed, cut %v, notice %q", allowed, n, cut, text)
			case strings.Contains(text, "again"):
				if !cut || allowed < n || !strings.Contains(text, "; "+itoa(dropped)+" lines") {
					t.Fatalf("%d of %d allowed, cut %v, %d dropped, notice %q", allowed, n, cut, dropped, text)
				}
				cut, dropped = false, 0
			case began:
				cut = true
			}
		}
	})
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// A device that keeps to its rate is never cut.
func TestQuotaWithinTheRate(t *testing.T) {
	for _, rate := range []int{1, 3, 7, 10, 30, 100, 1000} {
		q := NewQuota(rate, rate)
		q.take("a", midnight, rate)
		for i := 1; i <= 20*rate; i++ {
			if n, notice := q.take("a", midnight.Add(time.Duration(i)*time.Second/time.Duration(rate)+time.Microsecond), 1); n != 1 || notice != nil {
				t.Errorf("rate %d: line %d was cut", rate, i)
				break
			}
		}
	}
}
