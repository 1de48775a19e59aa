package logs

import (
	"context"
	"sync"

	"signalbox/internal/fleet"
)

// Undelivered is the operator's view of the dead letters of all sinks. Safe for
// concurrent use.
type Undelivered struct {
	letters DeadLetters
	sinks   []*SinkRunner
	busy    sync.Mutex // held by Retry
}

// MaxDeadLetters is the most letters of one call.
const MaxDeadLetters = 1000

// NewUndelivered returns the view of what is kept for the sinks.
func NewUndelivered(letters DeadLetters, sinks ...*SinkRunner) *Undelivered {
	return &Undelivered{letters: letters, sinks: sinks}
}

// List is DeadLetters.List, with a limit of up to MaxDeadLetters.
func (u *Undelivered) List(ctx context.Context, q DeadQuery) ([]DeadLetter, bool, error) {
	if q.Limit < 1 || q.Limit > MaxDeadLetters {
		return nil, false, fleet.E(fleet.Invalid, nil, "The limit must be from 1 to %d", MaxDeadLetters)
	}
	return u.letters.List(ctx, q)
}

// Purge is DeadLetters.Purge. Its error is fleet.NotFound if there is no such sink.
func (u *Undelivered) Purge(ctx context.Context, sink string, upTo uint64) (int, error) {
	if _, err := u.sink(sink); err != nil {
		return 0, err
	}
	return u.letters.Purge(ctx, sink, upTo)
}

// Retried is what became of dead letters that were tried again.
type Retried struct {
	Taken   int    // they are in the sink, and no letters any more
	Refused int    // they stay
	Last    uint64 // the number of the last one that was tried
	More    bool   // there are more behind it
}

// Retry hands the oldest letters of the sink after the number, up to
// MaxDeadLetters, to the sink again, and removes what it takes. Interrupted at any moment,
// it can be called again: a line that is written twice is one document. Its errors are
// fleet.NotFound for a sink that is not there, fleet.InvalidOperation while
// another call is at work, and what the sink says about itself; what was taken before
// is removed then, too.
func (u *Undelivered) Retry(ctx context.Context, sink string, after uint64) (r Retried, err error) {
	to, err := u.sink(sink)
	if err != nil {
		return r, err
	}
	if !u.busy.TryLock() {
		return r, fleet.ErrOperation("try the dead letters again", "that is being done already")
	}
	defer u.busy.Unlock()
	letters, more, err := u.letters.List(ctx, DeadQuery{Sink: sink, After: after, Limit: MaxDeadLetters})
	if err != nil {
		return r, err
	}
	r.More = more
	err = u.offer(ctx, to, letters, &r)
	return r, err
}

func (u *Undelivered) sink(name string) (*SinkRunner, error) {
	for _, s := range u.sinks {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fleet.ErrNotFound("Sink", name)
}

// offer offers the letters in one request, and in ever smaller ones if it is the
// request that the sink does not take.
func (u *Undelivered) offer(ctx context.Context, to *SinkRunner, letters []DeadLetter, r *Retried) error {
	if len(letters) == 0 {
		return nil
	}
	lines := make([]SinkLine, len(letters))
	for i := range letters {
		lines[i] = letters[i].Line
	}
	refused, err := to.Sink.Write(ctx, lines)
	if err != nil && final(fleet.KindOf(err)) && ctx.Err() == nil {
		if half := len(letters) / 2; half > 0 {
			if err := u.offer(ctx, to, letters[:half], r); err != nil {
				return err
			}
			return u.offer(ctx, to, letters[half:], r)
		}
		r.Refused++
		r.Last = letters[0].Number
		return nil
	}
	if err != nil {
		return err
	}
	no := map[int]bool{}
	for _, f := range refused {
		no[f.Index] = true
	}
	for i := range letters {
		if no[i] {
			r.Refused++
		} else {
			if err := u.letters.Remove(ctx, letters[i].Number); err != nil {
				return err
			}
			to.found(&letters[i].Line)
			r.Taken++
		}
		r.Last = letters[i].Number
	}
	return nil
}
