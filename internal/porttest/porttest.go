// Package porttest finds ports for servers that a test starts as processes, and
// that stay the same over restarts.
package porttest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Free returns a loopback address, host:port, on which no TCP server listens and
// that Free gives to nobody else on this machine until the test ends. It is below
// the ports that the kernel gives to clients: one of those that dials a server
// which is down could otherwise take its port, or even connect to itself.
func Free(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(12_000)))
		// The UDP port of that number is nobody's, so whoever has it has reserved the
		// other, also towards other processes, which a list could not do; and it is
		// free again whatever way the process ends.
		reserved, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			reserved.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { reserved.Close() })
		return addr
	}
	t.Fatal("no free port")
	return ""
}
