package sim

import (
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"signalbox/internal/fleet"
)

// Kind is what is difficult about a board whose secret is to be replaced. A board
// is of one kind for the whole of a simulation.
type Kind string

// The kinds.
const (
	Easy         Kind = "easy"          // nothing
	Off          Kind = "off"           // it never connects
	Offline      Kind = "offline"       // it is connected for ten seconds of each minute
	Flaky        Kind = "flaky"         // its connection drops all the time, and half of its requests fail
	Slow         Kind = "slow"          // it waits for 10 to 60 s before each step
	OldFirmware  Kind = "old-firmware"  // it knows the topic of all devices only, restarts, and proves nothing but by its token
	LostResponse Kind = "lost-response" // the first answer with a new secret does not arrive
	NeverProves  Kind = "never-proves"  // it fetches the new secret and goes on with the one that it has
)

const (
	onFor, onEvery = 10 * time.Second, time.Minute // of Offline
	slowLeast      = 10 * time.Second
	slowMost       = 60 * time.Second
	restart        = 2 * time.Second // of OldFirmware, once it has a secret
)

// Shares says how many of the boards are of each difficult kind, from 0 to 1. Of
// those that are Offline every second one is Off. The rest is Easy.
type Shares struct {
	Offline, Flaky, Slow, OldFirmware, LostResponse, NeverProves float64
}

// validate reports shares that cannot be, as fleet.Invalid.
func (s Shares) validate() error {
	sum := 0.0
	for _, share := range []float64{s.Offline, s.Flaky, s.Slow, s.OldFirmware, s.LostResponse, s.NeverProves} {
		if !(share >= 0 && share <= 1) {
			return fleet.E(fleet.Invalid, nil, "a share of the devices is from 0 to 1, not %v", share)
		}
		sum += share
	}
	if sum > 1.000001 { // of what is written in tenths
		return fleet.E(fleet.Invalid, nil, "the shares of difficult devices are more than all of them together")
	}
	return nil
}

// kinds returns the kinds of n boards, the same for the same seed.
func (s Shares) kinds(seed uint64, n int) []Kind {
	kinds := make([]Kind, n)
	for i := range kinds {
		kinds[i] = Easy
	}
	order := rand.New(rand.NewPCG(seed, 0)).Perm(n) // boards count from 1: see NewDevice
	deal := func(share float64, of func(i int) Kind) {
		count := min(int(math.Round(share*float64(n))), len(order))
		for i, at := range order[:count] {
			kinds[at] = of(i)
		}
		order = order[count:]
	}
	same := func(k Kind) func(int) Kind { return func(int) Kind { return k } }
	deal(s.Offline, func(i int) Kind {
		if i%2 == 1 {
			return Off
		}
		return Offline
	})
	deal(s.Flaky, same(Flaky))
	deal(s.Slow, same(Slow))
	deal(s.OldFirmware, same(OldFirmware))
	deal(s.LostResponse, same(LostResponse))
	deal(s.NeverProves, same(NeverProves))
	return kinds
}

// network is what a board has of one: it is down now and then, and may lose
// requests. Its methods may be called by several goroutines.
type network struct {
	kind  Kind
	wire  http.RoundTripper
	begin time.Time
	phase time.Duration // of Offline

	mu      sync.Mutex
	rng     *rand.Rand
	broken  bool // of Flaky, until change
	changes time.Time
}

func newNetwork(kind Kind, seed uint64, n int, wire http.RoundTripper) *network {
	rng := rand.New(rand.NewPCG(seed, 1<<32+uint64(n)))
	return &network{kind: kind, wire: wire, begin: time.Now(), phase: time.Duration(rng.Int64N(int64(onEvery))), rng: rng}
}

// down reports whether the network is down, and when that changes; zero: never.
func (n *network) down() (down bool, change time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	switch n.kind {
	case Off:
		return true, time.Time{}
	case Offline:
		at := (now.Sub(n.begin) + n.phase) % onEvery
		if at < onFor {
			return false, now.Add(onFor - at)
		}
		return true, now.Add(onEvery - at)
	case Flaky:
		for !now.Before(n.changes) {
			length := 2*time.Second + time.Duration(n.rng.Int64N(int64(6*time.Second)))
			if n.broken = !n.broken && !n.changes.IsZero(); n.broken {
				length = length / 4
			}
			if n.changes.IsZero() {
				n.changes = now
			}
			n.changes = n.changes.Add(length)
		}
		return n.broken, n.changes
	}
	return false, time.Time{}
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(q *http.Request) (*http.Response, error) {
	if down, _ := n.down(); down {
		return nil, fleet.E(fleet.Unavailable, nil, "there is no network")
	}
	n.mu.Lock()
	luck := 3
	if n.kind == Flaky {
		luck = n.rng.IntN(4)
	}
	n.mu.Unlock()
	if luck == 0 {
		return nil, fleet.E(fleet.Unavailable, nil, "the request was lost")
	}
	a, err := n.wire.RoundTrip(q)
	if err == nil && luck == 1 {
		_, _ = io.Copy(io.Discard, a.Body) // the server has done what it was asked for
		_ = a.Body.Close()
		return nil, fleet.E(fleet.Unavailable, nil, "the answer was lost")
	}
	return a, err
}
