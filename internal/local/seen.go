package local

import (
	"crypto/sha256"
	"sync"
)

// maxSeen is how many tokens each half of seen remembers.
const maxSeen = 8192

// seen remembers what tokens say whose signature was found to be good, so that
// a token that comes with every request is checked once. Everything else about
// it is looked at each time. It forgets the older half when it is full.
type seen struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]claims
}

// get returns what a token says, by its hash.
func (s *seen) get(sum [sha256.Size]byte) (claims, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.young[sum]
	if !ok {
		if c, ok = s.old[sum]; ok {
			s.putLocked(sum, c)
		}
	}
	return c, ok
}

func (s *seen) put(sum [sha256.Size]byte, c claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putLocked(sum, c)
}

func (s *seen) putLocked(sum [sha256.Size]byte, c claims) {
	if s.young == nil || len(s.young) >= maxSeen {
		s.old, s.young = s.young, make(map[[sha256.Size]byte]claims)
	}
	s.young[sum] = c
}
