package logs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// However many losses there are, few entries tell of all of them: each line is in
// an entry of its device, or of any, and the counts add up.
func TestLosses(t *testing.T) {
	for _, devices := range []int{1, 3, 2000} {
		random := rand.New(rand.NewPCG(1, uint64(devices)))
		at := time.Date(2026, 7, 4, 8, 0, 0, 0, time.UTC)
		var s losses
		var all []Lost
		for seq := uint64(1); seq < 20_000; seq += 1 + random.Uint64N(20) {
			at = at.Add(time.Second)
			l := Lost{Device: fmt.Sprintf("dev%05d", random.IntN(devices)), Epoch: "new", From: seq - 1, To: seq, Lines: 1, Least: at, Most: at, Reason: LostRejected}
			if seq < 1000 {
				l.Epoch = "old"
			}
			if random.IntN(20) == 0 {
				l = Lost{Epoch: l.Epoch, From: seq - 1, To: seq + 5, Reason: LostJournal}
				seq += 5
			}
			s.add(l)
			all = append(all, l)
			if len(s) > maxLosses {
				t.Fatalf("%d entries", len(s))
			}
		}
		covers := func(o, l Lost) bool {
			return o.Epoch == l.Epoch && o.Reason == l.Reason && o.From <= l.From && o.To >= l.To && (o.Device == l.Device || o.Device == "") &&
				(l.Most.IsZero() || !o.Least.After(l.Least) && !o.Most.Before(l.Most))
		}
		told, want := 0, 0
		for _, o := range s {
			told += o.Lines
		}
		for _, l := range all {
			want += l.Lines
			if !slices.ContainsFunc(s, func(o Lost) bool { return covers(o, l) }) {
				t.Fatalf("%+v is not told", l)
			}
		}
		if told != want {
			t.Errorf("%d lines are told, want %d", told, want)
		}
		if !slices.IsSortedFunc(s, func(a, b Lost) int {
			if a.Epoch != b.Epoch {
				return map[bool]int{true: -1, false: 1}[a.Epoch == "old"]
			}
			return int(int64(a.From) - int64(b.From))
		}) {
			t.Error("the entries are out of order")
		}
		if devices == 3 && slices.ContainsFunc(s, func(l Lost) bool { return l.Device == "" && l.Reason == LostRejected }) {
			t.Error("devices were joined although each has neighbours of its own")
		}
		for _, l := range all {
			if l.Reason == LostRejected {
				s.found(l.Epoch, &SinkLine{Device: l.Device, Seq: l.To})
			}
		}
		for _, l := range s {
			if l.Reason == LostRejected {
				t.Fatalf("left is %+v", l)
			}
		}
	}
}
