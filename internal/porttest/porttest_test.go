package porttest_test

import (
	"net"
	"testing"

	"signalbox/internal/porttest"
)

// Nobody gets a port twice as long as a test has it, though nobody listens on it yet.
func TestFree(t *testing.T) {
	seen := map[string]bool{}
	for range 500 { // so many that some would come twice
		addr := porttest.Free(t)
		if seen[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		seen[addr] = true
	}
	for addr := range seen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		break
	}
}
