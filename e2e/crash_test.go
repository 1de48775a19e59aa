package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Nothing accepted is lost: whatever moment the process is killed at, a line
// whose PUBACK the device has reaches every reader once and in order, one that
// lives through the kills as well as one that comes back after all of them.
func TestKillUnderLoad(t *testing.T) {
	t.Run("default", func(t *testing.T) { killUnderLoad(t, start(t), 2*time.Millisecond) })
	// Each flush holds up what came after it, so that more is under way at the
	// moment of the kill.
	t.Run("sync always", func(t *testing.T) { killUnderLoad(t, start(t, "JOURNAL_SYNC=always"), time.Millisecond) })
}

func killUnderLoad(t *testing.T, s *server, every time.Duration) {
	const devices, kills = 4, 6
	var all []device
	for i := range devices {
		all = append(all, s.device(fmt.Sprintf("crash-%d", i)))
	}
	// Before everything else each device says a line that says nothing, so
	// that the reader which goes away has an id to come back with.
	away := s.follow("away", all...)
	for _, d := range all {
		b := s.board(d)
		b.send([]byte(fmt.Sprintf(`{"entity_id":%q,"message":"hello"}`, d.Entity)))
		b.client.Disconnect(0)
		away.wait("the first line arrives", func() bool { return len(away.lines[d.ID]) == 1 })
	}
	away.stop()

	steady := s.follow("steady", all...)
	var talkers []*talker
	for i, d := range all {
		talkers = append(talkers, s.talk(d, every, 1+i%3, i%2 == 1))
	}
	for range kills {
		time.Sleep(200*time.Millisecond + rand.N(600*time.Millisecond)) // the moment is random: that is the test
		s.kill()
		s.launch()
	}
	time.Sleep(300 * time.Millisecond) // some more after the last one
	eventually(t, "enough was acknowledged to say anything", func() bool {
		for _, k := range talkers {
			if acked, _, _ := k.state(); acked < 100*k.lines {
				return false
			}
		}
		return true
	})
	for _, k := range talkers {
		k.stop()
	}
	back := s.newReader("away", all...)
	back.lastID = away.last()
	back.start()
	for _, k := range talkers {
		acked, _, sent := k.state()
		t.Logf("%s: %d lines sent, %d acknowledged", k.device.Entity, sent, acked)
		k.checkHeard(steady)
		k.checkHeard(back)
	}
	steady.check()
	back.check()
	steady.mu.Lock()
	defer steady.mu.Unlock()
	if steady.opened < kills+1 {
		t.Errorf("the steady reader had %d streams over %d kills", steady.opened, kills)
	}
}

// "signalbox tail --all" prints each acknowledged line once, over kills under
// load, also those of a device that is made after it began, from its first on.
func TestTailAllOverKills(t *testing.T) {
	s := start(t)
	var talkers []*talker
	said := func(d device) { talkers = append(talkers, s.talk(d, 10*time.Millisecond, 1+len(talkers)%2, true)) }
	first := s.device("tail-0")
	second := s.device("tail-1")
	tail, out, errs := s.client("tail", "--all", "--json")
	eventually(t, "the tail follows", func() bool { return s.listed("").Count == 2 })
	said(first)
	said(second)
	const kills = 3
	for i := range kills {
		eventually(t, "the tail follows all", func() bool { return s.listed("").Count == len(talkers) })
		said(s.device(fmt.Sprintf("tail-late-%d", i)))                  // while the tail listens
		time.Sleep(100*time.Millisecond + rand.N(400*time.Millisecond)) // the moment is random: that is the test
		s.kill()
		s.launch()
		said(s.device(fmt.Sprintf("tail-away-%d", i))) // most likely while it does not
	}
	eventually(t, "enough was acknowledged to say anything", func() bool {
		for _, k := range talkers {
			if acked, _, _ := k.state(); acked < 100 {
				return false
			}
		}
		return true
	})
	last := map[string]int{}
	for _, k := range talkers {
		k.stop()
		_, last[k.device.Key], _ = k.state()
	}
	heard := func() map[string][]int {
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string][]int{}
		for _, l := range toldIn(t, string(text)) {
			if l.Gap != nil {
				t.Fatalf("a gap: %s", l.Gap)
			}
			all[l.Key] = append(all[l.Key], l.Doc.N)
		}
		return all
	}
	eventually(t, "the tail has printed everything", func() bool {
		got := heard()
		for key, n := range last {
			if !slices.Contains(got[key], n) {
				return false
			}
		}
		return true
	})
	if err := tail.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = tail.Wait()
	got := heard()
	for _, k := range talkers {
		printed := map[int]int{}
		for i, n := range got[k.device.Key] {
			if printed[n]++; printed[n] > 1 || i > 0 && n <= got[k.device.Key][i-1] {
				t.Fatalf("%s: line %d came twice or out of order", k.device.Entity, n)
			}
		}
		k.mu.Lock()
		for n := range k.acked {
			if printed[n] == 0 {
				t.Errorf("%s: line %d of %d was acknowledged and not printed", k.device.Entity, n, len(k.acked))
			}
		}
		k.mu.Unlock()
	}
	if n := strings.Count(tailOf(errs), "connection lost"); n < kills {
		t.Errorf("the tail lost its connection %d times over %d kills", n, kills)
	}
}

// One process owns a DATA_DIR: a second one, which would write into the journal
// of the first, does not start. A killed owner leaves nothing that keeps the
// next one out.
func TestDataDirHasOneOwner(t *testing.T) {
	owner := start(t)
	second := prepare(t, "DATA_DIR="+owner.settings["DATA_DIR"])
	second.spawn()
	if code := second.awaitExit(patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if said := tailOf(second.log); !strings.Contains(said, "in use by another signalbox") {
		t.Errorf("it said %q", said)
	}
	owner.kill()
	second.launch()
}
