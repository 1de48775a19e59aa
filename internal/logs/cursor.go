package logs

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"signalbox/internal/fleet"
)

// Cursor is a place in the journal, written <epoch>-<seq>: everything up to
// and including Seq lies behind it. The zero Cursor is no place.
type Cursor struct {
	Epoch string // names one incarnation of the journal: 1..32 of [a-z0-9]
	Seq   uint64
}

// String returns <epoch>-<seq>.
func (c Cursor) String() string { return c.Epoch + "-" + strconv.FormatUint(c.Seq, 10) }

// ParseCursor reads <epoch>-<seq>. Its error is fleet.Invalid.
func ParseCursor(s string) (Cursor, error) {
	epoch, num, ok := strings.Cut(s, "-")
	seq, valid := parseSeq(num)
	if !ok || !valid || !word(epoch, 32) {
		return Cursor{}, fleet.E(fleet.Invalid, nil, "Invalid cursor")
	}
	return Cursor{epoch, seq}, nil
}

// LineCursor names one line: the line with that index in the batch at Cursor.
// It is written <epoch>-<seq>.<line>. With Line WholeBatch it stands for the
// whole batch and is written as the Cursor alone.
type LineCursor struct {
	Cursor
	Line int // from 0
}

// WholeBatch is the Line of a LineCursor that names a whole batch.
const WholeBatch = -1

// String returns <epoch>-<seq>.<line>, or <epoch>-<seq> for a whole batch.
func (c LineCursor) String() string {
	if c.Line == WholeBatch {
		return c.Cursor.String()
	}
	return c.Cursor.String() + "." + strconv.Itoa(c.Line)
}

// ParseLineCursor reads a cursor with or without a line. Its error is fleet.Invalid.
func ParseLineCursor(s string) (LineCursor, error) {
	base, num, hasLine := strings.Cut(s, ".")
	c, err := ParseCursor(base)
	if err != nil || !hasLine {
		return LineCursor{c, WholeBatch}, err
	}
	line, ok := parseSeq(num)
	if !ok || line >= MaxLines+maxNotices {
		return LineCursor{}, fleet.E(fleet.Invalid, nil, "Invalid cursor")
	}
	return LineCursor{c, int(line)}, nil
}

// maxNotices is how many lines of our own may stand behind those of a message.
const maxNotices = 16

// Position is how far a reader of several devices has come. It is one Cursor
// for all of them, except while some are being replayed: their own places are
// listed in Apart. It is the id of every event on a stream, so that a reader
// that lost its connection at any moment can go on exactly:
//
//	<epoch>-<seq>[~<seq>.<device key>[.<device key>...]]...
//
// When more devices are apart than can be listed, it is vague: each of them has
// come at least as far as Low and at most as far as Seq.
//
//	<epoch>-<seq>~<low>.*
type Position struct {
	Cursor
	Apart map[string]uint64 // device key -> its own place, where that is not Seq; nil if Vague
	Vague bool
	Low   uint64 // if Vague
}

// maxPosition bounds the text of a Position: maxApart devices, each at its own
// place, are 30 KB.
const maxPosition = 32 << 10

// Of returns the place of one device: what has surely come.
func (p Position) Of(device string) uint64 {
	if p.Vague {
		return p.Low
	}
	if seq, ok := p.Apart[device]; ok {
		return seq
	}
	return p.Seq
}

// plain reports whether all devices are at the Cursor.
func (p Position) plain() bool { return p.Apart == nil && !p.Vague }

// String returns the position's text; equal positions have equal texts.
func (p Position) String() string {
	if p.Vague {
		return p.Cursor.String() + "~" + strconv.FormatUint(p.Low, 10) + ".*"
	}
	if len(p.Apart) == 0 {
		return p.Cursor.String()
	}
	at := map[uint64][]string{}
	for device, seq := range p.Apart {
		at[seq] = append(at[seq], device)
	}
	b := []byte(p.Cursor.String())
	for _, seq := range slices.Sorted(maps.Keys(at)) {
		b = strconv.AppendUint(append(b, '~'), seq, 10)
		slices.Sort(at[seq])
		for _, device := range at[seq] {
			b = append(append(b, '.'), device...)
		}
	}
	return string(b)
}

// ParsePosition reads the text of a Position. Its error is fleet.Invalid.
func ParsePosition(s string) (Position, error) {
	bad := fleet.E(fleet.Invalid, nil, "Invalid last event id")
	if len(s) > maxPosition {
		return Position{}, bad
	}
	base, rest, more := strings.Cut(s, "~")
	c, err := ParseCursor(base)
	if err != nil {
		return Position{}, bad
	}
	p := Position{Cursor: c}
	if num, ok := strings.CutSuffix(rest, ".*"); ok {
		if p.Low, ok = parseSeq(num); !ok || p.Low > p.Seq {
			return Position{}, bad
		}
		p.Vague = true
		return p, nil
	}
	for more {
		var group string
		group, rest, more = strings.Cut(rest, "~")
		num, keys, ok := strings.Cut(group, ".")
		seq, valid := parseSeq(num)
		if !ok || !valid {
			return Position{}, bad
		}
		if p.Apart == nil {
			p.Apart = map[string]uint64{}
		}
		for key := range strings.SplitSeq(keys, ".") {
			if !word(key, 32) {
				return Position{}, bad
			}
			p.Apart[key] = seq
		}
	}
	return p, nil
}

// parseSeq reads a sequence number in its one canonical form.
func parseSeq(s string) (uint64, bool) {
	if s == "" || len(s) > 1 && s[0] == '0' || s[0] == '+' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// word reports whether s is 1..max characters of [a-z0-9].
func word(s string, max int) bool {
	if s == "" || len(s) > max {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}
