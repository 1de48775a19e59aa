package logs

import (
	"encoding/json"
	"strings"

	"signalbox/internal/fleet"
)

// SplitEvent returns the payload of a device-logs event as several, for a carrier
// that cannot take it whole: together they say the same, in the same order, and
// fits approves of each. Each names its lines as the whole did. A line that does not
// fit alone is kept up to where it does, and says that it is truncated; one that
// would not even do so without its message is left as it is. Errors: fleet.Invalid
// for what is no such payload.
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
	part := func(from, to int, lines []json.RawMessage) []byte {
		set("logs", lines)
		set("lines", to-from)
		set("indices", places[from:to])
		if meta != nil {
			set("meta", meta[from:to])
		}
		text, _ := json.Marshal(fields)
		return text
	}
	var split func(from, to int)
	split = func(from, to int) {
		text := part(from, to, lines[from:to])
		if fits(text) {
			parts = append(parts, text)
			return
		}
		if to-from == 1 {
			parts = append(parts, shortened(lines[from], text, func(line json.RawMessage) ([]byte, bool) {
				text := part(from, to, []json.RawMessage{line})
				return text, fits(text)
			}))
			return
		}
		middle := (from + to) / 2
		split(from, middle)
		split(middle, to)
	}
	split(0, len(lines))
	return parts, nil
}

// shortened returns the payload of one line that was cut until it fits, or whole if
// that is not to be had.
func shortened(line json.RawMessage, whole []byte, with func(json.RawMessage) ([]byte, bool)) []byte {
	var doc struct {
		Time      json.RawMessage `json:"@timestamp,omitempty"`
		Message   string          `json:"message"`
		Truncated bool            `json:"truncated"`
	}
	if json.Unmarshal(line, &doc) != nil {
		return whole
	}
	doc.Truncated = true
	for message := doc.Message; ; message = strings.ToValidUTF8(message[:len(message)/2], "") {
		doc.Message = message
		text, _ := json.Marshal(doc) // what was JSON before
		if part, fits := with(text); fits {
			return part
		}
		if message == "" {
			return whole
		}
	}
}
