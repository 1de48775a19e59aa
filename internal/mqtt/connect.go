package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// stable is how long a connection has to last for the next attempt to count as
// the first. One that breaks earlier (somebody else uses our client id, or the
// journal refuses every message) is a failure like one that never came up.
const stable = 10 * time.Second

// maintain keeps a connection up until Close.
func (s *Source) maintain() {
	for failures := 0; ; failures++ {
		if !s.pause(failures) {
			return
		}
		if failures > 0 {
			s.metrics.reconnects.Inc()
		}
		l, err := s.connect()
		if err != nil {
			if s.ctx.Err() != nil {
				return
			}
			s.log.Warn("cannot connect to the MQTT broker", "attempt", failures+1, "err", err)
			continue
		}
		since := time.Now()
		s.serve(l)
		if s.ctx.Err() != nil {
			return
		}
		s.log.Warn("lost the connection to the MQTT broker", "after", time.Since(since).Round(time.Millisecond), "err", l.reason)
		if time.Since(since) >= stable {
			failures = 0
		}
	}
}

// pause waits before an attempt that follows failures; it reports false if the
// source is closed.
func (s *Source) pause(failures int) bool {
	if failures == 0 {
		return s.ctx.Err() == nil
	}
	t := time.NewTimer(backoff(s.cfg.BackoffMin, s.cfg.BackoffMax, failures))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// backoff doubles from least to most with the number of failures, from 1; half
// of it is random so that clients do not return all at once.
func backoff(least, most time.Duration, failures int) time.Duration {
	d := most
	if shift := failures - 1; shift < 32 && least<<shift>>shift == least {
		d = min(most, least<<shift)
	}
	return d/2 + rand.N(d/2+1)
}

// versionChoice remembers which version of MQTT the broker speaks.
type versionChoice struct {
	old         bool // it refused MQTT 5 and accepted 3.1.1
	closedEarly int  // attempts with MQTT 5 in a row that it closed without an answer
}

// connect opens one connection with the newest version that the broker speaks.
//
// A broker that does not know MQTT 5 says so [MQTT-3.1.2-2] or just closes the
// connection, which a broker that is starting or stopping does as well: then it
// is asked twice. Once 3.1.1 has worked it is used for good, for a session is
// best left to one version.
func (s *Source) connect() (*link, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.ConnectTimeout)
	defer cancel()
	if s.version.old {
		return s.connect311(ctx)
	}
	l, err := s.connect5(ctx)
	if errors.Is(err, errClosedEarly) {
		s.version.closedEarly++
	} else {
		s.version.closedEarly = 0
	}
	if !errors.Is(err, errVersion) && s.version.closedEarly < 2 {
		return l, err
	}
	l, err311 := s.connect311(ctx)
	if err311 != nil {
		return nil, fmt.Errorf("%w; with MQTT 3.1.1: %w", err, err311)
	}
	s.version.old = true
	s.log.Warn("the MQTT broker only speaks MQTT 3.1.1")
	return l, nil
}

// serve uses a connection until it is lost or the source is closed.
func (s *Source) serve(l *link) {
	s.inflight.begin(l, l.resumed)
	close(l.ready)
	s.setLink(l)
	s.log.Info("connected to the MQTT broker", "session_resumed", l.resumed)

	var wg sync.WaitGroup
	wg.Go(func() { s.acknowledge(l) })
	wg.Go(func() { s.subscribe(l) })
	select {
	case <-l.lost:
	case <-s.ctx.Done():
	}
	s.setLink(nil)
	closing := s.ctx.Err() != nil
	l.lose(errClosed)
	wg.Wait()
	if closing {
		s.flush(l)
		l.leave()
	}
	_ = l.conn.Close()
	<-l.protocol.ended()
	s.metrics.subscriptions.Set(0)
}

// errClosed is why a connection was given up by Close.
var errClosed = errors.New("the source is closed")

// setLink says which connection is up; nil and a link take turns.
func (s *Source) setLink(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l != nil {
		close(s.up)
		s.metrics.connected.Set(1)
	} else {
		close(s.link.left)
		s.up = make(chan struct{})
		s.metrics.connected.Set(0)
	}
	s.link = l
}

// subscribe subscribes on a new connection once somebody runs the source. The
// session may have the subscriptions already; the broker, or an operator, may
// also have lost them.
func (s *Source) subscribe(l *link) {
	select {
	case <-s.wanted:
	case <-l.lost:
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.ConnectTimeout)
	defer cancel()
	filters := []string{s.cfg.Topic, s.cfg.Topic + "/+"}
	granted, err := l.protocol.subscribe(ctx, filters)
	if err == nil {
		n := 0
		for i, ok := range granted {
			if ok {
				n++
			} else {
				s.log.Error("the MQTT broker refused a subscription", "topic", filters[i])
			}
		}
		s.metrics.subscriptions.Set(float64(n))
		if n > 0 {
			return // with one of two, the messages of some devices are better than none
		}
		err = errors.New("every subscription was refused")
	}
	l.lose(fmt.Errorf("subscribe: %w", err))
}
