//go:build linux

package main

import (
	"fmt"
	"math"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"signalbox/bench/target"
)

// histogram counts values of 0 and more; a quantile is at most 1/64 too high.
type histogram struct {
	counts [64 * 42]int64
	total  int64
	max    int64
}

func (h *histogram) add(v int64) {
	v = max(v, 0)
	h.max = max(h.max, v)
	e := max(bits.Len64(uint64(v))-7, 0)
	h.counts[min(e<<6+int(v>>e), len(h.counts)-1)]++
	h.total++
}

// quantile returns the value that a share q of the values does not exceed.
func (h *histogram) quantile(q float64) int64 {
	want, seen := int64(math.Ceil(q*float64(h.total))), int64(0)
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= want {
			e := max(i>>6-1, 0)
			return min(int64(i-e<<6+1)<<e-1, h.max)
		}
	}
	return 0
}

// usage is what a process and the machine have used so far.
type usage struct {
	at      time.Time
	memory  int64   // resident, KB
	server  float64 // processor seconds
	self    float64
	machine float64 // all that was not idle
}

func readUsage(pid int) (usage, error) {
	u := usage{at: time.Now()}
	var err error
	if u.memory, err = target.Memory(pid); err != nil {
		return u, fmt.Errorf("the server is gone: %w", err)
	}
	server, err := target.CPU(pid)
	if err != nil {
		return u, err
	}
	self, err := target.CPU(os.Getpid())
	if err != nil {
		return u, err
	}
	u.server, u.self = server.Seconds(), self.Seconds()
	stat, err := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(stat), "\n")
	for i, f := range strings.Fields(first) {
		// proc_stat(5): cpu user nice system idle iowait irq softirq steal, then guests.
		if i >= 1 && i <= 8 && i != 4 && i != 5 {
			n, _ := strconv.ParseFloat(f, 64)
			u.machine += n / target.Ticks
		}
	}
	return u, err
}

// median returns the middle one, or 0 of none.
func median(v ...float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
