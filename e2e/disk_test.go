package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of the given size until the test ends.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		// Also in CI: few runners may mount, and that is as it should be.
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// A full disk stops the acknowledging and nothing else: the program runs on,
// streams stay open, and when there is room again devices and readers go on
// where they were.
func TestDiskFull(t *testing.T) {
	disk := smallDisk(t, 48<<20)
	s := start(t, "DATA_DIR="+filepath.Join(disk, "data"), "SSE_HEARTBEAT_INTERVAL=1s")
	d, e := s.device("one"), s.device("two")
	r := s.follow("r", d, e)
	one, two := s.talk(d, 5*time.Millisecond, 1, false), s.talk(e, 5*time.Millisecond, 3, false)
	r.waitFor(d, 50)
	r.waitFor(e, 50)

	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	quiet := func() bool {
		before, _, _ := one.state()
		time.Sleep(time.Second)
		after, _, _ := one.state()
		return before == after
	}
	eventually(t, "nothing is acknowledged any more", quiet)
	if !s.alive() {
		t.Fatalf("the program ended: %v", s.exit)
	}
	if got := s.metric("sse_gateway_active_connections"); got != 1 {
		t.Errorf("%v streams are open, want 1", got)
	}
	for _, what := range []string{"", "/logs?end=2100-01-01"} {
		if r := s.call("GET", fmt.Sprintf("/api/devices/%d%s", d.ID, what), nil); r.status != 200 {
			t.Errorf("a device cannot be read: %d %s", r.status, r.body)
		}
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	ackedOne, _, _ := one.state()
	ackedTwo, _, _ := two.state()
	begun := time.Now()
	eventually(t, "lines are acknowledged again", func() bool {
		a, _, _ := one.state()
		b, _, _ := two.state()
		return a > ackedOne+20 && b > ackedTwo+20
	})
	t.Logf("it went on %v after there was room", time.Since(begun))
	for _, k := range []*talker{one, two} {
		k.stop()
		k.checkHeard(r)
	}
	r.check()
	if r.opened != 1 {
		t.Errorf("the reader needed %d streams", r.opened)
	}

	// And the files are whole.
	s.kill()
	s.launch()
	again := s.newReader("again", d, e)
	again.lastID = firstID(t, r)
	again.start()
	for _, k := range []*talker{one, two} {
		_, last, _ := k.state()
		again.waitFor(k.device, last)
	}
	again.check()
	for _, k := range []*talker{one, two} {
		heard := map[int]bool{}
		for _, n := range again.numbers(k.device) {
			heard[n] = true
		}
		for n := range k.acked {
			if !heard[n] {
				t.Errorf("line %d of %s is not in the journal any more", n, k.device.Entity)
			}
		}
	}
}

// firstID returns an id that is before everything in the journal.
func firstID(t *testing.T, r *reader) string {
	t.Helper()
	epoch, _ := place(t, r.last())
	return epoch + "-0"
}
