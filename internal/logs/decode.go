package logs

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

const (
	// maxDepth bounds the nesting of a line. Both passes over the JSON recurse,
	// and what they say about a fault grows with the square of the depth.
	maxDepth = 32
	// maxInterned bounds the strings that the decoder remembers.
	maxInterned = 1024
)

// Decoder turns the payload of one MQTT message into entries. NewDecoder makes
// one. It is not safe for concurrent use; it reuses its memory between calls.
type Decoder struct {
	// EntityField is the name of the field that says which device a line is
	// from, "entity_id" by default.
	EntityField string
	// Redactor says what is a secret and is replaced. It may be nil.
	Redactor *Redactor

	redaction redaction
	parser    fastjson.Parser
	stamp     []byte            // the text of "@timestamp"
	docs      []byte            // the documents of this call, one after another
	fields    []field           // a stack: the fields of the objects being written
	seen      map[string]int    // for objects of many fields: key to index
	spans     []span            // where the fields of the line being written are in docs
	text      []byte            // the line's message
	repaired  []byte            // the line, its surrogates repaired
	c1        []byte            // for stripEscapes
	scratch   []byte            // for anything that is used up at once
	interned  map[string]string // tags and entity ids, which repeat from line to line
}

type field struct {
	key []byte
	val *fastjson.Value // nil: a later field has the same key
}

// span is a field of a document, with its leading comma.
type span struct {
	start, end int
	role       role
}

type role uint8

const (
	ordinary role = iota
	theMessage
	theEntity
	theMark // a field of the device's that is called "truncated"
)

// NewDecoder returns a Decoder that finds the device of a line in entityField.
func NewDecoder(entityField string) *Decoder {
	return &Decoder{EntityField: entityField, seen: map[string]int{}, interned: map[string]string{}}
}

// Decode appends the entries of payload, one per line, to dst and returns the
// result. The Doc of each is valid until the next call.
//
// Lines end at "\n" or "\r\n" and nowhere else; blank ones are skipped. count,
// never nil, is called for each line that is dropped or not kept as it was
// sent, but once for a whole message over MaxMessage. No line has an influence
// on another.
//
// A document is the object that the device sent, its fields in order and its
// numbers digit for digit, with these changes: "@timestamp" comes first and is
// received; "relative_time" is gone; "message" is a string, without terminal
// escapes and line ends; of fields with one name the last is kept; numbers
// beyond float64 are strings; what is not Unicode is U+FFFD; secrets that the
// Redactor finds in strings, and in the tag, are replaced, but not in the
// entity field; a line over MaxLine is cut.
func (d *Decoder) Decode(dst []Entry, payload []byte, received time.Time, count func(Reason)) []Entry {
	d.docs = d.docs[:0]
	d.redaction.Redactor, d.redaction.counts = d.Redactor, [ruleCount]int{}
	if len(payload) > MaxMessage {
		count(ReasonMessageTooLong)
		return dst
	}
	d.stamp = received.UTC().AppendFormat(d.stamp[:0], TimeLayout)

	isUTF8 := utf8.Valid(payload)
	lines := 0
	for len(payload) > 0 {
		line := payload
		if i := bytes.IndexByte(payload, '\n'); i >= 0 {
			line, payload = payload[:i], payload[i+1:]
		} else {
			payload = nil
		}
		line = trim(line)
		if len(line) == 0 {
			continue
		}
		lines++
		if lines > MaxLines {
			count(ReasonTooManyLines)
			continue
		}
		if e, ok := d.line(line, isUTF8, count); ok {
			dst = append(dst, e)
		}
	}
	return dst
}

// line decodes one line.
func (d *Decoder) line(line []byte, isUTF8 bool, count func(Reason)) (e Entry, ok bool) {
	repaired := false
	if !isUTF8 && !utf8.Valid(line) {
		line = bytes.ToValidUTF8(line, []byte("\uFFFD"))
		repaired = true
	}
	if bytes.Contains(line, []byte(`\ud`)) || bytes.Contains(line, []byte(`\uD`)) {
		var lone bool
		d.repaired, lone = repairSurrogates(d.repaired[:0], line)
		line, repaired = d.repaired, repaired || lone
	}
	if !isJSON(line) {
		count(ReasonNotJSON)
		return e, false
	}
	if line[0] != '{' {
		count(ReasonNotObject)
		return e, false
	}
	if len(line) > MaxLine {
		// The parser never gives memory back, and this line is the exception.
		defer func() { d.parser = fastjson.Parser{}; d.fields = nil }()
	}
	v, err := d.parser.ParseBytes(line)
	if err != nil { // not after isJSON; but better a lost line than a wrong one
		count(ReasonNotJSON)
		return e, false
	}
	if repaired {
		count(ReasonBadUTF8)
	}
	d.write(&e, v)
	if e.Truncated {
		count(ReasonLineTooLong)
	}
	return e, true
}

// write appends the document of the object v to d.docs and fills in e.
func (d *Decoder) write(e *Entry, v *fastjson.Value) {
	start := len(d.docs)
	d.docs = append(d.docs, `{"@timestamp":"`...)
	d.docs = append(d.docs, d.stamp...)
	d.docs = append(d.docs, '"')
	head := len(d.docs)

	d.spans = d.spans[:0]
	var hasMessage bool
	var level Level
	var tag []byte
	for _, f := range d.open(v) {
		if f.val == nil {
			continue
		}
		from, role := len(d.docs), ordinary
		switch string(f.key) {
		case "@timestamp":
			continue
		case "relative_time":
			if !e.HasUptime {
				e.Uptime, e.HasUptime = parseUptime(d.plain(f.val))
			}
			continue
		case "message":
			hasMessage, role = true, theMessage
			d.message(f.val, d.EntityField == "message")
			d.docs = appendQuoted(append(d.docs, `,"message":`...), d.text)
		case "level":
			level, _ = parseLevel(d.plain(f.val))
		case "tag":
			if f.val.Type() == fastjson.TypeString {
				if s := f.val.GetStringBytes(); len(s) <= maxTag && !d.redaction.has(s) {
					tag = s
				}
			}
		case "truncated":
			role = theMark
		}
		isEntity := string(f.key) == d.EntityField && f.val.Type() == fastjson.TypeString
		if role != theMessage {
			d.docs = append(appendQuoted(append(d.docs, ','), f.key), ':')
			if isEntity {
				d.docs = appendQuoted(d.docs, f.val.GetStringBytes())
			} else {
				d.docs = d.appendValue(d.docs, f.val, d.redaction.names(f.key))
			}
		}
		if isEntity {
			if role == ordinary {
				role = theEntity
			}
			e.EntityID = d.intern(f.val.GetStringBytes())
		}
		d.spans = append(d.spans, span{from, len(d.docs), role})
	}
	d.fields = d.fields[:0]
	if !hasMessage {
		d.text = d.text[:0]
		from := len(d.docs)
		d.docs = append(d.docs, `,"message":""`...)
		d.spans = append(d.spans, span{from, len(d.docs), theMessage})
	}
	d.docs = append(d.docs, '}')

	said, saidTag, uptime, hasUptime := parseLine(d.text)
	if level == Unknown {
		level = said
	}
	if len(tag) == 0 {
		tag = saidTag
	}
	if !e.HasUptime {
		e.Uptime, e.HasUptime = uptime, hasUptime
	}
	e.Level, e.Tag = level, d.intern(tag)
	if len(d.docs)-head > MaxLine {
		d.shrink(start, head)
		e.Truncated = true
	}
	e.Doc = d.docs[start:len(d.docs):len(d.docs)]
}

// open pushes the fields of the object v on the stack and returns them, with
// all but the last of each name marked. The caller pops them.
func (d *Decoder) open(v *fastjson.Value) []field {
	base := len(d.fields)
	o, _ := v.Object()
	o.Visit(func(key []byte, val *fastjson.Value) {
		d.fields = append(d.fields, field{key, val})
	})
	fields := d.fields[base:]
	if len(fields) <= 16 {
		for i := range fields {
			for j := i + 1; j < len(fields); j++ {
				if bytes.Equal(fields[i].key, fields[j].key) {
					fields[i].val = nil
					break
				}
			}
		}
		return fields
	}
	clear(d.seen)
	for i := range fields {
		if j, ok := d.seen[string(fields[i].key)]; ok {
			fields[j].val = nil
		}
		d.seen[string(fields[i].key)] = i
	}
	return fields
}

// appendValue appends v as compact JSON, without secrets; all of it is one if
// isSecret. The parser's own writer will not do: it quotes as Go does, and keeps
// what only JSON's grammar allows.
func (d *Decoder) appendValue(dst []byte, v *fastjson.Value, isSecret bool) []byte {
	switch v.Type() {
	case fastjson.TypeString:
		s := v.GetStringBytes()
		if isSecret {
			return d.appendRedacted(dst, s)
		}
		if d.Redactor != nil {
			s, _ = d.redaction.clean(s)
		}
		return appendQuoted(dst, s)
	case fastjson.TypeNumber:
		start := len(dst)
		dst = v.MarshalTo(dst)
		if n := dst[start:]; isSecret {
			dst = d.appendRedacted(dst[:start], n)
		} else if !isFloat64(n) {
			d.scratch = append(d.scratch[:0], n...)
			dst = appendQuoted(dst[:start], d.scratch)
		}
		return dst
	case fastjson.TypeArray:
		dst = append(dst, '[')
		for i, item := range v.GetArray() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = d.appendValue(dst, item, isSecret)
		}
		return append(dst, ']')
	case fastjson.TypeObject:
		dst = append(dst, '{')
		base, first := len(d.fields), true
		for _, f := range d.open(v) {
			if f.val == nil {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = appendQuoted(dst, f.key)
			dst = d.appendValue(append(dst, ':'), f.val, isSecret || d.redaction.names(f.key))
		}
		d.fields = d.fields[:base]
		return append(dst, '}')
	default: // true, false, null
		return v.MarshalTo(dst)
	}
}

// appendRedacted appends what stands for the secret s, which may be empty or
// gone already.
func (d *Decoder) appendRedacted(dst, s []byte) []byte {
	if len(s) == 0 {
		return append(dst, `""`...)
	}
	if string(s) != redacted {
		d.redaction.counts[ruleField]++
	}
	return append(dst, `"`+redacted+`"`...)
}

// message sets d.text to the text of v, the value of "message", as it was sent
// if that is verbatim and without secrets otherwise.
func (d *Decoder) message(v *fastjson.Value, verbatim bool) {
	if v.Type() != fastjson.TypeString {
		d.text = d.appendValue(d.text[:0], v, false)
		return
	}
	if s := v.GetStringBytes(); hasEscapes(s) {
		d.text = d.stripEscapes(d.text[:0], s)
	} else {
		d.text = append(d.text[:0], s...)
	}
	d.text = bytes.TrimRight(d.text, "\r\n")
	if verbatim || d.Redactor == nil {
		return
	}
	if s, changed := d.redaction.clean(d.text); changed {
		d.text = append(d.text[:0], s...)
	}
}

// plain returns the text of a string and the digits of a number, valid until
// its next call, and nothing for any other value.
func (d *Decoder) plain(v *fastjson.Value) []byte {
	switch v.Type() {
	case fastjson.TypeString:
		return v.GetStringBytes()
	case fastjson.TypeNumber:
		d.scratch = v.MarshalTo(d.scratch[:0])
		return d.scratch
	}
	return nil
}

// shrink rewrites the document at start, whose fields begin at head, to at most
// MaxDoc bytes. The message gives way down to half of that, then the other
// fields from the longest on, then the message again: what survives is what a
// reader can use.
func (d *Decoder) shrink(start, head int) {
	const mark = `,"truncated":true}`
	const maxEntity = 1 << 10 // an entity id of up to this length is never given up
	room := MaxLine - len(mark)

	message, others := 0, 0
	byLength := make([]int, 0, len(d.spans))
	drop := make([]bool, len(d.spans))
	for i, s := range d.spans {
		n := s.end - s.start
		switch {
		case s.role == theMessage:
			message = n
			continue
		case s.role == theMark:
			drop[i] = true
			continue
		case s.role == theEntity && n <= maxEntity:
		default:
			byLength = append(byLength, i)
		}
		others += n
	}
	slices.SortStableFunc(byLength, func(a, b int) int {
		return (d.spans[b].end - d.spans[b].start) - (d.spans[a].end - d.spans[a].start)
	})
	for _, i := range byLength {
		if others <= room-min(message, room/2) {
			break
		}
		others -= d.spans[i].end - d.spans[i].start
		drop[i] = true
	}

	old := append(d.scratch[:0], d.docs[head:]...)
	d.scratch = old
	d.docs = d.docs[:head]
	for i, s := range d.spans {
		if drop[i] {
			continue
		}
		text := old[s.start-head : s.end-head]
		if s.role == theMessage {
			const name = len(`,"message":`)
			d.docs = append(d.docs, text[:name]...)
			text = cutQuoted(text[name:], room-others-name)
		}
		d.docs = append(d.docs, text...)
	}
	d.docs = append(d.docs, mark...)
}

// intern returns b as a string, without an allocation if it was seen before.
func (d *Decoder) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := d.interned[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) > 4*maxTag {
		return s
	}
	if len(d.interned) >= maxInterned {
		clear(d.interned)
	}
	d.interned[s] = s
	return s
}

// isJSON reports whether line is valid JSON (RFC 8259), nested no deeper than
// maxDepth.
func isJSON(line []byte) bool {
	if isDeep(line) {
		return false
	}
	for _, c := range line {
		if c < ' ' {
			// fastjson overlooks a raw control character in a string when an
			// escape follows. Outside a string it may be white space.
			return json.Valid(line)
		}
	}
	return fastjson.ValidateBytes(line) == nil
}

// isDeep reports whether line is nested deeper than maxDepth.
func isDeep(line []byte) bool {
	if bytes.Count(line, []byte{'{'})+bytes.Count(line, []byte{'['}) <= maxDepth {
		return false
	}
	depth, inString := 0, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			inString = !inString
		case c == '\\' && inString:
			i++
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// isFloat64 reports whether the JSON number n is within the range of float64,
// which is what every reader of the document can hold.
func isFloat64(n []byte) bool {
	if len(n) < 300 && !bytes.ContainsAny(n, "eE") {
		return true
	}
	_, err := strconv.ParseFloat(string(n), 64)
	return err == nil
}

// trim cuts JSON's white space from both ends.
func trim(line []byte) []byte {
	for len(line) > 0 && isSpace(line[0]) {
		line = line[1:]
	}
	for len(line) > 0 && isSpace(line[len(line)-1]) {
		line = line[:len(line)-1]
	}
	return line
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' }
