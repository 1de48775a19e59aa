// Package logs is the data path of device logs. It reads in one direction:
// decode.go turns bytes into entries, ingest.go attributes them to devices,
// the Journal makes them durable and numbers them, hub.go fans them out to the
// readers of this process, and tail.go gives one reader its devices' lines
// from a place in the journal to now, without a seam.
package logs

import (
	"context"
	"time"
)

// TimeLayout is the one format of every time on the wire: UTC, six fraction
// digits, always 27 bytes, so that times compare as text.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// Level is the severity of an entry.
type Level uint8

// The levels, most severe first after Unknown. They compare: Error < Warn.
const (
	Unknown Level = iota
	Error
	Warn
	Info
	Debug
	Verbose
)

var levelNames = [...]string{"", "error", "warn", "info", "debug", "verbose"}

// String returns the level's name in lower case, or "" for Unknown.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return ""
}

// Message is one MQTT message from a device.
type Message struct {
	ClientID string    // who published it according to the topic; "" on the shared topic
	Payload  []byte    // NDJSON; owned by the receiver
	Received time.Time // when it arrived
	QoS      byte      // the quality of service it was published with
	Repeats  bool      // if it is not acknowledged, the source delivers it again, even to the next process
	Dup      bool      // the source may have delivered it before, to this process or an earlier one

	// Done is called exactly once, from any goroutine: with nil once every
	// entry of the message is in the journal (or was refused for good and
	// counted), or with the error that kept it out, in which case the source
	// must not acknowledge the message. It must not block. Never nil.
	Done func(error)
}

// Source delivers devices' messages, in the order each device sent them.
type Source interface {
	// Run delivers messages to handle, one call at a time, until ctx ends. It
	// returns after the last call of handle has returned; messages that were
	// handed over may be acknowledged later, until Close. Run reconnects by
	// itself for as long as ctx lives; an error means that it cannot go on.
	Run(ctx context.Context, handle func(Message)) error
	// Close gives up the connection. Messages not acknowledged by then will be
	// delivered again, by the broker or by the device.
	Close() error
}

// Entry is one log line.
type Entry struct {
	// EntityID is the value of the entity field, "" if the line has none or it
	// is not a string.
	EntityID string
	// Doc is the whole document as one line of compact JSON, an object of at
	// most MaxDoc bytes that has at least "@timestamp" and "message", both
	// strings; an object sent without "message" has an empty one.
	Doc []byte

	Level     Level
	Tag       string        // the component that logged, "" if unknown
	Uptime    time.Duration // the device's time since boot, if HasUptime
	HasUptime bool
	Truncated bool // the line was over MaxLine and is kept up to it
}

// Limits of what one message may hold.
const (
	MaxMessage = 1 << 20  // bytes of one MQTT message
	MaxLine    = 64 << 10 // bytes of one line, as compact JSON: what the device said, without our time stamp
	MaxDoc     = MaxLine + len(`{"@timestamp":"2006-01-02T15:04:05.000000Z"`)
	MaxLines   = 10_000 // lines of one message, blank ones not counted
)

// Reason says why a line, or a whole message, is not what the device sent. It
// is a metric label and appears in the log.
type Reason string

// The reasons.
const (
	ReasonNotJSON        Reason = "not_json"        // the line is not valid JSON, or nested too deep: dropped
	ReasonNotObject      Reason = "not_object"      // valid JSON, but not an object: dropped
	ReasonLineTooLong    Reason = "line_too_long"   // kept up to MaxLine and marked with "truncated":true
	ReasonTooManyLines   Reason = "too_many_lines"  // beyond MaxLines of one message: dropped
	ReasonMessageTooLong Reason = "message_too_big" // over MaxMessage: the whole message is dropped, counted once
	ReasonBadUTF8        Reason = "bad_utf8"        // repaired with U+FFFD and kept
	ReasonNoEntity       Reason = "no_entity"       // no entity field: journalled as unmatched
	ReasonUnknownEntity  Reason = "unknown_entity"  // no device has that entity id: journalled as unmatched
	ReasonUnknownClient  Reason = "unknown_client"  // no device has that client id: journalled as unmatched
	ReasonOverRate       Reason = "over_rate"       // over the device's quota of a second: dropped
	ReasonOverDay        Reason = "over_day"        // over the device's quota of a day: dropped
)
