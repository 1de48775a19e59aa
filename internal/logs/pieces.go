package logs

import (
	"encoding/json"

	"signalbox/internal/fleet"
)

// SplitEvent returns the payload of a device-logs event as several, for a carrier
// that cannot take it whole: together they say the same, in the same order, and
// fits approves of each that has more than one line. Each names its lines as the
// whole did. Errors: fleet.Invalid for what is no such payload.
func SplitEvent(payload []byte, fits func([]byte) bool) (parts [][]byte, err error) {
	var fields map[string]json.RawMessage
	var lines, meta []json.RawMessage
	var places []int
	for _, f := range []struct {
		name string
		to   any
	}{{"", &fields}, {"logs", &lines}, {"meta", &meta}, {"indices", &places}} {
		text := payload
		if f.name != "" {
			if text = fields[f.name]; text == nil {
				continue
			}
		}
		if err := json.Unmarshal(text, f.to); err != nil {
			return nil, fleet.E(fleet.Invalid, err, "the event is no batch of lines")
		}
	}
	if len(lines) == 0 || meta != nil && len(meta) != len(lines) || places != nil && len(places) != len(lines) {
		return nil, fleet.E(fleet.Invalid, nil, "the event is no batch of lines")
	}
	if places == nil {
		for n := range lines {
			places = append(places, n)
		}
	}
	set := func(name string, value any) {
		fields[name], _ = json.Marshal(value) // numbers, and what was JSON before
	}
	var split func(from, to int)
	split = func(from, to int) {
		set("logs", lines[from:to])
		set("lines", to-from)
		set("indices", places[from:to])
		if meta != nil {
			set("meta", meta[from:to])
		}
		part, _ := json.Marshal(fields)
		if to-from == 1 || fits(part) {
			parts = append(parts, part)
			return
		}
		middle := (from + to) / 2
		split(from, middle)
		split(middle, to)
	}
	split(0, len(lines))
	return parts, nil
}
