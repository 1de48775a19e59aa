package rotation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signalbox/internal/fleet"
	"signalbox/internal/rotation"
)

func TestWindows(t *testing.T) {
	w := func(zone string, days []int, from, to int) rotation.Windows {
		return rotation.Windows{Zone: zone, List: []rotation.Window{{Days: days, From: from, To: to}}}
	}
	at := func(text string) time.Time {
		t.Helper()
		x, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	week := []int{1, 2, 3, 4, 5, 6, 7}
	f := func(w rotation.Windows, when string, open bool, next string) {
		t.Helper()
		if got := w.Open(at(when)); got != open {
			t.Errorf("%v at %s: open %v", w, when, got)
		}
		got, ok := w.Next(at(when))
		if next == "" {
			if ok {
				t.Errorf("%v after %s: %v", w, when, got)
			}
			return
		}
		if !ok || !got.Equal(at(next)) {
			t.Errorf("%v after %s: %v, want %s", w, when, got.UTC(), next)
		}
	}
	f(rotation.Windows{}, "2026-03-04T12:00:00Z", true, "2026-03-04T12:00:00Z")
	day := w("", []int{3}, 9*60, 17*60+30) // 2026-03-04 is a Wednesday
	f(day, "2026-03-04T08:59:59Z", false, "2026-03-04T09:00:00Z")
	f(day, "2026-03-04T09:00:00Z", true, "2026-03-04T09:00:00Z")
	f(day, "2026-03-04T17:29:59Z", true, "2026-03-04T17:29:59Z")
	f(day, "2026-03-04T17:30:00Z", false, "2026-03-11T09:00:00Z")
	night := w("Europe/Berlin", []int{5}, 22*60, 6*60) // Friday night
	f(night, "2026-03-06T20:59:59Z", false, "2026-03-06T21:00:00Z")
	f(night, "2026-03-06T23:30:00Z", true, "2026-03-06T23:30:00Z")
	f(night, "2026-03-07T04:59:59Z", true, "2026-03-07T04:59:59Z")
	f(night, "2026-03-07T05:00:00Z", false, "2026-03-13T21:00:00Z")
	f(night, "2026-03-06T04:00:00Z", false, "2026-03-06T21:00:00Z") // that would be Thursday night
	sunday := w("", []int{7}, 23*60, 60)
	f(sunday, "2026-03-09T00:30:00Z", true, "2026-03-09T00:30:00Z") // Monday
	f(w("", week, 0, 0), "2026-03-04T12:00:00Z", true, "2026-03-04T12:00:00Z")
	f(w("", []int{3}, 0, 0), "2026-03-05T00:00:00Z", false, "2026-03-11T00:00:00Z")
	// In spring 2:00 to 3:00 is not on the clocks of Berlin, in autumn it is twice.
	f(w("Europe/Berlin", week, 2*60+30, 4*60), "2026-03-29T00:59:00Z", false, "2026-03-29T01:00:00Z")
	f(w("Europe/Berlin", week, 2*60, 3*60), "2026-03-29T00:00:00Z", false, "2026-03-30T00:00:00Z")
	twice := w("Europe/Berlin", week, 2*60, 2*60+30)
	f(twice, "2026-10-25T00:29:59Z", true, "2026-10-25T00:29:59Z")
	f(twice, "2026-10-25T00:30:00Z", false, "2026-10-25T01:00:00Z")
	f(twice, "2026-10-25T01:30:00Z", false, "2026-10-26T01:00:00Z")
	f(w("Australia/Lord_Howe", week, 2*60, 3*60), "2026-04-04T14:00:00Z", false, "2026-04-04T15:30:00Z")

	spend := func(w rotation.Windows, from string, work time.Duration, want string) {
		t.Helper()
		if got := w.Spend(at(from), work); !got.Equal(at(want)) {
			t.Errorf("%v of %v from %s: %v, want %s", work, w, from, got.UTC(), want)
		}
	}
	spend(rotation.Windows{}, "2026-03-04T12:00:00Z", time.Hour, "2026-03-04T13:00:00Z")
	hour := w("", week, 12*60, 13*60)
	spend(hour, "2026-03-04T12:30:00Z", 10*time.Minute, "2026-03-04T12:40:00Z")
	spend(hour, "2026-03-04T12:30:00Z", time.Hour, "2026-03-05T12:30:00Z")
	spend(hour, "2026-03-04T13:30:00Z", time.Minute, "2026-03-05T12:01:00Z")
	spend(hour, "2026-03-04T12:30:00Z", 3*time.Hour, "2026-03-07T12:30:00Z")
	if far := hour.Spend(at("2026-03-04T12:30:00Z"), 1<<62); far.Sub(at("2026-03-04T12:30:00Z")) != 5*366*24*time.Hour {
		t.Errorf("without an end: %v", far)
	}
}

// Next and Spend jump from edge to edge; minute by minute it comes to the same.
func TestWindowsRandom(t *testing.T) {
	lengthy(t)
	rapid.Check(t, func(t *rapid.T) {
		w := rotation.Windows{Zone: rapid.SampledFrom([]string{"", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"}).Draw(t, "zone")}
		for range rapid.IntRange(1, 3).Draw(t, "windows") {
			w.List = append(w.List, rotation.Window{
				Days: rapid.SliceOfNDistinct(rapid.IntRange(1, 7), 1, 7, rapid.ID[int]).Draw(t, "days"),
				From: rapid.IntRange(0, 1439).Draw(t, "from"), To: rapid.IntRange(0, 1439).Draw(t, "to"),
			})
		}
		start := time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 31).Draw(t, "day"), 0, rapid.IntRange(0, 1439).Draw(t, "minute"), 0, 0, time.UTC)
		slow, steps := start, 0
		for ; !w.Open(slow) && steps < 3*1440; steps++ {
			slow = slow.Add(time.Minute)
		}
		if next, ok := w.Next(start); ok != w.Open(slow) && steps < 3*1440 || ok && steps < 3*1440 && !next.Equal(slow) {
			t.Fatalf("%v after %v: %v, want %v", w, start, next, slow)
		}
		work := rapid.IntRange(1, 200).Draw(t, "work")
		at, left := start, work
		for steps := 0; left > 0; steps++ {
			if w.Open(at) {
				left--
			}
			at = at.Add(time.Minute)
			if steps > 3*1440 {
				return // a window that hardly ever opens
			}
		}
		if got := w.Spend(start, time.Duration(work)*time.Minute); !got.Equal(at) {
			t.Fatalf("%d minutes of %v from %v: %v, want %v", work, w, start, got, at)
		}
	})
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	rules := func(change func(*rotation.CampaignRules)) rotation.CampaignRules {
		r := rotation.CampaignRules{InFlight: 2, PauseRate: 0.2, PauseMin: 5}
		change(&r)
		return r
	}
	plain := rules(func(*rotation.CampaignRules) {})
	canary := rules(func(r *rotation.CampaignRules) { r.Canary = true })
	run := func(change func(*rotation.Course), waves ...rotation.Counts) rotation.Course {
		c := rotation.Course{State: rotation.CampaignRunning, Wave: 1, Waves: waves}
		if change != nil {
			change(&c)
		}
		return c
	}
	f := func(name string, r rotation.CampaignRules, c rotation.Course, state rotation.CampaignState, reason string, wave int, room rotation.Room) {
		t.Helper()
		got, gotRoom := r.Judge(c, now)
		if got.State != state || !strings.Contains(got.Reason, reason) || reason == "" && got.Reason != "" || got.Wave != wave || gotRoom != room {
			t.Errorf("%s: %s (%s), wave %d, %+v", name, got.State, got.Reason, got.Wave, gotRoom)
		}
		if over := got.State == rotation.CampaignDone || got.State == rotation.CampaignAborted && got.Counts().InFlight == 0; over == got.EndedAt.IsZero() {
			t.Errorf("%s: ended %v", name, got.EndedAt)
		}
	}
	type n = rotation.Counts
	const running, waiting, paused, done, aborted = rotation.CampaignRunning, rotation.CampaignWaiting, rotation.CampaignPaused, rotation.CampaignDone, rotation.CampaignAborted
	room := func(n int, fresh bool) rotation.Room { return rotation.Room{Devices: n, Fresh: fresh} }

	f("at first", plain, rotation.Course{State: running, Waves: []n{{Waiting: 3}}}, running, "", 1, room(2, true))
	f("one in flight", plain, run(nil, n{Waiting: 3, InFlight: 1}), running, "", 1, room(1, true))
	f("as many as may", plain, run(nil, n{Waiting: 3, InFlight: 2}), running, "", 1, room(0, true))
	f("more, of other waves", plain, run(func(c *rotation.Course) { c.Wave = 2 }, n{InFlight: 2}, n{Waiting: 3, InFlight: 1}), running, "", 2, room(0, true))
	f("the wave goes on", plain, run(nil, n{InFlight: 1}, n{Waiting: 1}), running, "", 1, room(1, true))
	f("the next wave", plain, run(nil, n{Done: 2}, n{Waiting: 1}), running, "", 2, room(2, true))
	f("deferred ones do not hold it", plain, run(nil, n{Done: 1, Deferred: 1}, n{Waiting: 1}), running, "", 2, room(2, true))
	f("the end", plain, run(nil, n{Done: 1, Skipped: 1, Failed: 1}), done, "", 1, room(0, false))
	f("deferred ones hold the end", plain, run(nil, n{Done: 1, Deferred: 2}), waiting, "2 offline", 1, room(2, false))
	f("the end of one that is paused", plain, run(func(c *rotation.Course) { c.State = paused }, n{Done: 1}), done, "", 1, room(0, false))
	f("paused", plain, run(func(c *rotation.Course) { c.State, c.Reason = paused, "why" }, n{Waiting: 1}), paused, "why", 1, room(0, false))
	f("aborted, some in flight", plain, run(func(c *rotation.Course) { c.State, c.Reason = aborted, "why" }, n{Skipped: 1, InFlight: 1}), aborted, "why", 1, room(0, false))
	f("aborted", plain, run(func(c *rotation.Course) { c.State, c.Reason = aborted, "why" }, n{Skipped: 1}), aborted, "why", 1, room(0, false))

	fails := func(done, failed int) func(*rotation.Course) {
		return func(c *rotation.Course) { c.Done, c.Failed = done, failed }
	}
	f("few outcomes", plain, run(fails(0, 4), n{Waiting: 1, Failed: 4}), running, "", 1, room(2, true))
	f("too many failures", plain, run(fails(3, 2), n{Waiting: 1, Failed: 2, Done: 3}), paused, "2 of 5 devices failed (40 %), which is more than 20 %", 1, room(0, false))
	f("as many as may fail", plain, run(fails(4, 1), n{Waiting: 1, Failed: 1, Done: 4}), running, "", 1, room(2, true))
	f("none may", rules(func(r *rotation.CampaignRules) { r.PauseRate, r.PauseMin = 0, 1 }), run(fails(99, 1), n{Waiting: 1, Failed: 1, Done: 99}), paused, "failed", 1, room(0, false))
	f("all may", rules(func(r *rotation.CampaignRules) { r.PauseRate = 1 }), run(fails(0, 9), n{Waiting: 1, Failed: 9}), running, "", 1, room(2, true))
	f("a canary", canary, run(func(c *rotation.Course) { c.Failed, c.CanaryFailed = 1, 1 }, n{Failed: 1, Waiting: 1}, n{Waiting: 9}), paused, "a canary failed", 1, room(0, false))
	f("canaries are over", canary, run(nil, n{Done: 1, Skipped: 1}, n{Waiting: 9}), running, "", 2, room(2, true))
	f("canaries are away", canary, run(nil, n{Deferred: 1}, n{Waiting: 9}), waiting, "no canary", 1, room(2, false))
	f("canaries were skipped", canary, run(nil, n{Skipped: 1}, n{Waiting: 9}), paused, "no canary", 1, room(0, false))
	f("and a person says on", canary, run(func(c *rotation.Course) { c.ResumedAt = now }, n{Skipped: 1}, n{Waiting: 9}), running, "", 2, room(2, true))

	slow := rules(func(r *rotation.CampaignRules) { r.WavePause = time.Minute })
	f("a pause begins", slow, run(nil, n{Done: 1}, n{Waiting: 9}), waiting, "pause", 2, room(2, false))
	second := func(c *rotation.Course) { c.Wave, c.NotBefore = 2, now.Add(time.Second) }
	f("a pause goes on", slow, run(second, n{Done: 1}, n{Waiting: 9}), waiting, "pause", 2, room(2, false))
	f("a pause is over", slow, run(func(c *rotation.Course) { c.Wave, c.NotBefore = 2, now }, n{Done: 1}, n{Waiting: 9}), running, "", 2, room(2, true))
	night := rules(func(r *rotation.CampaignRules) {
		r.Windows = rotation.Windows{List: []rotation.Window{{Days: []int{1, 2, 3, 4, 5, 6, 7}, From: 0, To: 60}}}
	})
	f("outside its window", night, run(nil, n{Waiting: 9, InFlight: 1}), waiting, "window", 1, room(0, false))
}

func TestPick(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	r := rotation.CampaignRules{Defer: true, DeferFor: time.Hour}
	on, off := &rotation.Contact{Online: true}, &rotation.Contact{}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	f := func(r rotation.CampaignRules, room rotation.Room, back, fresh []rotation.Turn, want string) {
		t.Helper()
		var got []string
		for _, m := range r.Pick(room, back, fresh, now) {
			got = append(got, fmt.Sprintf("%d %s-%s %s", m.Device, m.From, m.To, m.Reason))
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
	fresh := []rotation.Turn{
		{Device: 1, Gone: true}, {Device: 2, Revoked: true}, {Device: 3, Inactive: true}, {Device: 4, Busy: true}, {Device: 5, Contact: off}, {Device: 6, Contact: on}, {Device: 7}, {Device: 8},
	}
	skipped := "1 waiting-skipped was deleted, 2 waiting-skipped revoked, 3 waiting-skipped inactive, 4 waiting-skipped busy: it was rotated by something else, "
	f(r, rotation.Room{Devices: 2, Fresh: true}, nil, fresh, skipped+"5 waiting-deferred offline, 6 waiting-in_flight , 7 waiting-in_flight ")
	f(r, rotation.Room{Devices: 0, Fresh: true}, nil, fresh, "")
	f(r, rotation.Room{Devices: 2}, nil, fresh, "")
	all := r
	all.Defer, all.Inactive = false, true
	f(all, rotation.Room{Devices: 2, Fresh: true}, nil, fresh[2:], "3 waiting-in_flight , 4 waiting-skipped busy: it was rotated by something else, 5 waiting-in_flight ")
	back := []rotation.Turn{
		{Device: 1, Contact: off, DeferredAt: ago(time.Minute)}, {Device: 2, Contact: off, DeferredAt: ago(time.Hour)}, {Device: 3, Contact: off, Gone: true, DeferredAt: ago(time.Minute)},
		{Device: 4, Contact: on, Busy: true, DeferredAt: ago(time.Minute)}, {Device: 5, Contact: on, DeferredAt: ago(2 * time.Hour)}, {Device: 6, Contact: on, DeferredAt: ago(time.Minute)},
	}
	f(r, rotation.Room{Devices: 1, Fresh: true}, back, fresh,
		"2 deferred-skipped was offline, 3 deferred-skipped was deleted, 4 deferred-skipped busy: it was rotated by something else, 5 deferred-in_flight ")
	f(r, rotation.Room{}, back, fresh, "2 deferred-skipped was offline, 3 deferred-skipped was deleted")
}

func TestLand(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	f := func(flight rotation.Flight, aborted bool, want string) {
		t.Helper()
		m, ok := flight.Land(7, aborted, now)
		got := ""
		if ok {
			got = strings.TrimSpace(string(m.To) + " " + m.Reason)
		}
		if got != want || m.From != rotation.TurnInFlight {
			t.Errorf("%+v: %q, want %q", flight, got, want)
		}
	}
	const queued, pending, ok = fleet.RotationQueued, fleet.RotationPending, fleet.RotationOK
	type flight = rotation.Flight
	f(flight{}, false, "")
	f(flight{}, true, "skipped the campaign was aborted")
	f(flight{Gone: true, Attempt: 1, Outcome: rotation.Done}, false, "skipped was deleted")
	f(flight{Wire: queued, Campaign: 7}, false, "")
	f(flight{Wire: queued, Campaign: 7, QueuedAt: now}, false, "")
	f(flight{Wire: queued, Campaign: 7, QueuedAt: now}, true, "") // it is to be aborted first
	f(flight{Wire: pending, Campaign: 7, Attempt: 3}, true, "")
	f(flight{Wire: pending, Campaign: 7, Attempt: 3}, false, "")
	f(flight{Wire: pending, Campaign: 7, Attempt: 3, Stuck: true, Trouble: "x"}, false, "failed stuck: x")
	f(flight{Wire: pending, QueuedAt: now}, false, "skipped busy: it was rotated by something else")
	f(flight{Wire: pending}, false, "") // it is found out when it is queued
	f(flight{Wire: ok, Campaign: 7, QueuedAt: now}, false, "skipped was taken from the queue")
	f(flight{Wire: ok, Campaign: 7, QueuedAt: now, Attempt: 3}, false, "skipped its rotation was set back")
	for outcome, want := range map[rotation.Outcome]string{
		rotation.Done: "done", rotation.Believed: "done", rotation.TimedOut: "failed timed out", rotation.Aborted: "skipped its rotation was aborted",
	} {
		f(flight{Wire: pending, Attempt: 3, Outcome: outcome}, false, want)
	}
	f(flight{Attempt: 3, Outcome: rotation.Aborted}, true, "skipped the campaign was aborted")
	f(flight{Attempt: 3, Outcome: rotation.Done}, true, "done")
}

// market is a campaign, its devices, and a process that is killed now and then. It
// keeps what the store and the runner would keep.
type market struct {
	rules   rotation.CampaignRules
	id      int64
	clock   time.Time
	course  rotation.Course
	state   []rotation.TurnState // of each device
	wave    []int
	defer0  []time.Time
	queued  []bool // as marked
	flights []rotation.Flight
	online  []bool
	begun   []int // times that it was queued with success
	first   []time.Time
	failed  []time.Time
}

func (m *market) turn(i int) rotation.Turn {
	t := rotation.Turn{Device: int64(i), Wave: m.wave[i], Contact: &rotation.Contact{Online: m.online[i]}, DeferredAt: m.defer0[i]}
	f := &m.flights[i]
	t.Gone, t.Busy = f.Gone, f.Wire == fleet.RotationQueued || f.Wire == fleet.RotationPending
	return t
}

func (m *market) commit(t *rapid.T, course rotation.Course, moves []rotation.Move) {
	for _, x := range moves {
		i := int(x.Device)
		if m.state[i] != x.From {
			t.Fatalf("device %d is %s: %+v", i, m.state[i], x)
		}
		m.state[i] = x.To
		switch x.To {
		case rotation.TurnDeferred:
			m.defer0[i] = x.At
		case rotation.TurnInFlight:
			m.queued[i] = false
			if m.first[i].IsZero() {
				m.first[i] = x.At
			}
		case rotation.TurnFailed:
			m.failed[i] = x.At
		}
	}
	m.course = course
}

// step is what a process does, until it is killed after so many things.
func (m *market) step(t *rapid.T, kill int) (moved bool) {
	course := m.course
	course.Waves = slices.Clone(course.Waves)
	var moves []rotation.Move
	apply := func(x rotation.Move) { course.Apply(&m.rules, x); moves = append(moves, x) }
	var queue []int
	for i := range m.state {
		if m.state[i] != rotation.TurnInFlight {
			continue
		}
		f := m.flights[i]
		f.Device, f.Wave = int64(i), m.wave[i]
		if m.queued[i] {
			f.QueuedAt = m.clock
		}
		x, ok := f.Land(m.id, course.State == rotation.CampaignAborted, m.clock)
		switch {
		case ok:
			apply(x)
		case course.State != rotation.CampaignAborted && !m.queued[i]:
			queue = append(queue, i)
		case course.State == rotation.CampaignAborted:
			defer m.end(i, rotation.Aborted)
		}
	}
	before := m.course
	course, room := m.rules.Judge(course, m.clock)
	if course.State != rotation.CampaignPaused && course.State != rotation.CampaignAborted && course.EndedAt.IsZero() {
		var back, fresh []rotation.Turn
		for i := range m.state {
			switch {
			case m.state[i] == rotation.TurnDeferred:
				back = append(back, m.turn(i))
			case m.state[i] == rotation.TurnWaiting && m.wave[i] == course.Wave:
				fresh = append(fresh, m.turn(i))
			}
		}
		for _, x := range m.rules.Pick(room, back, fresh, m.clock) {
			apply(x)
			if x.To == rotation.TurnInFlight {
				queue = append(queue, int(x.Device))
			}
		}
	}
	if kill == 0 {
		return false
	}
	m.commit(t, course, moves)
	for n, i := range queue {
		if kill == n+1 {
			return false
		}
		if f := &m.flights[i]; !f.Gone && f.Wire != fleet.RotationQueued && f.Wire != fleet.RotationPending {
			f.Wire, f.Campaign = fleet.RotationPending, m.id
			f.Attempt++
			m.begun[i]++
		}
	}
	if kill == len(queue)+1 {
		return false
	}
	for _, i := range queue {
		m.queued[i] = true
	}
	return len(moves) > 0 || course.State != before.State || course.Wave != before.Wave
}

// end ends the attempt of a device.
func (m *market) end(i int, o rotation.Outcome) {
	if f := &m.flights[i]; f.Wire == fleet.RotationPending && f.Campaign == m.id {
		f.Outcome, f.EndedAt, f.Wire = o, m.clock, fleet.RotationOK
	}
}

func (m *market) String() string {
	return fmt.Sprintf("%+v, %v, %+v", m.course, m.state, m.rules)
}

// Whatever devices, people and crashes do: there are never more in flight than is
// allowed, canaries are first, no device is rotated twice, and the campaign ends
// or says what it waits for.
func TestCampaignModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "devices")
		m := &market{
			id: 3, clock: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC),
			rules: rotation.CampaignRules{
				InFlight: rapid.IntRange(1, 4).Draw(t, "in flight"), Canary: rapid.Bool().Draw(t, "canary"), WavePause: time.Duration(rapid.IntRange(0, 2).Draw(t, "pause")) * time.Minute,
				PauseRate: rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "rate"), PauseMin: rapid.IntRange(1, 4).Draw(t, "least"), Defer: rapid.Bool().Draw(t, "defer"), DeferFor: 10 * time.Minute,
			},
		}
		if rapid.Bool().Draw(t, "windows") {
			m.rules.Windows = rotation.Windows{List: []rotation.Window{{Days: []int{1, 3, 5}, From: 12 * 60, To: 13 * 60}}}
		}
		sizes := []int{}
		for left := n; left > 0; {
			size := rapid.IntRange(1, left).Draw(t, "wave")
			sizes, left = append(sizes, size), left-size
		}
		for w, size := range sizes {
			m.course.Waves = append(m.course.Waves, rotation.Counts{Waiting: size})
			for range size {
				m.wave = append(m.wave, w+1)
			}
		}
		m.course.State = rotation.CampaignRunning
		m.state, m.defer0, m.queued = slices.Repeat([]rotation.TurnState{rotation.TurnWaiting}, n), make([]time.Time, n), make([]bool, n)
		m.flights, m.online, m.begun = make([]rotation.Flight, n), slices.Repeat([]bool{true}, n), make([]int, n)
		m.first, m.failed = make([]time.Time, n), make([]time.Time, n)
		resumed := false
		device := func(t *rapid.T) int { return rapid.IntRange(0, n-1).Draw(t, "device") }
		check := func(t *rapid.T) {
			counts := map[rotation.TurnState]int{}
			flying := 0
			for i, s := range m.state {
				counts[s]++
				if m.begun[i] > 1 {
					t.Fatalf("device %d was rotated %d times: %v", i, m.begun[i], m)
				}
				if s == rotation.TurnInFlight {
					flying++
				}
			}
			all := m.course.Counts()
			for _, s := range rotation.TurnStates() {
				if *all.Of(s) != counts[s] {
					t.Fatalf("%d are counted %s: %v", *all.Of(s), s, m)
				}
			}
			if flying > m.rules.InFlight {
				t.Fatalf("%d in flight: %v", flying, m)
			}
			if m.rules.Canary && !resumed {
				for i, at := range m.first {
					if m.wave[i] > 1 && !at.IsZero() && len(m.waveDone(1)) == 0 {
						t.Fatalf("device %d before a canary was done: %v", i, m)
					}
				}
			}
			for i, at := range m.first {
				for k := range m.state {
					if !at.IsZero() && m.wave[k] < m.wave[i] && m.state[k] == rotation.TurnWaiting {
						t.Fatalf("device %d of wave %d before %d of wave %d: %v", i, m.wave[i], k, m.wave[k], m)
					}
				}
			}
			if m.course.State == rotation.CampaignWaiting && m.course.Reason == "" || m.course.State == rotation.CampaignPaused && m.course.Reason == "" {
				t.Fatalf("no reason: %v", m)
			}
			if !m.course.EndedAt.IsZero() && all.Open() > 0 {
				t.Fatalf("ended with open ones: %v", m)
			}
		}
		resume := func() {
			if m.course.State == rotation.CampaignPaused {
				m.course = rotation.ResumeCourse(m.course, m.clock)
				for i := range m.state {
					if m.state[i] == rotation.TurnDeferred {
						m.defer0[i] = m.clock
					}
				}
				resumed = true
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"step":    func(t *rapid.T) { m.step(t, -1) },
			"killed":  func(t *rapid.T) { m.step(t, rapid.IntRange(0, m.rules.InFlight+2).Draw(t, "kill")) },
			"succeed": func(t *rapid.T) { m.end(device(t), rotation.Done) },
			"fail":    func(t *rapid.T) { m.end(device(t), rotation.TimedOut) },
			"late": func(t *rapid.T) {
				if i := device(t); m.state[i] == rotation.TurnFailed {
					course := m.course
					course.Waves = slices.Clone(course.Waves)
					x := rotation.Move{Device: int64(i), Wave: m.wave[i], From: rotation.TurnFailed, To: rotation.TurnDone, At: m.clock, Failed: m.failed[i]}
					course.Apply(&m.rules, x)
					m.commit(t, course, []rotation.Move{x})
					if course.Failed < 0 || course.CanaryFailed < 0 {
						t.Fatalf("fewer than none failed: %v", m)
					}
				}
			},
			"away":   func(t *rapid.T) { i := device(t); m.online[i] = !m.online[i] },
			"delete": func(t *rapid.T) { m.flights[device(t)].Gone = true },
			"other": func(t *rapid.T) { // something else rotates it
				if f := &m.flights[device(t)]; f.Wire != fleet.RotationPending {
					f.Wire, f.Campaign = fleet.RotationPending, 0
				}
			},
			"others end": func(t *rapid.T) {
				if f := &m.flights[device(t)]; f.Wire == fleet.RotationPending && f.Campaign == 0 {
					f.Wire = fleet.RotationOK
				}
			},
			"time": func(t *rapid.T) {
				m.clock = m.clock.Add(time.Duration(rapid.IntRange(1, 30*60).Draw(t, "seconds")) * time.Second)
			},
			"pause": func(t *rapid.T) {
				if s := m.course.State; s == rotation.CampaignRunning || s == rotation.CampaignWaiting {
					m.course.State, m.course.Reason = rotation.CampaignPaused, "paused"
				}
			},
			"resume": func(*rapid.T) { resume() },
			"":       check,
		})
		// From now on everybody does what they ought to, and it ends.
		for i := range m.online {
			m.online[i] = true
		}
		for range 500 + 300*n { // the next window may be days away
			for i := range m.flights {
				if m.flights[i].Campaign == 0 {
					m.flights[i].Wire = fleet.RotationOK
				}
			}
			if m.step(t, -1); !m.course.EndedAt.IsZero() {
				check(t)
				return
			}
			for i := range m.state {
				m.end(i, rotation.Done)
			}
			resume()
			m.clock = m.clock.Add(20 * time.Minute)
		}
		t.Fatalf("it does not end: %v", m)
	})
}

// waveDone returns the devices of a wave that are done, or failed after that.
func (m *market) waveDone(wave int) map[int]bool {
	done := map[int]bool{}
	for i, w := range m.wave {
		if w == wave && m.state[i] == rotation.TurnDone {
			done[i] = true
		}
	}
	return done
}
