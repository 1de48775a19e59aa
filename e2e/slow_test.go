package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// latencies collects how long lines took.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(sent int64) {
	took := time.Duration(time.Now().UnixNano() - sent)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, took)
}

// take returns the number and the 99th percentile of what was collected, and
// begins anew.
func (l *latencies) take() (n int, p99 time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.all)
	n = len(l.all)
	if n > 0 {
		p99 = l.all[n*99/100]
	}
	l.all = nil
	return n, p99
}

// Nobody slows anybody: a hundred readers receive as quickly as before when
// another one stops reading. That one is dropped after STREAM_WRITE_TIMEOUT,
// and when it comes back it has missed nothing.
func TestStalledReader(t *testing.T) {
	s := start(t, "STREAM_WRITE_TIMEOUT=1s", "STREAM_BUFFER_BYTES=64KiB")
	quiet, loud := s.device("quiet"), s.device("loud")
	const readers = 100
	var times latencies
	var others []*reader
	for i := range readers {
		r := s.newReader(fmt.Sprintf("other-%d", i), quiet)
		r.onLine = func(l line) { times.add(l.Sent) }
		r.start()
		others = append(others, r)
	}
	for _, r := range others {
		r.wait("the device is followed", func() bool { return r.live })
	}
	stalling := s.follow("stalling", quiet, loud)

	voice := s.talk(quiet, 20*time.Millisecond, 1, false)
	noise := s.talk(loud, 10*time.Millisecond, 1, false)
	noise.mu.Lock()
	noise.pad = strings.Repeat("x", 16<<10)
	noise.mu.Unlock()

	const span = 4 * time.Second // of measuring
	stalling.waitFor(loud, 50)   // it is running
	times.take()
	time.Sleep(span)
	n, before := times.take()
	stalling.valve.shut()
	time.Sleep(span)
	m, during := times.take()
	t.Logf("p99 of %d readers: %v without (%d lines), %v with one that stalls (%d lines)", readers, before, n, during, m)
	if n < readers*100 || m < readers*100 {
		t.Errorf("only %d and %d lines arrived in %v each: not much of a test", n, m, span)
	}
	if limit := 3*before + 20*time.Millisecond; during > limit {
		t.Errorf("p99 is %v while a reader stalls and was %v before; want at most %v", during, before, limit)
	}

	eventually(t, "the stalled reader is dropped", func() bool { return s.metric("sse_streams_dropped_total") == 1 })
	if got := s.metric("sse_gateway_active_connections"); got != readers {
		t.Errorf("%v streams are open, want %d", got, readers)
	}
	voice.stop()
	noise.stop()
	stalling.valve.flow()
	voice.checkHeard(stalling)
	noise.checkHeard(stalling)
	stalling.check()
	for _, r := range others {
		voice.checkHeard(r)
		r.check()
		if r.mu.Lock(); r.opened != 1 {
			t.Errorf("reader %s needed %d streams", r.requestID, r.opened)
		}
		r.mu.Unlock()
	}
}
