package local

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Wrong secrets: so many at once, and then one per interval. What is limited is
// the pair of client and address, so that nobody can lock out a device from
// somewhere else, and devices behind one address do not lock out each other.
const (
	wrongBurst    = 5
	wrongInterval = 10 * time.Second
	maxTracked    = 20_000 // pairs that are remembered
)

// limits remembers who guessed wrong of late.
type limits struct {
	now func() time.Time

	mu    sync.Mutex
	pairs map[pair]*rate.Limiter
}

type pair struct{ client, address string }

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, pairs: make(map[pair]*rate.Limiter)}
}

// wait returns how long the pair must wait before it may try again; 0: not.
func (l *limits) wait(p pair) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.pairs[p]
	if limiter == nil {
		return 0
	}
	if left := limiter.TokensAt(l.now()); left < 1 {
		return max(time.Second, time.Duration((1-left)*float64(wrongInterval)))
	}
	return 0
}

// wrong notes a wrong guess.
func (l *limits) wrong(p pair) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.pairs[p]
	if limiter == nil {
		if len(l.pairs) >= maxTracked {
			l.forget(now)
		}
		limiter = rate.NewLimiter(rate.Every(wrongInterval), wrongBurst)
		l.pairs[p] = limiter
	}
	limiter.AllowN(now, 1)
}

// forget makes room: who waited long enough is as if they had never guessed. If
// all are recent, any tenth of them has to do.
func (l *limits) forget(now time.Time) {
	maps.DeleteFunc(l.pairs, func(_ pair, limiter *rate.Limiter) bool { return limiter.TokensAt(now) >= wrongBurst })
	for p := range l.pairs {
		if len(l.pairs) < maxTracked*9/10 {
			return
		}
		delete(l.pairs, p)
	}
}
