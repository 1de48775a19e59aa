package rotation

import (
	"context"
)

// cycleRounds bounds what one Cycle does: a time-out makes room for the next
// device, and that is all that may follow from one another.
const cycleRounds = 10

// Cycle does once what Run does all the time: it looks after timers and what was
// left unfinished, and starts what is queued while there is room. It waits until
// all of that is done, and devices are told. led is false, and nothing was done,
// if another process does so already.
func (r *Runner) Cycle(ctx context.Context) (led bool, err error) {
	run := &running{Runner: r, at: map[int64]bool{}}
	defer run.end(ctx)
	for range cycleRounds {
		select {
		case <-r.wake:
		default:
		}
		err := run.round(ctx)
		run.wait.Wait()
		if err != nil {
			return led, err
		}
		if run.until.IsZero() {
			return led, nil
		}
		led = true
		if len(r.wake) == 0 { // nothing was committed
			break
		}
	}
	return led, nil
}
