package conformance

import (
	"testing"
	"time"

	"signalbox/internal/presence"
	"signalbox/internal/registry"
)

// PresenceStore is a store of presence with the devices that it is of.
type PresenceStore interface {
	registry.Store
	presence.Store
}

// Presence checks that the stores which open returns keep the promises of
// presence.Store. Each call of open returns an empty store; open sees to its end.
func Presence(t *testing.T, open func(*testing.T) PresenceStore) {
	check := func(name string, f func(*testing.T, PresenceStore)) {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
	check("round trip", presenceRoundTrip)
	check("a row from before", presenceOld)
	check("coming and going", presenceSteps)
	check("a session elsewhere", presenceElsewhere)
	check("heard of elsewhere", presenceHeard)
	check("processes", presenceProcesses)
	check("only so many transitions are kept", presenceTrim)
	check("a device that is not there", presenceMissing)
	check("a deleted device", presenceDeleted)
}

// dawn is a time as stores keep it.
var dawn = time.Date(2026, 7, 4, 8, 0, 0, 123456000, time.UTC)

func after(d time.Duration) time.Time { return dawn.Add(d) }

func presenceRows(t *testing.T, s PresenceStore, keys ...string) (ids []int64) {
	t.Helper()
	model := insertModel(t, s, newModel("relay"))
	for _, key := range keys {
		ids = append(ids, insertDevice(t, s, newDevice(model, key)))
	}
	return ids
}

// saw commits what a process saw.
func saw(t *testing.T, s PresenceStore, holder string, at time.Time, f func(*presence.Change)) presence.Result {
	t.Helper()
	c := presence.Change{Holder: holder, Now: at, Until: at.Add(time.Minute)}
	f(&c)
	r, err := s.CommitPresence(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Outcomes) != len(c.Steps) {
		t.Fatalf("%d outcomes of %d steps", len(r.Outcomes), len(c.Steps))
	}
	return r
}

// stored returns the rows that changed after a version, and the newest one.
func stored(t *testing.T, s PresenceStore, after int64) (map[int64]presence.Row, int64) {
	t.Helper()
	rows, err := s.Presences(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	all, newest := map[int64]presence.Row{}, after
	for _, r := range rows {
		if r.Version <= after {
			t.Errorf("version %d came for what is after %d", r.Version, after)
		}
		newest = max(newest, r.Version)
		r.Version = 0
		all[r.Device] = r
	}
	return all, newest
}

func transitions(t *testing.T, s PresenceStore, device int64, from time.Time, limit int) []presence.Transition {
	t.Helper()
	list, err := s.PresenceHistory(t.Context(), device, from, limit)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func comes(device int64, at time.Time, reason string) presence.Step {
	return presence.Step{Transition: presence.Transition{Device: device, At: at, Online: true, Reason: reason}}
}

func goes(device int64, at time.Time, reason string) presence.Step {
	return presence.Step{Transition: presence.Transition{Device: device, At: at, Reason: reason}}
}

func presenceRoundTrip(t *testing.T, s PresenceStore) {
	ids := presenceRows(t, s, "key00001", "key00002")
	full := presence.Row{Device: ids[0], SeenAt: dawn, Source: presence.FromSession, BySession: true, ClockAt: after(time.Second), ClockOff: -1500 * time.Microsecond}
	bare := presence.Row{Device: ids[1], SeenAt: after(1), Source: presence.FromLine}
	bare.SeenAt = bare.SeenAt.Truncate(time.Microsecond)
	saw(t, s, "one", dawn, func(c *presence.Change) { c.Rows = []presence.Row{full, bare} })
	rows, version := stored(t, s, 0)
	same(t, rows, map[int64]presence.Row{ids[0]: full, ids[1]: bare})
	// Only what changed comes the next time.
	bare.SeenAt, bare.Source = after(time.Hour), presence.FromToken
	saw(t, s, "one", dawn, func(c *presence.Change) { c.Rows = []presence.Row{bare} })
	rows, last := stored(t, s, version)
	same(t, rows, map[int64]presence.Row{ids[1]: bare})
	if last <= version {
		t.Errorf("version %d after %d", last, version)
	}
}

func presenceOld(t *testing.T, s PresenceStore) {
	id := presenceRows(t, s, "key00001")[0]
	want := presence.Row{Device: id, SeenAt: dawn, Source: presence.FromSession, BySession: true, ClockAt: dawn, ClockOff: time.Second}
	saw(t, s, "one", dawn, func(c *presence.Change) { c.Rows = []presence.Row{want} })
	saw(t, s, "two", dawn, func(c *presence.Change) {
		c.Rows = []presence.Row{{Device: id, SeenAt: after(-time.Second), Source: presence.FromLine}}
	})
	rows, _ := stored(t, s, 0)
	same(t, rows[id], want)
}

func presenceSteps(t *testing.T, s PresenceStore) {
	id := presenceRows(t, s, "key00001")[0]
	r := saw(t, s, "one", dawn, func(c *presence.Change) {
		c.Rows = []presence.Row{{Device: id, SeenAt: dawn, Source: presence.FromLine}}
		c.Steps = []presence.Step{
			comes(id, dawn, "connected"), comes(id, after(1*time.Second), "connected"),
			goes(id, after(2*time.Second), "session closed"), goes(id, after(3*time.Second), "again"),
			comes(id, after(4*time.Second), ""),
		}
	})
	same(t, r.Outcomes, []presence.Outcome{
		{Taken: true, Known: true, Online: true, Since: dawn},
		{Known: true, Online: true, Since: dawn},
		{Taken: true, Known: true, Since: after(2 * time.Second)},
		{Known: true, Since: after(2 * time.Second)},
		{Taken: true, Known: true, Online: true, Since: after(4 * time.Second)},
	})
	all := []presence.Transition{
		{Device: id, At: after(4 * time.Second), Online: true},
		{Device: id, At: after(2 * time.Second), Reason: "session closed"},
		{Device: id, At: dawn, Online: true, Reason: "connected"},
	}
	same(t, transitions(t, s, id, dawn, 10), all)
	same(t, transitions(t, s, id, after(time.Second), 10), all[:2])
	same(t, transitions(t, s, id, dawn, 1), all[:1])
	rows, _ := stored(t, s, 0)
	same(t, rows[id], presence.Row{Device: id, Online: true, Since: after(4 * time.Second), SeenAt: dawn, Source: presence.FromLine})
	drops, err := s.PresenceDrops(t.Context(), dawn)
	if err != nil {
		t.Fatal(err)
	}
	same(t, drops, all[1:2])
	if drops, err = s.PresenceDrops(t.Context(), after(2*time.Second)); err != nil || len(drops) > 0 {
		t.Errorf("%v, %v", drops, err)
	}
	if err := s.TrimPresence(t.Context(), after(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	same(t, transitions(t, s, id, dawn, 10), all[:2])
}

// A device is not gone while another process that lives has a session of it.
func presenceElsewhere(t *testing.T, s PresenceStore) {
	id := presenceRows(t, s, "key00001")[0]
	for _, holder := range []string{"one", "two"} {
		saw(t, s, holder, dawn, func(c *presence.Change) {
			c.Rows = []presence.Row{{Device: id, SeenAt: dawn, Source: presence.FromSession, BySession: true}}
			c.Sessions = []presence.Sessions{{Device: id, Count: 2}}
			c.Steps = []presence.Step{comes(id, dawn, "connected")}
		})
	}
	f := func(holder string, at time.Time, sessions int, want presence.Outcome) {
		t.Helper()
		r := saw(t, s, holder, at, func(c *presence.Change) {
			c.Sessions = []presence.Sessions{{Device: id, Count: sessions}}
			c.Steps = []presence.Step{goes(id, at, "session closed")}
		})
		same(t, r.Outcomes, []presence.Outcome{want})
	}
	f("one", after(time.Second), 0, presence.Outcome{Known: true, Online: true, Since: dawn})
	// When the lease of the other is over, what it said is as well.
	f("one", after(2*time.Minute), 0, presence.Outcome{Known: true, Taken: true, Since: after(2 * time.Minute)})
	saw(t, s, "one", after(3*time.Minute), func(c *presence.Change) { c.Steps = []presence.Step{comes(id, after(3*time.Minute), "")} })
	// One's own sessions are no reason, nor those of the other that fell to none.
	saw(t, s, "two", after(3*time.Minute), func(c *presence.Change) { c.Sessions = []presence.Sessions{{Device: id}} })
	f("one", after(3*time.Minute), 1, presence.Outcome{Known: true, Taken: true, Since: after(3 * time.Minute)})
}

// A device is not gone for silence if another process heard of it.
func presenceHeard(t *testing.T, s PresenceStore) {
	id := presenceRows(t, s, "key00001")[0]
	saw(t, s, "one", dawn, func(c *presence.Change) {
		c.Rows = []presence.Row{{Device: id, SeenAt: dawn, Source: presence.FromLine}}
		c.Steps = []presence.Step{comes(id, dawn, "")}
	})
	saw(t, s, "two", dawn, func(c *presence.Change) {
		c.Rows = []presence.Row{{Device: id, SeenAt: after(time.Minute), Source: presence.FromLine}}
	})
	f := func(unheard time.Time, taken bool) {
		t.Helper()
		r := saw(t, s, "one", after(time.Hour), func(c *presence.Change) {
			step := goes(id, after(time.Hour), "nothing heard")
			step.Unheard = unheard
			c.Steps = []presence.Step{step}
		})
		if r.Outcomes[0].Taken != taken {
			t.Errorf("unheard of since %v: %+v", unheard, r.Outcomes[0])
		}
	}
	f(dawn, false)
	f(after(time.Minute), true)
}

func presenceProcesses(t *testing.T, s PresenceStore) {
	ids := presenceRows(t, s, "key00001", "key00002")
	f := func(holder string, at time.Time, fresh bool, sessions ...presence.Sessions) {
		t.Helper()
		r := saw(t, s, holder, at, func(c *presence.Change) { c.Sessions = sessions })
		if r.Fresh != fresh {
			t.Errorf("%s at %v: fresh is %v", holder, at, r.Fresh)
		}
	}
	sessions := func(after int64) (list []presence.Sessions, last int64) {
		t.Helper()
		list, err := s.PresenceSessions(t.Context(), after)
		if err != nil {
			t.Fatal(err)
		}
		for n := range list {
			last = max(last, list[n].Version)
			list[n].Version = 0
		}
		return list, last
	}
	f("one", dawn, true, presence.Sessions{Device: ids[0], Count: 2})
	f("two", after(time.Hour), true, presence.Sessions{Device: ids[1], Count: 1})
	list, version := sessions(0)
	if len(list) != 2 {
		t.Errorf("%+v", list)
	}
	f("one", dawn, false, presence.Sessions{Device: ids[0]})
	list, _ = sessions(version)
	same(t, list, []presence.Sessions{{Device: ids[0], Holder: "one"}})
	alive, err := s.PresenceProcesses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, alive, map[string]time.Time{"one": after(time.Minute), "two": after(time.Hour + time.Minute)})
	// The one whose lease ended goes with its sessions, and comes back as another.
	if err := s.RemovePresence(t.Context(), after(2*time.Minute), ""); err != nil {
		t.Fatal(err)
	}
	list, _ = sessions(0)
	same(t, list, []presence.Sessions{{Device: ids[1], Holder: "two", Count: 1}})
	f("one", after(2*time.Minute), true)
	if err := s.RemovePresence(t.Context(), time.Time{}, "two"); err != nil {
		t.Fatal(err)
	}
	if list, _ = sessions(0); len(list) > 0 {
		t.Errorf("%+v", list)
	}
	if alive, err = s.PresenceProcesses(t.Context()); err != nil || len(alive) != 1 {
		t.Errorf("%v, %v", alive, err)
	}
}

func presenceTrim(t *testing.T, s PresenceStore) {
	ids := presenceRows(t, s, "key00001", "key00002")
	saw(t, s, "one", dawn, func(c *presence.Change) {
		for _, id := range ids {
			c.Rows = append(c.Rows, presence.Row{Device: id, SeenAt: dawn, Source: presence.FromLine})
		}
		c.Steps = append(c.Steps, comes(ids[1], dawn, ""))
		for n := range presence.KeptTransitions/2 + 5 {
			at := after(time.Duration(n) * time.Second)
			c.Steps = append(c.Steps, comes(ids[0], at, ""), goes(ids[0], at, ""))
		}
	})
	list := transitions(t, s, ids[0], dawn, 2*presence.KeptTransitions)
	if len(list) != presence.KeptTransitions || !list[len(list)-1].At.Equal(after(5*time.Second)) {
		t.Errorf("%d are left, the oldest %+v", len(list), list[len(list)-1])
	}
	if list := transitions(t, s, ids[1], dawn, 10); len(list) != 1 {
		t.Errorf("the other device has %+v", list)
	}
}

func presenceMissing(t *testing.T, s PresenceStore) {
	r := saw(t, s, "one", dawn, func(c *presence.Change) {
		c.Rows = []presence.Row{{Device: 7, SeenAt: dawn, Source: presence.FromLine}}
		c.Sessions = []presence.Sessions{{Device: 7, Count: 1}}
		c.Steps = []presence.Step{comes(7, dawn, "")}
	})
	same(t, r.Outcomes, []presence.Outcome{{}})
	if rows, _ := stored(t, s, 0); len(rows) > 0 {
		t.Errorf("%+v", rows)
	}
	if list := transitions(t, s, 7, dawn, 10); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}

func presenceDeleted(t *testing.T, s PresenceStore) {
	ids := presenceRows(t, s, "key00001", "key00002")
	saw(t, s, "one", dawn, func(c *presence.Change) {
		for _, id := range ids {
			c.Rows = append(c.Rows, presence.Row{Device: id, SeenAt: dawn, Source: presence.FromLine})
			c.Sessions = append(c.Sessions, presence.Sessions{Device: id, Count: 1})
			c.Steps = append(c.Steps, comes(id, dawn, ""))
		}
	})
	if err := s.Tx(t.Context(), func(q registry.Queries) error { return q.DeleteDevice(t.Context(), ids[0]) }); err != nil {
		t.Fatal(err)
	}
	if rows, _ := stored(t, s, 0); len(rows) != 1 {
		t.Errorf("%+v", rows)
	}
	if list, err := s.PresenceSessions(t.Context(), 0); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list := transitions(t, s, ids[0], dawn, 10); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}
