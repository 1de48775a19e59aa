package tail

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"signalbox/internal/fleet"
	"signalbox/internal/logs"
)

// maxLabel is the width of the column of device names, in terminal cells.
const maxLabel = 24

// The colours are of the 256-colour palette, whose values no theme changes,
// and of middling brightness, so that each can be read on black and on white.
const (
	reset   = "\x1b[0m"
	dim     = "\x1b[38;5;244m"
	warning = "\x1b[38;5;136m"
	failure = "\x1b[1;38;5;160m"
)

func levelColor(l logs.Level) string {
	switch l {
	case logs.Error:
		return failure
	case logs.Warn:
		return warning
	case logs.Debug, logs.Verbose:
		return dim
	default:
		return ""
	}
}

// labelColor gives a device its colour, the same in every run.
func labelColor(key string) string {
	palette := [...]uint8{29, 31, 33, 63, 64, 68, 97, 99, 132, 134, 162, 166}
	h := fnv.New32a()
	io.WriteString(h, key)
	return fmt.Sprintf("\x1b[38;5;%dm", palette[h.Sum32()%uint32(len(palette))])
}

// useColor decides whether what is written to w is coloured. Its error is
// fleet.Invalid for a mode that does not exist.
func useColor(mode string, w io.Writer) (bool, error) {
	switch mode {
	case "always":
		return true, nil
	case "never":
		return false, nil
	case "", "auto":
		f, ok := w.(*os.File)
		if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
			return false, nil
		}
		info, err := f.Stat()
		return err == nil && info.Mode()&os.ModeCharDevice != 0, nil
	default:
		return false, fleet.E(fleet.Invalid, nil, "Unknown colour mode %q: use auto, always or never", mode)
	}
}

// printer turns events into text.
type printer struct {
	json  bool
	color bool
	shows func(level logs.Level, tag string, message []byte) bool // which lines of events are shown
	zone  *time.Location

	names map[int64]name
	width int  // of the widest label, in cells
	many  bool // lines say whose they are in a column

	buf bytes.Buffer
}

// name is how a device appears.
type name struct {
	device
	label string // escaped, at most maxLabel wide
	color string
}

// know tells the printer of the devices, or of those that came later. What it
// knew of others it keeps: their lines may still be under way.
func (p *printer) know(devices []device, many bool) {
	if p.names == nil {
		p.names = map[int64]name{}
	}
	used := map[string]int{}
	for _, d := range devices {
		used[d.label()]++
	}
	p.many = p.many || many || len(devices) > 1
	for _, d := range devices {
		label := escape(d.label())
		if used[d.label()] > 1 {
			label = ansi.Truncate(label, maxLabel-len(d.Key)-1, "…") + "/" + escape(d.Key)
		}
		label = ansi.Truncate(label, maxLabel, "…")
		p.names[d.ID] = name{d, label, labelColor(d.Key)}
		p.width = max(p.width, ansi.StringWidth(label))
	}
}

// name returns how the device appears that an event or a line is about.
func (p *printer) name(id int64, key, entityID string) name {
	if n, ok := p.names[id]; ok {
		return n
	}
	for _, n := range p.names { // a server that sends no device id
		if id == 0 && entityID != "" && text(n.EntityID) == entityID {
			return n
		}
	}
	label := cmp.Or(entityID, key)
	return name{device{ID: id, Key: key, EntityID: &entityID}, ansi.Truncate(escape(label), maxLabel, "…"), labelColor(cmp.Or(key, entityID))}
}

// render returns the text of an event, whole lines; empty if nothing of it is
// to be shown. The result is valid until the next call.
func (p *printer) render(ev event) []byte {
	p.buf.Reset()
	switch {
	case ev.gap != nil:
		p.gap(ev.gap)
	case ev.logs != nil:
		n := p.name(ev.logs.DeviceID, ev.logs.DeviceKey, ev.logs.EntityID)
		for i, doc := range ev.logs.Logs {
			e := entry{entityID: ev.logs.EntityID, doc: doc}
			if i < len(ev.logs.Meta) {
				e.lineMeta = ev.logs.Meta[i]
			}
			e.read(ev.logs.Received)
			level, _ := logs.ParseLevel(text(e.Level))
			if p.shows(level, text(e.Tag), []byte(e.message)) {
				p.entry(n, e)
			}
		}
	}
	return p.buf.Bytes()
}

// entry is one line.
type entry struct {
	lineMeta
	entityID  string // of its device, when it was said
	timestamp string
	message   string
	doc       json.RawMessage
}

// read takes what the document of e says.
func (e *entry) read(received string) {
	// A map, because a struct would also take "Message" for "message".
	var fields map[string]json.RawMessage
	if json.Unmarshal(e.doc, &fields) != nil {
		fields = map[string]json.RawMessage{"message": e.doc}
	}
	e.message = str(fields["message"])
	e.timestamp = cmp.Or(str(fields["@timestamp"]), received)
}

func (p *printer) entry(n name, e entry) {
	if p.json {
		p.object(struct {
			DeviceID  int64           `json:"device_id"`
			EntityID  string          `json:"device_entity_id"`
			Key       string          `json:"device_key"`
			Name      *string         `json:"device_name"`
			Timestamp string          `json:"timestamp"`
			Message   string          `json:"message"`
			Level     *string         `json:"level"`
			Tag       *string         `json:"tag"`
			UptimeMS  *int64          `json:"uptime_ms"`
			Doc       json.RawMessage `json:"doc"`
		}{n.ID, e.entityID, n.Key, n.Name, e.timestamp, e.message, e.Level, e.Tag, e.UptimeMS, e.doc})
		return
	}

	clock := "--:--:--.---"
	if t, err := time.Parse(time.RFC3339Nano, e.timestamp); err == nil {
		clock = t.In(p.zone).Format("15:04:05.000")
	}
	p.paint(dim, clock)
	p.buf.WriteByte(' ')
	if p.many {
		p.paint(n.color, n.label)
		p.buf.WriteString(strings.Repeat(" ", max(0, p.width-ansi.StringWidth(n.label))))
	} else {
		p.buf.WriteString(n.label)
	}
	p.buf.WriteByte(' ')
	p.paint(dim, "|")
	p.buf.WriteByte(' ')
	level, _ := logs.ParseLevel(text(e.Level))
	p.paint(levelColor(level), escape(e.message))
	p.buf.WriteByte('\n')
}

func (p *printer) gap(g *gapPayload) {
	n := p.name(g.DeviceID, g.DeviceKey, g.EntityID)
	if p.json {
		type gap struct {
			DeviceID int64   `json:"device_id"`
			EntityID string  `json:"device_entity_id"`
			Key      string  `json:"device_key"`
			Name     *string `json:"device_name"`
			From     string  `json:"from"`
			To       string  `json:"to"`
			Count    *int64  `json:"count"`
			Reason   string  `json:"reason"`
		}
		p.object(map[string]gap{"gap": {n.ID, g.EntityID, n.Key, n.Name, g.From, g.To, g.Count, g.Reason}})
		return
	}
	what := "some lines"
	switch {
	case g.Count == nil:
	case *g.Count == 1:
		what = "1 line"
	default:
		what = fmt.Sprintf("%d lines", *g.Count)
	}
	if p.many && n.label != "" { // without: of any device
		what = n.label + ": " + what
	}
	what += " missing"
	if g.Reason != "" {
		what += " (" + escape(g.Reason) + ")"
	}
	p.paint(warning, "--- "+what+" ---")
	p.buf.WriteByte('\n')
}

// paint writes s in a colour, if colours are wanted.
func (p *printer) paint(color, s string) {
	if !p.color || color == "" || s == "" {
		p.buf.WriteString(s)
		return
	}
	p.buf.WriteString(color)
	p.buf.WriteString(s)
	p.buf.WriteString(reset)
}

// object writes v as one line of JSON that is harmless in a terminal.
func (p *printer) object(v any) {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return // cannot be: every part was read from valid JSON
	}
	p.buf.WriteString(escapeJSON(strings.TrimSuffix(line.String(), "\n")))
	p.buf.WriteByte('\n')
}

// str returns the string that raw is, or raw itself if it is something else.
func str(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return string(raw)
	}
	return s
}
