//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// report is everything that a run showed.
type report struct {
	Processors int     `json:"processors"`
	Go         string  `json:"go"`
	Rows       []row   `json:"rows"`
	Trials     []trial `json:"trials"`
}

// row is one figure: of the floor, of Signalbox, and the second by the first.
type row struct {
	Scenario  string  `json:"scenario"`
	Figure    string  `json:"figure"`
	Unit      string  `json:"unit"`
	Floor     float64 `json:"floor"`
	Signalbox float64 `json:"signalbox"`
	Ratio     float64 `json:"ratio"`
}

type trial struct {
	Scenario string `json:"scenario"`
	*result
}

// add adds the medians of the values of the floor and of Signalbox.
func (r *report) add(scenario, figure, unit string, values [2][]float64) {
	f, s := median(values[0]...), median(values[1]...)
	line := row{Scenario: scenario, Figure: figure, Unit: unit, Floor: f, Signalbox: s}
	if f > 0 {
		line.Ratio = s / f
	}
	r.Rows = append(r.Rows, line)
}

// faults describes what Signalbox must not do under any load; "" is nothing.
// The floor may: it drops lines by design.
func (r *report) faults() string {
	var sum result
	for _, t := range r.Trials {
		if t.Server == "signalbox" {
			sum.Lost += t.Lost
			sum.Duplicates += t.Duplicates
			sum.Misrouted += t.Misrouted
			sum.Disordered += t.Disordered
			sum.Disconnected += t.Disconnected
			sum.Unanswered += t.Unanswered
		}
	}
	if sum.faults() == 0 {
		return ""
	}
	return fmt.Sprintf("Signalbox: %d deliveries lost, %d duplicate, %d misrouted, %d out of order, %d streams ended, %d messages unanswered",
		sum.Lost, sum.Duplicates, sum.Misrouted, sum.Disordered, sum.Disconnected, sum.Unanswered)
}

func (r *report) table(to io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-60s%10s%11s%8s\n", fmt.Sprintf("%d processors, %s", r.Processors, r.Go), "floor", "signalbox", "ratio")
	title := ""
	for _, l := range r.Rows {
		if l.Scenario != title {
			title = l.Scenario
			fmt.Fprintf(&b, "\n%s\n", title)
		}
		fmt.Fprintf(&b, "  %-58s%10s%11s%8.2f\n", l.Figure+", "+l.Unit, short(l.Floor), short(l.Signalbox), l.Ratio)
	}
	_, err := to.Write(b.Bytes())
	return err
}

// short writes three digits, more only before the point.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *report) json(to io.Writer) error { return json.NewEncoder(to).Encode(r) }
