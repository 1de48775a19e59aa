package e2e_test

import (
	"strings"
	"testing"
)

// pad makes the lines of a small journal's test 600 bytes long.
var pad = strings.Repeat("p", 500)

// lines returns how many lines of the device the reader received, how many it
// was told are missing, and how many times it was told.
func (r *reader) sum(d device) (received, missing, told int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.gaps[d.ID] {
		if g.Count == nil {
			r.s.t.Errorf("a gap of %s without a count: %+v", d.Entity, g)
		} else {
			missing += *g.Count
		}
		if g.Reason != "retention" || g.Entity != d.Entity || !strings.Contains(g.From, "-") || !strings.Contains(g.To, "-") || g.From == g.To {
			r.s.t.Errorf("a gap of %s says %+v", d.Entity, g)
		}
	}
	return len(r.lines[d.ID]), missing, len(r.gaps[d.ID])
}

// A reader that was away for longer than the journal reaches is told exactly
// how much it missed, and nothing about devices of which it missed nothing.
func TestGapAfterAbsence(t *testing.T) {
	s := start(t, "LOGS_HISTORY=off", "JOURNAL_MAX_BYTES=64KiB")
	loud, early, other := s.device("loud"), s.device("early"), s.device("other")
	r := s.follow("r", loud, early, other)
	a, b, c := s.board(loud), s.board(early), s.board(other)
	a.sayLong(3, pad)
	b.sayLong(5, pad)
	c.sayLong(7, pad)
	r.waitFor(loud, 3)
	r.waitFor(early, 5)
	r.waitFor(other, 7)
	r.stop()
	if s.metric("sse_gateway_active_connections"); r.last() == "" {
		t.Fatal("the reader has no id")
	}

	// Much more than fits, in messages of different sizes.
	for i := range 120 {
		a.sayLong(1+i%5, pad)
	}
	c.sayLong(2, pad) // fits
	back := s.newReader("r", loud, early, other)
	back.lastID = r.last()
	back.start()
	back.waitFor(loud, a.said)
	back.waitFor(other, c.said)
	a.sayLong(1, pad)
	b.sayLong(1, pad)
	back.waitFor(loud, a.said)
	back.waitFor(early, b.said)

	received, missing, told := back.sum(loud)
	t.Logf("loud: %d said, %d received before, %d after, %d missing in %d gaps", a.said, 3, received, missing, told)
	if told == 0 || missing == 0 || 3+received+missing != a.said {
		t.Errorf("of %d lines 3 and %d were received and %d told missing", a.said, received, missing)
	}
	if got, missing, told := back.sum(early); got != 1 || told != 0 {
		t.Errorf("early: received %d, told of %d missing in %d gaps; want 1 and none", got, missing, told)
	}
	if got, missing, told := back.sum(other); got != 2 || told != 0 {
		t.Errorf("other: received %d, told of %d missing in %d gaps; want 2 and none", got, missing, told)
	}
	if told, lines := s.metric(`sse_log_gaps_total{reason="retention"}`), s.metric("sse_log_gap_lines_total"); told == 0 || lines != float64(missing) {
		t.Errorf("metrics count %v gaps and %v lines, want %d lines", told, lines, missing)
	}
}

// A reader that is connected all the time but too slow is told in the same way
// when the journal has overtaken it.
func TestGapOfSlowReader(t *testing.T) {
	s := start(t, "LOGS_HISTORY=off", "JOURNAL_MAX_BYTES=256KiB", "STREAM_BUFFER_BYTES=64KiB", "STREAM_WRITE_TIMEOUT=1m")
	loud, calm := s.device("loud"), s.device("calm")
	r := s.follow("r", loud, calm)
	a, b := s.board(loud), s.board(calm)
	b.say(1)
	a.say(1)
	r.waitFor(loud, 1)
	r.valve.shut()
	long := strings.Repeat("x", 8<<10)
	for range 250 { // 16 MiB: more than the sockets, the queue and the journal hold
		a.sayLong(8, long)
	}
	b.say(1)
	r.valve.flow()
	r.waitFor(loud, a.said)
	r.waitFor(calm, b.said)
	received, missing, told := r.sum(loud)
	t.Logf("%d said, %d received, %d missing in %d gaps", a.said, received, missing, told)
	if missing == 0 || received+missing != a.said {
		t.Errorf("of %d lines %d were received and %d told missing", a.said, received, missing)
	}
	if got, missing, told := r.sum(calm); got != 2 || told != 0 {
		t.Errorf("calm: received %d, told of %d missing in %d gaps; want 2 and none", got, missing, told)
	}
	if r.opened != 1 {
		t.Errorf("the reader needed %d streams", r.opened)
	}
}

// After a restart the server no longer knows how many lines the ones that are
// gone were. It says that there is a gap, and that it does not know the count.
func TestGapOfUnknownSize(t *testing.T) {
	s := start(t, "LOGS_HISTORY=off", "JOURNAL_MAX_BYTES=64KiB")
	d := s.device("d")
	r := s.follow("r", d)
	b := s.board(d)
	b.sayLong(1, pad)
	r.waitFor(d, 1)
	r.stop()
	for range 50 {
		b.sayLong(5, pad)
	}
	s.kill()
	s.launch()
	back := s.newReader("r", d)
	back.lastID = r.last()
	back.start()
	back.waitFor(d, b.said)
	back.mu.Lock()
	defer back.mu.Unlock()
	if g := back.gaps[d.ID]; len(g) != 1 || g[0].Count != nil {
		t.Errorf("gaps %+v, want one without a count", g)
	}
}

// The ids of a journal that is no more are not mistaken for those of the new
// one: the reader is told, and receives all that the new one has.
func TestGapOfNewJournal(t *testing.T) {
	s := start(t)
	d := s.device("d")
	r := s.follow("r", d)
	b := s.board(d)
	b.say(3)
	r.waitFor(d, 3)
	r.stop()
	fresh := start(t)
	d2 := fresh.device("d")
	b2 := fresh.board(d2)
	b2.say(5)
	back := fresh.newReader("r", d2)
	back.lastID = r.last()
	back.start()
	back.waitFor(d2, 5)
	back.mu.Lock()
	defer back.mu.Unlock()
	if len(back.lines[d2.ID]) != 5 {
		t.Errorf("%d lines, want all 5", len(back.lines[d2.ID]))
	}
	if g := back.gaps[d2.ID]; len(g) != 1 || g[0].Reason != "journal-reset" || g[0].Count != nil || g[0].From != r.lastID {
		t.Errorf("gaps %+v, want one journal-reset from %s", g, r.lastID)
	}
}
