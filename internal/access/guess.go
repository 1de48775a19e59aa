package access

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

// After so many failures the next attempt has to wait: a second, two, four, and
// so on up to guessWait. Failures are forgotten when there was none for guessMemory.
const (
	guessesOfName    = 5  // at one name, from one address
	guessesOfAddress = 20 // from one address, at whatever name
	guessWait        = 5 * time.Minute
	guessMemory      = time.Hour
	guessEntries     = 20_000
)

// guesses slows down who guesses passwords. An attempt counts as a failure from
// its beginning, so that many at once are no way around it.
type guesses struct {
	mu      sync.Mutex
	entries map[guessKey]*list.Element
	order   list.List // of *guessEntry, that of the last failure in front
}

// guessKey is a name at an address, or an address alone.
type guessKey struct {
	address string
	name    string
	named   bool
}

type guessEntry struct {
	guessKey
	failures int
	last     time.Time
}

// tooMany is the error for who has to wait.
func tooMany(wait time.Duration) error {
	return fleet.E(fleet.TooMany, &TooManyAttempts{RetryAfter: wait}, "Too many attempts: please wait")
}

// begin counts an attempt, or says how long to wait with it: *TooManyAttempts.
func (g *guesses) begin(name, address string, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	byName, byAddress := keysOf(name, address)
	if wait := max(g.wait(byName, guessesOfName, now), g.wait(byAddress, guessesOfAddress, now)); wait > 0 {
		return tooMany(wait)
	}
	g.count(byName, 1, now)
	g.count(byAddress, 1, now)
	return nil
}

// succeeded forgets the failures at the name from that address, and only those:
// who has an account does not get guesses at others by logging in in between.
func (g *guesses) succeeded(name, address string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	byName, byAddress := keysOf(name, address)
	if e := g.find(byName, now); e != nil {
		g.count(byAddress, -e.failures, now)
		g.drop(byName)
	}
}

// undo takes an attempt back that came to no answer.
func (g *guesses) undo(name, address string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	byName, byAddress := keysOf(name, address)
	g.count(byName, -1, now)
	g.count(byAddress, -1, now)
}

// keysOf returns what an attempt counts for. Of an IPv6 address it is the network
// of 64 bits, which is what one customer has at least (RFC 6177).
func keysOf(name, address string) (byName, byAddress guessKey) {
	if a, err := netip.ParseAddr(address); err == nil {
		a = a.Unmap().WithZone("")
		if a.Is6() {
			if p, err := a.Prefix(64); err == nil {
				a = p.Addr()
			}
		}
		address = a.String()
	}
	name, address = name[:min(len(name), maxUsername)], address[:min(len(address), 64)]
	return guessKey{address, name, true}, guessKey{address: address}
}

func (g *guesses) find(k guessKey, now time.Time) *guessEntry {
	element := g.entries[k]
	if element == nil {
		return nil
	}
	e := element.Value.(*guessEntry)
	if now.Sub(e.last) >= guessMemory {
		g.drop(k)
		return nil
	}
	return e
}

func (g *guesses) drop(k guessKey) {
	if element := g.entries[k]; element != nil {
		g.order.Remove(element)
		delete(g.entries, k)
	}
}

// wait returns how long the next attempt has to wait.
func (g *guesses) wait(k guessKey, free int, now time.Time) time.Duration {
	e := g.find(k, now)
	if e == nil || e.failures < free {
		return 0
	}
	delay := guessWait
	if over := e.failures - free; over < 20 {
		delay = min(delay, time.Second<<over)
	}
	return max(0, e.last.Add(delay).Sub(now))
}

func (g *guesses) count(k guessKey, n int, now time.Time) {
	e := g.find(k, now)
	if e == nil {
		if n <= 0 {
			return
		}
		if g.entries == nil {
			g.entries = map[guessKey]*list.Element{}
		}
		e = &guessEntry{guessKey: k}
		g.entries[k] = g.order.PushFront(e)
		if g.order.Len() > guessEntries {
			g.drop(g.order.Back().Value.(*guessEntry).guessKey)
		}
	}
	e.failures += n
	switch {
	case e.failures <= 0:
		g.drop(k)
	case n > 0:
		e.last = now
		g.order.MoveToFront(g.entries[k])
	}
}
