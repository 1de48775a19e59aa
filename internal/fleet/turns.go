package fleet

import (
	"context"
	"sync"
)

// Turns has those who work on one of many things, such as devices, work on each
// one at a time. What nobody works on takes no memory. The zero Turns is ready.
type Turns[K comparable] struct {
	mu   sync.Mutex
	held map[K]*turn
}

type turn struct {
	taken chan struct{} // has room for one: who has the turn
	users int           // who has it or waits; guarded by Turns.mu
}

// Take waits for the turn at a thing and returns what ends it. Its error is that
// of ctx, which ended first.
func (t *Turns[K]) Take(ctx context.Context, key K) (leave func(), err error) {
	t.mu.Lock()
	k := t.join(key)
	t.mu.Unlock()
	select {
	case k.taken <- struct{}{}:
		return func() { <-k.taken; t.part(key, k) }, nil
	case <-ctx.Done():
		t.part(key, k)
		return nil, ctx.Err()
	}
}

// Try is Take for who does not want to wait; ok is false where somebody has the
// turn or waits for it.
func (t *Turns[K]) Try(key K) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[key] != nil {
		return nil, false
	}
	k := t.join(key)
	k.taken <- struct{}{} // there is room, as nobody else knows of it
	return func() { <-k.taken; t.part(key, k) }, true
}

// join counts one more at a thing. t.mu is held.
func (t *Turns[K]) join(key K) *turn {
	if t.held == nil {
		t.held = map[K]*turn{}
	}
	k := t.held[key]
	if k == nil {
		k = &turn{taken: make(chan struct{}, 1)}
		t.held[key] = k
	}
	k.users++
	return k
}

// part counts one fewer.
func (t *Turns[K]) part(key K, k *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(t.held, key)
	}
}
