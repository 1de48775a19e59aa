package logs_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// spoken is an Ingest over a journal in memory, what it takes, and what is known
// of the devices. Devices can be taken from it.
type spoken struct {
	t       testing.TB
	journal *memory
	devices fleetOf
	source  script
	*logs.Activity
}

// newSpoken starts an Ingest in a synctest bubble; stop ends it.
func newSpoken(t testing.TB, devices fleetOf, journal *memory) (s *spoken, stop func()) {
	s = &spoken{t: t, journal: journal, devices: devices, source: make(script)}
	s.Activity = logs.NewActivity(journal.Epoch(), func(key string) (fleet.DeviceRef, bool) {
		i := slices.IndexFunc(s.devices, func(d fleet.DeviceRef) bool { return d.Key == key })
		if i < 0 {
			return fleet.DeviceRef{}, false
		}
		return s.devices[i], true
	})
	in := logs.NewIngest(logs.IngestOptions{
		EntityField: "entity_id", Directory: devices, Journal: journal, Ledger: logs.NewLedger(0), Quota: logs.NewQuota(logs.Limits{}, nil),
		Activity: s.Activity, Metrics: logs.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- in.Run(ctx, s.source) }()
	return s, func() { cancel(); <-ended }
}

// say has a device send lines now.
func (s *spoken) say(d fleet.DeviceRef, messages ...string) {
	s.t.Helper()
	var lines []string
	for _, m := range messages {
		lines = append(lines, fmt.Sprintf(`{"message":%q}`, m))
	}
	done := make(chan error, 1)
	s.source <- logs.Message{ClientID: d.ClientID, Payload: []byte(strings.Join(lines, "\n")), Received: time.Now(), Done: func(err error) { done <- err }}
	if err := <-done; err != nil {
		s.t.Error(err)
	}
}

// want compares what is known of a device.
func (s *spoken) want(d fleet.DeviceRef, message string, level logs.Level, cursor string, lines, errors int) {
	s.t.Helper()
	r := s.Recent([]string{d.Key}, time.Now())[0]
	if r.Last.Message != message || r.Last.Level != level || r.Last.Cursor.String() != cursor || r.Lines != lines || r.Errors != errors {
		s.t.Errorf("%s: %q at %s, level %s, %d lines, %d errors", d.Key, r.Last.Message, r.Last.Cursor, r.Last.Level, r.Lines, r.Errors)
	}
	var sumLines, sumErrors int
	l, e := s.Minutes(d.Key, time.Now())
	for i := range l {
		sumLines, sumErrors = sumLines+l[i], sumErrors+e[i]
	}
	if sumLines != r.Lines || sumErrors != r.Errors {
		s.t.Errorf("%s: the minutes have %d lines and %d errors, the hour %d and %d", d.Key, sumLines, sumErrors, r.Lines, r.Errors)
	}
}

const nowhere = "-0.0" // the cursor of no line

func TestActivityCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newSpoken(t, boards, newMemory())
		defer stop()
		a, b := boards[0], boards[1]
		s.want(a, "", logs.Unknown, nowhere, 0, 0)
		s.say(a, "I (1) app: one", "E (2) app: two")
		s.want(a, "E (2) app: two", logs.Error, "mem-1.1", 2, 1)
		s.want(b, "", logs.Unknown, nowhere, 0, 0)

		time.Sleep(30 * time.Minute)
		s.say(a, "E (3) app: three")
		s.say(b, "plain")
		s.want(a, "E (3) app: three", logs.Error, "mem-2.0", 3, 2)
		s.want(b, "plain", logs.Unknown, "mem-3.0", 1, 0)
		lines, errors := s.Minutes(a.Key, time.Now())
		if lines[59] != 1 || lines[29] != 2 || errors[29] != 1 || errors[59] != 1 {
			t.Errorf("lines %v, errors %v", lines, errors)
		}
		time.Sleep(29 * time.Minute)
		s.want(a, "E (3) app: three", logs.Error, "mem-2.0", 3, 2)
		time.Sleep(time.Minute) // the first two leave the hour
		s.want(a, "E (3) app: three", logs.Error, "mem-2.0", 1, 1)
		time.Sleep(24 * time.Hour)
		s.want(a, "E (3) app: three", logs.Error, "mem-2.0", 0, 0)
		s.say(a, "again")
		s.want(a, "again", logs.Unknown, "mem-4.0", 1, 0)
	})
}

func TestActivityMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newSpoken(t, boards, newMemory())
		defer stop()
		f := func(said, kept string) {
			t.Helper()
			s.say(boards[0], said)
			if got := s.Recent([]string{boards[0].Key}, time.Now())[0].Last.Message; got != kept {
				t.Errorf("%q is kept as %q", said, got)
			}
		}
		f("", "")
		f(`a "quoted\" word`, `a "quoted\" word`)
		f(strings.Repeat("x", 256), strings.Repeat("x", 256))
		f(strings.Repeat("x", 257), strings.Repeat("x", 256))
		f(strings.Repeat("é", 257), strings.Repeat("é", 256))
		f(strings.Repeat("😀", 60_000/4), strings.Repeat("😀", 256))
		f(strings.Repeat("\"", 10_000), strings.Repeat("\"", 256))
	})
}

func TestActivityChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newSpoken(t, boards, newMemory())
		defer stop()
		a, b := boards[0], boards[1]
		token := ""
		f := func(all bool, want ...int64) {
			t.Helper()
			c := s.Changes(token, time.Now())
			slices.Sort(c.Devices)
			if diff := cmp.Diff(want, c.Devices); diff != "" || c.All != all {
				t.Errorf("all is %v: %s", c.All, diff)
			}
			token = c.Token
		}
		s.say(a, "one")
		f(true)
		f(false)
		s.say(a, "two")
		s.say(b, "two")
		f(false, 1, 2)
		f(false)
		s.Touch(a.Key)
		f(false, 1)
		time.Sleep(59 * time.Minute)
		f(false)
		time.Sleep(time.Minute)
		f(false, 1, 2) // their lines left the hour
		f(false)
		s.say(b, "three")
		f(false, 2)
		time.Sleep(61 * time.Minute)
		f(true) // too long ago

		for _, other := range []string{"x", "other-1-1", token + "0000", strings.Replace(token, "-", "_", 1), token[:len(token)-3]} {
			token = other
			f(true)
		}

		s.Created(fleet.DeviceRef{ID: 9, Key: "new"}) // cannot be found by its key yet
		f(false, 9)
	})
}

// A device that was deleted is forgotten, also when a line of it comes later.
func TestActivityForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newSpoken(t, boards, newMemory())
		defer stop()
		a := boards[0]
		s.say(a, "one")
		s.devices = boards[1:]
		s.Forget(a.Key)
		s.want(a, "", logs.Unknown, nowhere, 0, 0)
		s.say(a, "two")
		s.Touch(a.Key)
		s.want(a, "", logs.Unknown, nowhere, 0, 0)
	})
}

// past is a history of what is given, which sometimes fails.
type past struct {
	lines []logs.Line
	fails []int // the numbers of the readings that fail, from 1
	reads int
}

func (p *past) Count(context.Context, logs.Query) (int64, error) { return -1, nil }

func (p *past) Read(_ context.Context, q logs.Query) (r logs.Result, err error) {
	p.reads++
	if slices.Contains(p.fails, p.reads) {
		return r, fleet.E(fleet.Unavailable, nil, "not now")
	}
	const page = 3 // less than the limit, as after ten seconds of searching
	for i := len(p.lines) - 1; i >= 0; i-- {
		l := p.lines[i]
		before := q.Before == logs.LineCursor{} || l.Cursor.Seq < q.Before.Seq
		if !slices.Contains(q.Devices, l.Device) || !before || !q.Start.IsZero() && l.Received.Before(q.Start) {
			continue
		}
		if len(r.Lines) == min(page, q.Limit) {
			r.More = true
			break
		}
		r.Lines = slices.Insert(r.Lines, 0, l)
		r.Reached = l.Cursor
	}
	return r, nil
}

func TestActivityFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(48 * time.Hour)
		s, stop := newSpoken(t, boards, newMemory())
		defer stop()
		now := time.Now()
		p := &past{fails: []int{1, 6}} // at once, and when part of it was read
		add := func(d fleet.DeviceRef, epoch string, seq uint64, ago time.Duration, level logs.Level, message string) {
			p.lines = append(p.lines, logs.Line{Cursor: logs.LineCursor{Cursor: logs.Cursor{Epoch: epoch, Seq: seq}}, Device: d.Key, Received: now.Add(-ago), Level: level, Message: []byte(message)})
		}
		a, b, c := boards[0], boards[1], boards[2]
		add(b, "old", 9, 30*time.Hour, logs.Warn, "long ago")
		for i := range 7 {
			add(a, "mem", uint64(i+1), time.Duration(58-i)*time.Minute, logs.Error, fmt.Sprint("line ", i))
		}
		// Two came since it began, and are in the history as well.
		for range 7 {
			s.journal.Append(logs.Batch{}, func(uint64, error) {})
		}
		s.say(c, "live")
		s.say(a, "live")
		add(c, "mem", 8, 0, logs.Unknown, "live")
		add(a, "mem", 9, 0, logs.Unknown, "live")

		before := s.Changes("", now)
		s.Fill(t.Context(), logs.FillOptions{
			Devices: func() []fleet.DeviceRef { return boards }, History: p, Journal: s.journal, UpTo: 7, Log: slog.New(slog.DiscardHandler),
		})
		if waited := time.Since(now); waited != 10*time.Second {
			t.Errorf("a store that was down delayed it by %s", waited)
		}
		s.want(a, "live", logs.Unknown, "mem-9.0", 8, 7)
		s.want(b, "long ago", logs.Warn, "old-9.0", 0, 0)
		s.want(c, "live", logs.Unknown, "mem-8.0", 1, 0)
		s.want(boards[3], "", logs.Unknown, nowhere, 0, 0)
		after := s.Changes(before.Token, time.Now())
		slices.Sort(after.Devices)
		if before.Filled || !after.Filled || !slices.Equal(after.Devices, []int64{1, 2}) {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})
}

// Without a history, it is what the journal still has.
func TestActivityFillFromJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(48 * time.Hour)
		journal := newMemory()
		s, stop := newSpoken(t, boards, journal)
		a, b := boards[0], boards[1]
		s.say(b, "W (1) x: given up")
		s.say(b, "W (1) x: long ago")
		time.Sleep(2 * time.Hour)
		s.say(a, "E (1) x: one", "two")
		time.Sleep(10 * time.Minute)
		s.say(a, "three")
		stop()
		journal.forget(2)

		s, stop = newSpoken(t, boards, journal)
		defer stop()
		s.say(a, "live")
		s.Fill(t.Context(), logs.FillOptions{
			Devices: func() []fleet.DeviceRef { return boards }, Journal: journal, UpTo: 4, Log: slog.New(slog.DiscardHandler),
		})
		s.want(a, "live", logs.Unknown, "mem-5.0", 4, 1)
		s.want(b, "W (1) x: long ago", logs.Warn, "mem-2.0", 0, 0)
		if !s.Changes("", time.Now()).Filled {
			t.Error("not all of the last hour")
		}
	})
}

// nothing is a journal that only answers.
type nothing struct {
	*memory
	seq uint64
}

func (n *nothing) Append(_ logs.Batch, done func(uint64, error)) {
	n.seq++
	done(n.seq, nil)
}

// BenchmarkActivity is one message on its way to the journal's door, without and
// with what is kept of its device, in turns, so that both see the same machine;
// and by how much the second is longer. A real journal makes that less.
func BenchmarkActivity(b *testing.B) {
	const line = `{"message":"\u001b[0;32mI (123456) sensor_hub: temperature 21.53 C humidity 45.2 % pressure 1013.25 hPa, battery 3.98 V\u001b[0m","entity_id":"sim-0001","relative_time":123456,"seq":1234,"heap":182344}` + "\n"
	ingest := func(a *logs.Activity, f func(handle func(logs.Message))) {
		in := logs.NewIngest(logs.IngestOptions{
			EntityField: "entity_id", Directory: boards, Journal: &nothing{memory: newMemory()}, Ledger: logs.NewLedger(0), Quota: logs.NewQuota(logs.Limits{}, nil), Activity: a,
			Redactor: logs.NewRedactor(true, nil), Metrics: logs.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
		})
		if err := in.Run(b.Context(), stream(f)); err != nil {
			b.Fatal(err)
		}
	}
	for _, lines := range []int{1, 20} {
		b.Run(fmt.Sprintf("lines=%d", lines), func(b *testing.B) {
			m := logs.Message{ClientID: boards[0].ClientID, Payload: []byte(strings.Repeat(line, lines)), Received: noon, Done: func(error) {}}
			turn := func(handle func(logs.Message), best time.Duration) time.Duration {
				const messages = 20
				began := time.Now()
				for range messages {
					handle(m)
				}
				return min(best, time.Since(began)/messages)
			}
			without, with := time.Hour, time.Hour
			known := logs.NewActivity("mem", func(string) (fleet.DeviceRef, bool) { return boards[0], true })
			ingest(nil, func(one func(logs.Message)) {
				ingest(known, func(other func(logs.Message)) {
					for b.Loop() {
						without, with = turn(one, without), turn(other, with)
					}
				})
			})
			b.ReportMetric(float64(without.Nanoseconds()), "ns/without")
			b.ReportMetric(float64(with.Nanoseconds()), "ns/with")
			b.ReportMetric(100*float64(with-without)/float64(without), "%more")
		})
	}
}

// stream is a source that calls handle as it likes.
type stream func(handle func(logs.Message))

func (f stream) Run(_ context.Context, handle func(logs.Message)) error { f(handle); return nil }
func (f stream) Close() error                                           { return nil }
