package app

import (
	"context"
	"errors"
	"fmt"
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

// run starts the units in order, waits until ctx ends, a drain is asked for or
// a unit fails, and stops them in the reverse order, each when the ones after
// it are at rest.
func (a *app) run(ctx context.Context, units []unit) error {
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
	a.log.Info("signalbox is ready")

	var failure error
	select {
	case <-ctx.Done():
	case <-a.stop:
	case failure = <-ended:
		a.log.Error("shutting down because a part failed", "err", failure)
	}
	a.log.Info("shutting down")
	start := time.Now()
	a.web.Drain()
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	limit := time.Duration(a.cfg.GracefulShutdownTimeout)
	select {
	case <-rest:
		a.log.Info("shut down", "seconds", time.Since(start).Seconds())
	case <-time.After(limit):
		return errors.Join(failure, fmt.Errorf("the shutdown took longer than %s and was cut short", limit))
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
