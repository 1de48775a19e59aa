package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signalbox/internal/logs"
)

// upTo returns the events of d before t.
func upTo(d *Device, t time.Duration) []Event {
	var events []Event
	for {
		e := d.Next()
		if e.At >= t {
			return events
		}
		events = append(events, e)
	}
}

func TestDeviceDeterministic(t *testing.T) {
	life := func(seed uint64, n int) []Event { return upTo(NewDevice(seed, n, 5), 10*time.Minute) }
	if diff := cmp.Diff(life(1, 1), life(1, 1)); diff != "" {
		t.Errorf("two equal devices differ:\n%s", diff)
	}
	if cmp.Equal(life(1, 1), life(2, 1)) || cmp.Equal(life(1, 1), life(1, 2)) {
		t.Error("different devices live the same life")
	}
}

func TestDeviceRate(t *testing.T) {
	f := func(rate float64, length time.Duration) {
		t.Helper()
		for n := range 3 {
			lines := 0
			for _, e := range upTo(NewDevice(7, n, rate), length) {
				lines += len(e.Lines)
			}
			if got := float64(lines) / length.Seconds(); got < 0.95*rate || got > 1.05*rate {
				t.Errorf("device %d: %.3f lines a second, want %v", n, got, rate)
			}
		}
	}
	f(0.1, 48*time.Hour)
	f(5, 4*time.Hour)
	f(300, 3*time.Minute)
}

func TestDeviceLife(t *testing.T) {
	d := NewDevice(3, 12, 5)
	decoder := logs.NewDecoder("entity_id")
	var at, offlineSince, uptime time.Duration
	online, seq := false, 0
	var reboots, dropOuts, waited int
	seen := map[logs.Level]int{}
	var texts strings.Builder
	for _, e := range upTo(d, 4*time.Hour) {
		if e.At < at || e.At < 0 {
			t.Fatalf("event at %v after one at %v", e.At, at)
		}
		at = e.At
		switch {
		case e.Action == Publish && (!online || len(e.Lines) == 0 || len(e.Lines) > maxBatch):
			t.Fatalf("%d lines, online: %v", len(e.Lines), online)
		case e.Action == Join && online, e.Action == Leave && !online:
			t.Fatalf("action %v, online: %v", e.Action, online)
		case e.Action == Join:
			online = true
			if at-offlineSince > 3*time.Second {
				dropOuts++
			}
			continue
		case e.Action == Leave:
			online, offlineSince = false, at
			continue
		}
		if len(e.Lines) > 20 {
			waited++
		}

		// Every line survives the decoder, and what it says of itself is read.
		entries := decoder.Decode(nil, d.Payload(e.Lines), time.Now(), func(r logs.Reason) { t.Fatalf("line counted as %s", r) })
		if len(entries) != len(e.Lines) {
			t.Fatalf("%d entries of %d lines", len(entries), len(e.Lines))
		}
		for i, l := range e.Lines {
			got := entries[i]
			if seq++; l.Seq != seq {
				t.Fatalf("line %d follows line %d", l.Seq, seq-1)
			}
			if got.EntityID != "sim-0012" || got.Level != l.Level || got.Tag != l.Tag || !got.HasUptime || got.Uptime != l.Uptime.Truncate(time.Millisecond) {
				t.Fatalf("%q: decoded as %v %q %v of %q", l.Message, got.Level, got.Tag, got.Uptime, got.EntityID)
			}
			if l.Uptime < uptime {
				reboots++
				if !strings.HasPrefix(l.Message, "ESP-ROM:") {
					t.Fatalf("the first line after a reboot is %q", l.Message)
				}
			}
			uptime = l.Uptime
			seen[l.Level]++
			texts.WriteString(l.Message + "\n")
		}
	}
	if reboots < 3 || dropOuts < 5 || waited < dropOuts {
		t.Errorf("%d reboots, %d drop-outs, %d large batches: too few to be a life", reboots, dropOuts, waited)
	}
	for l := logs.Unknown; l <= logs.Verbose; l++ {
		if seen[l] == 0 {
			t.Errorf("no line of level %q", l)
		}
	}
	for _, want := range []string{"Guru Meditation Error", "\nBacktrace: 0x400", "rst:0x1 (POWERON)", "rst:0xc (RTC_SW_CPU_RST)", "bcn_timeout", "ble_scan", "\x1b[0;31mE (", "°C"} {
		if !strings.Contains(texts.String(), want) {
			t.Errorf("nobody said %q", want)
		}
	}
}

func TestNames(t *testing.T) {
	names := map[string]bool{}
	for n := 1; n <= 1000; n++ {
		names[Name(n)] = true
	}
	if len(names) != 1000 || Name(1) != "Greenhouse north 1" || Name(81) != "Greenhouse north 3" {
		t.Errorf("%d names; %q, %q", len(names), Name(1), Name(81))
	}
	if EntityID(7) != "sim-0007" || EntityID(12345) != "sim-12345" {
		t.Errorf("%q, %q", EntityID(7), EntityID(12345))
	}
}
