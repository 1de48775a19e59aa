package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"signalbox/internal/fleet"
)

var midnight = time.Date(2026, 7, 4, 0, 0, 0, 0, time.UTC)

// after is a moment of a test.
func after(seconds float64) time.Time {
	return midnight.Add(time.Duration(seconds * float64(time.Second)))
}

// ofSize is n entries whose documents have that many bytes.
func ofSize(n, size int) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i].Doc = bytes.Repeat([]byte{'x'}, size)
	}
	return entries
}

func ref(key string) fleet.DeviceRef {
	return fleet.DeviceRef{Key: key, ClientID: fleet.ClientID("m", key), ModelCode: "m"}
}

// textOf returns the message of a notice, "" without one.
func textOf(t testing.TB, notice *Entry) string {
	t.Helper()
	if notice == nil {
		return ""
	}
	var doc struct{ Message string }
	if err := json.Unmarshal(notice.Doc, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Message
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
	f := func(name string, rate, burst int64, steps ...step) {
		t.Helper()
		q := NewQuota(Limits{LinesPerSecond: rate, Burst: burst}, nil)
		for _, s := range steps {
			v := q.take(ref("a"), after(s.at), ofSize(s.n, 100))
			allowed, notice := v.allowed, v.notice
			if (v.reason == ReasonOverRate) != (allowed < s.n) {
				t.Errorf("%s: reason %q, %d of %d allowed", name, v.reason, allowed, s.n)
			}
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
	f("a clock that was set back", 10, 10,
		step{100, 10, 10, ""}, step{0, 1, 0, exceeded}, step{1, 10, 10, within + "1 lines (100 bytes)"}, step{2, 10, 10, ""})
	f("a clock that jumps forward", 10, 20, step{0, 20, 20, ""}, step{1e9, 21, 20, exceeded}, step{0, 5, 0, ""}, step{1, 5, 5, within + "6 lines"})
	f("told again once a minute", 10, 10,
		step{0, 11, 10, exceeded}, step{59.9, 11, 10, ""}, step{60, 11, 1, "signalbox: log quota of 10 lines/s still exceeded; 12 lines (1200 bytes) dropped so far"},
		step{61, 11, 10, ""}, step{120, 11, 10, "signalbox: log quota of 10 lines/s still exceeded; 14 lines (1400 bytes) dropped so far"},
		step{300, 10, 10, within + "14 lines (1400 bytes)"})
	f("full messages at a slow pace", 10, 10, step{0, 11, 10, exceeded}, step{60, 10, 10, within + "1 lines"}, step{120, 10, 10, ""}, step{120, 1, 0, exceeded})
	f("messages without a line", 10, 10, step{0, 0, 0, ""}, step{0, 11, 10, exceeded}, step{0, 0, 0, ""})
}

// Each limit cuts, says that it was the one, and lets through what comes in.
func TestQuotaLimits(t *testing.T) {
	f := func(l Limits, size, first, later int, wait time.Duration, reason Reason, name string) {
		t.Helper()
		q := NewQuota(l, nil)
		v := q.take(ref("a"), midnight, ofSize(1000, size))
		if want := "signalbox: log quota of " + name + " exceeded; lines are being dropped"; v.allowed != first || v.reason != reason || textOf(t, v.notice) != want {
			t.Errorf("%+v: %d allowed, %s, %q", l, v.allowed, v.reason, textOf(t, v.notice))
		}
		if v := q.take(ref("a"), midnight.Add(wait), ofSize(1000, size)); v.allowed != later {
			t.Errorf("%+v: after %v %d allowed", l, wait, v.allowed)
		}
		// However far the clock jumps, one full bucket is there.
		if v := q.take(ref("a"), midnight.AddDate(50, 0, 0), ofSize(1000, size)); v.allowed != first {
			t.Errorf("%+v: %d allowed after a jump", l, v.allowed)
		}
	}
	f(Limits{LinesPerSecond: 10, Burst: 20}, 100, 20, 10, time.Second, ReasonOverRate, "10 lines/s")
	f(Limits{BytesPerSecond: 1000}, 100, 100, 10, time.Second, ReasonOverRate, "1000 bytes/s")
	f(Limits{LinesPerDay: 240}, 100, 240, 10, time.Hour, ReasonOverDay, "240 lines/day")
	f(Limits{BytesPerDay: 24_000}, 100, 240, 10, time.Hour, ReasonOverDay, "24000 bytes/day")
	// The tightest one, and of two the one that lasts.
	f(Limits{LinesPerSecond: 10, Burst: 20, BytesPerSecond: 100, LinesPerDay: 500, BytesPerDay: 1 << 30}, 100, 10, 1, time.Second, ReasonOverRate, "100 bytes/s")
	f(Limits{LinesPerSecond: 10, Burst: 20, LinesPerDay: 20}, 100, 20, 0, time.Second, ReasonOverDay, "20 lines/day")
}

// A second limit that is hit in a cut is told, and the cut lasts until both
// have rested.
func TestQuotaTwoLimits(t *testing.T) {
	q := NewQuota(Limits{LinesPerSecond: 10, Burst: 10, LinesPerDay: 24}, nil)
	f := func(at time.Duration, n, allowed int, notice string) {
		t.Helper()
		v := q.take(ref("a"), midnight.Add(at), ofSize(n, 10))
		if text := textOf(t, v.notice); v.allowed != allowed || text != notice {
			t.Errorf("after %v: %d allowed, %q", at, v.allowed, text)
		}
	}
	f(0, 11, 10, "signalbox: log quota of 10 lines/s exceeded; lines are being dropped")
	f(time.Second, 12, 10, "")
	f(2*time.Second, 5, 4, "signalbox: log quota of 24 lines/day exceeded; lines are being dropped")
	f(time.Hour, 1, 0, "signalbox: log quota of 24 lines/day still exceeded; 5 lines (50 bytes) dropped so far")
	f(time.Hour+3*time.Second, 1, 1, "") // what trickles in does not end it
	f(2*time.Hour+2*time.Second, 1, 1, "")
	f(3*time.Hour+2*time.Second, 0, 0, "signalbox: within the log quota again; 5 lines (50 bytes) were dropped")
}

// A line larger than a full bucket passes when that is full, and the device
// pays for it.
func TestQuotaLargeLine(t *testing.T) {
	q := NewQuota(Limits{BytesPerSecond: 100}, nil)
	f := func(seconds float64, allowed int) {
		t.Helper()
		if v := q.take(ref("a"), after(seconds), ofSize(1, 5000)); v.allowed != allowed {
			t.Errorf("after %gs: %d allowed", seconds, v.allowed)
		}
	}
	f(0, 1)
	f(10, 0)
	f(49, 0)
	f(50.1, 1)
	f(100, 0)
	f(100.3, 1)
}

// Each device has its own quota, of its model.
func TestQuotaPerDevice(t *testing.T) {
	q := NewQuota(Limits{LinesPerSecond: 1, Burst: 5}, map[string]Limits{"small": {LinesPerSecond: 1, Burst: 2}, "free": {}})
	f := func(key, model string, allowed int) {
		t.Helper()
		d := ref(key)
		d.ModelCode = model
		if v := q.take(d, midnight, ofSize(9, 1)); v.allowed != allowed {
			t.Errorf("%s of model %q: %d allowed", key, model, v.allowed)
		}
	}
	f("a", "m", 5)
	f("b", "", 5)
	f("c", "small", 2)
	f("d", "small", 2)
	f("e", "free", 9)
	f("e", "free", 9)
	if len(q.buckets) != 4 {
		t.Errorf("%d buckets", len(q.buckets))
	}
}

// What is silent until it is full is forgotten; a cut that ends in silence is
// told once, and the number of devices being cut follows.
func TestQuotaSweep(t *testing.T) {
	q := NewQuota(Limits{LinesPerSecond: 10, Burst: 100}, map[string]Limits{"day": {LinesPerDay: 24}})
	cut := 0.0
	q.cutting = func(change float64) { cut += change }
	day := ref("day")
	day.ModelCode = "day"
	f := func(at time.Duration, buckets int, cutting float64, notices ...string) {
		t.Helper()
		var got []string
		for _, c := range q.sweep(midnight.Add(at)) {
			got = append(got, c.device.Key+": "+textOf(t, c.notice))
		}
		if diff := cmp.Diff(notices, got); diff != "" || len(q.buckets) != buckets || cut != cutting {
			t.Errorf("after %v: %d buckets, %v cut\n%s", at, len(q.buckets), cut, diff)
		}
	}
	q.take(ref("quiet"), midnight, ofSize(1, 1))
	q.take(ref("loud"), midnight, ofSize(150, 2))
	q.take(day, midnight, ofSize(30, 1))
	f(time.Second, 3, 2)
	f(sweepEvery-1, 3, 2)
	f(time.Second+sweepEvery, 1, 1, "loud: signalbox: within the log quota again; 50 lines (100 bytes) were dropped")
	f(time.Hour-time.Second, 1, 1)
	f(time.Hour, 1, 1) // too often
	f(time.Hour+sweepEvery, 1, 0, "day: signalbox: within the log quota again; 6 lines (6 bytes) were dropped")
	f(23*time.Hour, 1, 0)
	f(24*time.Hour, 0, 0)

	// A clock that was set back does not keep anything for ever.
	q.take(ref("loud"), midnight.AddDate(1, 0, 0), ofSize(150, 2))
	f(0, 1, 1)
	f(sweepEvery, 0, 0, "loud: signalbox: within the log quota again; 50 lines (100 bytes) were dropped")
}

// However many devices there are, the memory has a bound; who was silent for
// longest is forgotten first, who is being cut last.
func TestQuotaBound(t *testing.T) {
	q := NewQuota(Limits{LinesPerDay: 10}, nil)
	q.most = 80
	cut := 0.0
	q.cutting = func(change float64) { cut += change }
	q.take(ref("cut"), midnight, ofSize(11, 1))
	for i := range 1000 {
		q.take(ref(fmt.Sprint(i)), midnight.Add(time.Duration(i)*time.Millisecond), ofSize(1, 1))
		if len(q.buckets) > q.most {
			t.Fatalf("%d buckets", len(q.buckets))
		}
	}
	for _, key := range []string{"cut", "999", "930"} {
		if q.buckets[key] == nil {
			t.Errorf("%s was forgotten", key)
		}
	}
	for i := range 1000 {
		q.take(ref(fmt.Sprint("cut", i)), midnight.Add(time.Hour), ofSize(11, 1))
	}
	n := 0
	for _, b := range q.buckets {
		if b.cut() {
			n++
		}
	}
	if float64(n) != cut || len(q.buckets) > q.most {
		t.Errorf("%d devices are cut, %v counted, %d buckets", n, cut, len(q.buckets))
	}
}

// Over any time, no more than the burst and the rate is let through, a device
// below its rate is never cut, and the notices alternate and count right.
func TestQuotaProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.IntRange(1, 50).Draw(t, "rate")
		burst := rapid.IntRange(0, 200).Draw(t, "burst")
		q := NewQuota(Limits{LinesPerSecond: int64(rate), Burst: int64(burst)}, nil)
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
			} else if newest.Sub(now) > skew {
				now = newest.Add(-skew) // further back, the clock was set
			}
			n := rapid.IntRange(0, 2*burst).Draw(t, "lines")
			v := q.take(ref("a"), now, ofSize(n, 3))
			allowed, notice := v.allowed, v.notice
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
			if strings.Contains(text, "still exceeded") {
				if !cut || allowed == n || !strings.Contains(text, "; "+itoa(dropped)+" lines ("+itoa(3*dropped)+" bytes)") {
					t.Fatalf("%d of %d allowed, cut %v, %d dropped, notice %q", allowed, n, cut, dropped, text)
				}
				continue
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
		q := NewQuota(Limits{LinesPerSecond: int64(rate), Burst: int64(rate)}, nil)
		q.take(ref("a"), midnight, ofSize(rate, 1))
		for i := 1; i <= 20*rate; i++ {
			if v := q.take(ref("a"), midnight.Add(time.Duration(i)*time.Second/time.Duration(rate)+time.Microsecond), ofSize(1, 1)); v.allowed != 1 || v.notice != nil {
				t.Errorf("rate %d: line %d was cut", rate, i)
				break
			}
		}
	}
}
