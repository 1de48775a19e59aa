package nats

import (
	"net/netip"
	"sync"
	"time"
)

// The bounds of what a throttle does.
const (
	throttleFirst  = 250 * time.Millisecond // the delay after the first failure; it doubles with each
	throttleLast   = 8 * time.Second        // the longest; less than a device waits for its CONNACK
	throttleForget = 10 * time.Minute       // after so long without a failure all is forgiven
	throttleFree   = 10                     // failures of an address under any names before it is delayed for them
	throttleSeen   = 1 << 15                // addresses and names that are remembered, at most
	throttleWait   = 512                    // connections that wait at once, at most
	throttlePlace  = 64                     // of these from one address
	throttleName   = 4                      // of these from one address under one name
)

// throttle slows down who fails to prove who they are, by address and by name
// at that address. Whoever succeeds is never delayed, so that a device that has
// gone wrong does not harm its neighbours at the same address, nor a stranger
// a device whose name they know. The zero value is not usable.
type throttle struct {
	now func() time.Time

	mu sync.Mutex
	// What is remembered, in two halves: when the new one is full it takes the
	// place of the old, so that memory is bounded and the latest are kept.
	fresh, old map[place]misses
	waiting    int
	waitingAt  map[place]int
}

// place is where failures come from: an address, or a name at an address.
type place struct{ address, name string }

type misses struct {
	n    int
	last time.Time
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, fresh: map[place]misses{}, waitingAt: map[place]int{}}
}

// placeOf returns the place of an address. Whoever has one IPv6 address has the
// /64 around it, too.
func placeOf(address string) place {
	if a, err := netip.ParseAddr(address); err == nil {
		if a = a.Unmap().WithZone(""); a.Is6() {
			if p, err := a.Prefix(64); err == nil {
				a = p.Addr()
			}
		}
		address = a.String()
	}
	return place{address: address}
}

// maxName is how much of a name tells it from others.
const maxName = 128

func (p place) of(name string) place {
	// A name that is empty is one as well, and not the address as a whole.
	return place{p.address, "=" + name[:min(len(name), maxName)]}
}

// look reports whether the credentials of name, at the address, are to be
// looked at. They are not while as many as throttleName wait there.
func (t *throttle) look(address, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waitingAt[placeOf(address).of(name)] < throttleName
}

// good forgets the failures of the name at the address.
func (t *throttle) good(address, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := placeOf(address).of(name)
	delete(t.fresh, p)
	delete(t.old, p)
}

// bad counts a failure and returns for how long its answer is to be held back,
// and the how-manieth of that name it is. Leave must be called when it was
// answered. Where too many wait already the answer is not held back: to wait
// costs this side, too.
func (t *throttle) bad(address, name string) (wait time.Duration, often int, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	here := placeOf(address)
	named := here.of(name)
	often = t.missLocked(named)
	wait = max(delay(often), delay(t.missLocked(here)-throttleFree))
	if t.waiting >= throttleWait || t.waitingAt[here] >= throttlePlace {
		return 0, often, func() {}
	}
	t.waiting++
	t.waitingAt[here]++
	t.waitingAt[named]++
	return wait, often, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting--
		for _, p := range []place{here, named} {
			if t.waitingAt[p]--; t.waitingAt[p] == 0 {
				delete(t.waitingAt, p)
			}
		}
	}
}

// missLocked counts a failure of p and returns how many there are.
func (t *throttle) missLocked(p place) int {
	m, ok := t.fresh[p]
	if !ok {
		m = t.old[p]
	}
	now := t.now()
	if now.Sub(m.last) > throttleForget {
		m.n = 0
	}
	m.n, m.last = m.n+1, now
	if !ok && len(t.fresh) >= throttleSeen/2 {
		t.old, t.fresh = t.fresh, map[place]misses{}
	}
	t.fresh[p] = m
	return m.n
}

// delay returns how long to wait after the n-th failure.
func delay(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	return min(throttleFirst<<min(n-1, 10), throttleLast)
}

// delayed returns how many wait.
func (t *throttle) delayed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting
}
