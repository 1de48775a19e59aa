package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// unit is a part that runs. Run blocks until its context ends and then until
// the part is at rest.
type unit struct {
	name string
	run  func(context.Context) error
}

var errStopped = errors.New("stopped by itself")

// process is what runs units.
type process struct {
	log      *slog.Logger
	ready    string          // is logged when all have started
	limit    time.Duration   // of the shutdown
	stop     <-chan struct{} // asks for a shutdown; nil: only the context does
	stopping func()          // is called when it begins, if not nil
}

// run starts the units in order, waits until ctx ends, stop says so or a unit
// fails, and stops them in the reverse order, each when the ones after it are at
// rest.
func (p process) run(ctx context.Context, units []unit) error {
	ended := make(chan error, len(units))
	var stops []func()
	for _, u := range units {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := u.run(own)
			if err == nil && own.Err() == nil {
				err = errStopped
			}
			if err != nil {
				ended <- fmt.Errorf("%s: %w", u.name, err)
			}
		}()
		stops = append(stops, func() { cancel(); <-done })
	}
	p.log.Info(p.ready)

	var failure error
	select {
	case <-ctx.Done():
	case <-p.stop:
	case failure = <-ended:
		p.log.Error("shutting down because a part failed", "err", failure)
	}
	p.log.Info("shutting down")
	start := time.Now()
	if p.stopping != nil {
		p.stopping()
	}
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	select {
	case <-rest:
		p.log.Info("shut down", "seconds", time.Since(start).Seconds())
	case <-time.After(p.limit):
		return errors.Join(failure, fmt.Errorf("the shutdown took longer than %s and was cut short", p.limit))
	}
	for {
		select {
		case err := <-ended:
			failure = errors.Join(failure, err)
		default:
			return failure
		}
	}
}
