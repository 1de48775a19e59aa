package local

import (
	"crypto/sha256"
	"strconv"
	"testing"
)

func TestSeen(t *testing.T) {
	var s seen
	sum := func(n int) [sha256.Size]byte { return sha256.Sum256([]byte(strconv.Itoa(n))) }
	for n := range 3 * maxSeen {
		s.put(sum(n), claims{ID: strconv.Itoa(n)})
		if c, ok := s.get(sum(0)); ok && c.ID != "0" {
			t.Fatalf("0 became %s", c.ID)
		}
	}
	if _, ok := s.get(sum(0)); !ok {
		t.Error("what is used all the time was forgotten")
	}
	if _, ok := s.get(sum(1)); ok {
		t.Error("nothing was forgotten")
	}
	if c, ok := s.get(sum(3*maxSeen - 1)); !ok || c.ID != strconv.Itoa(3*maxSeen-1) {
		t.Error("the newest was forgotten")
	}
	if n := len(s.young) + len(s.old); n > 2*maxSeen {
		t.Errorf("%d are remembered", n)
	}
}
