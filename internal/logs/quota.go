package logs

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Quota limits the lines that each device may log: a token bucket that refills
// at Rate lines a second and holds Burst. A device that runs dry has one entry
// in its own log that says so, and one when it is within its rate again. Safe
// for concurrent use.
type Quota struct {
	rate, burst float64

	mu      sync.Mutex
	buckets map[string]*bucket // by device key
}

type bucket struct {
	tokens float64
	at     time.Time
	cut    int // lines dropped since the bucket ran dry; 0: it has not
}

// NewQuota returns a Quota; a rate of 0 does not limit. A burst below the
// lines of one second is taken as that.
func NewQuota(rate, burst int) *Quota {
	return &Quota{rate: float64(rate), burst: float64(max(rate, burst)), buckets: map[string]*bucket{}}
}

// take asks for n lines of a device. It returns how many of them are within
// the quota, and an entry to log behind them when a cut begins or ends.
func (q *Quota) take(device string, now time.Time, n int) (allowed int, notice *Entry) {
	if q.rate == 0 {
		return n, nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.buckets[device]
	if b == nil {
		b = &bucket{tokens: q.burst, at: now}
		q.buckets[device] = b
	}
	if gone := now.Sub(b.at).Seconds(); gone > 0 { // a clock that jumps back gives nothing
		b.tokens = min(q.burst, b.tokens+gone*q.rate)
		b.at = now
	}
	full := b.tokens == q.burst // it has rested, however large this message is
	allowed = min(n, int(b.tokens))
	b.tokens -= float64(allowed)
	began := b.cut == 0
	b.cut += n - allowed
	switch {
	case b.cut > 0 && began:
		return allowed, q.notice(now, fmt.Sprintf("signalbox: log quota of %.0f lines/s exceeded; lines are being dropped", q.rate))
	case b.cut > 0 && allowed == n && (full || b.tokens >= q.rate/2):
		dropped := b.cut
		b.cut = 0
		return allowed, q.notice(now, fmt.Sprintf("signalbox: within the log quota again; %d lines were dropped", dropped))
	}
	return allowed, nil
}

func (q *Quota) notice(now time.Time, text string) *Entry {
	doc, _ := json.Marshal(map[string]string{ // strings always marshal
		"@timestamp": now.UTC().Format(TimeLayout), "message": text, "level": Warn.String(), "tag": "signalbox",
	})
	return &Entry{Doc: doc, Level: Warn, Tag: "signalbox"}
}
